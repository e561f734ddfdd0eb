//! A topic behind the topic, and between them somebody who does to messages what a queue may do, and more: batches come twice, in
//! another order, damaged, or in a format that nobody knows yet.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use eventkit::queue::pubsub::{PubSubOptions, set_up};
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{Publisher, Subscriber};
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::back::Kind;
use super::engine;
use super::set::{Plan, Queue, Set};
use crate::load::Load;
use crate::scenario::{Scenario, Settings, Stage};

/// How long messages of a lane are kept to be shuffled.
const KEPT: Duration = Duration::from_millis(500);
/// How many of a lane are shuffled at the most.
const KEPT_MAX: usize = 6;
/// How long it may take until much has arrived.
const AGAIN_WITHIN: Duration = Duration::from_secs(180);
/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(60);

/// The scenarios of this family: messages of an unknown format are kept for a minute before they are given back.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let name = "cloud::copies_another_order_damage_and_unknown_formats_change_nothing".to_owned();
    vec![Scenario::alone(name, engine(settings, 0), relayed)]
}

/// What was done to messages.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    batches: u64,
    moved: u64,
    copies: u64,
    damaged: u64,
    unknown: u64,
}

/// A worker is killed from time to time, too.
async fn relayed(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Local);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    set.damaged = true;
    let front = set.options.clone().context("no Pub/Sub")?;
    set_up(&front).await?;
    let name = uuid::Uuid::new_v4().simple().to_string();
    let behind = PubSubOptions {
        topic: format!("topic-{name}"),
        subscription: format!("workers-{name}"),
        ..front.clone()
    };
    set_up(&behind).await?;
    // One relay passes on what all lanes send: it should keep up on a busy machine.
    let mut load = Load::paced(&stage, plan.pace() * 4);
    let (gateway, worker, loader) = (
        set.place("gateway")?,
        set.place("worker")?,
        set.place("loader")?,
    );
    set.start(gateway, &load).await?;
    set.set("EVENTKIT_PUBSUB_TOPIC", &behind.topic);
    set.set("EVENTKIT_PUBSUB_SUBSCRIPTION", &behind.subscription);
    set.start(worker, &load).await?;
    set.start(loader, &load).await?;
    load.expect_alarm("damaged_message_dead_lettered");
    let stop = CancellationToken::new();
    let mut relay = JoinSet::new();
    relay.spawn(Relay::new(stage.settings.seed).run(front, behind.clone(), stop.clone()));
    let mut rng = StdRng::seed_from_u64(stage.settings.seed + 1);
    for _ in 0..4 {
        set.grows(4_000, AGAIN_WITHIN)
            .await
            .context("through the relay")?;
        set.kill(worker, &mut load).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
        set.start(worker, &load).await?;
    }
    set.grows(500, AGAIN_WITHIN)
        .await
        .context("after the last kill")?;
    if let Some(ended) = relay.try_join_next() {
        anyhow::bail!("the relay ended early: {ended:?}");
    }
    set.forget_also(behind);
    set.finish(load).await?;
    stop.cancel();
    let done = relay.join_next().await.context("the relay")???;
    stage.figure(&format!("{done:?}"))?;
    anyhow::ensure!(
        done.moved > 0 && done.copies > 0 && done.damaged > 0 && done.unknown > 0,
        "nothing was proved"
    );
    Ok(())
}

/// Whether the topic behind is not there any more: it goes when the run is over, and copies may still be on their way then.
fn is_gone(error: &PublishError) -> bool {
    let PublishError::Rpc(error) = error else {
        return false;
    };
    error
        .status()
        .is_some_and(|status| status.code == Code::NotFound)
}

/// What is kept of a lane, and since when.
type Kept = (Instant, Vec<(Message, Handler)>);

struct Relay {
    rng: StdRng,
    lanes: BTreeMap<String, Kept>,
    done: Done,
}

impl Relay {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            lanes: BTreeMap::new(),
            done: Done::default(),
        }
    }

    /// Passes on what it is given until it is stopped; what a publish holds is acknowledged only after it.
    async fn run(
        mut self,
        from: PubSubOptions,
        to: PubSubOptions,
        stop: CancellationToken,
    ) -> Result<Done> {
        let url = from.endpoint.url().context("an emulator has a URL")?;
        let publisher = Publisher::builder(format!("projects/{}/topics/{}", to.project, to.topic))
            .with_endpoint(url)
            .with_credentials(anonymous::Builder::new().build())
            .set_message_count_threshold(1)
            .build()
            .await?;
        let subscriber = Subscriber::builder()
            .with_endpoint(url)
            .with_credentials(anonymous::Builder::new().build())
            .build()
            .await?;
        let path = format!(
            "projects/{}/subscriptions/{}",
            from.project, from.subscription
        );
        let mut stream = subscriber.subscribe(path).build();
        loop {
            let oldest = self.lanes.values().map(|(since, _)| *since).min();
            let due = oldest.unwrap_or_else(Instant::now) + KEPT;
            tokio::select! {
                () = stop.cancelled() => return Ok(self.done),
                message = stream.next() => {
                    // Its subscription goes when the run is over.
                    let Some(Ok((message, handler))) = message else {
                        return Ok(self.done);
                    };
                    let lane = message.ordering_key.clone();
                    let now = Instant::now();
                    let (_, kept) = self.lanes.entry(lane.clone()).or_insert((now, Vec::new()));
                    kept.push((message, handler));
                    if kept.len() >= KEPT_MAX {
                        self.pass_on(&publisher, &lane).await?;
                    }
                }
                () = sleep_until(due), if oldest.is_some() => {
                    let ripe = self.lanes.iter().filter(|(_, (since, _))| *since + KEPT <= due);
                    let ripe: Vec<String> = ripe.map(|(lane, _)| lane.clone()).collect();
                    for lane in ripe {
                        self.pass_on(&publisher, &lane).await?;
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, publisher: &Publisher, lane: &str) -> Result<()> {
        let Some((_, mut kept)) = self.lanes.remove(lane) else {
            return Ok(());
        };
        let number = |message: &Message| message.attributes.get("number").cloned();
        let before: Vec<_> = kept.iter().map(|(message, _)| number(message)).collect();
        kept.shuffle(&mut self.rng);
        let after = kept.iter().map(|(message, _)| number(message));
        let moved = before
            .iter()
            .zip(after)
            .filter(|(one, other)| *one != other);
        self.done.moved += u64::try_from(moved.count())?;
        for (message, handler) in kept {
            self.done.batches += 1;
            let mut all = vec![message.clone()];
            if self.rng.random_range(0..5) == 0 {
                self.done.copies += 1;
                all.push(message.clone());
            }
            if self.rng.random_range(0..40) == 0 {
                self.done.damaged += 1;
                let mut bytes = message.data.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                let copy = message.clone().set_data(Bytes::from(bytes));
                all.insert(self.rng.random_range(0..=all.len()), copy);
            }
            if self.rng.random_range(0..40) == 0 {
                self.done.unknown += 1;
                // The format's field alone, and a number that is far ahead.
                let copy = message.clone().set_data(Bytes::from_static(&[0x08, 77]));
                all.insert(self.rng.random_range(0..=all.len()), copy);
            }
            for message in all {
                // As a gateway's, whatever the topic in front gave it.
                let message = Message::new()
                    .set_data(message.data)
                    .set_ordering_key(message.ordering_key)
                    .set_attributes(message.attributes);
                let published = timeout(SOON, publisher.publish(message)).await;
                match published.context("the relay publishes")? {
                    Ok(_id) => {}
                    Err(error) if is_gone(&error) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            handler.ack();
        }
        Ok(())
    }
}
