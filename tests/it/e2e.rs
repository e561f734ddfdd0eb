//! End to end with the real binary: an event through either door is a row soon after, and stays one.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use eventkit::proto::v1;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::gateway::Gateway;
use crate::support::{clients, warehouse};

/// In `dev`, an accepted event is a row within this time.
const ROW_WITHIN: Duration = Duration::from_secs(3);
/// How often that is tried: a busy machine stands still now and then, a product that is too slow is so each time.
const TRIES: u64 = 5;
/// How long a row may take at most, whatever else the machine does.
const ROW_AT_LAST: Duration = Duration::from_secs(30);
/// How long an orderly end may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// What one query of one column says, as text.
fn query(data_dir: &Path, sql: &str) -> Vec<String> {
    let connection = warehouse::open(data_dir).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Waits until the tables hold so many rows. Another process writes them, so the only way to know is to look again.
async fn await_rows(data_dir: &Path, events: u64, errors: u64, since: Instant) -> Duration {
    loop {
        let counts = warehouse::counts(data_dir);
        if counts.0 >= events && counts.1 >= errors {
            assert_eq!(counts, (events, errors), "more rows than events");
            return since.elapsed();
        }
        assert!(
            since.elapsed() < ROW_AT_LAST,
            "after {ROW_AT_LAST:?} the warehouse holds {counts:?} instead of {:?}",
            (events, errors)
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Past libtest's capture: figures belong in the log of a passed run too.
pub(crate) fn say(text: &str) {
    std::io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .expect("write to stderr");
}

fn statuses(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap();
    results
        .iter()
        .map(|result| result["status"].as_str().unwrap())
        .collect()
}

/// A `Collect` with one event whose properties are JSON bytes.
fn grpc_track(message_id: &str) -> v1::CollectRequest {
    v1::CollectRequest {
        events: vec![v1::Event {
            message_id: message_id.to_owned(),
            r#type: "track".to_owned(),
            user_id: "e2e-grpc".to_owned(),
            event: "Plan Chosen".to_owned(),
            properties_json: r#"{"plan": "pro",  "seats":3}"#.into(),
            ..v1::Event::default()
        }],
        ..v1::CollectRequest::default()
    }
}

/// One event over HTTP, and the whole of its answer.
async fn accepted_over_http(http: &clients::Http, message_id: &str) {
    let body = r#"{"type":"track","messageId":"ID","userId":"e2e-http","event":"Order Placed","properties":{"total": 12.50,"b":[1, 2]},"plan":"x"}"#;
    let (status, answer) = http
        .post("/collect/shop", body.replace("ID", message_id))
        .await
        .unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["status"], "accepted");
    assert_eq!(
        (
            &answer["accepted"],
            &answer["duplicate"],
            &answer["rejected"]
        ),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(answer["results"][0]["index"], 0);
    assert_eq!(answer["results"][0]["message_id"], message_id);
    assert!(answer["request_id"].is_string());
}

#[tokio::test]
async fn an_event_through_either_door_is_a_row_within_3_s() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let mut grpc = clients::grpc(&endpoints).unwrap();

    let mut tries = 1..=TRIES;
    loop {
        let n = tries.next().expect("a row within 3 s over either door");
        let began = Instant::now();
        accepted_over_http(&http, &format!("h{n}")).await;
        let over_http = await_rows(dir.path(), 2 * n - 1, 0, began).await;

        let began = Instant::now();
        let answer = grpc.collect(grpc_track(&format!("g{n}"))).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(
            (answer.accepted, answer.duplicate, answer.rejected),
            (1, 0, 0)
        );
        let over_grpc = await_rows(dir.path(), 2 * n, 0, began).await;
        say(&format!(
            "e2e: answer and row over HTTP after {over_http:?}, over gRPC after {over_grpc:?}"
        ));
        if over_http < ROW_WITHIN && over_grpc < ROW_WITHIN {
            break;
        }
    }

    assert_eq!(
        query(
            dir.path(),
            r#"SELECT message_id || '|' || source || '|' || type || '|' || stream || '|' || user_id || '|' || event || '|' || properties FROM events WHERE message_id IN ('h1', 'g1') ORDER BY "offset""#
        ),
        [
            r#"h1|default|track|shop|e2e-http|Order Placed|{"total": 12.50,"b":[1, 2]}"#,
            r#"g1|default|track|default|e2e-grpc|Plan Chosen|{"plan": "pro",  "seats":3}"#,
        ]
    );
    let ended = gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(
        (ended.status.code(), ended.alarms.as_slice()),
        (Some(0), [].as_slice()),
        "{}",
        ended.said
    );
}

#[tokio::test]
async fn every_event_of_a_request_has_one_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let long_id = "x".repeat(257);
    let bad = r#"{"type":"track",  "messageId":"b","userId":"u"}"#;
    let body = format!(
        r#"[{{"type":"track","messageId":"a","userId":"u","event":"E"}},{bad},{{"type":"track","messageId":"{long_id}","userId":"u","event":"E"}},{{"type":"track","userId":"u","event":"without an id"}},7]"#
    );
    let began = Instant::now();
    let (status, answer) = http.post("/collect", body.clone()).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(
        statuses(&answer),
        ["accepted", "accepted", "rejected", "accepted", "rejected"]
    );
    assert_eq!(answer["results"][2]["code"], "message_id_too_long");
    assert_eq!(answer["results"][4]["code"], "not_an_object");
    let assigned = answer["results"][3]["message_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(assigned.len(), 36, "a UUID: {assigned}");

    // The same again: what has an id of its own is a duplicate, what has none is a new event.
    let (status, again) = http.post("/collect", body.clone()).await.unwrap();
    assert_eq!(status, 202, "{again}");
    assert_eq!(
        statuses(&again),
        ["duplicate", "duplicate", "rejected", "accepted", "rejected"]
    );

    // The event without "event" is accepted and becomes an error row that says why and keeps the bytes.
    await_rows(dir.path(), 3, 1, began).await;
    assert_eq!(
        query(
            dir.path(),
            "SELECT message_id || '|' || code || '|' || CAST(original AS TEXT) FROM errors"
        ),
        [format!("b|missing_field|{bad}")]
    );
    let only_bad = json!([{"messageId": long_id}]).to_string();
    let (status, answer) = http.post("/collect", only_bad).await.unwrap();
    assert_eq!(
        (status, statuses(&answer)),
        (400, vec!["rejected"]),
        "{answer}"
    );
    gateway.terminate(DRAIN_WITHIN).await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let event = r#"{"type":"identify","messageId":"i1","userId":"u","traits":{"plan":"pro"}}"#;

    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let (status, _) = http.post("/collect", event).await.unwrap();
    assert_eq!(status, 202);
    let ended = gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);

    // An orderly end has drained the pipeline or left the event to the next start.
    let began = Instant::now();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    await_rows(dir.path(), 1, 0, began).await;
    let http = clients::Http::new(&endpoints);
    let (_, answer) = http.post("/collect", event).await.unwrap();
    assert_eq!(
        statuses(&answer),
        ["duplicate"],
        "the filter is rebuilt at open"
    );

    // And so does a kill, with an event that was only just acknowledged.
    let (_, answer) = http
        .post("/collect", event.replace("i1", "i2"))
        .await
        .unwrap();
    assert_eq!(statuses(&answer), ["accepted"]);
    assert_eq!(gateway.kill().await.unwrap(), [""; 0]);
    let began = Instant::now();
    let (gateway, _) = Gateway::start(dir.path(), &[]).await.unwrap();
    await_rows(dir.path(), 2, 0, began).await;
    let ended = gateway.terminate(DRAIN_WITHIN).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
    assert_eq!(warehouse::counts(dir.path()), (2, 0));
    assert_eq!(warehouse::inbox_len(dir.path()), 0);
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (first, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();

    let second = Gateway::spawn(dir.path(), &[]).unwrap();
    let ended = second.ended(DRAIN_WITHIN).await.unwrap();
    assert!(
        ended.status.code().is_some_and(|code| code != 0),
        "{:?}\n{}",
        ended.status,
        ended.said
    );
    let said = ended.said.to_lowercase();
    assert!(
        ["another process", "in use", "locked", "already"]
            .iter()
            .any(|word| said.contains(word)),
        "the refusal does not say that another process holds the directory:\n{}",
        ended.said
    );

    // The first one does not care.
    let (status, _) = clients::Http::new(&endpoints).get("/health").await.unwrap();
    assert_eq!(status, 200);
    first.terminate(DRAIN_WITHIN).await.unwrap();
}

#[tokio::test]
async fn errors_of_a_request_are_json_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    for (path, body, status, code) in [
        ("/collect", "", 400, "malformed_request"),
        ("/collect", "7", 400, "malformed_request"),
        ("/collect/.hidden", "{}", 400, "invalid_stream"),
        ("/nowhere", "{}", 404, "not_found"),
        ("/health", "{}", 405, "method_not_allowed"),
    ] {
        let (found, answer) = http.post(path, body).await.unwrap();
        assert_eq!(
            (found, answer["code"].as_str()),
            (status, Some(code)),
            "{path} {body}: {answer}"
        );
        assert_eq!(answer["success"], false, "{answer}");
        for field in ["message", "error", "request_id"] {
            assert!(answer[field].is_string(), "{field} of {answer}");
        }
    }
    let (status, answer) = http.get("/ready").await.unwrap();
    assert_eq!((status, answer["status"].as_str()), (200, Some("ready")));
    gateway.terminate(DRAIN_WITHIN).await.unwrap();
}
