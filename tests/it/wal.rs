//! The log, from outside: conformance of its engines and of itself, a model, cuts at every write, damage, syscalls, old
//! bytes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use eventkit::clock::{ManualClock, SystemClock};
use eventkit::config::{Engine, WalConfig};
use eventkit::event::{BatchId, Day, Event, Lane, Offset, PayloadFormat};
use eventkit::telemetry::Metrics;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{
    Append, Checkpoint, Committed, LaneCheckpoint, OpenError, Options, Seal, Unsettled, Wal,
    record, testing,
};

mod appends;
mod barrier;
mod cuts;
mod damage;
mod damage_parts;
mod damage_sqlite;
mod fixture;
mod model;
mod opening;
mod oracle;
mod poison;
mod recovery_time;
mod retention;
mod storage;

/// One set of instruments for all logs of this process: making them costs more than opening a small log.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The engines whose logs are files.
const ENGINES: [Engine; 2] = [Engine::Sled, Engine::Sqlite];

/// How many lanes the logs have.
const LANES: usize = 4;

/// When every test event was received.
const RECEIVED_AT: i64 = 1_700_000_000_000_000;

/// Runs a future to its end on this thread.
fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

/// A test event, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    id: String,
    lane: u16,
    payload: Vec<u8>,
}

impl Sent {
    fn new(id: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        let id = id.into();
        let lane = id
            .bytes()
            .fold(0u16, |sum, byte| sum.wrapping_add(u16::from(byte)))
            % 4;
        Self {
            id,
            lane,
            payload: payload.into(),
        }
    }

    fn event(&self) -> Event<'_> {
        Event {
            format: PayloadFormat::Json,
            payload: &self.payload,
            source: "test",
            message_id: &self.id,
            message_id_assigned: false,
            stream: "events",
            kind: Some("track"),
            lane: Lane(self.lane),
            received_at: RECEIVED_AT,
            sent_at: None,
            trace: None,
            batch_context: &[],
            batch_integrations: &[],
            client: Default::default(),
        }
    }

    /// The bytes that the log must give back.
    fn record(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        record::encode(&self.event(), &mut bytes);
        bytes
    }
}

/// `count` events whose ids begin with `prefix`, each with a payload of `bytes` bytes that does not compress.
fn events(prefix: &str, count: usize, bytes: usize) -> Vec<Sent> {
    (0..count)
        .map(|n| {
            Sent::new(
                format!("{prefix}-{n}"),
                noise(&format!("{prefix}{n}"), bytes),
            )
        })
        .collect()
}

/// Bytes that look random and are the same for the same seed.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut state = xxhash_rust::xxh3::xxh3_64(seed.as_bytes()) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

fn to_append(wal: &Wal, events: &[Sent]) -> Append {
    let bytes = events.iter().map(|event| event.payload.len() + 100).sum();
    let mut append = Append::with_capacity(events.len(), bytes);
    for sent in events {
        let event = sent.event();
        append.push(&event, wal.fingerprint(event.key()));
    }
    append
}

/// Appends and waits for the acknowledgement.
fn append(wal: &Wal, events: &[Sent]) -> Committed {
    let commit = wal.append(to_append(wal, events)).unwrap();
    wait(commit).unwrap()
}

/// Waits until everything that was sent before is committed.
fn barrier(wal: &Wal) {
    assert!(wait(wal.seal(Vec::new())), "the log has failed");
}

/// Records a checkpoint, and returns when a later commit could trim by it and has.
fn settle(wal: &Wal, offset: Offset) {
    settle_lanes(wal, checkpoint(offset));
}

fn settle_lanes(wal: &Wal, checkpoint: Checkpoint) {
    assert!(wait(wal.checkpoint(checkpoint)));
    barrier(wal);
    barrier(wal);
}

fn checkpoint(offset: Offset) -> Checkpoint {
    Checkpoint {
        offset,
        lanes: vec![
            LaneCheckpoint {
                next_number: 0,
                settled_below: offset,
            };
            4
        ],
    }
}

fn seal(wal: &Wal, lane: u16, number: u64, first: Offset, last: Offset) -> Seal {
    Seal {
        batch: BatchId {
            log_id: wal.log_id(),
            lane: Lane(lane),
            number,
            first,
            last,
            input_hash: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        },
        count: u32::try_from(last - first + 1).unwrap(),
        day: Day(19_000),
    }
}

fn durable(wal: &Wal) -> Offset {
    *wal.durable().borrow()
}

/// Every record from an offset on, with its offset; panics when they are not dense or not readable.
fn read_from(wal: &Wal, from: Offset) -> Vec<(Offset, Vec<u8>)> {
    let mut records = Vec::new();
    let mut next = from;
    while next < durable(wal) {
        let groups = wal.read(next, 64 << 10).unwrap();
        assert!(
            !groups.is_empty(),
            "nothing at {next} below the durable tail"
        );
        for group in groups {
            for (offset, record) in (group.first..).zip(group.records) {
                if offset >= next {
                    assert_eq!(offset, next, "offsets are dense");
                    records.push((offset, record.to_vec()));
                    next += 1;
                }
            }
        }
    }
    assert_eq!(
        next,
        durable(wal).max(from),
        "nothing beyond the durable tail"
    );
    records
}

/// The log holds exactly these events from an offset on.
#[track_caller]
fn assert_holds(wal: &Wal, from: Offset, expected: &[Sent]) {
    let found = read_from(wal, from);
    assert_eq!(found.len(), expected.len(), "records from {from} on");
    for ((offset, bytes), sent) in found.iter().zip(expected) {
        assert!(
            *bytes == sent.record(),
            "offset {offset} is not event {}",
            sent.id
        );
    }
}

/// The lowest offset that the log still holds.
fn first_held(wal: &Wal) -> Offset {
    let stat = eventkit::wal::inspect::Inspector::live(wal).stat().unwrap();
    if stat.groups == 0 {
        durable(wal)
    } else {
        stat.first_offset
    }
}

/// Where a log lies: all engines behind one face.
#[derive(Debug)]
enum Place {
    Memory(MemoryStorage),
    Disk(Engine, tempfile::TempDir),
}

impl Place {
    fn all() -> [Self; 3] {
        [Self::memory(), Self::sled(), Self::on(Engine::Sqlite)]
    }

    fn memory() -> Self {
        Self::Memory(MemoryStorage::default())
    }

    fn sled() -> Self {
        Self::on(Engine::Sled)
    }

    fn on(engine: Engine) -> Self {
        Self::Disk(engine, tempfile::tempdir().unwrap())
    }

    fn open(&self) -> (Wal, Unsettled) {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut WalConfig)) -> (Wal, Unsettled) {
        self.try_open(options(self.path(), change)).unwrap()
    }

    fn try_open(&self, mut options: Options) -> Result<(Wal, Unsettled), OpenError> {
        match self {
            Self::Memory(storage) => Wal::open_in(Arc::new(storage.clone()), options),
            Self::Disk(engine, _) => {
                options.config.engine = *engine;
                Wal::open(options)
            }
        }
    }

    /// Closes the log and opens it again.
    fn reopen(&self, wal: Wal) -> (Wal, Unsettled) {
        close(wal);
        self.open()
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Memory(_) => PathBuf::from("memory"),
            Self::Disk(_, dir) => dir.path().join("wal"),
        }
    }
}

/// Four lanes, and a retention so short that what is settled goes at once.
fn options(path: PathBuf, change: impl FnOnce(&mut WalConfig)) -> Options {
    let mut config = testing::config(path, 4);
    config.retained_events_max = 0;
    // The test events were received years ago; only their number lets them go.
    config.retention = Duration::from_secs(100 * 365 * 86_400);
    change(&mut config);
    Options {
        config,
        clock: Arc::new(SystemClock),
        metrics: METRICS.clone(),
    }
}

fn options_at(path: PathBuf, clock: &ManualClock, change: impl FnOnce(&mut WalConfig)) -> Options {
    Options {
        clock: Arc::new(clock.clone()),
        ..options(path, change)
    }
}

fn open_at(path: &Path) -> Result<(Wal, Unsettled), OpenError> {
    open_on(Engine::Sled, path)
}

fn open_on(engine: Engine, path: &Path) -> Result<(Wal, Unsettled), OpenError> {
    Wal::open(options(path.to_owned(), |config| config.engine = engine))
}

fn close(wal: Wal) {
    wait(wal.close());
    drop(wal);
}

/// A name beside a log.
fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies a log with everything beside it into another directory, as a power cut or a backup would find it.
fn copy_log(from: &Path, to: &Path) {
    copy_dir(from, to);
    for suffix in [".mark", ".poisoned"] {
        let source = beside(from, suffix);
        if source.exists() {
            std::fs::copy(source, beside(to, suffix)).unwrap();
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
