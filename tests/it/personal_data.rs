//! Nothing personal in what operators see: the real binary at DEBUG takes marked data in every field, in headers and in query
//! strings, good events and bad input of each kind, through every door, with dead letters behind them. No mark may be in its
//! log lines, in `/metrics`, in what its ports answer, in an error's text, or in what leaves it by OTLP: spans, log records, metrics.
//!
//! Four things that clients choose are shown by design, and are not marked here:
//!
//! - *A stream's name*, if it is a valid one: it names a purpose (`shop`, `clicks`), operators search by it, and it is in the
//!   path of each request. One that is no valid name is never shown, and is marked.
//! - *A request id* (`x-request-id`) of visible ASCII: it is there so that the client's logs and ours can be put side by side.
//! - *`tracestate`*: it comes from the sender's tracer and goes to the same back end with the span, as it is. No attribute has it.
//! - *A message id*, in the outcome of its own event and nowhere else: how a client knows which one is meant.

use std::time::Duration;

use bytes::Bytes;
use eventkit::proto::v1::{self, CollectBidiRequest, CollectRequest, CollectStreamRequest};
use mock_collector::{MockServer, Protocol, ServerHandle};
use prost_types::{Struct, Timestamp, value::Kind};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::Request;

use crate::docs::scrape;
use crate::doors::{Answer, send_to, within};
use crate::support::gateway::{DEBUG, Endpoints, Gateway, START_TIMEOUT};
use crate::support::{clients, warehouse};

#[cfg(feature = "cloud")]
mod google;

const WITHIN: Duration = Duration::from_secs(60);

/// What every piece of personal data begins with.
const MARK: &str = "PERSONAL";

/// Headers that say who somebody is, or let somebody in.
const HEADERS: [(&str, &str); 12] = [
    ("authorization", "Basic PERSONAL-authorization"),
    ("cookie", "session=PERSONAL-cookie"),
    ("x-forwarded-for", "PERSONAL-forwarded-for"),
    ("forwarded", "for=PERSONAL-forwarded"),
    ("x-real-ip", "PERSONAL-real-ip"),
    ("user-agent", "PERSONAL-agent"),
    ("referer", "https://shop/?PERSONAL-referer"),
    ("origin", "https://PERSONAL-origin"),
    ("x-api-key", "PERSONAL-api-key"),
    ("accept-language", "PERSONAL-language"),
    ("tracestate", "vendor=PERSONAL-state"),
    ("baggage", "user=PERSONAL-baggage"),
];

/// No mark is in a text. Whatever else operators see of a run can be held against the same marks.
pub(crate) fn assert_clean(haystack: &str, place: &str) {
    let found = haystack.to_ascii_uppercase().find(MARK);
    if let Some(at) = found {
        let around = haystack.get(at.saturating_sub(200)..(at + 100).min(haystack.len()));
        panic!(
            "{place} shows personal data: …{}…",
            around.unwrap_or(haystack)
        );
    }
}

/// An event of a type with something marked in every field, at every depth, as value and as key.
fn full(kind: &str, id: &str) -> Value {
    let mut event = json!({
        "type": kind,
        "messageId": format!("PERSONAL-message-{id}"),
        "timestamp": "2026-01-02T03:04:05Z",
        "originalTimestamp": "2026-01-02T03:04:05Z",
        "sentAt": "2026-01-02T03:04:05Z",
        "channel": "PERSONAL-channel",
        "PERSONAL-key": {"PERSONAL-inner": ["PERSONAL-item"]},
    });
    for field in [
        "userId",
        "anonymousId",
        "event",
        "name",
        "category",
        "groupId",
        "previousId",
        "writeKey",
    ] {
        event[field] = format!("PERSONAL-{field}").into();
    }
    for field in ["properties", "traits", "context", "integrations"] {
        event[field] = json!({
            "email": format!("PERSONAL-{field}@example.org"),
            "PERSONAL-key": [{"PERSONAL-inner": "PERSONAL-item"}],
        });
    }
    event["context"]["ip"] = "PERSONAL-ip".into();
    event["context"]["userAgent"] = "PERSONAL-agent".into();
    event
}

const KINDS: [&str; 7] = [
    "identify",
    "track",
    "page",
    "screen",
    "group",
    "alias",
    "PERSONAL-type",
];

/// The same with one field changed, for those that are accepted and then break a rule.
fn with(id: &str, field: &str, value: Value) -> Value {
    let mut event = full("track", id);
    event[field] = value;
    event
}

fn dead_letters() -> Value {
    let too_long = format!("PERSONAL{}", "x".repeat(20_000));
    json!([
        {"type": "track", "messageId": "PERSONAL-dead-1", "userId": "PERSONAL-user"},
        {"type": "identify", "messageId": "PERSONAL-dead-2", "PERSONAL-key": "PERSONAL"},
        with("dead-3", "timestamp", "PERSONAL-yesterday".into()),
        with("dead-4", "sentAt", "20000-01-01T00:00:00Z PERSONAL".into()),
        with("dead-5", "userId", json!({"PERSONAL-key": "PERSONAL-user"})),
        with("dead-6", "event", json!(["PERSONAL-event"])),
        with("dead-7", "properties", "PERSONAL-properties".into()),
        with("dead-8", "userId", too_long.into()),
        with("dead-9", "type", json!({"PERSONAL": 1})),
        with("dead-10", "messageId", json!(["PERSONAL-message"])),
    ])
}

/// Bodies that are refused, or of which events are.
fn bad_bodies() -> Vec<Vec<u8>> {
    let deep = format!(
        "{{\"PERSONAL\":{}\"PERSONAL\"{}}}",
        "[".repeat(200),
        "]".repeat(200)
    );
    let keys: Vec<String> = (0..20_000).map(|n| format!("\"PERSONAL-{n}\":1")).collect();
    let long_id = json!({"type": "x", "messageId": "PERSONAL".repeat(40)});
    let large = json!({"type": "x", "properties": {"a": "PERSONAL".repeat(50_000)}});
    let mut texts: Vec<Vec<u8>> = [
        "\"PERSONAL\"",
        "PERSONAL",
        "[\"PERSONAL\", 7, null]",
        "{\"type\":\"PERSONAL\",\"userId\":\"PERSONAL",
        "{\"type\":\"PERSONAL\",\"PERSONAL\":tru}",
        "[{\"userId\":\"PERSONAL\"} PERSONAL]",
        "{\"userId\":\"PERSONAL\"}{\"userId\":\"PERSONAL\"}",
        "{\"userId\":\"PERSONAL\\uZZZZ\"}",
        "{\"PERSONAL\":1e999999,\"PERSONAL\":-}",
        "",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    texts.push(b"{\"userId\":\"PERSONAL\xff\xfe\"}".to_vec());
    texts.push(b"[{\"userId\":\"PERSONAL\xc3\"},{\"type\":\"x\"}]".to_vec());
    texts.push(deep.into_bytes());
    texts.push(format!("{{{}}}", keys.join(",")).into_bytes());
    texts.push(long_id.to_string().into_bytes());
    texts.push(large.to_string().into_bytes());
    texts
}

/// An HTTP request with all of the headers above.
fn request(method: &str, path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}");
    for (name, value) in HEADERS {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// The one thing that an answer says again: the id of each event's outcome.
fn without_message_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("message_id");
            fields.values_mut().for_each(without_message_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_message_ids),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn assert_answer_clean(answer: &Answer, to: &str) {
    let mut text = String::from_utf8(answer.body.clone()).unwrap();
    if let Ok(mut json) = serde_json::from_slice(&answer.body) {
        without_message_ids(&mut json);
        text = json.to_string();
    }
    assert_clean(&text, &format!("the answer to {to}"));
}

async fn send(endpoints: &Endpoints, to: &str, request: &[u8]) -> u16 {
    let answer = send_to(endpoints.http.parse().unwrap(), request).await;
    assert_answer_clean(&answer, to);
    answer.status()
}

async fn good_and_dead_over_http(endpoints: &Endpoints) {
    let all: Vec<Value> = KINDS.map(|kind| full(kind, &format!("{kind}-http"))).into();
    let query = "?writeKey=PERSONAL-write-key&email=PERSONAL-query";
    for (path, body, status) in [
        ("/collect", json!(all), 202),
        // The same ones again: duplicates.
        ("/collect/clicks", json!(all), 202),
        ("/collect/clicks", dead_letters(), 202),
        (
            "/v1/batch",
            json!({
                "batch": KINDS.map(|kind| full(kind, &format!("{kind}-batch"))),
                "context": {"ip": "PERSONAL-ip"},
                "integrations": {"PERSONAL-key": true},
                "writeKey": "PERSONAL-write-key",
                "sentAt": "PERSONAL-sent-at",
                "PERSONAL-key": "PERSONAL",
            }),
            200,
        ),
    ] {
        let path = format!("{path}{query}");
        let request = request("POST", &path, "", body.to_string().as_bytes());
        assert_eq!(send(endpoints, &path, &request).await, status, "{path}");
    }
    for kind in KINDS.iter().filter(|kind| !kind.contains(MARK)) {
        let path = format!("/v1/{kind}{query}");
        let body = full(kind, &format!("{kind}-one")).to_string();
        let request = request("POST", &path, "", body.as_bytes());
        assert_eq!(send(endpoints, &path, &request).await, 200, "{path}");
    }
}

async fn bad_over_http(endpoints: &Endpoints) {
    for path in [
        "/collect?PERSONAL=PERSONAL",
        "/v1/batch?PERSONAL",
        "/v1/track?PERSONAL",
    ] {
        for (n, body) in bad_bodies().into_iter().enumerate() {
            let to = format!("bad body {n} at {path}");
            send(endpoints, &to, &request("POST", path, "", &body)).await;
        }
    }
    let body = full("track", "odd").to_string();
    let body = body.as_bytes();
    for (method, path, more) in [
        ("POST", "/collect/PERSONAL%20name", ""),
        ("POST", "/collect/%50ERSONAL%FF", ""),
        ("POST", "/collect/.PERSONAL", ""),
        ("POST", "/collect/PERSONAL/PERSONAL", ""),
        ("POST", "/PERSONAL?PERSONAL", ""),
        ("GET", "/PERSONAL", ""),
        ("GET", "/collect?PERSONAL", ""),
        ("PERSONAL", "/collect", ""),
        (
            "OPTIONS",
            "/collect?PERSONAL",
            "Access-Control-Request-Headers: PERSONAL\r\n",
        ),
        ("POST", "/collect", "Content-Encoding: PERSONAL\r\n"),
        ("POST", "/collect", "Content-Encoding: gzip\r\n"),
        ("POST", "/collect", "X-Request-Id: PERSONAL request\r\n"),
        (
            "POST",
            "/collect",
            "Content-Type: PERSONAL/PERSONAL; charset=PERSONAL\r\n",
        ),
        ("POST", "/collect", "Content-Type: application/grpc\r\n"),
        (
            "POST",
            "/PERSONAL.Service/PERSONAL",
            "Content-Type: application/grpc+proto\r\n",
        ),
        ("POST", "/collect", "Expect: PERSONAL\r\n"),
        ("POST", "/collect", "Broken PERSONAL header\r\n"),
        ("GET", "/health?PERSONAL", ""),
        ("GET", "/ready?PERSONAL", ""),
    ] {
        let to = format!("{method} {path} {more}");
        send(endpoints, &to, &request(method, path, more, body)).await;
    }
}

fn text(text: &str) -> prost_types::Value {
    let kind = Some(Kind::StringValue(text.into()));
    prost_types::Value { kind }
}

/// A protobuf event with something marked in every field.
fn message(id: &str) -> v1::Event {
    let part = || {
        let fields = [
            ("PERSONAL-key", "PERSONAL-value"),
            ("email", "PERSONAL@example.org"),
        ];
        let fields = fields.map(|(key, value)| (key.to_owned(), text(value)));
        let fields = fields.into_iter().collect();
        Some(Struct { fields })
    };
    v1::Event {
        message_id: format!("PERSONAL-message-{id}"),
        r#type: "track".into(),
        user_id: "PERSONAL-user".into(),
        anonymous_id: "PERSONAL-anonymous".into(),
        event: "PERSONAL-event".into(),
        name: "PERSONAL-name".into(),
        category: "PERSONAL-category".into(),
        group_id: "PERSONAL-group".into(),
        previous_id: "PERSONAL-previous".into(),
        timestamp: Some(Timestamp {
            seconds: 1_767_323_045,
            nanos: 0,
        }),
        properties: part(),
        traits: part(),
        context: part(),
        integrations: part(),
        extra: part(),
        ..Default::default()
    }
}

/// Good, dead-lettered and bad protobuf events.
fn messages(door: &str) -> Vec<v1::Event> {
    let json = Bytes::from_static(b"{\"PERSONAL-key\":\"PERSONAL-value\"}");
    let bare = |id: &str| v1::Event {
        message_id: format!("PERSONAL-{door}-{id}"),
        user_id: "PERSONAL-user".into(),
        r#type: "track".into(),
        ..Default::default()
    };
    vec![
        message(door),
        message(door),
        v1::Event {
            event: "PERSONAL-event".into(),
            properties_json: json.clone(),
            traits_json: json.clone(),
            context_json: json.clone(),
            integrations_json: json.clone(),
            extra_json: json.clone(),
            ..bare("json")
        },
        // No event: a dead letter. So is a moment that there is not.
        bare("dead"),
        v1::Event {
            timestamp: Some(Timestamp {
                seconds: i64::MAX,
                nanos: -1,
            }),
            ..message(&format!("{door}-never"))
        },
        v1::Event {
            properties_json: json,
            ..message(&format!("{door}-both"))
        },
        v1::Event {
            properties_json: Bytes::from_static(b"{\"PERSONAL-key\":PERSONAL"),
            ..bare("not-json")
        },
        v1::Event {
            traits_json: Bytes::from_static(b"\"PERSONAL\xff\""),
            ..bare("not-utf8")
        },
        v1::Event {
            message_id: MARK.repeat(40),
            ..bare("")
        },
    ]
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in HEADERS {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// What a call said beside the ids of outcomes.
fn assert_status_clean<T>(answer: Result<T, tonic::Status>, to: &str) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert_clean(&format!("{status:?}"), &format!("the status of {to}"));
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert_clean(&details, &format!("the details of {to}"));
            None
        }
    }
}

fn assert_reasons_clean(results: &[v1::EventResult], to: &str) {
    for result in results {
        let without_id = v1::EventResult {
            message_id: String::new(),
            ..result.clone()
        };
        assert_clean(&format!("{without_id:?}"), to);
    }
}

async fn over_grpc(endpoints: &Endpoints) {
    let mut client = clients::grpc(endpoints).unwrap();
    let collect = |stream: &str, door: &str| CollectRequest {
        events: messages(door),
        stream: stream.into(),
        sent_at: None,
    };
    let answer = client.collect(marked(collect("clicks", "unary"))).await;
    let answer = assert_status_clean(answer, "Collect").unwrap().into_inner();
    assert!(answer.accepted >= 3 && answer.rejected >= 3, "{answer:?}");
    assert_reasons_clean(&answer.results, "Collect");
    let answer = client
        .collect(marked(collect("PERSONAL name", "odd")))
        .await;
    assert!(assert_status_clean(answer, "Collect into a stream that is none").is_none());
    let mut request = marked(collect("clicks", "late"));
    let metadata = request.metadata_mut();
    metadata.insert("grpc-timeout", "PERSONAL".parse().unwrap());
    assert_status_clean(client.collect(request).await, "a timeout that is none");

    let batches = ["stream-1", "stream-2"].map(|door| CollectStreamRequest {
        events: messages(door),
        stream: "clicks".into(),
        ..Default::default()
    });
    let answer = client
        .collect_stream(marked(futures::stream::iter(batches)))
        .await;
    let answer = assert_status_clean(answer, "CollectStream")
        .unwrap()
        .into_inner();
    let results: Vec<_> = answer
        .results
        .into_iter()
        .filter_map(|listed| listed.result)
        .collect();
    assert_reasons_clean(&results, "CollectStream");

    // The third number is wrong: the stream ends with an error.
    let batches = [(1, "bidi-1"), (2, "bidi-2"), (7, "bidi-3")];
    let batches = batches.map(|(batch_number, door)| CollectBidiRequest {
        batch_number,
        events: messages(door),
        stream: "clicks".into(),
        ..Default::default()
    });
    let answers = client
        .collect_bidi(marked(futures::stream::iter(batches)))
        .await;
    let mut answers = assert_status_clean(answers, "CollectBidi")
        .unwrap()
        .into_inner();
    loop {
        let answer = assert_status_clean(within(answers.message()).await, "CollectBidi");
        let Some(Some(answer)) = answer else { break };
        if let Some(v1::collect_bidi_response::Message::Ack(ack)) = answer.message {
            assert_reasons_clean(&ack.results, "CollectBidi");
        }
    }
}

/// Waits until everything is settled, and something was counted of each of these metrics; another process does it.
async fn settled(endpoints: &Endpoints, counted: &[&str]) -> String {
    let deadline = Instant::now() + WITHIN;
    loop {
        let text = scrape(&endpoints.admin).await;
        let is_counted = |metric: &&str| {
            let mut values = text.lines().filter_map(|line| line.strip_prefix(metric));
            values.any(|value| value != " 0")
        };
        if text.contains("eventkit_queue_depth 0\n") && counted.iter().all(is_counted) {
            return text;
        }
        assert!(Instant::now() < deadline, "not stored:\n{text}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until spans of these names have left: what leaves with the end has two seconds for it, and a busy machine may need more.
async fn have_left(collector: &ServerHandle, names: &[&str]) {
    let deadline = Instant::now() + WITHIN;
    for name in names {
        let is_there = || {
            collector.with_collector(|collector| {
                let mut spans = collector.spans().iter();
                spans.any(|span| span.span().name == *name)
            })
        };
        while !is_there().await {
            assert!(Instant::now() < deadline, "no span {name:?} has left");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a process said, and what left it.
struct Shown {
    lines: Vec<String>,
    collector: ServerHandle,
}

/// A process with all that is marked through its doors, and no mark in what it shows. `until`: of which metrics something must be counted
/// before it ends, `spans`: which of them must have left by then.
async fn searched(
    command: &str,
    dir: &std::path::Path,
    (back_ends, until, spans): (&[(&str, &str)], &[&str], &[&str]),
) -> Shown {
    let collector = MockServer::builder().protocol(Protocol::Grpc).start();
    let collector = collector.await.unwrap();
    let url = format!("http://{}", collector.addr());
    let mut settings = vec![
        DEBUG,
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "65536"),
    ];
    settings.extend(back_ends);
    let mut gateway = Gateway::spawn_as(command, dir, &settings).unwrap();
    let endpoints = gateway.ready(START_TIMEOUT).await.unwrap();
    good_and_dead_over_http(&endpoints).await;
    bad_over_http(&endpoints).await;
    over_grpc(&endpoints).await;

    assert_clean(&settled(&endpoints, until).await, "/metrics");
    have_left(&collector, spans).await;
    questions(&endpoints).await;
    let ended = gateway.terminate(WITHIN).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    for line in &ended.heard {
        assert_clean(line, "the log");
    }
    Shown {
        lines: ended.heard,
        collector,
    }
}

/// What both ports answer to whoever asks how it is.
async fn questions(endpoints: &Endpoints) {
    for (port, addr) in [("public", &endpoints.http), ("admin", &endpoints.admin)] {
        for path in ["/health", "/ready"] {
            let request = request("GET", path, "", b"");
            let answer = send_to(addr.parse().unwrap(), &request).await;
            assert_answer_clean(&answer, &format!("{path} of the {port} port"));
        }
    }
    for path in [
        "/admin/PERSONAL",
        "/admin/wal/dump?from=PERSONAL",
        "/admin/wal/stat?PERSONAL",
    ] {
        let request = request("GET", path, "", b"");
        let answer = send_to(endpoints.admin.parse().unwrap(), &request).await;
        // A path that is not there is shown to whoever asked for it.
        if answer.status() != 404 {
            assert_answer_clean(&answer, path);
        }
    }
}

#[tokio::test]
async fn nothing_personal_is_in_logs_metrics_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let spans = ["loaded"];
    let shown = searched("dev", dir.path(), (&[], &[], &spans)).await;
    let lines = [("store_write", 2), ("manifest_recorded", 1)];
    every_line_was_there(&shown.lines, &lines);
    rows_have_the_marks(dir.path());
    what_left_is_clean(&shown.collector, &spans).await;
}

/// Every signal arrived, and none of them has a mark. `further`: spans that must be there beside those of any process.
async fn what_left_is_clean(collector: &ServerHandle, further: &[&str]) {
    collector
        .with_collector(|collector| {
            for span in collector.spans() {
                let mut span = span.span().clone();
                span.trace_state.clear();
                assert_clean(&format!("{span:?}"), "a span");
            }
            for record in collector.logs() {
                assert_clean(&format!("{record:?}"), "a log record");
            }
            for metric in collector.metrics() {
                assert_clean(&format!("{metric:?}"), "a metric");
            }
            let names = collector
                .spans()
                .iter()
                .map(|span| span.span().name.as_str());
            let names: std::collections::BTreeSet<&str> = names.collect();
            for name in ["POST /collect/{stream}", "batch message", "process"]
                .iter()
                .chain(further)
            {
                assert!(names.contains(name), "no span {name:?} among {names:?}");
            }
            assert!(collector.log_count() > 100, "{}", collector.log_count());
            assert!(
                collector.metric_count() > 50,
                "{}",
                collector.metric_count()
            );
        })
        .await;
}

/// Every line was there to be searched: of each name at least so many.
fn every_line_was_there(lines: &[String], further: &[(&str, usize)]) {
    let count = |event: &str| {
        let name = format!("\"event\":\"{event}\"");
        lines.iter().filter(|line| line.contains(&name)).count()
    };
    let of_all = [
        ("request_received", 70),
        ("request_completed", 70),
        ("event_sequenced", 40),
        ("event_validated", 3),
        ("event_dead_lettered", 1),
    ];
    for (event, at_least) in of_all.iter().chain(further) {
        assert!(count(event) >= *at_least, "{} lines {event}", count(event));
    }
}

/// The marks went all the way.
fn rows_have_the_marks(data_dir: &std::path::Path) {
    let connection = warehouse::open(data_dir).unwrap();
    let marked = |sql: &str| -> u32 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    let rows = marked(
        "SELECT count(*) FROM events WHERE user_id LIKE 'PERSONAL%' AND properties LIKE '%PERSONAL%'",
    );
    assert!(rows >= 20, "{rows} rows");
    let letters = marked("SELECT count(*) FROM errors WHERE original LIKE '%PERSONAL%'");
    assert!(letters >= 8, "{letters} dead letters");
    let reasons = marked("SELECT count(*) FROM errors WHERE reason LIKE '%PERSONAL%'");
    assert_eq!(reasons, 0, "reasons quote what clients sent");
}

#[test]
fn the_search_finds_what_it_is_to_find() {
    assert_clean(
        r#"{"event":"request_received","stream":"clicks"}"#,
        "a line",
    );
    for dirty in ["a PERSONAL-user", r#"{"user":"personal-user"}"#] {
        let found = std::panic::catch_unwind(|| assert_clean(dirty, "a line"));
        assert!(found.is_err(), "{dirty}");
    }
}
