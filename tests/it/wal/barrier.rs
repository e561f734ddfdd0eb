//! Evidence from the system calls: what is acknowledged was synced by a completed `fdatasync`, and a failing one
//! acknowledges nothing. A kill test could not show this, since the page cache survives it.
//!
//! The test binary runs itself under `strace`; without it these tests fail in CI and say NOT RUN elsewhere.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use eventkit::config::Engine;

use super::{append, assert_holds, beside, close, events, open_on, wait};

/// Tells the child which engine it is to use.
const CHILD_ENGINE: &str = "WAL_BARRIER_CHILD_ENGINE";
/// Tells the child where its log is to be, and that it is one.
const CHILD_DIR: &str = "WAL_BARRIER_CHILD_DIR";
const GROUPS: usize = 12;

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: what the others run under `strace`. Appends groups of growing size and says when each is acknowledged.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let sqlite = std::env::var_os(CHILD_ENGINE).is_some_and(|engine| engine == "sqlite");
    let engine = if sqlite { Engine::Sqlite } else { Engine::Sled };
    let (wal, _) = match open_on(engine, Path::new(&path)) {
        Ok(opened) => opened,
        Err(error) => return line(&format!("refused {error}")),
    };
    for n in 0..GROUPS {
        let Ok(commit) = wal.append(super::to_append(&wal, &group(n))) else {
            line(&format!("turned away {n}"));
            continue;
        };
        match wait(commit) {
            Ok(_) => line(&format!("acknowledged {n}")),
            Err(_) => line(&format!("failed {n}")),
        }
    }
    close(wal);
}

/// One event in small groups, many parts in the large ones.
fn group(n: usize) -> Vec<super::Sent> {
    events(&format!("g{n}"), 1 + n % 4 * 10, 100 + n * 200)
}

/// Runs the child; its standard output, and the trace if strace is there.
fn traced(path: &Path, inject: Option<&str>) -> Option<(Vec<String>, String)> {
    traced_on(Engine::Sled, path, inject)
}

fn traced_on(engine: Engine, path: &Path, inject: Option<&str>) -> Option<(Vec<String>, String)> {
    let trace = path.with_extension("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "64", "-o"]).arg(&trace);
    command.args(["-e", "trace=fdatasync,sync_file_range,fsync,pwrite64,write"]);
    if let Some(inject) = inject {
        command.args(["-e", &format!("inject={inject}")]);
    }
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "wal::barrier::child",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
        .env(CHILD_DIR, path)
        .env(CHILD_ENGINE, engine.name());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!in_ci, "strace is needed in CI: {error}");
            let mut err = std::io::stderr();
            writeln!(err, "NOT RUN: the log's system calls; strace: {error}").unwrap();
            return None;
        }
    };
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the child failed: {said}{errors}");
    // The harness says things on the same lines.
    let words = ["acknowledged ", "failed ", "turned away ", "refused "];
    let said = said.lines().filter_map(|line| {
        let at = words.iter().filter_map(|word| line.find(word)).min()?;
        line.get(at..).map(str::to_owned)
    });
    Some((said.collect(), fs::read_to_string(trace).unwrap()))
}

/// One system call: when it began and ended, by line of the trace.
#[derive(Debug)]
struct Call {
    name: String,
    /// The file behind its descriptor.
    file: String,
    text: String,
    began: usize,
    ended: usize,
    succeeded: bool,
}

/// Puts calls that strace shows in two halves together.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: HashMap<&str, Call> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        let mut call = if rest.starts_with("<... ") {
            open.remove(pid).expect("the half before it")
        } else if let Some((name, arguments)) = rest.split_once('(') {
            let file = arguments
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'));
            Call {
                name: name.to_owned(),
                file: file.map_or(String::new(), |(file, _)| file.to_owned()),
                text: arguments.to_owned(),
                began: at,
                ended: at,
                succeeded: false,
            }
        } else {
            continue;
        };
        if rest.ends_with("<unfinished ...>") {
            open.insert(pid, call);
            continue;
        }
        call.ended = at;
        let result = rest.rsplit_once(" = ").map(|(_, result)| result);
        call.succeeded = result.is_some_and(|result| !result.starts_with('-'));
        calls.push(call);
    }
    calls
}

fn scene() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("wal");
    (dir, path)
}

#[test]
fn an_acknowledgement_comes_after_a_completed_fdatasync_of_its_data() {
    let (_dir, path) = scene();
    let Some((said, trace)) = traced(&path, None) else {
        return;
    };
    let expected: Vec<String> = (0..GROUPS).map(|n| format!("acknowledged {n}")).collect();
    assert_eq!(said, expected);
    let calls = calls(&trace);
    let count = |name: &str| calls.iter().filter(|call| call.name == name).count();
    assert_eq!(
        count("sync_file_range"),
        0,
        "sled's own barrier is replaced"
    );

    let db = path.join("db").to_str().unwrap().to_owned();
    let mark = beside(&path, ".mark").to_str().unwrap().to_owned();
    let mut from = 0;
    for n in 0..GROUPS {
        let answer = answered(&calls, n);
        let between = |call: &&Call| call.began > from && call.began < answer;
        let data: Vec<&Call> = calls
            .iter()
            .filter(between)
            .filter(|call| call.name == "pwrite64" && call.file == db)
            .collect();
        assert!(!data.is_empty(), "commit {n} wrote its data");
        let written = data.iter().map(|call| call.ended).max().unwrap();
        let syncs: Vec<&Call> = calls
            .iter()
            .filter(between)
            .filter(|call| call.name == "fdatasync" && call.file == db && call.succeeded)
            .collect();
        let last = syncs.iter().find(|call| call.began > written);
        let synced = last
            .unwrap_or_else(|| panic!("commit {n} was not synced"))
            .ended;
        // sled's own, in place of sync_file_range, and the log's.
        assert!(syncs.len() >= 2, "commit {n}: {syncs:?}");
        assert!(
            synced < answer,
            "commit {n} was answered while its sync went on"
        );
        let marked = calls
            .iter()
            .filter(between)
            .any(|call| call.name == "pwrite64" && call.file == mark && call.began > synced);
        assert!(
            marked,
            "commit {n}: the mark is written after the sync and before the answer"
        );
        from = answer;
    }
}

/// The files that must be durable by name: sled itself syncs neither `conf` nor its directory.
#[test]
fn a_new_log_is_durable_by_name_before_its_first_answer() {
    let (_dir, path) = scene();
    let Some((_, trace)) = traced(&path, None) else {
        return;
    };
    let calls = calls(&trace);
    let answer = calls
        .iter()
        .find(|call| call.text.contains("acknowledged 0"))
        .unwrap()
        .began;
    let parent = path.parent().unwrap().to_path_buf();
    for file in [path.join("conf"), path.clone(), parent] {
        let name = file.to_str().unwrap();
        let synced = calls.iter().any(|call| {
            call.name == "fsync" && call.file == name && call.ended < answer && call.succeeded
        });
        assert!(synced, "{name} is synced");
    }
    let mark = beside(&path, ".mark").to_str().unwrap().to_owned();
    let synced = calls
        .iter()
        .any(|call| call.name == "fdatasync" && call.file == mark && call.ended < answer);
    assert!(synced, "the first mark is synced");
}

#[test]
fn a_failing_fdatasync_is_never_acknowledged_and_the_next_open_has_everything() {
    // The counts are each thread's own, so that some hit the open, some an early commit and some a late one.
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for from in [1, 2, 3, 5, 8, 11] {
        let (_dir, path) = scene();
        let inject = format!("fdatasync:error=EIO:when={from}+");
        let Some((said, trace)) = traced(&path, Some(&inject)) else {
            return;
        };
        let calls = calls(&trace);
        let failed = calls
            .iter()
            .find(|call| call.name == "fdatasync" && !call.succeeded);
        let failed = failed.expect("a sync failed").ended;
        for call in calls
            .iter()
            .filter(|call| call.text.contains("acknowledged "))
        {
            assert!(
                call.name != "write" || call.began < failed,
                "from {from}: {call:?}"
            );
        }
        let count = said
            .iter()
            .filter(|line| line.starts_with("acknowledged"))
            .count();
        acknowledged.push(count);
        let first = (0..count).map(|n| format!("acknowledged {n}"));
        assert!(first.eq(said.iter().take(count).cloned()), "{said:?}");
        let rest = said.get(count..).unwrap();
        let bad = |line: &String| line.starts_with("failed") || line.starts_with("turned away");
        let poisoned = beside(&path, ".poisoned").exists();
        if said.first().is_some_and(|line| line.starts_with("refused")) {
            refused += 1;
            // A mark that could not be synced is written anew; of the log's own bytes the page cache may tell lies.
            let own = said.iter().any(|line| line.contains("the log's storage"));
            assert_eq!(poisoned, own, "from {from}: {said:?}");
        } else {
            assert!(!rest.is_empty() && rest.iter().all(bad), "{said:?}");
            assert!(poisoned, "from {from}: {said:?}");
        }
        check_after(Engine::Sled, &path, count);
    }
    assert!(refused > 0, "no failure hit the open");
    assert!(
        acknowledged.iter().any(|&count| count > 0),
        "{acknowledged:?}"
    );
}

/// The log opens, holds what was acknowledged, and at most the one group beyond it whose outcome was unknown.
fn check_after(engine: Engine, path: &Path, acknowledged: usize) {
    let (wal, _) = open_on(engine, path).unwrap();
    assert!(!beside(path, ".poisoned").exists());
    let sent: Vec<super::Sent> = (0..GROUPS).flat_map(group).collect();
    let least: usize = (0..acknowledged).map(|n| group(n).len()).sum();
    let most: usize = (0..=acknowledged).map(|n| group(n).len()).sum();
    let held = usize::try_from(super::durable(&wal)).unwrap();
    assert!(
        held == least || held == most,
        "{held} events; {least} were acknowledged"
    );
    assert_holds(&wal, 0, &sent[..held]);
    // What the clients send again is stored once.
    let again = append(&wal, &sent);
    assert_eq!(again.duplicates.len(), held);
    assert_holds(&wal, 0, &sent);
    close(wal);
}

/// When the line of an acknowledgement began to be written.
fn answered(calls: &[Call], n: usize) -> usize {
    let said = format!("acknowledged {n}\\n");
    let line = calls
        .iter()
        .find(|call| call.name == "write" && call.text.contains(&said));
    line.unwrap_or_else(|| panic!("no line for {n}")).began
}

#[test]
fn on_sqlite_an_acknowledgement_comes_after_a_completed_sync_of_its_data() {
    let (_dir, path) = scene();
    let Some((said, trace)) = traced_on(Engine::Sqlite, &path, None) else {
        return;
    };
    let expected: Vec<String> = (0..GROUPS).map(|n| format!("acknowledged {n}")).collect();
    assert_eq!(said, expected);
    let calls = calls(&trace);
    let is_sync = |call: &Call| matches!(call.name.as_str(), "fdatasync" | "fsync");
    let data = path.join("log.db-wal").to_str().unwrap().to_owned();
    let mark = beside(&path, ".mark").to_str().unwrap().to_owned();
    let mut from = 0;
    for n in 0..GROUPS {
        let answer = answered(&calls, n);
        let between: Vec<&Call> = calls
            .iter()
            .filter(|call| call.began > from && call.began < answer)
            .collect();
        let written = between
            .iter()
            .filter(|call| call.name == "pwrite64" && call.file == data)
            .map(|call| call.ended)
            .max()
            .unwrap_or_else(|| panic!("commit {n} wrote no data"));
        let synced = between
            .iter()
            .find(|call| {
                is_sync(call) && call.file == data && call.succeeded && call.began > written
            })
            .unwrap_or_else(|| panic!("commit {n} was not synced"))
            .ended;
        assert!(
            synced < answer,
            "commit {n} was answered while its sync went on"
        );
        let marked = between
            .iter()
            .any(|call| call.name == "pwrite64" && call.file == mark && call.began > synced);
        assert!(
            marked,
            "commit {n}: the mark is written after the sync and before the answer"
        );
        from = answer;
    }
    // By name: the database as it was made, its directory after the rename and again with the first commit, the parent.
    let first = calls
        .iter()
        .find(|call| call.text.contains("acknowledged 0"))
        .unwrap()
        .began;
    let parent = path.parent().unwrap().to_path_buf();
    for name in [path.join("log.creating"), path.clone(), parent] {
        let name = name.to_str().unwrap();
        let synced = calls
            .iter()
            .any(|call| is_sync(call) && call.file == name && call.ended < first && call.succeeded);
        assert!(synced, "{name} is synced");
    }
    let opened = calls.iter().find(|call| call.file == data).unwrap().began;
    let named = calls.iter().any(|call| {
        is_sync(call) && Path::new(&call.file) == path && call.began > opened && call.ended < first
    });
    assert!(
        named,
        "the name of log.db-wal is durable before the first answer"
    );
}

/// A sync that fails, and a volume that is full: whatever the call, nothing is acknowledged from then on.
#[test]
fn on_sqlite_a_failing_call_is_never_acknowledged_and_the_next_open_has_everything() {
    let mut acknowledged = Vec::new();
    let faults = [
        ("fdatasync", "EIO"),
        ("fsync", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("pwrite64", "EIO"),
    ];
    for (call, error) in faults {
        // The counts are each thread's own: the open makes some of the calls, the commits the others.
        for from in [1, 2, 3, 6, 9, 14, 20] {
            let (_dir, path) = scene();
            close(open_on(Engine::Sqlite, &path).unwrap().0);
            let inject = format!("{call}:error={error}:when={from}+");
            let case = format!("{call} fails with {error} from {from} on");
            let Some((said, trace)) = traced_on(Engine::Sqlite, &path, Some(&inject)) else {
                return;
            };
            let calls = calls(&trace);
            let failed = calls
                .iter()
                .find(|traced| traced.name == call && !traced.succeeded);
            let count = said
                .iter()
                .filter(|line| line.starts_with("acknowledged"))
                .count();
            let Some(failed) = failed.map(|call| call.ended) else {
                // SQLite makes fewer of these calls than that.
                assert_eq!(count, GROUPS, "{case}");
                continue;
            };
            let late = calls.iter().find(|call| {
                call.name == "write" && call.text.contains("acknowledged ") && call.began > failed
            });
            // The mark's own failing sync comes after the data's: what it would have covered is durable without it.
            assert!(late.is_none(), "{case}: {late:?}");
            acknowledged.push(count);
            if said.first().is_some_and(|line| line.starts_with("refused")) {
                assert_eq!(count, 0, "{case}");
            } else if error != "ENOSPC" {
                // A write that found no room was refused; nothing of it can pass for durable.
                assert!(beside(&path, ".poisoned").exists(), "{case}: {said:?}");
            }
            check_after(Engine::Sqlite, &path, count);
        }
    }
    assert!(
        acknowledged.iter().any(|&count| count > 0) && acknowledged.contains(&0),
        "{acknowledged:?}"
    );
}
