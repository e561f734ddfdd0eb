//! The real binary and its collector.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::collectors::{Collector, Mood, hung_port};
use super::{LONG, SLACK, mock};
use crate::support::clients;
use crate::support::gateway::{DEBUG, Endpoints, Gateway};
use crate::support::ports;

async fn one_event(endpoints: &Endpoints) {
    let http = clients::Http::new(endpoints);
    let event = r#"{"type": "track", "userId": "u", "event": "e"}"#;
    let answer = http.post("/collect", event.to_owned()).await.unwrap();
    assert_eq!(answer.0, 202);
}

/// Its log lines of this name.
fn said(tail: &str, name: &str) -> Vec<Value> {
    let lines = tail.lines().filter_map(|line| line.split_once("| "));
    let lines = lines.filter_map(|(_, line)| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == name).collect()
}

#[tokio::test]
async fn what_opentelemetry_reads_itself_is_in_force() {
    for protocol in super::PROTOCOLS {
        let collector = Collector::start(Mood::Takes).await;
        let dir = tempfile::tempdir().unwrap();
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret,x-other=b"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
        one_event(&endpoints).await;
        super::until("a request arrives", || collector.requests() > 0).await;
        let headers = collector.headers().remove(0);
        assert_eq!(headers["x-key"], "a secret");
        assert_eq!(headers["x-other"], "b");
        let encoding = ["content-encoding", "grpc-encoding"];
        let encoding = encoding.iter().find_map(|name| headers.get(*name));
        assert_eq!(encoding.unwrap(), "gzip");
        gateway.terminate(LONG).await.unwrap();
    }
}

#[tokio::test]
async fn a_person_says_who_reports() {
    let server = mock("grpc", 0).await;
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*server.addr().to_string()),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "shop"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=no,deployment.environment.name=test",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("EVENTKIT_NODE", "a-node"),
    ];
    let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
    one_event(&endpoints).await;
    // All three signals: the last of them are exported with the end.
    let ended = gateway.terminate(LONG).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    let read = server.with_collector(|got| {
        let attributes = [
            ("service.name", "shop"),
            ("service.instance.id", "a-node"),
            ("eventkit.role", "all"),
            ("deployment.environment.name", "test"),
        ];
        let log = got.expect_log_with_body("shutdown_completed");
        log.with_resource_attributes(attributes).assert_count(1);
        let span = got.expect_span_with_name("wal append");
        span.with_resource_attributes(attributes).assert_at_least(1);
        let metric = got.expect_metric_with_name("eventkit_events_received");
        metric
            .with_resource_attributes(attributes)
            .assert_at_least(1);
    });
    read.await;
}

#[tokio::test]
async fn every_line_within_a_sampled_request_names_its_trace_at_every_level() {
    let server = mock("grpc", 0).await;
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &*format!("http://{}", server.addr()),
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        DEBUG,
    ];
    let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (flags, is_sampled) in [("01", true), ("00", false)] {
        let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-{flags}");
        let headers = [("traceparent", traceparent.as_str())];
        let event = r#"[{"type": "track", "userId": "u", "event": "e"}, 7]"#;
        let answer = http
            .exchange_with(http::Method::POST, "/collect", &headers, event.into())
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        let request_id = answer["request_id"].as_str().unwrap().to_owned();
        let of_request = |tail: &str| -> Vec<Value> {
            let lines = tail.lines().filter_map(|line| line.split_once("| "));
            let lines = lines.filter_map(|(_, line)| serde_json::from_str::<Value>(line).ok());
            lines
                .filter(|line| line["request_id"] == request_id.as_str())
                .collect()
        };
        super::until("the request is over", || {
            let lines = of_request(&gateway.tail());
            lines
                .iter()
                .any(|line| line["event"] == "request_completed")
        })
        .await;
        let lines = of_request(&gateway.tail());
        assert!(
            lines.iter().any(|line| line["level"] == "debug"),
            "{lines:?}"
        );
        for line in lines {
            if is_sampled {
                assert_eq!(line["trace_id"], trace_id, "{line}");
                assert_eq!(line["span_id"].as_str().unwrap().len(), 16, "{line}");
            } else {
                assert!(line.get("trace_id").is_none(), "{line}");
            }
        }
    }
    gateway.terminate(LONG).await.unwrap();
}

#[tokio::test]
async fn a_collector_that_goes_and_comes_is_one_line_each() {
    let (_held, address) = ports::held();
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        // Who refuses a connection does so at once; who takes an export may be held up.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
    ];
    let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
    super::until("it is said", || {
        !said(&gateway.tail(), "telemetry_not_taken").is_empty()
    })
    .await;
    one_event(&endpoints).await;
    // Time for many exports that fail; they leave no trace that could be awaited.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = mock("grpc", address.port()).await;
    // Both signals have something that gets through.
    one_event(&endpoints).await;
    super::until("it is said that it is back", || {
        !said(&gateway.tail(), "telemetry_taken_again").is_empty()
    })
    .await;
    let tail = gateway.tail();
    let gone = said(&tail, "telemetry_not_taken");
    assert_eq!(gone.len(), 1, "{tail}");
    assert_eq!(gone[0]["collector"], address.to_string());
    assert_eq!(gone[0]["level"], "warning");
    let back = said(&tail, "telemetry_taken_again");
    assert_eq!(back.len(), 1, "{tail}");
    assert_eq!(back[0]["signal"], gone[0]["signal"]);
    assert!(!tail.contains("opentelemetry"), "{tail}");
    let arrives = server.wait_for_spans(1, LONG);
    arrives.await.unwrap();
    gateway.terminate(LONG).await.unwrap();
}

#[tokio::test]
async fn a_collector_that_hangs_delays_neither_answers_nor_the_end() {
    for protocol in super::PROTOCOLS {
        let (_listener, address) = hung_port();
        let dir = tempfile::tempdir().unwrap();
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("http://{address}")),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_BSP_SCHEDULE_DELAY", "20"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
        ];
        let (gateway, endpoints) = Gateway::start(dir.path(), &settings).await.unwrap();
        for _ in 0..20 {
            timeout(LONG, one_event(&endpoints)).await.unwrap();
        }
        let since = Instant::now();
        let ended = gateway.terminate(LONG).await.unwrap();
        // The stop itself, and two seconds for the last export.
        assert!(
            since.elapsed() < Duration::from_secs(6) + SLACK,
            "{}",
            ended.said
        );
        assert!(ended.status.success(), "{}", ended.said);
        assert!(ended.alarms.is_empty(), "{:?}", ended.alarms);
        let given_up = said(&ended.said, "telemetry_given_up");
        assert_eq!(given_up.len(), 1, "{}", ended.said);
        assert!(given_up[0]["spans"].as_u64().unwrap() > 0, "{}", ended.said);
    }
}
