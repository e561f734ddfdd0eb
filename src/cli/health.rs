//! `eventkit health`: is the process on this machine ready? For images that have neither a shell nor curl.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use http::Uri;

use super::admin::{get, reachable};
use super::flags::AdminFlags;
use super::{EXIT_FAILED, EXIT_OK, inputs, reader_gone};
use crate::config::{self, Environment, Profile};

/// What stands at the end of its help.
pub const AFTER_HELP: &str = "\
Examples:
  eventkit health                                  asks /ready of the admin port, wherever EVENTKIT_ADMIN_ADDR puts it
  eventkit health --live                           asks /health: it lives, ready or not
  eventkit health --url http://127.0.0.1:8000/ready

Exit codes:
  0  the answer was a good one          1  it was not, or there was none          2  it cannot be asked like this";

/// What `health` takes.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Ask for life (/health) instead of readiness (/ready)
    #[arg(long)]
    pub live: bool,
    /// Ask this instead of the admin port
    #[arg(long, value_name = "URL", conflicts_with = "live")]
    pub url: Option<Uri>,
    /// How long the answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Where the admin port is.
    #[command(flatten)]
    pub flags: AdminFlags,
}

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The setting that says where the admin port is is wrong.
    #[error("{0}")]
    Config(#[from] config::Problems),
    /// The address cannot be written as a URL.
    #[error("ask the admin port")]
    Url(#[from] http::uri::InvalidUri),
    /// The output could not be written.
    #[error("write the output")]
    Output(#[from] io::Error),
}

/// Asks, shows a good answer on `out` and a bad one on `err`, and says by its exit code which it was.
///
/// # Errors
///
/// [`HealthError`]; a process that does not answer is no error but the answer "no".
pub fn run(
    args: HealthArgs,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, HealthError> {
    let timeout = Duration::from_secs(args.timeout);
    let uri = match args.url {
        Some(uri) => uri,
        None => {
            // The address does not depend on the command unless it is given for one of them.
            let inputs = inputs(Profile::Serve, args.flags, environment);
            let admin = reachable(config::admin_addr(&inputs)?);
            let path = if args.live { "health" } else { "ready" };
            format!("http://{admin}/{path}").parse()?
        }
    };
    // Neither question needs the token.
    let answer = match get(uri.clone(), None, timeout, timeout) {
        Ok((status, text)) if status.is_success() => Ok(text),
        Ok((status, text)) => Err(format!("{status}: {text}")),
        Err(error) => Err(format!("{uri}: {error}")),
    };
    let (code, written) = match answer {
        Ok(text) => (EXIT_OK, writeln!(out, "{}", text.trim_end())),
        Err(text) => (EXIT_FAILED, writeln!(err, "{}", text.trim_end())),
    };
    match written {
        Err(error) if !reader_gone(&error) => Err(error.into()),
        _ => Ok(code),
    }
}
