//! `eventkit wal drain` with the real binary: a log of either engine that a killed gateway left becomes rows, without a port.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::support::gateway::{Gateway, binary};
use crate::support::{clients, warehouse};

const ENGINES: [&str; 2] = ["sled", "sqlite"];
/// How long a drain or an orderly end may take.
const WITHIN: Duration = Duration::from_secs(60);

/// The program with nothing of the environment's own settings.
fn eventkit(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EVENTKIT_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Exit code, standard output, standard error.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    run_in(arguments, &[]).await
}

/// The same, with settings in the environment.
pub(crate) async fn run_in(arguments: &[&str], settings: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = eventkit(arguments);
    command.envs(settings.iter().copied());
    let output = tokio::time::timeout(WITHIN, command.output())
        .await
        .expect("ends in time")
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().expect("not killed"),
        text(output.stdout),
        text(output.stderr),
    )
}

async fn drain(log: &str) -> (i32, Value, String) {
    let (code, out, err) = run(&["wal", "drain", "--for", "dev", "--json", log]).await;
    let summary = serde_json::from_str(&out).unwrap_or(Value::Null);
    (code, summary, err)
}

/// A gateway that accepted `count` events on the engine and was killed before it could store them all.
async fn killed(dir: &Path, engine: &str, count: usize) {
    // What is accepted stays in the log for a minute, if nothing drains it.
    let settings = [
        ("EVENTKIT_RING_BUFFER_MODE", engine),
        ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "60"),
    ];
    let (gateway, endpoints) = Gateway::start(dir, &settings).await.unwrap();
    let http = clients::Http::new(&endpoints);
    for n in 0..count {
        let body = format!(
            r#"{{"type":"track","messageId":"m{n}","userId":"u{}","event":"Drained"}}"#,
            n % 7
        );
        let (status, answer) = http.post("/collect", body).await.unwrap();
        assert_eq!(status, 202, "{answer}");
    }
    gateway.kill().await.unwrap();
    assert_eq!(warehouse::counts(dir).0, 0, "nothing was stored before");
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_a_killed_gateway_left_becomes_rows_on_both_engines() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), engine, 40).await;
        let log = dir.path().join("wal");
        let log = log.to_str().unwrap();

        let relane = ["wal", "relane", "--lanes", "4", log];
        let (code, out, _) = run(&relane).await;
        assert_eq!(code, 1, "{engine}: {out}");
        assert!(
            out.contains("its 16 lanes, as not all of its events are settled (unsettled: 40)"),
            "{out}"
        );

        let (code, summary, err) = drain(log).await;
        assert_eq!(code, 0, "{engine}: {summary} {err}");
        assert_eq!(summary["engine"], engine);
        assert_eq!(summary["delivered"], 40);
        assert_eq!(summary["unsettled"], 0);
        assert_eq!(summary["warehouse"], "loaded");
        assert_eq!(warehouse::counts(dir.path()), (40, 0), "{engine}");
        assert_eq!(warehouse::inbox_len(dir.path()), 0);

        // Once more there is nothing to do, and nothing is done twice.
        let (code, summary, _) = drain(log).await;
        assert_eq!((code, &summary["delivered"]), (0, &Value::from(0)));
        assert_eq!(warehouse::counts(dir.path()), (40, 0), "{engine}");

        // The log is as good as before: the tools read it, and a gateway goes on with it.
        let (code, out, _) = run(&["wal", "verify", "--json", log]).await;
        assert_eq!(code, 0, "{engine}: {out}");
        let (_, out, _) = run(&["wal", "stat", "--json", log]).await;
        let stat: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(stat["unsettled_records"], 0, "{engine}: {stat}");
        assert_eq!(stat["next_offset"], 40, "{engine}: {stat}");
        let (code, out, err) = run(&relane).await;
        assert_eq!((code, out.as_str()), (0, "the log has 4 lanes\n"), "{err}");
        let settings = [("EVENTKIT_RING_BUFFER_MODE", engine)];
        let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
        let again = r#"{"type":"track","messageId":"m3","userId":"u3","event":"Drained"}"#;
        let (_, answer) = clients::Http::new(&endpoints)
            .post("/collect", again)
            .await
            .unwrap();
        assert_eq!(answer["duplicate"], 1, "{engine}: {answer}");
        let ended = gateway.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    }
}

#[tokio::test]
async fn a_log_in_use_is_not_drained() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        let settings = [("EVENTKIT_RING_BUFFER_MODE", engine)];
        let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
        let log = dir.path().join("wal");
        let (code, summary, err) = drain(log.to_str().unwrap()).await;
        assert_eq!((code, summary), (1, Value::Null), "{err}");
        assert!(err.contains("in use by another process"), "{err}");
        let http = clients::Http::new(&endpoints);
        let event = r#"{"type":"track","messageId":"m","userId":"u","event":"E"}"#;
        assert_eq!(http.post("/collect", event).await.unwrap().0, 202);
        let ended = gateway.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        assert_eq!(warehouse::counts(dir.path()), (1, 0));
    }
}

#[tokio::test]
async fn another_engine_is_refused_with_the_way_out_and_the_way_out_works() {
    for (wrote, wanted) in [("sled", "sqlite"), ("sqlite", "sled")] {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), wrote, 5).await;
        let before = file_names(&dir.path().join("wal"));
        let settings = [("EVENTKIT_RING_BUFFER_MODE", wanted)];
        let mut refused = Gateway::spawn(dir.path(), &settings).unwrap();
        assert!(refused.ready(WITHIN).await.is_err());
        let ended = refused.ended(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
        let log = dir.path().join("wal");
        let log = log.to_str().unwrap();
        for text in [
            format!("was written by the engine {wrote}"),
            format!("eventkit wal drain {log}"),
            format!("mv {log} {log}.{wrote} && mv {log}.mark {log}.{wrote}.mark"),
        ] {
            assert!(ended.said.contains(&text), "{text}: {}", ended.said);
        }
        assert_eq!(file_names(&dir.path().join("wal")), before, "left as it is");

        let (code, summary, err) = drain(log).await;
        assert_eq!(code, 0, "{summary} {err}");
        std::fs::rename(log, format!("{log}.{wrote}")).unwrap();
        std::fs::rename(format!("{log}.mark"), format!("{log}.{wrote}.mark")).unwrap();
        let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
        let event = r#"{"type":"track","messageId":"new","userId":"u","event":"E"}"#;
        let http = clients::Http::new(&endpoints);
        assert_eq!(http.post("/collect", event).await.unwrap().0, 202);
        let ended = gateway.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        assert_eq!(warehouse::counts(dir.path()), (6, 0));
    }
}

#[tokio::test]
async fn nothing_foreign_and_nothing_missing_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (code, _, err) = drain(&path("none")).await;
    assert_eq!(code, 1);
    assert!(
        err.starts_with("failed to open the log at ") && err.contains("there is none"),
        "{err}"
    );
    let predecessor = path("eventkit_ring_buffer.db");
    std::fs::write(&predecessor, b"SQLite format 3\0").unwrap();
    let (code, _, err) = drain(&predecessor).await;
    assert_eq!(code, 1);
    assert!(err.contains("drain it with the predecessor"), "{err}");
    assert_eq!(std::fs::read(&predecessor).unwrap(), b"SQLite format 3\0");
    assert_eq!(file_names(dir.path()), ["eventkit_ring_buffer.db"]);
    let (code, _, err) = run(&["wal", "drain", &path("none")]).await;
    assert_eq!(code, 2, "a store that this version does not have: {err}");
    assert!(err.contains("EVENTKIT_EVENT_STORE"), "{err}");
}

/// A store that cannot be written makes the drain wait; SIGTERM ends it, says so, and loses nothing.
#[tokio::test]
async fn a_drain_that_is_ended_says_so_and_the_next_one_finishes() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), "sqlite", 10).await;
    let log = dir.path().join("wal");
    let log = log.to_str().unwrap();
    // A file where the objects' directory of the day is to be: no rights stop a test that runs as root.
    let events = dir.path().join("store/events");
    std::fs::write(&events, b"").unwrap();
    let mut child = eventkit(&["wal", "drain", "--for", "dev", "--json", log])
        .env("EVENTKIT_JSON_LOGS", "true")
        .spawn()
        .unwrap();
    // When it says that it waits, it listens to signals.
    let (mut stderr, mut said) = (child.stderr.take().unwrap(), Vec::new());
    let waits = async {
        while !String::from_utf8_lossy(&said).contains("store_write_failed") {
            assert_ne!(stderr.read_buf(&mut said).await.unwrap(), 0, "{said:?}");
        }
    };
    tokio::time::timeout(WITHIN, waits).await.unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ends = async {
        stderr.read_to_end(&mut said).await.unwrap();
        child.wait_with_output().await.unwrap()
    };
    let output = tokio::time::timeout(WITHIN, ends).await.unwrap();
    let said = String::from_utf8_lossy(&said);
    assert_eq!(output.status.code(), Some(1), "{output:?}\n{said}");
    std::fs::remove_file(&events).unwrap();
    let (code, summary, err) = drain(log).await;
    assert_eq!((code, &summary["unsettled"]), (0, &Value::from(0)), "{err}");
    assert_eq!(warehouse::counts(dir.path()), (10, 0));
}
