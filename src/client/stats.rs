//! What became of everything so far: as numbers to ask for, and as OpenTelemetry instruments of the application's own meter
//! provider (nothing is measured where it has none).
//!
//! | instrument | unit | attributes |
//! |---|---|---|
//! | `eventkit.client.events` | events with an outcome | `outcome`: `accepted`, `duplicate`, `rejected`, `unacknowledged` |
//! | `eventkit.client.requests` | requests | |
//! | `eventkit.client.retries` | requests that were retries | |
//! | `eventkit.client.queue.events` | events in a [`super::Batcher`], under way included | |
//! | `eventkit.client.queue.refused` | events that did not fit into one | |

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::metrics::{Counter, UpDownCounter};
use opentelemetry::{KeyValue, global};

use super::{Delivery, Outcome};

/// Counts since the client was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Events that are durable in the gateway's log.
    pub accepted: u64,
    /// Events that were before.
    pub duplicate: u64,
    /// Events that never will be.
    pub rejected: u64,
    /// Events of which that is not known.
    pub unacknowledged: u64,
    /// Requests, or batches on a stream.
    pub requests: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// Events that found a queue full, and whose sender did not wait.
    pub refused: u64,
}

#[derive(Debug)]
pub(super) struct Counts {
    accepted: AtomicU64,
    duplicate: AtomicU64,
    rejected: AtomicU64,
    unacknowledged: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    refused: AtomicU64,
    instruments: Instruments,
}

#[derive(Debug)]
struct Instruments {
    events: Counter<u64>,
    requests: Counter<u64>,
    retries: Counter<u64>,
    queued: UpDownCounter<i64>,
    refused: Counter<u64>,
}

impl Counts {
    pub(super) fn new() -> Self {
        let meter = global::meter("eventkit.client");
        Self {
            accepted: AtomicU64::default(),
            duplicate: AtomicU64::default(),
            rejected: AtomicU64::default(),
            unacknowledged: AtomicU64::default(),
            requests: AtomicU64::default(),
            retries: AtomicU64::default(),
            refused: AtomicU64::default(),
            instruments: Instruments {
                events: meter.u64_counter("eventkit.client.events").build(),
                requests: meter.u64_counter("eventkit.client.requests").build(),
                retries: meter.u64_counter("eventkit.client.retries").build(),
                queued: meter
                    .i64_up_down_counter("eventkit.client.queue.events")
                    .build(),
                refused: meter.u64_counter("eventkit.client.queue.refused").build(),
            },
        }
    }

    pub(super) fn delivered(&self, delivery: &Delivery) {
        for outcome in &delivery.outcomes {
            self.ended(outcome);
        }
        let (requests, retries) = (delivery.requests.into(), delivery.retries.into());
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.retries.fetch_add(retries, Ordering::Relaxed);
        self.instruments.requests.add(requests, &[]);
        self.instruments.retries.add(retries, &[]);
    }

    /// An event has its outcome.
    pub(super) fn ended(&self, outcome: &Outcome) {
        let (count, word) = match outcome {
            Outcome::Accepted => (&self.accepted, "accepted"),
            Outcome::Duplicate => (&self.duplicate, "duplicate"),
            Outcome::Rejected { .. } => (&self.rejected, "rejected"),
            Outcome::Unacknowledged { .. } => (&self.unacknowledged, "unacknowledged"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let attributes = [KeyValue::new("outcome", word)];
        self.instruments.events.add(1, &attributes);
    }

    pub(super) fn queued(&self, more: i64) {
        self.instruments.queued.add(more, &[]);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.instruments.refused.add(1, &[]);
    }

    pub(super) fn now(&self) -> Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            accepted: of(&self.accepted),
            duplicate: of(&self.duplicate),
            rejected: of(&self.rejected),
            unacknowledged: of(&self.unacknowledged),
            requests: of(&self.requests),
            retries: of(&self.retries),
            refused: of(&self.refused),
        }
    }
}
