//! A failed write or sync: nobody is told anything but failure from then on.

use std::fs;

use eventkit::config::Engine;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{AppendError, CommitError, LogState};

use super::{
    Place, append, assert_holds, beside, checkpoint, close, durable, events, open_on, seal,
    to_append, wait,
};

#[test]
fn nothing_is_acknowledged_after_a_failed_write_or_sync() {
    // The group has three parts: the failure hits one of them, or the sync after them.
    for operations in 0..4 {
        let storage = MemoryStorage::default();
        let place = Place::Memory(storage.clone());
        let (wal, _) = place.open();
        let sent = events("before", 2, 10);
        append(&wal, &sent);
        storage.fail_after(operations);
        let mut state = wal.state();
        let failing = wal
            .append(to_append(&wal, &events("failing", 3, 5_000)))
            .unwrap();
        let queued = wal.append(to_append(&wal, &sent));
        assert_eq!(wait(failing), Err(CommitError::Failed), "at {operations}");
        wait(state.wait_for(|state| *state == LogState::Failed)).unwrap();
        // A duplicate of what is durable gets no positive answer either.
        if let Ok(queued) = queued {
            assert_eq!(wait(queued), Err(CommitError::Failed));
        }
        let after = wal.append(to_append(&wal, &sent));
        assert_eq!(after.unwrap_err(), AppendError::Failed);
        assert_eq!(wal.admit(), Err(AppendError::Failed));
        assert!(!wait(wal.seal(vec![seal(&wal, 0, 0, 0, 1)])));
        assert!(!wait(wal.checkpoint(checkpoint(1))));
        assert_eq!(durable(&wal), 2, "the tail does not move");
        // What was durable can still be read and published.
        assert_holds(&wal, 0, &sent);
        close(wal);
        assert_eq!(
            *state.borrow(),
            LogState::Failed,
            "a close does not hide it"
        );

        let (wal, _) = Place::Memory(storage.crash(0)).open();
        assert_holds(&wal, 0, &sent);
        close(wal);
    }
}

#[test]
fn a_seal_or_checkpoint_whose_sync_fails_poisons_as_well() {
    let fails: [fn(&eventkit::wal::Wal) -> bool; 2] = [
        |wal| wait(wal.seal(vec![seal(wal, 0, 0, 0, 1)])),
        |wal| wait(wal.checkpoint(checkpoint(1))) && wait(wal.seal(Vec::new())),
    ];
    for fail in fails {
        let storage = MemoryStorage::default();
        let (wal, _) = Place::Memory(storage.clone()).open();
        append(&wal, &events("e", 2, 10));
        storage.fail_after(1);
        assert!(!fail(&wal));
        let mut state = wal.state();
        wait(state.wait_for(|state| *state == LogState::Failed)).unwrap();
        assert_eq!(wal.admit(), Err(AppendError::Failed));
        close(wal);
    }
}

#[test]
fn a_log_with_the_sign_is_copied_to_fresh_files_before_it_is_used() {
    for (engine, file) in [(Engine::Sled, "db"), (Engine::Sqlite, "log.db")] {
        use std::os::unix::fs::MetadataExt as _;

        let place = Place::on(engine);
        let (wal, _) = place.open();
        let sent = events("e", 30, 1_000);
        append(&wal, &sent);
        close(wal);
        let inode = || fs::metadata(place.path().join(file)).unwrap().ino();
        let old = inode();
        fs::write(beside(&place.path(), ".poisoned"), b"").unwrap();
        // A copy that an earlier open did not finish is no obstacle, and never used.
        fs::create_dir(beside(&place.path(), ".copy")).unwrap();
        fs::write(beside(&place.path(), ".copy").join("db"), b"half").unwrap();
        let (wal, _) = open_on(engine, &place.path()).unwrap();
        assert_ne!(inode(), old, "fresh files");
        assert!(!beside(&place.path(), ".poisoned").exists());
        assert!(!beside(&place.path(), ".copy").exists());
        assert_holds(&wal, 0, &sent);
        append(&wal, &events("more", 1, 10));
        close(wal);
        let fresh = inode();
        close(open_on(engine, &place.path()).unwrap().0);
        assert_eq!(inode(), fresh, "copied once");
    }
}
