//! What leaves by OTLP, and that it never hurts: collectors that take everything, and collectors that are down, refuse,
//! hang, are slow, or come back.

mod collectors;
mod process;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eventkit::clock::SystemClock;
use eventkit::config::{Inputs, LogLevel, OtlpConfig, Profile, validate};
use eventkit::telemetry::logs::{Form, LINES_MAX, Lines, subscriber};
use eventkit::telemetry::trace::Tracing;
use eventkit::telemetry::{Metrics, Otlp};
use mock_collector::{MockServer, Protocol, ServerHandle};
use opentelemetry::trace::{Span as _, Tracer as _};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::time::{Instant, timeout};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::ports;
use collectors::{Collector, Mood, hung_port, unreachable_port};

/// Longer than anything here takes, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// What a program may be late with, on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

/// Both ways to speak to a collector.
const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];

fn config(env: &[(&str, &str)]) -> OtlpConfig {
    let inputs = Inputs {
        profile: Profile::Dev,
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: BTreeMap::new(),
        host_name: "a-host".to_owned(),
    };
    validate(&inputs).unwrap().config.telemetry.otlp
}

/// All three signals to one collector, soon.
fn start(protocol: &str, endpoint: &str, further: &[(&str, &str)]) -> Otlp {
    let mut env = vec![
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "20"),
    ];
    env.extend(further);
    Otlp::start(&config(&env)).unwrap()
}

fn metrics(otlp: &Otlp) -> Metrics {
    let metrics = Metrics::extended(|builder| otlp.extend(builder));
    otlp.observe(&metrics);
    metrics
}

fn spans(otlp: &Otlp, count: usize) {
    let tracer = otlp.tracer().unwrap();
    for _ in 0..count {
        tracer.start("a span").end();
    }
}

fn lines(otlp: &Otlp, count: usize) {
    crate::logs::several_subscribers();
    let subscriber = tracing_subscriber::registry().with(otlp.log_layer());
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..count {
            tracing::warn!(target: "eventkit::somewhere", what = "a field", "a_line");
        }
    });
}

/// The value of a metric without labels, as a scrape shows it.
fn shown(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.trim().parse().unwrap()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < LONG, "still not: {what}");
        // The exporters have threads of their own; there is nothing to await.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn mock(protocol: &str, port: u16) -> ServerHandle {
    let protocol = match protocol {
        "grpc" => Protocol::Grpc,
        _ => Protocol::HttpBinary,
    };
    let server = MockServer::builder().protocol(protocol).port(port).start();
    server.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_metrics_and_log_records_arrive() {
    for protocol in PROTOCOLS {
        let server = mock(protocol, 0).await;
        let otlp = start(protocol, &format!("http://{}", server.addr()), &[]);
        let metrics = metrics(&otlp);
        metrics.wal_commits.add(7, &[]);
        spans(&otlp, 3);
        lines(&otlp, 2);
        // What nobody had the time to export leaves with the end.
        timeout(LONG, otlp.shutdown(LONG)).await.unwrap();
        let read = server.with_collector(|got| {
            assert_eq!(got.span_count(), 3);
            assert_eq!(got.log_count(), 2);
            for resource in [
                got.spans()[0].resource_attrs(),
                got.logs()[0].resource_attrs(),
            ] {
                let text = format!("{resource:?}");
                for word in ["service.name", "eventkit.role", "service.instance.id"] {
                    assert!(text.contains(word), "{word} in {text}");
                }
            }
            let line = got.expect_log_with_body("a_line");
            line.with_attributes([("what", "a field")]).assert_count(2);
            got.expect_metric_with_name("eventkit_wal_commits")
                .with_resource_attribute("service.name", "eventkit")
                .assert_at_least(1);
        });
        read.await;
        assert_eq!(
            shown(&metrics, "eventkit_telemetry_spans_exported_total"),
            3
        );
        assert_eq!(shown(&metrics, "eventkit_telemetry_spans_dropped_total"), 0);
        assert_eq!(
            shown(&metrics, "eventkit_telemetry_log_records_exported_total"),
            2
        );
    }
}

#[tokio::test]
async fn records_are_the_lines_but_for_those_of_what_carries_them() {
    let server = mock("grpc", 0).await;
    let otlp = start("grpc", &format!("http://{}", server.addr()), &[]);
    crate::logs::several_subscribers();
    let lines = Lines::new(Form::Json, std::io::sink, Arc::new(SystemClock))
        .telling(otlp.left_out())
        .and(otlp.log_layer());
    let (subscriber, logs) = subscriber(LogLevel::Info, lines);
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!(target: "opentelemetry_sdk", "export_failed");
        tracing::error!(target: "hyper_util::client", "connect_failed");
        tracing::error!(target: "h2::proto", "stream_failed");
        tracing::info!(target: "another_crate", "says_too_much");
        tracing::warn!(target: "another_crate", "warns");
        tracing::debug!(target: "eventkit::somewhere", "too_detailed");
        tracing::info!(target: "eventkit::somewhere", "a_line");
        logs.set_level(LogLevel::Debug, "test");
        tracing::debug!(target: "eventkit::somewhere", "detailed");
        for _ in 0..LINES_MAX + 5 {
            tracing::warn!(target: "eventkit::somewhere", "repeated");
            tracing::warn!(target: "h2::proto", "stream_failed");
        }
        logs.flush();
    });
    otlp.shutdown(LONG).await;
    let bodies = server.with_collector(|got| {
        // One more says how many were left out.
        let repeated = got.expect_log_with_body("repeated");
        repeated
            .with_attributes([("suppressed", 5)])
            .assert_count(1);
        let bodies = got.logs().iter().map(|record| {
            let body = record.log_record().body.clone();
            match body.and_then(|body| body.value) {
                Some(Value::StringValue(body)) => body,
                other => panic!("{other:?}"),
            }
        });
        bodies.collect::<Vec<_>>()
    });
    let mut bodies = bodies.await;
    let before = bodies.len();
    bodies.retain(|body| body != "repeated");
    let repeated = usize::try_from(LINES_MAX).unwrap() + 1;
    assert_eq!(before - bodies.len(), repeated);
    bodies.sort();
    assert_eq!(bodies, ["a_line", "detailed", "log_level_changed", "warns"]);
}

#[tokio::test]
async fn records_of_a_request_name_its_span() {
    let server = mock("grpc", 0).await;
    let otlp = start("grpc", &format!("http://{}", server.addr()), &[]);
    let tracing = Tracing::new(otlp.tracer().unwrap(), otlp.sampler().clone(), true);
    let span = tracing.request(&http::HeaderMap::new(), || ("a request".into(), vec![]));
    let link = span.link().unwrap();
    crate::logs::several_subscribers();
    let subscriber = tracing_subscriber::registry().with(otlp.log_layer());
    let _default = tracing::subscriber::set_default(subscriber);
    span.around(async { tracing::info!("a_line") }).await;
    drop(span);
    otlp.shutdown(LONG).await;
    server
        .with_collector(|got| {
            let record = got.logs()[0].log_record();
            assert_eq!(record.trace_id, link.trace_id);
            assert_eq!(record.span_id, link.span_id);
        })
        .await;
}

#[tokio::test]
async fn the_switches_leave_nothing_to_export() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let otlp = Otlp::start(&config(&[endpoint, off])).unwrap();
        assert!(otlp.tracer().is_none(), "{off:?}");
    }
    let otlp = Otlp::start(&config(&[endpoint])).unwrap();
    assert!(otlp.tracer().is_some());
    assert!(otlp.log_layer::<tracing_subscriber::Registry>().is_none());
}

/// Hands over far more than fits to a collector that takes nothing, and ends.
async fn nothing_is_taken(protocol: &str, endpoint: &str) {
    const HANDED: usize = 20_000;
    let limits = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "50"),
        // An export that waited for its time to run out would be seen.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "60000"),
    ];
    let otlp = start(protocol, endpoint, &limits);
    let metrics = metrics(&otlp);
    let since = Instant::now();
    for _ in 0..10 {
        spans(&otlp, HANDED / 10);
        lines(&otlp, HANDED / 10);
        metrics.wal_commits.add(1, &[]);
        let waiting = shown(&metrics, "eventkit_telemetry_spans_waiting");
        assert!(waiting <= 100, "{waiting} wait");
    }
    assert!(since.elapsed() < LONG, "handing over waited");
    let end = Instant::now();
    otlp.shutdown(Duration::from_millis(500)).await;
    assert!(
        end.elapsed() < Duration::from_millis(500) + SLACK,
        "the end waited"
    );
    let handed = u64::try_from(HANDED).unwrap();
    assert_eq!(otlp.spans_exported(), 0);
    assert_eq!(otlp.spans_dropped(), handed);
    assert_eq!(otlp.records_dropped(), handed);
    let letting_go = Instant::now();
    drop((metrics, otlp));
    assert!(letting_go.elapsed() < SLACK, "letting go waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_costs_spans_and_nothing_else() {
    for protocol in PROTOCOLS {
        let (_held, address) = ports::held();
        nothing_is_taken(protocol, &format!("http://{address}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
    for protocol in PROTOCOLS {
        let collector = Collector::start(Mood::Refuses).await;
        nothing_is_taken(protocol, &collector.url()).await;
        assert!(collector.requests() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    for protocol in PROTOCOLS {
        let (_listener, address) = hung_port();
        nothing_is_taken(protocol, &format!("http://{address}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_hangs_ends_after_its_time() {
    for (protocol, scheme) in [
        ("grpc", "http"),
        ("http/protobuf", "http"),
        ("grpc", "https"),
        ("http/protobuf", "https"),
    ] {
        let (_listener, address) = hung_port();
        let url = format!("{scheme}://{address}");
        let otlp = start(protocol, &url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]);
        spans(&otlp, 5);
        until("the spans are given up", || otlp.spans_dropped() == 5).await;
        otlp.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_comes_about_ends_an_export_after_its_time() {
    let (_listener, _waiting, address) = unreachable_port().await;
    for protocol in PROTOCOLS {
        let url = format!("http://{address}");
        let otlp = start(protocol, &url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "200")]);
        spans(&otlp, 5);
        until("the spans are given up", || otlp.spans_dropped() == 5).await;
        otlp.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_collector_gets_what_fits_and_the_rest_is_counted() {
    for protocol in PROTOCOLS {
        let collector = Collector::start(Mood::Slow(Duration::from_millis(100))).await;
        let limits = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
        ];
        let otlp = start(protocol, &collector.url(), &limits);
        spans(&otlp, 5_000);
        otlp.shutdown(LONG).await;
        let (exported, dropped) = (otlp.spans_exported(), otlp.spans_dropped());
        assert!(exported >= 100 && dropped > 0, "{exported} {dropped}");
        assert_eq!(exported + dropped, 5_000);
        assert_eq!(collector.spans(), exported, "each was counted as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_go_on_when_a_collector_is_back() {
    for protocol in PROTOCOLS {
        // Nobody else's while it is away.
        let (_held, address) = ports::held();
        let server = mock(protocol, address.port()).await;
        let timeout = [("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
        let otlp = start(protocol, &format!("http://{address}"), &timeout);
        until("the first are exported", || {
            // A busy machine may take longer than one has.
            spans(&otlp, 1);
            otlp.spans_exported() > 0
        })
        .await;
        // A connection that is kept open would keep it; ending it is what a restart does.
        drop(server);
        until("one is dropped", || {
            spans(&otlp, 1);
            otlp.spans_dropped() > 0
        })
        .await;
        let before = otlp.spans_exported();
        let server = mock(protocol, address.port()).await;
        until("they are exported again", || {
            spans(&otlp, 1);
            otlp.spans_exported() > before
        })
        .await;
        otlp.shutdown(LONG).await;
        assert!(server.with_collector(|got| got.span_count()).await > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lets_go_of_it_does_not_wait() {
    for protocol in PROTOCOLS {
        let (_listener, address) = hung_port();
        // An export that was waited for would be seen.
        let timeouts = [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "60000"),
        ];
        let otlp = start(protocol, &format!("http://{address}"), &timeouts);
        let metrics = metrics(&otlp);
        spans(&otlp, 10);
        lines(&otlp, 10);
        let since = Instant::now();
        drop((metrics, otlp));
        assert!(since.elapsed() < SLACK);
    }
}
