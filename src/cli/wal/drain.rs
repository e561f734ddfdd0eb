//! `eventkit wal drain`: delivers what is in a log, without opening a port.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::time::{Duration, Instant};

use crate::app::{self, Drained, Progress, Warehouse};
use crate::cli::progress::Progress as Bar;
use crate::cli::{DrainArgs, EXIT_FAILED, EXIT_OK, inputs};
use crate::config::{self, Environment, Inputs, settings};
use crate::lifecycle::Stop;
use crate::telemetry::{self, Otlp};

/// How often progress is a log line where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Runs the drain; the answer is the exit code.
///
/// # Errors
///
/// A configuration that is wrong, a log that does not open, a part that fails, an output that cannot be written.
pub(super) fn run(
    args: DrainArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let json = args.json;
    let checked = config::validate(&placed(args, environment))?;
    let terminal = io::stderr().is_terminal();
    let colour = terminal && !environment.no_color();
    // Standard output carries the summary alone.
    let logs =
        telemetry::logs::init_on(&checked.config.telemetry, colour, &Otlp::off(), io::stderr)
            .context("set up the log lines")?;
    for warning in &checked.warnings {
        tracing::warn!(setting = warning.setting, problem = %warning.text, "setting_questionable");
    }
    let mut meter = Meter::new(terminal);
    let drained = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(async {
            let stop = Stop::on_signals().context("listen to signals")?;
            app::drain_log(checked.config, stop, &mut |progress| meter.show(progress)).await
        });
    meter.end();
    logs.flush();
    let drained = drained?;
    show(&drained, json, out).context("write the output")?;
    Ok(if drained.is_done() {
        EXIT_OK
    } else {
        EXIT_FAILED
    })
}

/// The settings, with the log's place from the command line. Where nothing else is said, the store and the warehouse lie
/// beside the log, as a gateway has them.
fn placed(args: DrainArgs, environment: &Environment) -> Inputs {
    let mut inputs = inputs(args.profile, args.flags, environment);
    if let Some(log) = args.path {
        if inputs.resolve(&settings::DATA_DIR).source == config::Source::Default {
            let beside = parent(&log).display().to_string();
            inputs.flags.insert(settings::DATA_DIR.env, beside);
        }
        let log = log.display().to_string();
        inputs.flags.insert(settings::WAL_PATH.env, log);
    }
    inputs
}

fn parent(log: &Path) -> PathBuf {
    match log.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn show(drained: &Drained, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", serde_json::to_string(drained)?);
    }
    let warehouse = match drained.warehouse {
        Warehouse::Off => "off",
        Warehouse::Loaded => "loaded",
        Warehouse::Pending => "not everything is loaded yet",
    };
    writeln!(out, "log id            {}", drained.log_id)?;
    writeln!(out, "engine            {}", drained.engine)?;
    writeln!(out, "delivered         {}", drained.delivered)?;
    writeln!(out, "not settled       {}", drained.unsettled)?;
    writeln!(out, "warehouse         {warehouse}")?;
    if drained.is_done() {
        writeln!(out, "every event in the log is delivered")
    } else {
        writeln!(out, "not finished: run it again, nothing is lost")
    }
}

/// Progress on standard error: a bar on a terminal, else a log line now and then.
struct Meter {
    bar: Option<Bar>,
    said: Option<Instant>,
}

impl Meter {
    fn new(terminal: bool) -> Self {
        let bar = terminal.then(|| Bar::new(Some(0), true));
        Self { bar, said: None }
    }

    fn show(&mut self, Progress { delivered, total }: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_total(total);
            bar.show(delivered, String::new());
        } else if self.said.is_none_or(|said| said.elapsed() >= LINE_EVERY) {
            tracing::info!(delivered, total, "log_draining");
            self.said = Some(Instant::now());
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, WalCommand};
    use clap::Parser as _;

    fn args(line: &[&str]) -> DrainArgs {
        let line = ["eventkit", "wal", "drain"].iter().chain(line);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Wal(WalCommand::Drain(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_store_lies_beside_the_log_unless_something_else_is_said() {
        let cases: [(&[&str], &str, &str); 4] = [
            (&[], "./eventkit-data", "./eventkit-data/wal"),
            (&["/old/wal"], "/old", "/old/wal"),
            (&["wal"], ".", "wal"),
            (&["/old/wal", "--data-dir", "/new"], "/new", "/old/wal"),
        ];
        for (line, data_dir, log) in cases {
            let inputs = placed(args(line), &Environment::default());
            let text = |setting| inputs.resolve(setting).text.unwrap();
            assert_eq!(text(&settings::DATA_DIR), data_dir, "{line:?}");
            assert_eq!(text(&settings::WAL_PATH), log, "{line:?}");
        }
    }

    #[test]
    fn the_summary_says_whether_anything_is_left() {
        let drained = |unsettled, warehouse| Drained {
            log_id: "00c0ffee".into(),
            engine: "sqlite",
            delivered: 7,
            unsettled,
            warehouse,
        };
        let text = |drained: &Drained, json| {
            let mut out = Vec::new();
            show(drained, json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let done = drained(0, Warehouse::Loaded);
        assert!(done.is_done());
        assert!(text(&done, false).ends_with("every event in the log is delivered\n"));
        assert_eq!(
            text(&done, true),
            "{\"log_id\":\"00c0ffee\",\"engine\":\"sqlite\",\"delivered\":7,\"unsettled\":0,\"warehouse\":\"loaded\"}\n"
        );
        assert!(drained(0, Warehouse::Off).is_done());
        for left in [drained(1, Warehouse::Off), drained(0, Warehouse::Pending)] {
            assert!(!left.is_done());
            assert!(text(&left, false).ends_with("nothing is lost\n"));
        }
    }
}
