//! Retries around a store: an outage is of the store, never of a batch, and is waited out for ever.
//!
//! While a write fails the component `store` is degraded; it is well again when no write is failing any more. Two
//! cases call for a person and are logged as errors, once per outage: a store that refuses us, and a lane that keeps
//! failing while others succeed. That is a lane of one log: a worker that stores the batches of several gateways tells them apart.
//!
//! Only the end of the program stops the retries: when the token fires, the last error is returned and the batch goes
//! back to its queue.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Disposition, ErrorRow, ErrorStore, EventStore, Row, WriteError, Written};
use crate::backoff::Backoff;
use crate::event::{BatchId, Day, Lane, LogId};
use crate::lifecycle::Health;
use crate::telemetry::trace::{self, Scope, count};
use crate::telemetry::{Metrics, Span, names};

/// The component's name in readiness.
const COMPONENT: &str = "store";

/// After so many failures in a row a lane counts as stuck, if others got through before each of them. One success among many
/// failures says nothing: a write that was under way when the store went away may have been in time.
const STUCK_AFTER: u32 = 5;

/// A store whose writes are repeated until they succeed. One value is shared by all workers, so that it sees which of them fail.
#[derive(Debug)]
pub struct Retrying<S> {
    inner: S,
    backoff: Backoff,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
    outage: Arc<Mutex<Outage>>,
}

/// What is failing now, over all lanes.
#[derive(Debug, Default)]
struct Outage {
    failing: BTreeMap<Whose, Failing>,
    /// Writes that succeeded since the program began.
    successes: u64,
    refusal_told: bool,
}

/// Which writes: their kind, and whose lane they are of.
type Whose = (&'static str, LogId, Lane);

#[derive(Debug)]
struct Failing {
    /// Failures before each of which others got through since the one before.
    amid_successes: u32,
    /// [`Outage::successes`] when this write failed last.
    successes_then: u64,
    stuck_told: bool,
}

/// What to tell a person about a failure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Alarms {
    refusal: bool,
    stuck: bool,
}

impl<S> Retrying<S> {
    /// Wraps a store. When `stop` fires, a failed write is not tried again.
    #[must_use]
    pub fn new(
        inner: S,
        backoff: Backoff,
        health: Health,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let outage = Arc::<Mutex<Outage>>::default();
        let shown = Arc::clone(&outage);
        metrics.observe(
            "eventkit_store_writes_failing",
            "Writes that fail now and are tried again",
            vec![],
            move || {
                let outage = shown.lock().unwrap_or_else(PoisonError::into_inner);
                u32::try_from(outage.failing.len()).map_or(f64::from(u32::MAX), f64::from)
            },
        );
        Self {
            inner,
            backoff,
            health,
            metrics,
            stop,
            outage,
        }
    }

    async fn run<F>(
        &self,
        kind: &'static str,
        batch: &BatchId,
        mut write: impl FnMut() -> F + Send,
    ) -> Result<Written, WriteError>
    where
        F: Future<Output = Result<Written, WriteError>> + Send,
    {
        let labels = [KeyValue::new("kind", kind)];
        let whose = (kind, batch.log_id, batch.lane);
        let (mut failures, started) = (0_u32, trace::now());
        let span = self.span(kind, batch);
        let within = Scope::of(&span).following(trace::followed());
        loop {
            let began = Instant::now();
            let outcome = within.around(write()).await;
            self.metrics
                .store_write_seconds
                .record(began.elapsed().as_secs_f64(), &labels);
            let error = match outcome {
                Ok(written) => {
                    self.succeeded(whose);
                    span.set(names::ATTEMPT, i64::from(failures) + 1);
                    self.tell_senders(&span, started, &written);
                    return Ok(written);
                }
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            span.retried(error.kind(), failures);
            let reason = [KeyValue::new("reason", error.kind())];
            self.metrics.store_write_failures.add(1, &reason);
            self.tell(whose, failures, &error);
            let wait = tokio::time::sleep(self.backoff.wait(failures));
            // Both arms are cancel safe: nothing is lost by dropping a timer or a wait for the token.
            tokio::select! {
                () = self.stop.cancelled() => {
                    span.failed(error.kind());
                    return Err(error);
                }
                () = wait => self.metrics.store_write_retries.add(1, &labels),
            }
        }
    }

    /// The span of a write with all its attempts.
    fn span(&self, kind: &'static str, batch: &BatchId) -> Span {
        let part_of = trace::current().link();
        let start = self.metrics.tracing().span(names::STORE_WRITE);
        let span = start.child_of(part_of).start();
        span.set(names::KIND, kind);
        span.set(names::LOG_ID, batch.log_id.to_string());
        span.set(names::LANE, i64::from(batch.lane.0));
        span.set(names::BATCH_NUMBER, count(batch.number));
        span
    }

    /// Each request that had events in the write hears of it, in its own trace.
    fn tell_senders(&self, span: &Span, started: SystemTime, written: &Written) {
        span.set(names::OBJECT_BYTES, count(written.bytes));
        span.set(names::EXISTED, !written.created);
        if !written.object.is_empty() {
            span.set(names::OBJECT, written.object.clone());
        }
        for sender in trace::followed().kept() {
            let stored = self.metrics.tracing().span(names::STORED);
            let stored = stored.child_of(Some(*sender)).linked(span.link());
            let stored = stored.since(started).start();
            if !written.object.is_empty() {
                stored.set(names::OBJECT, written.object.clone());
            }
        }
    }

    fn succeeded(&self, whose: Whose) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.succeeded(whose);
        // Under the lock, so that two lanes cannot report in the wrong order.
        self.health.degraded(COMPONENT, outage.text());
    }

    fn tell(&self, whose: Whose, failures: u32, error: &WriteError) {
        let alarms = {
            let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
            let alarms = outage.failed(whose, error.disposition());
            self.health.degraded(COMPONENT, outage.text());
            alarms
        };
        let (kind, log_id, lane) = whose;
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(kind, %log_id, %lane, attempt = failures, %error, cause = source, "store_write_failed");
        if alarms.refusal {
            tracing::error!(
                kind, %log_id, %lane, %error,
                action = "check the store's permissions and that it exists; events wait in the log meanwhile",
                "store_refuses_writes"
            );
        }
        if alarms.stuck {
            tracing::error!(
                kind, %log_id, %lane, attempt = failures, %error,
                action = "this lane alone fails while others are written; its events wait in the log and pin it",
                "store_lane_stuck"
            );
        }
    }
}

// === impl Outage ===

impl Outage {
    fn failed(&mut self, whose: Whose, disposition: Disposition) -> Alarms {
        let successes = self.successes;
        let failing = self.failing.entry(whose).or_insert(Failing {
            amid_successes: 0,
            successes_then: successes,
            stuck_told: false,
        });
        if successes > failing.successes_then {
            failing.amid_successes = failing.amid_successes.saturating_add(1);
            failing.successes_then = successes;
        }
        let stuck = failing.amid_successes >= STUCK_AFTER && !failing.stuck_told;
        failing.stuck_told |= stuck;
        let refusal = disposition == Disposition::Alarm && !self.refusal_told;
        self.refusal_told |= refusal;
        Alarms { refusal, stuck }
    }

    fn succeeded(&mut self, whose: Whose) {
        self.successes = self.successes.saturating_add(1);
        self.failing.remove(&whose);
        if self.failing.is_empty() {
            self.refusal_told = false;
        }
    }

    /// What readiness says: the lanes by name, never an error's text.
    fn text(&self) -> Option<String> {
        if self.failing.is_empty() {
            return None;
        }
        // Lanes of several logs under one name each: readiness is for an overview, the log lines say whose they are.
        let lanes: BTreeSet<_> = self
            .failing
            .keys()
            .map(|(kind, _, lane)| (kind, lane))
            .collect();
        let lanes = lanes.iter();
        let lanes: Vec<String> = lanes
            .map(|(kind, lane)| format!("{kind} of lane {lane}"))
            .collect();
        Some(format!("writes fail and are retried: {}", lanes.join(", ")))
    }
}

// === impl EventStore, ErrorStore ===

#[async_trait]
impl<S: EventStore> EventStore for Retrying<S> {
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        self.run("events", batch, || {
            self.inner.write_events(batch, day, Arc::clone(&rows))
        })
        .await
    }
}

#[async_trait]
impl<S: ErrorStore> ErrorStore for Retrying<S> {
    async fn write_errors(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        self.run("errors", batch, || async {
            all_taken(
                self.inner
                    .write_errors(batch, day, Arc::clone(&rows))
                    .await?,
            )
        })
        .await
    }
}

/// There is no further place for an error row that is refused: its batch waits rather than lose an event.
fn all_taken(written: Written) -> Result<Written, WriteError> {
    let Some((_, reason)) = written.refused.first() else {
        return Ok(written);
    };
    Err(WriteError::Denied {
        reason: format!(
            "it takes {} error rows not: {reason}",
            written.refused.len()
        ),
        source: None,
    })
}

#[cfg(test)]
mod tests;
