//! What `eventkit bench` measures the product against: the same doors in front of less.
//!
//! ```text
//!   noop    doors ─▶ nothing: an answer at once           what accepting, parsing and answering cost
//!   raw     doors ─▶ a plain file, group commit, sync     what the disk allows
//!   accept  doors ─▶ the log, nothing behind it           what the log costs
//!   slow    the whole product, its log on a slow disk     what becomes of what the disk cannot take
//! ```
//!
//! The whole product is `eventkit serve` itself. Only `accept` and `slow` keep a promise; the other two are not for events
//! that anyone wants back.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use super::doors::{Doors, Guard, Public, Sockets, bind, servers};
use super::{Shared, gauges, log_failed, log_opened, open_log, run_with};
use crate::config::Config;
use crate::ingress::Log;
use crate::lifecycle::Stop;

mod noop;
mod raw;
mod slow;

use noop::Noop;
use raw::Raw;

/// What stands behind the doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Yardstick {
    /// Nothing
    Noop,
    /// A plain file with group commit
    Raw,
    /// The log with its pipeline paused
    Accept,
    /// Everything, with the log on a slow disk
    Slow,
}

/// Serves until told to stop. Nothing is drained: what was measured is thrown away.
///
/// # Errors
///
/// A part that cannot be built.
pub async fn run_yardstick(
    yardstick: Yardstick,
    config: Config,
    stop: Stop,
) -> anyhow::Result<ExitCode> {
    match yardstick {
        Yardstick::Noop => doors_alone(Noop::new(config.wal.lanes), &config, &stop).await,
        Yardstick::Raw => {
            let path = config.data_dir.join("raw");
            let raw = Raw::create(&path, config.wal.lanes).context("create the plain file")?;
            doors_alone(raw, &config, &stop).await
        }
        Yardstick::Accept => without_pipeline(&config, &stop).await,
        Yardstick::Slow => {
            let shared = Shared {
                through: slow::disk,
                ..Shared::new()
            };
            run_with(config, stop, shared).await
        }
    }
}

/// The doors in front of something that has neither state nor metrics of its own; no admin port.
async fn doors_alone(log: impl Log, config: &Config, stop: &Stop) -> anyhow::Result<ExitCode> {
    let shared = Shared::new();
    let listeners = [
        bind("HTTP", config.ingress.http_addr)?,
        bind("gRPC", config.ingress.grpc_addr)?,
    ];
    let public = Public {
        listeners,
        guard: Guard::load(config)?,
    };
    let drain = CancellationToken::new();
    let _servers = servers(log, public, config, &shared, &drain);
    tokio::select! {
        // Cancel safe: the token stays cancelled.
        () = stop.requested() => Ok(ExitCode::SUCCESS),
        // Cancel safe: the name stays.
        part = shared.tasks.died() => anyhow::bail!("the part {part} failed"),
    }
}

/// The product up to its log.
async fn without_pipeline(config: &Config, stop: &Stop) -> anyhow::Result<ExitCode> {
    let shared = Shared::new();
    let (wal, unsettled) = open_log(config, &shared).await?;
    gauges::observe(&wal, config, &shared);
    let sockets = Sockets::bind(config, &wal)?;
    log_opened(&wal, &unsettled);
    let _doors = Doors::open(sockets, config, &shared, (&wal, wal.clone()));
    tokio::select! {
        // Cancel safe: the token stays cancelled.
        () = stop.requested() => {}
        // Cancel safe: the state is looked at again.
        () = log_failed(Some(&wal)) => anyhow::bail!("the log failed"),
        // Cancel safe: the name stays.
        part = shared.tasks.died() => anyhow::bail!("the part {part} failed"),
    }
    wal.close().await;
    Ok(ExitCode::SUCCESS)
}
