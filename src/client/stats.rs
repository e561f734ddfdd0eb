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

use std::sync::{Mutex, MutexGuard, PoisonError};

use opentelemetry::metrics::{Counter, Meter, UpDownCounter};
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
    stats: Mutex<Stats>,
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
        Self::with(&global::meter("eventkit.client"))
    }

    fn with(meter: &Meter) -> Self {
        Self {
            stats: Mutex::default(),
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

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn delivered(&self, delivery: &Delivery) {
        self.ended(&delivery.outcomes);
        let (requests, retries) = (delivery.requests.into(), delivery.retries.into());
        let mut stats = self.stats();
        stats.requests += requests;
        stats.retries += retries;
        drop(stats);
        self.instruments.requests.add(requests, &[]);
        self.instruments.retries.add(retries, &[]);
    }

    /// Events have their outcomes.
    pub(super) fn ended<'a>(&self, outcomes: impl IntoIterator<Item = &'a Outcome>) {
        let mut stats = self.stats();
        for outcome in outcomes {
            let (count, word) = match outcome {
                Outcome::Accepted => (&mut stats.accepted, "accepted"),
                Outcome::Duplicate => (&mut stats.duplicate, "duplicate"),
                Outcome::Rejected { .. } => (&mut stats.rejected, "rejected"),
                Outcome::Unacknowledged { .. } => (&mut stats.unacknowledged, "unacknowledged"),
            };
            *count += 1;
            let attributes = [KeyValue::new("outcome", word)];
            self.instruments.events.add(1, &attributes);
        }
    }

    pub(super) fn queued(&self, more: i64) {
        self.instruments.queued.add(more, &[]);
    }

    pub(super) fn refused(&self) {
        self.stats().refused += 1;
        self.instruments.refused.add(1, &[]);
    }

    pub(super) fn now(&self) -> Stats {
        *self.stats()
    }
}

#[cfg(test)]
mod tests;
