//! What the program shows while it runs: the metrics that dashboard and alerts name, the lines of a request, and the level of the lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use mock_collector::{MockServer, Protocol, ServerHandle};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::docs::scrape;
use crate::doors::send_to;
use crate::support::clients;
use crate::support::gateway::{DEBUG, Endpoints, Gateway};

const WITHIN: Duration = Duration::from_secs(30);

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// One rule of the alerts' file, which keeps each of a rule's parts on a line of its own.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    parts: BTreeMap<String, String>,
}

fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in read("deploy/prometheus/alerts.yml").lines() {
        let Some((key, value)) = line.trim().split_once(": ") else {
            continue;
        };
        if key == "- alert" {
            alerts.push(Alert {
                name: value.into(),
                ..Alert::default()
            });
        } else if let Some(alert) = alerts.last_mut() {
            let value = value.trim_matches('\'').replace("''", "'");
            alert.parts.insert(key.into(), value);
        }
    }
    assert!(alerts.len() > 20, "{}", alerts.len());
    alerts
}

/// Every expression of a dashboard, wherever it stands.
fn expressions(part: &Value, found: &mut Vec<String>) {
    match part {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("expr" | "definition", Value::String(text)) => found.push(text.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A metric of an expression, and the labels that it is selected by, each with the words that are asked for.
type Selector = (String, Vec<(String, Vec<String>)>);

/// The metrics of an expression.
fn selectors(expression: &str) -> Vec<Selector> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("eventkit_") {
        let (_, rest) = expression.split_at(at);
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let matchers = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let matchers = matchers.unwrap_or_default().split(',');
        let labels = matchers.filter(|m| !m.is_empty()).map(|matcher| {
            let (label, words) = matcher.split_once('"').unwrap();
            let words = words.trim_end_matches('"').split('|');
            // A variable of the dashboard's is any of them.
            let words = words.filter(|word| !word.starts_with('$'));
            let label = label.trim_end_matches(['=', '!', '~']);
            (label.to_owned(), words.map(str::to_owned).collect())
        });
        found.push((name.to_owned(), labels.collect()));
    }
    found
}

/// The labels that an expression or a text goes by: those in `by (...)`, `on (...)`, and in `$labels.…`.
fn grouped_by(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in [" by (", " on ("] {
        for (_, rest) in text
            .match_indices(word)
            .map(|(at, word)| text.split_at(at + word.len()))
        {
            let (labels, _) = rest.split_once(')').unwrap();
            found.extend(labels.split(',').map(|label| label.trim().to_owned()));
        }
    }
    for (at, word) in text.match_indices("$labels.") {
        let (_, rest) = text.split_at(at + word.len());
        let mut words = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        found.extend(words.next().map(str::to_owned));
    }
    found
}

/// What a metric has for labels, with their values.
type Labels<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Prometheus itself adds these, and a histogram has the last.
const ALWAYS: [&str; 3] = ["instance", "job", "le"];

/// Each metric of a scrape, with the labels that it has.
fn shown(scrape: &str) -> BTreeMap<&str, Labels<'_>> {
    let mut shown: BTreeMap<&str, Labels<'_>> = BTreeMap::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels = labels
            .split("\",")
            .map(|label| label.trim_start_matches('{'));
        let metric = shown.entry(name).or_default();
        for (label, value) in labels.filter_map(|label| label.split_once("=\"")) {
            let (value, _) = value.split_once('"').unwrap_or((value, ""));
            metric.entry(label).or_default().insert(value);
        }
    }
    shown
}

/// A gateway with everything behind it, which has seen good events, bad ones and repeats, loaded them, and shows it.
async fn used(settings: &[(&str, &str)]) -> (tempfile::TempDir, Gateway, Endpoints, String) {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), settings).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let good = json!({"type": "track", "messageId": "a", "userId": "u", "event": "e"});
    let invalid = json!({"type": "track", "messageId": "b"});
    let events = json!([good, good, invalid, 5]).to_string();
    assert_eq!(http.post("/collect", events).await.unwrap().0, 202);
    let deadline = Instant::now() + WITHIN;
    loop {
        let text = scrape(&endpoints.admin).await;
        let is_loaded = |table: &str| {
            let line = format!("eventkit_loader_rows_merged_total{{table=\"{table}\"}} 1\n");
            text.contains(&line)
        };
        // The rows count before their markers are gone, and only then has the loader caught up.
        let is_settled = [
            "eventkit_queue_depth 0\n",
            "eventkit_loader_behind_seconds 0\n",
        ]
        .iter()
        .all(|line| text.contains(line));
        if is_loaded("events") && is_loaded("errors") && is_settled {
            return (dir, gateway, endpoints, text);
        }
        assert!(Instant::now() < deadline, "nothing was loaded: {text}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_metric_that_dashboard_and_alerts_name_is_in_a_scrape() {
    let (_dir, _gateway, _endpoints, text) = used(&[]).await;
    let shown = shown(&text);
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/eventkit.json")).unwrap();
    let mut named = Vec::new();
    expressions(&dashboard, &mut named);
    assert!(named.len() > 50, "{}", named.len());
    named.extend(
        alerts()
            .into_iter()
            .map(|alert| alert.parts["expr"].clone()),
    );
    for expression in &named {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for (metric, labels) in selectors {
            let has = shown.get(&*metric);
            let has = has.unwrap_or_else(|| panic!("there is no {metric}: {expression}\n{text}"));
            for (label, words) in labels
                .iter()
                .filter(|(label, _)| !ALWAYS.contains(&&**label))
            {
                let values = has.get(&**label);
                let values =
                    values.unwrap_or_else(|| panic!("{metric} has no label {label}: {expression}"));
                for word in words {
                    let is_one = values.contains(&**word);
                    assert!(
                        is_one,
                        "{metric} has no {label} {word:?}: {expression}\n{text}"
                    );
                }
            }
        }
    }
    // What a rule goes by is a label of one of its metrics.
    let rules = alerts().into_iter().map(|alert| {
        let said = alert.parts.values().cloned().collect::<Vec<_>>().join(" ");
        (alert.parts["expr"].clone(), said)
    });
    for (expression, said) in named.iter().map(|e| (e.clone(), e.clone())).chain(rules) {
        let metrics = selectors(&expression);
        let labels = metrics
            .iter()
            .filter_map(|(name, _)| shown.get(&**name))
            .flatten();
        for label in grouped_by(&said) {
            let is_known =
                ALWAYS.contains(&&*label) || labels.clone().any(|(has, _)| *has == label);
            assert!(is_known, "no label {label}: {said}");
        }
    }
    // And the other way: a dashboard that leaves a metric out leaves a question open.
    let names: BTreeSet<String> = named
        .iter()
        .flat_map(|expression| selectors(expression))
        .map(|(name, _)| name)
        .collect();
    let of = |metric: &str| {
        let base = ["_bucket", "_sum", "_count"];
        let base = base.iter().find_map(|end| metric.strip_suffix(end));
        base.unwrap_or(metric).to_owned()
    };
    let bases: BTreeSet<String> = names.iter().map(|name| of(name)).collect();
    let unused: Vec<_> = shown
        .keys()
        .filter(|name| !bases.contains(&of(name)))
        .collect();
    assert!(
        unused.is_empty(),
        "neither in the dashboard nor in an alert: {unused:?}"
    );
}

/// The name of each metric of a scrape, and what it is.
fn kinds_shown(scrape: &str) -> BTreeSet<(String, &str)> {
    let types = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.map(|line| line.split_once(' ').unwrap());
    types.map(|(name, kind)| (name.to_owned(), kind)).collect()
}

/// The same of what was exported, as a scrape would call it.
async fn kinds_exported(collector: &ServerHandle) -> BTreeSet<(String, &'static str)> {
    let kinds = collector.with_collector(|collector| {
        let metrics = collector.metrics().iter().map(|metric| metric.metric());
        let kinds = metrics.map(|metric| match metric.data.as_ref().unwrap() {
            Data::Sum(sum) if sum.is_monotonic => (format!("{}_total", metric.name), "counter"),
            Data::Sum(_) | Data::Gauge(_) => (metric.name.clone(), "gauge"),
            Data::Histogram(_) => (metric.name.clone(), "histogram"),
            other => panic!("{}: {other:?}", metric.name),
        });
        kinds.collect()
    });
    kinds.await
}

/// Each counter as it was exported last, as a scrape would show it.
async fn counters_exported(collector: &ServerHandle) -> BTreeSet<String> {
    let counters = collector.with_collector(|collector| {
        let mut counters = BTreeMap::new();
        for metric in collector.metrics().iter().map(|metric| metric.metric()) {
            assert!(!metric.unit.is_empty(), "{} has no unit", metric.name);
            let Data::Sum(sum) = metric.data.as_ref().unwrap() else {
                continue;
            };
            for point in &sum.data_points {
                let labels = point.attributes.iter().map(|label| {
                    let value = label.value.as_ref().and_then(|value| value.value.as_ref());
                    match value {
                        Some(Any::StringValue(text)) => format!("{}=\"{text}\"", label.key),
                        other => format!("{}=\"{other:?}\"", label.key),
                    }
                });
                let labels = labels.collect::<Vec<_>>().join(",");
                let braced = format!("{{{labels}}}");
                let labels = if labels.is_empty() { "" } else { &braced };
                if let Some(Number::AsInt(value)) = point.value {
                    let series = format!("{}_total{labels}", metric.name);
                    counters.insert(series, value);
                }
            }
        }
        counters
    });
    let counters = counters.await.into_iter();
    counters
        .map(|(series, value)| format!("{series} {value}"))
        .collect()
}

#[tokio::test]
async fn what_was_received_balances_with_what_became_of_it_and_a_collector_is_told_the_same() {
    let collector = MockServer::builder().protocol(Protocol::Grpc).start();
    let collector = collector.await.unwrap();
    let url = format!("http://{}", collector.addr());
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let (_dir, gateway, _endpoints, text) = used(&settings).await;
    let counted = [
        "eventkit_events_received_total{protocol=\"http\"} 4",
        "eventkit_ingress_events_accepted_total 2",
        "eventkit_ingress_events_duplicate_total 1",
        "eventkit_ingress_events_rejected_total{code=\"not_an_object\"} 1",
        "eventkit_wal_records_committed_total 2",
        "eventkit_events_processed_total 1",
        "eventkit_events_failed_total{code=\"missing_field\"} 1",
    ];
    let others = [
        "eventkit_worker_batch_age_seconds_count 1",
        "eventkit_ready{role=\"gateway\"} 1",
        "eventkit_ready{role=\"worker\"} 1",
        "eventkit_ready{role=\"loader\"} 1",
        "eventkit_degraded{component=\"store\"} 0",
        "eventkit_queue_held_messages 0",
        "eventkit_workers_busy 0",
        "eventkit_wal_full_seconds 2592000",
        "eventkit_wal_unsettled_bytes 0",
        "eventkit_publisher_open_bytes 0",
        "eventkit_loader_behind_seconds 0",
        "eventkit_dedup_ids 2",
    ];
    for line in counted.iter().chain(&others) {
        assert!(
            text.lines().any(|shown| shown == *line),
            "{line} in\n{text}"
        );
    }
    // The last export comes with the end.
    let ended = gateway.terminate(WITHIN).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    let counters = counters_exported(&collector).await;
    for line in counted {
        assert!(counters.contains(line), "{line} in {counters:?}");
    }
    let (shown, exported) = (kinds_shown(&text), kinds_exported(&collector).await);
    assert!(shown.len() > 50, "{shown:?}");
    let differ: Vec<_> = shown.symmetric_difference(&exported).collect();
    assert!(differ.is_empty(), "in one of them only: {differ:?}");
}

#[test]
fn each_alert_says_what_it_means_and_what_to_do_and_is_in_the_guide() {
    let guide = read("docs/observability.md");
    let mut names = BTreeSet::new();
    for alert in alerts() {
        for part in ["expr", "for", "labels", "summary", "meaning", "action"] {
            let text = alert.parts.get(part).map_or("", String::as_str);
            assert!(!text.is_empty(), "{} has no {part}", alert.name);
        }
        let severity = &alert.parts["labels"];
        assert!(
            ["{severity: page}", "{severity: ticket}"].contains(&severity.as_str()),
            "{}: {severity}",
            alert.name
        );
        let row = format!(
            "| `{}` | `{}` |",
            alert.name,
            alert.parts["expr"].replace('|', "\\|")
        );
        assert!(guide.contains(&row), "not in docs/observability.md: {row}");
        assert!(
            names.insert(alert.name.clone()),
            "{} is there twice",
            alert.name
        );
    }
    let rows = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `Eventkit"));
    for row in rows {
        let name = format!("Eventkit{}", row.split('`').next().unwrap());
        assert!(
            names.contains(&name),
            "docs/observability.md has an alert {name}"
        );
    }
}

/// Every word in code quotes of the guide that looks like one of ours is one.
#[test]
fn the_guide_names_only_metrics_and_lines_that_there_are() {
    let (guide, metrics) = (read("docs/observability.md"), read("docs/metrics.md"));
    for (metric, _) in selectors(&guide) {
        let base = ["_bucket", "_sum", "_count"];
        let base = base.iter().find_map(|end| metric.strip_suffix(end));
        let base = base.unwrap_or(&metric);
        assert!(metrics.contains(&format!("`{base}`")), "{metric}");
    }
}

fn lines_of<'a>(heard: &'a [Value], request_id: &str) -> Vec<&'a Value> {
    let lines = heard.iter();
    lines
        .filter(|line| line["request_id"] == request_id)
        .collect()
}

fn parsed(gateway: &Gateway) -> Vec<Value> {
    let lines = gateway.heard().into_iter();
    lines
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect()
}

/// Waits for a line; another process writes it.
async fn heard(gateway: &Gateway, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + WITHIN;
    loop {
        if let Some(line) = parsed(gateway).into_iter().find(&is_it) {
            return line;
        }
        assert!(
            Instant::now() < deadline,
            "no {what} in\n{}",
            gateway.tail()
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// Name, level and keys of a line, without those of a trace.
fn told(line: &Value) -> (&str, &str, Vec<&str>) {
    let keys = line.as_object().unwrap().keys().map(String::as_str);
    let keys = keys.filter(|key| !["trace_id", "span_id"].contains(key));
    let mut keys: Vec<&str> = keys.collect();
    keys.sort_unstable();
    (
        line["event"].as_str().unwrap(),
        line["level"].as_str().unwrap(),
        keys,
    )
}

#[tokio::test]
async fn one_request_has_the_lines_of_the_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[DEBUG]).await.unwrap();
    let body =
        json!([{"type": "track", "messageId": "a", "userId": "u", "event": "e"}]).to_string();
    let length = body.len();
    let request = format!(
        "POST /collect/clicks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: req-1\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = send_to(endpoints.http.parse().unwrap(), request.as_bytes()).await;
    assert_eq!(answer.status(), 202);
    heard(&gateway, "last line", |line| {
        line["event"] == "request_completed"
    })
    .await;
    let lines = parsed(&gateway);
    let ours = lines_of(&lines, "req-1");
    let keys = |own: &[&'static str]| {
        let mut keys = vec![
            "event",
            "level",
            "timestamp",
            "logger",
            "request_id",
            "stream",
        ];
        keys.extend(own);
        keys.sort_unstable();
        keys
    };
    let found: Vec<_> = ours.iter().map(|line| told(line)).collect();
    assert_eq!(
        found,
        [
            (
                "request_received",
                "info",
                keys(&["method", "path", "event_type"])
            ),
            ("event_received", "debug", keys(&["event_type"])),
            ("event_adapted", "debug", keys(&["event_type"])),
            ("event_sequenced", "debug", keys(&["partition"])),
            (
                "request_completed",
                "info",
                keys(&["status_code", "duration_ms"])
            ),
        ]
    );
    assert!(
        ours.iter().all(|line| line["stream"] == "clicks"),
        "{ours:?}"
    );
    assert_eq!(
        (&ours[0]["path"], &ours[4]["status_code"]),
        (&"/collect/clicks".into(), &202.into())
    );
}

#[tokio::test]
async fn what_happens_behind_the_log_has_its_lines_too() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[DEBUG]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let events = json!([
        {"type": "track", "messageId": "a", "userId": "u", "event": "e"},
        {"type": "track", "messageId": "b"},
    ]);
    let body = events.to_string();
    http.post("/collect", body).await.unwrap();
    for (name, level, has) in [
        ("event_validated", "debug", &["lane", "event_count"][..]),
        ("store_write", "info", &["event_count", "duration_ms"]),
        (
            "flush_completed",
            "info",
            &["partition", "event_count", "duration_ms"],
        ),
        ("event_dead_lettered", "warning", &["lane", "codes"]),
    ] {
        let line = heard(&gateway, name, |line| line["event"] == name).await;
        let (_, found, keys) = told(&line);
        assert_eq!(found, level, "{line}");
        assert!(
            has.iter().all(|key| keys.contains(key)),
            "{has:?} in {line}"
        );
    }
}

/// One question to the admin port; status and body.
async fn admin(endpoints: &Endpoints, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = send_to(endpoints.admin.parse().unwrap(), request.as_bytes()).await;
    (answer.status(), answer.json())
}

#[tokio::test]
async fn the_level_is_changed_at_the_admin_port_and_by_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[DEBUG]).await.unwrap();
    let http = clients::Http::new(&endpoints);
    let said = |level: &'static str| (200, json!({ "level": level }));
    let path = "/admin/log-level";
    assert_eq!(admin(&endpoints, "GET", path, "").await, said("debug"));
    assert_eq!(
        admin(&endpoints, "PUT", path, "warning").await,
        said("warning")
    );
    assert_eq!(admin(&endpoints, "PUT", path, "loud").await.0, 400);
    assert_eq!(admin(&endpoints, "POST", path, "debug").await.0, 405);
    http.post("/collect/quiet", r#"{"type":"x"}"#)
        .await
        .unwrap();

    let changed = |to: &'static str, by: &'static str| {
        move |line: &Value| {
            line["event"] == "log_level_changed" && line["to"] == to && line["by"] == by
        }
    };
    gateway.signal(Signal::HUP).unwrap();
    heard(&gateway, "change to debug", changed("debug", "SIGHUP")).await;
    assert_eq!(admin(&endpoints, "GET", path, "").await, said("debug"));
    http.post("/collect/loud", r#"{"type":"x"}"#).await.unwrap();
    heard(&gateway, "line of an event", |line| {
        line["event"] == "event_sequenced" && line["stream"] == "loud"
    })
    .await;
    gateway.signal(Signal::HUP).unwrap();
    heard(&gateway, "change back", changed("warning", "SIGHUP")).await;
    assert_eq!(admin(&endpoints, "GET", path, "").await, said("warning"));
    let quiet = parsed(&gateway)
        .iter()
        .any(|line| line["stream"] == "quiet");
    assert!(!quiet, "{}", gateway.tail());
}
