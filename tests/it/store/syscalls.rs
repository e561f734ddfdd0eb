//! The order of system calls behind a put, as `strace` sees it: no name before its bytes are synced, no success before
//! its folder is.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What one thread did, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Write(String),
    Sync(String),
    MakeFolder(String),
    Link { from: String, to: String },
    Unlink(String),
}

/// The last two parts of a path: enough to tell the files apart, wherever the temporary directory really lies.
fn tail(path: &str) -> String {
    let parts: Vec<&str> = path.rsplit('/').take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn parent(path: &str) -> String {
    let parent = Path::new(path).parent().and_then(Path::to_str);
    tail(parent.unwrap_or_default())
}

/// Reads a line of `strace -y`; calls that failed, and others, are left out.
fn call(line: &str) -> Option<Call> {
    let (call, result) = line.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let (name, arguments) = call.split_once('(')?;
    let file = || Some(tail(arguments.split_once('<')?.1.split_once('>')?.0));
    let quoted: Vec<&str> = arguments.split('"').skip(1).step_by(2).collect();
    Some(match (name, quoted.as_slice()) {
        ("write", _) => Call::Write(file()?),
        ("fsync" | "fdatasync", _) => Call::Sync(file()?),
        ("mkdir" | "mkdirat", [path, ..]) => Call::MakeFolder((*path).to_owned()),
        ("link" | "linkat", [from, to]) => Call::Link {
            from: tail(from),
            to: (*to).to_owned(),
        },
        ("unlink" | "unlinkat", [path]) => Call::Unlink(tail(path)),
        _ => return None,
    })
}

fn position(calls: &[Call], wanted: &Call) -> Option<usize> {
    calls.iter().position(|call| call == wanted)
}

/// Checks every link and every new folder of one thread; how many links there were.
fn check(calls: &[Call]) -> usize {
    let mut links = 0;
    for (at, call) in calls.iter().enumerate() {
        let (before, after) = calls.split_at(at);
        match call {
            Call::Link { from, to } => {
                links += 1;
                let synced = position(before, &Call::Sync(from.clone()));
                let synced = synced.expect("the bytes are synced before they have a name");
                let written = before
                    .iter()
                    .rposition(|call| *call == Call::Write(from.clone()));
                assert!(
                    written.is_none_or(|written| written < synced),
                    "written after the sync: {calls:#?}"
                );
                let named = position(after, &Call::Sync(parent(to)));
                let removed = position(after, &Call::Unlink(from.clone()));
                assert!(
                    named.is_some() && named < removed,
                    "the folder is synced, and only then the temporary file goes: {calls:#?}"
                );
            }
            Call::MakeFolder(path) => {
                let used = after
                    .iter()
                    .position(|call| matches!(call, Call::Link { .. }));
                let used = used.unwrap_or(after.len());
                for folder in [tail(path), parent(path)] {
                    let synced = position(after, &Call::Sync(folder.clone()));
                    assert!(
                        synced.is_some_and(|synced| synced < used),
                        "{folder} is synced before {path} is used: {calls:#?}"
                    );
                }
            }
            Call::Write(_) | Call::Sync(_) | Call::Unlink(_) => {}
        }
    }
    links
}

#[test]
fn a_name_is_given_and_relied_upon_only_after_the_syncs_it_needs() {
    let dir = TempDir::new().unwrap();
    let traces = dir.path().join("trace");
    let ended = Command::new("strace")
        .args(["-ff", "-y", "-s", "4096", "-e"])
        .arg("trace=write,fsync,fdatasync,mkdir,mkdirat,link,linkat,unlink,unlinkat")
        .arg("-o")
        .arg(&traces)
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::a_write_is_an_object_and_a_marker_that_names_it",
        ])
        .output()
        .expect("strace runs; `make setup` installs it");
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let mut links = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        // One file per thread; a put stays on one thread.
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&text);
        let calls: Vec<Call> = text.lines().filter_map(call).collect();
        if calls.iter().any(|call| matches!(call, Call::Link { .. })) {
            links += check(&calls);
        }
    }
    // Two objects and their markers.
    assert_eq!(links, 4);
}
