//! The real SDKs, unmodified and pinned, against the real binary: what an application does with one ends as rows, whatever
//! stands between.
//!
//! `scripts/setup` installs them; `tests/sdks/` has their versions and one small application for each. What is missing fails with
//! `CI=true` and is listed as not run elsewhere.

use std::path::Path;
use std::time::Duration;

use futures::future::join;
use rusqlite::types::Value as Sql;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::support::gateway::Gateway;
use crate::support::warehouse;

pub(crate) mod driver;
pub(crate) mod front;
mod guarded;
mod readme;

use driver::{Driver, Sdk};
use front::{Fault, Front};

/// How long everything may take: clients wait between their tries, and the machine may be busy.
const ROWS_WITHIN: Duration = Duration::from_secs(90);
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

const NODE: Sdk = Sdk::Node;
const PYTHON: Sdk = Sdk::Python { gzip: false };
const PYTHON_GZIP: Sdk = Sdk::Python { gzip: true };
const STANDARD: Sdk = Sdk::Browser("standard");
const BATCHING: Sdk = Sdk::Browser("batching");
const UNLOAD: Sdk = Sdk::Browser("unload");
const BEACON: Sdk = Sdk::Browser("beacon");

/// A gateway, and what stands before it.
struct Scene {
    dir: tempfile::TempDir,
    gateway: Gateway,
    front: Front,
}

impl Scene {
    async fn set(faults: &[Fault]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::with(dir, &[], faults).await
    }

    async fn with(dir: tempfile::TempDir, settings: &[(&str, &str)], faults: &[Fault]) -> Self {
        let (gateway, endpoints) = Gateway::start(dir.path(), settings).await.unwrap();
        let front = Front::to(&endpoints.http, faults).await;
        Self {
            dir,
            gateway,
            front,
        }
    }

    fn run(&self, sdk: Sdk, calls: &str) -> Option<Driver> {
        self.run_on(None, sdk, calls)
    }

    /// The same by a page whose site has this port.
    fn run_on(&self, site: Option<u16>, sdk: Sdk, calls: &str) -> Option<Driver> {
        Driver::start(sdk, &self.front.addr.to_string(), calls, site)
    }

    /// Waits for the rows, lets the SDK and the gateway end, and looks that nothing came twice.
    async fn rows(self, driver: Driver, expected: u64) -> Vec<Value> {
        let (rows, said) = self.all_rows(driver, expected).await;
        assert!(said.contains("done"), "{said}");
        rows
    }

    /// The same, and what was said.
    async fn all_rows(self, driver: Driver, expected: u64) -> (Vec<Value>, String) {
        let began = Instant::now();
        while warehouse::counts(self.dir.path()).0 < expected {
            assert!(
                began.elapsed() < ROWS_WITHIN,
                "{:?} of {expected} rows; the SDK said:\n{}the requests: {:?}",
                warehouse::counts(self.dir.path()),
                driver.said(),
                self.front.seen()
            );
            sleep(Duration::from_millis(20)).await;
        }
        let said = driver.end().await;
        assert!(!said.contains("sdk error"), "{said}");
        let ended = self.gateway.terminate(DRAIN_WITHIN).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
        assert!(!ended.said.contains("wk-SECRET"), "{}", ended.said);
        assert_eq!(warehouse::counts(self.dir.path()), (expected, 0));
        (rows(self.dir.path()), said)
    }
}

const COLUMNS: [&str; 19] = [
    "source",
    "message_id",
    "type",
    "stream",
    "user_id",
    "anonymous_id",
    "event",
    "name",
    "category",
    "group_id",
    "previous_id",
    "properties",
    "traits",
    "context",
    "integrations",
    "timestamp",
    "original_timestamp",
    "sent_at",
    "extra",
];

/// Every row as an object of its columns; what is JSON is read.
fn rows(data_dir: &Path) -> Vec<Value> {
    let connection = warehouse::open(data_dir).unwrap();
    let query = format!(
        r#"SELECT {} FROM events ORDER BY "offset""#,
        COLUMNS.join(",")
    );
    let mut statement = connection.prepare(&query).unwrap();
    let rows = statement.query_map([], |row| {
        let columns = COLUMNS.iter().enumerate().map(|(at, name)| {
            let value = match row.get::<_, Sql>(at)? {
                Sql::Text(text) if text.starts_with('{') => serde_json::from_str(&text).unwrap(),
                Sql::Text(text) => Value::String(text),
                _ => Value::Null,
            };
            Ok(((*name).to_owned(), value))
        });
        columns.collect::<Result<serde_json::Map<String, Value>, rusqlite::Error>>()
    });
    rows.unwrap()
        .map(|row| Value::Object(row.unwrap()))
        .collect()
}

/// The one row of a type.
fn of_type<'a>(rows: &'a [Value], kind: &str) -> &'a Value {
    let mut found = rows.iter().filter(|row| row["type"] == kind);
    let row = found
        .next()
        .unwrap_or_else(|| panic!("no {kind}: {rows:?}"));
    assert!(found.next().is_none(), "two of {kind}");
    row
}

/// What all six calls have to be, whichever SDK made them.
fn assert_all_six(sdk: Sdk, rows: &[Value]) {
    type Columns = &'static [(&'static str, &'static str)];
    let columns: [(&str, &str, Columns); 6] = [
        ("identify", "users", &[]),
        ("track", "events", &[("event", "Order Placed")]),
        ("page", "pages", &[("category", "Docs"), ("name", "Start")]),
        ("screen", "screens", &[("name", "Main")]),
        ("group", "groups", &[("group_id", "acme")]),
        ("alias", "aliases", &[("previous_id", "anon-1")]),
    ];
    for (kind, stream, others) in columns {
        let row = of_type(rows, kind);
        assert_eq!(row["stream"], stream, "{row}");
        assert_eq!(row["user_id"], "ada", "{row}");
        for column in ["event", "name", "category", "group_id", "previous_id"] {
            let expected = others.iter().find(|(name, _)| *name == column);
            let expected = expected.map_or(Value::Null, |(_, value)| json!(value));
            assert_eq!(row[column], expected, "{column} of {row}");
        }
        assert!(
            row["message_id"].as_str().is_some_and(|id| id.len() > 20),
            "{row}"
        );
        assert!(row["sent_at"].is_string(), "{row}");
        assert!(!row.to_string().contains("wk-SECRET"), "{row}");
        assert_client(sdk, row);
    }
    assert_eq!(of_type(rows, "identify")["traits"]["plan"], "pro");
    assert_eq!(of_type(rows, "group")["traits"]["size"], 3);
    assert_eq!(of_type(rows, "page")["properties"]["path"], "/x");
    assert_eq!(of_type(rows, "screen")["properties"]["dark"], true);
    let track = of_type(rows, "track");
    assert_eq!(track["properties"]["total"], 12.5);
    assert_eq!(track["integrations"]["Mixpanel"], false);
    // The client's clock is ours: the correction moves the time by as long as the request took.
    assert_eq!(track["original_timestamp"], "2024-05-01T12:00:00.000000Z");
    let corrected = track["timestamp"].as_str().unwrap();
    assert!(corrected.starts_with("2024-05-01T12:00:"), "{corrected}");
}

/// Who sent it is filled for browsers alone.
fn assert_client(sdk: Sdk, row: &Value) {
    let context = &row["context"];
    match sdk {
        Sdk::Node | Sdk::Python { .. } => {
            assert!(context.get("ip").is_none(), "{context}");
            assert!(context.get("userAgent").is_none(), "{context}");
        }
        Sdk::Browser(_) => {
            assert_eq!(context["ip"], "127.0.0.1", "{context}");
            let agent = context["userAgent"].as_str().unwrap();
            assert!(agent.contains("Chrome"), "{context}");
        }
    }
}

/// All six calls, and one row of each, whatever is done to their first requests.
async fn six_rows(sdk: Sdk, faults: &[Fault]) {
    let scene = Scene::set(faults).await;
    let Some(driver) = scene.run(sdk, "all") else {
        return;
    };
    let front_seen = {
        let front = &scene.front;
        tokio::time::timeout(ROWS_WITHIN, front.faults_done(faults.len()))
            .await
            .unwrap_or_else(|_elapsed| panic!("{:?}\n{}", front.seen(), driver.said()));
        front.seen()
    };
    assert!(front_seen.len() >= faults.len());
    let rows = scene.rows(driver, 6).await;
    assert_all_six(sdk, &rows);
}

/// A bad event is told and not sent again, and its neighbours are rows.
async fn two_rows_of_three(sdk: Sdk, expected_requests: usize, others: u64) {
    let scene = Scene::set(&[]).await;
    let Some(driver) = scene.run(sdk, "bad") else {
        return;
    };
    let began = Instant::now();
    while warehouse::counts(scene.dir.path()).0 < 2 + others {
        assert!(began.elapsed() < ROWS_WITHIN, "{}", driver.said());
        sleep(Duration::from_millis(20)).await;
    }
    // An SDK that took the answer for a failure would come again within this time.
    sleep(Duration::from_secs(3)).await;
    let seen = scene.front.seen();
    assert_eq!(seen.len(), expected_requests, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.status == Some(200)), "{seen:?}");
    let rows = scene.rows(driver, 2 + others).await;
    let mut events: Vec<_> = rows
        .iter()
        .filter_map(|row| row["event"].as_str())
        .collect();
    if sdk == STANDARD {
        // Each call has a request of its own, and they race.
        events.sort_unstable_by_key(|event| *event == "after");
    }
    assert_eq!(events, ["before", "after"]);
}

/// The gateway is killed after it has stored what came first and before anyone heard of it.
async fn six_rows_over_a_restart(sdk: Sdk) {
    let mut scene = Scene::set(&[Fault::DropAnswerAndHold]).await;
    let Some(driver) = scene.run(sdk, "all") else {
        return;
    };
    tokio::time::timeout(ROWS_WITHIN, scene.front.faults_done(1))
        .await
        .unwrap_or_else(|_elapsed| panic!("nothing was sent:\n{}", driver.said()));
    let none: &[String] = &[];
    let (dir, front) = (scene.dir, scene.front);
    assert_eq!(scene.gateway.kill().await.unwrap(), none);
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    front.lead_to(&endpoints.http);
    scene = Scene {
        dir,
        gateway,
        front,
    };
    let rows = scene.rows(driver, 6).await;
    assert_all_six(sdk, &rows);
}

const BUSY: &[Fault] = &[Fault::Status(503)];
const TOO_FAST: &[Fault] = &[Fault::Status(429)];
const CUT_OFF: &[Fault] = &[Fault::DropAnswer];

#[tokio::test]
async fn node_makes_one_row_of_each_call() {
    six_rows(NODE, &[]).await;
}

#[tokio::test]
async fn node_makes_one_row_of_each_call_that_is_refused_or_whose_answer_is_lost() {
    for faults in [BUSY, TOO_FAST, CUT_OFF] {
        six_rows(NODE, faults).await;
    }
    six_rows_over_a_restart(NODE).await;
}

#[tokio::test]
async fn node_does_not_send_a_batch_with_a_bad_event_again() {
    two_rows_of_three(NODE, 1, 0).await;
}

#[tokio::test]
async fn python_makes_one_row_of_each_call_with_and_without_gzip() {
    six_rows(PYTHON, &[]).await;
    six_rows(PYTHON_GZIP, &[]).await;
}

#[tokio::test]
async fn python_makes_one_row_of_each_call_that_is_refused_or_whose_answer_is_lost() {
    for faults in [BUSY, TOO_FAST, CUT_OFF] {
        join(six_rows(PYTHON, faults), six_rows(PYTHON_GZIP, faults)).await;
    }
    join(
        six_rows_over_a_restart(PYTHON),
        six_rows_over_a_restart(PYTHON_GZIP),
    )
    .await;
}

#[tokio::test]
async fn python_does_not_send_a_batch_with_a_bad_event_again() {
    two_rows_of_three(PYTHON, 1, 0).await;
    two_rows_of_three(PYTHON_GZIP, 1, 0).await;
}

#[tokio::test]
async fn python_says_that_its_body_is_gzipped() {
    let scene = Scene::set(&[]).await;
    let Some(driver) = scene.run(PYTHON_GZIP, "all") else {
        return;
    };
    tokio::time::timeout(ROWS_WITHIN, async {
        while scene.front.seen().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap_or_else(|_elapsed| panic!("{}", driver.said()));
    let seen = scene.front.seen();
    assert_eq!(seen[0].headers["content-encoding"], "gzip");
    assert_eq!(seen[0].path, "/v1/batch");
    scene.rows(driver, 6).await;
}

#[tokio::test]
async fn a_page_makes_one_row_of_each_call_however_it_delivers() {
    six_rows(STANDARD, &[]).await;
    six_rows(BATCHING, &[]).await;
    six_rows(UNLOAD, &[]).await;
}

#[tokio::test]
async fn a_page_makes_one_row_of_each_call_that_is_refused_or_whose_answer_is_lost() {
    for faults in [BUSY, TOO_FAST, CUT_OFF] {
        six_rows(STANDARD, faults).await;
        six_rows(BATCHING, faults).await;
    }
    six_rows_over_a_restart(STANDARD).await;
    six_rows_over_a_restart(BATCHING).await;
}

#[tokio::test]
async fn a_page_does_not_send_a_bad_event_again() {
    // One request for each call, `identify` among them; then all in one.
    two_rows_of_three(STANDARD, 4, 1).await;
    two_rows_of_three(BATCHING, 1, 1).await;
    two_rows_of_three(UNLOAD, 1, 1).await;
}

#[tokio::test]
async fn a_pages_beacon_is_one_row_of_each_event_and_a_bad_one_costs_no_other() {
    six_rows(BEACON, &[]).await;
    two_rows_of_three(BEACON, 1, 0).await;
}
