//! The highest rate that the whole product keeps up with: open loop, and the lag behind what was accepted must not grow.
//!
//! Short probes halve the range between a rate that holds and one that does not, by ratio; the rate found must then hold for
//! the whole time, or a tenth less is tried. Every probe begins on an empty directory, and ends early when all is lost.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use tokio::time::Instant;

use super::load::{Load, Shape, Way};
use super::process::{Process, Server};
use super::stats::grows;
use super::{Bench, BenchError};

/// How often the lag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The search begins between what `accept` takes and this part of it.
const LEAST: f64 = 1.0 / 32.0;
/// So many rates at most are held for the whole time.
const CONFIRMATIONS: u32 = 3;
/// What one that did not hold is lowered to.
const LOWERED: f64 = 0.9;
/// So many seconds' events behind where it was, a lag does not come back.
const LOST_SECONDS: f64 = 15.0;
/// The part of the asked rate that must arrive: below it the gateway, or the load, cannot even accept so much.
const ARRIVING: f64 = 0.98;
/// How long the last events may take to arrive at the end of their way.
const LAST_EVENTS: Duration = Duration::from_secs(120);

/// The end of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Goal {
    /// Settled: in the store as Parquet, nothing behind it.
    Parquet,
    /// A row of the SQLite warehouse.
    Sqlite,
}

impl Goal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Sqlite => "sqlite",
        }
    }

    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Parquet => &["--warehouse-enabled=false"],
            Self::Sqlite => &["--warehouse-enabled=true"],
        }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Sustained {
    pub(super) way: Way,
    pub(super) goal: Goal,
    /// 0 when no rate held.
    pub(super) events_per_second: f64,
    /// What `accept` takes at most.
    pub(super) accept_events_per_second: f64,
    pub(super) of_accept: f64,
    /// For how long it held.
    pub(super) seconds: f64,
    pub(super) events: u64,
    pub(super) lag_median: f64,
    pub(super) lag_max: f64,
    pub(super) server_cpu_seconds_per_million: f64,
    pub(super) resident_bytes: u64,
    /// How long the last events took to arrive once the load had ended; `None` when they did not.
    pub(super) drained_seconds: Option<f64>,
    /// Rows of the warehouse at the end, those of bad events included; as many as were accepted, warm-up included.
    pub(super) rows: Option<u64>,
    pub(super) accepted: u64,
}

/// One rate for one time.
#[derive(Debug, Clone, Copy)]
struct Asked {
    way: Way,
    goal: Goal,
    rate: f64,
    seconds: f64,
    /// Whether to wait until everything has arrived.
    to_the_end: bool,
}

/// What became of it.
#[derive(Debug, Default)]
struct Probe {
    holds: bool,
    events: u64,
    lags: Vec<f64>,
    cpu: f64,
    resident: u64,
    drained: Option<f64>,
    rows: Option<u64>,
    accepted: u64,
}

pub(super) async fn search(
    bench: &mut Bench<'_>,
    way: Way,
    goal: Goal,
    accept: f64,
) -> Result<Sustained, BenchError> {
    let (mut holds, mut fails) = (accept * LEAST, accept);
    let mut asked = Asked {
        way,
        goal,
        rate: 0.0,
        seconds: bench.probe_seconds(),
        to_the_end: false,
    };
    for _ in 0..bench.probes() {
        asked.rate = (holds * fails).sqrt();
        if probe(bench, asked).await?.holds {
            holds = asked.rate;
        } else {
            fails = asked.rate;
        }
    }
    asked.rate = holds;
    asked.seconds = bench.sustain_seconds();
    asked.to_the_end = true;
    for _ in 0..CONFIRMATIONS {
        let found = probe(bench, asked).await?;
        if found.holds {
            return Ok(sustained(asked, accept, &found));
        }
        asked.rate *= LOWERED;
    }
    asked.rate = 0.0;
    Ok(sustained(asked, accept, &Probe::default()))
}

fn sustained(asked: Asked, accept: f64, found: &Probe) -> Sustained {
    let Asked {
        way,
        goal,
        rate,
        seconds,
        ..
    } = asked;
    let lags = super::stats::Spread::of(found.lags.clone());
    Sustained {
        way,
        goal,
        events_per_second: rate,
        accept_events_per_second: accept,
        of_accept: rate / accept,
        seconds,
        events: found.events,
        lag_median: lags.as_ref().map_or(0.0, |lags| lags.median),
        lag_max: lags.as_ref().map_or(0.0, |lags| lags.max),
        server_cpu_seconds_per_million: found.cpu / (found.events.max(1) as f64) * 1e6,
        resident_bytes: found.resident,
        drained_seconds: found.drained,
        rows: found.rows,
        accepted: found.accepted,
    }
}

async fn probe(bench: &mut Bench<'_>, asked: Asked) -> Result<Probe, BenchError> {
    let Asked {
        way,
        goal,
        rate,
        seconds,
        to_the_end,
    } = asked;
    bench.look_at_disk()?;
    let process = Process::start(bench, Server::Full, goal.settings()).await?;
    let shape = Shape {
        rate: Some(rate),
        ..bench.shape(way)
    };
    let load = Load::start(process.addr(way), shape, &bench.prepared);
    // The first batches and merges are under way before the lag says anything.
    load.warm_up(bench.settling()).await;
    let (cpu, accepted) = (process.cpu_seconds()?, load.accepted());
    let started = Instant::now();
    let mut lags = Vec::new();
    while started.elapsed().as_secs_f64() < seconds {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = lag(&process, goal, load.accepted()).await?;
        lags.push(now);
        if now - lags.first().unwrap_or(&now) > rate * LOST_SECONDS {
            break;
        }
    }
    let took = started.elapsed().as_secs_f64();
    let cpu = process.cpu_seconds()? - cpu;
    let events = load.accepted() - accepted;
    let arriving = events as f64 / took / rate;
    let is_growing = grows(&lags, rate, took);
    let holds = arriving >= ARRIVING && !is_growing && load.failed() == 0;
    bench.say(&format!(
        "{} to {}: {rate:.0} events/s for {took:.0} s: {}, lag {:.0}",
        way.name(),
        goal.name(),
        match (holds, is_growing) {
            (true, _) => "holds".into(),
            (false, true) => "the lag grows".into(),
            (false, false) => format!("only {:.0} % arrive", arriving * 100.0),
        },
        lags.last().copied().unwrap_or_default()
    ));
    let resident = process.memory()?.resident;
    let total = load.stop().await?;
    let (mut drained, mut rows) = (None, None);
    if holds && to_the_end {
        drained = drain(&process, goal, total).await?;
        rows = count_rows(&process, goal)?;
    }
    Ok(Probe {
        holds,
        events,
        lags,
        cpu,
        resident,
        drained,
        rows,
        accepted: total,
    })
}

/// How many of the accepted events are not at the end of their way.
async fn lag(process: &Process, goal: Goal, accepted: u64) -> Result<f64, BenchError> {
    match goal {
        Goal::Parquet => process.metric("eventkit_queue_depth", "").await,
        Goal::Sqlite => {
            let rows = process
                .metric("eventkit_loader_rows_merged_total", "")
                .await?;
            Ok(accepted as f64 - rows)
        }
    }
}

/// Waits until everything that was accepted is at the end of its way.
async fn drain(process: &Process, goal: Goal, total: u64) -> Result<Option<f64>, BenchError> {
    let started = Instant::now();
    while started.elapsed() < LAST_EVENTS {
        if lag(process, goal, total).await? <= 0.0 {
            return Ok(Some(started.elapsed().as_secs_f64()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// Counts what the warehouse holds, by its own file.
fn count_rows(process: &Process, goal: Goal) -> Result<Option<u64>, BenchError> {
    if goal != Goal::Sqlite {
        return Ok(None);
    }
    let path = process.dir().join("warehouse.db");
    let count = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM errors)";
    let rows = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|warehouse| warehouse.query_row(count, [], |row| row.get::<_, i64>(0)));
    let rows = rows.map_err(BenchError::Warehouse)?;
    Ok(u64::try_from(rows).ok())
}
