//! `eventkit bench pipeline`: the path over Pub/Sub and Cloud Storage, beside the one inside the process.
//!
//! ```text
//!   accept   serve, async ┐ interleaved rounds ─▶ ratio of the rates
//!            serve, pubsub┘
//!   backlog  gateway fills the topic, nobody pulls ─▶ worker starts, the gateway goes on ─▶ drained? ─▶ loader
//!            raw: messages of the same size, the same client library ─▶ what the emulator gives at most
//!   parquet  rows to bytes, in this process
//! ```
//!
//! Everything speaks to emulators on this machine; nothing here can reach Google. The emulators share the processors with
//! what is measured: that is why the table says how much was used elsewhere. Targets stand beside the figures and are
//! never asserted.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::args::{CommonArgs, Sizes, seconds};
use super::load::Way;
use super::{Bench, BenchError, run_on};
use crate::config::Environment;

mod accept;
mod backlog;
mod emulators;
mod encoding;
mod loader;
mod raw;
mod report;
mod samples;

use emulators::Emulators;
use report::PipelineReport;

/// Examples, below the options.
pub(super) const AFTER_HELP: &str = "\
What is measured:
  accept   single events over HTTP and batches over CollectBidi, closed loop, the pipeline running: the queue
           in the process, and over Pub/Sub
  backlog  a topic filled at a share of that rate while no worker runs; then one starts and the filling goes on.
           Beside it what the emulator gives at most, and the memory of gateway, worker and loader
  parquet  events to Parquet, nothing else

It needs the emulators of Pub/Sub and Cloud Storage, on this machine (for the loader's memory BigQuery's, too):
  scripts/emulators up
  eval \"$(scripts/emulators env)\"

Examples:
  eventkit bench pipeline                      everything, about 15 minutes
  eventkit bench pipeline --quick              everything, briefly
  eventkit bench pipeline accept --rounds 11 --json pipeline.json
  eventkit bench pipeline backlog --minutes 1 --way bidi

The emulator of Pub/Sub keeps messages in memory: EMULATOR_PUBSUB_HEAP=4g scripts/emulators up";

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PipelineRow {
    /// The rate of accepted events over either queue
    Accept,
    /// How fast a backlog goes, and in how much memory
    Backlog,
    /// Encoding alone
    Parquet,
}

/// What `bench pipeline` can be told.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// What to measure [default: everything]
    #[arg(value_name = "ROW", value_enum)]
    pub rows: Vec<PipelineRow>,
    /// For how long the backlog is filled [default: 5, quick: 0.2]
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub minutes: Option<f64>,
    /// At which share of the accepted rate it is filled
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = share)]
    pub share: f64,
    /// How it is filled
    #[arg(long, value_enum, default_value = "http")]
    pub(super) way: Way,
    /// How often it is filled and drained
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub backlogs: u32,
    /// How long the loader may take for what was stored [default: 120, quick: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub load: Option<f64>,
    /// Load, place and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.01..=1_440.0).contains(&minutes) => Ok(minutes),
        _ => Err("a number of minutes from 0.01 to 1440".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.01..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0.01 to 1".into()),
    }
}

impl PipelineArgs {
    fn wants(&self, row: PipelineRow) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    fn fill_seconds(&self) -> f64 {
        let quick = if self.common.quick { 0.2 } else { 5.0 };
        self.minutes.unwrap_or(quick) * 60.0
    }

    fn load_seconds(&self) -> f64 {
        let quick = if self.common.quick { 10.0 } else { 120.0 };
        self.load.unwrap_or(quick)
    }
}

/// Measures and prints the result; returns the exit code.
///
/// # Errors
///
/// [`BenchError`].
pub(super) fn run(
    args: &PipelineArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, BenchError> {
    let over_cloud = args.wants(PipelineRow::Accept) || args.wants(PipelineRow::Backlog);
    let emulators = match over_cloud {
        true => Some(Emulators::find(environment)?),
        false => None,
    };
    let of = (&args.common, Sizes::default());
    run_on(of, environment, (out, err), async |bench| {
        measure(bench, args, emulators.as_ref()).await
    })
}

/// Row after row.
async fn measure(
    bench: &mut Bench<'_>,
    args: &PipelineArgs,
    emulators: Option<&Emulators>,
) -> Result<PipelineReport, BenchError> {
    let mut report = PipelineReport::default();
    if args.wants(PipelineRow::Parquet) {
        report.parquet = encoding::measure(bench).await?;
    }
    let Some(emulators) = emulators else {
        return Ok(report);
    };
    if args.wants(PipelineRow::Accept) {
        for way in [Way::Http, Way::Bidi] {
            let compared = accept::compare(bench, emulators, way).await?;
            report.accept.push(compared);
        }
    }
    if args.wants(PipelineRow::Backlog) {
        let maximum = match report.accepted_over_pubsub(args.way) {
            Some(rate) => rate,
            None => accept::maximum(bench, emulators, args.way).await?,
        };
        let backlog = backlog::measure(bench, emulators, args, maximum).await?;
        report.backlog = Some(backlog);
    }
    Ok(report)
}
