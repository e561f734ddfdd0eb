//! The table of `bench pipeline`. Targets stand beside what was measured.

use std::io::{self, Write};

use serde::Serialize;

use super::accept::Accepted;
use super::backlog::{Backlog, Round};
use super::emulators::Queue;
use super::encoding::Encoded;
use crate::cli::bench::load::Way;
use crate::cli::bench::report::{Table, spread};

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct PipelineReport {
    pub(super) accept: Vec<Accepted>,
    pub(super) backlog: Option<Backlog>,
    pub(super) parquet: Vec<Encoded>,
}

impl PipelineReport {
    pub(super) fn accepted_over_pubsub(&self, way: Way) -> Option<f64> {
        let accepted = self.accept.iter().find(|accepted| accepted.way == way)?;
        let mut queues = accepted.queues.iter();
        let over = queues.find(|figures| figures.server == Queue::Pubsub)?;
        Some(over.events_per_second.median)
    }
}

impl Table for PipelineReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for accepted in &self.accept {
            write_accepted(accepted, out)?;
        }
        if let Some(backlog) = &self.backlog {
            write_backlog(backlog, out)?;
        }
        if !self.parquet.is_empty() {
            write_parquet(&self.parquet, out)?;
        }
        Ok(())
    }
}

fn write_accepted(accepted: &Accepted, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\naccepted, pipeline to Cloud Storage running: {}, {} connections, {} events per request, closed loop; medians (min to max)\n\
         {:<8} {:>28} {:>22} {:>30} {:>14} {:>14}",
        accepted.way.name(),
        accepted.connections,
        accepted.events_per_request,
        "queue",
        "events/s",
        "CPU s per million",
        "processors: it + load + others",
        "answer p50 ms",
        "answer p99 ms"
    )?;
    for figures in &accepted.queues {
        writeln!(
            out,
            "{:<8} {:>28} {:>22} {:>30} {:>14.2} {:>14.2}{}",
            figures.server.name(),
            spread(&figures.events_per_second, 0),
            spread(&figures.server_cpu_seconds_per_million, 2),
            format!(
                "{:.2} + {:.2} + {:.2}",
                figures.server_processors.median,
                figures.generator_processors.median,
                figures.elsewhere_processors.median
            ),
            figures.answer_p50_ms.median,
            figures.answer_p99_ms.median,
            match figures.failed {
                0 => String::new(),
                failed => format!("  {failed} events failed"),
            }
        )?;
    }
    writeln!(
        out,
        "{:<16} {:>20}   target: at least {}\n\
         by processor     {:>20}   the same of what the emulators left to server and load",
        "pubsub / async",
        spread(&accepted.pubsub_over_async, 2),
        accepted.target,
        spread(&accepted.pubsub_over_async_per_processor, 2)
    )
}

fn write_backlog(backlog: &Backlog, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\na backlog, filled over {} at {:.0} events/s ({:.0} % of {:.0}) for {:.0} s without a worker, then drained while the filling goes on",
        backlog.way.name(),
        backlog.fill_events_per_second,
        backlog.share * 100.0,
        backlog.maximum_events_per_second,
        backlog.fill_seconds
    )?;
    let target = format!(
        "   target: at least {}, or the emulator's own",
        backlog.target_times
    );
    let times = [
        (
            "stored / filled",
            &backlog.stored_over_fill,
            target.as_str(),
        ),
        ("shrunk / filled", &backlog.shrunk_over_fill, ""),
        (
            "the emulator's own / filled",
            &backlog.ceiling_over_fill,
            "",
        ),
        (
            "stored / the emulator's own",
            &backlog.stored_over_ceiling,
            "",
        ),
    ];
    for (name, ratio, target) in times {
        writeln!(out, "  {name:<28} {:>20}{target}", spread(ratio, 2))?;
    }
    for (round, number) in backlog.rounds.iter().zip(1..) {
        write_round(round, number, out)?;
    }
    write_resident(backlog, out)
}

fn write_round(round: &Round, number: u32, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "  round {number}: {} events in {:.0} messages of {:.0} events, {} bytes; {} {:.0} s, {:.0} events/s stored meanwhile; the rest {}",
        round.filled_events,
        round.messages,
        round.events_per_message,
        round.message_bytes,
        if round.gone {
            format!("{:.0} % left after", round.left_share * 100.0)
        } else {
            format!(
                "still more than {:.0} % left after",
                round.left_share * 100.0
            )
        },
        round.gone_seconds,
        round.stored_events_per_second,
        match round.rest_seconds {
            Some(seconds) => format!("in {seconds:.0} s"),
            None => "never".to_owned(),
        }
    )?;
    writeln!(
        out,
        "           accepted {}, stored {:.0} (copies included), failed {}; raw messages of that size: {:.0}/s published, {:.0}/s pulled",
        round.accepted,
        round.stored,
        round.not_accepted,
        round.ceiling.published,
        round.ceiling.pulled
    )
}

fn write_resident(backlog: &Backlog, out: &mut dyn Write) -> io::Result<()> {
    let peak = |of: fn(&Round) -> Option<u64>| backlog.rounds.iter().filter_map(of).max();
    let peaks = [
        ("gateway", peak(|round| Some(round.gateway_peak_bytes))),
        ("worker", peak(|round| Some(round.worker_peak_bytes))),
        (
            "loader",
            peak(|round| Some(round.loader.as_ref()?.peak_bytes)),
        ),
    ];
    for (role, peak) in peaks {
        let peak = peak.map_or_else(
            || "not measured: no BIGQUERY_EMULATOR_HOST".to_owned(),
            |peak| format!("{} MiB", peak >> 20),
        );
        writeln!(
            out,
            "  peak resident memory of the {role:<8} {peak:>10}   target: at most {} MiB",
            backlog.target_resident_bytes >> 20
        )?;
    }
    let loaded = backlog
        .rounds
        .iter()
        .filter_map(|round| round.loader.as_ref());
    for loaded in loaded {
        writeln!(
            out,
            "  the loader merged {:.0} of {} rows in {:.0} s",
            loaded.rows, loaded.of_rows, loaded.seconds
        )?;
    }
    Ok(())
}

fn write_parquet(encoded: &[Encoded], out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\nParquet encoding alone, one thread\n{:<14} {:>32} {:>28} {:>16} {:>16}",
        "rows per file", "events/s of a core", "events/s", "bytes per event", "as JSON"
    )?;
    for size in encoded {
        writeln!(
            out,
            "{:<14} {:>32} {:>28} {:>16.1} {:>16}",
            size.rows_per_file,
            spread(&size.events_per_core_second, 0),
            spread(&size.events_per_second, 0),
            size.bytes_per_event,
            size.json_bytes_per_event
        )?;
    }
    Ok(())
}
