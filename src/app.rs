//! From configuration to a running program: the only place that names concrete back ends.
//!
//! Parts are built in the reverse order of an event's path, so that each finds its next one ready; they are stopped in the
//! order of the path. Stopping is never needed for correctness: it shortens the replay after the next start.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::ingress::server::{self, Door, Server};
use crate::ingress::{Ingress, Log};
use crate::lifecycle::{Health, Stop, Tasks};
use crate::loader::sqlite::SqliteWarehouse;
use crate::loader::{self, Loader};
use crate::publisher::{PublishError, Publisher};
use crate::queue::{InProcessConsumer, Producer, in_process};
use crate::store::local::LocalObjects;
use crate::store::object_store::ObjectEventStore;
use crate::store::retry::Retrying;
use crate::telemetry::Metrics;
use crate::wal::{LogState, Options, Unsettled, Wal};
use crate::worker::{Stores, Worker};

mod ahead;
mod drain;
mod gauges;
mod yardstick;

pub use drain::{Drained, NoLog, Progress, Warehouse, drain_log};
pub use yardstick::{Yardstick, run_yardstick};

/// How often a stop says what it waits for.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// What the last phases of a stop may take when those before have used the budget up.
const LETTING_GO: Duration = Duration::from_secs(2);

/// How many connections the kernel holds until they are accepted, as far as its own limit (`net.core.somaxconn`) allows. With
/// the runtime's 128, clients that come in a burst lose their first packet and are a second late.
const BACKLOG: u32 = 4_096;

/// A part that runs in the background: `None` when it panicked.
type Running<T> = JoinHandle<Option<T>>;

/// What all parts share.
#[derive(Debug, Clone)]
struct Shared {
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    health: Health,
    tasks: Tasks,
    /// Ends writes that are being retried: what was not stored stays in the log.
    give_up: CancellationToken,
}

impl Shared {
    fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            metrics: Metrics::new(),
            health: Health::default(),
            tasks: Tasks::default(),
            give_up: CancellationToken::new(),
        }
    }
}

/// Builds everything, runs until told to stop or until a part fails, and stops in order.
///
/// # Errors
///
/// A part that cannot be built; nothing was acknowledged then.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<ExitCode> {
    run_with(config, stop, Shared::new()).await
}

/// The same with what the parts share given.
async fn run_with(config: Config, stop: Stop, shared: Shared) -> anyhow::Result<ExitCode> {
    let (wal, unsettled) = open_log(&config, &shared).await?;
    let objects = open_store(&config, &wal).await?;
    gauges::observe(&wal, &shared);
    let sockets = Sockets::bind(&config, &wal)?;
    log_opened(&wal, &unsettled);
    let mut pipeline = Pipeline::start(&config, &shared, &wal, unsettled, objects);
    let doors = Doors::open(sockets, &config, &shared, &wal);
    let reason = tokio::select! {
        // Cancel safe: the token stays cancelled.
        () = stop.requested() => Reason::Asked,
        // Cancel safe: the state is looked at again.
        () = log_failed(&wal) => Reason::Failed("log"),
        // Cancel safe: the name stays.
        task = shared.tasks.died() => Reason::Failed(task),
        // Cancel safe: the handle is not polled again after it has ended.
        ended = &mut pipeline.publisher => {
            if let Ok(Some(Err(error))) = ended {
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
    let (wal, unsettled) = tokio::task::spawn_blocking(move || Wal::open(options))
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

/// Opens the event store, and makes sure that the log is not an older copy of what the store knows.
async fn open_store(config: &Config, wal: &Wal) -> anyhow::Result<LocalObjects> {
    let objects = LocalObjects::open(&config.store.dir).context("open the event store")?;
    let place = ahead::Place {
        objects: &objects,
        name: &config.store.dir.display().to_string(),
        asked: ahead::Asked::Whole,
    };
    ahead::check(wal, &config.wal.path, place)
        .await
        .context("open the log")?;
    Ok(objects)
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

async fn log_failed(wal: &Wal) {
    let mut state = wal.state();
    if state
        .wait_for(|state| *state == LogState::Failed)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Behind the log: publisher → queue → workers → store → loader.
struct Pipeline {
    publisher: Running<Result<(), PublishError>>,
    workers: Vec<Running<()>>,
    loader: Option<Running<Loader>>,
    stop_publisher: CancellationToken,
    stop_loader: CancellationToken,
}

impl Pipeline {
    fn start(
        config: &Config,
        shared: &Shared,
        wal: &Wal,
        unsettled: Unsettled,
        objects: LocalObjects,
    ) -> Self {
        let inbox = objects.inbox_changed();
        let objects = Arc::new(objects);
        let stop_loader = CancellationToken::new();
        let loader = config.loader.enabled.then(|| {
            start_loader(
                config,
                shared,
                Arc::clone(&objects),
                inbox,
                stop_loader.clone(),
            )
        });

        let store = Arc::new(Retrying::new(
            ObjectEventStore::new(objects),
            Backoff::default(),
            shared.health.clone(),
            shared.metrics.clone(),
            shared.give_up.clone(),
        ));
        let stores = Stores::both(store);
        let (producer, consumers) =
            in_process(config.workers, Backoff::default(), shared.metrics.clone());
        let node: Arc<str> = config.node.as_str().into();
        let workers = consumers.into_iter().map(|consumer: InProcessConsumer| {
            let (stores, node) = (stores.clone(), Arc::clone(&node));
            let worker = Worker::new(Box::new(consumer), stores, node, shared.metrics.clone());
            shared.tasks.spawn("worker", worker.run())
        });
        let workers = workers.collect();

        let stop_publisher = CancellationToken::new();
        let producer: Arc<dyn Producer> = Arc::new(producer);
        let publisher = Publisher::new(
            wal.clone(),
            unsettled,
            producer,
            &config.publisher,
            shared.metrics.clone(),
        );
        let publisher = shared
            .tasks
            .spawn("publisher", publisher.run(stop_publisher.clone()));
        Self {
            publisher,
            workers,
            loader,
            stop_publisher,
            stop_loader,
        }
    }
}

fn start_loader(
    config: &Config,
    shared: &Shared,
    objects: Arc<LocalObjects>,
    inbox: Arc<Notify>,
    stop: CancellationToken,
) -> Running<Loader> {
    let warehouse =
        SqliteWarehouse::new(config.loader.sqlite_path.clone(), Arc::clone(&shared.clock));
    let context = loader::Context {
        clock: Arc::clone(&shared.clock),
        metrics: shared.metrics.clone(),
        health: shared.health.clone(),
    };
    let loader = Loader::new(
        objects,
        Box::new(warehouse),
        context,
        config.loader.interval,
    )
    .with_retention(loader::Keep {
        store_days: config.loader.store_retention_days,
        warehouse_days: config.loader.warehouse_retention_days,
    });
    shared.tasks.spawn("loader", loader.run(inbox, stop))
}

/// In front of the log: the public port, the gRPC port, the admin port.
struct Doors {
    servers: Vec<Running<()>>,
    admin: Running<std::io::Result<()>>,
    drain: CancellationToken,
    stop_admin: CancellationToken,
}

impl Doors {
    fn open(sockets: Sockets, config: &Config, shared: &Shared, wal: &Wal) -> Self {
        let Sockets { http, grpc, admin } = sockets;
        let drain = CancellationToken::new();
        let servers = servers(wal.clone(), [http, grpc], config, shared, &drain);
        let stop_admin = CancellationToken::new();
        let router = admin::router(shared.metrics.clone(), wal.clone(), shared.health.clone());
        let admin = shared
            .tasks
            .spawn("admin", admin::serve(admin, router, stop_admin.clone()));
        Self {
            servers,
            admin,
            drain,
            stop_admin,
        }
    }
}

/// Starts the public port's and the gRPC port's servers in front of a log.
fn servers(
    log: impl Log,
    [http, grpc]: [TcpListener; 2],
    config: &Config,
    shared: &Shared,
    drain: &CancellationToken,
) -> Vec<Running<()>> {
    let ingress = Ingress::new(
        log,
        Arc::clone(&shared.clock),
        shared.metrics.clone(),
        config.ingress.clone(),
        shared.health.clone(),
    );
    let stop = server::Stop {
        drain: drain.clone(),
        grace: config.drain_timeout,
    };
    let server = Server::new(ingress, shared.tasks.clone(), stop);
    let doors = [(http, Door::Public), (grpc, Door::GrpcOnly)].map(|(listener, door)| {
        let server = server.clone();
        shared
            .tasks
            .spawn("server", async move { server.serve(listener, door).await })
    });
    doors.into()
}

/// The ports, bound; nobody is served before the pipeline stands.
struct Sockets {
    http: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    /// Binds them and says where: the first line of the log.
    fn bind(config: &Config, wal: &Wal) -> anyhow::Result<Self> {
        let http = bind("HTTP", config.ingress.http_addr)?;
        let grpc = bind("gRPC", config.ingress.grpc_addr)?;
        let admin = bind("admin", config.admin.addr)?;
        let admin_addr = admin.local_addr()?;
        wal.announce(admin_addr)
            .context("announce the log's owner")?;
        tracing::info!(
            http = %http.local_addr()?,
            grpc = %grpc.local_addr()?,
            admin = %admin_addr,
            data_dir = %config.data_dir.display(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        Ok(Self { http, grpc, admin })
    }
}

fn bind(door: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(addr).with_context(|| format!("bind the {door} port at {addr}"))
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Stops every part in the order of the path, all of them within one budget.
async fn drain(config: &Config, shared: &Shared, wal: Wal, pipeline: Pipeline, doors: Doors) {
    let deadline = Instant::now() + config.drain_timeout;
    shared.health.not_ready("shutdown", Some("draining".into()));
    doors.drain.cancel();
    phase("doors", deadline, futures::future::join_all(doors.servers)).await;
    pipeline.stop_publisher.cancel();
    let aborts = pipeline.publisher.abort_handle();
    if !phase("publisher", deadline, pipeline.publisher).await {
        // Its end of the queue goes with it, so that the workers come to an end too.
        aborts.abort();
    }
    shared.give_up.cancel();
    // What follows only lets go; it gets a moment of its own even if the budget is spent.
    let deadline = deadline.max(Instant::now() + LETTING_GO);
    phase(
        "workers",
        deadline,
        futures::future::join_all(pipeline.workers),
    )
    .await;
    pipeline.stop_loader.cancel();
    if let Some(loader) = pipeline.loader {
        phase("loader", deadline, empty_inbox(loader)).await;
    }
    phase("log", deadline, wal.close()).await;
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
