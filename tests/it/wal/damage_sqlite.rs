//! Damage to the files of a log on SQLite: it comes back whole or is refused. Silent loss fails the test.

use std::fs;
use std::path::{Path, PathBuf};

use eventkit::clock::SystemClock;
use eventkit::config::Engine;
use eventkit::wal::repair::{RepairError, Request, repair};
use eventkit::wal::{Damage, LogState};

use super::damage::{STATES, Template, Verdict, change, lost};
use super::{
    Place, append, assert_holds, beside, close, copy_dir, durable, events, open_on, to_append, wait,
};

/// The files that a log can lose; the shared memory is only an index, and made anew.
const FILES: [&str; 2] = ["log.db", "log.db-wal"];

fn template() -> Template {
    Template::on(Engine::Sqlite)
}

fn is_refused(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Damaged(_) | Verdict::Storage)
}

#[test]
fn a_cut_or_zeroed_tail_is_never_a_silent_loss() {
    let template = template();
    let mut refused = 0;
    for state in STATES {
        for file in FILES {
            for bytes in [
                1usize, 137, 4_096, 20_000, 60_000, 300_000, 700_000, 10_000_000,
            ] {
                for zeroed in [false, true] {
                    let case =
                        format!("{state}: the last {bytes} bytes of {file} (zeroed: {zeroed})");
                    let (_dir, path) = template.copy(state);
                    change(&path.join(file), |content| {
                        let at = content.len().saturating_sub(bytes);
                        if zeroed {
                            content[at..].fill(0);
                        } else {
                            content.truncate(at);
                        }
                    });
                    refused += usize::from(is_refused(&template.judge(&path, &case)));
                }
            }
        }
    }
    assert!(
        refused > 30,
        "the cuts reach live bytes: {refused} refusals"
    );
}

#[test]
fn flipped_bytes_are_never_a_silent_loss() {
    let template = template();
    let mut refused = 0;
    for state in STATES {
        for file in FILES {
            let length = fs::metadata(template.dir.path().join(state).join(file))
                .unwrap()
                .len();
            let length = usize::try_from(length).unwrap();
            // Everywhere, and closely where the headers of the file and of its first frame or page are.
            let spread = (0..40).map(|n| length * n / 40 + n * 7);
            for at in spread.chain((0..136).step_by(4)).filter(|at| *at < length) {
                let case = format!("{state}: {file} flipped at {at} of {length}");
                let (_dir, path) = template.copy(state);
                change(&path.join(file), |content| {
                    content
                        .iter_mut()
                        .skip(at)
                        .take(4)
                        .for_each(|byte| *byte ^= 0x5a);
                });
                refused += usize::from(is_refused(&template.judge(&path, &case)));
            }
        }
    }
    assert!(refused > 20, "the flips hit live bytes: {refused} refusals");
}

#[test]
fn the_shared_memory_file_is_of_no_consequence() {
    let template = template();
    for state in STATES {
        for content in [None, Some(vec![]), Some(vec![0x5a; 32_768])] {
            let (_dir, path) = template.copy(state);
            let shm = path.join("log.db-shm");
            match content {
                None => fs::remove_file(&shm).unwrap(),
                Some(content) => fs::write(&shm, content).unwrap(),
            }
            assert_eq!(template.judge(&path, state), Verdict::Whole);
        }
    }
}

#[test]
fn a_log_whose_files_are_gone_is_not_begun_anew() {
    let template = template();
    let last = template.sent.len() as u64 - 1;
    for state in STATES {
        let (_dir, path) = template.copy(state);
        fs::remove_dir_all(&path).unwrap();
        let verdict = template.judge(&path, "the directory");
        assert!(lost(0, last)(&verdict), "{verdict:?}");

        // SQLite alone would take the first two for new databases and delete the commits beside them.
        type Take = fn(&Path);
        let takes: [(&str, Take); 3] = [
            ("log.db", |file| fs::remove_file(file).unwrap()),
            ("the content of log.db", |file| {
                fs::write(file, b"").unwrap()
            }),
            ("a foreign log.db", |file| {
                fs::write(file, b"SQLite format 3\0").unwrap()
            }),
        ];
        for (name, take) in takes {
            let (_dir, path) = template.copy(state);
            let wal = path.join("log.db-wal");
            let before = fs::read(&wal).unwrap();
            take(&path.join("log.db"));
            assert_eq!(
                template.judge_open(&path, name),
                Verdict::Storage,
                "{state}, {name}"
            );
            assert_eq!(
                fs::read(&wal).unwrap(),
                before,
                "{state}, {name}: left as it was"
            );
        }

        let (_dir, path) = template.copy(state);
        fs::remove_file(path.join("log.db-wal")).unwrap();
        let verdict = template.judge(&path, "the commits");
        assert!(
            matches!(verdict, Verdict::Damaged(Damage::Lost { .. })),
            "{state}: {verdict:?}"
        );
    }
}

/// A refusal keeps the evidence: SQLite alone would move what it can read into the database and delete the rest.
#[test]
fn a_refused_log_is_left_as_it_is() {
    let template = template();
    let (_dir, path) = template.copy("killed");
    change(&path.join("log.db-wal"), |content| {
        let middle = content.len() / 2;
        content[middle] ^= 0x5a;
    });
    let read = || FILES.map(|file| fs::read(path.join(file)).unwrap());
    let before = read();
    assert!(is_refused(&template.judge_open(&path, "flipped")));
    assert!(before == read(), "the files were changed");
}

/// A power cut at any moment: `log.db-wal` holds any prefix of what was written, then nothing, zeros or old bytes.
#[test]
fn every_prefix_of_the_commits_is_a_log_with_what_was_acknowledged_by_then() {
    let place = Place::on(Engine::Sqlite);
    let (wal, _) = place.open();
    let file = |path: &Path| path.join("log.db-wal");
    let mark = |path: &Path| fs::read(beside(path, ".mark")).unwrap();
    let written = || usize::try_from(fs::metadata(file(&place.path())).unwrap().len()).unwrap();
    let mut sent = Vec::new();
    // After each acknowledgement: the bytes written, the events, the mark.
    let mut acknowledged = vec![(written(), 0, mark(&place.path()))];
    for n in 0..10 {
        let batch = events(&format!("g{n}"), 1 + n % 4 * 3, 700);
        append(&wal, &batch);
        sent.extend(batch);
        acknowledged.push((written(), sent.len(), mark(&place.path())));
    }
    let whole = fs::read(file(&place.path())).unwrap();
    let begin = acknowledged[0].0;
    let mut kept = std::collections::BTreeSet::new();
    for cut in (begin..=whole.len())
        .step_by(1_031)
        .chain(acknowledged.iter().map(|at| at.0))
    {
        for rest in [None, Some(0u8), Some(0x5a)] {
            let (_dir, path) = copy(&place.path());
            let mut content = whole[..cut].to_vec();
            if let Some(byte) = rest {
                content.resize(whole.len(), byte);
            }
            fs::write(file(&path), content).unwrap();
            let (_, events, mark) = acknowledged.iter().rfind(|at| at.0 <= cut).unwrap();
            fs::write(beside(&path, ".mark"), mark).unwrap();
            let case = format!("cut at {cut} of {}, then {rest:?}", whole.len());
            let (opened, _) =
                open_on(Engine::Sqlite, &path).unwrap_or_else(|error| panic!("{case}: {error}"));
            // A frame may end in zeros itself, and is then whole although it was cut.
            let held = usize::try_from(durable(&opened)).unwrap();
            let whole_commit = acknowledged.iter().any(|at| at.1 == held);
            assert!(held >= *events && whole_commit, "{case}: {held} events");
            assert_holds(&opened, 0, &sent[..held]);
            assert_eq!(append(&opened, &sent).duplicates.len(), held, "{case}");
            assert_holds(&opened, 0, &sent);
            close(opened);
            kept.insert(*events);
        }
    }
    assert_eq!(
        kept.len(),
        acknowledged.len(),
        "every commit was the last one once"
    );
    close(wal);
}

/// The log and what lies beside it, elsewhere.
fn copy(from: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    copy_dir(from, &path);
    (dir, path)
}

/// The system reports a failed sync once; whoever asks again is told that all is well.
#[test]
fn nothing_is_acknowledged_after_a_failed_commit() {
    let place = Place::on(Engine::Sqlite);
    let (wal, _) = place.open();
    let sent = events("before", 20, 900);
    append(&wal, &sent);
    // Another writer holds the database for longer than a commit waits.
    let other = rusqlite::Connection::open(place.path().join("log.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failing = wal
        .append(to_append(&wal, &events("failing", 3, 900)))
        .unwrap();
    assert!(wait(failing).is_err());
    let mut state = wal.state();
    wait(state.wait_for(|state| *state == LogState::Failed)).unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    assert!(
        wal.append(to_append(&wal, &sent)).is_err(),
        "not asked again"
    );
    assert_holds(&wal, 0, &sent);
    close(wal);
    assert!(beside(&place.path(), ".poisoned").exists());
    let (wal, _) = place.open();
    assert!(!beside(&place.path(), ".poisoned").exists());
    assert_holds(&wal, 0, &sent);
    close(wal);
}

/// Its checksum holds, so it is not a damaged log of ours: whoever can read it has to.
#[test]
fn a_log_of_another_format_is_refused_and_never_repaired() {
    let place = Place::on(Engine::Sqlite);
    let (wal, _) = place.open();
    append(&wal, &events("e", 20, 900));
    close(wal);
    let other = rusqlite::Connection::open(place.path().join("log.db")).unwrap();
    let mut header: Vec<u8> = other
        .query_row("SELECT value FROM kv WHERE key = x'00'", [], |row| {
            row.get(0)
        })
        .unwrap();
    header[0] = 9;
    let covered = header.len() - 4;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[0]), &header[..covered]);
    header[covered..].copy_from_slice(&crc.to_le_bytes());
    other
        .execute("UPDATE kv SET value = ?1 WHERE key = x'00'", [header])
        .unwrap();
    drop(other);
    let refused = open_on(Engine::Sqlite, &place.path()).unwrap_err();
    assert!(
        refused.to_string().contains("format 9 is not known"),
        "{refused}"
    );
    let before = fs::read(place.path().join("log.db")).unwrap();
    let request = Request {
        path: place.path(),
        engine: Engine::Sqlite,
        lanes: 4,
        dry_run: false,
        accept_loss: true,
        new_id: true,
    };
    let repaired = repair(&request, &SystemClock, &mut |_| {});
    assert!(
        matches!(repaired, Err(RepairError::OtherVersion(9))),
        "{repaired:?}"
    );
    assert!(before == fs::read(place.path().join("log.db")).unwrap());
}
