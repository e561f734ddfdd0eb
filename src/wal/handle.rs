//! The handle that everyone else holds: what can be asked of a log, and the queue to its committer.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::recovery::GroupInfo;
use super::storage::Storage;
use super::{
    Append, AppendError, Checkpoint, Commit, CommitError, Committed, Fingerprint, Group, LogState,
    ReadError, Seal, files, fingerprint, frame, groups,
};
use crate::event::{EventKey, LogId, Micros, Offset};

/// The most appends that wait for the committer at a time.
pub const QUEUED_APPENDS_MAX: usize = 4_096;

/// The most commands that do: seals and checkpoints have room beside as many appends as there may be.
pub(super) const COMMANDS_MAX: usize = QUEUED_APPENDS_MAX + 64;

/// The most bytes of appends that wait for the committer at a time.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// What the committer is asked.
pub(super) enum Command {
    Append(Append, oneshot::Sender<Result<Committed, CommitError>>),
    Seal(Vec<Seal>, oneshot::Sender<()>),
    Checkpoint(Checkpoint),
    Close,
}

/// What the committer and all handles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) header: frame::Header,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) state: watch::Sender<LogState>,
    pub(super) durable: watch::Sender<Offset>,
    pub(super) groups: Mutex<VecDeque<GroupInfo>>,
    /// Appends that wait for the committer.
    pub(super) queued_appends: AtomicUsize,
    /// Their bytes, and those of the appends that the committer is at.
    pub(super) queued_bytes: AtomicUsize,
    pub(super) stored_bytes: AtomicU64,
    /// Of these, the bytes of groups that are not settled.
    pub(super) unsettled_bytes: AtomicU64,
    /// Seconds until nothing more fits, at the present rate.
    pub(super) full_seconds: AtomicU64,
    pub(super) volume_free_bytes: AtomicU64,
    pub(super) dedup_ids: AtomicU64,
    pub(super) checkpoint: AtomicU64,
    pub(super) dedup_first: AtomicU64,
    pub(super) files: Option<(files::Files, files::Lock)>,
    pub(super) limit_bytes: u64,
}

impl Shared {
    pub(super) fn groups(&self) -> MutexGuard<'_, VecDeque<GroupInfo>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on the log; cheap to clone. One thread behind it owns the writing side.
#[derive(Debug, Clone)]
pub struct Wal {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: SyncSender<Command>,
    pub(super) committer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(..) => "Append",
            Self::Seal(..) => "Seal",
            Self::Checkpoint(..) => "Checkpoint",
            Self::Close => "Close",
        })
    }
}

impl Wal {
    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.header.log_id
    }

    /// The number of lanes that the log has.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.shared.header.lanes
    }

    /// When the newest records were received, or the log was created.
    #[must_use]
    pub fn newest_received_at(&self) -> Micros {
        let newest = self.shared.groups().back().map(|group| group.received_at);
        newest.map_or(self.shared.header.created_at, |at| {
            at.max(self.shared.header.created_at)
        })
    }

    /// Follows whether the log takes appends.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LogState> {
        self.shared.state.subscribe()
    }

    /// Follows the durable tail: everything below the offset is durable.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Offset> {
        self.shared.durable.subscribe()
    }

    /// The fingerprint of an event's key under this log's secret.
    #[must_use]
    pub fn fingerprint(&self, key: EventKey<'_>) -> Fingerprint {
        fingerprint(&self.shared.header.secret, key)
    }

    /// Whether an append would be taken now: asked before a request's body is read.
    ///
    /// # Errors
    ///
    /// Why it would not.
    pub fn admit(&self) -> Result<(), AppendError> {
        self.usable()?;
        let appends = self.shared.queued_appends.load(Ordering::Acquire);
        let bytes = self.shared.queued_bytes.load(Ordering::Acquire);
        if appends >= QUEUED_APPENDS_MAX || bytes >= QUEUED_BYTES_MAX {
            return Err(AppendError::Overloaded);
        }
        Ok(())
    }

    /// Whether the log takes appends at all, however many wait.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn usable(&self) -> Result<(), AppendError> {
        match *self.shared.state.borrow() {
            LogState::Open => Ok(()),
            LogState::Full => Err(AppendError::Full),
            LogState::Failed => Err(AppendError::Failed),
            LogState::Closed => Err(AppendError::Closed),
        }
    }

    /// Hands the events to the committer; never blocks. They are durable when the [`Commit`] says so.
    ///
    /// # Errors
    ///
    /// [`AppendError`]: nothing was stored.
    pub fn append(&self, mut append: Append) -> Result<Commit, AppendError> {
        self.admit()?;
        if !append.contexts.is_empty() {
            append.queued_at = Some(Instant::now());
        }
        let bytes = append.bytes();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.shared.queued_appends.fetch_add(1, Ordering::AcqRel);
        let (reply, committed) = oneshot::channel();
        // One append is always let in, however large: else it could never be.
        let sent = if queued > 0 && queued + bytes > QUEUED_BYTES_MAX {
            Err(AppendError::Overloaded)
        } else {
            self.commands
                .try_send(Command::Append(append, reply))
                .map_err(|error| match error {
                    TrySendError::Full(_) => AppendError::Overloaded,
                    TrySendError::Disconnected(_) => {
                        self.usable().err().unwrap_or(AppendError::Failed)
                    }
                })
        };
        if sent.is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.shared.queued_appends.fetch_sub(1, Ordering::AcqRel);
        }
        sent.map(|()| Commit(committed))
    }

    /// Records seals; resolves with `true` when they are durable, with `false` when the log has failed or is closed.
    pub async fn seal(&self, seals: Vec<Seal>) -> bool {
        let (reply, sealed) = oneshot::channel();
        self.send(Command::Seal(seals, reply)).await && sealed.await.is_ok()
    }

    /// Records how far the log is settled; it is durable some commit later, and records below are trimmed after that.
    /// Answers `false` when the log has failed or is closed.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> bool {
        self.send(Command::Checkpoint(checkpoint)).await
    }

    /// Waits for a place in the committer's queue without blocking the runtime.
    async fn send(&self, command: Command) -> bool {
        let mut command = command;
        loop {
            command = match self.commands.try_send(command) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(command)) => command,
            };
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Reads durable records from an offset on, in order: whole groups until about `bytes_max` bytes of records are read, at
    /// least one; empty at the durable tail. The first group may begin below the offset. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, from: Offset, bytes_max: usize) -> Result<Vec<Group>, ReadError> {
        let durable = *self.shared.durable.borrow();
        if from >= durable {
            return Ok(Vec::new());
        }
        let start = {
            let groups = self.shared.groups();
            let after = groups.partition_point(|group| group.first <= from);
            let group = after.checked_sub(1).and_then(|at| groups.get(at));
            group
                .filter(|group| from < group.end())
                .ok_or(ReadError::Missing(from))?
                .first
        };
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut damage = None;
        groups::scan_groups(&*self.shared.storage, start, &mut |mut raw| {
            if raw.first >= durable {
                return ControlFlow::Break(());
            }
            let group = raw.frames().and_then(|(header, frames)| {
                bytes += frames.len();
                groups::to_group(raw.first, &header, &frames)
            });
            match group {
                Ok(group) => read.push(group),
                Err(error) => damage = Some(ReadError::Damaged(raw.first, error)),
            }
            if bytes >= bytes_max || damage.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        match damage {
            // What was read before the damage is good; the damage shows when it is reached.
            Some(damage) if read.is_empty() => Err(damage),
            _ => Ok(read),
        }
    }

    /// Bytes of stored records, published ones included.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shared.stored_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of stored records that are not settled.
    #[must_use]
    pub fn unsettled_bytes(&self) -> u64 {
        self.shared.unsettled_bytes.load(Ordering::Relaxed)
    }

    /// Seconds until the log takes nothing more, at the rate of the last minutes; thirty days when that is not in sight.
    #[must_use]
    pub fn full_seconds(&self) -> u64 {
        self.shared.full_seconds.load(Ordering::Relaxed)
    }

    /// Bytes that are free on the log's volume; 0 for a log that lies on none.
    #[must_use]
    pub fn volume_free_bytes(&self) -> u64 {
        self.shared.volume_free_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of appends that wait for the committer, and how many may.
    #[must_use]
    pub fn queued_bytes(&self) -> (usize, usize) {
        let queued = self.shared.queued_bytes.load(Ordering::Relaxed);
        (queued, QUEUED_BYTES_MAX)
    }

    /// How many event keys the duplicate filter knows.
    #[must_use]
    pub fn dedup_ids(&self) -> u64 {
        self.shared.dedup_ids.load(Ordering::Relaxed)
    }

    /// The number of stored bytes at which new work is shed.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.shared.limit_bytes
    }

    /// Everything below is settled, durably or not yet.
    #[must_use]
    pub fn settled(&self) -> Offset {
        self.shared.checkpoint.load(Ordering::Relaxed)
    }

    /// When the oldest record at or above an offset was received; `None` when there is none.
    #[must_use]
    pub fn received_at(&self, offset: Offset) -> Option<Micros> {
        let groups = self.shared.groups();
        let at = groups.partition_point(|group| group.end() <= offset);
        groups.get(at).map(|group| group.received_at)
    }

    /// When the oldest event that the duplicate filter knows was received.
    #[must_use]
    pub fn dedup_since(&self) -> Option<Micros> {
        self.received_at(self.shared.dedup_first.load(Ordering::Relaxed))
    }

    /// Tells tools where this log's owner can be asked about it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn announce(&self, admin: std::net::SocketAddr) -> std::io::Result<()> {
        match &self.shared.files {
            Some((_, lock)) => lock.announce(Some(admin)),
            None => Ok(()),
        }
    }

    /// Commits what is waiting, refuses everything after it and ends the committer.
    pub async fn close(&self) {
        self.shared.state.send_if_modified(|state| {
            let open = matches!(state, LogState::Open | LogState::Full);
            if open {
                *state = LogState::Closed;
            }
            open
        });
        self.send(Command::Close).await;
        let thread = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("committer_panicked");
            }
        }
    }
}
