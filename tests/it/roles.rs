//! The parts of the path as processes of their own, with Pub/Sub between them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use eventkit::store::Objects as _;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::queue::task;
use crate::support::gateway::{DEBUG, Endpoints, Gateway, START_TIMEOUT};
use crate::support::{clients, emulators, ports, warehouse};

/// How long an event may take through three processes and an emulator on a busy machine.
const ROWS_WITHIN: Duration = Duration::from_secs(60);

/// What all three share: a topic and a subscription of their own.
pub(crate) fn settings(url: &str) -> Vec<(&'static str, String)> {
    let name = uuid::Uuid::new_v4().simple();
    vec![
        ("EVENTKIT_EVENT_STORE", "local".to_owned()),
        ("EVENTKIT_QUEUE_MODE", "pubsub".to_owned()),
        ("GCP_PROJECT_ID", "eventkit-test".to_owned()),
        ("PUBSUB_EMULATOR_HOST", url.to_owned()),
        ("EVENTKIT_PUBSUB_TOPIC", format!("topic-{name}")),
        ("EVENTKIT_PUBSUB_SUBSCRIPTION", format!("workers-{name}")),
        ("EVENTKIT_PUBSUB_VERIFY_INTERVAL", "1".to_owned()),
        ("EVENTKIT_WAREHOUSE_LOADER_INTERVAL", "0.2".to_owned()),
        ("EVENTKIT_ALLOW_VOLATILE_LOG", "true".to_owned()),
    ]
}

async fn start(
    role: &str,
    dir: &Path,
    settings: &[(&'static str, String)],
    more: &[(&str, &str)],
) -> (Gateway, Endpoints) {
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
    all.push(("EVENTKIT_ROLE", role));
    all.extend(more);
    let mut process = Gateway::spawn_as("serve", dir, &all).unwrap();
    let endpoints = process.ready(START_TIMEOUT).await.unwrap();
    (process, endpoints)
}

fn tracks(from: u32, count: u32) -> String {
    let events = (from..from + count).map(|n| {
        json!({"type": "track", "messageId": format!("m-{n}"), "userId": format!("u-{}", n % 50), "event": "e"})
    });
    serde_json::Value::from_iter(events).to_string()
}

async fn await_rows(dir: &Path, events: u64) {
    let since = Instant::now();
    loop {
        let counts = warehouse::counts(dir);
        if counts.0 >= events {
            assert_eq!(counts, (events, 0));
            return;
        }
        assert!(since.elapsed() < ROWS_WITHIN, "{counts:?} of {events}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn three_processes_make_one_row_of_each_event_also_when_each_of_them_is_killed() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let settings = settings(&url);
    let (front, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (gateway, endpoints) = start("gateway", front.path(), &settings, &[]).await;
    let (worker, _) = start("worker", back.path(), &settings, &[]).await;
    let (loader, _) = start("loader", back.path(), &settings, &[]).await;

    let http = clients::Http::new(&endpoints);
    assert_eq!(http.post("/collect", tracks(0, 500)).await.unwrap().0, 202);
    await_rows(back.path(), 500).await;

    // A copy comes while nobody is there to store it, and again from the log of a gateway that was killed.
    worker.kill().await.unwrap();
    assert_eq!(
        http.post("/collect", tracks(500, 500)).await.unwrap().0,
        202
    );
    gateway.kill().await.unwrap();
    loader.kill().await.unwrap();
    let (gateway, endpoints) = start("gateway", front.path(), &settings, &[]).await;
    let (worker, _) = start("worker", back.path(), &settings, &[]).await;
    let (loader, _) = start("loader", back.path(), &settings, &[]).await;
    let http = clients::Http::new(&endpoints);
    assert_eq!(
        http.post("/collect", tracks(900, 200)).await.unwrap().0,
        202
    );
    await_rows(back.path(), 1_100).await;

    for process in [gateway, worker, loader] {
        let ended = process.terminate(Duration::from_secs(40)).await.unwrap();
        assert!(ended.status.success(), "{}", ended.said);
        assert!(ended.alarms.is_empty(), "{:?}", ended.alarms);
    }
    // A gateway that ends in order leaves nothing in its log that Pub/Sub is not known to hold.
    await_rows(back.path(), 1_100).await;
}

#[tokio::test]
async fn one_process_can_be_everything_over_pubsub() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let (settings, dir) = (settings(&url), tempfile::tempdir().unwrap());
    let (process, endpoints) = start("all", dir.path(), &settings, &[]).await;
    let http = clients::Http::new(&endpoints);
    assert_eq!(http.post("/collect", tracks(0, 100)).await.unwrap().0, 202);
    let ended = process.terminate(Duration::from_secs(40)).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    // What was on its way arrived before the end, or does after the next start.
    let (process, _) = start("all", dir.path(), &settings, &[]).await;
    await_rows(dir.path(), 100).await;
    drop(process);
}

/// Lets a port where nobody listened lead to the emulator.
async fn lead(from: SocketAddr, to: &str) {
    let listener = TcpListener::bind(from).await.unwrap();
    let to = to.trim_start_matches("http://").to_owned();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
}

#[tokio::test]
async fn an_outage_of_pubsub_prevents_no_start_and_only_published_waits_for_it() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    for (ack, waits) in [("durable", false), ("published", true)] {
        let (_held, port) = ports::held();
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&port.to_string());
        let (process, endpoints) =
            start("all", dir.path(), &settings, &[("EVENTKIT_ACK", ack)]).await;
        let http = clients::Http::new(&endpoints);
        let answer = http.post("/collect", tracks(0, 10));
        let (status, said) = timeout(ROWS_WITHIN, answer).await.unwrap().unwrap();
        if waits {
            // Not for ever: whoever sent them may still be there.
            assert_eq!((status, &said["code"]), (503, &json!("outcome_unknown")));
        } else {
            assert_eq!(status, 202, "{said}");
        }
        lead(port, &url).await;
        // What was answered that way is sent again, and is one row all the same.
        let again = async {
            loop {
                let (status, said) = http.post("/collect", tracks(0, 10)).await.unwrap();
                match status {
                    202 => break said,
                    _ => assert_eq!((status, &said["code"]), (503, &json!("outcome_unknown"))),
                }
            }
        };
        let said = timeout(ROWS_WITHIN, again).await.unwrap();
        assert_eq!(said["duplicate"], 10, "{said}");
        await_rows(dir.path(), 10).await;
        drop(process);
    }
}

/// What `published` is for: the disk goes with the instance, and nothing that was answered does.
#[tokio::test]
async fn what_published_has_acknowledged_outlives_its_gateway_and_its_log() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let (settings, back) = (settings(&url), tempfile::tempdir().unwrap());
    let mut acknowledged = 0;
    for _instance in 0..3 {
        let front = tempfile::tempdir().unwrap();
        let published = [("EVENTKIT_ACK", "published")];
        let (gateway, endpoints) = start("gateway", front.path(), &settings, &published).await;
        let http = clients::Http::new(&endpoints);
        let events = tracks(acknowledged, 100);
        assert_eq!(http.post("/collect", events).await.unwrap().0, 202);
        // What is on its way meanwhile may be lost, and is not acknowledged.
        let late = http.post("/collect", tracks(1_000_000, 100));
        let killed = async {
            let killed = gateway.kill().await;
            drop(front);
            killed
        };
        let (late, killed) = tokio::join!(late, killed);
        killed.unwrap();
        assert!(
            !late.is_ok_and(|(status, _)| status == 202),
            "it was killed"
        );
        acknowledged += 100;
    }
    let (worker, _) = start("worker", back.path(), &settings, &[]).await;
    let (loader, _) = start("loader", back.path(), &settings, &[]).await;
    let since = Instant::now();
    while acknowledged_rows(back.path()) < usize::try_from(acknowledged).unwrap() {
        assert!(
            since.elapsed() < ROWS_WITHIN,
            "{}",
            acknowledged_rows(back.path())
        );
        sleep(Duration::from_millis(100)).await;
    }
    drop((worker, loader));
}

/// How many rows there are of events that were acknowledged.
fn acknowledged_rows(dir: &Path) -> usize {
    let rows = warehouse::read(dir)
        .map(|found| found.rows)
        .unwrap_or_default();
    let late = |id: &str| id.strip_prefix("m-").is_some_and(|n| n.len() > 6);
    rows.iter().filter(|row| !late(&row.message_id)).count()
}

/// It has no rights there on Google Cloud.
#[tokio::test]
async fn a_loader_does_not_ask_pubsub() {
    let (_held, port) = ports::held();
    let settings = settings(&port.to_string());
    let dir = tempfile::tempdir().unwrap();
    let (loader, endpoints) = start("loader", dir.path(), &settings, &[DEBUG]).await;
    let (status, ready) = clients::Http::at(&endpoints.admin)
        .get("/ready")
        .await
        .unwrap();
    assert_eq!((status, &ready["degraded"]), (200, &json!({})), "{ready}");
    let ended = loader.terminate(Duration::from_secs(40)).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    let asked = ended
        .heard
        .iter()
        .find(|line| line.contains("pubsub") && !line.contains("setting"));
    assert!(asked.is_none(), "{asked:?}");
}

#[tokio::test]
async fn a_log_that_was_published_says_that_batches_may_wait_in_pubsub() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let (settings, dir) = (settings(&url), tempfile::tempdir().unwrap());
    let (process, _) = start("gateway", dir.path(), &settings, &[]).await;
    process.terminate(Duration::from_secs(40)).await.unwrap();
    // Over another subscription the same is true.
    let another = settings[5].1.replace("workers", "another");
    let other = [("EVENTKIT_PUBSUB_SUBSCRIPTION", another.as_str())];
    let (process, _) = start("gateway", dir.path(), &settings, &other).await;
    let said = process
        .terminate(Duration::from_secs(40))
        .await
        .unwrap()
        .said;
    let subscription = &settings[5].1;
    let is_named =
        |line: &str| line.contains("batches_may_wait_in_pubsub") && line.contains(subscription);
    assert!(said.lines().any(is_named), "{said}");
    let (process, _) = start("gateway", dir.path(), &settings, &[]).await;
    process.terminate(Duration::from_secs(40)).await.unwrap();
    let (process, _) = Gateway::start(dir.path(), &[]).await.unwrap();
    let said = process
        .terminate(Duration::from_secs(40))
        .await
        .unwrap()
        .said;
    let warned = said
        .lines()
        .find(|line| line.contains("batches_may_wait_in_pubsub"));
    let subscription = &settings[5].1;
    assert!(
        warned.is_some_and(|line| line.contains(subscription)),
        "{said}"
    );
}

#[tokio::test]
async fn a_log_in_memory_is_refused_unless_pubsub_is_what_acknowledges() {
    let Some(url) = emulators::pubsub() else {
        return;
    };
    let settings = settings(&url);
    let dir = tempfile::tempdir_in("/dev/shm").expect("Linux has memory to lay files in");
    let with = |ack: &'static str| {
        let mut all: Vec<(&str, &str)> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
        all.extend([
            ("EVENTKIT_ROLE", "gateway"),
            ("EVENTKIT_ALLOW_VOLATILE_LOG", "false"),
            ("EVENTKIT_ACK", ack),
        ]);
        Gateway::spawn_as("serve", dir.path(), &all).unwrap()
    };
    let ended = with("durable").ended(START_TIMEOUT).await.unwrap();
    assert!(!ended.status.success());
    for word in ["lies in memory (tmpfs)", "EVENTKIT_ACK=published"] {
        assert!(ended.said.contains(word), "{}", ended.said);
    }
    let mut process = with("published");
    let endpoints = process.ready(START_TIMEOUT).await.unwrap();
    let http = clients::Http::new(&endpoints);
    assert_eq!(http.post("/collect", tracks(0, 10)).await.unwrap().0, 202);
}

/// From a bucket at one emulator into BigQuery at another.
fn loading<'a>(
    bucket: &'a str,
    storage: &'a str,
    bigquery: &'a str,
) -> [(&'static str, &'a str); 10] {
    [
        ("EVENTKIT_EVENT_STORE", "gcs"),
        ("GCP_PROJECT_ID", "eventkit-test"),
        ("GCP_GCS_BUCKET", bucket),
        ("GCP_BIGQUERY_DATASET", "events"),
        ("GCP_BIGQUERY_TABLE", "events"),
        ("STORAGE_EMULATOR_HOST", storage),
        ("BIGQUERY_EMULATOR_HOST", bigquery),
        ("EVENTKIT_WAREHOUSE_LOADER_INTERVAL", "0.1"),
        ("EVENTKIT_ALLOW_VOLATILE_LOG", "true"),
        DEBUG,
    ]
}

/// A BigQuery that answers everything with this; where it is.
async fn bigquery_that_says(
    status: axum::http::StatusCode,
    reason: &'static str,
) -> (AbortOnDropHandle<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error = json!({
        "code": status.as_u16(),
        "message": "made up",
        "status": "",
        "errors": [{ "reason": reason, "message": "made up" }],
    });
    let answer = json!({ "error": error }).to_string();
    let service = axum::Router::new().fallback(async move || {
        let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
        (status, json, answer)
    });
    let serving = async move { axum::serve(listener, service).await.unwrap() };
    (task(serving), url)
}

#[tokio::test]
async fn a_bigquery_that_refuses_us_prevents_a_start_and_one_that_is_out_does_not() {
    let Some(bucket) = crate::store::emulated_bucket().await else {
        return;
    };
    let storage = emulators::storage().expect("it made the bucket");
    for (status, reason) in [
        (axum::http::StatusCode::FORBIDDEN, "accessDenied"),
        (axum::http::StatusCode::SERVICE_UNAVAILABLE, "backendError"),
    ] {
        let (_serving, url) = bigquery_that_says(status, reason).await;
        let dir = tempfile::tempdir().unwrap();
        let settings = loading(bucket.bucket(), &storage, &url);
        let mut process = Gateway::spawn_as("serve", dir.path(), &settings).unwrap();
        if status.is_server_error() {
            let endpoints = process.ready(START_TIMEOUT).await.unwrap();
            let http = clients::Http::new(&endpoints);
            assert_eq!(http.post("/collect", tracks(0, 1)).await.unwrap().0, 202);
            let ended = process.terminate(Duration::from_secs(40)).await.unwrap();
            let is_said = |line: &String| line.contains("warehouse_not_reached_at_start");
            assert!(ended.heard.iter().any(is_said), "{:?}", ended.heard);
        } else {
            let ended = process.ended(START_TIMEOUT).await.unwrap();
            assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
            let said = &ended.said;
            assert!(
                said.contains("open the warehouse") && said.contains(reason),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn beside_an_emulated_bucket_the_real_bigquery_is_never_called_and_that_is_said_once() {
    let Some(bucket) = crate::store::emulated_bucket().await else {
        return;
    };
    let url = emulators::storage().expect("it made the bucket");
    let dir = tempfile::tempdir().unwrap();
    let settings = loading(bucket.bucket(), &url, "");
    let mut process = Gateway::spawn_as("serve", dir.path(), &settings).unwrap();
    let endpoints = process.ready(START_TIMEOUT).await.unwrap();
    let http = clients::Http::new(&endpoints);
    assert_eq!(http.post("/collect", tracks(0, 10)).await.unwrap().0, 202);
    let (status, ready) = http.get("/ready").await.unwrap();
    assert_eq!(status, 200);
    let reason = ready["degraded"]["warehouse"].as_str().unwrap_or_default();
    assert!(reason.contains("BIGQUERY_EMULATOR_HOST"), "{ready}");
    let ended = process.terminate(Duration::from_secs(40)).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    let said = ended.heard.iter();
    let said = said.filter(|line| line.contains("warehouse_not_loaded"));
    assert_eq!(said.count(), 1);
    // Whatever loads them one day finds them.
    let markers = bucket.list("inbox/", None, 10).await.unwrap();
    assert!(!markers.is_empty());
}
