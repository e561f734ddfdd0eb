//! Behind the log: publisher → queue → workers → store → loader, as far as this process has them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ahead::{self, Place};
use super::backends::{self, Queue, Store};
use super::{LETTING_GO, Running, Shared, phase};
use crate::config::{Config, LoaderConfig};
use crate::event::Offset;
use crate::loader::{self, Loader};
use crate::publisher::{PublishError, Publisher};
use crate::queue::{Consumer, Producer};
use crate::wal::{Unsettled, Wal};
use crate::worker::{Stores, Worker};

/// The parts that run.
pub(super) struct Pipeline {
    pub(super) publisher: Option<Running<Result<(), PublishError>>>,
    /// How far everything is with the queue.
    pub(super) sent: Option<watch::Receiver<Offset>>,
    /// The workers, and what feeds them.
    pub(super) workers: Vec<Running<()>>,
    pub(super) loader: Option<Running<Loader>>,
    pub(super) stop_publisher: CancellationToken,
    pub(super) stop_workers: CancellationToken,
    pub(super) stop_loader: CancellationToken,
}

impl Pipeline {
    /// Starts the parts of this process's role, in the reverse order of the path; the publisher where there is a log.
    pub(super) async fn start(
        config: &Config,
        shared: &Shared,
        log: Option<(&Wal, Unsettled)>,
    ) -> anyhow::Result<Self> {
        let (stop_publisher, stop_workers, stop_loader) = Default::default();
        let store = if config.role.stores() || config.role.loads() {
            Some(backends::store(config, shared).await?)
        } else {
            None
        };
        if let (Some((wal, _)), Some(store)) = (&log, &store) {
            compare(wal, config, store).await?;
        }
        let loader = match &store {
            Some(store) => start_loader(&config.loader, shared, store, &stop_loader).await?,
            None => None,
        };
        let Queue {
            producer,
            consumers,
            feeder,
        } = backends::queue(config, shared, &stop_workers).await?;
        let mut workers = match store {
            Some(store) if config.role.stores() => {
                start_workers(config, shared, consumers, &store.stores)
            }
            _ => Vec::new(),
        };
        workers.extend(feeder);
        let publisher = log.zip(producer).map(|((wal, unsettled), producer)| {
            publisher(config, shared, producer, (wal, unsettled))
        });
        let sent = publisher.as_ref().map(Publisher::sent);
        let publisher = publisher.map(|publisher| {
            let publishing = publisher.run(CancellationToken::clone(&stop_publisher));
            shared.tasks.spawn("publisher", publishing)
        });
        Ok(Self {
            publisher,
            sent,
            workers,
            loader,
            stop_publisher,
            stop_workers,
            stop_loader,
        })
    }

    /// How the publisher ended; never, where there is none. Cancel safe, and not to be called again afterwards.
    pub(super) async fn publisher_ended(&mut self) -> Option<Result<(), PublishError>> {
        match &mut self.publisher {
            Some(publisher) => publisher.await.ok().flatten(),
            None => std::future::pending().await,
        }
    }

    /// Ends the publisher where it stands: what is not settled stays in the log.
    pub(super) fn abort_publisher(&mut self) {
        if let Some(publisher) = &self.publisher {
            publisher.abort();
        }
    }

    /// Ends publisher and workers, in order and within the budget: what is on its way arrives, or stays where it is.
    pub(super) async fn drain(&mut self, shared: &Shared, deadline: Instant) {
        self.stop_publisher.cancel();
        if let Some(publisher) = self.publisher.take() {
            let aborts = publisher.abort_handle();
            if !phase("publisher", deadline, publisher).await {
                // Its end of the queue goes with it, so that the workers come to an end too.
                aborts.abort();
            }
        }
        self.end_workers(shared, deadline).await;
    }

    /// Ends the workers: within the budget they store what they have, then they let go.
    pub(super) async fn end_workers(&mut self, shared: &Shared, deadline: Instant) {
        self.stop_workers.cancel();
        let mut workers = futures::future::join_all(self.workers.drain(..));
        if Instant::now() < deadline && phase("workers", deadline, &mut workers).await {
            return;
        }
        shared.give_up.cancel();
        // What follows only lets go; it gets a moment of its own even if the budget is spent.
        phase("workers", Instant::now() + LETTING_GO, workers).await;
    }
}

/// Makes sure that the log is not an older copy of what the store knows of it.
async fn compare(wal: &Wal, config: &Config, store: &Store) -> anyhow::Result<()> {
    let Some(objects) = &store.objects else {
        return Ok(());
    };
    let place = Place {
        objects: &**objects,
        name: &store.name,
        asked: store.asked,
    };
    ahead::check(wal, &config.wal.path, place)
        .await
        .context("open the log")
}

fn publisher(
    config: &Config,
    shared: &Shared,
    producer: Arc<dyn Producer>,
    (wal, unsettled): (&Wal, Unsettled),
) -> Publisher {
    let metrics = shared.metrics.clone();
    Publisher::new(wal.clone(), unsettled, producer, &config.publisher, metrics)
}

fn start_workers(
    config: &Config,
    shared: &Shared,
    consumers: Vec<Box<dyn Consumer>>,
    stores: &Stores,
) -> Vec<Running<()>> {
    let node: Arc<str> = config.node.as_str().into();
    let workers = consumers.into_iter().map(|consumer| {
        let (stores, node) = (stores.clone(), Arc::clone(&node));
        let worker = Worker::new(consumer, stores, node, shared.metrics.clone());
        shared.tasks.spawn("worker", worker.run())
    });
    workers.collect()
}

async fn start_loader(
    config: &LoaderConfig,
    shared: &Shared,
    store: &Store,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Running<Loader>>> {
    let (Some(warehouse), Some(objects)) = (&config.warehouse, &store.objects) else {
        return Ok(None);
    };
    let Some((warehouse, limits)) = backends::warehouse(warehouse, shared).await? else {
        return Ok(None);
    };
    let context = loader::Context {
        clock: Arc::clone(&shared.clock),
        metrics: shared.metrics.clone(),
        health: shared.health.clone(),
    };
    let interval: Duration = config.interval;
    let loader = Loader::new(Arc::clone(objects), warehouse, context, interval)
        .with_limits(limits)
        .with_retention(loader::Keep {
            store_days: config.store_retention_days,
            warehouse_days: config.warehouse_retention_days,
        });
    let loading = loader.run(Arc::clone(&store.inbox), stop.clone());
    Ok(Some(shared.tasks.spawn("loader", loading)))
}
