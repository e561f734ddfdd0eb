//! The table of servers that are compared. Targets stand beside what was measured.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::{Loaded, Measured, Tally, Variant};
use crate::cli::bench::load::Way;
use crate::cli::bench::report::{interval, spread};
use crate::cli::bench::stats::{CONFIDENCE, Interval, Spread};

/// All of them on one way in.
#[derive(Debug, Serialize)]
pub(in crate::cli::bench) struct Compared<V, T> {
    pub(super) way: Way,
    pub(super) connections: usize,
    pub(super) events_per_request: usize,
    pub(super) rows: Vec<Row<V, T>>,
}

/// One of them over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Row<V, T> {
    server: V,
    events_per_second: Spread,
    answer_p99_ms: Spread,
    server_cpu_seconds_per_million: Interval,
    baseline: Option<V>,
    /// Against the baseline, round by round.
    cpu_over_baseline: Option<Interval>,
    cpu_target: Option<f64>,
    rate_over_baseline: Option<Interval>,
    p99_over_baseline: Option<Interval>,
    peak_bytes: u64,
    peak_over_baseline: Option<Interval>,
    failed: u64,
    #[serde(flatten)]
    tally: T,
}

impl<V: Variant> Row<V, V::Tally> {
    pub(super) fn of(
        server: V,
        rounds: &[Measured<V::Tally>],
        baseline: Option<&[Measured<V::Tally>]>,
    ) -> Option<Self> {
        let baseline = baseline.filter(|_| server != server.baseline());
        let loaded = || rounds.iter().map(|round| &round.loaded);
        let values = |of: fn(&Loaded) -> f64| loaded().map(of).collect::<Vec<_>>();
        let over = |of: fn(&Loaded) -> f64| {
            let pairs = loaded().zip(baseline?);
            Interval::of(pairs.map(|(at, base)| of(at) / of(&base.loaded)).collect())
        };
        let mut tally = V::Tally::default();
        rounds.iter().for_each(|round| tally.add(&round.tally));
        Some(Self {
            server,
            baseline: baseline.map(|_| server.baseline()),
            events_per_second: Spread::of(values(|at| at.events_per_second))?,
            answer_p99_ms: Spread::of(values(|at| at.latency.p99_ms))?,
            server_cpu_seconds_per_million: Interval::of(values(|at| at.cpu_per_million))?,
            cpu_over_baseline: over(|at| at.cpu_per_million),
            cpu_target: server.target(),
            rate_over_baseline: over(|at| at.events_per_second),
            p99_over_baseline: over(|at| at.latency.p99_ms),
            peak_bytes: loaded().map(|at| at.resident_peak).max()?,
            peak_over_baseline: over(|at| at.resident_peak as f64),
            failed: loaded().map(|at| at.failed).sum(),
            tally,
        })
    }
}

/// The tables of all ways in.
pub(in crate::cli::bench) fn write_ways<V: Variant>(
    subject: &str,
    ways: &[Compared<V, V::Tally>],
    out: &mut dyn Write,
) -> io::Result<()> {
    for compared in ways {
        write_compared(subject, compared, out)?;
    }
    if ways.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nRatios are taken round by round; in brackets the {:.0} % interval of their median (percentile bootstrap over the rounds).",
        CONFIDENCE * 100.0
    )
}

fn write_compared<V: Variant>(
    subject: &str,
    compared: &Compared<V, V::Tally>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rounds = compared.rows.first();
    let rounds = rounds.map_or(0, |row| row.events_per_second.values.len());
    writeln!(
        out,
        "\n{subject}: {}, {} connections, {} events per request, closed loop, then until settled; {rounds} rounds\n\
         {:<10} {:>28} {:>24} {:>8} {:>24} {:>24} {:>24} {:>8} {:>24}{}",
        compared.way.name(),
        compared.connections,
        compared.events_per_request,
        subject,
        "events/s (min to max)",
        "CPU s per million",
        "against",
        "CPU ratio",
        "rate ratio",
        "p99 ratio",
        "RSS MiB",
        "RSS ratio",
        columns(V::Tally::HEADS)
    )?;
    for row in &compared.rows {
        let ratio = |of: &Option<Interval>| of.as_ref().map_or_else(String::new, interval);
        writeln!(
            out,
            "{:<10} {:>28} {:>24} {:>8} {:>24} {:>24} {:>24} {:>8} {:>24}{}{}{}",
            row.server.name(),
            spread(&row.events_per_second, 0),
            interval(&row.server_cpu_seconds_per_million),
            row.baseline.map_or("", V::name),
            ratio(&row.cpu_over_baseline),
            ratio(&row.rate_over_baseline),
            ratio(&row.p99_over_baseline),
            row.peak_bytes >> 20,
            ratio(&row.peak_over_baseline),
            columns(&row.tally.shown()),
            match (row.cpu_target, row.server.doubt(&row.tally)) {
                (None, _) => String::new(),
                (Some(_), Some(doubt)) => format!("   NOT MEASURED: {doubt}"),
                (Some(target), None) => format!("   target: CPU ratio at most {target}"),
            },
            match row.failed {
                0 => String::new(),
                failed => format!("   {failed} events failed"),
            }
        )?;
    }
    Ok(())
}

/// What was counted beside, a column each.
fn columns(cells: &[impl Display]) -> String {
    cells.iter().map(|cell| format!(" {cell:>10}")).collect()
}
