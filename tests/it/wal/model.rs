//! Random histories of a log against a `Vec`.

use eventkit::config::Engine;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{Unsettled, Wal};
use proptest::prelude::*;

use super::oracle::{Oracle, Step};
use super::{ENGINES, LANES, Place, Sent, close, copy_log, noise};

#[derive(Debug, Clone)]
enum Act {
    /// Appends so many events of so many bytes.
    Append(usize, usize),
    Repeat(usize),
    Seal(usize, u64),
    Checkpoint(u64),
    Barrier,
    Reopen,
    /// Lets so many more writes and syncs succeed, appends until one fails, and keeps a share of what is not synced.
    Fail(u64, f64),
    /// Cuts while appends are under way, wherever the committer may be.
    Cut(usize, f64),
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = prop_oneof![Just(0usize), 1..400usize, 5_000..30_000usize];
    prop_oneof![
        5 => (1..12usize, bytes).prop_map(|(count, bytes)| Act::Append(count, bytes)),
        2 => (1..20usize).prop_map(Act::Repeat),
        3 => (0..LANES, 1..15u64).prop_map(|(lane, count)| Act::Seal(lane, count)),
        2 => (1..=4u64).prop_map(Act::Checkpoint),
        2 => Just(Act::Barrier),
        1 => Just(Act::Reopen),
        2 => (0..25u64, 0.0..=1.0).prop_map(|(operations, share)| Act::Fail(operations, share)),
        2 => (1..6usize, 0.0..=1.0).prop_map(|(appends, share)| Act::Cut(appends, share)),
    ]
}

/// A log under test.
struct World {
    storage: MemoryStorage,
    oracle: Oracle,
    /// Makes every event another one.
    events: usize,
    retained: u64,
}

impl World {
    fn open(&mut self) -> Wal {
        let retained = self.retained;
        let place = Place::Memory(self.storage.clone());
        let (wal, unsettled): (Wal, Unsettled) =
            place.open_with(|config| config.retained_events_max = retained);
        self.oracle.check(&wal, &unsettled);
        wal
    }

    fn events(&mut self, count: usize, bytes: usize) -> Vec<Sent> {
        let made = (0..count).map(|n| {
            let id = format!("e{}", self.events + n);
            let payload = noise(&id, bytes);
            Sent::new(id, payload)
        });
        let made = made.collect();
        self.events += count;
        made
    }

    fn act(&mut self, wal: Wal, act: &Act) -> Wal {
        let step = match act {
            Act::Append(count, bytes) => Step::Append(self.events(*count, *bytes)),
            Act::Repeat(count) => Step::Repeat(*count, self.events(1, 50).remove(0)),
            Act::Seal(lane, count) => Step::Seal(*lane, *count),
            Act::Checkpoint(quarters) => Step::Checkpoint(*quarters),
            Act::Barrier => Step::Barrier,
            Act::Reopen => {
                close(wal);
                self.storage = self.storage.crash(self.storage.pending());
                return self.open();
            }
            Act::Fail(operations, share) => {
                self.storage.fail_after(*operations);
                loop {
                    let step = Step::Append(self.events(2, 4_000));
                    if !self.oracle.apply(&wal, &step) {
                        break;
                    }
                }
                let image = cut(&self.storage, *share);
                close(wal);
                self.storage = image;
                return self.open();
            }
            Act::Cut(appends, share) => {
                let appends: Vec<Vec<Sent>> =
                    (0..*appends).map(|n| self.events(n + 1, 3_000)).collect();
                let storage = self.storage.clone();
                let image = self
                    .oracle
                    .append_in_flight(&wal, &appends, || cut(&storage, *share));
                close(wal);
                self.storage = image;
                return self.open();
            }
        };
        assert!(self.oracle.apply(&wal, &step), "{step:?} failed");
        wal
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a small number"
)]
fn cut(storage: &MemoryStorage, share: f64) -> MemoryStorage {
    storage.crash((storage.pending() as f64 * share).round() as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_log_is_a_vec_that_survives(
        acts in prop::collection::vec(act(), 1..30),
        retained in prop_oneof![Just(0u64), 1..60u64],
    ) {
        let mut world = World {
            storage: MemoryStorage::default(),
            oracle: Oracle::default(),
            events: 0,
            retained,
        };
        let mut wal = world.open();
        for act in &acts {
            wal = world.act(wal, act);
        }
        close(wal);
        let wal = world.open();
        world.oracle.check_use(&wal, "last");
        close(wal);
        let wal = world.open();
        close(wal);
    }
}

/// The same histories on the engines whose logs are files. A death is a copy of the files as they lie between two commits;
/// what a kill meets in the middle of one is the crash test's.
fn lives_on_disk(engine: Engine, acts: &[Act], retained: u64) {
    let mut made = World {
        storage: MemoryStorage::default(),
        oracle: Oracle::default(),
        events: 0,
        retained,
    };
    let mut place = Place::on(engine);
    let open = |place: &Place, oracle: &mut Oracle| {
        let (wal, unsettled) = place.open_with(|config| config.retained_events_max = retained);
        oracle.check(&wal, &unsettled);
        wal
    };
    let mut wal = open(&place, &mut made.oracle);
    for act in acts {
        let step = match act {
            Act::Append(count, bytes) => Step::Append(made.events(*count, *bytes)),
            Act::Repeat(count) => Step::Repeat(*count, made.events(1, 50).remove(0)),
            Act::Seal(lane, count) => Step::Seal(*lane, *count),
            Act::Checkpoint(quarters) => Step::Checkpoint(*quarters),
            Act::Barrier => Step::Barrier,
            Act::Reopen => {
                close(wal);
                wal = open(&place, &mut made.oracle);
                continue;
            }
            Act::Fail(..) | Act::Cut(..) => {
                assert!(made.oracle.apply(&wal, &Step::Barrier));
                let copy = Place::on(engine);
                copy_log(&place.path(), &copy.path());
                close(wal);
                place = copy;
                wal = open(&place, &mut made.oracle);
                continue;
            }
        };
        assert!(made.oracle.apply(&wal, &step), "{step:?} failed");
    }
    close(wal);
    let wal = open(&place, &mut made.oracle);
    made.oracle.check_use(&wal, "last");
    close(wal);
    close(open(&place, &mut made.oracle));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn a_log_on_disk_is_a_vec_that_survives(
        acts in prop::collection::vec(act(), 1..30),
        retained in prop_oneof![Just(0u64), 1..60u64],
    ) {
        for engine in ENGINES {
            lives_on_disk(engine, &acts, retained);
        }
    }
}
