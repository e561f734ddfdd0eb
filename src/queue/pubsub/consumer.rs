//! The workers' end: pulls messages, gathers runs, hands one run per lane out at a time, and settles all of its messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::{BoxFuture, join, join_all};
use futures::stream::FuturesUnordered;
use google_cloud_pubsub::model::Message as PubSubMessage;
use google_cloud_pubsub::subscriber::ShutdownToken;
use google_cloud_pubsub::subscriber::handler::Handler;
use opentelemetry::KeyValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PubSubOptions;
use crate::clock::sleep_until;
use crate::lifecycle::Health;
use crate::queue::gather::{self, Gatherer, Key, Message, Offered, PATIENCE};
use crate::queue::{Consumer, Delivery, Named, Settle};
use crate::telemetry::Metrics;

use damaged::Read;
use stream::Pulled;

mod damaged;
mod stream;

/// How long a message that a newer version wrote is kept from those who cannot read it either, at first: with it Pub/Sub gives out all of
/// its key again that came later, so that each time is twice as long as the one before. A worker that ends gives it back at once.
const PARKED: Duration = Duration::from_secs(60);
const PARKED_MAX: Duration = Duration::from_secs(16 * 60);

/// For how long a message is leased at a time, extended every few seconds: a worker that dies keeps its lanes waiting for so long.
const LEASE: Duration = Duration::from_secs(20);

// What a dead worker held has to be here before those who wait for it lose their patience; and they have to hear first that nothing comes.
const _: () = assert!(PATIENCE.as_secs() >= 2 * LEASE.as_secs());
const _: () = assert!(PATIENCE.as_secs() > stream::SILENCE.as_secs() + stream::LOOK.as_secs());

/// How many streams that were opened anew are remembered: what is acknowledged at the very end may belong to one of them.
const CLOSED_MAX: usize = 8;

/// How long the last acknowledgements may take to reach Pub/Sub; what does not is delivered once more.
const CLOSING: Duration = Duration::from_secs(5);

/// A worker's end: it asks the [`Puller`] for the next run.
#[derive(Debug)]
pub struct PubSubConsumer {
    ask: mpsc::Sender<oneshot::Sender<Delivery>>,
    named: Named,
}

#[async_trait]
impl Consumer for PubSubConsumer {
    async fn receive(&mut self) -> Option<Delivery> {
        let (hand_over, next) = oneshot::channel();
        self.ask.send(hand_over).await.ok()?;
        // Dropped while it waits, it is delivered again.
        next.await.ok()
    }

    fn named(&self) -> Named {
        self.named.clone()
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
    /// Messages that wait for a newer version, and until when; who goes first is first.
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
    /// Lanes that wait for a batch that is missing.
    early: AtomicUsize,
}

impl Held {
    fn show(&self, metrics: &Metrics, bytes: usize, messages: usize, early: usize) {
        let step = |now: usize, held: &AtomicUsize| {
            let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            number(now) - number(held.swap(now, Ordering::Relaxed))
        };
        let bytes = step(bytes, &self.bytes);
        metrics.queue_held_bytes.add(bytes, &[]);
        let messages = step(messages, &self.messages);
        metrics.queue_held_messages.add(messages, &[]);
        let early = step(early, &self.early);
        metrics.queue_lanes_waiting.add(early, &[]);
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
    let named = Named::pubsub(&options.topic, Some(&options.subscription));
    let ends = (0..workers.max(1)).map(|_| PubSubConsumer {
        ask: ask.clone(),
        named: named.clone(),
    });
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

/// Messages, and what closes the streams that they came by, the newest last.
struct Streams {
    messages: mpsc::Receiver<Pulled>,
    close: VecDeque<ShutdownToken>,
}

impl Streams {
    fn opened(&mut self, close: ShutdownToken) {
        self.close.push_back(close);
        if self.close.len() > CLOSED_MAX {
            self.close.pop_front();
        }
    }
}

impl Puller {
    /// Feeds the consumers until `stop` fires; then hands out what is gathered without waiting for more, until all of it is
    /// settled or `give_up` fires. What is left is given back, and the consumers come to their end.
    pub async fn run(mut self, stop: CancellationToken, give_up: CancellationToken) {
        let pulling = stop.child_token();
        let (sender, messages) = mpsc::channel(1);
        let mut streams = Streams {
            messages,
            close: VecDeque::new(),
        };
        let puller = stream::pull(
            self.options.clone(),
            self.rules,
            sender,
            (self.health.clone(), self.metrics.clone()),
            pulling.clone(),
        );
        let feeding = async {
            self.feed(&mut streams, &pulling, &give_up).await;
            // What is left is dropped, that is given back.
            self.held.show(&self.metrics, 0, 0, 0);
            let close = std::mem::take(&mut streams.close);
            drop((self, streams));
            let closing = join_all(close.iter().map(ShutdownToken::shutdown));
            if tokio::time::timeout(CLOSING, closing).await.is_err() {
                tracing::warn!("subscription_not_closed_in_time");
            }
        };
        join(puller, feeding).await;
    }

    async fn feed(
        &mut self,
        streams: &mut Streams,
        stop: &CancellationToken,
        give_up: &CancellationToken,
    ) {
        loop {
            let (now, draining) = (Instant::now(), stop.is_cancelled());
            if draining {
                self.gatherer
                    .give_back_early(now)
                    .into_iter()
                    .for_each(Handler::nack);
            }
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
                Some((key, done)) = self.out.next() => self.settle(key, done, now),
                // Cancel safe: a channel.
                Some(pulled) = streams.messages.recv(), if wants_more => match pulled {
                    Pulled::Opened(close) => streams.opened(close),
                    Pulled::CutOff => self.gatherer.cut_off(now),
                    Pulled::Reached => self.gatherer.reached(now),
                    Pulled::Message(message) => self.offer(*message, now),
                },
                // Cancel safe: both are computed again.
                () = sleep_until(self.gatherer.deadline()), if !has_run => {}
                () = sleep_until(self.parked.front().map(|(until, _)| *until)) => {}
                // Cancel safe: tokens stay cancelled.
                () = stop.cancelled(), if !draining => {}
                () = give_up.cancelled() => {}
            }
            self.show();
        }
    }

    fn show(&self) {
        let gatherer = &self.gatherer;
        let messages = gatherer.messages() + self.parked.len();
        let early = gatherer.early(Instant::now());
        self.held
            .show(&self.metrics, gatherer.bytes(), messages, early);
    }

    fn hand_out(&mut self, worker: oneshot::Sender<Delivery>, now: Instant, draining: bool) {
        let Some(run) = self.gatherer.take(now, draining) else {
            return;
        };
        let (settle, settled) = oneshot::channel();
        let key = run.key;
        if run.missing > 0 {
            self.count_gap("given_up");
            tracing::warn!(
                log_id = %key.0,
                lane = %key.1,
                batch_number = run.batch.id.number,
                missing = run.missing,
                "missing_batches_waited_for_in_vain"
            );
        }
        self.out
            .push(Box::pin(async move { (key, settled.await.is_ok()) }));
        let delivery = Delivery::new(run.batch, 1, Box::new(RunSettle(settle))).from_node(run.node);
        // To a worker that is gone it comes back at once, and is given back.
        drop(worker.send(delivery));
    }

    fn offer(&mut self, (message, handle): (PubSubMessage, Handler), now: Instant) {
        match self.read.read(&message) {
            Read::Batch(batch, node) => {
                let id = batch.id;
                let message = Message {
                    batch,
                    node,
                    handle,
                };
                match self.gatherer.offer(message, now) {
                    Offered::Taken => {}
                    Offered::Copy => self.metrics.queue_redeliveries.add(1, &[]),
                    Offered::Early => {
                        self.count_gap("noticed");
                        tracing::info!(
                            log_id = %id.log_id,
                            lane = %id.lane,
                            batch_number = id.number,
                            "batch_waits_for_those_before_it"
                        );
                    }
                }
            }
            Read::AskAgain(place) => {
                self.metrics.queue_messages_damaged.add(1, &[]);
                self.expect(place, now + PATIENCE, now);
                handle.nack();
            }
            Read::Wait(place, times) => {
                self.metrics.queue_messages_parked.add(1, &[]);
                let text = "messages of a newer version wait for a newer worker";
                self.health
                    .degraded("pubsub messages", Some(text.to_owned()));
                self.expect(place, now + PARKED + PATIENCE, now);
                let until = now + parked_for(times);
                let behind = self.parked.partition_point(|(other, _)| *other <= until);
                self.parked.insert(behind, (until, handle));
            }
        }
    }

    /// A batch could not be taken in: those behind it wait for it for a while, if it says which it is.
    fn expect(&mut self, place: Option<(Key, u64)>, until: Instant, now: Instant) {
        if let Some(place) = place {
            self.gatherer.expect(place, until, now);
        }
    }

    fn count_gap(&self, outcome: &'static str) {
        let outcome = [KeyValue::new("outcome", outcome)];
        self.metrics.queue_gaps.add(1, &outcome);
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

    fn settle(&mut self, key: Key, done: bool, now: Instant) {
        if done {
            let handles = self.gatherer.settle(key, now);
            handles.into_iter().for_each(Handler::ack);
        } else {
            let handles = self.gatherer.give_back(key, now);
            handles.into_iter().for_each(Handler::nack);
        }
    }
}

/// For how long a message is kept that came so often.
fn parked_for(times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    PARKED.saturating_mul(doubled).min(PARKED_MAX)
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
