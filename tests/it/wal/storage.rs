//! Every engine keeps the promises of `wal::storage`.

use std::path::{Path, PathBuf};

use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::storage::sled::SledStorage;
use eventkit::wal::storage::sqlite::SqliteStorage;
use eventkit::wal::storage::{Storage, StorageError, VALUE_BYTES_MAX};

use super::noise;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// An engine that can be closed and opened again.
enum Engine {
    Memory(MemoryStorage),
    Sled(tempfile::TempDir),
    Sqlite(tempfile::TempDir),
}

impl Engine {
    fn all() -> [Self; 3] {
        [
            Self::Memory(MemoryStorage::default()),
            Self::Sled(tempfile::tempdir().unwrap()),
            Self::Sqlite(tempfile::tempdir().unwrap()),
        ]
    }

    fn open(&self) -> Box<dyn Storage> {
        match self {
            Self::Memory(storage) => Box::new(storage.clone()),
            Self::Sled(dir) => Box::new(SledStorage::open(&dir.path().join("wal")).unwrap()),
            Self::Sqlite(dir) => Box::new(SqliteStorage::open(&dir.path().join("wal")).unwrap()),
        }
    }

    /// The same bytes after the process died: what was synced is there, the rest may be.
    fn died(self) -> Self {
        match self {
            Self::Memory(storage) => Self::Memory(storage.crash(0)),
            Self::Sled(dir) => Self::Sled(copied(&dir)),
            Self::Sqlite(dir) => Self::Sqlite(copied(&dir)),
        }
    }
}

fn copied(dir: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    super::copy_dir(dir.path(), copy.path());
    copy
}

fn pairs(storage: &dyn Storage, from: &[u8]) -> Pairs {
    let mut pairs = Pairs::new();
    storage
        .scan(from, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    pairs
}

fn pair(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

#[test]
fn a_scan_is_ascending_from_a_key_on_and_ends_when_told() {
    for engine in Engine::all() {
        let storage = engine.open();
        for key in [&[3, 0][..], &[1], &[255, 255], &[2, 9], &[2], &[3]] {
            storage.insert(key, key).unwrap();
        }
        storage.sync().unwrap();
        let keys = |from: &[u8]| -> Vec<Vec<u8>> {
            pairs(&*storage, from)
                .into_iter()
                .map(|pair| pair.0)
                .collect()
        };
        assert_eq!(
            keys(&[]),
            [&[1][..], &[2], &[2, 9], &[3], &[3, 0], &[255, 255]]
        );
        assert_eq!(keys(&[2, 9]), [&[2, 9][..], &[3], &[3, 0], &[255, 255]]);
        assert_eq!(keys(&[2, 10]), [&[3][..], &[3, 0], &[255, 255]]);
        assert!(keys(&[255, 255, 0]).is_empty());

        let mut seen = 0;
        storage
            .scan(&[], &mut |_, _| {
                seen += 1;
                seen < 2
            })
            .unwrap();
        assert_eq!(seen, 2, "a visit that answers no is the last");
    }
}

#[test]
fn an_insert_replaces_and_a_remove_needs_no_key() {
    for engine in Engine::all() {
        let storage = engine.open();
        storage.insert(b"a", b"old").unwrap();
        storage.insert(b"a", b"new").unwrap();
        storage.insert(b"b", b"").unwrap();
        storage.remove(b"c").unwrap();
        storage.sync().unwrap();
        assert_eq!(pairs(&*storage, b""), [pair(b"a", b"new"), pair(b"b", b"")]);
        storage.remove(b"a").unwrap();
        storage.sync().unwrap();
        assert_eq!(pairs(&*storage, b""), [pair(b"b", b"")]);
    }
}

#[test]
fn a_value_may_be_as_large_as_the_limit_and_no_larger() {
    for engine in Engine::all() {
        let storage = engine.open();
        let largest = noise("largest", VALUE_BYTES_MAX);
        storage.insert(b"k", &largest).unwrap();
        let over = storage.insert(b"l", &noise("over", VALUE_BYTES_MAX + 1));
        assert!(
            matches!(over, Err(StorageError::TooLarge(6_001))),
            "{over:?}"
        );
        storage.sync().unwrap();
        assert_eq!(pairs(&*storage, b""), [pair(b"k", &largest)]);
        assert!(storage.disk_bytes().unwrap() >= 6_000);
    }
}

#[test]
fn what_was_synced_is_there_after_a_close_and_after_a_death() {
    for engine in Engine::all() {
        let storage = engine.open();
        for n in 0..200u8 {
            storage.insert(&[n], &noise(&n.to_string(), 2_000)).unwrap();
        }
        for n in 0..50 {
            storage.remove(&[n]).unwrap();
        }
        storage.sync().unwrap();
        let written = pairs(&*storage, b"");
        assert_eq!(written.len(), 150);
        drop(storage);
        let storage = engine.open();
        assert_eq!(pairs(&*storage, b""), written, "after a close");
        storage.remove(&[60]).unwrap();
        storage.insert(&[60], b"again").unwrap();
        storage.sync().unwrap();
        let written = pairs(&*storage, b"");
        let dead = engine.died();
        drop(storage);
        assert_eq!(pairs(&*dead.open(), b""), written, "after a death");
    }
}

fn blobs(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path.join("blobs")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Ten times the live window is written, so that sled frees and reuses its segments.
#[test]
fn sled_reuses_its_space_and_never_moves_values_to_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let storage = SledStorage::open(&path).unwrap();
    let value = noise("value", 5_900);
    let mut largest = 0;
    for n in 0..5_000u64 {
        storage.insert(&n.to_be_bytes(), &value).unwrap();
        if let Some(old) = n.checked_sub(500) {
            storage.remove(&old.to_be_bytes()).unwrap();
        }
        if n % 100 == 99 {
            storage.sync().unwrap();
            assert_eq!(blobs(&path), [] as [PathBuf; 0], "after {n}");
            largest = largest.max(storage.disk_bytes().unwrap());
        }
    }
    let live = 500 * 6_000;
    assert!(largest < 12 * live, "{largest} bytes for {live} live ones");
    drop(storage);
    let storage = SledStorage::open(&path).unwrap();
    let keys: Vec<Vec<u8>> = pairs(&storage, b"")
        .into_iter()
        .map(|pair| pair.0)
        .collect();
    let expected: Vec<Vec<u8>> = (4_500..5_000u64)
        .map(|n| n.to_be_bytes().to_vec())
        .collect();
    assert_eq!(keys, expected);
    assert_eq!(blobs(&path), [] as [PathBuf; 0]);
}

#[test]
fn a_second_open_of_a_sled_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let first = SledStorage::open(&path).unwrap();
    first.insert(b"k", b"v").unwrap();
    first.sync().unwrap();
    let second = SledStorage::open(&path);
    assert!(matches!(second, Err(StorageError::Io(_))), "{second:?}");
    assert_eq!(pairs(&first, b""), [pair(b"k", b"v")]);
    drop(first);
    assert_eq!(
        pairs(&SledStorage::open(&path).unwrap(), b""),
        [pair(b"k", b"v")]
    );
}

/// Ten times the live window is written: freed pages are used again, and `log.db-wal` is begun anew.
#[test]
fn sqlite_reuses_its_space_and_its_write_ahead_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let storage = SqliteStorage::open(&path).unwrap();
    let value = noise("value", 5_900);
    let (mut largest, mut largest_wal) = (0, 0);
    for n in 0..5_000u64 {
        storage.insert(&n.to_be_bytes(), &value).unwrap();
        if let Some(old) = n.checked_sub(500) {
            storage.remove(&old.to_be_bytes()).unwrap();
        }
        if n % 100 == 99 {
            storage.sync().unwrap();
            largest = largest.max(storage.disk_bytes().unwrap());
            let wal = std::fs::metadata(path.join("log.db-wal")).unwrap().len();
            largest_wal = largest_wal.max(wal);
        }
    }
    let live = 500 * 6_000;
    assert!(largest < 8 * live, "{largest} bytes for {live} live ones");
    assert!(largest_wal < 16 << 20, "{largest_wal}");
    drop(storage);
    let storage = SqliteStorage::open(&path).unwrap();
    let keys: Vec<Vec<u8>> = pairs(&storage, b"")
        .into_iter()
        .map(|pair| pair.0)
        .collect();
    let expected: Vec<Vec<u8>> = (4_500..5_000u64)
        .map(|n| n.to_be_bytes().to_vec())
        .collect();
    assert_eq!(keys, expected);
}

/// A reader in the middle of a scan neither waits for the writer nor keeps it waiting, and holds no old pages.
#[test]
fn a_slow_reader_of_sqlite_does_not_make_its_files_grow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let storage = SqliteStorage::open(&path).unwrap();
    for n in 0..1_000u64 {
        storage.insert(&n.to_be_bytes(), b"before").unwrap();
    }
    storage.sync().unwrap();
    let value = noise("value", 5_900);
    let mut seen = 0u64;
    storage
        .scan(b"", &mut |key, _| {
            assert_eq!(key, seen.to_be_bytes());
            if seen.is_multiple_of(10) {
                for n in 0..100u64 {
                    storage
                        .insert(&(1_000_000 + n).to_be_bytes(), &value)
                        .unwrap();
                }
                storage.sync().unwrap();
            }
            seen += 1;
            seen < 1_000
        })
        .unwrap();
    assert_eq!(seen, 1_000);
    // 60 MB were written.
    assert!(storage.disk_bytes().unwrap() < 24 << 20);
}

#[test]
fn what_is_not_committed_is_gone_after_a_death_and_never_seen_by_a_reader_of_sqlite() {
    let engine = Engine::Sqlite(tempfile::tempdir().unwrap());
    let storage = engine.open();
    storage.insert(b"a", b"1").unwrap();
    storage.sync().unwrap();
    storage.insert(b"b", b"2").unwrap();
    storage.remove(b"a").unwrap();
    assert_eq!(pairs(&*storage, b""), [pair(b"a", b"1")]);
    let dead = engine.died();
    drop(storage);
    assert_eq!(pairs(&*dead.open(), b""), [pair(b"a", b"1")]);
}

#[test]
fn the_memory_engine_fails_and_forgets_as_it_is_told() {
    let storage = MemoryStorage::default();
    storage.insert(b"a", b"1").unwrap();
    storage.sync().unwrap();
    storage.fail_after(3);
    storage.insert(b"b", b"2").unwrap();
    storage.remove(b"a").unwrap();
    storage.insert(b"c", b"3").unwrap();
    assert!(storage.sync().is_err() && storage.insert(b"d", b"4").is_err());
    assert_eq!((storage.pending(), storage.operations()), (3, 5));
    let left = |kept| -> Vec<Vec<u8>> { storage.crash(kept).contents().into_keys().collect() };
    assert_eq!(left(0), [b"a"]);
    assert_eq!(left(1), [b"a", b"b"]);
    assert_eq!(left(2), [b"b"]);
    assert_eq!(left(3), [b"b", b"c"]);
}
