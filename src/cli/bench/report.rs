//! The result, as a table for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::CommonArgs;
use super::disk::{Syncs, file_system};
use super::latency::Answers;
use super::load::Way;
use super::resources::{Opened, Resident};
use super::rounds::Compared;
use super::stats::{Interval, Spread};
use super::sustained::{Goal, Sustained};
use crate::config::Environment;

/// Under which circumstances something was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Circumstances {
    pub(super) version: &'static str,
    pub(super) engine: &'static str,
    pub(super) processors: usize,
    pub(super) generator_threads: usize,
    pub(super) file_system: String,
    pub(super) server_log_level: String,
    /// The servers' settings that the environment gave.
    pub(super) settings: BTreeMap<String, String>,
    pub(super) event_json_bytes: usize,
    pub(super) fdatasync: Option<Syncs>,
}

/// What a bench found, as a table for people; as JSON by its fields.
pub(super) trait Table: Serialize {
    /// The table.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// A bench's whole result.
#[derive(Debug, Serialize)]
pub(super) struct Whole<R> {
    #[serde(flatten)]
    pub(super) circumstances: Circumstances,
    #[serde(flatten)]
    pub(super) rows: R,
}

impl<R: Table> Whole<R> {
    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.circumstances.write_text(out)?;
        self.rows.write_text(out)
    }
}

/// Everything that `eventkit bench` itself measures.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) compared: Vec<Compared>,
    pub(super) sustained: Vec<Sustained>,
    pub(super) latency: Vec<Answers>,
    pub(super) resident: Option<Resident>,
    pub(super) opened: Option<Opened>,
}

impl Circumstances {
    pub(super) fn new(args: &CommonArgs, environment: &Environment, dir: &Path) -> Self {
        let settings = environment.vars.iter();
        let settings = settings.filter(|(name, _)| name.starts_with("EVENTKIT_"));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            engine: args.engine.name(),
            file_system: file_system(dir),
            server_log_level: args.log_level.clone(),
            settings: settings.map(|(k, v)| (k.clone(), v.clone())).collect(),
            ..Self::default()
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "eventkit {} bench: log on {}, {} processors shared with the generator ({} threads), {}",
            self.version, self.engine, self.processors, self.generator_threads, self.file_system
        )?;
        writeln!(
            out,
            "events of {} bytes on average as JSON; servers at log level {}",
            self.event_json_bytes, self.server_log_level
        )?;
        for (name, value) in &self.settings {
            writeln!(out, "{name}={value}")?;
        }
        if let Some(syncs) = &self.fdatasync {
            writeln!(
                out,
                "the disk's own fdatasync of 4 KiB, between the rounds: p50 {:.2} ms, p90 {:.2} ms, max {:.2} ms",
                syncs.p50_ms, syncs.p90_ms, syncs.max_ms
            )?;
        }
        Ok(())
    }
}

impl Table for Report {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for compared in &self.compared {
            write_compared(compared, out)?;
        }
        if !self.sustained.is_empty() {
            self.write_sustained(out)?;
        }
        if !self.latency.is_empty() {
            self.write_latency(out)?;
        }
        if let Some(resident) = &self.resident {
            write_resident(resident, out)?;
        }
        if let Some(opened) = &self.opened {
            writeln!(
                out,
                "\nstart on {} unpublished events, to the first accepted request\n  {} s",
                opened.unpublished_events,
                spread(&opened.seconds, 2)
            )?;
        }
        Ok(())
    }
}

impl Report {
    /// The rate to the SQLite row that was kept up.
    pub(super) fn sustained_rate(&self, way: Way) -> Option<f64> {
        let found = self
            .sustained
            .iter()
            .find(|found| found.way == way && found.goal == Goal::Sqlite);
        found
            .map(|found| found.events_per_second)
            .filter(|rate| *rate > 0.0)
    }

    fn write_sustained(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nkept up: the highest open-loop rate at which the lag does not grow\n\
             {:<6} {:<8} {:>10} {:>12} {:>8} {:>12} {:>12} {:>10} {:>10}",
            "way",
            "to",
            "events/s",
            "/ accept",
            "for",
            "lag median",
            "lag max",
            "CPU s/M",
            "RSS MiB"
        )?;
        for found in &self.sustained {
            writeln!(
                out,
                "{:<6} {:<8} {:>10.0} {:>12.2} {:>6.0} s {:>12.0} {:>12.0} {:>10.1} {:>10}",
                found.way.name(),
                found.goal.name(),
                found.events_per_second,
                found.of_accept,
                found.seconds,
                found.lag_median,
                found.lag_max,
                found.server_cpu_seconds_per_million,
                found.resident_bytes >> 20
            )?;
        }
        Ok(())
    }

    fn write_latency(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nanswers at 70 % of the maximum, open loop, from the appointed time\n\
             {:<6} {:<8} {:>10} {:>12} {:>10} {:>10} {:>10}",
            "way", "server", "maximum", "events/s", "p50 ms", "p99 ms", "max ms"
        )?;
        for found in &self.latency {
            writeln!(
                out,
                "{:<6} {:<8} {:>10.0} {:>12.0} {:>10.2} {:>10.2} {:>10.2}",
                found.way.name(),
                found.server.name(),
                found.maximum,
                found.events_per_second,
                found.latency.p50_ms,
                found.latency.p99_ms,
                found.latency.max_ms
            )?;
        }
        Ok(())
    }
}

fn write_compared(compared: &Compared, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n{}: {} connections, {} events per request, {} requests under way, closed loop; medians (min to max)\n\
         {:<8} {:>28} {:>22} {:>12} {:>12} {:>14} {:>14}",
        compared.way.name(),
        compared.connections,
        compared.events_per_request,
        compared.requests_under_way,
        "server",
        "events/s",
        "CPU s per million",
        "generator's",
        "processors",
        "answer p50 ms",
        "answer p99 ms"
    )?;
    for figures in &compared.servers {
        writeln!(
            out,
            "{:<8} {:>28} {:>22} {:>12} {:>12} {:>14} {:>14}{}",
            figures.server.name(),
            spread(&figures.events_per_second, 0),
            spread(&figures.server_cpu_seconds_per_million, 2),
            format!("{:.2}", figures.generator_cpu_seconds_per_million.median),
            format!(
                "{:.2} + {:.2}",
                figures.server_processors.median, figures.generator_processors.median
            ),
            format!("{:.2}", figures.answer_p50_ms.median),
            format!("{:.2}", figures.answer_p99_ms.median),
            match figures.failed {
                0 => String::new(),
                failed => format!("  {failed} events failed"),
            }
        )?;
    }
    for ratio in &compared.ratios {
        let name = format!("{} / {}", ratio.over.name(), ratio.under.name());
        writeln!(out, "{name:<16} {:>20}", spread(&ratio.spread, 2))?;
    }
    Ok(())
}

fn write_resident(found: &Resident, out: &mut dyn Write) -> io::Result<()> {
    let mib = |bytes: u64| bytes >> 20;
    writeln!(out, "\nresident memory in MiB (peak)")?;
    writeln!(
        out,
        "  idle                                {}",
        mib(found.idle)
    )?;
    writeln!(
        out,
        "  full load, closed loop              {} ({}) after {} events",
        mib(found.full_load),
        mib(found.full_load_peak),
        found.full_load_events
    )?;
    writeln!(
        out,
        "  {:>9} unpublished events        {} ({})",
        found.backlog_events,
        mib(found.backlog),
        mib(found.backlog_peak)
    )?;
    writeln!(
        out,
        "  the same after a restart            {} ({})",
        mib(found.reopened),
        mib(found.reopened_peak)
    )
}

/// `median (min to max)`; a single value stands alone.
pub(super) fn spread(spread: &Spread, digits: usize) -> String {
    let Spread {
        median, min, max, ..
    } = spread;
    if spread.values.len() < 2 {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
}

/// `median [low to high]`; a single value stands alone.
pub(super) fn interval(interval: &Interval) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_its_median_and_its_ends() {
        let shown = |values: &[f64]| spread(&Spread::of(values.to_vec()).unwrap(), 1);
        assert_eq!(shown(&[2.0]), "2.0");
        assert_eq!(shown(&[2.0, 1.0, 4.25]), "2.0 (1.0 to 4.2)");
    }
}
