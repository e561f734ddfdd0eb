//! `eventkit wal repair`: a fresh log from what can still be read of a damaged one.
//!
//! What it promises:
//!
//! 1. Nothing is deleted: the damaged files are set aside, under a name of their own.
//! 2. Every record that can be read goes into the fresh log, unchanged and in the order of offsets, wherever it lies.
//! 3. What was settled stays settled, as far as the checkpoint can be read; everything else is published again, and the
//!    merge on the event's key removes what was stored before.
//! 4. What is missing is named by its old offsets.
//! 5. The fresh log has an id of its own, dense offsets from 0, and no seals: nothing of it can be taken for the old one's.
//! 6. Cut short at any moment, either log is in place, or the next open says that the repair has to be run again.
//!
//! The damaged files themselves are only ever copied: engines write when they open.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::Checkpoint;
use super::files::{Files, copy_directory};
use super::frame::{FrameError, Header};
use super::mark::{Mark, MarkFile};
use super::open::OpenError;
use super::place::{self, Found};
use super::recovery::{Seen, examine};
use super::storage::StorageError;
use super::storage::sled::DATA_FILE;
use crate::clock::Clock;
use crate::config::Engine;
use crate::event::{LogId, Micros, Offset};

mod carve;
mod fresh;
mod report;
mod salvage;
mod swap;

pub use report::{Lost, Outcome, Report, Request};

use fresh::{Fresh, Writer};
use salvage::{Chosen, Salvage};
use swap::Staging;
pub(crate) use swap::is_unfinished;

/// Why a log could not be repaired. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is neither a log nor a trace of one.
    #[error("there is no log at {0}")]
    Missing(PathBuf),
    /// It is in use, or somebody else's.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// A newer version, or an older one, wrote it.
    #[error(
        "the log was written in format {0}, which this version does not know: use the version that wrote it"
    )]
    OtherVersion(u8),
    /// Nothing at all can be read.
    #[error(
        "nothing can be read of the log{}. With --accept-loss an empty one takes its place and the old files are set aside",
        said(.0)
    )]
    NothingLeft(Vec<Lost>),
    /// The disk said no.
    #[error("{0}")]
    Io(String, #[source] io::Error),
    /// The fresh log could not be written.
    #[error("write the fresh log")]
    Storage(#[from] StorageError),
    /// A group that was whole a moment ago is not.
    #[error("read a group back: {0}")]
    Group(FrameError),
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RepairError {
    move |error| RepairError::Io(what.to_owned(), error)
}

fn said(lost: &[Lost]) -> String {
    let ranges = lost
        .iter()
        .map(|lost| format!(": offsets {} to {}", lost.from, lost.to));
    ranges.collect()
}

/// Repairs a log, telling after each group how many records were saved. Blocks on the disk.
///
/// # Errors
///
/// [`RepairError`].
pub fn repair(
    request: &Request,
    clock: &dyn Clock,
    tell: &mut dyn FnMut(u64),
) -> Result<Report, RepairError> {
    let files = Files::new(&request.path);
    let found = place::look(&files.log).map_err(failed("look at the log's directory"))?;
    let traces = is_unfinished(&files) || files.beside(".mark").exists();
    let engine = match found {
        Found::Foreign => return Err(OpenError::Foreign(request.path.clone()).into()),
        Found::Nothing if !traces => return Err(RepairError::Missing(request.path.clone())),
        Found::Nothing => request.engine,
        Found::Log(engine) => engine,
    };
    let lock = files.lock().map_err(failed("lock the log"))?;
    let lock = lock.ok_or_else(|| OpenError::InUse(request.path.clone()))?;
    lock.announce(None).map_err(failed("lock the log"))?;
    let staging = Staging::new(&files);
    let mut report = Report {
        outcome: Outcome::NothingToRepair,
        path: request.path.clone(),
        engine: engine.name(),
        damage: None,
        old_log_id: None,
        new_log_id: None,
        records: 0,
        unsettled: 0,
        lost: Vec::new(),
        lost_records: 0,
        end_known: true,
        set_aside: None,
    };
    if is_unfinished(&files) {
        report.outcome = Outcome::Finished;
        if !request.dry_run {
            report.set_aside = Some(staging.finish().map_err(failed("finish the repair"))?);
        }
        return Ok(report);
    }
    staging
        .clear()
        .map_err(failed("make room beside the log"))?;
    let work = Work {
        request,
        files: &files,
        staging: &staging,
        engine,
        now: clock.now(),
    };
    let repaired = work.run(report, tell);
    let discarded = if is_unfinished(&files) {
        Ok(())
    } else {
        staging.discard().map_err(failed("remove the copies"))
    };
    let report = repaired?;
    discarded?;
    Ok(report)
}

struct Work<'a> {
    request: &'a Request,
    files: &'a Files,
    staging: &'a Staging,
    engine: Engine,
    now: Micros,
}

impl Work<'_> {
    fn run(&self, mut report: Report, tell: &mut dyn FnMut(u64)) -> Result<Report, RepairError> {
        let mark = MarkFile::read(&self.files.beside(".mark")).map_err(failed("read the mark"))?;
        let mut salvage = Salvage::default();
        report.damage = self.examine(&mut salvage, mark)?;
        if report.damage.is_none() && !self.request.new_id {
            return Ok(report);
        }
        let mark = mark.filter(|mark| {
            let header = salvage.header.as_ref();
            header.is_none_or(|header| header.log_id == mark.log_id)
        });
        report.end_known = mark.is_some();
        let end = mark.map(|mark| mark.next);
        self.search(&mut salvage, end)?;
        if let Some(version) = salvage.other_version {
            return Err(RepairError::OtherVersion(version));
        }
        report.old_log_id = salvage.header.map(|header| header.log_id.to_string());
        let fresh = self.write(&salvage, tell)?;
        report.records = fresh.next;
        report.unsettled = fresh.next - fresh.checkpoint.offset;
        report.lost = lost(&salvage, &fresh.saved, end);
        let counts = report.lost.iter().map(|lost| lost.to - lost.from + 1);
        report.lost_records = counts.sum();
        if fresh.next == 0 && !report.lost.is_empty() && !self.request.accept_loss {
            return Err(RepairError::NothingLeft(report.lost));
        }
        // Their copies go with the directory they lie in.
        drop(salvage);
        report.outcome = Outcome::DryRun;
        if self.request.dry_run {
            return Ok(report);
        }
        let mark = MarkFile::open(&self.staging.mark(), fresh.header.log_id, fresh.next);
        drop(mark.map_err(failed("write the fresh log's mark"))?);
        let time = chrono::DateTime::from_timestamp_micros(self.now).unwrap_or_default();
        let damaged = swap::aside(self.files, &time.format("%Y%m%dT%H%M%SZ").to_string());
        self.staging
            .set_ready(&damaged)
            .and_then(|()| self.staging.finish())
            .map_err(failed("put the fresh log in place"))?;
        report.outcome = Outcome::Repaired;
        report.new_log_id = Some(fresh.header.log_id.to_string());
        report.set_aside = Some(damaged);
        Ok(report)
    }

    /// Judges a copy as an open would, and takes in what it holds.
    fn examine(
        &self,
        salvage: &mut Salvage,
        mark: Option<Mark>,
    ) -> Result<Option<String>, RepairError> {
        let seen = mark.map_or(Seen::Missing, Seen::Is);
        Ok(
            match self
                .copy("copy")
                .map(|copy| place::open(&copy, self.engine))?
            {
                Ok(storage) => {
                    let judged = examine(&*storage, seen, 0);
                    salvage.add_engine(storage, mark.map(|mark| mark.next));
                    match judged {
                        Ok(Ok(_)) => None,
                        Ok(Err(damage)) => Some(damage.to_string()),
                        Err(error) => Some(error.to_string()),
                    }
                }
                Err(StorageError::Damaged(reason)) => Some(reason),
                Err(error) => return Err(error.into()),
            },
        )
    }

    /// Looks elsewhere for what is still missing: in the files as an engine reads them that believes less of what they say of
    /// themselves, then in their bytes.
    fn search(&self, salvage: &mut Salvage, end: Option<Offset>) -> Result<(), RepairError> {
        for (n, open) in place::lenient(self.engine).iter().enumerate() {
            if is_complete(salvage, end) {
                return Ok(());
            }
            let copy = self.copy(&format!("copy{n}"))?;
            match open(&copy) {
                Ok(storage) => salvage.add_engine(storage, end),
                Err(error) => tracing::debug!(%error, "copy_not_opened"),
            }
        }
        // What a refused open kept comes first: in the log's own directory the engine may have overwritten it.
        let files = match self.engine {
            Engine::Sled => vec![self.files.evidence(), self.files.log.join(DATA_FILE)],
            Engine::Sqlite => Vec::new(),
        };
        for path in files {
            if is_complete(salvage, end) {
                break;
            }
            match File::open(path) {
                Ok(file) => carve::carve(salvage, file, end.unwrap_or(u64::MAX))
                    .map_err(failed("search the log's bytes"))?,
                Err(error) => tracing::debug!(%error, "file_not_searched"),
            }
        }
        Ok(())
    }

    fn copy(&self, name: &str) -> Result<PathBuf, RepairError> {
        let target = self.staging.path(name).join("wal");
        std::fs::create_dir_all(&target).map_err(failed("copy the log"))?;
        if self.files.log.exists() {
            copy_directory(&self.files.log, &target).map_err(failed("copy the log"))?;
        }
        Ok(target)
    }

    fn write(&self, salvage: &Salvage, tell: &mut dyn FnMut(u64)) -> Result<Fresh, RepairError> {
        let settled = salvage.checkpoint.clone().unwrap_or_default();
        let lanes = settled.lanes.len().try_into().unwrap_or(u16::MAX);
        let header = Header {
            log_id: LogId::random(),
            secret: uuid::Uuid::new_v4().into_bytes(),
            lanes: salvage
                .header
                .map_or(lanes.max(self.request.lanes), |header| header.lanes),
            created_at: self.now,
        };
        let storage = if self.request.dry_run {
            None
        } else {
            Some(place::open(&self.staging.log(), self.engine)?)
        };
        let mut writer = Writer::new(storage, &header)?;
        let mut fresh = Fresh {
            header,
            next: 0,
            saved: Vec::new(),
            checkpoint: Checkpoint::default(),
        };
        for group in salvage.choose() {
            let frames = match salvage.frames(&group) {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::warn!(offset = group.first, %error, "group_not_saved");
                    continue;
                }
            };
            writer.put(fresh.next, group.records, &frames)?;
            fresh.saved.push((group, fresh.next));
            fresh.next += u64::from(group.records);
            tell(fresh.next);
        }
        fresh.checkpoint = fresh.translate(&settled);
        writer.finish(&fresh.checkpoint)?;
        Ok(fresh)
    }
}

/// Whether every record from the checkpoint to the end was found.
fn is_complete(salvage: &Salvage, end: Option<Offset>) -> bool {
    let known = salvage.header.is_some();
    let saved: Vec<_> = salvage
        .choose()
        .into_iter()
        .map(|group| (group, 0))
        .collect();
    known && end.is_some() && lost(salvage, &saved, end).is_empty()
}

/// What was acknowledged, is not settled, and was not found.
fn lost(salvage: &Salvage, saved: &[(Chosen, Offset)], end: Option<Offset>) -> Vec<Lost> {
    let from = salvage.settled();
    let last = saved.last().map_or(0, |(group, _)| group.end());
    let end = end.unwrap_or(0).max(salvage.sealed_end).max(last).max(from);
    let uncertain = salvage.checkpoint.is_none();
    let mut lost = Vec::new();
    let mut next = from;
    let ends = saved.iter().map(|(group, _)| (group.first, group.end()));
    for (first, group_end) in ends.chain([(end, end)]) {
        if first > next {
            lost.push(Lost {
                from: next,
                to: first - 1,
                maybe_delivered: uncertain && next == 0,
            });
        }
        next = next.max(group_end);
    }
    lost
}
