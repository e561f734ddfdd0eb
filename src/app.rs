//! The only place that names concrete back ends: configuration → parts → run until shutdown.

use std::process::ExitCode;

use crate::config::Config;
use crate::lifecycle::Stop;

/// Runs until it is asked to stop.
///
/// # Errors
///
/// Whatever keeps it from running.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<ExitCode> {
    drop(config);
    stop.requested().await;
    Ok(ExitCode::SUCCESS)
}
