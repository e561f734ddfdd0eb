//! The table of `bench telemetry`. Targets stand beside what was measured.

use std::io::{self, Write};

use serde::Serialize;

use super::{Measured, Telemetry};
use crate::cli::bench::load::Way;
use crate::cli::bench::report::{Table, spread};
use crate::cli::bench::stats::{CONFIDENCE, Interval, Spread};

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct TelemetryReport {
    pub(super) ways: Vec<Compared>,
}

/// All of it on one way in.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) way: Way,
    pub(super) connections: usize,
    pub(super) events_per_request: usize,
    pub(super) rows: Vec<Row>,
}

/// One of it over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) telemetry: Telemetry,
    pub(super) events_per_second: Spread,
    pub(super) answer_p99_ms: Spread,
    pub(super) server_cpu_seconds_per_million: Interval,
    /// Against *off*, round by round.
    pub(super) cpu_over_off: Option<Interval>,
    pub(super) cpu_target: Option<f64>,
    pub(super) rate_over_off: Option<Interval>,
    pub(super) p99_over_off: Option<Interval>,
    pub(super) peak_bytes: u64,
    pub(super) failed: u64,
    pub(super) exports_received: u64,
    pub(super) spans_received: u64,
}

impl Row {
    pub(super) fn of(
        telemetry: Telemetry,
        rounds: &[Measured],
        off: Option<&[Measured]>,
    ) -> Option<Self> {
        let values = |of: fn(&Measured) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
        let over = |of: fn(&Measured) -> f64| {
            let off = off.filter(|_| telemetry != Telemetry::Off)?;
            let pairs = rounds.iter().zip(off);
            Interval::of(pairs.map(|(round, off)| of(round) / of(off)).collect())
        };
        Some(Self {
            telemetry,
            events_per_second: Spread::of(values(|at| at.events_per_second))?,
            answer_p99_ms: Spread::of(values(|at| at.latency.p99_ms))?,
            server_cpu_seconds_per_million: Interval::of(values(|at| at.cpu_per_million))?,
            cpu_over_off: over(|at| at.cpu_per_million),
            cpu_target: telemetry.target(),
            rate_over_off: over(|at| at.events_per_second),
            p99_over_off: over(|at| at.latency.p99_ms),
            peak_bytes: rounds.iter().map(|at| at.resident_peak).max()?,
            failed: rounds.iter().map(|at| at.failed).sum(),
            exports_received: rounds.iter().map(|at| at.requests).sum(),
            spans_received: rounds.iter().map(|at| at.spans).sum(),
        })
    }
}

impl Table for TelemetryReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for compared in &self.ways {
            write_compared(compared, out)?;
        }
        writeln!(
            out,
            "\nRatios are taken round by round; in brackets the {:.0} % interval of their median (percentile bootstrap over the rounds).",
            CONFIDENCE * 100.0
        )
    }
}

fn write_compared(compared: &Compared, out: &mut dyn Write) -> io::Result<()> {
    let rounds = compared
        .rows
        .first()
        .map_or(0, |row| row.events_per_second.values.len());
    writeln!(
        out,
        "\ntelemetry: {}, {} connections, {} events per request, closed loop, then until settled; {rounds} rounds\n\
         {:<9} {:>28} {:>24} {:>24} {:>24} {:>24} {:>8} {:>10}",
        compared.way.name(),
        compared.connections,
        compared.events_per_request,
        "telemetry",
        "events/s (min to max)",
        "CPU s per million",
        "/ off",
        "rate / off",
        "p99 / off",
        "RSS MiB",
        "spans"
    )?;
    for row in &compared.rows {
        let ratio = |of: &Option<Interval>| of.as_ref().map_or_else(String::new, interval);
        writeln!(
            out,
            "{:<9} {:>28} {:>24} {:>24} {:>24} {:>24} {:>8} {:>10}{}{}",
            row.telemetry.name(),
            spread(&row.events_per_second, 0),
            interval(&row.server_cpu_seconds_per_million),
            ratio(&row.cpu_over_off),
            ratio(&row.rate_over_off),
            ratio(&row.p99_over_off),
            row.peak_bytes >> 20,
            row.spans_received,
            match row.cpu_target {
                // Else what exports nothing would be within its target.
                Some(_) if row.spans_received == 0 => "   NOT MEASURED: no span came".to_owned(),
                Some(target) => format!("   target: CPU / off at most {target}"),
                None => String::new(),
            },
            match row.failed {
                0 => String::new(),
                failed => format!("   {failed} events failed"),
            }
        )?;
    }
    Ok(())
}

/// `median [low to high]`; a single value stands alone.
fn interval(interval: &Interval) -> String {
    let Interval {
        median,
        low,
        high,
        values,
    } = interval;
    if values.len() < 2 {
        return format!("{median:.3}");
    }
    format!("{median:.3} [{low:.3} to {high:.3}]")
}
