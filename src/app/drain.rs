//! A log emptied into its store without opening a port: what `eventkit wal drain` runs.
//!
//! The same publisher, queue, workers, store and loader as in a gateway, with nothing in front of the log. Being ended at
//! any moment loses nothing: what is not settled stays in the log, and is delivered once more under the same names.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::Instant;

use super::{LETTING_GO, Pipeline, Shared, log_failed, log_opened, open_log};
use crate::config::{Config, QueueConfig, Role};
use crate::lifecycle::Stop;
use crate::loader::Loader;
use crate::wal::{self, Wal};

/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How far a drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Events delivered so far.
    pub delivered: u64,
    /// Events that were to be delivered.
    pub total: u64,
}

/// What became of the warehouse's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Warehouse {
    /// It is not enabled: the store is where events end.
    Off,
    /// Everything in the store is loaded.
    Loaded,
    /// Some of what is in the store is not loaded yet.
    Pending,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// The log's identity.
    pub log_id: String,
    /// What it lies in.
    pub engine: &'static str,
    /// Events that are settled now and were not before.
    pub delivered: u64,
    /// Events that are still not settled.
    pub unsettled: u64,
    /// Whether they are rows, too.
    pub warehouse: Warehouse,
}

impl Drained {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unsettled == 0 && self.warehouse != Warehouse::Pending
    }
}

/// There is none where it was said to be.
#[derive(Debug, thiserror::Error)]
#[error("open the log at {0}: there is none")]
pub struct NoLog(pub PathBuf);

/// Delivers what is in the configured log, whichever engine wrote it, until everything is settled or a stop is asked for.
///
/// # Errors
///
/// A log that does not open (in use, say), a store that does not, a part that fails.
pub async fn drain_log(
    mut config: Config,
    stop: Stop,
    show: &mut (dyn FnMut(Progress) + Send),
) -> anyhow::Result<Drained> {
    let path = config.wal.path.clone();
    let engine = wal::engine_at(&path)?.ok_or(NoLog(path))?;
    config.wal.engine = engine;
    // The volume may be full, and nothing new comes.
    config.wal.ballast_bytes = 0;
    let shared = Shared::new();
    let (wal, unsettled) = open_log(&config, &shared).await?;
    log_opened(&wal, &unsettled);
    let (from, end) = (wal.settled(), *wal.durable().borrow());
    config.role = match config.queue {
        QueueConfig::InProcess => Role::All,
        QueueConfig::PubSub(_) => Role::Gateway,
    };
    let mut pipeline = Pipeline::start(&config, &shared, Some((&wal, unsettled))).await?;
    // Told to stop at once, the publisher delivers what is there and ends.
    pipeline.stop_publisher.cancel();
    let mut progress = || {
        show(Progress {
            delivered: wal.settled().saturating_sub(from),
            total: end.saturating_sub(from),
        });
    };
    let ended = until_settled(&mut pipeline, &shared, &wal, &stop, &mut progress).await;
    let warehouse = wind_down(pipeline, &shared, &stop, ended.is_ok()).await;
    wal.close().await;
    progress();
    shared.metrics.shutdown();
    ended?;
    Ok(Drained {
        log_id: wal.log_id().to_string(),
        engine: engine.name(),
        delivered: wal.settled().saturating_sub(from),
        unsettled: end.saturating_sub(wal.settled()),
        warehouse,
    })
}

/// Waits for the publisher, for a stop, or for a failure.
async fn until_settled(
    pipeline: &mut Pipeline,
    shared: &Shared,
    wal: &Wal,
    stop: &Stop,
    progress: &mut (dyn FnMut() + Send),
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            // Cancel safe: the handle is not polled again after it has ended.
            ended = pipeline.publisher_ended() => {
                let ended = ended.context("the publisher panicked")?;
                return ended.context("publish the log");
            }
            // Cancel safe: the token stays cancelled.
            () = stop.requested() => {
                pipeline.abort_publisher();
                return Ok(());
            }
            // Cancel safe: the state is looked at again.
            () = log_failed(Some(wal)) => anyhow::bail!("the log failed"),
            // Cancel safe: the name stays.
            task = shared.tasks.died() => anyhow::bail!("the part {task} failed"),
            // Cancel safe: an interval.
            _tick = ticks.tick() => progress(),
        }
    }
}

/// Ends what is behind the publisher. Without a stop the loader gets the time it needs.
async fn wind_down(mut pipeline: Pipeline, shared: &Shared, stop: &Stop, go_on: bool) -> Warehouse {
    pipeline.abort_publisher();
    pipeline.end_workers(shared, Instant::now()).await;
    pipeline.stop_loader.cancel();
    let Some(loader) = pipeline.loader else {
        return Warehouse::Off;
    };
    let aborts = loader.abort_handle();
    let load = async {
        let Ok(Some(loader)) = loader.await else {
            return Warehouse::Pending;
        };
        if go_on {
            load(loader).await
        } else {
            Warehouse::Pending
        }
    };
    let loaded = unless_stopped(load, stop).await;
    aborts.abort();
    loaded.unwrap_or(Warehouse::Pending)
}

async fn load(mut loader: Loader) -> Warehouse {
    match loader.drain().await {
        Ok(()) => Warehouse::Loaded,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "inbox_not_emptied");
            Warehouse::Pending
        }
    }
}

/// `None` when a stop was asked for and a moment has passed since.
async fn unless_stopped<T>(work: impl Future<Output = T>, stop: &Stop) -> Option<T> {
    let stopped = async {
        stop.requested().await;
        tokio::time::sleep(LETTING_GO).await;
    };
    tokio::select! {
        // Cancel safe: a step that is cut short is done again by the next loader.
        done = work => Some(done),
        () = stopped => None,
    }
}
