//! The one owner of the log's writing side: a thread that turns everything that waits into one commit.
//!
//! A commit writes, in this order: the group's parts, seals, the checkpoint, removes of what an *earlier* commit's
//! checkpoint allows to be forgotten; then it syncs, writes the mark, and only then answers. A failure anywhere poisons the
//! log: nobody is told anything but failure from then on, and the process is expected to end.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dedup::Dedup;
use super::filling::Trend;
use super::mark::MarkFile;
use super::open::Options;
use super::recovery::GroupInfo;
use super::storage::StorageError;
use super::{
    Append, Checkpoint, Command, CommitError, Committed, LogState, Seal, Shared, Unsettled, frame,
};
use crate::event::{Lane, Offset};
use crate::telemetry::{Span, names};

mod trim;
mod work;

use work::{Work, gather};

/// How long the committer waits before it looks after the mark, the age of records and the room on the volume.
const IDLE: Duration = Duration::from_millis(500);

type Reply = oneshot::Sender<Result<Committed, CommitError>>;

/// What an append is told once the commit is durable.
type Answer = (Committed, Reply);

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
enum CommitFailure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("write the mark")]
    Mark(#[source] std::io::Error),
    #[error("encode the group: {0}")]
    Encode(#[from] frame::FrameError),
    #[error("the committer panicked")]
    Panic,
}

impl CommitFailure {
    /// The word for it in a span.
    fn kind(&self) -> &'static str {
        match self {
            Self::Storage(StorageError::Full(_)) => "full",
            Self::Storage(_) => "storage",
            Self::Mark(_) => "mark",
            Self::Encode(_) => "encode",
            Self::Panic => "panic",
        }
    }

    /// Whether the page cache may claim what the disk does not hold. A write that found no room left nothing like that; and
    /// a full disk has no room for a copy.
    fn taints_the_files(&self) -> bool {
        !matches!(self, Self::Storage(StorageError::Full(_)))
    }
}

/// See the module's page.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    options: Options,
    mark: Option<MarkFile>,
    dedup: Dedup,
    next: Offset,
    /// The newest checkpoint that a completed sync covers: what lies below may go.
    synced: Checkpoint,
    seals: BTreeSet<(Lane, u64)>,
    frames: Vec<u8>,
    age_checked: Instant,
    tight: bool,
    /// How fast room is used up: that of the limit, that of the volume.
    trends: (Trend, Trend),
    /// The last trim ended because it is bounded: there may be more to forget, so the next one does not wait.
    behind: bool,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, options: Options, mark: Option<MarkFile>) -> Self {
        let dedup = Dedup::new(options.config.dedup_ids_max);
        Self {
            shared,
            options,
            mark,
            dedup,
            next: 0,
            synced: Checkpoint::default(),
            seals: BTreeSet::new(),
            frames: Vec::new(),
            age_checked: Instant::now(),
            tight: false,
            trends: Default::default(),
            behind: false,
        }
    }

    /// Takes over what was found in the log.
    pub(crate) fn resume(&mut self, dedup: Dedup, next: Offset, unsettled: &Unsettled) {
        self.dedup = dedup;
        self.next = next;
        self.synced = unsettled.checkpoint.clone();
        self.seals = unsettled
            .seals
            .iter()
            .map(|seal| (seal.batch.lane, seal.batch.number))
            .collect();
        self.judge_room();
    }

    /// Commits until the log is closed or fails.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the thread owns its end of the channel"
    )]
    pub(crate) fn run(mut self, commands: Receiver<Command>) {
        loop {
            let wait = if self.behind { Duration::ZERO } else { IDLE };
            let work = gather(&commands, wait);
            let taken = work.appends.len();
            self.shared
                .queued_appends
                .fetch_sub(taken, Ordering::AcqRel);
            let (close, queued) = (work.close, work.append_bytes);
            let span = work.span(self.options.metrics.tracing());
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.commit(work, &span)))
                .unwrap_or(Err(CommitFailure::Panic));
            self.shared.queued_bytes.fetch_sub(queued, Ordering::AcqRel);
            if let Err(error) = outcome {
                span.failed(error.kind());
                // Whoever waits is told by the drop of what he waits on; the receiver goes with this thread.
                self.shared.state.send_replace(LogState::Failed);
                tracing::error!(error = &error as &dyn std::error::Error, "log_failed");
                if let Some((files, _)) = &self.shared.files
                    && error.taints_the_files()
                {
                    files.poison();
                }
                return;
            }
            if close {
                break;
            }
        }
        if let Some(Err(error)) = self.mark.as_mut().map(MarkFile::sync) {
            tracing::warn!(%error, "mark_not_synced");
        }
    }

    fn commit(&mut self, work: Work, span: &Span) -> Result<(), CommitFailure> {
        let started = Instant::now();
        let first = self.next;
        let replies = self.admit(work.appends);
        let records = u32::try_from(self.next - first).unwrap_or(u32::MAX);
        let parts = if records > 0 {
            frame::encode_group(first, records, rand::rng().next_u64(), &self.frames)?
        } else {
            Vec::new()
        };
        let storage = Arc::clone(&self.shared.storage);
        for (key, value) in &parts {
            storage.insert(key, value)?;
        }
        for seal in work.seals.iter().flat_map(|(seals, _)| seals) {
            let (key, value) = frame::encode_seal(seal);
            storage.insert(&key, &value)?;
            self.seals.insert((seal.batch.lane, seal.batch.number));
        }
        if let Some(checkpoint) = &work.checkpoint {
            storage.insert(
                &frame::CHECKPOINT_KEY,
                &frame::encode_checkpoint(checkpoint),
            )?;
        }
        let trimmed = self.trim(parts.len(), work.idle)?;
        let wrote = !parts.is_empty() || !work.seals.is_empty() || work.checkpoint.is_some();
        if wrote || trimmed {
            self.sync(span)?;
        }
        if records > 0 {
            self.mark
                .as_mut()
                .map_or(Ok(()), |mark| mark.write(self.next))
                .map_err(CommitFailure::Mark)?;
            let bytes = parts
                .iter()
                .map(|(key, value)| (key.len() + value.len()) as u64)
                .sum();
            let count = u16::try_from(parts.len()).unwrap_or(u16::MAX);
            self.publish(GroupInfo {
                first,
                records,
                parts: count,
                stored_bytes: bytes,
                received_at: self.options.clock.now(),
            });
        } else if let Some(mark) = &mut self.mark {
            let synced = if work.idle {
                mark.sync()
            } else {
                // Seals and checkpoints alone must not keep it waiting either.
                mark.sync_if_old()
            };
            synced.map_err(CommitFailure::Mark)?;
        }
        if let Some(checkpoint) = work.checkpoint {
            self.settle(checkpoint);
        }
        self.judge_room();
        answer(replies, work.seals);
        if records > 0 {
            let took = started.elapsed().as_secs_f64();
            self.options.metrics.wal_commit_seconds.record(took, &[]);
        }
        tracing::trace!(records, parts = parts.len(), elapsed = ?started.elapsed(), "committed");
        Ok(())
    }

    fn sync(&self, span: &Span) -> Result<(), StorageError> {
        let started = Instant::now();
        self.shared.storage.sync()?;
        let took = started.elapsed().as_secs_f64();
        self.options.metrics.wal_sync_seconds.record(took, &[]);
        span.set(names::SYNC_SECONDS, took);
        Ok(())
    }

    /// Sorts the events into new ones, which get offsets and whose frames it collects, and duplicates.
    fn admit(&mut self, appends: Vec<(Append, Reply)>) -> Vec<Answer> {
        self.frames.clear();
        let mut replies = Vec::with_capacity(appends.len());
        for (append, reply) in appends {
            let mut committed = Committed::default();
            let mut start = 0;
            for (index, &(end, fingerprint)) in (0u32..).zip(&append.events) {
                let end = usize::try_from(end).unwrap_or(usize::MAX);
                if self.dedup.contains(fingerprint) {
                    committed.duplicates.push(index);
                } else {
                    // Learned before the sync: whoever repeats it in this commit shares its fate, and if the sync fails nobody is
                    // told anything any more.
                    self.dedup.learn(self.next, fingerprint);
                    self.next += 1;
                    self.frames
                        .extend_from_slice(append.frames.get(start..end).unwrap_or_default());
                }
                start = end;
            }
            replies.push((committed, reply));
        }
        replies
    }

    /// Takes note of a synced checkpoint.
    fn settle(&mut self, checkpoint: Checkpoint) {
        let (from, to) = (self.synced.offset, checkpoint.offset);
        let settled = {
            let groups = self.shared.groups();
            let begin = groups.partition_point(|group| group.end() <= from);
            let newly = groups
                .iter()
                .skip(begin)
                .take_while(|group| group.end() <= to);
            newly.map(|group| group.stored_bytes).sum()
        };
        self.shared
            .unsettled_bytes
            .fetch_sub(settled, Ordering::Relaxed);
        self.shared.checkpoint.store(to, Ordering::Relaxed);
        self.synced = checkpoint;
    }

    /// Makes a synced group visible.
    fn publish(&mut self, group: GroupInfo) {
        let metrics = &self.options.metrics;
        metrics.wal_commits.add(1, &[]);
        metrics
            .wal_records_committed
            .add(u64::from(group.records), &[]);
        metrics
            .wal_commit_records
            .record(u64::from(group.records), &[]);
        self.shared.groups().push_back(group);
        for bytes in [&self.shared.stored_bytes, &self.shared.unsettled_bytes] {
            bytes.fetch_add(group.stored_bytes, Ordering::Relaxed);
        }
        self.shared.durable.send_replace(self.next);
    }
}

/// Tells everyone; whoever does not listen any more has lost nothing but the answer.
fn answer(replies: Vec<Answer>, seals: Vec<(Vec<Seal>, oneshot::Sender<()>)>) {
    for (committed, reply) in replies {
        drop(reply.send(Ok(committed)));
    }
    for (_, reply) in seals {
        reply.send(()).unwrap_or(());
    }
}
