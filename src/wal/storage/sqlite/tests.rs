use rusqlite::ffi;

use super::*;

#[test]
fn what_sqlite_reports_is_told_apart() {
    let cases = [
        (ffi::SQLITE_FULL, "Full"),
        (ffi::SQLITE_CORRUPT, "Damaged"),
        (ffi::SQLITE_NOTADB, "Damaged"),
        (ffi::SQLITE_IOERR_FSYNC, "Io"),
        (ffi::SQLITE_IOERR_WRITE, "Io"),
        (ffi::SQLITE_BUSY, "Io"),
        (ffi::SQLITE_CANTOPEN, "Io"),
        (ffi::SQLITE_ERROR, "Damaged"),
    ];
    for (code, expected) in cases {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let error = storage_error(error);
        assert!(
            format!("{error:?}").starts_with(expected),
            "{code}: {error:?}"
        );
    }
}

#[test]
fn a_writer_that_failed_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = SqliteStorage::open(dir.path()).unwrap();
    storage.insert(b"k", b"v").unwrap();
    storage.sync().unwrap();
    let failed: Result<(), _> = storage.write(|_| Err(io::Error::other("planned").into()));
    assert!(failed.is_err());
    assert!(storage.insert(b"l", b"v").is_err());
    assert!(storage.remove(b"k").is_err());
    assert!(storage.sync().is_err());
    let mut keys = Vec::new();
    storage
        .scan(b"", &mut |key, _| {
            keys.push(key.to_vec());
            true
        })
        .unwrap();
    assert_eq!(keys, [b"k"], "readers go on");
}

#[test]
fn only_names_that_sqlite_makes_are_ours() {
    for (name, ours) in [
        ("log.db", true),
        ("log.db-wal", true),
        ("log.db-shm", true),
        ("log.creating", true),
        ("log.creating-journal", true),
        ("log", false),
        ("log.db.bak", false),
        ("log.db-wal2", false),
        ("eventkit_ring_buffer.db", false),
    ] {
        assert_eq!(is_ours(name), ours, "{name}");
    }
}
