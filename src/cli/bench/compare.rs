//! Servers that differ in one thing, side by side: interleaved rounds, each server once a round, in turn.
//!
//! Each is loaded in closed loop, then left alone until everything is settled. CPU time is counted from the ready server until then,
//! so each event is paid for in full. Ratios to the baseline are taken round by round; their interval is a bootstrap
//! ([`super::stats::Interval`]).

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::load::{Client, Latency, Load, Shape, Way};
use super::process::{Process, Setup};
use super::{Bench, BenchError};

mod report;

use report::Row;
pub(super) use report::{Compared, write_ways};

/// Rounds, if nobody says anything: an interval needs some.
pub(super) const ROUNDS: u32 = 11;
/// A new stream every so many batches: what happens once a stream (a key, a sampling decision) would else hardly happen.
const STREAM_BATCHES: u64 = 16;
/// How long the last events may take until they are settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One of the servers that are compared.
pub(super) trait Variant: Copy + PartialEq + Serialize {
    /// What is counted beside.
    type Tally: Tally;

    /// What it is held against; the one that nothing is held against is its own.
    fn baseline(self) -> Self;

    fn name(self) -> &'static str;

    /// How many times the baseline's CPU time is allowed, if anything is said about that.
    fn target(self) -> Option<f64>;

    /// Why the target says nothing, if that is so: else what did nothing would be within it.
    fn doubt(self, tally: &Self::Tally) -> Option<&'static str>;
}

/// What a bench counts of its servers beside.
pub(super) trait Tally: Default + Serialize {
    /// The heads of its columns.
    const HEADS: &'static [&'static str];

    /// Takes a round's in.
    fn add(&mut self, round: &Self);

    /// What stands in each of them.
    fn shown(&self) -> Vec<u64>;
}

/// One server under one load, until all of it is settled.
#[derive(Debug)]
pub(super) struct Loaded {
    events_per_second: f64,
    latency: Latency,
    cpu_per_million: f64,
    resident_peak: u64,
    failed: u64,
}

/// The same with what was counted beside.
#[derive(Debug)]
pub(super) struct Measured<T> {
    pub(super) loaded: Loaded,
    pub(super) tally: T,
}

/// Measures every server once in each round.
pub(super) async fn compare<'b, V: Variant>(
    bench: &mut Bench<'b>,
    only: &[V],
    way: Way,
    mut one: impl AsyncFnMut(&mut Bench<'b>, V) -> Result<Measured<V::Tally>, BenchError>,
) -> Result<Compared<V, V::Tally>, BenchError> {
    let mut only = only.to_vec();
    only.dedup();
    let mut rounds: Vec<(V, Vec<Measured<V::Tally>>)> =
        only.iter().map(|&what| (what, Vec::new())).collect();
    for round in 1..=bench.pick(bench.common.rounds, ROUNDS, 1) {
        // Nobody always goes first.
        rounds.rotate_left(1);
        for (what, measured) in &mut rounds {
            bench.look_at_disk()?;
            let found = one(bench, *what).await?;
            let shown = found.tally.shown().into_iter().zip(V::Tally::HEADS);
            let shown: Vec<_> = shown
                .map(|(count, head)| format!("{count} {head}"))
                .collect();
            bench.say(&format!(
                "{} round {round}: {:<10} {:>8.0} events/s, {:.2} CPU s per million, {}",
                way.name(),
                what.name(),
                found.loaded.events_per_second,
                found.loaded.cpu_per_million,
                shown.join(", ")
            ));
            measured.push(found);
        }
    }
    rounds.sort_by_key(|(what, _)| only.iter().position(|at| at == what));
    let rows = rounds.iter().filter_map(|(what, measured)| {
        let baseline = rounds.iter().find(|(other, _)| *other == what.baseline());
        Row::of(
            *what,
            measured,
            baseline.map(|(_, measured)| measured.as_slice()),
        )
    });
    let shape = bench.shape(way);
    Ok(Compared {
        way,
        connections: shape.connections,
        events_per_request: shape.batch,
        rows: rows.collect(),
    })
}

/// Starts a server, loads it as a certain client, and waits until everything it took is settled. The server is still there then.
pub(super) async fn load(
    bench: &mut Bench<'_>,
    setup: Setup,
    way: Way,
    client: &Arc<Client>,
) -> Result<(Loaded, Process), BenchError> {
    let process = Process::start_as(bench, setup).await?;
    let cpu = process.cpu_seconds()?;
    let shape = Shape {
        stream_batches: Some(STREAM_BATCHES),
        ..bench.shape(way)
    };
    let load = Load::start_as(client, process.addr(way), shape, &bench.prepared);
    load.warm_up(bench.warm_up()).await;
    let before = load.accepted();
    let started = Instant::now();
    load.record();
    tokio::time::sleep(Duration::from_secs_f64(bench.seconds())).await;
    let events_per_second = (load.accepted() - before) as f64 / started.elapsed().as_secs_f64();
    let latency = load.latency();
    let (failed, failure) = (load.failed(), load.failure());
    let accepted = load.stop().await?;
    if accepted == 0 {
        let why = failure.unwrap_or_else(|| process.output());
        return Err(BenchError::NothingAccepted(why));
    }
    if let Some(failure) = failure {
        bench.say(&format!("  {failed} events failed: {failure}"));
    }
    settled(&process).await?;
    let cpu = process.cpu_seconds()? - cpu;
    let loaded = Loaded {
        events_per_second,
        latency,
        cpu_per_million: cpu / accepted as f64 * 1e6,
        resident_peak: process.memory()?.peak,
        failed,
    };
    Ok((loaded, process))
}

/// Waits until everything in the log is settled.
async fn settled(process: &Process) -> Result<(), BenchError> {
    let started = Instant::now();
    while process.metric("eventkit_queue_depth", "").await? > 0.0 {
        if started.elapsed() > SETTLED_WITHIN {
            return Err(BenchError::NoAnswer(SETTLED_WITHIN));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// What a server counted so far.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole numbers, and saturate"
)]
pub(super) async fn counted(process: &Process, metric: &str) -> Result<u64, BenchError> {
    Ok(process.metric(metric, "").await? as u64)
}
