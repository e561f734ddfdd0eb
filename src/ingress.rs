//! The doors: bytes come in, by HTTP or gRPC, and every event gets exactly one outcome.
//!
//! ```text
//!   http, segment ──▶ decode::scan ──┐   begin                            settle
//!                                    ├─▶ admit ─▶ lane ─▶ one append ─▶│─▶ commit ─▶ one outcome per event
//!   grpc, streams ──▶ slices ────────┘
//! ```
//!
//! What this stage promises:
//!
//! 1. One path behind all doors: [`Ingress::submit`], or its two halves where several batches of a stream are under way
//!    at once. A door only turns its protocol into a [`Submission`] and the outcomes into its answer.
//! 2. Every event of a request has exactly one [`Outcome`], in the order of the request; a bad one never rejects those
//!    beside it.
//! 3. [`Outcome::Accepted`] and [`Outcome::Duplicate`] are said only after the log's commit. What is refused as a whole
//!    ([`RequestError`]) before the append was not stored.
//! 4. A deadline counts up to the append. After it the answer waits for the commit, however late. A client that goes away
//!    undoes nothing.
//! 5. Work that the log cannot take is shed before its body is read ([`Ingress::gate`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::config::IngressConfig;
use crate::event::Micros;
use crate::lifecycle::Health;
use crate::status::Code;
use crate::telemetry::metrics::labels;
use crate::telemetry::{Metrics, Span, Tracing};
use crate::wal::{Append, AppendError, Commit, CommitError};

pub mod admit;
pub mod auth;
pub mod decode;
pub mod grpc;
pub mod http;
pub mod outcome;
pub mod server;
pub mod shed;

mod accept;
mod activity;
mod answer;
mod body;
mod contract;
mod cors;
mod deadline;
mod entrance;
mod gate;
mod gauges;
mod grpc_body;
mod grpc_layer;
mod judge;
mod lines;
mod log;
mod pace;
mod paths;
mod places;
mod quota;
mod request_id;
mod results;
mod route;
mod rpc_status;
mod segment;
mod sender;
mod spans;
mod stream;
mod submission;
mod tls;
mod unpack;
mod write_key;

pub use auth::{Caller, Keys};
pub use deadline::Deadline;
pub use log::{Log, Published};
pub use outcome::{Counts, Outcome, Quota, RequestError};
pub use server::{Door, Server, Stop};
pub use submission::{Input, Pending, Protocol, StreamOf, Submission};
pub use tls::{Tls, TlsError, TlsFiles};

use admit::{Limits, Shared};
use quota::{Addresses, Moment};
use shed::Budget;

/// How long an answer waits for the queue to hold what was sent, beyond the commit: longer than a broker that is well ever takes,
/// shorter than the ten seconds after which the first SDKs give a request up.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(8);

/// How many times the largest body a batch may measure, once each event carries what they share.
const MERGED_FACTOR: usize = 4;

/// The one path behind all doors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    config: IngressConfig,
    health: Health,
    limits: Limits,
    in_flight: Budget,
    connections: Arc<Semaphore>,
    /// Held by every open connection: counts them.
    open: Arc<()>,
    /// What SDKs said about themselves.
    figures: Arc<AtomicU64>,
    keys: Keys,
    /// The limits of addresses; `None`: they have none.
    addresses: Option<Arc<Addresses>>,
    /// When it began: what rates are counted from.
    began: Instant,
}

impl Ingress {
    /// The path to this log, within these limits.
    #[must_use]
    pub fn new(
        log: impl Log,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        config: IngressConfig,
        health: Health,
    ) -> Self {
        let guard = &config.guard;
        let addresses = Addresses::new(guard.address_rates, guard.burst, guard.addresses_max);
        let inner = Inner {
            limits: Limits {
                event_bytes_max: config.event_bytes_max,
                depth_max: config.depth_max,
                keys_max: config.keys_max,
            },
            log: Arc::new(log),
            clock,
            metrics,
            health,
            in_flight: Budget::new(config.in_flight_bytes_max),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            open: Arc::new(()),
            figures: Arc::new(AtomicU64::new(0)),
            keys: Keys::open(),
            addresses: addresses.map(Arc::new),
            began: Instant::now(),
            config,
        };
        inner.observe();
        Self(Arc::new(inner))
    }

    /// The same for those who have a key.
    ///
    /// # Panics
    ///
    /// When it was cloned before.
    #[must_use]
    pub fn guarded(self, keys: Keys) -> Self {
        let mut inner = Arc::into_inner(self.0).expect("nobody else has it yet");
        inner.keys = keys;
        inner.observe_keys();
        Self(Arc::new(inner))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    fn addresses(&self) -> Option<&Addresses> {
        self.0.addresses.as_deref()
    }

    fn moment(&self) -> Moment {
        Moment::after(self.0.began.elapsed())
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &IngressConfig {
        &self.0.config
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.health
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn tracing(&self) -> &Tracing {
        self.0.metrics.tracing()
    }

    pub(crate) fn now(&self) -> Micros {
        self.0.clock.now()
    }

    /// Counts what an SDK said about itself.
    pub(crate) fn count_figures(&self, figures: usize) {
        let figures = u64::try_from(figures).unwrap_or(u64::MAX);
        self.0.figures.fetch_add(figures, Ordering::Relaxed);
    }

    /// A mark of one open connection.
    pub(crate) fn open_connection(&self) -> Arc<()> {
        Arc::clone(&self.0.open)
    }

    /// The places for connections. A listener that waits for one holds a place already.
    pub(crate) fn connections(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.connections)
    }

    /// Stores a request's events and says what became of each, in order.
    ///
    /// Cancel safe in the sense of the promises: dropped before the append nothing is stored, dropped after it the append
    /// stands.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: the request as a whole. Unless its code says that the outcome is unknown, nothing was stored.
    pub async fn submit<'a>(
        &self,
        submission: Submission<'a>,
    ) -> Result<Vec<Outcome<'a>>, RequestError> {
        let pending = self.begin(submission)?;
        self.settle(pending).await
    }

    /// Judges a request's events and hands them to the log. What is begun first lies first in the log.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: nothing was stored.
    pub fn begin<'a>(&self, submission: Submission<'a>) -> Result<Pending<'a>, RequestError> {
        self.metrics().events_received.add(
            submission.inputs.len() as u64,
            protocol_label(submission.protocol),
        );
        self.check_sizes(&submission)?;
        if let Some(stream) = submission.one_stream() {
            self.check_stream(submission.caller, stream)?;
        }
        let charge = self.charge(&submission)?;
        let (caller, deadline) = (submission.caller, submission.deadline);
        let span = submission.span.clone();
        let (outcomes, append) = self.judge(submission);
        let commit = if append.is_empty() {
            None
        } else if deadline.is_some_and(|deadline| !deadline.begin_append()) {
            return Err(Code::DeadlineExceeded.into());
        } else {
            Some(self.append(append, caller)?)
        };
        if let Some(charge) = charge {
            charge.pay();
        }
        Ok(Pending {
            outcomes,
            commit,
            span,
        })
    }

    /// Hands events to the log, in a place of the queue that is their sender's.
    fn append(&self, mut append: Append, caller: &Caller) -> Result<Commit, RequestError> {
        let place = caller.share().map(|share| {
            let place = Arc::clone(&share.queue).try_acquire_owned();
            place.map_err(|_all_taken| AppendError::Overloaded)
        });
        let taken = place.transpose().and_then(|place| {
            append.place = place;
            self.0.log.append(append)
        });
        taken.map_err(|error| {
            let code = append_code(error);
            self.shed(code);
            code.into()
        })
    }

    /// Waits until what was begun is durable, and says what became of each event, in order. Dropped, it undoes nothing.
    ///
    /// # Errors
    ///
    /// The log failed, or the queue did not take them in time: the events may or may not be stored.
    pub async fn settle<'a>(&self, pending: Pending<'a>) -> Result<Vec<Outcome<'a>>, RequestError> {
        let Pending {
            mut outcomes,
            commit,
            span,
        } = pending;
        if let Some(commit) = commit {
            let committed = commit.await.map_err(commit_code)?;
            if let Some((mut sent, tail)) = self.0.log.sent() {
                let published = timeout(PUBLISHED_WITHIN, sent.wait_for(|below| *below >= tail));
                let published = published.await.map_err(|_elapsed| Code::OutcomeUnknown)?;
                published.map_err(|_publisher_gone| Code::LogFailed)?;
            }
            outcome::mark_duplicates(&mut outcomes, &committed.duplicates);
        }
        self.count(&outcomes, &span);
        Ok(outcomes)
    }

    /// What a request as a whole may measure. Only the shared parts can make it larger than its body was.
    fn check_sizes(&self, submission: &Submission<'_>) -> Result<(), RequestError> {
        let (count, max) = (submission.inputs.len(), self.config().batch_events_max);
        if count > max {
            return Err(RequestError::too_many_events(max));
        }
        let shared = submission.shared.bytes();
        if shared > 0 {
            let bytes: usize = submission.inputs.iter().map(Input::bytes).sum();
            let max = self.config().body_bytes_max.saturating_mul(MERGED_FACTOR);
            if bytes.saturating_add(shared.saturating_mul(count)) > max {
                return Err(RequestError::merged_too_large(max));
            }
        }
        Ok(())
    }

    fn count(&self, outcomes: &[Outcome<'_>], span: &Span) {
        let counts = Counts::of(outcomes);
        spans::outcome(span, counts);
        let metrics = self.metrics();
        if counts.accepted > 0 {
            metrics.events_accepted.add(u64::from(counts.accepted), &[]);
        }
        if counts.duplicate > 0 {
            metrics
                .events_duplicate
                .add(u64::from(counts.duplicate), &[]);
        }
        if counts.rejected > 0 {
            for (code, rejected) in outcome::rejected_by_code(outcomes) {
                metrics.events_rejected.add(rejected, labels::code(code));
            }
        }
    }
}

fn protocol_label(protocol: Protocol) -> &'static [KeyValue] {
    match protocol {
        Protocol::Http => &*labels::HTTP,
        Protocol::Grpc => &*labels::GRPC,
    }
}

fn append_code(error: AppendError) -> Code {
    match error {
        AppendError::Full => Code::LogFull,
        AppendError::Overloaded => Code::Overloaded,
        AppendError::Closed => Code::Draining,
        AppendError::Failed => Code::LogFailed,
    }
}

fn commit_code(error: CommitError) -> Code {
    match error {
        CommitError::Failed => Code::LogFailed,
    }
}
