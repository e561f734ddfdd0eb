//! One trace through every stage, as a back end sees it: the real binary exports to a receiver in this process, and what it
//! received is walked from a request's trace id to the row in the warehouse.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eventkit::proto::v1;
use mock_collector::{MockServer, Protocol, ServerHandle};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::support::clients;
use crate::support::gateway::{DEBUG, Endpoints, Gateway, START_TIMEOUT};

mod crowd;
mod kills;

use kills::Outage;

/// How long a request's story may take until it is told, over three processes and an emulator on a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// What the span of a request is called.
const OVER_HTTP: &str = "POST /collect/{stream}";
const OVER_GRPC: &str = "eventkit.v1.IngestService/Collect";

/// A sampled parent of a test's own.
pub(crate) struct Parent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
}

impl Parent {
    pub(crate) fn new() -> Self {
        Self {
            trace_id: uuid::Uuid::new_v4().as_u128(),
            span_id: 0x00f0_67aa_0ba9_02b7,
        }
    }

    pub(crate) fn header(&self, sampled: bool) -> String {
        let Self { trace_id, span_id } = self;
        format!(
            "00-{trace_id:032x}-{span_id:016x}-{:02x}",
            u8::from(sampled)
        )
    }
}

/// A receiver, and what was received.
pub(crate) struct Story(ServerHandle);

impl Story {
    pub(crate) async fn begin() -> Self {
        let server = MockServer::builder().protocol(Protocol::Grpc).start();
        Self(server.await.unwrap())
    }

    /// What a process is told about the receiver. It exports soon, and samples nothing by itself.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", self.0.addr()),
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ]
    }

    async fn spans(&self) -> Vec<Span> {
        self.0
            .with_collector(|collector| {
                let spans = collector.spans().iter();
                spans.map(|span| span.span().clone()).collect()
            })
            .await
    }

    /// What was told, once `enough` is content with it. Spans come in the order in which they end, and not all at once.
    pub(crate) async fn until(&self, enough: impl Fn(&Told) -> Result<()>) -> Told {
        let since = Instant::now();
        loop {
            let told = Told(self.spans().await);
            let Err(lack) = enough(&told) else {
                return told;
            };
            assert!(
                since.elapsed() < TOLD_WITHIN,
                "{lack}; there are:\n{}",
                told.list()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same, once the trace of the parent holds a span of that name.
    async fn told(&self, parent: &Parent, name: &str) -> Told {
        self.until(|told| told.one(parent.trace_id, name).map(drop))
            .await
    }

    /// The whole story of a request, once it is told: from its span, over what links to it, to its row.
    async fn whole(&self, parent: &Parent, request: &str, first: &str) -> Told {
        self.until(|told| told.is_whole(parent, request, first))
            .await
    }
}

pub(crate) struct Told(pub(crate) Vec<Span>);

pub(crate) fn trace_of(span: &Span) -> u128 {
    u128::from_be_bytes(span.trace_id.as_slice().try_into().unwrap())
}

impl Told {
    fn list(&self) -> String {
        let lines = self.0.iter().map(|span| {
            let links = span.links.iter().map(|link| hex(&link.trace_id));
            format!(
                "{} {:?} in {} -> {:?}\n",
                hex(&span.span_id),
                span.name,
                hex(&span.trace_id),
                links.collect::<Vec<_>>()
            )
        });
        lines.collect()
    }

    pub(crate) fn one(&self, trace_id: u128, name: &str) -> Result<&Span> {
        let mut all = self.0.iter();
        all.find(|span| trace_of(span) == trace_id && span.name == name)
            .with_context(|| format!("no span {name:?} in {trace_id:032x}"))
    }

    /// A span that links to a trace.
    fn linked(&self, trace_id: u128, name: &str) -> Result<&Span> {
        let links_there = |span: &&Span| {
            let mut links = span.links.iter();
            span.name == name && links.any(|link| link.trace_id == trace_id.to_be_bytes())
        };
        let mut all = self.0.iter();
        all.find(links_there)
            .with_context(|| format!("no span {name:?} links to {trace_id:032x}"))
    }

    /// A part of a span.
    fn child(&self, of: &Span, name: &str) -> Result<&Span> {
        let mut all = self.0.iter();
        let is_part = |span: &&Span| span.name == name && span.parent_span_id == of.span_id;
        all.find(is_part)
            .with_context(|| format!("no span {name:?} is a part of {:?}", of.name))
    }

    fn is_whole(&self, parent: &Parent, request: &str, first: &str) -> Result<()> {
        let trace_id = parent.trace_id;
        let server = self.one(trace_id, request)?;
        ensure!(server.kind == SpanKind::Server as i32);
        ensure!(server.parent_span_id == parent.span_id.to_be_bytes());

        let append = self.linked(trace_id, "wal append")?;
        ensure!(number(append, "eventkit.event.count")? >= 1);
        ensure!(number(append, "eventkit.wal.appends")? >= 1);
        for key in ["eventkit.wal.wait", "eventkit.wal.sync"] {
            ensure!(double(append, key)? >= 0.0);
        }

        // The batch: one trace, which begins with its seal, or with its sending if it was sealed before.
        let batch = trace_of(self.linked(trace_id, first)?);
        let send = self.one(batch, "send")?;
        ensure!(send.kind == SpanKind::Producer as i32);
        ensure!(number(send, "eventkit.event.count")? >= 1);
        let receive = self.one(batch, "receive")?;
        ensure!(receive.parent_span_id == send.span_id);
        ensure!(number(receive, "eventkit.attempt")? >= 1);

        // The run that it came to a worker in, which is a part of its first batch and linked to the others.
        let process = self.linked(trace_id, "process")?;
        let is_linked = process
            .links
            .iter()
            .any(|link| link.span_id == receive.span_id);
        ensure!(process.parent_span_id == receive.span_id || is_linked);
        for span in [send, receive, process] {
            text(span, "messaging.system")?;
        }
        let settle = self.child(process, "settle")?;
        ensure!(text(settle, "eventkit.settlement")? == "acknowledged");

        // The sender's own trace tells the end of it.
        let stored = self.one(trace_id, "stored")?;
        let write = self.child(process, "store write")?;
        let object = text(write, "eventkit.object.name")?;
        ensure!(object.starts_with("events/dt="), "{object}");
        ensure!(number(write, "eventkit.object.size")? > 0);
        ensure!(number(write, "eventkit.attempt")? >= 1);
        ensure!(text(stored, "eventkit.object.name")? == object);
        ensure!(stored.links[0].span_id == write.span_id);
        let manifest = self.linked(trace_id, "manifest")?;
        ensure!(number(manifest, "eventkit.manifest.number")? >= 1);
        let load = self.child(manifest, "load job")?;
        ensure!(number(load, "eventkit.rows")? >= 1);
        let merge = self.child(manifest, "merge")?;
        ensure!(number(merge, "eventkit.rows.merged")? >= 1);
        ensure!(number(merge, "eventkit.rows.duplicate")? >= 0);
        let loaded = self.one(trace_id, "loaded")?;
        ensure!(number(loaded, "eventkit.rows.merged")? >= 1);
        ensure!(loaded.links[0].span_id == merge.span_id);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute<'a>(span: &'a Span, key: &str) -> Result<&'a Any> {
    let found = span.attributes.iter().find(|one| one.key == key);
    found
        .and_then(|found| found.value.as_ref()?.value.as_ref())
        .with_context(|| format!("{:?} has no {key}", span.name))
}

fn text<'a>(span: &'a Span, key: &str) -> Result<&'a str> {
    match attribute(span, key)? {
        Any::StringValue(text) => Ok(text),
        other => bail!("{key} of {:?} is {other:?}", span.name),
    }
}

fn number(span: &Span, key: &str) -> Result<i64> {
    match attribute(span, key)? {
        Any::IntValue(number) => Ok(*number),
        other => bail!("{key} of {:?} is {other:?}", span.name),
    }
}

fn double(span: &Span, key: &str) -> Result<f64> {
    match attribute(span, key)? {
        Any::DoubleValue(number) => Ok(*number),
        other => bail!("{key} of {:?} is {other:?}", span.name),
    }
}

fn track(message_id: &str) -> String {
    format!(r#"{{"type":"track","messageId":"{message_id}","userId":"u","event":"Order Placed"}}"#)
}

/// A request with these headers; 202 or an end.
async fn post(endpoints: &Endpoints, headers: &[(&str, &str)], body: String) {
    let http = clients::Http::new(endpoints);
    let answer = http.exchange_with(http::Method::POST, "/collect/shop", headers, body.into());
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 202, "{:?}", answer.body());
}

fn event(message_id: &str) -> v1::Event {
    v1::Event {
        message_id: message_id.to_owned(),
        r#type: "track".to_owned(),
        user_id: "u".to_owned(),
        event: "Plan Chosen".to_owned(),
        ..v1::Event::default()
    }
}

/// A call with the parent's context.
fn within<T>(parent: &Parent, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let traceparent = parent.header(true).parse().unwrap();
    request.metadata_mut().insert("traceparent", traceparent);
    request
}

/// A call whose id is that of its event.
async fn collect(endpoints: &Endpoints, parent: &Parent, message_id: &str) {
    let message = v1::CollectRequest {
        events: vec![event(message_id)],
        ..v1::CollectRequest::default()
    };
    let mut request = within(parent, message);
    let id = message_id.parse().unwrap();
    request.metadata_mut().insert("x-request-id", id);
    let mut client = clients::grpc(endpoints).unwrap();
    client.collect(request).await.unwrap();
}

/// Each line of a request of one event, whatever its level, names the span of the request; and no line is missing.
fn assert_lines_name(server: &Span, heard: &[String], request_id: &str) {
    let lines = heard.iter();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<_> = lines
        .filter(|line| line["request_id"] == request_id)
        .collect();
    let names: Vec<_> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(
        names,
        [
            "request_received",
            "event_received",
            "event_adapted",
            "event_sequenced",
            "request_completed"
        ]
    );
    for line in &lines {
        let (trace_id, span_id) = (hex(&server.trace_id), hex(&server.span_id));
        assert_eq!(line["trace_id"], trace_id, "{line}");
        assert_eq!(line["span_id"], span_id, "{line}");
    }
}

pub(crate) async fn start(
    command: &str,
    dir: &Path,
    settings: &[(&'static str, String)],
    more: &[(&'static str, &str)],
) -> (Gateway, Endpoints) {
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
    all.extend(more);
    let mut process = Gateway::spawn_as(command, dir, &all).unwrap();
    let endpoints = process.ready(START_TIMEOUT).await.unwrap();
    (process, endpoints)
}

#[tokio::test]
async fn a_request_through_either_door_is_followed_to_its_row() {
    let story = Story::begin().await;
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = start("dev", dir.path(), &story.settings(), &[DEBUG]).await;

    let over_http = Parent::new();
    post(
        &endpoints,
        &[
            ("traceparent", &over_http.header(true)),
            ("x-request-id", "h"),
        ],
        track("h"),
    )
    .await;
    let told = story.whole(&over_http, OVER_HTTP, "seal").await;
    let server = told.one(over_http.trace_id, OVER_HTTP).unwrap();
    assert_eq!(number(server, "http.response.status_code").unwrap(), 202);
    assert_eq!(number(server, "eventkit.event.accepted").unwrap(), 1);

    let over_grpc = Parent::new();
    collect(&endpoints, &over_grpc, "g").await;
    let told = story.whole(&over_grpc, OVER_GRPC, "seal").await;
    let server = told.one(over_grpc.trace_id, OVER_GRPC).unwrap();
    assert_eq!(text(server, "rpc.response.status_code").unwrap(), "OK");

    // What nobody asked for is not recorded, and what an event says of itself counts more than its request.
    let (asked, quiet, own) = (Parent::new(), Parent::new(), Parent::new());
    let named = |message_id: &str, traceparent: String| {
        format!(
            r#"{{"type":"track","messageId":"{message_id}","userId":"u","event":"e","context":{{"traceparent":"{traceparent}"}}}}"#
        )
    };
    let unsampled = named("n", Parent::new().header(false));
    post(
        &endpoints,
        &[("traceparent", &asked.header(true))],
        unsampled,
    )
    .await;
    let sampled = named("o", own.header(true));
    post(
        &endpoints,
        &[("traceparent", &quiet.header(false))],
        sampled,
    )
    .await;
    let told = story.told(&own, "loaded").await;
    assert_eq!(
        told.one(own.trace_id, "stored").unwrap().parent_span_id,
        own.span_id.to_be_bytes()
    );
    assert!(told.0.iter().all(|span| trace_of(span) != quiet.trace_id));
    let of_asked = told
        .0
        .iter()
        .filter(|span| trace_of(span) == asked.trace_id);
    let names: Vec<_> = of_asked.map(|span| span.name.as_str()).collect();
    assert_eq!(names, [OVER_HTTP]);
    assert!(told.linked(asked.trace_id, "seal").is_err());

    let ended = gateway.terminate(Duration::from_secs(30)).await.unwrap();
    assert!(ended.status.success(), "{}", ended.said);
    // Only lines within the request: what the pipeline does later belongs to many.
    for (parent, name, request_id) in [(&over_http, OVER_HTTP, "h"), (&over_grpc, OVER_GRPC, "g")] {
        let server = told.one(parent.trace_id, name).unwrap();
        assert_lines_name(server, &ended.heard, request_id);
    }
    let quiet = format!("{:032x}", quiet.trace_id);
    assert!(ended.heard.iter().all(|line| !line.contains(&quiet)));
}

#[tokio::test]
async fn each_message_of_a_stream_has_a_span_that_its_events_lead_to() {
    let story = Story::begin().await;
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = start("dev", dir.path(), &story.settings(), &[DEBUG]).await;
    let parent = Parent::new();
    let mut client = clients::grpc(&endpoints).unwrap();
    let messages = (1..=2).map(|number| v1::CollectBidiRequest {
        batch_number: number,
        events: vec![event(&format!("b-{number}"))],
        ..v1::CollectBidiRequest::default()
    });
    let mut request = within(&parent, tokio_stream::iter(messages.collect::<Vec<_>>()));
    let id = "a-stream".parse().unwrap();
    request.metadata_mut().insert("x-request-id", id);
    let mut answers = client.collect_bidi(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}

    let name = "eventkit.v1.IngestService/CollectBidi";
    let told = story
        .until(|told| {
            told.one(parent.trace_id, "loaded")?;
            let stream = told.one(parent.trace_id, name)?;
            ensure!(text(stream, "rpc.response.status_code")? == "OK");
            Ok(())
        })
        .await;
    let stream = told.one(parent.trace_id, name).unwrap();
    let mut messages = told.0.iter().filter(|span| span.name == "batch message");
    let stored = told.one(parent.trace_id, "stored").unwrap();
    assert!(
        messages
            .clone()
            .any(|span| span.span_id == stored.parent_span_id)
    );
    assert!(messages.all(|span| span.parent_span_id == stream.span_id));
    let messages = told.0.iter().filter(|span| span.name == "batch message");
    assert_eq!(messages.count(), 2, "{}", told.list());
    let heard = gateway.heard();
    let lines = heard.iter();
    let lines = lines.filter(|line| line.contains(r#""request_id":"a-stream""#));
    let lines: Vec<_> = lines.collect();
    // Two for the stream and four for each batch of one event.
    assert_eq!(lines.len(), 10, "{lines:?}");
    let named = format!(r#""trace_id":"{}","span_id":""#, hex(&stream.trace_id));
    assert!(lines.iter().all(|line| line.contains(&named)), "{lines:?}");
}

#[tokio::test]
async fn a_failure_is_recorded_although_nobody_asked_for_a_trace() {
    let story = Story::begin().await;
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = start("dev", dir.path(), &story.settings(), &[]).await;
    let outage = Outage::of_the_store(dir.path());
    post(&endpoints, &[], track("f")).await;
    // The end of the program ends the attempts.
    let http = clients::Http::new(&endpoints);
    let since = Instant::now();
    while http.get("/ready").await.unwrap().1["degraded"]["store"].is_null() {
        assert!(since.elapsed() < TOLD_WITHIN);
        sleep(Duration::from_millis(20)).await;
    }
    outage.end();
    let written = |told: &Told| {
        let write = told.0.iter().find(|span| span.name == "store write");
        write.cloned().context("no span of a write")
    };
    let told = story.until(|told| written(told).map(drop)).await;
    let write = written(&told).unwrap();
    assert!(!write.events.is_empty());
    assert_eq!(write.events[0].name, "retry");
    let kinds = write.events[0]
        .attributes
        .iter()
        .map(|one| one.key.as_str());
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["error.type", "eventkit.attempt"]
    );
    drop(gateway);
}
