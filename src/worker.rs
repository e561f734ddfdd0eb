//! From sealed batches to durable rows.
//!
//! ```text
//!  receive ─▶ judge each event: adapt ─▶ validate ─┬─ rows ──────▶ event store ─┬─ all durable ─▶ ack
//!                                                  └─ error rows ▶ error store ─┘
//! ```
//!
//! What a worker promises:
//!
//! 1. Every event of a batch becomes exactly one row or one error row, and the batch is acknowledged only when all of
//!    them are durable with their store.
//! 2. *Poison is per event*: an event that cannot be read, breaks a rule, makes the judge panic or is refused by the store
//!    becomes an error row with stage, code, reason and its original bytes; its neighbours are none the wiser.
//! 3. *An outage is per store*: the stores that a worker is given retry for ever (`store::retry`). They give up only when the
//!    program ends, and then the batch goes back to its queue.
//! 4. A batch may come again, wholly or partly written: names are written once, so the repeat changes nothing. Another version of
//!    this program may judge differently: then its names are others ([`BatchId::judged`]), and where an event is in both, the
//!    merge lets the row win.
//!
//! Architecture invariant: judging is pure. What an event becomes depends on its record, its place and this program's
//! version, never on the clock, the store or its neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio::time::Instant;

use crate::clock::{Clock, SystemClock};
use crate::event::{BatchId, Day, Micros};
use crate::queue::{Batch, Consumer, Delivery};
use crate::status::Code;
use crate::store::{ErrorRow, ErrorStore, EventStore, Row, WriteError, Written};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Raised, labels};
use crate::telemetry::trace::Contexts;
use crate::wal::record;

pub mod adapt;
pub mod judge;
mod spans;
pub mod validate;

pub use judge::{Judge, Place, judge};

/// Where an event failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Its payload or a part of it could not be read.
    Adapt,
    /// It breaks a rule of its type.
    Validate,
    /// The store refused its row.
    Store,
}

impl Stage {
    /// The word in the error row.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adapt => "adapt",
            Self::Validate => "validate",
            Self::Store => "store",
        }
    }
}

/// Why an event becomes an error row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} in {}: {reason}", stage.as_str())]
pub struct Rejected {
    /// Where it failed.
    pub stage: Stage,
    /// Why, as one word of the closed list.
    pub code: Code,
    /// The same for people; never holds values of the event.
    pub reason: String,
}

/// Why a batch goes back to its queue: the program ends.
#[derive(Debug, thiserror::Error)]
enum GivenBack {
    /// A store gave up.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Nobody judges any more.
    #[error("judging the batch ended early")]
    Judging(#[source] tokio::task::JoinError),
}

impl GivenBack {
    /// The word for it in a span.
    fn kind(&self) -> &'static str {
        match self {
            Self::Write(error) => error.kind(),
            Self::Judging(_) => "judging_ended",
        }
    }
}

/// The two ends of a batch. They retry on their own; an error of theirs means that the program ends.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Takes the rows.
    pub events: Arc<dyn EventStore>,
    /// Takes the error rows.
    pub errors: Arc<dyn ErrorStore>,
}

impl Stores {
    /// One store for both ends.
    #[must_use]
    pub fn both<S: EventStore + ErrorStore>(store: Arc<S>) -> Self {
        Self {
            events: Arc::<S>::clone(&store),
            errors: store,
        }
    }
}

/// Takes batches from a queue, one at a time, until the queue is closed.
#[derive(Debug)]
pub struct Worker {
    consumer: Box<dyn Consumer>,
    stores: Stores,
    /// The label of this process in rows, unless a delivery names the gateway's.
    node: Arc<str>,
    metrics: Metrics,
    /// Only tells how old stored events are.
    clock: Arc<dyn Clock>,
    judge: Judge,
}

/// A batch's events, judged.
#[derive(Debug, Default)]
struct Judged {
    rows: Vec<Row>,
    /// For each row its place in the batch: the store names refused rows by their place among the rows.
    places: Vec<usize>,
    errors: Vec<ErrorRow>,
    /// The recorded requests that the rows came in, and those of the error rows.
    rows_of: Contexts,
    errors_of: Contexts,
}

impl Worker {
    /// A worker that writes what `consumer` delivers to `stores`, under the label `node`.
    #[must_use]
    pub fn new(
        consumer: Box<dyn Consumer>,
        stores: Stores,
        node: Arc<str>,
        metrics: Metrics,
    ) -> Self {
        Self {
            consumer,
            stores,
            node,
            metrics,
            clock: Arc::new(SystemClock),
            judge,
        }
    }

    /// Judges by another function: for tests of what a fault in the judge does.
    #[must_use]
    pub fn with_judge(mut self, judge: Judge) -> Self {
        self.judge = judge;
        self
    }

    /// Works until the queue is closed.
    pub async fn run(mut self) {
        while let Some(delivery) = self.consumer.receive().await {
            self.process(delivery).await;
        }
    }

    /// Settles one delivery: acknowledged when all of it is durable, else given back.
    async fn process(&self, delivery: Delivery) {
        let _busy = Raised::by(&self.metrics.workers_busy, 1);
        let began = Instant::now();
        let batch = Arc::clone(&delivery.batch);
        let node = delivery.node.as_ref().unwrap_or(&self.node);
        let mut span =
            spans::Run::received(self.metrics.tracing(), &delivery, self.consumer.named());
        match self.store(&batch, node, &mut span).await {
            Ok(()) => {
                let _settling = span.settling(spans::ACKNOWLEDGED);
                delivery.ack();
            }
            Err(error) => {
                span.failed(error.kind());
                let _settling = span.settling(spans::GIVEN_BACK);
                tracing::info!(
                    lane = %batch.id.lane,
                    batch_number = batch.id.number,
                    event_count = batch.records.len(),
                    %error,
                    "batch_given_back"
                );
                delivery.nack();
            }
        }
        let took = began.elapsed().as_secs_f64();
        self.metrics.worker_process_seconds.record(took, &[]);
    }

    async fn store(
        &self,
        batch: &Arc<Batch>,
        node: &Arc<str>,
        span: &mut spans::Run,
    ) -> Result<(), GivenBack> {
        let judged = self.judge_all(batch, node).await;
        span.begin(batch, judged.as_ref().ok());
        let Judged {
            rows,
            places,
            mut errors,
            rows_of,
            errors_of,
        } = judged?;
        // Before a store refuses rows of its own accord: that is an answer to this name.
        let id = batch.id.judged(errors.iter().map(|row| row.offset));
        tracing::debug!(
            lane = %batch.id.lane,
            batch_number = batch.id.number,
            event_count = rows.len(),
            rejected_count = errors.len(),
            "event_validated"
        );
        let oldest = rows.iter().map(|row| row.received_at).min();
        let mut stored = rows.len() as u64;
        if !rows.is_empty() {
            let began = Instant::now();
            let rows: Arc<[Row]> = rows.into();
            let events = &self.stores.events;
            let written = span
                .scope(&rows_of)
                .around(events.write_events(&id, batch.day, Arc::clone(&rows)))
                .await?;
            self.wrote("events", (&id, rows.len()), began, &written);
            let refused = refused_rows(batch, &places, written.refused, node);
            stored = stored.saturating_sub(refused.len() as u64);
            errors.extend(refused);
        }
        let errors = self.store_errors(&id, batch.day, errors);
        let codes = span.scope(&errors_of).around(errors).await?;
        self.count(&batch.id, stored, &codes);
        if let Some(oldest) = oldest {
            let age = micros(self.clock.now().saturating_sub(oldest));
            let seconds = &self.metrics.worker_batch_age_seconds;
            seconds.record(age.as_secs_f64(), &[]);
        }
        Ok(())
    }

    /// Writes the error rows; how many there are of each code.
    async fn store_errors(
        &self,
        batch: &BatchId,
        day: Day,
        mut errors: Vec<ErrorRow>,
    ) -> Result<BTreeMap<String, u64>, WriteError> {
        let mut codes = BTreeMap::new();
        if errors.is_empty() {
            return Ok(codes);
        }
        errors.sort_by_key(|row| row.offset);
        for row in &errors {
            *codes.entry(row.code.to_string()).or_default() += 1;
        }
        let began = Instant::now();
        let count = errors.len();
        let written = self
            .stores
            .errors
            .write_errors(batch, day, errors.into())
            .await?;
        self.wrote("errors", (batch, count), began, &written);
        Ok(codes)
    }

    /// Judges the batch where it may take its time.
    async fn judge_all(&self, batch: &Arc<Batch>, node: &Arc<str>) -> Result<Judged, GivenBack> {
        let (batch, node, judge) = (Arc::clone(batch), Arc::clone(node), self.judge);
        let follows = self.metrics.tracing().is_on();
        tokio::task::spawn_blocking(move || judge_batch(&batch, &node, judge, follows))
            .await
            .map_err(GivenBack::Judging)
    }

    /// Counts and says what a store took.
    fn wrote(
        &self,
        kind: &'static str,
        batch: (&BatchId, usize),
        began: Instant,
        written: &Written,
    ) {
        let bytes = &self.metrics.store_bytes_written;
        bytes.add(written.bytes, &[KeyValue::new("kind", kind)]);
        let (id, event_count) = batch;
        tracing::info!(
            kind,
            lane = %id.lane,
            batch_number = id.number,
            event_count,
            duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            object = %written.object,
            created = written.created,
            bytes = written.bytes,
            "store_write"
        );
    }

    fn count(&self, batch: &BatchId, stored: u64, codes: &BTreeMap<String, u64>) {
        self.metrics.worker_events_stored.add(stored, &[]);
        for (code, count) in codes {
            let dead_lettered = &self.metrics.worker_events_dead_lettered;
            dead_lettered.add(*count, labels::code_word(code));
        }
        if !codes.is_empty() {
            let codes: Vec<String> = codes
                .iter()
                .map(|(code, n)| format!("{code}={n}"))
                .collect();
            tracing::warn!(
                lane = %batch.lane,
                batch_number = batch.number,
                codes = codes.join(" "),
                "event_dead_lettered"
            );
        }
    }
}

/// A span of the wall clock, which may step back.
fn micros(micros: Micros) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn judge_batch(batch: &Batch, node: &str, judge: Judge, follows: bool) -> Judged {
    let mut judged = Judged::default();
    for (at, (offset, record)) in batch.records.iter().enumerate() {
        let outcome = judge::judge_isolated(judge, record, &place(batch, *offset, node));
        let (is_traced, contexts) = match outcome {
            Ok(row) => {
                let is_traced = row.trace_id.is_some();
                judged.rows.push(row);
                judged.places.push(at);
                (is_traced, &mut judged.rows_of)
            }
            Err(row) => {
                let is_traced = row.trace_id.is_some();
                judged.errors.push(*row);
                (is_traced, &mut judged.errors_of)
            }
        };
        if follows && is_traced {
            contexts.extend(record::trace_link(record));
        }
    }
    judged
}

/// The error rows for what the store refused, each once.
fn refused_rows(
    batch: &Batch,
    places: &[usize],
    refused: Vec<(usize, String)>,
    node: &str,
) -> Vec<ErrorRow> {
    let refused: BTreeMap<usize, String> = refused.into_iter().collect();
    refused
        .into_iter()
        .filter_map(|(row, reason)| {
            let (offset, record) = batch.records.get(*places.get(row)?)?;
            Some(*judge::refused(
                record,
                &place(batch, *offset, node),
                reason,
            ))
        })
        .collect()
}

fn place<'a>(batch: &Batch, offset: u64, node: &'a str) -> Place<'a> {
    Place {
        log_id: batch.id.log_id,
        lane: batch.id.lane,
        offset,
        day: batch.day,
        node,
    }
}

#[cfg(test)]
mod tests;
