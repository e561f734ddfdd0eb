//! The write-ahead log: where an event becomes durable.
//!
//! ```text
//!  append ─▶ queue ─▶ committer (one thread, the one owner) ─▶ parts, seals, checkpoints ─▶ sync ─▶ mark ─▶ Commit
//!                                                                                            └─▶ durable tail ─▶ publisher
//! ```
//!
//! What the log promises:
//!
//! 1. A [`Commit`] resolves with success only after a completed sync that covers the event. A duplicate's does so only
//!    after a sync that covers the event it repeats.
//! 2. A failed sync poisons the log: every waiting and every later append fails, and nothing is ever acknowledged
//!    again by this process.
//! 3. Offsets are dense and given in the order of appends; a reader sees exactly the records below the durable tail.
//! 4. A record is forgotten only below a checkpoint that was synced by an earlier commit.
//! 5. Every prefix of a commit is a valid log.
//! 6. An event's key is known to the duplicate filter exactly as long as its group is complete in the log.
//! 7. What the log cannot hold is shed before it is appended, never failed half way.
//!
//! Architecture invariant: nothing in here knows what an event means. The log sees keys, lanes and bytes.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::event::{BatchId, Day, Event, EventKey, LogId, Micros, Offset};

mod committer;
mod dedup;
mod files;
pub mod frame;
mod groups;
pub mod inspect;
mod mark;
mod open;
mod place;
pub mod record;
mod recovery;
mod room;
pub mod storage;
pub mod testing;

pub use open::{OpenError, Options};
pub use recovery::Damage;
use recovery::GroupInfo;
use storage::{Storage, StorageError};

/// The most commands that wait for the committer at a time.
const COMMANDS_MAX: usize = 4_096;

/// The most bytes of appends that wait for the committer at a time.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// A keyed 128-bit fingerprint of an event's key; the key is the log's own secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

/// Events to be appended together: durable together, in this order.
#[derive(Debug, Default)]
pub struct Append {
    /// Encoded records, each with its length before it.
    pub(crate) frames: Vec<u8>,
    /// Where each frame ends in `frames`, and its event's fingerprint.
    pub(crate) events: Vec<(u32, Fingerprint)>,
}

impl Append {
    /// Room for about so many bytes of records.
    #[must_use]
    pub fn with_capacity(events: usize, bytes: usize) -> Self {
        Self {
            frames: Vec::with_capacity(bytes),
            events: Vec::with_capacity(events),
        }
    }

    /// Adds an event.
    pub fn push(&mut self, event: &Event<'_>, fingerprint: Fingerprint) {
        record::encode_frame(event, &mut self.frames);
        self.events.push((
            u32::try_from(self.frames.len()).unwrap_or(u32::MAX),
            fingerprint,
        ));
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of all frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }
}

/// Why an append was not taken. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log is full of events that are not published; try again later.
    #[error("the log is full")]
    Full,
    /// More appends are waiting than the limits allow; try again soon.
    #[error("too many appends are waiting")]
    Overloaded,
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
    /// A sync failed; this process acknowledges nothing more.
    #[error("the log has failed")]
    Failed,
}

/// Why the outcome of an append is not success. The events may or may not be in the log: retry with the same ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The write or the sync failed; the log is poisoned.
    #[error("the durable write failed")]
    Failed,
}

/// What became of an append that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Committed {
    /// The events, by their place in the append, whose key was in the log already; ascending.
    pub duplicates: Vec<u32>,
}

/// Resolves when the append is durable. Dropping it does not undo the append.
#[derive(Debug)]
pub struct Commit(pub(crate) oneshot::Receiver<Result<Committed, CommitError>>);

impl Future for Commit {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(CommitError::Failed)))
    }
}

/// The decision which events form a batch, recorded before the batch is handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// The batch's identity.
    pub batch: BatchId,
    /// How many events it holds.
    pub count: u32,
    /// The UTC day on which all of them were received.
    pub day: Day,
}

/// How far one lane is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneCheckpoint {
    /// Every batch with a lower number is settled.
    pub next_number: u64,
    /// Every event of the lane with a lower offset is settled.
    pub settled_below: Offset,
}

/// How far the log is settled: nothing below `offset` is needed by anyone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Every event with a lower offset is settled, whatever its lane.
    pub offset: Offset,
    /// Each lane on its own, by number.
    pub lanes: Vec<LaneCheckpoint>,
}

/// Consecutive records that were committed together, as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The offset of the first record.
    pub first: Offset,
    /// Each record's encoded bytes ([`record::decode`]), in offset order.
    pub records: Vec<Bytes>,
}

/// The fingerprint of an event's key under a log's secret.
#[must_use]
pub fn fingerprint(secret: &[u8; 16], key: EventKey<'_>) -> Fingerprint {
    use siphasher::sip128::{Hasher128 as _, SipHasher13};
    use std::hash::Hasher as _;

    let mut hasher = SipHasher13::new_with_key(secret);
    // The length before the source keeps ("ab", "c") and ("a", "bc") apart.
    hasher.write_u64(key.source.len() as u64);
    hasher.write(key.source.as_bytes());
    hasher.write(key.message_id.as_bytes());
    Fingerprint(hasher.finish128().as_u128())
}

/// Why records could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The storage failed.
    #[error("read the log")]
    Storage(#[from] StorageError),
    /// Durable bytes are not what was written.
    #[error("the group at offset {0} cannot be read: {1}")]
    Damaged(Offset, frame::FrameError),
    /// The records at the offset are no longer, or not yet, in the log.
    #[error("the log does not hold offset {0}")]
    Missing(Offset),
}

/// Whether the log takes appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogState {
    /// It does.
    Open,
    /// It is full of events that are not published; it takes appends again when there is room.
    Full,
    /// A sync failed: this process acknowledges nothing more and must end.
    Failed,
    /// It was closed.
    Closed,
}

/// What is not settled when a log is opened: where its publisher goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// How far the log is settled.
    pub checkpoint: Checkpoint,
    /// Batches that were sealed and are not settled, by lane and number.
    pub seals: Vec<Seal>,
}

enum Command {
    Append(Append, oneshot::Sender<Result<Committed, CommitError>>),
    Seal(Vec<Seal>, oneshot::Sender<()>),
    Checkpoint(Checkpoint),
    Close,
}

/// What the committer and all handles share.
#[derive(Debug)]
struct Shared {
    header: frame::Header,
    storage: Arc<dyn Storage>,
    state: watch::Sender<LogState>,
    durable: watch::Sender<Offset>,
    groups: Mutex<VecDeque<GroupInfo>>,
    queued_bytes: AtomicUsize,
    stored_bytes: AtomicU64,
    checkpoint: AtomicU64,
    dedup_first: AtomicU64,
    files: Option<(files::Files, files::Lock)>,
    limit_bytes: u64,
}

impl Shared {
    fn groups(&self) -> MutexGuard<'_, VecDeque<GroupInfo>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on the log; cheap to clone. One thread behind it owns the writing side.
#[derive(Debug, Clone)]
pub struct Wal {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    committer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
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
    pub fn append(&self, append: Append) -> Result<Commit, AppendError> {
        self.admit()?;
        let bytes = append.bytes();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
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
                        self.admit().err().unwrap_or(AppendError::Failed)
                    }
                })
        };
        if sent.is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
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
