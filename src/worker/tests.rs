use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use opentelemetry_sdk::trace::Sampler;
use tokio::runtime::Builder;

use super::*;
use crate::event::{Day, Event, Lane, LogId, PayloadFormat};
use crate::queue::Settle;
use crate::store::fake::{Fault, Faulty, MemoryObjects};
use crate::store::{Marker, ObjectEventStore, Objects as _, parquet};
use crate::telemetry::trace::kept::Kept;
use crate::wal::record;

const RECEIVED: i64 = 1_714_566_600_000_000;
const GOOD: &str = r#"{"type":"track","event":"e","userId":"u"}"#;
const BAD: &str = r#"{"type":"track","event":"e"}"#;

/// A queue that delivers what it was given, once, and writes down how each delivery was settled.
#[derive(Debug, Default)]
struct Deliveries {
    batches: VecDeque<Arc<Batch>>,
    settled: Arc<Mutex<Vec<(u64, bool)>>>,
}

#[derive(Debug)]
struct Note {
    number: u64,
    settled: Arc<Mutex<Vec<(u64, bool)>>>,
}

impl Note {
    fn write(&self, acked: bool) {
        self.settled.lock().unwrap().push((self.number, acked));
    }
}

impl Settle for Note {
    fn ack(self: Box<Self>) {
        self.write(true);
    }

    fn nack(self: Box<Self>) {
        self.write(false);
    }
}

#[async_trait]
impl Consumer for Deliveries {
    async fn receive(&mut self) -> Option<Delivery> {
        let batch = self.batches.pop_front()?;
        let note = Note {
            number: batch.id.number,
            settled: Arc::clone(&self.settled),
        };
        Some(Delivery::new(batch, 1, Box::new(note)))
    }
}

fn batch(number: u64, payloads: &[&str]) -> Arc<Batch> {
    let mut records = Vec::new();
    for (offset, payload) in (10..).step_by(2).zip(payloads) {
        let event = Event {
            format: PayloadFormat::Json,
            payload: payload.as_bytes(),
            source: "default",
            message_id: "m",
            message_id_assigned: false,
            stream: "events",
            kind: None,
            lane: Lane(1),
            received_at: RECEIVED,
            sent_at: None,
            trace: None,
            batch_context: &[],
            batch_integrations: &[],
            client: Default::default(),
        };
        let mut bytes = Vec::new();
        record::encode(&event, &mut bytes);
        records.push((offset, Bytes::from(bytes)));
    }
    let id = BatchId {
        log_id: LogId(5),
        lane: Lane(1),
        number,
        first: 10,
        last: 10 + 2 * (payloads.len() as u64).saturating_sub(1),
        input_hash: 0,
    };
    Arc::new(Batch {
        id,
        day: Day::of(RECEIVED),
        records,
        sent_in: Vec::new(),
    })
}

type Settled = Vec<(u64, bool)>;

/// Runs a worker over the batches; how they were settled, and the metrics.
async fn work(batches: &[Arc<Batch>], stores: Stores, judge: Judge) -> (Settled, String) {
    let queue = Deliveries {
        batches: batches.iter().cloned().collect(),
        ..Deliveries::default()
    };
    let settled = Arc::clone(&queue.settled);
    let metrics = Metrics::new();
    Worker::new(Box::new(queue), stores, "node-a".into(), metrics.clone())
        .with_judge(judge)
        .run()
        .await;
    let settled = settled.lock().unwrap().clone();
    (settled, metrics.render())
}

fn stores(objects: &MemoryObjects) -> Stores {
    Stores::both(Arc::new(ObjectEventStore::new(Arc::new(objects.clone()))))
}

/// Offsets of rows, and offsets and codes of error rows.
async fn stored(objects: &MemoryObjects) -> (Vec<u64>, Vec<(u64, String)>) {
    among(objects, objects.names()).await
}

/// The same of what the loader will find.
async fn marked(objects: &MemoryObjects) -> (Vec<u64>, Vec<(u64, String)>) {
    let mut names = Vec::new();
    for name in objects.names() {
        if name.starts_with("inbox/") {
            let marker = objects.get(&name).await.unwrap().unwrap();
            let marker: Marker = serde_json::from_slice(&marker).unwrap();
            names.push(marker.object);
        }
    }
    among(objects, names).await
}

async fn among(objects: &MemoryObjects, names: Vec<String>) -> (Vec<u64>, Vec<(u64, String)>) {
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        let Some(bytes) = objects.get(&name).await.unwrap() else {
            continue;
        };
        if name.starts_with("events/") {
            let decoded = parquet::decode_events(bytes).unwrap();
            rows.extend(decoded.iter().map(|row| row.offset));
        } else if name.starts_with("errors/") {
            let decoded = parquet::decode_errors(bytes).unwrap();
            errors.extend(decoded.iter().map(|row| (row.offset, row.code.to_string())));
        }
    }
    (rows, errors)
}

fn markers(objects: &MemoryObjects) -> usize {
    let names = objects.names();
    names
        .iter()
        .filter(|name| name.starts_with("inbox/"))
        .count()
}

#[tokio::test]
async fn one_bad_event_does_not_touch_its_neighbours() {
    let objects = MemoryObjects::default();
    let batches = [batch(0, &[GOOD, BAD, "[]", GOOD])];
    let (settled, metrics) = work(&batches, stores(&objects), judge).await;
    assert_eq!(settled, [(0, true)]);
    let (rows, errors) = stored(&objects).await;
    assert_eq!(rows, [10, 16]);
    let codes = [
        (12, "missing_field".to_owned()),
        (14, "not_an_object".to_owned()),
    ];
    assert_eq!(errors, codes);
    assert_eq!(markers(&objects), 2);
    assert!(
        metrics.contains("eventkit_events_processed_total 2"),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"eventkit_events_failed_total{code="missing_field"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_panic_in_the_judge_is_one_events_affair() {
    let objects = MemoryObjects::default();
    let faulty: Judge = |record, place| {
        assert_ne!(place.offset, 12, "the poison event");
        judge(record, place)
    };
    let (settled, _) = work(&[batch(0, &[GOOD, GOOD, GOOD])], stores(&objects), faulty).await;
    assert_eq!(settled, [(0, true)]);
    let (rows, errors) = stored(&objects).await;
    assert_eq!(rows, [10, 14]);
    assert_eq!(errors, [(12, "worker_panicked".to_owned())]);
}

#[tokio::test]
async fn a_repeated_batch_changes_nothing() {
    let objects = MemoryObjects::default();
    let batches = [batch(0, &[GOOD, BAD]), batch(1, &[GOOD])];
    work(&batches, stores(&objects), judge).await;
    let before = (objects.names(), stored(&objects).await);
    let (settled, _) = work(&batches[..1], stores(&objects), judge).await;
    assert_eq!(settled, [(0, true)]);
    assert_eq!((objects.names(), stored(&objects).await), before);
}

/// Whatever is asked for, and the end of the batch whose offset is 12.
const STRICTER: Judge = |record, place| {
    assert_ne!(place.offset, 12, "not good enough any more");
    judge(record, place)
};

#[tokio::test]
async fn an_event_that_another_version_judges_differently_is_a_row_or_an_error_wherever_the_one_before_died()
 {
    let batches = [batch(0, &[GOOD, GOOD, BAD])];
    for (before, after) in [(STRICTER, judge as Judge), (judge as Judge, STRICTER)] {
        // The events' object and marker, then the errors'; and once nothing fails.
        for fails_at in 0..5 {
            let objects = MemoryObjects::default();
            let mut plan = vec![None; fails_at];
            plan.push(Some(Fault::Unavailable));
            let faulty = Arc::new(Faulty::new(objects.clone(), plan));
            let dying = Stores::both(Arc::new(ObjectEventStore::new(faulty)));
            let (settled, _) = work(&batches, dying, before).await;
            assert_eq!(settled, [(0, fails_at == 4)]);
            let (settled, _) = work(&batches, stores(&objects), after).await;
            assert_eq!(settled, [(0, true)]);
            let (rows, errors) = marked(&objects).await;
            let errors = errors.into_iter().map(|(offset, _)| offset);
            let all: BTreeSet<u64> = rows.iter().copied().chain(errors).collect();
            assert_eq!(all, BTreeSet::from([10, 12, 14]), "call {fails_at}");
            // What was a row for one of them is a row for good.
            assert!(rows.contains(&10), "call {fails_at}");
        }
    }
}

#[tokio::test]
async fn a_batch_is_given_back_when_either_store_gives_up() {
    let batches = [batch(0, &[GOOD, BAD]), batch(1, &[GOOD, BAD])];
    // Calls of the first batch: the events' object and marker, then the errors' object.
    for fails_at in 0..4 {
        let objects = MemoryObjects::default();
        let mut plan = vec![None; fails_at];
        plan.push(Some(Fault::Unavailable));
        let faulty = Arc::new(Faulty::new(objects.clone(), plan));
        let stores = Stores::both(Arc::new(ObjectEventStore::new(faulty)));
        let (settled, metrics) = work(&batches, stores, judge).await;
        assert_eq!(settled, [(0, false), (1, true)], "call {fails_at}");
        assert!(
            metrics.contains("eventkit_events_processed_total 1"),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn a_batch_of_bad_events_only_has_no_object_of_rows() {
    let objects = MemoryObjects::default();
    let (settled, _) = work(&[batch(0, &[BAD])], stores(&objects), judge).await;
    assert_eq!(settled, [(0, true)]);
    assert!(
        objects
            .names()
            .iter()
            .all(|name| !name.starts_with("events/"))
    );
    assert_eq!(stored(&objects).await.1.len(), 1);
}

/// Takes all rows but the second.
#[derive(Debug)]
struct Picky;

#[async_trait]
impl EventStore for Picky {
    async fn write_events(
        &self,
        _: &BatchId,
        _: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        assert!(rows.len() > 1);
        Ok(Written {
            created: true,
            refused: vec![(1, "the document is too large".to_owned())],
            ..Written::default()
        })
    }
}

#[tokio::test]
async fn a_row_that_the_store_refuses_becomes_an_error_row_in_its_place() {
    let objects = MemoryObjects::default();
    let stores = Stores {
        events: Arc::new(Picky),
        ..stores(&objects)
    };
    // The refused row is the second good one, at the third place of the batch.
    let (settled, metrics) = work(&[batch(0, &[GOOD, BAD, GOOD, GOOD])], stores, judge).await;
    assert_eq!(settled, [(0, true)]);
    let codes = [
        (12, "missing_field".to_owned()),
        (14, "row_refused".to_owned()),
    ];
    assert_eq!(stored(&objects).await.1, codes);
    assert!(
        metrics.contains("eventkit_events_processed_total 2"),
        "{metrics}"
    );
}

#[test]
fn a_batch_that_nobody_judges_is_given_back_and_its_span_says_why() {
    let (tracing, kept) = Kept::tracing(Sampler::AlwaysOff);
    let queue = Deliveries {
        batches: [batch(0, &[GOOD])].into(),
        ..Deliveries::default()
    };
    let settled = Arc::clone(&queue.settled);
    let stores = stores(&MemoryObjects::default());
    let metrics = Metrics::new().with_tracing(tracing);
    let worker = Worker::new(Box::new(queue), stores, "node-a".into(), metrics);

    // A runtime that has ended takes no further work.
    let ended = Builder::new_current_thread().build().unwrap();
    let handle = ended.handle().clone();
    drop(ended);
    let _within = handle.enter();
    assert_eq!(worker.run().now_or_never(), Some(()));

    assert_eq!(*settled.lock().unwrap(), [(0, false)]);
    let said = |name: &str, error: &str| (name.to_owned(), Some(error.to_owned()));
    assert_eq!(kept.errors(), [said("process", "judging_ended")]);
}
