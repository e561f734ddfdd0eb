//! Load on one server, closed loop (the next event goes when the last was answered) or open loop (events go at their
//! appointed times, whatever the server does).
//!
//! In open loop a latency is counted from the appointed time, so a server that stalls is charged for everything that had to
//! wait meanwhile. The runtime's timers tick in milliseconds: up to one is the generator's own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BenchError;
use super::events::Prepared;
use crate::cli::latencies::Latencies;
use crate::lifecycle::Tasks;

mod bidi;
mod http;

/// How long answers that are under way at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// In open loop, how long the connections have to be opened before the first appointed time.
const OPENING: Duration = Duration::from_millis(500);
/// A sleeping connection looks so often whether the load has ended.
const NAP: Duration = Duration::from_millis(100);
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
#[derive(Debug)]
struct Ledger {
    stopped: AtomicBool,
    recording: AtomicBool,
    accepted: AtomicU64,
    failed: AtomicU64,
    latencies: Mutex<Latencies>,
    failure: Mutex<Option<String>>,
}

impl Ledger {
    fn new() -> Self {
        Self {
            stopped: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: Mutex::default(),
            failure: Mutex::new(None),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn accepted(&self, events: usize, due: Instant) {
        self.accepted.fetch_add(events as u64, Ordering::Relaxed);
        if self.recording.load(Ordering::Relaxed) {
            let mut latencies = self
                .latencies
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            latencies.record(due.elapsed());
        }
    }

    fn failed(&self, events: usize, why: impl FnOnce() -> String) {
        self.failed.fetch_add(events as u64, Ordering::Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(why);
    }
}

/// When a connection sends.
#[derive(Debug)]
struct Pace {
    /// The next appointed time and the time between two; `None` in closed loop.
    next: Option<(Instant, Duration)>,
}

impl Pace {
    fn of(shape: &Shape, started: Instant, connection: usize) -> Self {
        let next = shape.rate.map(|rate| {
            let each = (shape.connections * shape.batch) as f64 / rate;
            let offset = each * connection as f64 / shape.connections as f64;
            let first = started + Duration::from_secs_f64(offset);
            (first, Duration::from_secs_f64(each))
        });
        Self { next }
    }

    /// When something is to be sent next: `None` at once.
    fn next(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// Takes the time from which the latency of what is sent now counts.
    fn take(&mut self) -> Instant {
        match &mut self.next {
            None => Instant::now(),
            Some((at, each)) => {
                let due = *at;
                *at += *each;
                due
            }
        }
    }

    /// Waits for the next appointed time, but looks up now and then.
    async fn wait(&self, ledger: &Ledger) {
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

impl Load {
    /// Opens the connections and begins. Must be called within the runtime.
    pub(super) fn start(addr: SocketAddr, shape: Shape, prepared: &Arc<Prepared>) -> Self {
        let ledger = Arc::new(Ledger::new());
        let (tasks, mut begins) = (Tasks::default(), Instant::now());
        if shape.rate.is_some() {
            begins += OPENING;
        }
        let connections = (0..shape.connections).map(|number| {
            let job = Job {
                addr,
                shape,
                ledger: Arc::clone(&ledger),
                pace: Pace::of(&shape, begins, number),
                source: prepared.source(),
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

    /// Events not accepted so far.
    pub(super) fn failed(&self) -> u64 {
        self.ledger.failed.load(Ordering::Relaxed)
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

    /// The latencies that were noted.
    pub(super) fn latency(&self) -> Latency {
        self.ledger.recording.store(false, Ordering::Relaxed);
        let latencies = self.ledger.latencies.lock();
        let latencies = latencies.unwrap_or_else(PoisonError::into_inner);
        Latency {
            p50_ms: latencies.millis_at(0.5),
            p99_ms: latencies.millis_at(0.99),
            max_ms: latencies.millis_max(),
        }
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
            ledger: Arc::new(Ledger::new()),
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
        let latency = load.latency();
        assert!((latency.p50_ms - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_ms - 990.0).abs() < 2.0, "{latency:?}");
        assert!((latency.max_ms - 1_000.0).abs() < 2.0, "{latency:?}");
        load.ledger.failed(3, || "first".into());
        load.ledger.failed(1, || "second".into());
        assert_eq!((load.failed(), load.failure()), (4, Some("first".into())));
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

    #[test]
    fn appointed_times_make_the_rate_whatever_is_late() {
        let started = Instant::now();
        let mut times = Vec::new();
        for connection in 0..4 {
            let mut pace = Pace::of(&shape(Some(2_000.0)), started, connection);
            times.extend((0..5).map(|_| pace.take() - started));
        }
        times.sort();
        // 20 batches of 100 at 2,000 events/s: one each 50 ms.
        for (at, time) in (0u32..).zip(times) {
            assert_eq!(time, Duration::from_millis(50) * at);
        }
        assert_eq!(Pace::of(&shape(None), started, 0).next(), None);
    }
}
