//! Beyond what the log takes: how much is accepted nevertheless, how soon the rest is turned away, and whether memory grows.
//!
//! The log's disk is made slow ([`crate::app::Yardstick::Slow`]), so that neither server nor generator is what limits the rate. What it
//! takes is measured first, in closed loop; then three times that is offered in open loop, on as many connections as can have a
//! request under way at once and some more. Only what happens after the first request was turned away is counted: everything that can
//! fill up is full then.
//!
//! How soon requests are turned away is asked by a probe: few requests, on a thread of its own. The generator's own figure stands
//! beside it; it holds what the generator was late to read, when thousands of answers come after a sync.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{EdgeArgs, premises, probe};
use crate::cli::bench::load::{Counts, Latency, Load, Shape, Way};
use crate::cli::bench::process::{Process, Server, Setup};
use crate::cli::bench::rounds::measure_for;
use crate::cli::bench::{Bench, BenchError};

/// How many times what the log takes is offered.
const OFFERED: f64 = 3.0;
/// Connections in closed loop: enough for a disk that is the bottleneck, and not so many that any is turned away.
const CLOSED_LOOP: usize = 1_024;
/// How long that is warmed up at least, and measured at least: some syncs of all of them, 0.2 s each. Too little, and three times as
/// much is no overload.
const CLOSED_LOOP_WARM_UP: Duration = Duration::from_secs(1);
const CLOSED_LOOP_TIME: Duration = Duration::from_secs(2);
/// Requests under way at most, as the server is set up: of one event each, so many that the queue of the log (4,096) is full while
/// as many again are being synced.
const UNDER_WAY: usize = 2 * 4_096;
/// The bytes of bodies under way, in a quick run: it is full at once.
const QUICK_IN_FLIGHT_BYTES: usize = 1 << 20;
/// Connections beyond those whose request is under way: for those that are turned away.
const BEYOND: usize = 1_200;
/// Open files of a process that are not connections, with room to spare.
const OTHER_FILES: u64 = 500;
/// How long it may take until the first request is turned away.
const FULL_WITHIN: Duration = Duration::from_secs(60);
/// How long what can fill up is left to: queues, batches, most of the engine's cache.
const FILLING: Duration = Duration::from_secs(15);
/// The same in a quick run.
const QUICK_FILLING: Duration = Duration::from_secs(1);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The part of the asked rate that must have been sent: else it was no overload.
const SENT: f64 = 0.95;

/// How much of what the log takes must be accepted.
const ACCEPTED_TARGET: f64 = 0.9;
/// Within how many milliseconds, for 99 of 100, a request must be turned away.
const REFUSED_P99_TARGET_MS: f64 = 10.0;
/// How many times the memory of the beginning it may be at the end: an allocator breathes.
const RESIDENT_TARGET: f64 = 1.1;

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Overload {
    /// In closed loop.
    capacity_events_per_second: f64,
    /// What the slow disk itself keeps up with, by the log's own figures.
    disk_events_per_second: f64,
    asked_events_per_second: f64,
    sent_events_per_second: f64,
    /// How late the generator sent.
    sent_late: Latency,
    seconds: f64,
    accepted_events_per_second: f64,
    accepted_over_capacity: f64,
    accepted_target: f64,
    accepted: Latency,
    refused_events: u64,
    /// From the appointed time to turned away, as the probe saw it.
    refused: Latency,
    /// How many requests of the probe that were.
    refused_of_probe: u64,
    /// From sent to turned away, as the generator saw it, and from the appointed time.
    refused_by_load: Latency,
    refused_by_load_from_due: Latency,
    refused_p99_target_ms: f64,
    refused_without_retry_after: u64,
    /// Neither accepted nor turned away.
    failed: u64,
    /// The mean over the first and over the last fifth of the time.
    resident_start: u64,
    resident_end: u64,
    resident_over_start: f64,
    resident_target: f64,
}

fn is_quick(bench: &Bench<'_>) -> bool {
    bench.pick(None, false, true)
}

/// Connections in open loop.
fn connections(bench: &Bench<'_>) -> usize {
    let quick = QUICK_IN_FLIGHT_BYTES / bench.prepared.json_bytes().max(1);
    let under_way = if is_quick(bench) { quick } else { UNDER_WAY };
    under_way + BEYOND
}

/// How many files each process needs.
pub(super) fn descriptors(bench: &Bench<'_>) -> u64 {
    connections(bench) as u64 + OTHER_FILES
}

/// The whole product on a slow disk. Its log keeps little of what is settled, so that its memory does not follow what it has taken.
fn setup(bench: &Bench<'_>) -> Setup {
    let mut setup = premises::bare(Server::Slow);
    let mut set = |flag: &str, value: String| setup.flags.extend([flag.to_owned(), value]);
    set("--ring-buffer-max-size", "1000".into());
    if is_quick(bench) {
        // One body must fit into it.
        for limit in ["--max-in-flight-bytes", "--max-body-bytes"] {
            set(limit, QUICK_IN_FLIGHT_BYTES.to_string());
        }
    }
    setup
}

/// Measures what the log takes, then what happens beyond.
pub(super) async fn beyond(bench: &mut Bench<'_>, args: &EdgeArgs) -> Result<Overload, BenchError> {
    bench.look_at_disk()?;
    let process = Process::start_as(bench, setup(bench)).await?;
    let closed = Shape {
        connections: CLOSED_LOOP,
        ..bench.shape(Way::Http)
    };
    let times = (
        bench.warm_up().max(CLOSED_LOOP_WARM_UP),
        Duration::from_secs_f64(bench.seconds()).max(CLOSED_LOOP_TIME),
    );
    let capacity = measure_for(bench, &process, closed, times).await?.rate();
    bench.say(&format!("overload: the log takes {capacity:.0} events/s"));
    let asked = capacity * OFFERED;
    let open = Shape {
        connections: connections(bench),
        rate: Some(asked),
        ..closed
    };
    let load = Load::start(process.addr(Way::Http), open, &bench.prepared);
    until_full(&load).await?;
    tokio::time::sleep(bench.pick(None, FILLING, QUICK_FILLING)).await;
    let disk = Disk::look(&process).await?;
    let seconds = bench.pick(args.overload, 30.0, 3.0);
    let probing = probe::begin(process.addr(Way::Http), closed, &bench.prepared, seconds)
        .map_err(|error| BenchError::Io("start the probe", error))?;
    let window = Window::watch(&load, &process, seconds).await?;
    let disk = Disk::look(&process).await?.since(disk);
    let probed = probing.ended().await?;
    let found = window.judged(&load, (capacity, asked), (disk, probed));
    bench.say(&format!(
        "overload: {:.0} events/s of {asked:.0} accepted, the rest turned away with p99 {:.2} ms",
        found.accepted_events_per_second, found.refused.p99_ms
    ));
    load.stop().await?;
    Ok(found)
}

/// Waits until the server begins to turn requests away.
async fn until_full(load: &Load) -> Result<(), BenchError> {
    let started = Instant::now();
    while load.counts().refused == 0 {
        if started.elapsed() > FULL_WITHIN {
            let why = load.failure().unwrap_or_default();
            return Err(BenchError::NotOverloaded(FULL_WITHIN, why));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// What the log says about its disk.
#[derive(Debug, Clone, Copy)]
struct Disk {
    records: f64,
    sync_seconds: f64,
}

impl Disk {
    async fn look(process: &Process) -> Result<Self, BenchError> {
        Ok(Self {
            records: process
                .metric("eventkit_wal_records_committed_total", "")
                .await?,
            sync_seconds: process.metric("eventkit_wal_sync_seconds_sum", "").await?,
        })
    }

    fn since(self, before: Self) -> f64 {
        (self.records - before.records) / (self.sync_seconds - before.sync_seconds)
    }
}

/// Some time of it.
#[derive(Debug)]
struct Window {
    before: Counts,
    after: Counts,
    seconds: f64,
    resident: Vec<u64>,
}

impl Window {
    async fn watch(load: &Load, process: &Process, seconds: f64) -> Result<Self, BenchError> {
        let (before, started) = (load.counts(), Instant::now());
        load.record();
        let mut resident = Vec::new();
        while started.elapsed().as_secs_f64() < seconds {
            resident.push(process.memory()?.resident);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Self {
            before,
            after: load.counts(),
            seconds: started.elapsed().as_secs_f64(),
            resident,
        })
    }

    fn judged(
        &self,
        load: &Load,
        (capacity, asked): (f64, f64),
        (disk, probed): (f64, probe::Probed),
    ) -> Overload {
        let Self { before, after, .. } = self;
        let accepted = after.accepted - before.accepted;
        let refused = after.refused - before.refused;
        let failed = after.failed - before.failed;
        let per_second = |events: u64| events as f64 / self.seconds;
        let (refused_by_load_from_due, refused_by_load) = load.refusals();
        let (resident_start, resident_end) = ends(&self.resident);
        Overload {
            capacity_events_per_second: capacity,
            disk_events_per_second: disk,
            asked_events_per_second: asked,
            // As many are under way at the end as at the beginning.
            sent_events_per_second: per_second(accepted + refused + failed),
            sent_late: load.sent_late(),
            seconds: self.seconds,
            accepted_events_per_second: per_second(accepted),
            accepted_over_capacity: per_second(accepted) / capacity,
            accepted_target: ACCEPTED_TARGET,
            accepted: load.latency(),
            refused_events: refused,
            refused: probed.refused,
            refused_of_probe: probed.count,
            refused_by_load,
            refused_by_load_from_due,
            refused_p99_target_ms: REFUSED_P99_TARGET_MS,
            refused_without_retry_after: after.unexplained - before.unexplained,
            failed,
            resident_start,
            resident_end,
            resident_over_start: resident_end as f64 / (resident_start.max(1) as f64),
            resident_target: RESIDENT_TARGET,
        }
    }
}

/// The means of the first and of the last fifth.
fn ends(values: &[u64]) -> (u64, u64) {
    let fifth = (values.len() / 5).max(1);
    let mean = |part: Option<&[u64]>| {
        let part = part.unwrap_or(values);
        part.iter().sum::<u64>() / (part.len().max(1) as u64)
    };
    let last = values.len().saturating_sub(fifth);
    (mean(values.get(..fifth)), mean(values.get(last..)))
}

impl Overload {
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\noverload: a log that takes {:.0} events/s in closed loop, offered {:.0} for {:.0} s (sent {:.0}, p99 {:.2} ms late)",
            self.capacity_events_per_second,
            self.asked_events_per_second,
            self.seconds,
            self.sent_events_per_second,
            self.sent_late.p99_ms
        )?;
        if self.sent_events_per_second < SENT * self.asked_events_per_second {
            writeln!(
                out,
                "  NOT MEASURED: the generator did not send what was asked of it"
            )?;
        }
        writeln!(
            out,
            "  accepted      {:.0} events/s, {:.3} of the capacity, after p50 {:.0} ms, p99 {:.0} ms   target: at least {}",
            self.accepted_events_per_second,
            self.accepted_over_capacity,
            self.accepted.p50_ms,
            self.accepted.p99_ms,
            self.accepted_target
        )?;
        writeln!(
            out,
            "  turned away   {} events; {} of a probe after p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms   target: p99 at most {} ms",
            self.refused_events,
            self.refused_of_probe,
            self.refused.p50_ms,
            self.refused.p99_ms,
            self.refused.max_ms,
            self.refused_p99_target_ms
        )?;
        writeln!(
            out,
            "                the generator itself read them after p50 {:.2} ms, p99 {:.2} ms (from the appointed time p99 {:.2} ms)",
            self.refused_by_load.p50_ms,
            self.refused_by_load.p99_ms,
            self.refused_by_load_from_due.p99_ms
        )?;
        writeln!(
            out,
            "  of these, {} without a word on when to come again; {} events failed otherwise",
            self.refused_without_retry_after, self.failed
        )?;
        writeln!(
            out,
            "  memory        {} MiB at its beginning, {} MiB at its end: {:.3}   target: at most {}",
            self.resident_start >> 20,
            self.resident_end >> 20,
            self.resident_over_start,
            self.resident_target
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_compared_at_both_ends() {
        let ramp: Vec<u64> = (0..10).collect();
        for (values, expected) in [
            (&ramp[..], (0, 8)),
            (&[7, 9], (7, 9)),
            (&[7], (7, 7)),
            (&[], (0, 0)),
        ] {
            assert_eq!(ends(values), expected, "{values:?}");
        }
    }
}
