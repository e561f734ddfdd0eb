//! The publisher between a real log (in memory) and a queue that the test holds in its hands.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventkit::backoff::Backoff;
use eventkit::config::{BatchRules, PublisherConfig};
use eventkit::event::{BatchId, Event, Lane};
use eventkit::publisher::Publisher;
use eventkit::queue::{Batch, Consumer, Producer, SendError, Verdict, in_process};
use eventkit::telemetry::Metrics;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{Append, Unsettled, Wal, record, testing};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

const LANES: u16 = 4;

fn config() -> PublisherConfig {
    PublisherConfig {
        batch: BatchRules {
            events: 10,
            events_age: Duration::ZERO,
            events_max: 10,
            bytes: 1 << 20,
            age: Duration::from_millis(20),
        },
        budget_bytes: 64 << 20,
    }
}

async fn append(wal: &Wal, ids: impl Iterator<Item = u32>) {
    let mut append = Append::default();
    for id in ids {
        let message_id = format!("m-{id}");
        let event = Event {
            lane: Lane(u16::try_from(id % u32::from(LANES)).unwrap()),
            ..testing::event(&message_id, b"{}")
        };
        append.push(&event, wal.fingerprint(event.key()));
    }
    wal.append(append).unwrap().await.unwrap();
}

fn ids(batch: &Batch) -> Vec<u32> {
    let id = |bytes: &[u8]| {
        let message_id = record::decode(bytes).unwrap().message_id;
        message_id.strip_prefix("m-").unwrap().parse().unwrap()
    };
    batch.records.iter().map(|(_, bytes)| id(bytes)).collect()
}

/// Takes batches, and settles those of a lane as its semaphore allows.
#[derive(Debug)]
struct Gate {
    taken: mpsc::Sender<Arc<Batch>>,
    permits: HashMap<u16, Semaphore>,
}

#[async_trait]
impl Producer for Gate {
    async fn send(&self, batch: Arc<Batch>) -> Result<(), SendError> {
        let lane = batch.id.lane.0;
        self.taken
            .send(batch)
            .await
            .map_err(|_gone| SendError::Closed)?;
        if let Some(permits) = self.permits.get(&lane) {
            let permit = permits.acquire().await;
            permit.map_err(|_closed| SendError::Closed)?.forget();
        }
        Ok(())
    }
}

fn gate(held: &[u16]) -> (Arc<Gate>, mpsc::Receiver<Arc<Batch>>) {
    let (taken, batches) = mpsc::channel(1_000);
    let permits = held.iter().map(|&lane| (lane, Semaphore::new(0))).collect();
    (Arc::new(Gate { taken, permits }), batches)
}

fn publish(
    wal: &Wal,
    unsettled: Unsettled,
    producer: Arc<dyn Producer>,
    config: &PublisherConfig,
) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let publisher = Publisher::new(wal.clone(), unsettled, producer, config, Metrics::new());
    let stop = CancellationToken::new();
    let run = publisher.run(stop.clone());
    #[expect(clippy::disallowed_methods, reason = "a test joins its own task")]
    let task = tokio::spawn(async move { run.await.unwrap() });
    (task, stop)
}

#[tokio::test(start_paused = true)]
async fn a_drain_settles_everything_in_order_and_moves_the_checkpoint_to_the_tail() {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    append(&wal, 0..137).await;
    let (gate, mut batches) = gate(&[]);
    let (task, stop) = publish(&wal, unsettled, gate, &config());
    append(&wal, 137..200).await;
    stop.cancel();
    task.await.unwrap();

    let mut seen: BTreeMap<u16, (Vec<u32>, Vec<u64>)> = BTreeMap::new();
    while let Some(batch) = batches.recv().await {
        let lane = seen.entry(batch.id.lane.0).or_default();
        lane.0.extend(ids(&batch));
        lane.1.push(batch.id.number);
        assert!(batch.records.len() <= 10);
    }
    for lane in 0..LANES {
        let (events, numbers) = &seen[&lane];
        let expected: Vec<u32> = (0..200)
            .filter(|id| id % u32::from(LANES) == u32::from(lane))
            .collect();
        assert_eq!(events, &expected, "lane {lane}");
        assert_eq!(
            numbers,
            &(0..numbers.len() as u64).collect::<Vec<_>>(),
            "numbers are dense"
        );
    }
    wal.close().await;
    assert_eq!(wal.settled(), 200);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_same_batches_come_again_under_the_same_names() {
    let storage = MemoryStorage::default();
    let (wal, unsettled) = testing::open(&storage, LANES).unwrap();
    append(&wal, 0..100).await;
    let all: Vec<u16> = (0..LANES).collect();
    let (held, mut batches) = gate(&all);
    let (task, _stop) = publish(
        &wal,
        unsettled,
        Arc::clone(&held) as Arc<dyn Producer>,
        &config(),
    );
    let mut before: Vec<BatchId> = Vec::new();
    for _ in 0..LANES {
        before.push(batches.recv().await.unwrap().id);
    }
    // Lane 2's first batch settles, its second is handed on; then the process dies.
    held.permits[&2].add_permits(1);
    before.push(batches.recv().await.unwrap().id);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    wal.close().await;
    let settled = before
        .iter()
        .position(|id| id.lane == Lane(2) && id.number == 0)
        .unwrap();
    before.remove(settled);

    let (wal, unsettled) = testing::open(&storage.crash(usize::MAX), LANES).unwrap();
    assert_eq!(unsettled.seals.len(), usize::from(LANES));
    let (open, mut batches) = gate(&[]);
    let (task, stop) = publish(
        &wal,
        unsettled,
        open,
        &PublisherConfig {
            batch: BatchRules {
                events: usize::MAX,
                events_max: usize::MAX,
                ..config().batch
            },
            ..config()
        },
    );
    stop.cancel();
    task.await.unwrap();
    let mut after = Vec::new();
    let mut events: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    while let Some(batch) = batches.recv().await {
        events
            .entry(batch.id.lane.0)
            .or_default()
            .extend(ids(&batch));
        after.push(batch.id);
    }
    for id in &before {
        assert!(after.contains(id), "{id} was handed on before the crash");
    }
    for lane in 0..u32::from(LANES) {
        let settled = if lane == 2 { 10 } else { 0 };
        let expected: Vec<u32> = (0..100).filter(|id| id % 4 == lane).skip(settled).collect();
        assert_eq!(events[&u16::try_from(lane).unwrap()], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_lane_falls_behind_alone_and_fetches_what_it_left() {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    let (held, mut batches) = gate(&[1]);
    let (task, stop) = publish(
        &wal,
        unsettled,
        Arc::clone(&held) as Arc<dyn Producer>,
        &config(),
    );
    append(&wal, 0..4_000).await;

    // Every other lane gets all of its events although lane 1 has settled nothing.
    let mut events: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    while (0..LANES).any(|lane| lane != 1 && events.get(&lane).map_or(0, Vec::len) < 1_000) {
        let batch = batches.recv().await.unwrap();
        events
            .entry(batch.id.lane.0)
            .or_default()
            .extend(ids(&batch));
    }
    assert_eq!(
        events[&1].len(),
        10,
        "one batch of the stalled lane is under way"
    );
    assert_eq!(wal.settled(), 1, "the stalled lane pins the checkpoint");

    held.permits[&1].add_permits(1_000);
    stop.cancel();
    task.await.unwrap();
    while let Ok(batch) = batches.try_recv() {
        events
            .entry(batch.id.lane.0)
            .or_default()
            .extend(ids(&batch));
    }
    let expected: Vec<u32> = (0..4_000).filter(|id| id % 4 == 1).collect();
    assert_eq!(events[&1], expected);
    wal.close().await;
    assert_eq!(wal.settled(), 4_000);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_dropped_comes_again_and_ok_means_settled() {
    let backoff = Backoff {
        base: Duration::from_millis(1),
        max: Duration::from_millis(5),
    };
    let (producer, mut consumers) = in_process(1, backoff, Metrics::new());
    let batch = Arc::new(Batch {
        id: BatchId {
            log_id: eventkit::event::LogId(1),
            lane: Lane(3),
            number: 0,
            first: 0,
            last: 0,
            input_hash: 0,
        },
        day: eventkit::event::Day(0),
        records: Vec::new(),
        sent_in: Vec::new(),
    });
    let settled = Arc::new(Mutex::new(false));
    let worker = {
        let settled = Arc::clone(&settled);
        let mut consumer = consumers.remove(0);
        async move {
            for attempt in 1..=3 {
                let delivery = consumer.receive().await.unwrap();
                assert_eq!(delivery.attempt, attempt);
                match attempt {
                    1 => drop(delivery),
                    2 => delivery.nack(),
                    _ => {
                        *settled.lock().unwrap() = true;
                        delivery.ack();
                    }
                }
            }
            consumer
        }
    };
    let (sent, consumer) = tokio::join!(producer.send(Arc::clone(&batch)), worker);
    assert_eq!(sent, Ok(()));
    assert!(*settled.lock().unwrap());
    drop(consumer);
    assert_eq!(producer.send(batch).await, Err(SendError::Closed));
}

/// Batches of ten events, whatever their age.
fn by_count() -> PublisherConfig {
    let config = config();
    PublisherConfig {
        batch: BatchRules {
            age: Duration::from_secs(3_600),
            ..config.batch
        },
        ..config
    }
}

/// Takes what its gate takes, and says of what it took what the test tells it to.
#[derive(Debug)]
struct Broker {
    gate: Arc<Gate>,
    /// Away while it is asked: there is one question at a time.
    verdicts: Mutex<Option<mpsc::Receiver<Verdict>>>,
}

#[async_trait]
impl Producer for Broker {
    async fn send(&self, batch: Arc<Batch>) -> Result<(), SendError> {
        self.gate.send(batch).await
    }

    fn verify_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(10))
    }

    async fn verify(&self) -> Verdict {
        let verdicts = self.verdicts.lock().unwrap().take();
        let mut verdicts = verdicts.expect("one question at a time");
        let next = verdicts.recv().await;
        *self.verdicts.lock().unwrap() = Some(verdicts);
        next.unwrap_or(Verdict::Owned)
    }
}

type Ends = (
    Arc<Broker>,
    mpsc::Receiver<Arc<Batch>>,
    mpsc::Sender<Verdict>,
);

/// A broker that takes everything at once.
fn broker() -> Ends {
    broker_that_holds(&[])
}

fn broker_that_holds(lanes: &[u16]) -> Ends {
    let (gate, batches) = gate(lanes);
    let (verdict, verdicts) = mpsc::channel(1);
    let verdicts = Mutex::new(Some(verdicts));
    (Arc::new(Broker { gate, verdicts }), batches, verdict)
}

/// Takes the ids of so many batches.
async fn take(batches: &mut mpsc::Receiver<Arc<Batch>>, count: usize) -> Vec<(BatchId, Vec<u32>)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = batches.recv().await.unwrap();
        taken.push((batch.id, ids(&batch)));
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_waits_until_the_queue_is_known_to_own_what_it_took() {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    let (broker, mut batches, verdict) = broker();
    let (task, stop) = publish(&wal, unsettled, broker, &by_count());
    append(&wal, 0..40).await;
    let taken = take(&mut batches, 4).await;
    assert_eq!(taken.iter().map(|(_, ids)| ids.len()).sum::<usize>(), 40);
    // A question that it cannot answer moves nothing; what comes meanwhile goes out all the same.
    verdict.send(Verdict::Unknown).await.unwrap();
    append(&wal, 40..80).await;
    take(&mut batches, 4).await;
    assert_eq!(wal.settled(), 0);
    verdict.send(Verdict::Owned).await.unwrap();
    drop(verdict);
    stop.cancel();
    task.await.unwrap();
    wal.close().await;
    assert_eq!(wal.settled(), 80);
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_said_to_be_with_the_queue_while_nobody_knows_whether_it_keeps_what_it_takes()
 {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    let (broker, mut batches, verdict) = broker();
    let config = by_count();
    let publisher = Publisher::new(wal.clone(), unsettled, broker, &config, Metrics::new());
    let (mut sent, stop) = (publisher.sent(), CancellationToken::new());
    let run = publisher.run(stop.clone());
    #[expect(clippy::disallowed_methods, reason = "a test joins its own task")]
    let task = tokio::spawn(run);
    append(&wal, 0..40).await;
    take(&mut batches, 4).await;
    sent.wait_for(|below| *below == 40).await.unwrap();
    // One question at a time: with the third answer on its way, the first was heard.
    let doubt = async || {
        for _ in 0..3 {
            verdict.send(Verdict::Unknown).await.unwrap();
        }
    };
    doubt().await;
    append(&wal, 40..80).await;
    take(&mut batches, 4).await;
    doubt().await;
    assert_eq!(*sent.borrow(), 40);
    verdict.send(Verdict::Owned).await.unwrap();
    sent.wait_for(|below| *below == 80).await.unwrap();
    drop(verdict);
    stop.cancel();
    task.await.unwrap().unwrap();
    wal.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_queue_lost_is_sent_again_in_order_and_before_anything_new() {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    let (broker, mut batches, verdict) = broker();
    let (task, stop) = publish(&wal, unsettled, broker, &by_count());
    append(&wal, 0..80).await;
    let first = take(&mut batches, 8).await;
    verdict.send(Verdict::Lost).await.unwrap();
    let again = take(&mut batches, 8).await;
    for lane in 0..LANES {
        let of = |taken: &[(BatchId, Vec<u32>)]| {
            let mine = taken.iter().filter(|(id, _)| id.lane.0 == lane);
            mine.cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&first), of(&again), "the same batches in the same order");
    }
    assert_eq!(wal.settled(), 0);
    append(&wal, 80..120).await;
    let new = take(&mut batches, 4).await;
    assert!(new.iter().all(|(id, _)| id.number == 2), "{new:?}");
    drop(verdict);
    stop.cancel();
    task.await.unwrap();
    wal.close().await;
    assert_eq!(wal.settled(), 120);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_waits_for_a_send_waits_and_asks_about_the_others_meanwhile() {
    let (wal, unsettled) = testing::open(&MemoryStorage::default(), LANES).unwrap();
    let (broker, mut batches, verdict) = broker_that_holds(&[0]);
    let metrics = Metrics::new();
    let producer = Arc::clone(&broker) as Arc<dyn Producer>;
    let config = by_count();
    let publisher = Publisher::new(wal.clone(), unsettled, producer, &config, metrics.clone());
    let stop = CancellationToken::new();
    let mut run = Box::pin(publisher.run(stop.clone()));
    let mut polls = 0;
    let counted = poll_fn(move |context| {
        polls += 1;
        assert!(polls < 10_000, "it does not wait");
        run.as_mut().poll(context)
    });
    #[expect(clippy::disallowed_methods, reason = "a test joins its own task")]
    let task = tokio::spawn(counted);
    append(&wal, 0..40).await;
    take(&mut batches, 4).await;
    stop.cancel();
    drop(verdict);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let settled = "eventkit_publisher_batches_settled_total 3";
    assert!(metrics.render().contains(settled));
    broker.gate.permits[&0].add_permits(1);
    task.await.unwrap().unwrap();
    wal.close().await;
    assert_eq!(wal.settled(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_ends_before_the_answer_sends_the_same_batches_again() {
    let storage = MemoryStorage::default();
    let (wal, unsettled) = testing::open(&storage, LANES).unwrap();
    let (first_broker, mut batches, _verdict) = broker();
    let (task, _stop) = publish(&wal, unsettled, first_broker, &by_count());
    append(&wal, 0..40).await;
    let first = take(&mut batches, 4).await;
    task.abort();
    assert!(task.await.is_err());
    wal.close().await;
    let (wal, unsettled) = testing::open(&storage.crash(usize::MAX), LANES).unwrap();
    let (second_broker, mut batches, verdict) = broker();
    drop(verdict);
    let (task, stop) = publish(&wal, unsettled, second_broker, &by_count());
    let mut again = take(&mut batches, 4).await;
    let mut first = first;
    first.sort_by_key(|(id, _)| id.lane);
    again.sort_by_key(|(id, _)| id.lane);
    assert_eq!(first, again);
    stop.cancel();
    task.await.unwrap();
    wal.close().await;
    assert_eq!(wal.settled(), 40);
}
