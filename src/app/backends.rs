//! Which back end each seam gets: with `app.rs` the only place that names them.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ahead::Asked;
use super::{Running, Shared};
use crate::backoff::Backoff;
use crate::config::{Config, QueueConfig, StoreConfig, WarehouseConfig};
use crate::loader::{Limits, SqliteWarehouse, Warehouse};
use crate::queue::{Consumer, Producer, in_process};
use crate::store::{ErrorStore, EventStore, LocalObjects, ObjectEventStore, Objects, Retrying};
use crate::worker::Stores;

#[cfg(feature = "cloud")]
mod cloud;

/// Where batches go.
pub(super) struct Store {
    /// Both ends, with retries around them.
    pub(super) stores: Stores,
    /// What the loader reads, where the store consists of objects.
    pub(super) objects: Option<Arc<dyn Objects>>,
    /// Told when this process put a marker.
    pub(super) inbox: Arc<Notify>,
    /// What a person calls it.
    pub(super) name: String,
    /// How its names are best asked for.
    pub(super) asked: Asked,
}

/// Opens the event store.
#[cfg_attr(
    not(feature = "cloud"),
    expect(clippy::unused_async, reason = "only a cloud is asked first")
)]
pub(super) async fn store(config: &Config, shared: &Shared) -> anyhow::Result<Store> {
    match &config.store {
        StoreConfig::Local(dir) => {
            let objects = LocalObjects::open(dir).context("open the event store")?;
            let inbox = objects.inbox_changed();
            let place = (dir.display().to_string(), Asked::Whole);
            Ok(over_objects(Arc::new(objects), inbox, place, shared))
        }
        #[cfg(feature = "cloud")]
        cloud => cloud::store(cloud, shared).await,
        #[cfg(not(feature = "cloud"))]
        _ => anyhow::bail!(NO_CLOUD),
    }
}

fn over_objects<O: Objects>(
    objects: Arc<O>,
    inbox: Arc<Notify>,
    (name, asked): (String, Asked),
    shared: &Shared,
) -> Store {
    Store {
        stores: retrying(ObjectEventStore::new(Arc::clone(&objects)), shared),
        objects: Some(objects),
        inbox,
        name,
        asked,
    }
}

fn retrying(store: impl EventStore + ErrorStore, shared: &Shared) -> Stores {
    Stores::both(Arc::new(Retrying::new(
        store,
        Backoff::default(),
        shared.health.clone(),
        shared.metrics.clone(),
        shared.give_up.clone(),
    )))
}

/// Opens the warehouse, with how much one manifest for it takes; `None` where there is none to be had, which is said.
#[cfg_attr(
    not(feature = "cloud"),
    expect(clippy::unused_async, reason = "only a cloud is asked first")
)]
pub(super) async fn warehouse(
    config: &WarehouseConfig,
    shared: &Shared,
) -> anyhow::Result<Option<(Box<dyn Warehouse>, Limits)>> {
    match config {
        WarehouseConfig::Sqlite(path) => {
            let warehouse = SqliteWarehouse::new(path.clone(), Arc::clone(&shared.clock));
            Ok(Some((Box::new(warehouse), Limits::default())))
        }
        #[cfg(feature = "cloud")]
        cloud => cloud::warehouse(cloud, shared).await,
        #[cfg(not(feature = "cloud"))]
        _ => anyhow::bail!(NO_CLOUD),
    }
}

/// Both ends of the queue, as far as this process has them.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) producer: Option<Arc<dyn Producer>>,
    pub(super) consumers: Vec<Box<dyn Consumer>>,
    /// What feeds the consumers, where that is a task of its own.
    pub(super) feeder: Option<Running<()>>,
}

/// Opens the queue. What feeds its consumers ends when `stop` fires.
#[cfg_attr(
    not(feature = "cloud"),
    expect(
        unused_variables,
        reason = "in the process nothing feeds the consumers"
    )
)]
#[cfg_attr(
    not(feature = "cloud"),
    expect(clippy::unused_async, reason = "only a cloud is asked first")
)]
pub(super) async fn queue(
    config: &Config,
    shared: &Shared,
    stop: &CancellationToken,
) -> anyhow::Result<Queue> {
    match &config.queue {
        QueueConfig::InProcess => {
            let (producer, consumers) =
                in_process(config.workers, Backoff::default(), shared.metrics.clone());
            let consumers = consumers.into_iter();
            Ok(Queue {
                producer: Some(Arc::new(producer)),
                consumers: consumers
                    .map(|end| Box::new(end) as Box<dyn Consumer>)
                    .collect(),
                feeder: None,
            })
        }
        #[cfg(feature = "cloud")]
        QueueConfig::PubSub(pubsub) => cloud::queue(config, pubsub, shared, stop).await,
        #[cfg(not(feature = "cloud"))]
        QueueConfig::PubSub(_) => anyhow::bail!(NO_CLOUD),
    }
}

/// Never seen: the configuration refuses it first.
#[cfg(not(feature = "cloud"))]
const NO_CLOUD: &str = "this build has no Google Cloud in it (the cargo feature `cloud`)";
