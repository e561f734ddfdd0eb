//! The real binary, as people and scripts call it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use eventkit::cli::wal::lock_path;
use eventkit::config::settings;
use serde_json::{Value, json};

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary with nothing in its environment but what is given.
fn eventkit(arguments: &[&str], env: &[(&str, &str)]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_eventkit"))
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn help_names_commands_settings_and_exit_codes() {
    let run = eventkit(&["--help"], &[]);
    assert_eq!(run.code, Some(0));
    for word in [
        "dev",
        "serve",
        "config",
        "wal",
        "Exit codes",
        "curl",
        "config print",
    ] {
        assert!(run.out.contains(word), "{word}: {}", run.out);
    }
    let run = eventkit(&["serve", "--help"], &[]);
    assert_eq!(run.code, Some(0));
    for setting in settings::ALL.iter().filter(|s| !s.flag.is_empty()) {
        assert!(run.out.contains(setting.env), "{}", setting.env);
        assert!(
            run.out.contains(&format!("--{}", setting.flag)),
            "{}",
            setting.flag
        );
    }
}

#[test]
fn version_is_the_packages() {
    let run = eventkit(&["--version"], &[]);
    assert_eq!(run.code, Some(0));
    assert_eq!(run.out, format!("eventkit {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_cannot_be_typed_exits_with_2() {
    for arguments in [&[][..], &["fly"], &["serve", "--no-such-flag"], &["wal"]] {
        let run = eventkit(arguments, &[]);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.err);
        assert!(run.err.contains("Usage"), "{}", run.err);
    }
}

#[test]
fn every_problem_is_listed_and_nothing_starts() {
    let env = [
        ("EVENTKIT_LANES", "many"),
        ("EVENTKIT_HTPP_ADDR", "127.0.0.1:0"),
        ("EVENTKIT_LOG_LEVEL", "LOUD"),
    ];
    for command in [
        &["config", "check", "--for", "dev"][..],
        &["dev"],
        &["config", "check"],
        &["serve"],
    ] {
        let arguments = [command, &["--batch-bytes=9GiB"]].concat();
        let run = eventkit(&arguments, &env);
        assert_eq!(run.code, Some(2), "{arguments:?}");
        assert_eq!(run.out, "");
        for text in [
            "EVENTKIT_LANES=many: must be",
            "EVENTKIT_HTPP_ADDR: there is no such setting; did you mean EVENTKIT_HTTP_ADDR?",
            "EVENTKIT_LOG_LEVEL=LOUD: must be one of DEBUG, INFO, WARNING, ERROR",
            "--batch-bytes=9GiB: must be a size",
        ] {
            assert!(run.err.contains(text), "{text}: {}", run.err);
        }
    }
}

#[test]
fn a_good_configuration_passes_and_its_oddities_are_said() {
    let run = eventkit(
        &["config", "check", "--event-store", "local"],
        &[("EVENTKIT_BUFFER_SIZE", "5")],
    );
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.out, "the configuration for serve is good\n");
    assert!(
        run.err
            .starts_with("warning: EVENTKIT_BUFFER_SIZE: deprecated"),
        "{}",
        run.err
    );

    // The default store needs a bucket: that is said, with the store that needs nothing.
    let run = eventkit(&["config", "check"], &[]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.err
            .contains("EVENTKIT_EVENT_STORE=local stores in the data directory"),
        "{}",
        run.err
    );
}

#[test]
fn print_says_where_each_value_comes_from() {
    let env = [("EVENTKIT_NODE", "n1"), ("EVENTKIT_LANES", "8")];
    let arguments = ["config", "print", "--for", "dev", "--lanes", "4"];
    let run = eventkit(&arguments, &env);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    for line in [
        "flag     EVENTKIT_LANES=4",
        "env      EVENTKIT_NODE=n1",
        "default  EVENTKIT_HTTP_ADDR=127.0.0.1:8000",
        "default  EVENTKIT_RING_BUFFER_DB_PATH=./eventkit-data/wal",
    ] {
        assert!(
            run.out.lines().any(|shown| shown == line),
            "{line}: {}",
            run.out
        );
    }
    assert!(!run.out.contains("EVENTKIT_BUFFER_SIZE"));

    let run = eventkit(&[&arguments[..], &["--json"]].concat(), &env);
    let entries: Vec<Value> = serde_json::from_str(&run.out).unwrap();
    let lanes = entries
        .iter()
        .find(|entry| entry["setting"] == "EVENTKIT_LANES");
    let expect =
        json!({"setting": "EVENTKIT_LANES", "flag": "--lanes", "value": "4", "source": "flag"});
    assert_eq!(lanes, Some(&expect));
    assert_eq!(
        entries.len(),
        settings::ALL
            .iter()
            .filter(|setting| setting.deprecated.is_none() && !setting.shown_only_if_set)
            .count()
    );
}

#[test]
fn print_shows_even_what_cannot_start_and_says_so() {
    let run = eventkit(&["config", "print"], &[]);
    assert_eq!(run.code, Some(0));
    assert!(run.out.contains("default  EVENTKIT_EVENT_STORE=gcs"));
    assert!(run.err.contains("config check --for serve"), "{}", run.err);
}

#[test]
fn a_log_that_is_not_there_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let run = eventkit(&["wal", "stat", path.to_str().unwrap()], &[]);
    assert_eq!((run.code, run.out.as_str()), (Some(1), ""));
    assert!(
        run.err.starts_with("failed to look into the log: "),
        "{}",
        run.err
    );

    let run = eventkit(&["wal", "stat"], &[("EVENTKIT_DATA_DIRR", "x")]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.err.contains("did you mean EVENTKIT_DATA_DIR?"),
        "{}",
        run.err
    );
}

/// A log in use: its lock is held, and an admin port answers the questions that are expected, one connection each.
struct InUse {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    _lock: File,
}

impl InUse {
    fn new(answers: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let content = json!({"pid": 7, "admin": listener.local_addr().unwrap()});
        let path = lock_path(&dir.path().join("wal"));
        std::fs::write(&path, content.to_string()).unwrap();
        let lock = File::open(&path).unwrap();
        lock.try_lock().unwrap();

        let asked = Arc::new(Mutex::new(Vec::new()));
        std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                for (status, body) in answers {
                    let (mut socket, _) = listener.accept().unwrap();
                    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
                    asked.lock().unwrap().push(lines.next().unwrap().unwrap());
                    while !lines.next().unwrap().unwrap().is_empty() {}
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    socket.write_all((head + &body).as_bytes()).unwrap();
                    drop(lines);
                    // The client closes first or we do; either way the answer has gone out.
                    socket.shutdown(std::net::Shutdown::Write).unwrap();
                    socket.read_to_end(&mut Vec::new()).unwrap_or_default();
                }
            }
        });
        Self {
            dir,
            asked,
            _lock: lock,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let data_dir = self.dir.path().to_str().unwrap();
        eventkit(
            &[&["wal"], arguments].concat(),
            &[("EVENTKIT_DATA_DIR", data_dir)],
        )
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn record(offset: u64) -> Value {
    json!({
        "offset": offset, "lane": 1, "source": "default", "message_id": format!("m{offset}"),
        "stream": "events", "received_at_us": 1_700_000_000_000_000_i64, "format": "json", "payload_bytes": 10,
    })
}

#[test]
fn a_log_in_use_is_asked_through_its_admin_port() {
    let answer = json!({"log_id": "00c0ffee", "records": 5, "stored_bytes": 2048}).to_string();
    let log = InUse::new(vec![("200 OK", answer.clone()), ("200 OK", answer.clone())]);
    let run = log.run(&["stat"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(
        run.out.contains("log id            00c0ffee\n"),
        "{}",
        run.out
    );
    assert!(
        run.out.contains("bytes stored      2048 (2.0 KiB)\n"),
        "{}",
        run.out
    );
    let run = log.run(&["stat", "--json"]);
    assert_eq!(run.out, answer + "\n");
    assert_eq!(log.asked(), ["GET /admin/wal/stat HTTP/1.1"; 2]);
    assert!(!log.path().exists());
}

#[test]
fn damage_in_a_log_in_use_exits_with_1() {
    let whole = json!({"groups": 1, "records": 2, "problems": []}).to_string();
    let damaged = json!({"groups": 1, "records": 2, "problems": ["offset 1: gap"]}).to_string();
    let log = InUse::new(vec![("200 OK", whole), ("200 OK", damaged)]);
    let run = log.run(&["verify"]);
    assert_eq!(
        (run.code, run.out.as_str()),
        (
            Some(0),
            "records read: 2, in group commits: 1\nthe log is whole\n"
        )
    );
    let run = log.run(&["verify"]);
    assert_eq!(run.code, Some(1));
    assert!(run.out.contains("offset 1: gap"), "{}", run.out);
}

#[test]
fn a_long_dump_is_asked_for_page_by_page() {
    let page =
        |offsets: std::ops::Range<u64>| json!(offsets.map(record).collect::<Vec<_>>()).to_string();
    let log = InUse::new(vec![
        ("200 OK", page(10..1010)),
        ("200 OK", page(1010..1015)),
    ]);
    let run = log.run(&["dump", "--from", "10", "--limit", "2000", "--json"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let offsets: Vec<_> = run
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["offset"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(offsets, (10..1015).collect::<Vec<_>>());
    assert_eq!(
        log.asked(),
        [
            "GET /admin/wal/dump?from=10&limit=1000&payload=false HTTP/1.1",
            "GET /admin/wal/dump?from=1010&limit=1000&payload=false HTTP/1.1",
        ]
    );
}

#[test]
fn an_owner_that_cannot_answer_is_named_with_its_reason() {
    let log = InUse::new(vec![(
        "500 Internal Server Error",
        r#"{"error":"the log has failed"}"#.into(),
    )]);
    let run = log.run(&["stat"]);
    assert_eq!(run.code, Some(1));
    for text in [
        "failed to ask the admin port 127.0.0.1:",
        "process 7",
        "the log has failed",
    ] {
        assert!(run.err.contains(text), "{text}: {}", run.err);
    }

    std::fs::write(lock_path(&log.path()), "").unwrap();
    let run = log.run(&["stat"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("names no admin port"), "{}", run.err);
}

/// Does not outlive a test that fails.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn a_real_log_is_shown_while_it_is_in_use_and_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let any = "127.0.0.1:0";
    let child = Command::new(env!("CARGO_BIN_EXE_eventkit"))
        .args(["dev", "--json-logs", "--http-addr", any])
        .args(["--grpc-addr", any, "--admin-addr", any])
        .env_clear()
        .env("EVENTKIT_DATA_DIR", data_dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Child(child);
    let mut log = BufReader::new(child.0.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let listening = log.next().unwrap();
    assert_eq!(listening["event"], "listening", "the first line says where");

    let mut door = std::net::TcpStream::connect(listening["http"].as_str().unwrap()).unwrap();
    let body = r#"[{"type":"track","event":"a","messageId":"m0"},{"type":"track","event":"b","messageId":"m1"}]"#;
    let length = body.len();
    let head = format!(
        "POST /collect HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    door.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    door.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");

    let check = || {
        let wal = |arguments: &[&str]| {
            let run = eventkit(
                &[&["wal"], arguments].concat(),
                &[("EVENTKIT_DATA_DIR", data_dir)],
            );
            assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
            run.out
        };
        let stat: Value = serde_json::from_str(&wal(&["stat", "--json"])).unwrap();
        assert_eq!(
            (&stat["records"], &stat["next_offset"]),
            (&json!(2), &json!(2))
        );
        assert!(wal(&["verify"]).ends_with("the log is whole\n"));
        let dump = wal(&["dump", "--json", "--payload", "--from", "1"]);
        let line: Value = serde_json::from_str(&dump).unwrap();
        assert_eq!(line["message_id"], "m1");
        assert_eq!(
            line["payload"],
            r#"{"type":"track","event":"b","messageId":"m1"}"#
        );
    };
    check();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(log.any(|line| line["event"] == "shutdown_completed"));
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    check();
}
