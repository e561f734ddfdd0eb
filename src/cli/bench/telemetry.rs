//! `eventkit bench telemetry`: what OpenTelemetry costs, and that a collector which does not do its part costs nothing more.
//!
//! ```text
//!   off · 1 % · 100 % · refusing · hanging      one server each, interleaved rounds, in turn
//!     load ─▶ serve ─▶ Parquet                  closed loop, then until everything is settled
//!                └──▶ receiver                  in this process: counts and drops
//! ```
//!
//! CPU time is counted from the ready server until its log is settled, so each event is paid for in full, and the exporter's work
//! with it. The receiver's own share counts as the generator's. Ratios to *off* are taken round by round; their interval is a bootstrap
//! ([`Interval`]). Servers get the standard variables and nothing else.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::args::{CommonArgs, Sizes};
use super::load::{Latency, Load, Shape, Way};
use super::process::{Process, Server, Setup};
use super::{Bench, BenchError, run_on};
use crate::config::Environment;

mod receiver;
mod report;

use receiver::{Behaviour, Receiver};
use report::{Compared, Row, TelemetryReport};

/// Examples, below the options.
pub(super) const AFTER_HELP: &str = "\
What is compared, in interleaved rounds:
  off        no OTEL_ variable
  one        a receiver that takes everything, 1 % of the traces sampled
  all        the same, every trace sampled
  refusing   every trace sampled, nobody listens at the endpoint
  hanging    every trace sampled, the endpoint takes connections and never answers

Each is the gateway to Parquet, under single events over HTTP and batches over CollectBidi (a new stream every 16 of them,
as a stream is sampled as a whole), closed loop; then it is waited until everything is settled, and the CPU time of all
that is divided by the events.

Examples:
  eventkit bench telemetry                               11 rounds, about 20 minutes
  eventkit bench telemetry --quick                       one round: whether it works
  eventkit bench telemetry http --rounds 31 --json telemetry.json
  eventkit bench telemetry --only off,one --seconds 10

OTEL_ variables of this process are not passed on.";

/// How the servers export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Telemetry {
    /// Not at all
    Off,
    /// 1 % of the traces
    One,
    /// Every trace
    All,
    /// Every trace, to nobody
    Refusing,
    /// Every trace, to somebody who never answers
    Hanging,
}

impl Telemetry {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::One => "one",
            Self::All => "all",
            Self::Refusing => "refusing",
            Self::Hanging => "hanging",
        }
    }

    /// How many times as much CPU time as without it is allowed, if anything is said about that.
    fn target(self) -> Option<f64> {
        match self {
            Self::One => Some(1.05),
            Self::All => Some(1.25),
            Self::Off | Self::Refusing | Self::Hanging => None,
        }
    }

    fn behaviour(self) -> Option<Behaviour> {
        match self {
            Self::Off => None,
            Self::One | Self::All => Some(Behaviour::Takes),
            Self::Refusing => Some(Behaviour::Refuses),
            Self::Hanging => Some(Behaviour::Hangs),
        }
    }

    fn ratio(self) -> &'static str {
        match self {
            Self::One => "0.01",
            _ => "1.0",
        }
    }
}

/// What `bench telemetry` can be told.
#[derive(Debug, Args)]
pub struct TelemetryArgs {
    /// On which ways in [default: both]
    #[arg(value_name = "WAY", value_enum)]
    pub(super) ways: Vec<Way>,
    /// Only these
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',',
        default_values = ["off", "one", "all", "refusing", "hanging"])]
    pub only: Vec<Telemetry>,
    /// Load, place and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Rounds, if nobody says anything: an interval needs some.
const ROUNDS: u32 = 11;
/// A stream is sampled as a whole: of a few long ones 1 % would be none.
const STREAM_BATCHES: u64 = 16;
/// How long the last events may take until they are settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Measures and prints the result; returns the exit code.
///
/// # Errors
///
/// [`BenchError`].
pub(super) fn run(
    args: &TelemetryArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, BenchError> {
    let inherited: Vec<String> = environment
        .vars
        .keys()
        .filter(|name| name.starts_with("OTEL_"))
        .cloned()
        .collect();
    let of = (&args.common, Sizes::default());
    run_on(of, environment, (out, err), async |bench| {
        let mut report = TelemetryReport::default();
        for way in [Way::Http, Way::Bidi] {
            if args.ways.is_empty() || args.ways.contains(&way) {
                report
                    .ways
                    .push(compare(bench, args, way, &inherited).await?);
            }
        }
        Ok(report)
    })
}

/// One server under one load, until all of it is settled.
#[derive(Debug)]
struct Measured {
    events_per_second: f64,
    latency: Latency,
    cpu_per_million: f64,
    resident_peak: u64,
    failed: u64,
    /// What the receiver took; what a server held when it was stopped is not among it.
    spans: u64,
    requests: u64,
}

async fn compare(
    bench: &mut Bench<'_>,
    args: &TelemetryArgs,
    way: Way,
    inherited: &[String],
) -> Result<Compared, BenchError> {
    let mut only = args.only.clone();
    only.dedup();
    let mut rounds: Vec<(Telemetry, Vec<Measured>)> =
        only.iter().map(|&what| (what, Vec::new())).collect();
    for round in 1..=bench.pick(args.common.rounds, ROUNDS, 1) {
        // Nobody always goes first.
        rounds.rotate_left(1);
        for (what, measured) in &mut rounds {
            bench.look_at_disk()?;
            let found = one(bench, *what, way, inherited).await?;
            bench.say(&format!(
                "{} round {round}: {:<8} {:>8.0} events/s, {:.2} CPU s per million, {} spans",
                way.name(),
                what.name(),
                found.events_per_second,
                found.cpu_per_million,
                found.spans
            ));
            measured.push(found);
        }
    }
    rounds.sort_by_key(|(what, _)| only.iter().position(|at| at == what));
    let off = rounds.iter().find(|(what, _)| *what == Telemetry::Off);
    let off = off.map(|(_, rounds)| rounds.as_slice());
    let rows = rounds
        .iter()
        .filter_map(|(what, rounds)| Row::of(*what, rounds, off));
    let shape = bench.shape(way);
    Ok(Compared {
        way,
        connections: shape.connections,
        events_per_request: shape.batch,
        rows: rows.collect(),
    })
}

/// How a server is started: with the standard variables, and none that this process was given.
fn setup(what: Telemetry, endpoint: Option<String>, inherited: &[String]) -> Setup {
    let mut setup = Setup::of(Server::Full, &["--warehouse-enabled=false"]);
    setup.name = what.name();
    let inherited = inherited.iter().map(|name| (name.clone(), None));
    setup.variables = inherited.collect();
    let given = endpoint.map(|endpoint| {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", what.ratio().to_owned()),
        ]
    });
    let given = given.into_iter().flatten();
    setup
        .variables
        .extend(given.map(|(name, value)| (name.to_owned(), Some(value))));
    setup
}

async fn one(
    bench: &mut Bench<'_>,
    what: Telemetry,
    way: Way,
    inherited: &[String],
) -> Result<Measured, BenchError> {
    let receiver = match what.behaviour() {
        Some(behaviour) => Some(
            Receiver::start(behaviour)
                .await
                .map_err(|error| BenchError::Io("start the receiver", error))?,
        ),
        None => None,
    };
    let endpoint = receiver.as_ref().map(Receiver::endpoint);
    let process = Process::start_as(bench, setup(what, endpoint, inherited)).await?;
    let cpu = process.cpu_seconds()?;
    let shape = Shape {
        stream_batches: Some(STREAM_BATCHES),
        ..bench.shape(way)
    };
    let load = Load::start(process.addr(way), shape, &bench.prepared);
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
    settled(&process).await?;
    let cpu = process.cpu_seconds()? - cpu;
    let resident_peak = process.memory()?.peak;
    drop(process);
    let (requests, spans) = receiver.map_or((0, 0), |receiver| receiver.counted());
    Ok(Measured {
        events_per_second,
        latency,
        cpu_per_million: cpu / accepted as f64 * 1e6,
        resident_peak,
        failed,
        spans,
        requests,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_get_the_standard_variables_and_none_of_ours() {
        let inherited = ["OTEL_SDK_DISABLED".to_owned()];
        let off = setup(Telemetry::Off, None, &inherited);
        assert_eq!(off.variables, [("OTEL_SDK_DISABLED".to_owned(), None)]);
        let one = setup(
            Telemetry::One,
            Some("http://127.0.0.1:1".into()),
            &inherited,
        );
        let given: Vec<_> = one
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            given,
            [
                ("OTEL_SDK_DISABLED", None),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("http://127.0.0.1:1")),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", Some("grpc")),
                ("OTEL_TRACES_SAMPLER", Some("parentbased_traceidratio")),
                ("OTEL_TRACES_SAMPLER_ARG", Some("0.01")),
            ]
        );
    }
}
