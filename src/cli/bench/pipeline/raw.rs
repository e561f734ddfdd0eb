//! What the emulator gives at most: messages of the same size through the same client library, with nothing before and
//! nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_pubsub::client::{Publisher, Subscriber};
use google_cloud_pubsub::model::Message;
use serde::Serialize;
use tokio::time::Instant;

use super::emulators::Emulators;
use crate::cli::bench::{Bench, BenchError};
use crate::queue::pubsub::{PubSubOptions, set_up};
use crate::telemetry::Metrics;

/// How many messages there are under way: one per lane, as the publisher has it.
const KEYS: u64 = 16;
/// The most messages that are filled in.
pub(super) const MESSAGES_MAX: u64 = 20_000;
/// The most that a puller holds, as a worker does.
const HELD_MESSAGES: i64 = 20_000;
/// The same in bytes.
const HELD_BYTES: i64 = 64 << 20;
/// How long the next message may take.
const NEXT_WITHIN: Duration = Duration::from_secs(30);

/// What is sent and pulled.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) message: Bytes,
    /// How many are filled in.
    pub(super) messages: u64,
    /// How many more come in per second while they are pulled.
    pub(super) meanwhile: f64,
}

/// What came of it, in messages per second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ceiling {
    pub(super) published: f64,
    pub(super) pulled: f64,
}

/// Publishes all, then pulls and acknowledges as many while more are published.
pub(super) async fn ceiling(
    bench: &mut Bench<'_>,
    emulators: &Emulators,
    load: &Load,
) -> Result<Ceiling, BenchError> {
    let names = emulators.fresh().await?;
    let options = emulators.options(&names);
    set_up(&options)
        .await
        .map_err(|error| BenchError::Emulator("make a topic", error.to_string()))?;
    let (publisher, subscriber) = clients(&options).await?;
    let started = Instant::now();
    publish(&publisher, load).await?;
    let published = load.messages as f64 / started.elapsed().as_secs_f64();
    let pulling = pull(&subscriber, &options, load.messages);
    let pulled = tokio::select! {
        // Not polled again after either has ended.
        pulled = pulling => pulled?,
        failed = keep_publishing(&publisher, load) => return Err(failed),
    };
    emulators.forget(&names).await?;
    bench.say(&format!(
        "raw: {published:.0} messages/s of {} bytes published, {pulled:.0} pulled",
        load.message.len()
    ));
    Ok(Ceiling { published, pulled })
}

async fn clients(options: &PubSubOptions) -> Result<(Publisher, Subscriber), BenchError> {
    let failed = |error: crate::queue::pubsub::ClientError| {
        BenchError::Emulator("make a client of Pub/Sub", error.to_string())
    };
    let publisher = options.publisher(&Metrics::new()).await.map_err(failed)?;
    let subscriber = options.subscriber().await.map_err(failed)?;
    Ok((publisher, subscriber))
}

fn message(load: &Load, key: u64) -> Message {
    Message::new()
        .set_data(load.message.clone())
        .set_ordering_key(format!("key-{key}"))
}

async fn one(publisher: &Publisher, load: &Load, key: u64) -> Result<(), BenchError> {
    let published = publisher.publish(message(load, key)).await;
    let failed = |error: google_cloud_pubsub::error::PublishError| {
        BenchError::Emulator("publish", error.to_string())
    };
    published.map(drop).map_err(failed)
}

/// All of them, one of each key at a time.
async fn publish(publisher: &Publisher, load: &Load) -> Result<(), BenchError> {
    let next = AtomicU64::new(0);
    let keys = (0..KEYS).map(|key| {
        let next = &next;
        async move {
            while next.fetch_add(1, Ordering::Relaxed) < load.messages {
                one(publisher, load, key).await?;
            }
            Ok(())
        }
    });
    futures::future::try_join_all(keys).await.map(drop)
}

/// More at the appointed times, until it fails or is dropped.
async fn keep_publishing(publisher: &Publisher, load: &Load) -> BenchError {
    let each = Duration::from_secs_f64(KEYS as f64 / load.meanwhile.max(0.1));
    let keys = (0..KEYS).map(|key| async move {
        let mut times = tokio::time::interval(each);
        loop {
            times.tick().await;
            if let Err(error) = one(publisher, load, key).await {
                return error;
            }
        }
    });
    let keys = keys.map(Box::pin);
    futures::future::select_all(keys).await.0
}

/// Messages per second, pulled and acknowledged one after another.
async fn pull(
    subscriber: &Subscriber,
    options: &PubSubOptions,
    messages: u64,
) -> Result<f64, BenchError> {
    let failed = |error: String| BenchError::Emulator("pull", error);
    let mut stream = subscriber
        .subscribe(options.subscription_path())
        .set_max_outstanding_messages(HELD_MESSAGES)
        .set_max_outstanding_bytes(HELD_BYTES)
        .build();
    let started = Instant::now();
    for _ in 0..messages {
        let next = tokio::time::timeout(NEXT_WITHIN, stream.next())
            .await
            .map_err(|_elapsed| failed(format!("nothing came within {NEXT_WITHIN:?}")))?;
        let (_, handle) = next
            .ok_or_else(|| failed("the stream ended".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        handle.ack();
    }
    Ok(messages as f64 / started.elapsed().as_secs_f64())
}
