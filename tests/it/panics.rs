//! A store whose code panics: the whole pipeline behind the log, in the process. The part that died is named, so that the
//! program ends (`app`); nothing is lost, and the next start stores each event once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use eventkit::backoff::Backoff;
use eventkit::config::{BatchRules, PublisherConfig};
use eventkit::event::{BatchId, Day, Event, Lane};
use eventkit::lifecycle::Tasks;
use eventkit::publisher::Publisher;
use eventkit::queue::in_process;
use eventkit::store::fake::MemoryObjects;
use eventkit::store::{
    ErrorRow, ErrorStore, EventStore, ObjectEventStore, Objects as _, Row, WriteError, Written,
    parquet,
};
use eventkit::telemetry::Metrics;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{Append, Wal, testing};
use eventkit::worker::{Stores, Worker};
use tokio_util::sync::CancellationToken;

const LANES: u16 = 4;
const EVENTS: u32 = 200;

/// When a write panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    /// It was done, and nobody heard of it.
    After,
}

/// A store that panics from some write on, for some writes.
#[derive(Debug)]
struct Panicking {
    inner: ObjectEventStore<MemoryObjects>,
    /// Writes that still go well.
    calm: AtomicI64,
    /// Writes that then panic.
    panics: i64,
    moment: Moment,
}

impl Panicking {
    fn panics_now(&self) -> bool {
        let left = self.calm.fetch_sub(1, Ordering::Relaxed);
        left <= 0 && left > -self.panics
    }

    async fn around(
        &self,
        write: impl Future<Output = Result<Written, WriteError>> + Send,
    ) -> Result<Written, WriteError> {
        let panics = self.panics_now();
        assert!(!panics || self.moment == Moment::After, "before the write");
        let written = write.await;
        assert!(!panics, "after the write");
        written
    }
}

#[async_trait]
impl EventStore for Panicking {
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        self.around(self.inner.write_events(batch, day, rows)).await
    }
}

#[async_trait]
impl ErrorStore for Panicking {
    async fn write_errors(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        self.around(self.inner.write_errors(batch, day, rows)).await
    }
}

/// What lives as long as a process.
struct Process {
    wal: Wal,
    tasks: Tasks,
    stop: CancellationToken,
}

/// Starts publisher, queue, two workers and the store on what the log holds.
fn start(log: &MemoryStorage, objects: &MemoryObjects, (calm, panics, moment): Plan) -> Process {
    let (wal, unsettled) = testing::open(log, LANES).unwrap();
    let store = Arc::new(Panicking {
        inner: ObjectEventStore::new(Arc::new(objects.clone())),
        calm: AtomicI64::new(calm),
        panics,
        moment,
    });
    let tasks = Tasks::default();
    let (producer, consumers) = in_process(2, Backoff::default(), Metrics::new());
    for consumer in consumers {
        let stores = Stores::both(Arc::clone(&store));
        let worker = Worker::new(Box::new(consumer), stores, "node".into(), Metrics::new());
        drop(tasks.spawn("worker", worker.run()));
    }
    let config = PublisherConfig {
        batch: BatchRules {
            events: 10,
            events_age: Duration::ZERO,
            events_max: 10,
            bytes: 1 << 20,
            age: Duration::from_millis(20),
        },
        budget_bytes: 64 << 20,
    };
    let producer = Arc::new(producer);
    let publisher = Publisher::new(wal.clone(), unsettled, producer, &config, Metrics::new());
    let stop = CancellationToken::new();
    drop(tasks.spawn("publisher", publisher.run(stop.clone())));
    Process { wal, tasks, stop }
}

/// Calm writes, panics after them, and when in a write.
type Plan = (i64, i64, Moment);
const CALM: Plan = (0, 0, Moment::Before);

async fn append(wal: &Wal) {
    let mut append = Append::default();
    for id in 0..EVENTS {
        let message_id = format!("m-{id}");
        // One in ten is invalid, so that error rows are written too.
        let payload: &[u8] = if id.is_multiple_of(10) {
            br#"{"type":"track","userId":"u"}"#
        } else {
            br#"{"type":"track","userId":"u","event":"e"}"#
        };
        let event = Event {
            lane: Lane(u16::try_from(id % u32::from(LANES)).unwrap()),
            ..testing::event(&message_id, payload)
        };
        append.push(&event, wal.fingerprint(event.key()));
    }
    wal.append(append).unwrap().await.unwrap();
}

/// The offsets of all rows and error rows, ascending.
async fn offsets(objects: &MemoryObjects) -> Vec<u64> {
    let mut offsets = Vec::new();
    for name in objects.names() {
        let bytes = objects.get(&name).await.unwrap().unwrap();
        if name.starts_with("events/") {
            let rows = parquet::decode_events(bytes).unwrap();
            offsets.extend(rows.iter().map(|row| row.offset));
        } else if name.starts_with("errors/") {
            let rows = parquet::decode_errors(bytes).unwrap();
            offsets.extend(rows.iter().map(|row| row.offset));
        }
    }
    offsets.sort_unstable();
    offsets
}

async fn a_panic_loses_and_repeats_nothing(plan: Plan) {
    let (mut log, objects) = (MemoryStorage::default(), MemoryObjects::default());
    let process = start(&log, &objects, plan);
    append(&process.wal).await;
    assert_eq!(process.tasks.died().await, "worker", "{plan:?}");
    // Looked at before anything is waited for: the other worker may bring it to its end meanwhile.
    assert!(process.wal.settled() < u64::from(EVENTS), "{plan:?}");
    // The program ends now, as it is: no drain.
    process.wal.close().await;
    log = log.crash(usize::MAX);

    let process = start(&log, &objects, CALM);
    process.stop.cancel();
    process.tasks.join().await;
    process.wal.close().await;
    assert_eq!(process.wal.settled(), u64::from(EVENTS), "{plan:?}");
    let all: Vec<u64> = (0..u64::from(EVENTS)).collect();
    assert_eq!(offsets(&objects).await, all, "{plan:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_store_panics_once_is_named_and_the_next_start_stores_each_event_once() {
    for calm in [0, 1, 7, 20] {
        for moment in [Moment::Before, Moment::After] {
            a_panic_loses_and_repeats_nothing((calm, 1, moment)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_for_ever_settles_nothing_more_and_loses_nothing() {
    for moment in [Moment::Before, Moment::After] {
        a_panic_loses_and_repeats_nothing((3, i64::MAX, moment)).await;
    }
}
