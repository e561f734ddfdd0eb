//! The workers' end: pulls messages, gathers runs, hands one run per lane out at a time, and settles all of its messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use google_cloud_pubsub::model::Message as PubSubMessage;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownToken};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PubSubOptions, name_of, set_up};
use crate::backoff::Backoff;
use crate::clock::sleep_until;
use crate::lifecycle::Health;
use crate::queue::gather::{self, Gatherer, Key, Message};
use crate::queue::{Consumer, Delivery, Settle};
use crate::telemetry::{Metrics, with_causes};

use damaged::Read;

mod damaged;

/// The component's name in readiness.
const COMPONENT: &str = "pubsub subscription";

/// How long a message that a newer version wrote is kept from those who cannot read it either.
const PARKED: Duration = Duration::from_secs(60);

/// The longest that a lease is extended: a store may be out for days.
const LEASE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// For how long a message is leased at a time, extended every few seconds: a worker that dies keeps its lanes waiting for so long.
const LEASE: Duration = Duration::from_secs(20);

/// A stream that is silent for so long, with nothing held, is opened anew over a new connection: the client library does not notice one
/// that leads nowhere.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the last acknowledgements may take to reach Pub/Sub; what does not is delivered once more.
const CLOSING: Duration = Duration::from_secs(5);

/// A worker's end: it asks the [`Puller`] for the next run.
#[derive(Debug)]
pub struct PubSubConsumer {
    ask: mpsc::Sender<oneshot::Sender<Delivery>>,
}

#[async_trait]
impl Consumer for PubSubConsumer {
    async fn receive(&mut self) -> Option<Delivery> {
        let (hand_over, next) = oneshot::channel();
        self.ask.send(hand_over).await.ok()?;
        // Dropped while it waits, it is delivered again.
        next.await.ok()
    }
}

/// Pulls, gathers and settles for all consumers of this process; see [`Puller::run`].
#[derive(Debug)]
pub struct Puller {
    options: PubSubOptions,
    rules: gather::Rules,
    gatherer: Gatherer<Handler>,
    /// Workers that wait for a run.
    asked: mpsc::Receiver<oneshot::Sender<Delivery>>,
    /// What is out, until it is done or given back.
    out: FuturesUnordered<Out>,
    read: damaged::Reader,
    /// Messages that wait for a newer version, oldest first.
    parked: VecDeque<(Instant, Handler)>,
    held: Arc<Held>,
    health: Health,
    metrics: Metrics,
}

/// A run that is out: whose it is, and whether it is stored.
type Out = BoxFuture<'static, (Key, bool)>;

/// What is held, for the gauges.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    messages: AtomicUsize,
}

impl Held {
    fn show(&self, metrics: &Metrics, bytes: usize, messages: usize) {
        let step = |now: usize, held: &AtomicUsize| {
            let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            number(now) - number(held.swap(now, Ordering::Relaxed))
        };
        let bytes = step(bytes, &self.bytes);
        metrics.queue_held_bytes.add(bytes, &[]);
        let messages = step(messages, &self.messages);
        metrics.queue_held_messages.add(messages, &[]);
    }
}

/// Ends for so many workers (at least one), and what feeds them.
#[must_use]
pub fn consumers(
    workers: usize,
    options: PubSubOptions,
    rules: gather::Rules,
    health: Health,
    metrics: Metrics,
) -> (Puller, Vec<PubSubConsumer>) {
    let (ask, asked) = mpsc::channel(1);
    let ends = (0..workers.max(1)).map(|_| PubSubConsumer { ask: ask.clone() });
    let consumers = ends.collect();
    let held = Arc::<Held>::default();
    let puller = Puller {
        options,
        rules,
        gatherer: Gatherer::new(rules),
        asked,
        out: FuturesUnordered::new(),
        read: damaged::Reader::default(),
        parked: VecDeque::new(),
        held,
        health,
        metrics,
    };
    (puller, consumers)
}

/// A stream of messages, and what closes it.
struct Stream {
    messages: mpsc::Receiver<Pulled>,
    close: Option<ShutdownToken>,
}

/// What the stream's own task says.
enum Pulled {
    Opened(ShutdownToken),
    Message(Box<(PubSubMessage, Handler)>),
}

impl Puller {
    /// Feeds the consumers until `stop` fires; then hands out what is gathered without waiting for more, until all of it is
    /// settled or `give_up` fires. What is left is given back, and the consumers come to their end.
    pub async fn run(mut self, stop: CancellationToken, give_up: CancellationToken) {
        let pulling = stop.child_token();
        let (sender, messages) = mpsc::channel(1);
        let mut stream = Stream {
            messages,
            close: None,
        };
        let held = Arc::clone(&self.held);
        let puller = pull(
            self.options.clone(),
            (self.rules, held),
            sender,
            (self.health.clone(), self.metrics.clone()),
            pulling.clone(),
        );
        let feeding = async {
            self.feed(&mut stream, &pulling, &give_up).await;
            // What is left is dropped, that is given back.
            self.held.show(&self.metrics, 0, 0);
            let close = stream.close.take();
            drop((self, stream));
            if let Some(close) = close
                && tokio::time::timeout(CLOSING, close.shutdown())
                    .await
                    .is_err()
            {
                tracing::warn!("subscription_not_closed_in_time");
            }
        };
        futures::future::join(puller, feeding).await;
    }

    async fn feed(
        &mut self,
        stream: &mut Stream,
        stop: &CancellationToken,
        give_up: &CancellationToken,
    ) {
        loop {
            let (now, draining) = (Instant::now(), stop.is_cancelled());
            if give_up.is_cancelled() || (draining && self.gatherer.is_empty()) {
                return;
            }
            self.unpark(now);
            let has_run = self.gatherer.is_ready(now, draining);
            let wants_more = !draining && !self.gatherer.is_full();
            tokio::select! {
                // Cancel safe: a channel.
                worker = self.asked.recv(), if has_run => match worker {
                    Some(worker) => self.hand_out(worker, now, draining),
                    // Every worker is gone.
                    None => return,
                },
                // Cancel safe: the futures stay in the set.
                Some((key, done)) = self.out.next() => self.settle(key, done),
                // Cancel safe: a channel.
                Some(pulled) = stream.messages.recv(), if wants_more => match pulled {
                    Pulled::Opened(close) => stream.close = Some(close),
                    Pulled::Message(message) => self.offer(*message, now),
                },
                // Cancel safe: both are computed again.
                () = sleep_until(self.gatherer.deadline()), if !has_run => {}
                () = sleep_until(self.parked.front().map(|(until, _)| *until)) => {}
                // Cancel safe: tokens stay cancelled.
                () = stop.cancelled(), if !draining => {}
                () = give_up.cancelled() => {}
            }
            let messages = self.gatherer.messages() + self.parked.len();
            self.held
                .show(&self.metrics, self.gatherer.bytes(), messages);
        }
    }

    fn hand_out(&mut self, worker: oneshot::Sender<Delivery>, now: Instant, draining: bool) {
        let Some(run) = self.gatherer.take(now, draining) else {
            return;
        };
        let (settle, settled) = oneshot::channel();
        let key = run.key;
        self.out
            .push(Box::pin(async move { (key, settled.await.is_ok()) }));
        let delivery = Delivery::new(run.batch, 1, Box::new(RunSettle(settle))).from_node(run.node);
        // To a worker that is gone it comes back at once, and is given back.
        drop(worker.send(delivery));
    }

    fn offer(&mut self, (message, handle): (PubSubMessage, Handler), now: Instant) {
        match self.read.read(&message) {
            Read::Batch(batch, node) => {
                let message = Message {
                    batch,
                    node,
                    handle,
                };
                if !self.gatherer.offer(message, now) {
                    self.metrics.queue_redeliveries.add(1, &[]);
                }
            }
            Read::AskAgain => {
                self.metrics.queue_messages_damaged.add(1, &[]);
                handle.nack();
            }
            Read::Wait => {
                self.metrics.queue_messages_parked.add(1, &[]);
                let text = "messages of a newer version wait for a newer worker";
                self.health
                    .degraded("pubsub messages", Some(text.to_owned()));
                self.parked.push_back((now + PARKED, handle));
            }
        }
    }

    /// Gives back what was kept long enough: meanwhile a worker may have come that can read it.
    fn unpark(&mut self, now: Instant) {
        while let Some((until, _)) = self.parked.front() {
            if *until > now {
                return;
            }
            if let Some((_, handle)) = self.parked.pop_front() {
                handle.nack();
            }
        }
        self.health.degraded("pubsub messages", None);
    }

    fn settle(&mut self, key: Key, done: bool) {
        for handle in self.gatherer.settle(key) {
            if done {
                handle.ack();
            } else {
                handle.nack();
            }
        }
    }
}

/// Keeps a stream open until told to stop. The client library reopens one that breaks; what it gives up on is begun anew here.
async fn pull(
    options: PubSubOptions,
    (rules, held): (gather::Rules, Arc<Held>),
    out: mpsc::Sender<Pulled>,
    (health, metrics): (Health, Metrics),
    stop: CancellationToken,
) {
    let backoff = Backoff::default();
    let mut failures = 0_u32;
    while !stop.is_cancelled() && !out.is_closed() {
        let error = match open(&options, rules).await {
            Ok(stream) => {
                let ended = forward(stream, (&out, &held), &stop, &mut failures, &health).await;
                match ended {
                    Ended::Silent => continue,
                    Ended::Failed(error) => error,
                    Ended::Stopped => return,
                }
            }
            Err(error) => error,
        };
        if options.create
            && let Err(error) = set_up(&options).await
        {
            tracing::debug!(error = with_causes(&error), "set_up_failed");
        }
        failures = failures.saturating_add(1);
        metrics.queue_pull_failures.add(1, &[]);
        let needs_a_person = failures == 1;
        if needs_a_person {
            tracing::error!(error, "subscription_unusable");
        } else {
            tracing::warn!(error, attempt = failures, "pull_failed");
        }
        health.degraded(COMPONENT, Some(format!("pulling fails: {error}")));
        tokio::select! {
            // Cancel safe: the token stays cancelled.
            () = stop.cancelled() => return,
            // Cancel safe: a wait that is cut short is forgotten.
            () = tokio::time::sleep(backoff.wait(failures)) => {}
        }
    }
}

async fn open(options: &PubSubOptions, rules: gather::Rules) -> Result<MessageStream, String> {
    let subscriber = options
        .subscriber()
        .await
        .map_err(|error| with_causes(&error))?;
    let limit = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(subscriber
        .subscribe(options.subscription_path())
        .set_max_outstanding_messages(limit(rules.budget_messages))
        .set_max_outstanding_bytes(limit(rules.budget_bytes))
        .set_max_lease_extension(LEASE)
        .set_max_lease(LEASE_MAX)
        .build())
}

/// Why a stream is not read any more.
enum Ended {
    /// It failed.
    Failed(String),
    /// Nothing came and nothing is held: nobody can say whether it still leads anywhere.
    Silent,
    /// Told to stop.
    Stopped,
}

/// Passes messages on until the stream ends, is silent, or is to be stopped.
async fn forward(
    mut stream: MessageStream,
    (out, held): (&mpsc::Sender<Pulled>, &Held),
    stop: &CancellationToken,
    failures: &mut u32,
    health: &Health,
) -> Ended {
    let opened = Pulled::Opened(stream.shutdown_token());
    if out.send(opened).await.is_err() {
        return Ended::Stopped;
    }
    loop {
        let next = tokio::select! {
            // The stream is not asked again after it.
            () = stop.cancelled() => return Ended::Stopped,
            // Not cancel safe to the point of losing a message: the stream is asked again or dropped with all that it has.
            next = tokio::time::timeout(SILENCE, stream.next()) => next,
        };
        match next {
            Ok(Some(Ok(message))) => {
                if std::mem::take(failures) > 0 {
                    health.degraded(COMPONENT, None);
                }
                let message = Pulled::Message(Box::new(message));
                if out.send(message).await.is_err() {
                    return Ended::Stopped;
                }
            }
            Ok(Some(Err(error))) => return Ended::Failed(name_of(&error)),
            Ok(None) => return Ended::Stopped,
            Err(_elapsed) if held.messages.load(Ordering::Relaxed) == 0 => return Ended::Silent,
            Err(_elapsed) => {}
        }
    }
}

/// Says "stored" by sending; says "not done" by being dropped.
#[derive(Debug)]
struct RunSettle(oneshot::Sender<()>);

impl Settle for RunSettle {
    fn ack(self: Box<Self>) {
        // A puller that is gone has given the messages back; they are delivered again and found done.
        self.0.send(()).unwrap_or(());
    }

    fn nack(self: Box<Self>) {}
}
