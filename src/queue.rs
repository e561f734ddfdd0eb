//! From the publisher to a worker.
//!
//! ```text
//!   publisher ── send(batch) ──▶ queue ── receive() ──▶ worker ── settle ──▶ forgotten
//! ```
//!
//! What every queue promises:
//!
//! 1. `send` returning `Ok` means that the queue took the batch, and a `verify` that began later and says `Owned` that
//!    *you may forget it*: the queue, or whoever the queue gave it to, owns it durably. The in-process queue owns nothing
//!    across a crash, so its `send` resolves only when the worker has settled, and it has nothing to verify. Pub/Sub's
//!    resolves when the broker answers; but a topic without its subscription takes and discards, so that is looked at.
//! 2. A delivery that is not acknowledged, dropped ones included, is delivered again.
//! 3. Batches of one lane are delivered in the order of their numbers, one unsettled at a time.
//! 4. Nothing else is promised: a batch may be delivered more than once, to another worker, after a crash.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::StringValue;
use xxhash_rust::xxh3::Xxh3Default;

use crate::event::{BatchId, Day, Offset, TraceLink};
use crate::telemetry::names;
use crate::telemetry::trace::{self, Span};

pub mod batch;
pub mod gather;
pub mod in_process;
#[cfg(feature = "cloud")]
pub mod pubsub;

pub use in_process::{InProcessConsumer, in_process};

/// A sealed batch: a lane's events between two offsets, with an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The identity that every name derives from.
    pub id: BatchId,
    /// The one UTC day on which all of its events were received.
    pub day: Day,
    /// Each event's offset and its encoded record ([`crate::wal::record`]), in offset order.
    pub records: Vec<(Offset, Bytes)>,
    /// The spans that sent it, one for each sealed batch in it that belongs to a trace.
    pub sent_in: Vec<TraceLink>,
}

impl Batch {
    /// The bytes of all records together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(_, record)| record.len()).sum()
    }
}

/// xxh3-64 over every record's length (u32, little endian) and bytes, in order.
#[must_use]
pub fn input_hash(records: &[(Offset, Bytes)]) -> u64 {
    let mut hash = Xxh3Default::new();
    for (_, record) in records {
        hash.update(
            &u32::try_from(record.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        hash.update(record);
    }
    hash.digest()
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SendError {
    /// The queue is closed; the batch stays the sender's.
    #[error("the queue is closed")]
    Closed,
}

/// What became of batches that the queue took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that it took before it was asked is owned: forget it.
    Owned,
    /// All that it took since it last said `Owned` may be lost: send it again, in order.
    Lost,
    /// It cannot tell now: ask again.
    Unknown,
}

/// What a queue is called where its batches are followed, in the words of OpenTelemetry's conventions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    system: &'static str,
    topic: Option<Arc<str>>,
    subscription: Option<Arc<str>>,
}

impl Named {
    /// The queue within the process, which needs no name.
    #[must_use]
    pub fn in_process() -> Self {
        Self {
            system: "eventkit",
            topic: None,
            subscription: None,
        }
    }

    /// A topic of Pub/Sub, and where it is read from.
    #[must_use]
    pub fn pubsub(topic: &str, subscription: Option<&str>) -> Self {
        Self {
            system: "gcp_pubsub",
            topic: Some(topic.into()),
            subscription: subscription.map(Into::into),
        }
    }

    /// Says in a span that something was done with it.
    pub fn describe(&self, span: &Span, operation: &'static str, kind: &'static str) {
        span.set(names::MESSAGING_SYSTEM, self.system);
        span.set(names::MESSAGING_OPERATION_NAME, operation);
        span.set(names::MESSAGING_OPERATION_TYPE, kind);
        let named = [
            (names::MESSAGING_DESTINATION_NAME, &self.topic),
            (
                names::MESSAGING_DESTINATION_SUBSCRIPTION_NAME,
                &self.subscription,
            ),
        ];
        for (key, name) in named {
            if let Some(name) = name {
                span.set(key, StringValue::from(Arc::clone(name)));
            }
        }
    }
}

/// The publisher's end.
#[async_trait]
pub trait Producer: std::fmt::Debug + Send + Sync + 'static {
    /// Sends one batch, for as long as that takes; `Ok` means that the queue took it.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the queue was closed first; the batch may have been delivered.
    async fn send(&self, batch: Arc<Batch>) -> Result<(), SendError>;

    /// How long what was taken may wait until it is verified; `None`: what it takes it owns, and it is never asked.
    fn verify_every(&self) -> Option<Duration> {
        None
    }

    /// What it is called in spans.
    fn named(&self) -> Named {
        Named::in_process()
    }

    /// Whether what was taken is owned.
    async fn verify(&self) -> Verdict {
        Verdict::Owned
    }
}

/// A worker's end.
#[async_trait]
pub trait Consumer: std::fmt::Debug + Send + Sync + 'static {
    /// The next delivery, or `None` when the queue is closed. Cancel safe: a delivery is never lost in between.
    async fn receive(&mut self) -> Option<Delivery>;

    /// What the queue is called in spans.
    fn named(&self) -> Named {
        Named::in_process()
    }
}

/// What a delivery's settlement does, per queue.
pub trait Settle: std::fmt::Debug + Send {
    /// The batch is someone else's durably: forget it.
    fn ack(self: Box<Self>);
    /// Not done: deliver it again. Only at shutdown does a worker say so itself.
    fn nack(self: Box<Self>);
}

/// One attempt of a batch at a worker. Dropped without a word, it is delivered again.
#[derive(Debug)]
pub struct Delivery {
    /// The batch.
    pub batch: Arc<Batch>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The label of the gateway that took the events in, where that is another process.
    pub node: Option<Arc<str>>,
    /// When it came.
    pub since: SystemTime,
    settle: Option<Box<dyn Settle>>,
}

impl Delivery {
    /// A delivery that settles as told.
    #[must_use]
    pub fn new(batch: Arc<Batch>, attempt: u32, settle: Box<dyn Settle>) -> Self {
        Self {
            batch,
            attempt,
            node: None,
            since: trace::now(),
            settle: Some(settle),
        }
    }

    /// The same from another process.
    #[must_use]
    pub fn from_node(mut self, node: Arc<str>) -> Self {
        self.node = Some(node);
        self
    }

    /// Settles: the batch is durable with its next owner.
    pub fn ack(mut self) {
        if let Some(settle) = self.settle.take() {
            settle.ack();
        }
    }

    /// Gives the batch back.
    pub fn nack(self) {
        drop(self);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.nack();
        }
    }
}
