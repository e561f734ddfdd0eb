//! From configuration to a running program: the only place that names concrete back ends.
//!
//! Parts are built in the reverse order of an event's path, so that each finds its next one ready; they are stopped in the
//! order of the path. Stopping is never needed for correctness: it shortens the replay after the next start.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::{Ack, Config};
use crate::ingress::Published;
use crate::lifecycle::{Health, Stop, Tasks};
use crate::loader::Loader;
use crate::telemetry::logs::Logs;
use crate::telemetry::{Metrics, Otlp, Telemetry, Tracing};
use crate::wal::storage::Storage;
use crate::wal::{LogState, Options, Unsettled, Wal};

mod ahead;
mod backends;
mod descriptors;
mod doors;
mod drain;
mod gauges;
mod pipeline;
mod place;
mod yardstick;

use doors::{Doors, Sockets};
use pipeline::Pipeline;

pub use drain::{Drained, NoLog, Progress, Warehouse, drain_log};
pub use yardstick::{Yardstick, run_yardstick};

/// How often a stop says what it waits for.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// What the last phases of a stop may take when those before have used the budget up.
const LETTING_GO: Duration = Duration::from_secs(2);

/// What the last export of telemetry may take; it is nobody's loss if it takes longer.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// A part that runs in the background: `None` when it panicked.
type Running<T> = JoinHandle<Option<T>>;

/// What all parts share.
#[derive(Debug, Clone)]
struct Shared {
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    otlp: Otlp,
    health: Health,
    tasks: Tasks,
    /// Ends writes that are being retried: what was not stored stays in the log.
    give_up: CancellationToken,
    /// The log lines, where they are this program's own.
    logs: Option<Logs>,
    /// What the log's engine is seen through: itself, in the product.
    through: fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
}

impl Shared {
    fn new() -> Self {
        Self::reporting(Otlp::off())
    }

    /// With what leaves by OTLP.
    fn reporting(otlp: Otlp) -> Self {
        let tracing = match otlp.tracer() {
            Some(tracer) => {
                Tracing::new(tracer, otlp.sampler().clone(), otlp.takes_trace_context())
            }
            None => Tracing::off(),
        };
        let metrics = Metrics::extended(|builder| otlp.extend(builder)).with_tracing(tracing);
        otlp.observe(&metrics);
        Self {
            clock: Arc::new(SystemClock),
            metrics,
            otlp,
            health: Health::default(),
            tasks: Tasks::default(),
            give_up: CancellationToken::new(),
            logs: None,
            through: |engine| engine,
        }
    }
}

/// Builds everything, runs until told to stop or until a part fails, and stops in order.
///
/// # Errors
///
/// A part that cannot be built; nothing was acknowledged then.
pub async fn run(config: Config, stop: Stop, telemetry: Telemetry) -> anyhow::Result<ExitCode> {
    let Telemetry { logs, otlp } = telemetry;
    let shared = Shared {
        logs: Some(logs),
        ..Shared::reporting(otlp)
    };
    let ended = run_with(config, stop, shared.clone()).await;
    if let Some(logs) = &shared.logs {
        // What is left out up to here leaves with the rest.
        logs.flush();
    }
    // Last, however it ended: what went wrong is in there.
    shared.otlp.shutdown(LAST_EXPORT).await;
    ended
}

/// The same with what the parts share given.
async fn run_with(config: Config, stop: Stop, shared: Shared) -> anyhow::Result<ExitCode> {
    gauges::observe_process(&config, &shared);
    if let Some(logs) = &shared.logs {
        shared.tasks.spawn("log lines", logs.clone().sweep());
    }
    let config = descriptors::within_limit(config);
    let mut log = None;
    if config.role.takes_in() {
        let (wal, unsettled) = open_log(&config, &shared).await?;
        gauges::observe(&wal, &config, &shared);
        log = Some((wal, unsettled));
    }
    let sockets = match &log {
        Some((wal, _)) => Sockets::bind(&config, wal)?,
        None => Sockets::bind_admin(&config)?,
    };
    let (wal, unsettled) = log.unzip();
    if let (Some(wal), Some(unsettled)) = (&wal, &unsettled) {
        log_opened(wal, unsettled);
    }
    let mut pipeline = Pipeline::start(&config, &shared, wal.as_ref().zip(unsettled)).await?;
    let doors = match &wal {
        Some(wal) => open_doors(sockets, &config, &shared, (wal, &pipeline)),
        None => Doors::admin_only(sockets, &config, &shared),
    };
    let reason = tokio::select! {
        // Cancel safe: the token stays cancelled.
        () = stop.requested() => Reason::Asked,
        // Cancel safe: the state is looked at again.
        () = log_failed(wal.as_ref()) => Reason::Failed("log"),
        // Cancel safe: the name stays.
        task = shared.tasks.died() => Reason::Failed(task),
        // Cancel safe: the handle is not polled again after it has ended.
        ended = pipeline.publisher_ended() => {
            if let Some(Err(error)) = ended {
                tracing::error!(error = &error as &dyn std::error::Error, "publisher_failed");
            }
            Reason::Failed("publisher")
        }
    };
    match reason {
        Reason::Asked => {
            tracing::info!("shutdown_started");
            drain(&config, &shared, wal, pipeline, doors).await;
            tracing::info!("shutdown_completed");
            Ok(ExitCode::SUCCESS)
        }
        // Nothing may be acknowledged any more, and a restart repairs what can be repaired: no drain.
        Reason::Failed(part) => {
            shared.health.not_ready(part, Some("failed".into()));
            tracing::error!(part, "shutdown_after_failure");
            // Only the answers: whoever waits hears that his events were not stored instead of nothing.
            doors.drain.cancel();
            let deadline = Instant::now() + LETTING_GO;
            phase("doors", deadline, futures::future::join_all(doors.servers)).await;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Opens the doors before the log, or before what answers once the broker holds the events, too.
fn open_doors(
    sockets: Sockets,
    config: &Config,
    shared: &Shared,
    (wal, pipeline): (&Wal, &Pipeline),
) -> Doors {
    match (config.ack, &pipeline.sent) {
        (Ack::Published, Some(sent)) => {
            let published = Published::new(wal.clone(), sent.clone());
            Doors::open(sockets, config, shared, (wal, published))
        }
        _ => Doors::open(sockets, config, shared, (wal, wal.clone())),
    }
}

enum Reason {
    Asked,
    Failed(&'static str),
}

async fn open_log(config: &Config, shared: &Shared) -> anyhow::Result<(Wal, Unsettled)> {
    let options = Options {
        config: config.wal.clone(),
        clock: Arc::clone(&shared.clock),
        metrics: shared.metrics.clone(),
    };
    place::check(config)?;
    let through = shared.through;
    let (wal, unsettled) = tokio::task::spawn_blocking(move || Wal::open_through(options, through))
        .await
        .context("run the opening of the log")?
        .context("open the log")?;
    let (health, mut state) = (shared.health.clone(), wal.state());
    shared.tasks.spawn("log health", async move {
        loop {
            let reason = match *state.borrow_and_update() {
                LogState::Open => None,
                LogState::Full => Some("full"),
                LogState::Failed => Some("failed"),
                LogState::Closed => Some("closed"),
            };
            health.not_ready("log", reason.map(Into::into));
            if state.changed().await.is_err() {
                return;
            }
        }
    });
    Ok((wal, unsettled))
}

/// What was found in the log.
fn log_opened(wal: &Wal, unsettled: &Unsettled) {
    tracing::info!(
        log_id = %wal.log_id(),
        lanes = wal.lanes(),
        unsettled = *wal.durable().borrow() - unsettled.checkpoint.offset,
        "log_opened"
    );
}

/// Resolves when the log has failed; never where there is none.
async fn log_failed(wal: Option<&Wal>) {
    let Some(wal) = wal else {
        return std::future::pending().await;
    };
    let mut state = wal.state();
    if state
        .wait_for(|state| *state == LogState::Failed)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Stops every part in the order of the path, all of them within one budget.
async fn drain(
    config: &Config,
    shared: &Shared,
    wal: Option<Wal>,
    mut pipeline: Pipeline,
    doors: Doors,
) {
    let deadline = Instant::now() + config.drain_timeout;
    shared.health.not_ready("shutdown", Some("draining".into()));
    doors.drain.cancel();
    phase("doors", deadline, futures::future::join_all(doors.servers)).await;
    pipeline.drain(shared, deadline).await;
    shared.give_up.cancel();
    let deadline = deadline.max(Instant::now() + LETTING_GO);
    pipeline.stop_loader.cancel();
    if let Some(loader) = pipeline.loader {
        phase("loader", deadline, empty_inbox(loader)).await;
    }
    if let Some(wal) = wal {
        phase("log", deadline, wal.close()).await;
    }
    doors.stop_admin.cancel();
    phase("admin", deadline, doors.admin).await;
    shared.metrics.shutdown();
}

/// What the workers stored last becomes rows before the program ends, if that goes quickly; else after the next start.
async fn empty_inbox(loader: Running<Loader>) {
    if let Ok(Some(mut loader)) = loader.await
        && let Err(error) = loader.drain().await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "inbox_not_emptied"
        );
    }
}

/// Waits for a part, saying so every few seconds; `false` when the budget ran out first.
async fn phase(part: &'static str, deadline: Instant, ends: impl Future) -> bool {
    tokio::pin!(ends);
    let mut pending = tokio::time::interval_at(Instant::now() + PENDING_EVERY, PENDING_EVERY);
    loop {
        tokio::select! {
            // Cancel safe: pinned outside.
            _ended = &mut ends => return true,
            // Cancel safe: an interval.
            _tick = pending.tick() => tracing::info!(pending = part, "shutdown_pending"),
            // Cancel safe: a fixed moment.
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!(pending = part, "shutdown_budget_spent");
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
