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

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::event::{BatchId, Day, Event, EventKey, Offset};
use crate::telemetry::trace::Contexts;

pub mod advice;
mod committer;
mod dedup;
mod files;
mod filling;
pub mod frame;
mod groups;
mod handle;
pub mod inspect;
mod mark;
mod open;
mod place;
pub mod record;
mod recovery;
pub mod repair;
mod room;
pub mod storage;
pub mod testing;

pub(crate) use files::beside;
use handle::{COMMANDS_MAX, Command, Shared};
pub use handle::{QUEUED_APPENDS_MAX, Wal};
pub use open::{OpenError, Options};
pub use place::engine_at;
pub use recovery::Damage;
use storage::StorageError;

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
    /// The requests that they came in, of those that are recorded.
    pub(crate) contexts: Contexts,
    /// Since when it waits; known only of one whose events came in a recorded request.
    pub(crate) queued_at: Option<Instant>,
    /// Its sender's place in the queue, where he has only so many: kept until the committer has taken it.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

impl Append {
    /// Room for about so many bytes of records.
    #[must_use]
    pub fn with_capacity(events: usize, bytes: usize) -> Self {
        Self {
            frames: Vec::with_capacity(bytes),
            events: Vec::with_capacity(events),
            ..Self::default()
        }
    }

    /// Adds an event.
    pub fn push(&mut self, event: &Event<'_>, fingerprint: Fingerprint) {
        record::encode_frame(event, &mut self.frames);
        self.events.push((
            u32::try_from(self.frames.len()).unwrap_or(u32::MAX),
            fingerprint,
        ));
        if let Some(trace) = event.trace {
            self.contexts.add(trace);
        }
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
