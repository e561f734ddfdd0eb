//! Google Cloud's back ends. What is missing or denied prevents a start; what cannot be reached never does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Queue, Store, over_objects, retrying};
use crate::app::Shared;
use crate::app::ahead::Asked;
use crate::config::{Config, Endpoint, PubSubConfig, Role, StoreConfig, WarehouseConfig};
use crate::loader::bigquery::{self, BigQueryOptions, BigQueryWarehouse};
use crate::loader::warehouse::WarehouseError;
use crate::loader::{Limits, Warehouse};
use crate::queue::gather;
use crate::queue::pubsub::{self, Found, PubSubOptions, PubSubProducer, SetUpError};
use crate::store::firestore::FirestoreOptions;
use crate::store::{Disposition, FirestoreStore, GcsObjects, GcsOptions, WriteError};
use crate::telemetry::with_causes;

/// The most messages that a worker process holds.
const MESSAGES_MAX: usize = 20_000;

/// How long one attempt of a call to the store may take, the upload of an object included.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a start waits for a service to say whether it lets us in: its outage holds nothing up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Why a service cannot be reached now, if so; an error is what prevents a start.
async fn outage<E: std::error::Error>(
    check: impl Future<Output = Result<(), E>>,
    prevents_start: impl Fn(&E) -> bool,
) -> Result<Option<String>, E> {
    match timeout(ANSWERS_WITHIN, check).await {
        Ok(Ok(())) => Ok(None),
        Ok(Err(error)) if prevents_start(&error) => Err(error),
        Ok(Err(error)) => Ok(Some(with_causes(&error))),
        Err(late) => Ok(Some(late.to_string())),
    }
}

pub(super) async fn store(config: &StoreConfig, shared: &Shared) -> anyhow::Result<Store> {
    match config {
        StoreConfig::Gcs { bucket, endpoint } => gcs(bucket, endpoint, shared).await,
        StoreConfig::Firestore { project, endpoint } => firestore(project, endpoint, shared).await,
        StoreConfig::Local(dir) => anyhow::bail!("{} is not in a cloud", dir.display()),
    }
}

async fn firestore(project: &str, endpoint: &Endpoint, shared: &Shared) -> anyhow::Result<Store> {
    let options = FirestoreOptions::new(endpoint.clone(), project);
    let store = FirestoreStore::new(&options).context("open the event store")?;
    let refuses = |error: &WriteError| error.disposition() == Disposition::Alarm;
    let outage = outage(Box::pin(store.check()), refuses).await;
    if let Some(error) = outage.context("open the event store")? {
        tracing::warn!(error, "store_not_reached_at_start");
    }
    Ok(Store {
        stores: retrying(store, shared),
        objects: None,
        inbox: Arc::default(),
        name: format!("Firestore of {project}"),
        asked: Asked::InParts,
    })
}

async fn gcs(bucket: &str, endpoint: &Endpoint, shared: &Shared) -> anyhow::Result<Store> {
    let options = GcsOptions {
        bucket: bucket.to_owned(),
        endpoint: endpoint.clone(),
        request_timeout: STORE_TIMEOUT,
    };
    let opened = GcsObjects::open(options, shared.metrics.clone()).await;
    let objects = opened.context("open the event store")?;
    // It has a limit of its own.
    match objects.check().await {
        Ok(()) => {}
        Err(error) if error.prevents_start() => return Err(error).context("open the event store"),
        Err(error) => tracing::warn!(error = with_causes(&error), "store_not_reached_at_start"),
    }
    // Each round of the loader costs jobs: they keep to its interval, whatever was put meanwhile.
    let inbox = Arc::default();
    let place = (format!("gs://{bucket}"), Asked::InParts);
    Ok(over_objects(Arc::new(objects), inbox, place, shared))
}

/// BigQuery; `None` where an emulator stands in for another service and there is none for this one.
pub(super) async fn warehouse(
    config: &WarehouseConfig,
    shared: &Shared,
) -> anyhow::Result<Option<(Box<dyn Warehouse>, Limits)>> {
    let WarehouseConfig::BigQuery {
        project,
        dataset,
        table,
        bucket,
        endpoint,
        dedup_days,
        location,
    } = config
    else {
        anyhow::bail!("no warehouse of a cloud");
    };
    let Some(endpoint) = endpoint else {
        let text = "BIGQUERY_EMULATOR_HOST is not set, and the real BigQuery is never called beside an emulator: objects wait in the bucket";
        tracing::warn!(reason = text, "warehouse_not_loaded");
        shared.health.degraded("warehouse", Some(text.to_owned()));
        return Ok(None);
    };
    let options = BigQueryOptions {
        dedup_days: *dedup_days,
        location: location.clone(),
        ..BigQueryOptions::new(endpoint.clone(), project, dataset, table, bucket)
    };
    let mut warehouse =
        BigQueryWarehouse::new(options, Arc::clone(&shared.clock)).context("open the warehouse")?;
    let refuses = |error: &WarehouseError| matches!(error, WarehouseError::Denied { .. });
    let outage = outage(Box::pin(warehouse.check()), refuses).await;
    if let Some(error) = outage.context("open the warehouse")? {
        // The loader goes on asking.
        tracing::warn!(error, "warehouse_not_reached_at_start");
    }
    Ok(Some((Box::new(warehouse), bigquery::LIMITS)))
}

pub(super) async fn queue(
    config: &Config,
    pubsub: &PubSubConfig,
    shared: &Shared,
    stop: &CancellationToken,
) -> anyhow::Result<Queue> {
    if !config.role.takes_in() && !config.role.stores() {
        // A loader speaks to store and warehouse alone, and has no rights beside.
        return Ok(Queue::default());
    }
    let PubSubConfig { options, run } = pubsub.clone();
    let found = set_up(&options, config.role).await?;
    let mut queue = Queue::default();
    if config.role.takes_in() {
        queue.producer = Some(Arc::new(PubSubProducer::new(
            options.clone(),
            config.node.as_str().into(),
            found,
            (shared.health.clone(), shared.metrics.clone()),
            shared.give_up.clone(),
        )));
    }
    if config.role.stores() {
        let rules = gather::Rules {
            run,
            budget_bytes: config.publisher.budget_bytes,
            budget_messages: MESSAGES_MAX,
        };
        let (health, metrics) = (shared.health.clone(), shared.metrics.clone());
        let (puller, consumers) =
            pubsub::consumers(config.workers, options, rules, health, metrics);
        for consumer in consumers {
            queue.consumers.push(Box::new(consumer));
        }
        let pulling = puller.run(stop.clone(), shared.give_up.clone());
        queue.feeder = Some(shared.tasks.spawn("puller", pulling));
    }
    Ok(queue)
}

/// Topic and subscription, made where they may be; `None` while Pub/Sub cannot be reached.
async fn set_up(options: &PubSubOptions, role: Role) -> anyhow::Result<Option<Found>> {
    match pubsub::set_up(options).await {
        Ok(found) => {
            if let Some(keeps) = found.keeps_less_than(options.retention) {
                tracing::warn!(
                    subscription = options.subscription,
                    keeps_hours = keeps.as_secs_f64() / 3_600.0,
                    expected_hours = options.retention.as_secs_f64() / 3_600.0,
                    "subscription_keeps_less_than_configured"
                );
            }
            if found.identity.is_none() {
                let action = "give it a label eventkit-identity, of another value each time that it is made: without it one that is deleted and made again between two looks is taken for the same, and what was published in between is gone";
                tracing::warn!(
                    subscription = options.subscription,
                    action,
                    "subscription_has_no_label"
                );
            }
            Ok(Some(found))
        }
        Err(error) if error.is_outage() => {
            tracing::warn!(error = with_causes(&error), "pubsub_not_reached_at_start");
            Ok(None)
        }
        // Whoever only receives is who it has to be emptied by.
        Err(error @ SetUpError::Orphaned { .. }) if !role.takes_in() => {
            tracing::warn!(error = with_causes(&error), "subscription_without_topic");
            Ok(None)
        }
        Err(error) => Err(error).context("set up Pub/Sub"),
    }
}
