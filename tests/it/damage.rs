//! The real binary on damaged logs: each case ends in recovery with everything, or in a refusal that names offsets and the
//! command, and the command then leaves every acknowledged event as one row or in a range that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::gateway::{Gateway, setting};
use crate::support::{clients, warehouse};

mod copies;
mod table;

const ENGINES: [&str; 2] = ["sled", "sqlite"];
/// How long a start, a repair or an orderly end may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Requests and events in each: some in the store already, most in the log alone.
const STORED: u64 = 30;
const GROUPS: u64 = 40;
const GROUP: u64 = 5;
const EVENTS: u64 = STORED + GROUPS * GROUP;

/// A log as a killed gateway left it, and what it had acknowledged: event `n` has the offset `n`.
struct Template {
    engine: &'static str,
    dir: tempfile::TempDir,
}

impl Template {
    async fn make(engine: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mode = ("EVENTKIT_RING_BUFFER_MODE", engine);
        let (gateway, endpoints) = Gateway::start(dir.path(), &[mode]).await.unwrap();
        let http = clients::Http::new(&endpoints);
        send(&http, 0..STORED).await;
        rows(dir.path(), STORED).await;
        let ended = gateway.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        // What comes now stays in the log alone.
        let late = ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "300");
        let (gateway, endpoints) = Gateway::start(dir.path(), &[mode, late]).await.unwrap();
        let http = clients::Http::new(&endpoints);
        for group in 0..GROUPS {
            let from = STORED + group * GROUP;
            send(&http, from..from + GROUP).await;
        }
        gateway.kill().await.unwrap();
        assert_eq!(warehouse::counts(dir.path()).0, STORED);
        Self { engine, dir }
    }

    fn copy(&self) -> Case {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        Case {
            engine: self.engine,
            dir,
        }
    }
}

/// A copy of a template, to be damaged.
struct Case {
    engine: &'static str,
    dir: tempfile::TempDir,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It started, and everything is there.
    Whole,
    /// It was refused, and after the repair everything is there.
    Repaired,
    /// It was refused, and what is not there after the repair lies in the ranges that the repair named.
    Named(u64),
}

impl Case {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> PathBuf {
        self.path().join("wal")
    }

    fn mark(&self) -> PathBuf {
        self.path().join("wal.mark")
    }

    /// The file that holds the newest records.
    fn file(&self) -> PathBuf {
        let name = if self.engine == "sled" {
            "db"
        } else {
            "log.db-wal"
        };
        self.log().join(name)
    }

    fn settings(&self) -> [(&'static str, &'static str); 1] {
        [("EVENTKIT_RING_BUFFER_MODE", self.engine)]
    }

    /// Starts it, repairs it if it is refused, and compares the rows with what was acknowledged.
    async fn judge(&self, what: &str) -> End {
        let what = format!("{}: {what}", self.engine);
        let mut gateway = Gateway::spawn(self.path(), &self.settings()).unwrap();
        if gateway.ready(WITHIN).await.is_ok() {
            self.finish(gateway, &what, &BTreeSet::new()).await;
            return End::Whole;
        }
        let ended = gateway.ended(WITHIN).await.unwrap();
        self.assert_refusal(&ended.said, &what);
        assert_eq!(ended.status.code(), Some(1), "{what}: {}", ended.said);
        let report = self.repair(&what, ended.said.contains("--new-id")).await;
        let named: BTreeSet<u64> = report["lost"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|lost| lost["from"].as_u64().unwrap()..=lost["to"].as_u64().unwrap())
            .collect();
        let (gateway, _) = Gateway::start(self.path(), &self.settings())
            .await
            .unwrap_or_else(|error| panic!("{what}: repaired, and then {error}: {report}"));
        let missing = self.finish(gateway, &what, &named).await;
        if report["end_known"] == false {
            assert!(missing.is_empty(), "{what}: {missing:?}");
        }
        match named.len() {
            0 => End::Repaired,
            _ => End::Named(missing.len() as u64),
        }
    }

    /// A refusal names offsets, and the command with the path.
    fn assert_refusal(&self, said: &str, what: &str) {
        let command = format!("eventkit wal repair {}", self.log().display());
        assert!(said.contains(&command), "{what}: {said}");
        let numbers = said.split("ffsets ").skip(1);
        let named = numbers.filter(|rest| {
            let rest = rest.strip_prefix("from ").unwrap_or(rest);
            rest.starts_with(|c: char| c.is_ascii_digit())
        });
        assert!(named.count() > 0, "{what}: no offsets: {said}");
    }

    async fn repair(&self, what: &str, new_id: bool) -> Value {
        let log = self.log();
        let mut arguments = vec!["wal", "repair", "--json", log.to_str().unwrap()];
        if new_id {
            arguments.push("--new-id");
        }
        let (code, out, err) = crate::drain::run_in(&arguments, &self.settings()).await;
        let (code, out, err) = if err.contains("--accept-loss") {
            assert_eq!(code, 1, "{what}: {err}");
            arguments.push("--accept-loss");
            crate::drain::run_in(&arguments, &self.settings()).await
        } else {
            (code, out, err)
        };
        let report: Value = serde_json::from_str(&out)
            .unwrap_or_else(|error| panic!("{what}: {error}: {code} {out} {err}"));
        let loses = !report["lost"].as_array().unwrap().is_empty();
        assert_eq!(code, i32::from(loses), "{what}: {report}");
        assert_eq!(report["outcome"], "repaired", "{what}: {report}");
        if let Some(aside) = report["set_aside"].as_str() {
            let kept = [aside.to_owned(), format!("{aside}.mark")];
            assert!(
                kept.iter().any(|kept| Path::new(kept).exists()),
                "{what}: set aside: {report}"
            );
        }
        report
    }

    /// Takes one more event, ends, and says which acknowledged events are no rows: only named ones may be.
    async fn finish(&self, gateway: Gateway, what: &str, named: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut gateway = gateway;
        let endpoints = gateway.ready(WITHIN).await.unwrap();
        let http = clients::Http::new(&endpoints);
        send(&http, EVENTS..EVENTS + 1).await;
        let ended = gateway.terminate(WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{what}: {}", ended.said);
        let found = warehouse::read(self.path()).unwrap();
        assert!(found.errors.is_empty(), "{what}");
        let mut seen = BTreeSet::new();
        for row in &found.rows {
            let n: u64 = row.message_id.strip_prefix('m').unwrap().parse().unwrap();
            assert!(seen.insert(n), "{what}: {row} twice");
        }
        let missing: BTreeSet<u64> = (0..=EVENTS).filter(|n| !seen.contains(n)).collect();
        let silent: Vec<_> = missing.difference(named).collect();
        assert!(silent.is_empty(), "{what}: lost silently: {silent:?}");
        missing
    }
}

/// Sends events with these numbers in one request and sees them acknowledged. Half of each does not compress.
async fn send(http: &clients::Http, numbers: std::ops::Range<u64>) {
    let count = numbers.end - numbers.start;
    let events: Vec<Value> = numbers
        .map(|n| {
            let mut random = StdRng::seed_from_u64(n);
            let noise: String = (0..300)
                .map(|_| char::from(random.random_range(b'a'..=b'z')))
                .collect();
            serde_json::json!({
                "type": "track", "messageId": format!("m{n}"), "userId": format!("u{}", n % 7),
                "event": "Damaged", "properties": { "noise": noise }
            })
        })
        .collect();
    let body = serde_json::to_vec(&events).unwrap();
    let (status, answer) = http.post("/collect", body).await.unwrap();
    assert_eq!(
        (status, &answer["accepted"]),
        (202, &Value::from(count)),
        "{answer}"
    );
}

/// Waits until so many events are rows.
async fn rows(data_dir: &Path, count: u64) {
    let deadline = Instant::now() + WITHIN;
    while warehouse::counts(data_dir).0 < count {
        assert!(Instant::now() < deadline, "no {count} rows in time");
        sleep(Duration::from_millis(20)).await;
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// One past the last byte that is not zero.
fn live_end(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |at| at + 1)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
