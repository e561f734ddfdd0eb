//! `eventkit wal relane`: another number of lanes for a log behind which no batch waits.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;

use super::WalError;
use crate::app::NoLog;
use crate::cli::{EXIT_FAILED, EXIT_OK, RelaneArgs, inputs};
use crate::clock::SystemClock;
use crate::config::{self, Environment, Profile, WalConfig};
use crate::telemetry::Metrics;
use crate::wal::{Options, Wal, engine_at};

/// Changes the number; the answer is the exit code.
///
/// # Errors
///
/// [`WalError`].
pub(super) fn run(
    args: RelaneArgs,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, WalError> {
    let RelaneArgs { path, lanes, flags } = args;
    let mut config = config::log_config(&inputs(Profile::Serve, flags, environment))?;
    config.path = path.unwrap_or(config.path);
    config.lanes = lanes.unwrap_or(config.lanes);
    config.keeps_lanes = false;
    config.ballast_bytes = 0;
    let wanted = config.lanes;
    let (lanes, unsettled) = relane(config)?;
    if lanes == wanted {
        writeln!(out, "the log has {lanes} lanes")?;
        return Ok(EXIT_OK);
    }
    writeln!(
        out,
        "the log keeps its {lanes} lanes, as not all of its events are settled (unsettled: {unsettled}). Run `eventkit wal drain` first"
    )?;
    Ok(EXIT_FAILED)
}

/// Opening it is all that it takes. How many it has now, and how many events keep it from others.
fn relane(mut config: WalConfig) -> anyhow::Result<(u16, u64)> {
    let path = config.path.clone();
    config.engine = engine_at(&path)?.ok_or(NoLog(path))?;
    let options = Options {
        config,
        clock: Arc::new(SystemClock),
        metrics: Metrics::new(),
    };
    let (wal, unsettled) = Wal::open(options).context("open the log")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.context("start the runtime")?.block_on(wal.close());
    let unsettled = wal
        .durable()
        .borrow()
        .saturating_sub(unsettled.checkpoint.offset);
    Ok((wal.lanes(), unsettled))
}
