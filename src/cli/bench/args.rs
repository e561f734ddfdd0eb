//! What `eventkit bench` can be told.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::process::Server;
use crate::app::Yardstick;
use crate::cli::RunFlags;

/// Examples, below the options.
pub(in crate::cli) const AFTER_HELP: &str = "\
What is measured:
  http       single events, closed loop, on every server
  bidi       CollectBidi, batches, closed loop, on every server
  latency    the answer's time at 70 % of what the log takes, open loop
  sustained  the highest open-loop rate at which the lag does not grow, to Parquet and to the SQLite row
  rss        memory: idle, full load, with a backlog of unpublished events, opened again
  open       from the start of a process to its first \"accepted\" on a log of unpublished events

The servers:
  noop       the gateway's doors with nothing behind them
  raw        the same before a plain file with group commit and fdatasync
  accept     the gateway with its pipeline paused: what \"accepted\" costs
  full       the gateway, `eventkit serve`, to the SQLite row

Benches of their own, each with its --help:
  pipeline   Pub/Sub and Cloud Storage, against their emulators
  telemetry  what OpenTelemetry costs, with a receiver, and with one that refuses or hangs
  edge       what keys, limits, TLS and packed bodies cost; beside idle connections; beyond what the log takes

Examples:
  eventkit bench                              everything above, about 20 minutes
  eventkit bench --quick                      everything, briefly
  eventkit bench http bidi --rounds 3 --json bench.json
  eventkit bench http --servers accept,raw --seconds 10 --engine sqlite
  eventkit bench sustained --dir /mnt/disk    on another disk

EVENTKIT_ variables apply to the servers. The generator runs on the same machine as the servers: leave it alone
meanwhile, compare rates of one run only, and look at the spread.";

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Single events over HTTP
    Http,
    /// Batches over CollectBidi
    Bidi,
    /// The answer's time at 70 % of the maximum
    Latency,
    /// The highest rate that is kept up
    Sustained,
    /// Memory
    Rss,
    /// A start on a full log
    Open,
}

/// The log's engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// sled
    Sled,
    /// SQLite
    Sqlite,
}

impl EngineArg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Sqlite => "sqlite",
        }
    }
}

/// What `bench` can be told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Another bench.
    #[command(subcommand)]
    pub other: Option<Other>,
    /// What to measure [default: everything]
    #[arg(value_name = "ROW", value_enum)]
    pub rows: Vec<Row>,
    /// How large what is measured is.
    #[command(flatten)]
    pub(super) sizes: Sizes,
    /// Only these servers in http and bidi
    #[arg(long, value_name = "SERVER", value_enum, value_delimiter = ',',
        default_values = ["noop", "raw", "accept", "full"])]
    pub servers: Vec<Server>,
    /// Load, place and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The other benches.
#[derive(Debug, Subcommand)]
pub enum Other {
    /// Measure the path over Pub/Sub and Cloud Storage, against their emulators
    #[cfg(feature = "cloud")]
    #[command(after_help = super::pipeline::AFTER_HELP)]
    Pipeline(super::pipeline::PipelineArgs),
    /// Measure what telemetry costs
    #[command(after_help = super::telemetry::AFTER_HELP)]
    Telemetry(super::telemetry::TelemetryArgs),
    /// Measure what the edge costs, and how it stands a crowd and a flood
    #[command(after_help = super::edge::AFTER_HELP)]
    Edge(super::edge::EdgeArgs),
}

/// How large what is measured is.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Sizes {
    /// For how long a sustained rate must hold [default: 120, quick: 2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) sustain: Option<f64>,
    /// Unpublished events for rss [default: 5000000, quick: 200000]
    #[arg(long, value_name = "EVENTS")]
    pub(super) backlog: Option<u64>,
    /// Unpublished events for open [default: 1000000, quick: 100000]
    #[arg(long, value_name = "EVENTS")]
    pub(super) unpublished: Option<u64>,
}

/// What every bench can be told.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Everything briefly: for a first impression, not for comparison
    #[arg(long)]
    pub quick: bool,
    /// Interleaved rounds [default: 5, telemetry and edge: 11, quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: Option<u32>,
    /// Seconds per measurement of a round, and of latency [default: 5, quick: 1.5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// The log's engine
    #[arg(long, value_enum, default_value = "sled")]
    pub engine: EngineArg,
    /// Connections of http
    #[arg(long, value_name = "N", default_value_t = 512,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// Streams of bidi, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub streams: u16,
    /// Batches under way on one stream
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub window: u16,
    /// Events per batch of bidi
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch: u16,
    /// The generator's threads [default: half of the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub threads: Option<u16>,
    /// Where the servers keep their data meanwhile: which disk is measured [default: the system's temporary directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The servers' log level; at INFO each request writes two lines
    #[arg(long, value_name = "LEVEL", default_value = "WARNING")]
    pub log_level: String,
    /// Write the result as JSON to this file as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.05 to 86400".into()),
    }
}

impl BenchArgs {
    pub(super) fn servers(&self) -> Vec<Server> {
        let mut servers = self.servers.clone();
        servers.dedup();
        servers
    }

    pub(super) fn wants(&self, row: Row) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }
}

/// What a server of `bench` is told.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// What stands behind the doors
    #[arg(value_enum)]
    pub yardstick: Yardstick,
    /// The settings of `serve`.
    #[command(flatten)]
    pub flags: RunFlags,
}
