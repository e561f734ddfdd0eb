//! Google Cloud's back ends. What is missing or denied prevents a start; what cannot be reached never does.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{Queue, Store};
use crate::app::Shared;
use crate::config::{Config, PubSubConfig, StoreConfig, WarehouseConfig};
use crate::loader::Warehouse;
use crate::queue::gather;
use crate::queue::pubsub::{self, Found, PubSubOptions, PubSubProducer};
use crate::telemetry::with_causes;

/// The most messages that a worker process holds.
const MESSAGES_MAX: usize = 20_000;

pub(super) async fn store(config: &StoreConfig, _shared: &Shared) -> anyhow::Result<Store> {
    anyhow::bail!("not wired yet: {config:?}")
}

pub(super) fn warehouse(
    config: &WarehouseConfig,
    _shared: &Shared,
) -> anyhow::Result<Option<Box<dyn Warehouse>>> {
    anyhow::bail!("not wired yet: {config:?}")
}

pub(super) async fn queue(
    config: &Config,
    pubsub: &PubSubConfig,
    shared: &Shared,
    stop: &CancellationToken,
) -> anyhow::Result<Queue> {
    let options = PubSubOptions {
        project: pubsub.project.clone(),
        topic: pubsub.topic.clone(),
        subscription: pubsub.subscription.clone(),
        create: pubsub.create,
        retention: pubsub.retention,
        verify_every: pubsub.verify_every,
        endpoint: pubsub.endpoint.clone(),
    };
    let found = set_up(&options).await?;
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
            run: pubsub.run,
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
async fn set_up(options: &PubSubOptions) -> anyhow::Result<Option<Found>> {
    match pubsub::set_up(options).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_outage() => {
            tracing::warn!(error = with_causes(&error), "pubsub_not_reached_at_start");
            Ok(None)
        }
        Err(error) => Err(error).context("set up Pub/Sub"),
    }
}
