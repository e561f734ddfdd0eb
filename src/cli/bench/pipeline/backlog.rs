//! A backlog: filled while no worker runs, drained while the filling goes on, and in how much memory.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::emulators::{Emulators, Names, Queue};
use super::raw::{self, Ceiling};
use super::{PipelineArgs, loader, samples};
use crate::cli::bench::load::{Load, Shape, Way};
use crate::cli::bench::process::Process;
use crate::cli::bench::stats::Spread;
use crate::cli::bench::{Bench, BenchError};

/// How often it is looked how far the worker is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A backlog counts as gone when so much of it is left, or what comes in within [`BATCHES_AGE`]: the last of it waits for its batches.
const GONE: f64 = 0.1;
/// See [`GONE`]. It is never more than half of a short filling.
const BATCHES_AGE: f64 = 5.0;
/// A backlog that has not gone within so many times of its filling, and [`PATIENCE`], goes no more.
const TIMES: f64 = 4.0;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what is left may take once nothing comes in any more.
const LAST_EVENTS: Duration = Duration::from_secs(120);

/// How fast it is to go, in times of how fast it came.
pub(super) const TARGET_TIMES: f64 = 2.0;
/// The most memory of each role.
pub(super) const TARGET_RESIDENT: u64 = 400 << 20;

/// All of it, over the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Backlog {
    pub(super) way: Way,
    pub(super) maximum_events_per_second: f64,
    pub(super) share: f64,
    pub(super) fill_events_per_second: f64,
    pub(super) fill_seconds: f64,
    /// What the worker stored while the backlog went, in times of the filling.
    pub(super) stored_over_fill: Spread,
    /// How fast the backlog went, although it was still being filled, in the same measure.
    pub(super) shrunk_over_fill: Spread,
    /// What can be pulled from the emulator at most, in the same measure.
    pub(super) ceiling_over_fill: Spread,
    /// What the worker stored over what can be pulled.
    pub(super) stored_over_ceiling: Spread,
    pub(super) target_times: f64,
    pub(super) target_resident_bytes: u64,
    pub(super) rounds: Vec<Round>,
}

/// One filling and draining.
#[derive(Debug, Serialize)]
pub(super) struct Round {
    /// What was accepted while nobody stored.
    pub(super) filled_events: u64,
    pub(super) filled_events_per_second: f64,
    /// Of the filling.
    pub(super) messages: f64,
    pub(super) events_per_message: f64,
    pub(super) message_bytes: usize,
    /// Whether it went in the time that it had.
    pub(super) gone: bool,
    /// How much of it was left then.
    pub(super) left_share: f64,
    pub(super) gone_seconds: f64,
    pub(super) stored_events_per_second: f64,
    pub(super) shrunk_events_per_second: f64,
    /// From the end of the load until everything was stored; `None`: it never was.
    pub(super) rest_seconds: Option<f64>,
    pub(super) accepted: u64,
    /// Those that were stored twice included.
    pub(super) stored: f64,
    pub(super) not_accepted: u64,
    pub(super) ceiling: Ceiling,
    pub(super) gateway_peak_bytes: u64,
    pub(super) worker_peak_bytes: u64,
    pub(super) loader: Option<loader::Loaded>,
}

pub(super) async fn measure(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    args: &PipelineArgs,
    maximum: f64,
) -> Result<Backlog, BenchError> {
    let rate = maximum * args.share;
    let mut rounds = Vec::new();
    for _ in 0..args.backlogs {
        rounds.push(one(bench, emulators, args, rate).await?);
    }
    let spread = |of: fn(&Round) -> f64| {
        let values = rounds.iter().map(of).collect();
        Spread::of(values).expect("there was at least one round")
    };
    Ok(Backlog {
        way: args.way,
        maximum_events_per_second: maximum,
        share: args.share,
        fill_events_per_second: rate,
        fill_seconds: args.fill_seconds(),
        stored_over_fill: spread(|at| at.stored_events_per_second / at.filled_events_per_second),
        shrunk_over_fill: spread(|at| at.shrunk_events_per_second / at.filled_events_per_second),
        ceiling_over_fill: spread(|at| at.ceiling_events() / at.filled_events_per_second),
        stored_over_ceiling: spread(|at| at.stored_events_per_second / at.ceiling_events()),
        target_times: TARGET_TIMES,
        target_resident_bytes: TARGET_RESIDENT,
        rounds,
    })
}

impl Round {
    /// What can be pulled at most, in events.
    fn ceiling_events(&self) -> f64 {
        self.ceiling.pulled * self.events_per_message
    }
}

/// How a backlog went.
#[derive(Debug)]
struct Drained {
    gone: bool,
    seconds: f64,
    stored: f64,
    shrunk: f64,
}

/// What the gateway was given, as long as nobody pulled.
#[derive(Debug)]
struct Filled {
    events: u64,
    seconds: f64,
    messages: f64,
}

async fn one(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    args: &PipelineArgs,
    rate: f64,
) -> Result<Round, BenchError> {
    bench.look_at_disk()?;
    let names = emulators.fresh().await?;
    let process = |role| emulators.setup(&names, Queue::Pubsub, role);
    let gateway = Process::start_as(bench, process("gateway")).await?;
    let shape = Shape {
        rate: Some(rate),
        ..bench.shape(args.way)
    };
    let load = Load::start(gateway.addr(args.way), shape, &bench.prepared);
    let filled = fill(bench, &gateway, &load, args.fill_seconds()).await?;
    let worker = Process::start_as(bench, process("worker")).await?;
    let patience = Duration::from_secs_f64(filled.seconds * TIMES) + PATIENCE;
    let left = (BATCHES_AGE / filled.seconds).clamp(GONE, 0.5);
    let drained = drain(&worker, &load, (left, patience)).await?;
    bench.say(&format!(
        "{}: {} events filled in at {:.0} events/s, {} after {:.0} s, {:.0} events/s stored meanwhile",
        args.way.name(),
        filled.events,
        filled.events as f64 / filled.seconds,
        if drained.gone { "gone" } else { "not gone" },
        drained.seconds,
        drained.stored
    ));
    let not_accepted = load.failed();
    if let Some(failure) = load.failure() {
        bench.say(&format!("  {not_accepted} events failed: {failure}"));
    }
    let accepted = load.stop().await?;
    let (stored, rest_seconds) = rest(&worker, accepted).await?;
    let (gateway_memory, worker_memory) = (gateway.memory()?, worker.memory()?);
    drop((gateway, worker));
    let loader = load_rows(bench, emulators, (&names, accepted), args).await?;
    emulators.forget(&names).await?;

    let events_per_message = (filled.events as f64 / filled.messages.max(1.0)).max(1.0);
    let raw = raw::Load {
        message: samples::message(&bench.prepared, whole(events_per_message)),
        messages: (whole(filled.messages) as u64).clamp(100, raw::MESSAGES_MAX),
        meanwhile: rate / events_per_message,
    };
    let message_bytes = raw.message.len();
    let ceiling = raw::ceiling(bench, emulators, &raw).await?;
    Ok(Round {
        filled_events: filled.events,
        filled_events_per_second: filled.events as f64 / filled.seconds,
        messages: filled.messages,
        events_per_message,
        message_bytes,
        gone: drained.gone,
        left_share: left,
        gone_seconds: drained.seconds,
        stored_events_per_second: drained.stored,
        shrunk_events_per_second: drained.shrunk,
        rest_seconds,
        accepted,
        stored,
        not_accepted,
        ceiling,
        gateway_peak_bytes: gateway_memory.peak,
        worker_peak_bytes: worker_memory.peak,
        loader,
    })
}

/// A count that came as a metric or a mean.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded, from 0 on, and far from any end"
)]
fn whole(count: f64) -> usize {
    count.round().max(0.0) as usize
}

/// Lets the load fill the topic.
async fn fill(
    bench: &mut Bench<'_>,
    gateway: &Process,
    load: &Load,
    seconds: f64,
) -> Result<Filled, BenchError> {
    load.warm_up(Duration::ZERO).await;
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let filled = Filled {
        events: load.accepted(),
        seconds: started.elapsed().as_secs_f64(),
        messages: gateway
            .metric("eventkit_publisher_batches_sealed_total", "")
            .await?,
    };
    if filled.events == 0 {
        let why = load.failure().unwrap_or_else(|| gateway.output());
        return Err(BenchError::NothingAccepted(why));
    }
    let peak = gateway.memory()?.peak >> 20;
    bench.say(&format!(
        "filled: {} events in {:.0} messages; gateway's peak {peak} MiB",
        filled.events, filled.messages
    ));
    Ok(filled)
}

/// From the moment when the worker is ready until the backlog is gone.
async fn drain(
    worker: &Process,
    load: &Load,
    (share, patience): (f64, Duration),
) -> Result<Drained, BenchError> {
    let started = Instant::now();
    let look = async || -> Result<(f64, f64), BenchError> {
        let stored = stored(worker).await?;
        Ok((stored, load.accepted() as f64 - stored))
    };
    let (stored, before) = look().await?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (now_stored, left) = look().await?;
        let seconds = started.elapsed().as_secs_f64();
        let gone = left <= before * share;
        if gone || started.elapsed() > patience {
            return Ok(Drained {
                gone,
                seconds,
                stored: (now_stored - stored) / seconds,
                shrunk: (before - left) / seconds,
            });
        }
    }
}

async fn stored(worker: &Process) -> Result<f64, BenchError> {
    worker.metric("eventkit_events_processed_total", "").await
}

/// Waits until everything is stored: how much that was, and how long it took.
async fn rest(worker: &Process, accepted: u64) -> Result<(f64, Option<f64>), BenchError> {
    let started = Instant::now();
    loop {
        let stored = stored(worker).await?;
        if stored >= accepted as f64 {
            return Ok((stored, Some(started.elapsed().as_secs_f64())));
        }
        if started.elapsed() > LAST_EVENTS {
            return Ok((stored, None));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn load_rows(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    (names, rows): (&Names, u64),
    args: &PipelineArgs,
) -> Result<Option<loader::Loaded>, BenchError> {
    if !emulators.bigquery {
        bench.say("no BIGQUERY_EMULATOR_HOST: the loader's memory is not measured");
        return Ok(None);
    }
    let within = Duration::from_secs_f64(args.load_seconds());
    let setup = emulators.setup(names, Queue::Pubsub, "loader");
    loader::measure(bench, setup, rows, within).await.map(Some)
}
