//! Looking into a log without changing it: what `eventkit wal stat|verify|dump` shows.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::advice::{Concerned, repair_command};
use super::files::{Files, copy_directory};
use super::frame::{self, Header, Key, parse_key};
use super::groups::{RawGroup, scan_groups, to_group};
use super::mark::{Mark, MarkFile};
use super::place::{self, Found};
use super::recovery::{Seen, concerned, examine};
use super::storage::{Storage, StorageError};
use super::{Checkpoint, Wal, record};
use crate::event::{Event, Offset, PayloadFormat};

/// A log in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Stat {
    /// The log's identity.
    pub log_id: String,
    /// On-disk format version.
    pub format: u8,
    /// Number of lanes.
    pub lanes: u16,
    /// Lowest offset still held.
    pub first_offset: Offset,
    /// One past the highest offset.
    pub next_offset: Offset,
    /// Everything below is settled.
    pub checkpoint: Offset,
    /// One past the highest acknowledged offset, as the mark beside the log says; absent when there is no mark.
    pub mark_next_offset: Option<Offset>,
    /// Records held.
    pub records: u64,
    /// Records not yet settled in every lane.
    pub unsettled_records: u64,
    /// Group commits held.
    pub groups: u64,
    /// Bytes as stored (compressed).
    pub stored_bytes: u64,
    /// Bytes of records.
    pub plain_bytes: u64,
    /// Seals of batches that are not settled.
    pub open_seals: u64,
    /// When the oldest record held was received, microseconds since 1970.
    pub oldest_received_at_us: Option<i64>,
}

/// What a full read of the log found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Groups read.
    pub groups: u64,
    /// Records read and checked.
    pub records: u64,
    /// What is wrong, each with offsets; empty: the log is whole.
    pub problems: Vec<String>,
}

/// One record, as `wal dump` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Its offset.
    pub offset: Offset,
    /// Its lane.
    pub lane: u16,
    /// Its source.
    pub source: String,
    /// Its message id.
    pub message_id: String,
    /// Its stream.
    pub stream: String,
    /// Microseconds since 1970.
    pub received_at_us: i64,
    /// `json` or `event`.
    pub format: &'static str,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// The payload as text (JSON as it is, protobuf in hexadecimal); only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// Why a log could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no log at the path.
    #[error("no log at {0}")]
    Missing(std::path::PathBuf),
    /// Somebody else's files lie there.
    #[error("{0} is not a log of this program")]
    Foreign(std::path::PathBuf),
    /// The files could not be copied or read.
    #[error("read the log")]
    Io(#[from] std::io::Error),
    /// The copy does not open, or cannot be read.
    #[error("the log does not open: {0}")]
    Damaged(String),
    /// The same, with what is known of it.
    #[error(
        "the files of the log at {path} are damaged: {reason}; {concerned}. `{repair}` saves what can be read and deletes nothing",
        repair = repair_command(path)
    )]
    Engine {
        /// Where.
        path: std::path::PathBuf,
        /// What the engine says.
        reason: String,
        /// Which offsets may be lost.
        concerned: Concerned,
    },
}

/// A log that can be looked into: a live one through its owner, or a temporary copy; never the original.
#[derive(Debug)]
pub struct Inspector {
    storage: Arc<dyn Storage>,
    mark: Option<Mark>,
    /// Everything below may be read; what lies above is still being written.
    durable: Option<Offset>,
    /// Keeps the copy as long as it is looked into.
    _copy: Option<tempfile::TempDir>,
}

impl Inspector {
    /// Copies the log's files to a temporary directory and opens the copy.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn open_copy(path: &Path) -> Result<Self, InspectError> {
        let engine = match place::look(path)? {
            Found::Nothing => return Err(InspectError::Missing(path.to_owned())),
            Found::Foreign => return Err(InspectError::Foreign(path.to_owned())),
            Found::Log(engine) => engine,
        };
        // Before the copy: the log's owner may go on meanwhile, and a mark that is ahead of the copy would look like a loss.
        let mark = MarkFile::read(&Files::new(path).beside(".mark"))?;
        let copy = tempfile::tempdir()?;
        let target = copy.path().join("wal");
        copy_directory(path, &target)?;
        let storage = place::open(&target, engine).map_err(|error| match error {
            StorageError::Damaged(reason) => InspectError::Engine {
                path: path.to_owned(),
                reason,
                concerned: concerned(None, mark.map_or(Seen::Missing, Seen::Is)),
            },
            other => InspectError::Damaged(other.to_string()),
        })?;
        Ok(Self {
            storage,
            mark,
            durable: None,
            _copy: Some(copy),
        })
    }

    /// Looks into the log that this process owns.
    #[must_use]
    pub fn live(wal: &Wal) -> Self {
        let mark = wal.shared.files.as_ref();
        let mark =
            mark.and_then(|(files, _)| MarkFile::read(&files.beside(".mark")).ok().flatten());
        let durable = Some(*wal.shared.durable.borrow());
        Self {
            storage: Arc::clone(&wal.shared.storage),
            mark,
            durable,
            _copy: None,
        }
    }

    /// The log in figures.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn stat(&self) -> Result<Stat, InspectError> {
        let meta = self.meta()?;
        let mut stat = Stat {
            log_id: meta.header.log_id.to_string(),
            format: frame::FORMAT,
            lanes: meta.header.lanes,
            first_offset: meta.checkpoint.offset,
            next_offset: meta.checkpoint.offset,
            checkpoint: meta.checkpoint.offset,
            mark_next_offset: self.mark.map(|mark| mark.next),
            records: 0,
            unsettled_records: 0,
            groups: 0,
            stored_bytes: 0,
            plain_bytes: 0,
            open_seals: meta.open_seals,
            oldest_received_at_us: None,
        };
        self.groups(0, &mut |mut raw| {
            let (first, stored_bytes) = (raw.first, raw.stored_bytes);
            let Ok((header, frames)) = raw.frames() else {
                return ControlFlow::Continue(());
            };
            if stat.groups == 0 {
                stat.first_offset = first;
                let group = to_group(first, &header, &frames).ok();
                let oldest = group.and_then(|group| group.records.into_iter().next());
                stat.oldest_received_at_us = oldest
                    .and_then(|record| record::decode(&record).ok().map(|event| event.received_at));
            }
            let end = first + u64::from(header.records);
            stat.groups += 1;
            stat.records += u64::from(header.records);
            stat.unsettled_records += end.saturating_sub(stat.checkpoint.max(first));
            stat.stored_bytes += stored_bytes;
            stat.plain_bytes += u64::from(header.plain_bytes);
            stat.next_offset = end;
            ControlFlow::Continue(())
        })?;
        Ok(stat)
    }

    /// Reads and checks every record.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn verify(&self) -> Result<Verification, InspectError> {
        self.verify_telling(&mut |_records| {})
    }

    /// As [`Inspector::verify`], telling after each group how many records were read.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn verify_telling(&self, tell: &mut dyn FnMut(u64)) -> Result<Verification, InspectError> {
        let mut found = Verification {
            groups: 0,
            records: 0,
            problems: Vec::new(),
        };
        if self.durable.is_none() {
            // The same judgement as at an open: it also knows the mark, the seals and the checkpoint.
            let seen = self.mark.map_or(Seen::Missing, Seen::Is);
            match examine(&*self.storage, seen, 0).map_err(damaged)? {
                Err(damage) => {
                    let concerned = concerned(Some(&*self.storage), seen);
                    found.problems.push(format!("{damage}; {concerned}"));
                }
                Ok(None) => found
                    .problems
                    .push("there is no log in the directory".into()),
                Ok(Some(_)) => {}
            }
        }
        let mut expected = None;
        self.groups(0, &mut |mut raw| {
            let first = raw.first;
            if expected.is_some_and(|expected| expected != first) {
                let expected = expected.unwrap_or_default();
                found
                    .problems
                    .push(format!("offsets {expected} to {first} do not join"));
            }
            let group = raw
                .frames()
                .and_then(|(header, frames)| to_group(first, &header, &frames));
            match group {
                Ok(group) => {
                    found.groups += 1;
                    found.records += group.records.len() as u64;
                    tell(found.records);
                    expected = Some(first + group.records.len() as u64);
                    let unreadable = (first..).zip(&group.records).filter_map(|(offset, bytes)| {
                        let error = record::decode(bytes).err()?;
                        Some(format!(
                            "the record at offset {offset} cannot be read: {error}"
                        ))
                    });
                    found.problems.extend(unreadable);
                }
                Err(error) => {
                    expected = raw.end();
                    found
                        .problems
                        .push(format!("the group at offset {first} is not whole: {error}"));
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// At most `limit` records from an offset on.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn dump(
        &self,
        from: Offset,
        limit: usize,
        payload: bool,
    ) -> Result<Vec<Line>, InspectError> {
        let mut lines = Vec::new();
        // Groups are found by their first offset, which may lie below the one asked for: the walk begins at the log's.
        self.groups(0, &mut |mut raw| {
            let first = raw.first;
            if raw.end().is_some_and(|end| end <= from) {
                return ControlFlow::Continue(());
            }
            let group = raw
                .frames()
                .and_then(|(header, frames)| to_group(first, &header, &frames));
            let records = group.map(|group| group.records).unwrap_or_default();
            for (offset, bytes) in (first..)
                .zip(&records)
                .filter(|(offset, _)| *offset >= from)
            {
                if lines.len() >= limit {
                    return ControlFlow::Break(());
                }
                if let Ok(event) = record::decode(bytes) {
                    lines.push(line(offset, &event, payload));
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(lines)
    }

    fn meta(&self) -> Result<Meta, InspectError> {
        let mut meta = Err(InspectError::Damaged("the log's header is missing".into()));
        self.storage
            .scan(&frame::HEADER_KEY, &mut |key, value| {
                match (parse_key(key), &mut meta) {
                    (Key::Header, meta) => {
                        *meta = Header::decode(value)
                            .map(|header| Meta {
                                header,
                                checkpoint: Checkpoint::default(),
                                open_seals: 0,
                            })
                            .map_err(|error| InspectError::Damaged(error.to_string()));
                    }
                    (Key::Checkpoint, Ok(meta)) => {
                        meta.checkpoint = frame::decode_checkpoint(value).unwrap_or_default();
                    }
                    (Key::Seal(..), Ok(meta)) => meta.open_seals += 1,
                    _ => return false,
                }
                true
            })
            .map_err(damaged)?;
        meta
    }

    fn groups(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(RawGroup) -> ControlFlow<()>,
    ) -> Result<(), InspectError> {
        scan_groups(&*self.storage, from, &mut |group| {
            if self.durable.is_some_and(|durable| group.first >= durable) {
                return ControlFlow::Break(());
            }
            visit(group)
        })
        .map_err(damaged)
    }
}

#[derive(Debug)]
struct Meta {
    header: Header,
    checkpoint: Checkpoint,
    open_seals: u64,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function in map_err"
)]
fn damaged(error: StorageError) -> InspectError {
    InspectError::Damaged(error.to_string())
}

fn line(offset: Offset, event: &Event<'_>, payload: bool) -> Line {
    let (format, text) = match event.format {
        PayloadFormat::Json => ("json", String::from_utf8_lossy(event.payload).into_owned()),
        PayloadFormat::Event => (
            "event",
            event
                .payload
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        ),
    };
    Line {
        offset,
        lane: event.lane.0,
        source: event.source.to_owned(),
        message_id: event.message_id.to_owned(),
        stream: event.stream.to_owned(),
        received_at_us: event.received_at,
        format,
        payload_bytes: event.payload.len(),
        payload: payload.then_some(text),
    }
}
