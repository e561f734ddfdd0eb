//! A scripted workload is cut at every single write and sync, and of the writes since the last sync every prefix is
//! kept: each of these images must open and hold what was promised.

use eventkit::wal::storage::memory::MemoryStorage;

use super::oracle::{Oracle, Step};
use super::{Place, close, events};

/// Appends of one part and of many, repeats, seals, checkpoints and the trims that follow from them.
fn script() -> Vec<Step> {
    vec![
        Step::Append(events("one", 1, 10)),
        Step::Append(events("small", 5, 200)),
        Step::Seal(0, 4),
        Step::Append(events("parts", 3, 9_000)),
        Step::Repeat(3, events("repeat", 1, 100).remove(0)),
        Step::Seal(1, 3),
        Step::Seal(0, 2),
        Step::Checkpoint(2),
        Step::Append(events("after", 2, 20_000)),
        Step::Barrier,
        Step::Append(events("tail", 2, 7_000)),
        Step::Checkpoint(4),
        Step::Barrier,
        Step::Seal(2, 100),
        Step::Checkpoint(4),
        Step::Append(events("trims", 1, 30_000)),
        Step::Barrier,
        Step::Seal(3, 2),
        Step::Append(events("several", 6, 9_000)),
        Step::Seal(0, 100),
        Step::Checkpoint(3),
        Step::Append(events("more trims", 2, 12_000)),
        Step::Repeat(2, events("repeat again", 1, 12_000).remove(0)),
        Step::Barrier,
        Step::Checkpoint(4),
        Step::Append(events("end", 4, 3_000)),
        Step::Barrier,
        Step::Append(events("end of all", 1, 3_000)),
        Step::Barrier,
    ]
}

/// Runs the script with all writes and syncs after the first `operations` failing; `true` when it came to its end.
fn run(storage: &MemoryStorage, operations: u64) -> (Oracle, bool) {
    let mut oracle = Oracle::default();
    storage.fail_after(operations);
    let place = Place::Memory(storage.clone());
    let Ok((wal, unsettled)) = place.try_open(super::options(place.path(), |_| {})) else {
        return (oracle, false);
    };
    oracle.check(&wal, &unsettled);
    let done = script().iter().all(|step| oracle.apply(&wal, step));
    close(wal);
    (oracle, done)
}

fn open_and_check(oracle: &mut Oracle, image: &MemoryStorage, id: Option<&str>) {
    let (wal, unsettled) = Place::Memory(image.clone()).open();
    oracle.check(&wal, &unsettled);
    if let Some(id) = id {
        oracle.check_use(&wal, id);
    }
    close(wal);
}

/// A power cut while the log is being repaired: after every number of writes, with every half of what was not synced.
fn cut_the_repair(oracle: &Oracle, image: &MemoryStorage) {
    for operations in 0.. {
        let repaired = image.crash(0);
        repaired.fail_after(operations);
        let place = Place::Memory(repaired.clone());
        let opened = place.try_open(super::options(place.path(), |_| {}));
        let complete = opened.is_ok();
        let pending = repaired.pending();
        for kept in [0, pending / 2, pending] {
            let again = repaired.crash(kept);
            open_and_check(&mut oracle.clone(), &again, None);
        }
        if let Ok((wal, _)) = opened {
            close(wal);
        }
        if complete {
            break;
        }
    }
}

#[test]
fn every_prefix_of_every_commit_is_a_valid_log() {
    let mut images = 0;
    for operations in 0.. {
        let storage = MemoryStorage::default();
        let (oracle, done) = run(&storage, operations);
        for kept in 0..=storage.pending() {
            let image = storage.crash(kept);
            cut_the_repair(&oracle, &image);
            let mut oracle = oracle.clone();
            open_and_check(&mut oracle, &image, Some("again"));
            open_and_check(&mut oracle, &image, Some("and again"));
            images += 1;
        }
        if done {
            break;
        }
    }
    // The script makes about a hundred writes, up to ten in a commit: were it far fewer, nothing would have been cut.
    assert!(images > 500, "only {images} images");
}
