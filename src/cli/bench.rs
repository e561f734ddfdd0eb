//! `eventkit bench`: what this machine and this disk can do, and which share of it the gateway makes use of.
//!
//! ```text
//!   plan (this page) ─▶ process  one server at a time, a process of its own on an empty directory
//!                    ─▶ load     closed or open loop, HTTP or CollectBidi, events made up beforehand
//!                    ─▶ proc, disk, stats ─▶ report
//! ```
//!
//! The servers differ only in what stands behind the doors ([`crate::app::Yardstick`]), and the generator shares the machine with
//! them; so rates are for comparison within one run, and ratios are taken round by round. `docs/benchmarks.md` says how to
//! read the result. Nothing here is ever asserted against a time.

use std::io::{self, Write};
use std::time::Duration;

use tempfile::TempDir;

use crate::config::Environment;
use crate::lifecycle::Stop;

mod args;
mod compare;
mod disk;
pub mod edge;
mod events;
mod latency;
mod load;
#[cfg(feature = "cloud")]
pub mod pipeline;
mod proc;
mod process;
mod report;
mod resources;
mod rounds;
mod stats;
mod sustained;
pub mod telemetry;

pub(super) use args::AFTER_HELP;
use args::Sizes;
pub use args::{BenchArgs, CommonArgs, EngineArg, Other, Row, ServerArgs};
use disk::Disk;
use events::Prepared;
use load::{Shape, Way};
use process::Server;
use report::{Circumstances, Report, Table, Whole};
use sustained::Goal;

/// Exit code: ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// The seed of the events: every run sends the same, under other ids.
const SEED: u64 = 5;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file, a process or `/proc`.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// A server did not start.
    #[error("start the server {server}; it said:\n{output}")]
    NotReady {
        /// Which.
        server: &'static str,
        /// Its last lines.
        output: String,
    },
    /// A server took nothing.
    #[error("measure: no event was accepted: {0}")]
    NothingAccepted(String),
    /// Answers did not come.
    #[error("measure: answers are missing after {0:?}")]
    NoAnswer(Duration),
    /// Nothing was turned away.
    #[error("measure an overload: nothing was turned away within {0:?}: {1}")]
    NotOverloaded(Duration, String),
    /// The rows could not be counted.
    #[error("count the rows of the warehouse")]
    Warehouse(#[source] rusqlite::Error),
    /// An emulator is not where it has to be.
    #[error("find the emulators: {0}")]
    Emulators(String),
    /// An emulator did not do what was asked of it.
    #[error("{0}: {1}")]
    Emulator(&'static str, String),
    /// The output could not be written.
    #[error("write the output")]
    Output(#[source] io::Error),
}

/// One run.
struct Bench<'a> {
    common: &'a CommonArgs,
    sizes: Sizes,
    root: TempDir,
    prepared: std::sync::Arc<Prepared>,
    disk: Disk,
    err: &'a mut dyn Write,
    /// What `accept` takes at most, as far as it is known.
    maxima: Vec<(Way, f64)>,
}

impl Bench<'_> {
    fn pick<T>(&self, given: Option<T>, usual: T, quick: T) -> T {
        given.unwrap_or(if self.common.quick { quick } else { usual })
    }

    fn rounds(&self) -> u32 {
        self.pick(self.common.rounds, 5, 1)
    }

    fn seconds(&self) -> f64 {
        self.pick(self.common.seconds, 5.0, 1.5)
    }

    /// Before anything is measured.
    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64((self.seconds() / 4.0).clamp(0.1, 1.0))
    }

    fn sustain_seconds(&self) -> f64 {
        self.pick(self.sizes.sustain, 120.0, 2.0)
    }

    fn probe_seconds(&self) -> f64 {
        (self.sustain_seconds() / 12.0)
            .clamp(3.0, 10.0)
            .min(self.sustain_seconds())
    }

    fn probes(&self) -> u32 {
        self.pick(None, 5, 3)
    }

    /// Before a lag says anything: some batches' and merges' time.
    fn settling(&self) -> Duration {
        Duration::from_secs_f64((self.sustain_seconds() / 2.0).min(3.0))
    }

    fn backlog(&self) -> u64 {
        self.pick(self.sizes.backlog, 5_000_000, 200_000)
    }

    fn unpublished(&self) -> u64 {
        self.pick(self.sizes.unpublished, 1_000_000, 100_000)
    }

    /// The load of a way in closed loop.
    fn shape(&self, way: Way) -> Shape {
        match way {
            Way::Http => Shape {
                way,
                connections: self.common.connections.into(),
                batch: 1,
                window: 1,
                stream_batches: None,
                rate: None,
            },
            Way::Bidi => Shape {
                way,
                connections: self.common.streams.into(),
                batch: self.common.batch.into(),
                window: self.common.window.into(),
                stream_batches: None,
                rate: None,
            },
        }
    }

    /// Progress; whoever does not read it loses nothing else.
    fn say(&mut self, line: &str) {
        writeln!(self.err, "{line}").unwrap_or_default();
    }

    fn look_at_disk(&mut self) -> Result<(), BenchError> {
        self.disk
            .look(self.root.path())
            .map_err(|error| BenchError::Io("measure the disk", error))
    }

    /// What `accept` takes at most: as measured before, else measured now.
    async fn maximum(&mut self, way: Way) -> Result<f64, BenchError> {
        if let Some((_, rate)) = self.maxima.iter().find(|(known, _)| *known == way) {
            return Ok(*rate);
        }
        let process = process::Process::start(self, Server::Accept, &[]).await?;
        let shape = self.shape(way);
        let rate = rounds::measure(self, &process, shape).await?.rate();
        self.say(&format!(
            "{} maximum of accept: {rate:.0} events/s",
            way.name()
        ));
        self.maxima.push((way, rate));
        Ok(rate)
    }
}

/// Measures and prints the result; returns the exit code.
///
/// # Errors
///
/// [`BenchError`]: nothing is printed then. Processes and files are gone in any case.
pub fn run(
    args: &BenchArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, BenchError> {
    match &args.other {
        None => run_on(
            (&args.common, args.sizes),
            environment,
            (out, err),
            async |bench| measure(bench, args).await,
        ),
        #[cfg(feature = "cloud")]
        Some(Other::Pipeline(args)) => pipeline::run(args, environment, out, err),
        Some(Other::Edge(args)) => edge::run(args, environment, out, err),
        Some(Other::Telemetry(args)) => telemetry::run(args, environment, out, err),
    }
}

/// Measures on a runtime and a directory of its own, and prints what `measure` found.
fn run_on<'a, R, M>(
    (common, sizes): (&'a CommonArgs, Sizes),
    environment: &Environment,
    (out, err): (&mut dyn Write, &'a mut dyn Write),
    measure: M,
) -> Result<u8, BenchError>
where
    R: Table,
    M: AsyncFnOnce(&mut Bench<'a>) -> Result<R, BenchError>,
{
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = common.threads.map_or((processors / 2).max(1), usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| BenchError::Io("start the runtime", error))?;
    let dir = common.dir.clone().unwrap_or_else(std::env::temp_dir);
    let root = TempDir::with_prefix_in("eventkit-bench-", &dir)
        .map_err(|error| BenchError::Io("create a directory for the servers", error))?;
    let mut circumstances = Circumstances::new(common, environment, &dir);
    circumstances.processors = processors;
    circumstances.generator_threads = threads;
    let mut bench = Bench {
        prepared: Prepared::new(SEED),
        disk: Disk::default(),
        maxima: Vec::new(),
        common,
        sizes,
        root,
        err,
    };
    circumstances.event_json_bytes = bench.prepared.json_bytes();
    bench.say(&format!("measuring on {}", circumstances.file_system));
    let measured = runtime.block_on(async {
        let stop =
            Stop::on_signals().map_err(|error| BenchError::Io("listen to signals", error))?;
        tokio::select! {
            // Not cancel safe, and need not be: what it drops takes processes and files with it.
            measured = measure(&mut bench) => measured.map(Some),
            () = stop.requested() => Ok(None),
        }
    });
    circumstances.fdatasync = Some(bench.disk.syncs()).filter(|syncs| syncs.count > 0);
    drop(bench);
    runtime.shutdown_background();
    let Some(rows) = measured? else {
        return Ok(EXIT_INTERRUPTED);
    };
    let whole = Whole {
        circumstances,
        rows,
    };
    if let Some(path) = &common.json {
        serde_json::to_vec_pretty(&whole)
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(path, json))
            .map_err(BenchError::Output)?;
    }
    whole
        .write_text(out)
        .and_then(|()| out.flush())
        .map_err(BenchError::Output)?;
    Ok(super::EXIT_OK)
}

/// Row after row.
async fn measure(bench: &mut Bench<'_>, args: &BenchArgs) -> Result<Report, BenchError> {
    let mut report = Report::default();
    for (row, way) in [(Row::Http, Way::Http), (Row::Bidi, Way::Bidi)] {
        if args.wants(row) {
            let compared = rounds::compare(bench, way, &args.servers()).await?;
            let accept = compared
                .servers
                .iter()
                .find(|figures| figures.server == Server::Accept);
            if let Some(accept) = accept {
                bench.maxima.push((way, accept.events_per_second.median));
            }
            report.compared.push(compared);
        }
    }
    if args.wants(Row::Sustained) {
        for way in [Way::Http, Way::Bidi] {
            let accept = bench.maximum(way).await?;
            for goal in [Goal::Parquet, Goal::Sqlite] {
                let sustained = sustained::search(bench, way, goal, accept).await?;
                report.sustained.push(sustained);
            }
        }
    }
    if args.wants(Row::Latency) {
        for way in [Way::Http, Way::Bidi] {
            let accept = bench.maximum(way).await?;
            let found = latency::answers(bench, way, Server::Accept, accept).await?;
            report.latency.push(found);
            if let Some(rate) = report.sustained_rate(way) {
                let found = latency::answers(bench, way, Server::Full, rate).await?;
                report.latency.push(found);
            }
        }
    }
    if args.wants(Row::Rss) {
        report.resident = Some(resources::resident(bench).await?);
    }
    if args.wants(Row::Open) {
        report.opened = Some(resources::opened(bench).await?);
    }
    Ok(report)
}
