//! The command line: what can be typed, and the tools behind it.
//!
//! The settings' flags are made from the table in [`crate::config::settings`]; the rest is declared here. Values stay
//! text until the configuration as a whole is checked, so that every problem is reported at once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Environment, Inputs, Problems, Profile};

mod admin;
pub mod bench;
pub mod config;
mod flags;
mod generate;
pub mod health;
pub mod keys;
mod latencies;
mod progress;
pub mod send;
pub mod wal;

pub use flags::{AdminFlags, KeyFlags, LogFlags, RunFlags};

/// Exit code: everything is well.
pub const EXIT_OK: u8 = 0;
/// Exit code: something failed at run time, `wal verify` found damage, or `wal repair` could not save everything.
pub const EXIT_FAILED: u8 = 1;
/// Exit code: the command line or the configuration is wrong; nothing was started.
pub const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Try it:
  eventkit dev
  curl -i localhost:8000/collect -d '{\"type\":\"track\",\"userId\":\"u1\",\"event\":\"Signed up\"}'
  sqlite3 eventkit-data/warehouse.db 'select received_at, type, event from events'

Settings:
  Every setting is a flag and an environment variable. A flag wins over the environment, the
  environment over the default. `eventkit serve --help` lists them all; `eventkit config print`
  shows what applies and where it comes from.

Exit codes:
  0  ended well          1  failed at run time (wal verify: damage found; wal repair: events lost)
  2  wrong command line or configuration; nothing was started
  130, 143  a second Ctrl-C or SIGTERM ended the program at once";

const DEV_HELP: &str = "\
Examples:
  eventkit dev
  eventkit dev --data-dir /tmp/try --log-level debug
  eventkit dev --http-addr 127.0.0.1:0      any free port; the first log line says which";

const SERVE_HELP: &str = "\
Examples:
  eventkit serve --event-store local --data-dir /var/lib/eventkit
  EVENTKIT_EVENT_STORE=local EVENTKIT_JSON_LOGS=true eventkit serve

OpenTelemetry's OTEL_* variables hold as its specification says, from the environment alone: nothing leaves the
process unless OTEL_EXPORTER_OTLP_ENDPOINT is set. `eventkit config print` shows them all.

The first SIGTERM or Ctrl-C stops accepting, finishes what is under way and exits with 0; a second
one exits at once. Neither loses an accepted event. SIGHUP switches DEBUG lines on, and off again, unless
the output is a terminal.";

const WAL_HELP: &str = "\
Examples:
  eventkit wal stat
  eventkit wal verify ./eventkit-data/wal
  eventkit wal dump --from 1000 --limit 20 --payload --json
  eventkit wal drain ./eventkit-data/wal --event-store local
  eventkit wal repair --dry-run ./eventkit-data/wal

A log that is in use is asked through its process's admin port; any other is copied to a temporary
directory first (TMPDIR must have room for it). Only `drain` opens the log itself; `repair` replaces it.";

const DRAIN_HELP: &str = "\
Examples:
  eventkit wal drain --event-store local --data-dir /var/lib/eventkit
  eventkit wal drain --for dev ./eventkit-data/wal

Opens a log that no process uses, whichever engine wrote it, and delivers what it holds exactly as a gateway would: before
the engine is changed, or before the volume of a gateway that is gone for good is given up. The log stays; what it holds
is then only the memory of the duplicate filter. SIGTERM ends it safely; run again, it goes on where it was.";

const RELANE_HELP: &str = "\
Examples:
  eventkit wal relane --lanes 32 /var/lib/eventkit/wal

A user's events are in order within a lane. While batches of the old lanes wait in Pub/Sub, later events on new lanes would overtake
them. So stop the gateway, empty its log (`eventkit wal drain`), wait until the workers have received what it published (the
subscription's oldest_unacked_message_age is less than the time since), run this, set EVENTKIT_LANES, and start again.
Without Pub/Sub a start with nothing unsettled takes the new number by itself.";

const REPAIR_HELP: &str = "\
Examples:
  eventkit wal repair --dry-run ./eventkit-data/wal
  eventkit wal repair ./eventkit-data/wal
  eventkit wal repair --new-id ./eventkit-data/wal      it was restored from an older copy

Saves every event that can be read, wherever it lies, into a fresh log under a new id, and says which offsets of the old one
are lost. What was delivered stays delivered; everything else is published again, and stays one row each. Nothing is deleted:
the old files lie beside the log as <log>.damaged-<time>. A log that is whole is left as it is. It needs room for two copies
of the log. Cut short, it can be run again.

Exit codes:
  0  nothing to repair, or nothing lost that is known of
  1  something is lost, and said with its offsets; or it failed, and nothing was changed";

/// A durable event-ingestion gateway: accepted means on disk, and each event becomes one row in the warehouse.
#[derive(Debug, Parser)]
#[command(
    name = "eventkit",
    version,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 120
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything embedded, on loopback: no cloud, no configuration
    #[command(after_help = DEV_HELP)]
    Dev(RunFlags),
    /// Run in production
    #[command(after_help = SERVE_HELP)]
    Serve(RunFlags),
    /// Show or check the configuration without starting anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look into a log without changing it, empty it, or repair it
    #[command(subcommand, after_help = WAL_HELP)]
    Wal(WalCommand),
    /// Make, list and revoke the write keys of those who may send
    #[command(subcommand, after_help = keys::AFTER_HELP)]
    Keys(keys::KeysCommand),
    /// Ask the running process whether it is ready; exits with 1 if it is not
    #[command(after_help = health::AFTER_HELP)]
    Health(health::HealthArgs),
    /// Send events to a gateway: from a file, from standard input, or made up
    #[command(after_help = send::AFTER_HELP)]
    Send(send::SendArgs),
    /// Measure what this machine and disk can do: the gateway beside one without a log and one with a plain file
    #[command(after_help = bench::AFTER_HELP)]
    Bench(Box<bench::BenchArgs>),
    /// One of the servers that `bench` measures
    #[command(hide = true)]
    BenchServer(bench::ServerArgs),
}

/// Tools for the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show each setting's value and where it comes from: default, env or flag
    Print {
        /// Show it as JSON
        #[arg(long)]
        json: bool,
        /// What to show and how
        #[command(flatten)]
        shared: ConfigArgs,
    },
    /// Report everything that is wrong with the configuration; exits with 2 if anything is
    Check {
        /// What to check
        #[command(flatten)]
        shared: ConfigArgs,
    },
}

/// What the configuration tools share.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The command whose configuration it is
    #[arg(long = "for", value_name = "COMMAND", value_enum, default_value_t = Profile::Serve)]
    pub profile: Profile,
    /// The settings.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// Tools for the log.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// The log in figures: offsets, checkpoint, records, bytes
    Stat {
        /// Which log, and how to show it
        #[command(flatten)]
        shared: WalArgs,
    },
    /// Read and check every record; exits with 1 if anything is wrong
    Verify {
        /// Which log, and how to show it
        #[command(flatten)]
        shared: WalArgs,
    },
    /// List records (with --json: one object per line)
    Dump {
        /// The first offset to list
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: u64,
        /// The most records to list
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        /// Show what the clients sent, too; it may be personal
        #[arg(long)]
        payload: bool,
        /// Which log, and how to show it
        #[command(flatten)]
        shared: WalArgs,
    },
    /// Deliver everything in the log to the store and the warehouse, without opening a port; exits with 1 if anything is left
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Make a fresh log of what can be read of a damaged one, and set the old files aside; exits with 1 if anything is lost
    #[command(after_help = REPAIR_HELP)]
    Repair(RepairArgs),
    /// Give a log with nothing unsettled another number of lanes, where a start does not: with Pub/Sub; exits with 1 if they are kept
    #[command(after_help = RELANE_HELP)]
    Relane(RelaneArgs),
}

/// What `wal relane` takes.
#[derive(Debug, Args)]
pub struct RelaneArgs {
    /// The log's directory [default: as the settings say]
    pub path: Option<PathBuf>,
    /// How many lanes [default: EVENTKIT_LANES]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub lanes: Option<u16>,
    /// Where the log is.
    #[command(flatten)]
    pub flags: LogFlags,
}

/// What `wal repair` takes.
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The log's directory [default: as the settings say]
    pub path: Option<PathBuf>,
    /// Show the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Only say what a repair would do
    #[arg(long)]
    pub dry_run: bool,
    /// Where nothing at all can be read: put an empty log in place
    #[arg(long)]
    pub accept_loss: bool,
    /// Make a fresh log under a new id even if this one is whole: for a log that was restored from an older copy
    #[arg(long)]
    pub new_id: bool,
    /// Where the log is.
    #[command(flatten)]
    pub flags: LogFlags,
}

/// What `wal drain` takes.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The log's directory; store and warehouse lie beside it unless --data-dir says otherwise [default: as the settings say]
    pub path: Option<PathBuf>,
    /// Show the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// The command whose defaults apply
    #[arg(long = "for", value_name = "COMMAND", value_enum, default_value_t = Profile::Serve)]
    pub profile: Profile,
    /// Where events go: the settings of `serve`.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// What the log tools share.
#[derive(Debug, Args)]
pub struct WalArgs {
    /// The log's directory [default: as the settings say]
    pub path: Option<PathBuf>,
    /// Show it as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the log is.
    #[command(flatten)]
    pub flags: LogFlags,
}

/// Flags, environment and command as the configuration takes them.
#[must_use]
pub fn inputs(
    profile: Profile,
    flags: impl Into<flags::Given>,
    environment: &Environment,
) -> Inputs {
    Inputs {
        profile,
        env: environment.vars.clone(),
        flags: flags.into().0,
        host_name: environment.host_name.clone(),
    }
}

/// The problems of the configuration, if these are what the error is about.
#[must_use]
pub fn config_problems(error: &anyhow::Error) -> Option<&Problems> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// Whoever reads the output has seen enough, as `head` does: that is no failure.
fn reader_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::settings;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_is_in_the_help_of_serve() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        assert!(help.contains("OTEL_*"));
        let flags = settings::ALL.iter().filter(|s| !s.flag.is_empty());
        for setting in flags {
            assert!(
                help.contains(&format!("--{}", setting.flag)),
                "{}",
                setting.flag
            );
            assert!(
                help.contains(&format!("[env: {}]", setting.env)),
                "{}",
                setting.env
            );
            assert!(help.contains(setting.heading), "{}", setting.heading);
        }
    }

    #[test]
    fn flags_become_text_under_their_variable() {
        let cli = Cli::try_parse_from([
            "eventkit",
            "dev",
            "--lanes",
            "many",
            "--json-logs",
            "--grpc-reflection=false",
        ])
        .unwrap();
        let Command::Dev(flags) = cli.command else {
            panic!("not dev");
        };
        let given = inputs(Profile::Dev, flags, &Environment::default()).flags;
        let given: Vec<_> = given.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(
            given,
            [
                ("EVENTKIT_GRPC_REFLECTION", "false"),
                ("EVENTKIT_JSON_LOGS", "true"),
                ("EVENTKIT_LANES", "many"),
            ]
        );
    }

    #[test]
    fn health_takes_only_what_says_where_to_ask() {
        let parse = |flag| Cli::try_parse_from(["eventkit", "health", flag, "127.0.0.1:1"]);
        assert!(parse("--admin-addr").is_ok());
        assert!(parse("--http-addr").is_err());
    }

    #[test]
    fn the_log_tools_take_only_what_says_where_the_log_is() {
        let parse = |flag| Cli::try_parse_from(["eventkit", "wal", "stat", flag, "x"]);
        assert!(parse("--data-dir").is_ok());
        assert!(parse("--ring-buffer-db-path").is_ok());
        assert!(parse("--http-addr").is_err());
    }
}
