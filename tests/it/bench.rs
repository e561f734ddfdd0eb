//! `eventkit bench`, the real binary: that it measures every row, and leaves nothing behind. No figure is held against a time.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::gateway::binary;

mod edge;
#[cfg(feature = "cloud")]
mod pipeline;
mod telemetry;

/// How long a run may take, on a busy machine.
const RUN_WITHIN: Duration = Duration::from_secs(300);

/// Everything as small as it can be, with its servers' files below `dir`.
fn bench(dir: &Path, arguments: &[&str]) -> Child {
    let mut command = small(dir, &["bench"]);
    command
        .args(["--sustain", "0.5", "--backlog", "2000"])
        .args(["--unpublished", "2000"])
        .args(arguments);
    command.spawn().unwrap()
}

/// One of the benches, as small as all of them can be.
fn small(dir: &Path, name: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(name)
        .args(["--quick", "--seconds", "0.2"])
        .args(["--connections", "8", "--streams", "2", "--batch", "10"])
        .arg("--dir")
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for its end.
async fn ended(child: Child) -> std::process::Output {
    tokio::time::timeout(RUN_WITHIN, child.wait_with_output())
        .await
        .expect("a run ends in time")
        .unwrap()
}

/// Runs it to its end: its result and its table.
async fn run(mut command: Command) -> (Value, String) {
    let results = tempfile::tempdir().unwrap();
    let json = results.path().join("bench.json");
    let child = command.arg("--json").arg(&json).spawn().unwrap();
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (report, String::from_utf8(output.stdout).unwrap())
}

/// The processes that were told of a directory.
fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    processes.filter(|line| line.contains(dir)).collect()
}

fn assert_nothing_is_left(dir: &Path) {
    assert_eq!(processes(dir), [""; 0]);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value > 0.0)
}

#[tokio::test]
async fn every_row_is_measured_and_nothing_is_left() {
    let (dir, results) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = results.path().join("bench.json");
    let child = bench(dir.path(), &["--json", json.to_str().unwrap()]);
    let output = tokio::time::timeout(RUN_WITHIN, child.wait_with_output())
        .await
        .expect("a run ends in time")
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_nothing_is_left(dir.path());

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!(positive(&report["fdatasync"]["p50_ms"]), "{report}");
    let compared = report["compared"].as_array().unwrap();
    for (compared, way) in compared.iter().zip(["http", "bidi"]) {
        assert_eq!(compared["way"], way);
        let servers = compared["servers"].as_array().unwrap();
        let names: Vec<_> = servers.iter().map(|row| &row["server"]).collect();
        assert_eq!(names, ["noop", "raw", "accept", "full"]);
        for row in servers {
            assert!(positive(&row["events"]), "{row}");
            assert!(positive(&row["events_per_second"]["median"]), "{row}");
            assert!(positive(&row["answer_p50_ms"]["median"]), "{row}");
            assert_eq!(row["failed"], 0, "{row}");
        }
        assert_eq!(compared["ratios"].as_array().unwrap().len(), 4);
    }
    assert_eq!(compared.len(), 2);
    let sustained = report["sustained"].as_array().unwrap();
    assert_eq!(sustained.len(), 4);
    for row in sustained {
        assert!(positive(&row["accept_events_per_second"]), "{row}");
        if positive(&row["events_per_second"]) && row["goal"] == "sqlite" {
            assert_eq!(row["rows"], row["accepted"], "{row}");
        }
    }
    let latency = report["latency"].as_array().unwrap();
    assert!(latency.len() >= 2, "{report}");
    for row in latency {
        assert!(
            positive(&row["events"]) && positive(&row["p99_ms"]),
            "{row}"
        );
    }
    for figure in ["idle", "full_load", "backlog", "reopened", "backlog_events"] {
        assert!(positive(&report["resident"][figure]), "{figure}: {report}");
    }
    assert!(positive(&report["opened"]["seconds"]["median"]), "{report}");
    assert!(positive(&report["opened"]["unpublished_events"]));

    let table = String::from_utf8(output.stdout).unwrap();
    for word in [
        "accept / noop",
        "fdatasync",
        "kept up",
        "70 %",
        "resident",
        "start on",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[tokio::test]
async fn an_interrupt_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let long = ["http", "--rounds", "1000", "--servers", "accept"];
    let mut child = bench(dir.path(), &long);
    // The run itself and its first server.
    tokio::time::timeout(RUN_WITHIN, async {
        while processes(dir.path()).len() < 2 {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a server is started");
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(RUN_WITHIN, child.wait_with_output())
        .await
        .expect("a run ends when it is told to")
        .unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_nothing_is_left(dir.path());
}

#[tokio::test]
async fn a_server_that_does_not_start_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let child = bench(dir.path(), &["http", "--log-level", "LOUD"]);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("start the server") && said.contains("LOUD"),
        "{said}"
    );
    assert_nothing_is_left(dir.path());
}
