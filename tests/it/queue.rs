//! What every queue promises, run against each implementation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventkit::backoff::Backoff;
use eventkit::event::{BatchId, Day, Lane, LogId, Offset};
use eventkit::queue::{Batch, Consumer, Delivery, Producer, in_process, input_hash};
use eventkit::telemetry::Metrics;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;
#[cfg(feature = "cloud")]
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

#[cfg(feature = "cloud")]
mod emulator;
#[cfg(feature = "cloud")]
mod pubsub;

/// How long an emulator on a busy machine may take for one step.
const SOON: Duration = Duration::from_secs(60);

/// A queue of its own, with one consumer.
struct Queue {
    kind: &'static str,
    producer: Arc<dyn Producer>,
    consumer: Box<dyn Consumer>,
    /// Ends with the queue.
    _feeder: Option<AbortOnDropHandle<()>>,
}

async fn all() -> Vec<Queue> {
    let backoff = Backoff {
        base: Duration::from_millis(1),
        max: Duration::from_millis(10),
    };
    let (producer, consumers) = in_process(1, backoff, Metrics::new());
    let consumer = consumers.into_iter().next().unwrap();
    let mut queues = vec![Queue {
        kind: "in process",
        producer: Arc::new(producer),
        consumer: Box::new(consumer),
        _feeder: None,
    }];
    #[cfg(feature = "cloud")]
    queues.extend(pubsub::queue().await);
    queues
}

pub(crate) fn task<F>(future: F) -> AbortOnDropHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "a test ends its own task")]
    AbortOnDropHandle::new(tokio::spawn(future))
}

/// A batch of two events.
fn batch(log_id: LogId, lane: u16, number: u64) -> Arc<Batch> {
    let first = number * 100 + u64::from(lane) * 2;
    let records: Vec<(Offset, Bytes)> = [first, first + 1]
        .into_iter()
        .map(|offset| (offset, Bytes::from(format!("record {offset}"))))
        .collect();
    let id = BatchId {
        log_id,
        lane: Lane(lane),
        number,
        first,
        last: first + 1,
        input_hash: input_hash(&records),
    };
    let day = Day(20_000);
    Arc::new(Batch {
        id,
        day,
        records,
        sent_in: Vec::new(),
    })
}

/// Sends each lane's batches in order, all lanes at the same time.
fn send(queue: &Queue, batches: Vec<Vec<Arc<Batch>>>) -> AbortOnDropHandle<()> {
    let producer = Arc::clone(&queue.producer);
    task(async move {
        let mut lanes: FuturesUnordered<_> = batches
            .into_iter()
            .map(|lane| async {
                for batch in lane {
                    producer.send(batch).await.unwrap();
                }
            })
            .collect();
        while lanes.next().await.is_some() {}
    })
}

async fn receive(queue: &mut Queue) -> Delivery {
    let next = timeout(SOON, queue.consumer.receive()).await;
    next.expect("a delivery").expect("the queue is open")
}

#[tokio::test]
async fn what_is_sent_is_delivered_whole_and_in_the_order_of_each_lane() {
    for mut queue in all().await {
        let log_id = LogId::random();
        let lane = |lane| (0..10).map(|n| batch(log_id, lane, n)).collect::<Vec<_>>();
        let sending = send(&queue, (0..4).map(lane).collect());
        let mut seen: BTreeMap<Lane, Vec<(Offset, Bytes)>> = BTreeMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < 80 {
            let delivery = receive(&mut queue).await;
            let Batch {
                id, day, records, ..
            } = &*delivery.batch;
            assert_eq!((id.log_id, *day), (log_id, Day(20_000)), "{}", queue.kind);
            assert_eq!(
                (id.first, id.last, id.input_hash),
                (
                    records[0].0,
                    records[records.len() - 1].0,
                    input_hash(records)
                )
            );
            seen.entry(id.lane).or_default().extend(records.clone());
            delivery.ack();
        }
        for (at, records) in seen {
            let sent = lane(at.0);
            let sent: Vec<_> = sent
                .iter()
                .flat_map(|batch| batch.records.clone())
                .collect();
            assert_eq!(records, sent, "{} lane {at}", queue.kind);
        }
        timeout(SOON, sending).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_delivery_that_is_given_back_or_dropped_comes_again() {
    for mut queue in all().await {
        let log_id = LogId::random();
        let sending = send(&queue, vec![vec![batch(log_id, 3, 7)]]);
        let first = receive(&mut queue).await;
        let sent = Arc::clone(&first.batch);
        first.nack();
        let second = receive(&mut queue).await;
        assert_eq!(second.batch, sent, "{}", queue.kind);
        drop(second);
        let third = receive(&mut queue).await;
        assert_eq!(third.batch, sent, "{}", queue.kind);
        third.ack();
        timeout(SOON, sending).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_lane_has_one_unsettled_delivery_and_holds_no_other_lane_up() {
    for mut queue in all().await {
        let log_id = LogId::random();
        let lanes = [5, 6].map(|lane| (0..3).map(|n| batch(log_id, lane, n)).collect());
        let sending = send(&queue, lanes.into());
        let held = receive(&mut queue).await;
        let (held_lane, mut held_records) = (held.batch.id.lane, held.batch.records.len());
        let mut others = 0;
        while others < 6 {
            let delivery = receive(&mut queue).await;
            assert_ne!(delivery.batch.id.lane, held_lane, "{}", queue.kind);
            others += delivery.batch.records.len();
            delivery.ack();
        }
        held.ack();
        while held_records < 6 {
            let delivery = receive(&mut queue).await;
            assert_eq!(delivery.batch.id.lane, held_lane, "{}", queue.kind);
            held_records += delivery.batch.records.len();
            delivery.ack();
        }
        timeout(SOON, sending).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_was_taken_is_owned_once_it_is_asked_about() {
    for mut queue in all().await {
        let sending = send(&queue, vec![vec![batch(LogId::random(), 0, 0)]]);
        receive(&mut queue).await.ack();
        timeout(SOON, sending).await.unwrap().unwrap();
        let verdict = queue.producer.verify().await;
        assert_eq!(verdict, eventkit::queue::Verdict::Owned, "{}", queue.kind);
    }
}
