//! What an open refuses, and what it says to others.

use std::fs;

use eventkit::config::Engine;
use eventkit::wal::OpenError;

use super::{ENGINES, Place, append, assert_holds, beside, close, events, open_at, open_on};

#[test]
fn a_log_in_use_is_refused_until_its_owner_is_gone() {
    for engine in ENGINES {
        let place = Place::on(engine);
        let (wal, _) = place.open();
        let sent = events("e", 3, 10);
        append(&wal, &sent);
        let second = open_on(engine, &place.path());
        assert!(
            matches!(&second, Err(OpenError::InUse(path)) if *path == place.path()),
            "{second:?}"
        );
        // The refused one changed nothing for the owner.
        append(&wal, &events("more", 1, 10));
        wait_closed_but_held(&wal);
        assert!(matches!(
            open_on(engine, &place.path()),
            Err(OpenError::InUse(_))
        ));
        drop(wal);
        let (wal, _) = place.open();
        assert_holds(&wal, 0, &[sent, events("more", 1, 10)].concat());
        close(wal);
    }
}

/// As long as a handle can read, the files belong to it.
fn wait_closed_but_held(wal: &eventkit::wal::Wal) {
    super::wait(wal.close());
    assert_eq!(wal.read(0, 1).unwrap().len(), 1);
}

#[test]
fn the_lock_file_says_who_holds_the_log_and_where_to_ask() {
    for engine in ENGINES {
        let place = Place::on(engine);
        let (wal, _) = place.open();
        let read = || -> serde_json::Value {
            serde_json::from_slice(&fs::read(beside(&place.path(), ".lock")).unwrap()).unwrap()
        };
        let pid = std::process::id();
        assert_eq!(read(), serde_json::json!({ "pid": pid, "admin": null }));
        wal.announce("127.0.0.1:9090".parse().unwrap()).unwrap();
        assert_eq!(
            read(),
            serde_json::json!({ "pid": pid, "admin": "127.0.0.1:9090" })
        );
        wal.announce("[::1]:80".parse().unwrap()).unwrap();
        assert_eq!(
            read(),
            serde_json::json!({ "pid": pid, "admin": "[::1]:80" })
        );
        close(wal);
        // A log without files has nowhere to say it.
        let (wal, _) = Place::memory().open();
        wal.announce("127.0.0.1:1".parse().unwrap()).unwrap();
        close(wal);
    }
}

#[test]
fn a_slash_at_the_end_of_its_path_is_no_part_of_its_name() {
    for engine in ENGINES {
        let place = Place::on(engine);
        let (wal, _) = open_on(engine, &beside(&place.path(), "/")).unwrap();
        let sent = events("e", 3, 10);
        append(&wal, &sent);
        let second = open_on(engine, &place.path());
        assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
        close(wal);
        assert!(beside(&place.path(), ".mark").exists());
        let (wal, _) = place.open();
        assert_holds(&wal, 0, &sent);
        close(wal);
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    for engine in ENGINES {
        let place = Place::on(engine);
        fs::write(place.path(), b"SQLite format 3\0").unwrap();
        let opened = open_on(engine, &place.path());
        assert!(matches!(opened, Err(OpenError::Foreign(_))), "{opened:?}");
        assert_eq!(fs::read(place.path()).unwrap(), b"SQLite format 3\0");
    }
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_is() {
    for engine in ENGINES {
        for name in [
            "ring_buffer.db",
            "db.bak",
            "log.db.bak",
            "events",
            ".hidden",
        ] {
            let place = Place::on(engine);
            fs::create_dir(place.path()).unwrap();
            fs::write(place.path().join(name), b"foreign").unwrap();
            let opened = open_on(engine, &place.path());
            assert!(
                matches!(opened, Err(OpenError::Foreign(_))),
                "{name}: {opened:?}"
            );
            let left: Vec<_> = fs::read_dir(place.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(left, [name]);
            assert_eq!(fs::read(place.path().join(name)).unwrap(), b"foreign");
            for suffix in [".mark", ".lock", ".ballast"] {
                assert!(!beside(&place.path(), suffix).exists(), "{suffix}");
            }
        }
    }
}

#[test]
fn a_sled_database_of_another_program_is_refused() {
    let place = Place::sled();
    {
        let db = sled::open(place.path()).unwrap();
        db.insert(b"somebody's key", b"somebody's value").unwrap();
        db.flush().unwrap();
    }
    let opened = open_at(&place.path());
    assert!(
        matches!(opened, Err(OpenError::Damaged { .. })),
        "{opened:?}"
    );
    let db = sled::open(place.path()).unwrap();
    let pairs: Vec<_> = db.iter().map(Result::unwrap).collect();
    assert_eq!(
        pairs,
        [(b"somebody's key".into(), b"somebody's value".into())]
    );
}

#[test]
fn an_empty_directory_and_a_missing_parent_become_a_log() {
    for engine in ENGINES {
        let place = Place::on(engine);
        fs::create_dir(place.path()).unwrap();
        let (wal, _) = place.open();
        close(wal);
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/wal");
        let (wal, _) = open_on(engine, &deep).unwrap();
        append(&wal, &events("e", 1, 1));
        close(wal);
        let (wal, _) = open_on(engine, &deep).unwrap();
        assert_holds(&wal, 0, &events("e", 1, 1));
        close(wal);
    }
}

#[test]
fn every_new_log_has_an_identity_of_its_own() {
    let (one, _) = Place::memory().open();
    let (other, _) = Place::memory().open();
    assert_ne!(one.log_id(), other.log_id());
    close(one);
    close(other);
}

/// The files of both logs are told apart by name: a log of the other engine is not touched, whatever is in it.
#[test]
fn a_log_of_the_other_engine_is_refused_with_the_way_out() {
    for (wrote, wanted) in [
        (Engine::Sled, Engine::Sqlite),
        (Engine::Sqlite, Engine::Sled),
    ] {
        let place = Place::on(wrote);
        let (wal, _) = place.open();
        append(&wal, &events("e", 3, 10));
        close(wal);
        let names = || {
            let mut names: Vec<_> = fs::read_dir(place.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let before = names();
        let mark = fs::read(beside(&place.path(), ".mark")).unwrap();
        let refused = open_on(wanted, &place.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::OtherEngine { found, .. } if *found == wrote),
            "{refused:?}"
        );
        let drain = format!("eventkit wal drain {}", place.path().display());
        assert!(refused.to_string().contains(&drain), "{refused}");
        assert_eq!(names(), before);
        assert_eq!(fs::read(beside(&place.path(), ".mark")).unwrap(), mark);
        let (wal, _) = place.open();
        assert_holds(&wal, 0, &events("e", 3, 10));
        close(wal);
    }
}

#[test]
fn a_database_of_another_program_under_our_name_is_refused() {
    let place = Place::on(Engine::Sqlite);
    fs::create_dir(place.path()).unwrap();
    let file = place.path().join("log.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other
        .execute_batch("CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        .unwrap();
    other.close().unwrap();
    let before = fs::read(&file).unwrap();
    let opened = open_on(Engine::Sqlite, &place.path());
    assert!(
        matches!(opened, Err(OpenError::Engine { .. })),
        "{opened:?}"
    );
    assert!(fs::read(&file).unwrap() == before);
}

/// A crash while the database was made leaves the name it was made under, and nothing that counts.
#[test]
fn a_database_that_was_never_finished_is_begun_anew() {
    let place = Place::on(Engine::Sqlite);
    fs::create_dir(place.path()).unwrap();
    for name in ["log.creating", "log.creating-journal", "log.creating-wal"] {
        fs::write(place.path().join(name), b"half").unwrap();
    }
    let (wal, _) = place.open();
    append(&wal, &events("e", 1, 1));
    close(wal);
    assert!(!place.path().join("log.creating").exists());
    assert!(!place.path().join("log.creating-journal").exists());
}
