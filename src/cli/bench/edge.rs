//! `eventkit bench edge`: what keys, limits, TLS and packed bodies cost, and how the edge stands a crowd and a flood.
//!
//! ```text
//!   http, bidi   open · guarded · tls · gzip    one server each, interleaved rounds, in turn (compare)
//!   idle         active connections alone, and beside thousands that say nothing
//!   overload     a log on a disk that keeps up with 5,000 events/s, offered three times what it takes
//! ```
//!
//! The first two rows have one client, which names a page's origin on every server, so that servers differ in one thing only. What
//! this machine does not allow is said instead of a figure.

use std::io::{self, Write};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{CommonArgs, Sizes, seconds};
use super::compare::{self, Compared, Measured, Tally, Variant, counted, write_ways};
use super::load::Way;
use super::report::Table;
use super::{Bench, BenchError, run_on};
use crate::config::Environment;

mod descriptors;
mod idle;
mod overload;
mod premises;
mod probe;

use idle::Idle;
use overload::Overload;
use premises::Premises;

/// Examples, below the options.
pub(super) const AFTER_HELP: &str = "\
What is measured:
  http, bidi  what the edge costs, in interleaved rounds; the gateway to Parquet under single events over HTTP and batches
              over CollectBidi (a new stream every 16 of them), closed loop; then it is waited until everything is
              settled, and the CPU time of all that is divided by the events
  idle        the answer's p99 of 100 connections at a moderate rate, beside 10,000 that have asked once and say nothing,
              over the same without them; and the memory that each of those takes
  overload    a log whose disk keeps up with about 5,000 events/s is offered three times what it takes: how much is
              accepted, how soon the rest is turned away, and whether memory grows

The servers of http and bidi:
  open        no keys, no limits
  guarded     a key with each request, held to streams and origins; rates per key and per address, too high to
              refuse anything; a limit on the connections of an address
  tls         no keys, over TLS
  gzip        no keys, bodies and messages packed

Examples:
  eventkit bench edge                                11 rounds, about 20 minutes
  eventkit bench edge --quick                        one round: whether it works
  eventkit bench edge http --only open,guarded --rounds 31 --json edge.json
  eventkit bench edge idle --idle 15000 --rounds 9
  eventkit bench edge overload --overload 120

idle and overload need some 10,000 open files in each of two processes; the limit is raised where that is allowed.
EVENTKIT_ variables apply to the servers, but for those of keys, limits and certificates.";

/// How a server is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// Not at all
    Open,
    /// With keys and limits
    Guarded,
    /// With certificates
    Tls,
    /// Not at all, under packed bodies
    Gzip,
}

impl Variant for Edge {
    type Tally = Admitted;

    fn baseline(self) -> Self {
        Self::Open
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Guarded => "guarded",
            Self::Tls => "tls",
            Self::Gzip => "gzip",
        }
    }

    fn target(self) -> Option<f64> {
        match self {
            Self::Guarded => Some(1.05),
            Self::Open | Self::Tls | Self::Gzip => None,
        }
    }

    fn doubt(self, admitted: &Admitted) -> Option<&'static str> {
        if admitted.keys == 0 {
            return Some("no key was in force");
        }
        (admitted.refused > 0).then_some("requests were refused")
    }
}

/// What the server says about who came in.
#[derive(Debug, Default, Serialize)]
pub(super) struct Admitted {
    /// Keys in force.
    keys: u64,
    /// Requests and connections that were refused, for whatever reason.
    refused: u64,
}

impl Tally for Admitted {
    const HEADS: &'static [&'static str] = &["refused"];

    fn add(&mut self, round: &Self) {
        self.keys = self.keys.max(round.keys);
        self.refused += round.refused;
    }

    fn shown(&self) -> Vec<u64> {
        vec![self.refused]
    }
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EdgeRow {
    /// What the edge costs single events over HTTP
    Http,
    /// What it costs batches over CollectBidi
    Bidi,
    /// Beside many idle connections
    Idle,
    /// Beyond what the log takes
    Overload,
}

/// What `bench edge` can be told.
#[derive(Debug, Args)]
pub struct EdgeArgs {
    /// What to measure [default: everything]
    #[arg(value_name = "ROW", value_enum)]
    rows: Vec<EdgeRow>,
    /// Only these servers in http and bidi
    #[arg(long, value_name = "SERVER", value_enum, value_delimiter = ',',
        default_values = ["open", "guarded", "tls", "gzip"])]
    only: Vec<Edge>,
    /// Idle connections in idle [default: 10000, quick: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(10..=25_000))]
    idle: Option<u16>,
    /// How long overload lasts [default: 30, quick: 3]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    overload: Option<f64>,
    /// Load, place and output.
    #[command(flatten)]
    common: CommonArgs,
}

impl EdgeArgs {
    fn wants(&self, row: EdgeRow) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct EdgeReport {
    ways: Vec<Compared<Edge, Admitted>>,
    idle: Option<Idle>,
    overload: Option<Overload>,
    /// What was to be measured and could not be, and why.
    not_measured: Vec<String>,
}

impl Table for EdgeReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        write_ways("edge", &self.ways, out)?;
        if let Some(idle) = &self.idle {
            idle.write_text(out)?;
        }
        if let Some(overload) = &self.overload {
            overload.write_text(out)?;
        }
        for what in &self.not_measured {
            writeln!(out, "\nNOT MEASURED: {what}")?;
        }
        Ok(())
    }
}

/// Measures and prints the result; returns the exit code.
///
/// # Errors
///
/// [`BenchError`].
pub(super) fn run(
    args: &EdgeArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, BenchError> {
    let of = (&args.common, Sizes::default());
    run_on(of, environment, (out, err), async |bench| {
        measure(bench, args).await
    })
}

async fn measure(bench: &mut Bench<'_>, args: &EdgeArgs) -> Result<EdgeReport, BenchError> {
    let mut report = EdgeReport::default();
    let premises = Premises::make(bench.root.path())
        .map_err(|error| BenchError::Io("make keys and certificates", error))?;
    for (row, way) in [(EdgeRow::Http, Way::Http), (EdgeRow::Bidi, Way::Bidi)] {
        if args.wants(row) {
            let one = async |bench: &mut Bench<'_>, what| one(bench, what, way, &premises).await;
            let compared = compare::compare(bench, &args.only, way, one).await?;
            report.ways.push(compared);
        }
    }
    if args.wants(EdgeRow::Idle) {
        match descriptors::allow(idle::descriptors(bench, args)) {
            Ok(()) => report.idle = Some(idle::beside(bench, args).await?),
            Err(why) => report.miss(bench, format!("idle: {why}")),
        }
    }
    if args.wants(EdgeRow::Overload) {
        match descriptors::allow(overload::descriptors(bench)) {
            Ok(()) => report.overload = Some(overload::beyond(bench, args).await?),
            Err(why) => report.miss(bench, format!("overload: {why}")),
        }
    }
    Ok(report)
}

impl EdgeReport {
    fn miss(&mut self, bench: &mut Bench<'_>, what: String) {
        bench.say(&format!("not measured: {what}"));
        self.not_measured.push(what);
    }
}

async fn one(
    bench: &mut Bench<'_>,
    what: Edge,
    way: Way,
    premises: &Premises,
) -> Result<Measured<Admitted>, BenchError> {
    let client = Arc::new(premises.client(what));
    let (loaded, process) = compare::load(bench, premises.setup(what), way, &client).await?;
    let tally = Admitted {
        keys: counted(&process, "eventkit_ingress_keys").await?,
        refused: counted(&process, "eventkit_ingress_requests_refused_total").await?
            + counted(&process, "eventkit_ingress_requests_shed_total").await?
            + counted(&process, "eventkit_ingress_connections_refused_total").await?,
    };
    Ok(Measured { loaded, tally })
}
