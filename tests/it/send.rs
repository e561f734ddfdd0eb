//! `eventkit send`, the real binary, against the real gateway.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::support::gateway::{Endpoints, Gateway, SLED, SQLITE, binary};
use crate::support::ports;

/// How long a run may take.
const RUN_WITHIN: Duration = Duration::from_secs(60);

fn spawn(arguments: &[&str]) -> Child {
    Command::new(binary())
        .arg("send")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A run with this standard input.
async fn send(arguments: &[&str], input: &str) -> Output {
    let mut child = spawn(arguments);
    let mut stdin = child.stdin.take().unwrap();
    // Whoever does not read its input may be gone before it is written.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    ended(child).await
}

async fn ended(child: Child) -> Output {
    tokio::time::timeout(RUN_WITHIN, child.wait_with_output())
        .await
        .expect("a run ends in time")
        .unwrap()
}

/// The exit code and the summary.
fn summary(output: &Output) -> (i32, Value) {
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), json)
}

fn counts(summary: &Value) -> [u64; 5] {
    let fields = [
        "accepted",
        "duplicate",
        "rejected",
        "unacknowledged",
        "invalid_lines",
    ];
    fields.map(|field| summary[field].as_u64().unwrap())
}

async fn gateway(data_dir: &Path) -> (Gateway, Endpoints) {
    Gateway::start(data_dir, &[]).await.unwrap()
}

#[tokio::test]
async fn made_up_events_arrive_by_every_way_on_both_engines() {
    for engine in [SLED, SQLITE] {
        arrive_by_every_way(engine).await;
    }
}

async fn arrive_by_every_way(engine: (&str, &str)) {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[engine]).await.unwrap();
    let http = format!("http://{}", endpoints.http);
    let grpc = format!("grpc://{}", endpoints.grpc);
    let ways = [
        (&http, "http"),
        (&http, "bidi"),
        (&grpc, "unary"),
        (&grpc, "stream"),
        (&grpc, "bidi"),
    ];
    for (seed, (to, rpc)) in ways.into_iter().enumerate() {
        let seed = seed.to_string();
        let mut arguments = vec!["--to", to, "--rpc", rpc, "--count", "750", "--seed", &seed];
        arguments.push("--json");
        let (code, first) = summary(&send(&arguments, "").await);
        assert_eq!((code, counts(&first)), (0, [750, 0, 0, 0, 0]), "{first}");
        assert_eq!(first["rpc"], rpc);
        // The same seed makes the same ids.
        arguments.push("--gzip");
        let (code, again) = summary(&send(&arguments, "").await);
        assert_eq!((code, counts(&again)), (0, [0, 750, 0, 0, 0]), "{again}");
    }
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn bad_lines_are_named_and_do_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = gateway(dir.path()).await;
    let to = format!("http://{}", endpoints.http);
    let long = "m".repeat(300);
    let good = r#"{"type":"track","userId":"u","event":"e","messageId":"a"}"#;
    let text = format!("{good}\nnope\n\n{{\"messageId\":\"{long}\"}}\n{good}\n{{\"b\":\n{{}}\n");
    let file = dir.path().join("events.jsonl");
    std::fs::write(&file, &text).unwrap();
    let from_file = file.to_str().unwrap();

    for (input, stdin, accepted, duplicate) in [(from_file, "", 2, 1), ("-", text.as_str(), 1, 2)] {
        let output = send(
            &[input, "--to", &to, "--json", "--stream", "imports"],
            stdin,
        )
        .await;
        let (code, found) = summary(&output);
        assert_eq!(code, 1);
        assert_eq!(counts(&found), [accepted, duplicate, 1, 0, 2], "{found}");
        assert_eq!(found["rejected_by_code"]["message_id_too_long"], 1);
        let problems = found["problems"].as_array().unwrap();
        let mut places: Vec<_> = problems
            .iter()
            .map(|problem| (problem["place"].as_u64().unwrap(), &problem["status"]))
            .collect();
        places.sort_by_key(|(place, _)| *place);
        assert_eq!(
            places,
            [
                (2, &"invalid".into()),
                (4, &"rejected".into()),
                (6, &"invalid".into())
            ]
        );
        let said = String::from_utf8(output.stderr).unwrap();
        for part in [
            "line 2: invalid: not a JSON object",
            "line 4: rejected: message_id_too_long",
            "line 6: invalid: not JSON",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let text = send(&[from_file, "--to", &to, "--count", "1"], "").await;
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("duplicate       1"), "{text}");
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_summary_has_its_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = gateway(dir.path()).await;
    let to = format!("http://{}", endpoints.http);
    let (_, found) = summary(&send(&["--to", &to, "--count", "5", "--json"], "").await);
    let fields: Vec<&str> = found
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = vec![
        "to",
        "rpc",
        "seed",
        "events",
        "accepted",
        "duplicate",
        "rejected",
        "unacknowledged",
        "invalid_lines",
        "rejected_by_code",
        "requests",
        "retries",
        "seconds",
        "events_per_second",
        "latency_ms",
        "interrupted",
        "problems",
        "problems_listed_all",
    ];
    expected.sort_unstable();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    for figure in ["p50", "p99", "max"] {
        assert!(
            found["latency_ms"][figure].as_f64().unwrap() > 0.0,
            "{found}"
        );
    }
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_said_and_fails() {
    let (_held, nobody) = ports::held();
    let to = format!("http://{nobody}");
    let arguments = ["--to", &to, "--count", "10", "--retry-for", "0", "--json"];
    let (code, found) = summary(&send(&arguments, "").await);
    assert_eq!((code, counts(&found)), (1, [0, 0, 0, 10, 0]), "{found}");
    assert_eq!(found["requests"], 1);
    assert_eq!(found["problems"][0]["events"], 10);
}

#[tokio::test]
async fn a_wrong_command_line_sends_nothing() {
    let cases: [&[&str]; 10] = [
        &["--to", "ftp://gateway"],
        &["--write-key-file", "/no/such/file"],
        &["--write-key-file", "/dev/null"],
        &["--tls-cert-file", "Cargo.toml"],
        &["--to", "grpc://gateway:1", "--rpc", "http"],
        &["--stream", "../x"],
        &["--batch", "0"],
        &["--rpc", "pigeon"],
        &["/no/such/file"],
        &["-", "--seed", "1"],
    ];
    for arguments in cases {
        let output = send(arguments, "").await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[tokio::test]
async fn an_interrupt_prints_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = gateway(dir.path()).await;
    let to = format!("http://{}", endpoints.http);
    let mut child = spawn(&["-", "--to", &to, "--json"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"{\"type\":\"track\",\"messageId\":\"i1\"}\nnope\n")
        .await
        .unwrap();
    // The complaint comes with the batch's answer; standard input stays open.
    let mut stderr = child.stderr.take().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        assert_ne!(stderr.read_buf(&mut said).await.unwrap(), 0);
    }
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, found) = summary(&ended(child).await);
    assert_eq!((code, counts(&found)), (1, [1, 0, 0, 0, 1]), "{found}");
    assert_eq!(found["interrupted"], true);
    drop(stdin);

    let mut child = spawn(&["-", "--to", &to, "--json"]);
    let stdin = child.stdin.take().unwrap();
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    await_handler(pid).await;
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(ended(child).await.status.code(), Some(130));
    drop(stdin);
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}

/// Waits until the process catches SIGINT. From outside that is only visible by looking again.
async fn await_handler(pid: rustix::process::Pid) {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let caught = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << 1) != 0)
    };
    while !caught() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_gateway_that_comes_late_loses_nothing() {
    // The port is known before anybody listens on it.
    let (_held, addr) = ports::held();
    let to = format!("http://{addr}");
    let child = spawn(&["--to", &to, "--count", "300", "--json", "--rpc", "bidi"]);
    let dir = tempfile::tempdir().unwrap();
    let addr = addr.to_string();
    let late = [("EVENTKIT_HTTP_ADDR", addr.as_str())];
    let (gateway, _) = Gateway::start(dir.path(), &late).await.unwrap();
    let (code, found) = summary(&ended(child).await);
    assert_eq!((code, counts(&found)), (0, [300, 0, 0, 0, 0]), "{found}");
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
}
