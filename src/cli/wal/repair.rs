//! `eventkit wal repair`: a fresh log from what can be read of a damaged one; the old files are set aside.

use std::io::{self, IsTerminal as _, Write};

use super::WalError;
use crate::cli::progress::Progress;
use crate::cli::{EXIT_FAILED, EXIT_OK, RepairArgs, inputs};
use crate::clock::SystemClock;
use crate::config::{self, Environment, Profile};
use crate::wal::advice::quoted;
use crate::wal::repair::{Outcome, Report, Request, repair};

/// Runs the repair; the answer is the exit code.
///
/// # Errors
///
/// [`WalError`].
pub(super) fn run(
    args: RepairArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, WalError> {
    let RepairArgs {
        path,
        json,
        dry_run,
        accept_loss,
        new_id,
        flags,
    } = args;
    let settings = config::log_config(&inputs(Profile::Serve, flags, environment))?;
    let request = Request {
        path: path.unwrap_or(settings.path),
        engine: settings.engine,
        lanes: settings.lanes,
        dry_run,
        accept_loss,
        new_id,
    };
    let bar = Progress::new(None, io::stderr().is_terminal());
    let repaired = repair(&request, &SystemClock, &mut |records| {
        bar.show(records, "saved".into());
    });
    bar.finish();
    let report = repaired?;
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        show(&report, out)?;
    }
    Ok(if report.is_whole() {
        EXIT_OK
    } else {
        EXIT_FAILED
    })
}

fn show(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "log            {} ({})",
        report.path.display(),
        report.engine
    )?;
    match report.outcome {
        Outcome::NothingToRepair => {
            return writeln!(
                out,
                "nothing to repair: the log is whole, and left as it is"
            );
        }
        Outcome::Finished => {
            writeln!(out, "an earlier repair was cut short: it is finished now")?;
        }
        Outcome::DryRun | Outcome::Repaired => figures(report, out)?,
    }
    if let Some(aside) = &report.set_aside {
        writeln!(out, "old files      {}", quoted(aside))?;
    }
    match report.outcome {
        Outcome::DryRun => writeln!(out, "nothing was changed: this is what a repair would do"),
        _ => writeln!(out, "nothing was deleted; the log can be started"),
    }
}

fn figures(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let or_none = |id: &Option<String>| id.clone().unwrap_or_else(|| "-".into());
    let damage = report.damage.as_deref().unwrap_or("none");
    writeln!(out, "damage         {damage}")?;
    writeln!(out, "old log id     {}", or_none(&report.old_log_id))?;
    writeln!(out, "new log id     {}", or_none(&report.new_log_id))?;
    writeln!(out, "events saved   {}", report.records)?;
    let settled = report.records.saturating_sub(report.unsettled);
    writeln!(
        out,
        "  delivered    {settled} (kept: their repeats are recognised)"
    )?;
    writeln!(
        out,
        "  to publish   {} (those that were stored before stay one row each)",
        report.unsettled
    )?;
    if report.lost.is_empty() {
        writeln!(out, "events lost    none that is known of")?;
    }
    for lost in &report.lost {
        let count = lost.to - lost.from + 1;
        let remark = if lost.maybe_delivered {
            ", unless they were delivered long ago: the checkpoint cannot be read"
        } else {
            ""
        };
        writeln!(
            out,
            "events lost    offsets {} to {} of the old log ({count}{remark})",
            lost.from, lost.to
        )?;
    }
    if !report.end_known {
        writeln!(
            out,
            "               and whatever was acknowledged behind them: without its mark nothing tells how far the log went"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::repair::Lost;

    fn report(outcome: Outcome, lost: Vec<Lost>) -> Report {
        Report {
            outcome,
            path: "data/wal".into(),
            engine: "sled",
            damage: Some("a group is not whole".into()),
            old_log_id: Some("01".into()),
            new_log_id: Some("02".into()),
            records: 30,
            unsettled: 20,
            lost_records: lost.iter().map(|lost| lost.to - lost.from + 1).sum(),
            lost,
            end_known: false,
            set_aside: Some("data/wal.damaged-T".into()),
        }
    }

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        show(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_lost_and_where_the_old_files_are_is_said() {
        let lost = Lost {
            from: 40,
            to: 49,
            maybe_delivered: false,
        };
        let shown = text(&report(Outcome::Repaired, vec![lost]));
        for line in [
            "events saved   30",
            "  delivered    10 (kept: their repeats are recognised)",
            "events lost    offsets 40 to 49 of the old log (10)",
            "old files      data/wal.damaged-T",
            "nothing was deleted; the log can be started",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        assert!(shown.contains("nothing tells how far the log went"));
        assert!(text(&report(Outcome::DryRun, vec![])).contains("nothing was changed"));
        let whole = text(&report(Outcome::NothingToRepair, vec![]));
        assert!(whole.ends_with("left as it is\n"), "{whole}");
    }
}
