//! Load on one server, closed loop (the next event goes when the last was answered) or open loop (events go at their
//! appointed times, whatever the server does).
//!
//! In open loop a latency is counted from the appointed time, so a server that stalls is charged for everything that had to
//! wait meanwhile. The runtime's timers tick in milliseconds: up to one is the generator's own. The appointed times are those of
//! all connections together: whichever is free takes the next one, so that only a load without a free connection falls behind.
//! What a server turns away for now (429, 503) is told apart from what fails, and in open loop holds nobody up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::HeaderMap;
use clap::ValueEnum;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BenchError;
use super::events::Prepared;
use crate::cli::latencies::Latencies;
use crate::lifecycle::Tasks;

mod bidi;
mod client;
mod http;

pub(super) use client::Client;
use client::Packer;

/// How long answers that are under way at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// In open loop, how long the connections have to be opened before the first appointed time.
const OPENING: Duration = Duration::from_millis(500);
/// And for each of them more: many take longer.
const OPENING_EACH: Duration = Duration::from_micros(200);
/// A sleeping connection looks so often whether the load has ended.
const NAP: Duration = Duration::from_millis(500);
/// How long a connection waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// The way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// `POST /collect`, one event per request.
    Http,
    /// `CollectBidi`, batches.
    Bidi,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Bidi => "bidi",
        }
    }
}

/// How a load is shaped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) way: Way,
    /// Connections; with bidi one stream each.
    pub(super) connections: usize,
    /// Events of one request or batch.
    pub(super) batch: usize,
    /// Batches under way on one stream.
    pub(super) window: usize,
    /// Batches after which a stream is closed and another one opened, if ever.
    pub(super) stream_batches: Option<u64>,
    /// Events per second, or as many as go.
    pub(super) rate: Option<f64>,
}

/// What has been answered so far; shared by all connections.
#[derive(Debug, Default)]
struct Ledger {
    stopped: AtomicBool,
    recording: AtomicBool,
    accepted: AtomicU64,
    /// Not accepted, and not turned away for now either.
    failed: AtomicU64,
    /// Turned away for now.
    refused: AtomicU64,
    /// Of these, without a word on when to come again.
    unexplained: AtomicU64,
    latencies: Mutex<Latencies>,
    refusals: Mutex<Latencies>,
    /// From sent to turned away: without what the generator was late.
    refusals_sent: Mutex<Latencies>,
    /// From appointed to sent.
    sent_late: Mutex<Latencies>,
    failure: Mutex<Option<String>>,
}

impl Ledger {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn note(&self, latencies: &Mutex<Latencies>, due: Instant) {
        if self.recording.load(Ordering::Relaxed) {
            let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.record(due.elapsed());
        }
    }

    fn accepted(&self, events: usize, due: Instant) {
        // The time first: whoever sees that something was accepted finds out how long it took.
        self.note(&self.latencies, due);
        self.accepted.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Turned away for now.
    fn refused(&self, events: usize, (due, sent): (Instant, Instant), says_when: bool) {
        self.refused.fetch_add(events as u64, Ordering::Relaxed);
        if !says_when {
            self.unexplained.fetch_add(events as u64, Ordering::Relaxed);
        }
        self.explain(|| "turned away for now".into());
        self.note(&self.refusals, due);
        self.note(&self.refusals_sent, sent);
    }

    fn failed(&self, events: usize, why: impl FnOnce() -> String) {
        self.failed.fetch_add(events as u64, Ordering::Relaxed);
        self.explain(why);
    }

    /// The first reason is kept.
    fn explain(&self, why: impl FnOnce() -> String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(why);
    }
}

/// The appointed times of a load in open loop, which its connections share.
#[derive(Debug)]
struct Schedule {
    begins: Instant,
    /// Seconds between two.
    each: f64,
    taken: AtomicU64,
}

impl Schedule {
    /// `None` in closed loop.
    fn of(shape: &Shape, begins: Instant) -> Option<Arc<Self>> {
        let rate = shape.rate?;
        Some(Arc::new(Self {
            begins,
            each: shape.batch as f64 / rate,
            taken: AtomicU64::new(0),
        }))
    }

    fn take(&self) -> Instant {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.begins + Duration::from_secs_f64(self.each * number as f64)
    }
}

/// When a connection sends.
#[derive(Debug)]
struct Pace {
    /// `None` in closed loop.
    schedule: Option<Arc<Schedule>>,
    /// The time that this connection has taken and not used yet.
    next: Option<Instant>,
}

impl Pace {
    fn is_open_loop(&self) -> bool {
        self.schedule.is_some()
    }

    /// When something is to be sent next: `None` at once.
    fn next(&mut self) -> Option<Instant> {
        let schedule = self.schedule.as_ref()?;
        Some(*self.next.get_or_insert_with(|| schedule.take()))
    }

    /// Takes the time from which the latency of what is sent now counts.
    fn take(&mut self) -> Instant {
        let due = self.next();
        self.next = None;
        due.unwrap_or_else(Instant::now)
    }

    /// Waits for the next appointed time, but looks up now and then. Cancel safe: the time stays this connection's.
    async fn wait(&mut self, ledger: &Ledger) {
        while let Some(at) = self.next()
            && !ledger.is_stopped()
        {
            let now = Instant::now();
            if at <= now {
                return;
            }
            tokio::time::sleep_until(at.min(now + NAP)).await;
        }
    }
}

/// One connection's part.
#[derive(Debug)]
struct Job {
    addr: SocketAddr,
    shape: Shape,
    ledger: Arc<Ledger>,
    pace: Pace,
    source: super::events::Source,
    client: Arc<Client>,
    /// Beyond what every request says.
    headers: HeaderMap,
    /// Where bodies are packed.
    packer: Option<Packer>,
}

impl Job {
    /// Takes the time from which the latency of what is sent now counts.
    fn due(&mut self) -> Instant {
        let due = self.pace.take();
        if self.pace.is_open_loop() {
            self.ledger.note(&self.ledger.sent_late, due);
        }
        due
    }

    /// After a failure: nobody hammers on a closed door.
    async fn pause(&self) {
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// A load that is under way. Dropped, it ends by itself.
#[derive(Debug)]
pub(super) struct Load {
    ledger: Arc<Ledger>,
    connections: Vec<JoinHandle<Option<()>>>,
    begins: Instant,
}

/// From due to answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    fn of(latencies: &Mutex<Latencies>) -> Self {
        let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            p50_ms: latencies.millis_at(0.5),
            p99_ms: latencies.millis_at(0.99),
            max_ms: latencies.millis_max(),
        }
    }
}

/// What has come of a load so far, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    /// Turned away for now.
    pub(super) refused: u64,
    /// Of these, without a word on when to come again.
    pub(super) unexplained: u64,
    /// Not accepted for any other reason.
    pub(super) failed: u64,
}

impl Load {
    /// Opens the connections and begins. Must be called within the runtime.
    pub(super) fn start(addr: SocketAddr, shape: Shape, prepared: &Arc<Prepared>) -> Self {
        Self::start_as(&Arc::default(), addr, shape, prepared)
    }

    /// The same as a certain client.
    pub(super) fn start_as(
        client: &Arc<Client>,
        addr: SocketAddr,
        shape: Shape,
        prepared: &Arc<Prepared>,
    ) -> Self {
        let ledger = Arc::<Ledger>::default();
        let (tasks, mut begins) = (Tasks::default(), Instant::now());
        if shape.rate.is_some() {
            let connections = u32::try_from(shape.connections).unwrap_or(u32::MAX);
            begins += OPENING + OPENING_EACH * connections;
        }
        let schedule = Schedule::of(&shape, begins);
        let connections = (0..shape.connections).map(|number| {
            let job = Job {
                addr,
                shape,
                ledger: Arc::clone(&ledger),
                pace: Pace {
                    schedule: schedule.clone(),
                    next: None,
                },
                source: prepared.source(),
                client: Arc::clone(client),
                headers: client.headers(number),
                packer: client.packer(),
            };
            match shape.way {
                Way::Http => tasks.spawn_isolated("http load", http::run(job)),
                Way::Bidi => tasks.spawn_isolated("bidi load", bidi::run(job)),
            }
        });
        Self {
            connections: connections.collect(),
            ledger,
            begins,
        }
    }

    /// Lets some time pass after its beginning.
    pub(super) async fn warm_up(&self, time: Duration) {
        tokio::time::sleep_until(self.begins + time).await;
    }

    /// Events accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.ledger.accepted.load(Ordering::Relaxed)
    }

    /// Events not accepted so far, those that were turned away included.
    pub(super) fn failed(&self) -> u64 {
        let counts = self.counts();
        counts.failed + counts.refused
    }

    /// What has come of it so far.
    pub(super) fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            accepted: self.accepted(),
            refused: read(&self.ledger.refused),
            unexplained: read(&self.ledger.unexplained),
            failed: read(&self.ledger.failed),
        }
    }

    /// The first thing that went wrong.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.ledger.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes latencies from now on.
    pub(super) fn record(&self) {
        self.ledger.recording.store(true, Ordering::Relaxed);
    }

    /// The latencies that were noted; no more are.
    pub(super) fn latency(&self) -> Latency {
        self.ledger.recording.store(false, Ordering::Relaxed);
        Latency::of(&self.ledger.latencies)
    }

    /// The same of what was turned away: from appointed, and from sent.
    pub(super) fn refusals(&self) -> (Latency, Latency) {
        self.ledger.recording.store(false, Ordering::Relaxed);
        let Ledger {
            refusals,
            refusals_sent,
            ..
        } = &*self.ledger;
        (Latency::of(refusals), Latency::of(refusals_sent))
    }

    /// How late the generator itself was.
    pub(super) fn sent_late(&self) -> Latency {
        self.ledger.recording.store(false, Ordering::Relaxed);
        Latency::of(&self.ledger.sent_late)
    }

    /// Sends nothing more and waits for the answers under way; returns how many events were accepted in all.
    pub(super) async fn stop(mut self) -> Result<u64, BenchError> {
        self.ledger.stopped.store(true, Ordering::Relaxed);
        let ended = futures::future::join_all(std::mem::take(&mut self.connections));
        tokio::time::timeout(LAST_ANSWERS, ended)
            .await
            .map_err(|_elapsed| BenchError::NoAnswer(LAST_ANSWERS))?;
        Ok(self.ledger.accepted.load(Ordering::Relaxed))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ledger.stopped.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn latencies_count_from_the_appointed_time_and_only_while_recording() {
        let load = Load {
            ledger: Arc::default(),
            connections: Vec::new(),
            begins: Instant::now(),
        };
        let due = Instant::now();
        load.ledger.accepted(1, due);
        load.record();
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(10)).await;
            load.ledger.accepted(2, due);
        }
        for says_when in [true, false] {
            load.ledger.refused(1, (due, Instant::now()), says_when);
        }
        let latency = load.latency();
        assert!((latency.p50_ms - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_ms - 990.0).abs() < 2.0, "{latency:?}");
        assert!((latency.max_ms - 1_000.0).abs() < 2.0, "{latency:?}");
        let (from_due, from_sent) = load.refusals();
        assert!(from_due.p50_ms > 900.0 && from_sent.p50_ms < 1.0);
        let counts = load.counts();
        assert_eq!(
            (counts.refused, counts.unexplained, counts.failed),
            (2, 1, 0)
        );
        assert_eq!(load.failed(), 2);
        load.ledger.failed(3, || "first".into());
        load.ledger.failed(1, || "second".into());
        let first = Some("turned away for now".into());
        assert_eq!((load.failed(), load.failure()), (6, first));
        assert_eq!(load.stop().await.unwrap(), 201);
    }

    fn shape(rate: Option<f64>) -> Shape {
        Shape {
            way: Way::Bidi,
            connections: 4,
            batch: 100,
            window: 1,
            stream_batches: None,
            rate,
        }
    }

    fn paces(shape: &Shape, begins: Instant) -> Vec<Pace> {
        let schedule = Schedule::of(shape, begins);
        let pace = |_| Pace {
            schedule: schedule.clone(),
            next: None,
        };
        (0..4).map(pace).collect()
    }

    #[test]
    fn appointed_times_make_the_rate_whatever_is_late() {
        let started = Instant::now();
        let mut paces = paces(&shape(Some(2_000.0)), started);
        // The first connection waits for an answer: nobody waits for its times.
        let mut times: Vec<_> = (0..20)
            .map(|at| paces[1 + at % 3].take() - started)
            .collect();
        times.sort();
        // 20 batches of 100 at 2,000 events/s: one each 50 ms.
        for (at, time) in (0u32..).zip(times) {
            assert_eq!(time, Duration::from_millis(50) * at);
        }
        assert_eq!(paces[0].next(), Some(started + Duration::from_secs(1)));
    }

    #[test]
    fn a_time_that_was_taken_stays_until_it_is_used() {
        let started = Instant::now();
        let mut paces = paces(&shape(Some(2_000.0)), started);
        assert_eq!(paces[0].next(), paces[0].next());
        assert_ne!(paces[0].next(), paces[1].next());
        assert_eq!(paces[0].take(), started);
        assert_eq!(paces[0].take(), started + Duration::from_millis(100));
        let mut closed = Pace {
            schedule: Schedule::of(&shape(None), started),
            next: None,
        };
        assert_eq!(closed.next(), None);
    }
}
