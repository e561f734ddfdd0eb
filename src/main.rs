//! eventkit, the program: arguments → configuration → telemetry → app → exit code.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use eventkit::app;
use eventkit::cli::{self, Cli, Command};
use eventkit::config::{self, Config, Environment, Inputs, Profile};
use eventkit::lifecycle::Stop;
use eventkit::telemetry::{Otlp, Telemetry, logs};

fn main() -> ExitCode {
    #[cfg(feature = "cloud")]
    eventkit::cloud::choose_tls();
    // Ends here with 0 for --help and --version, with 2 for what cannot be typed.
    let arguments = Cli::parse();
    let environment = Environment::read();
    let colour = io::stdout().is_terminal() && !environment.no_color();
    let ended = match arguments.command {
        Command::Dev(flags) => {
            let inputs = cli::inputs(Profile::Dev, flags, &environment);
            start(&inputs, colour, app::run)
        }
        Command::Serve(flags) => {
            let inputs = cli::inputs(Profile::Serve, flags, &environment);
            start(&inputs, colour, app::run)
        }
        Command::Bench(args) => {
            cli::bench::run(&args, &environment, &mut io::stdout(), &mut io::stderr())
                .map(ExitCode::from)
                .map_err(anyhow::Error::from)
        }
        Command::BenchServer(args) => {
            let inputs = cli::inputs(Profile::Serve, args.flags, &environment);
            start(&inputs, colour, |config, stop, _telemetry| {
                app::run_yardstick(args.yardstick, config, stop)
            })
        }
        Command::Config(command) => {
            cli::config::run(command, &environment, &mut io::stdout(), &mut io::stderr())
                .map(ExitCode::from)
                .context("write the output")
        }
        Command::Health(args) => {
            cli::health::run(args, &environment, &mut io::stdout(), &mut io::stderr())
                .map(ExitCode::from)
                .map_err(anyhow::Error::from)
        }
        Command::Send(args) => cli::send::run(&args, &mut io::stdout(), &mut io::stderr())
            .map(ExitCode::from)
            .map_err(anyhow::Error::from),
        Command::Wal(command) => cli::wal::run(command, &environment, &mut io::stdout())
            .map(ExitCode::from)
            .map_err(anyhow::Error::from),
    };
    ended.unwrap_or_else(|error| explain(&error))
}

/// Runs the gateway, or a part of it, until it is told to stop.
fn start<R>(
    inputs: &Inputs,
    colour: bool,
    run: impl FnOnce(Config, Stop, Telemetry) -> R,
) -> anyhow::Result<ExitCode>
where
    R: Future<Output = anyhow::Result<ExitCode>>,
{
    let checked = config::validate(inputs)?;
    let config = &checked.config.telemetry;
    let otlp = Otlp::start(&config.otlp).context("set up telemetry")?;
    let logs = logs::init(config, colour, &otlp).context("set up the log lines")?;
    for warning in &checked.warnings {
        tracing::warn!(setting = warning.setting, problem = %warning.text, "setting_questionable");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals().context("listen to signals")?;
        // At a terminal it means that the terminal is gone.
        if !io::stdout().is_terminal() {
            logs.on_hangup().context("listen to SIGHUP")?;
        }
        let telemetry = Telemetry {
            logs: logs.clone(),
            otlp,
        };
        run(checked.config, stop, telemetry).await
    });
    // The app has drained; a question to the log that is still being answered is not worth waiting for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    logs.flush();
    ended
}

/// Says what went wrong; the exit code says whose fault it was.
fn explain(error: &anyhow::Error) -> ExitCode {
    let (text, code) = match cli::config_problems(error) {
        Some(problems) => (format!("eventkit: {problems}"), cli::EXIT_USAGE),
        None => (format!("failed to {error:#}"), cli::EXIT_FAILED),
    };
    // There is nobody left to tell if this fails.
    writeln!(io::stderr(), "{text}").unwrap_or_default();
    ExitCode::from(code)
}
