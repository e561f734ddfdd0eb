//! The lines of one request: which, in which order, with which fields, and with nothing personal.

use std::io;
use std::sync::{Mutex, PoisonError};

use eventkit::proto::v1::{CollectBidiRequest, CollectRequest, CollectStreamRequest, Event};
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Log lines in memory.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// What a request's lines say, without its time: message, level and fields.
    fn taken(&self) -> Vec<Value> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Listens to this thread: the test's runtime has no other.
fn listen(level: tracing::Level) -> (Lines, tracing::subscriber::DefaultGuard) {
    crate::logs::several_subscribers();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_writer(lines.clone())
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

fn ours(lines: &[Value]) -> Vec<&Value> {
    lines
        .iter()
        .filter(|line| {
            line["target"]
                .as_str()
                .unwrap()
                .starts_with("eventkit::ingress")
        })
        .collect()
}

const MARKED: &str = "PERSONAL";

#[tokio::test]
async fn nothing_that_a_sdk_says_is_in_the_lines_wherever_it_says_it() {
    let (lines, _guard) = listen(tracing::Level::DEBUG);
    let gateway = gateway().await;
    let one = format!(r#"{{"userId":"{MARKED}","event":"{MARKED}","writeKey":"{MARKED}"}}"#);
    let many = format!(r#"{{"batch":[{one}],"series":["{MARKED}"],"writeKey":"{MARKED}"}}"#);
    let headers = format!(
        "Authorization: Basic {MARKED}\r\nX-Write-Key: {MARKED}\r\nUser-Agent: {MARKED}\r\nOrigin: https://{MARKED}\r\n\
         X-Forwarded-For: {MARKED}\r\nAnonymousId: {MARKED}\r\n"
    );
    for path in [
        "/t",
        "/v1/track",
        "/b",
        "/v1/m",
        "/beacon/v1/batch",
        "/api/s/track",
        "/v1/x",
    ] {
        for body in [&one, &many] {
            let path = format!("{path}?writeKey={MARKED}");
            gateway.post(&path, &headers, body).await;
        }
    }
    for path in [
        format!("/v1/projects/{MARKED}/settings"),
        format!("/sourceConfig?writeKey={MARKED}"),
        format!("/pixel/v1/track?userId={MARKED}&event={MARKED}&writeKey={MARKED}"),
        format!("/pixel/v1/track?data={MARKED}"),
    ] {
        gateway.get(&path).await;
    }
    let taken = lines.taken();
    assert!(ours(&taken).len() > 18 * 2, "{taken:?}");
    assert!(!Value::from(taken).to_string().contains(MARKED));
}

#[tokio::test]
async fn one_event_has_its_five_lines_and_nothing_personal_is_in_them() {
    let (lines, _guard) = listen(tracing::Level::DEBUG);
    let gateway = gateway().await;
    let body = format!(
        r#"{{"type":"track","messageId":"{MARKED}","userId":"{MARKED}","event":"{MARKED}","{MARKED}":1}}"#
    );
    let headers = format!("X-Request-Id: req-1\r\nAuthorization: Bearer {MARKED}\r\n");
    let query = format!("/collect/clicks?writeKey={MARKED}");
    assert_eq!(gateway.post(&query, &headers, body).await.status(), 202);
    let http = lines.taken();

    let event = Event {
        message_id: format!("{MARKED}-2"),
        user_id: MARKED.into(),
        r#type: "track".into(),
        properties_json: format!("{{\"{MARKED}\":1}}").into(),
        ..Default::default()
    };
    let mut request = tonic::Request::new(CollectRequest {
        events: vec![event],
        stream: "clicks".into(),
        sent_at: None,
    });
    let metadata = request.metadata_mut();
    metadata.insert("x-request-id", "req-1".parse().unwrap());
    metadata.insert("authorization", MARKED.parse().unwrap());
    let mut client = super::grpc::client(gateway.http).await;
    client.collect(request).await.unwrap();
    let grpc = lines.taken();

    for (taken, path) in [
        (http, "/collect/clicks"),
        (grpc, "/eventkit.v1.IngestService/Collect"),
    ] {
        let ours = ours(&taken);
        assert!(!Value::from(taken.clone()).to_string().contains(MARKED));
        let told: Vec<_> = ours
            .iter()
            .map(|line| {
                assert_eq!(line["request_id"], "req-1", "{line}");
                assert_eq!(line["stream"], "clicks", "{line}");
                (
                    line["level"].as_str().unwrap(),
                    line["message"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("INFO", "request_received"),
                ("DEBUG", "event_received"),
                ("DEBUG", "event_adapted"),
                ("DEBUG", "event_sequenced"),
                ("INFO", "request_completed"),
            ]
        );
        assert_eq!(ours[0]["method"], "POST");
        assert_eq!(ours[0]["path"], path);
        assert!(ours[0]["event_type"].is_string());
        assert_eq!(ours[1]["event_type"], "track");
        assert!(ours[3]["partition"].is_u64());
        assert!(ours[4]["status_code"].is_u64() && ours[4]["duration_ms"].is_f64());
    }
}

#[tokio::test]
async fn a_stream_and_an_envelope_have_their_lines_and_nothing_personal_is_in_them() {
    let (lines, _guard) = listen(tracing::Level::DEBUG);
    let gateway = gateway().await;
    let event = || Event {
        message_id: MARKED.into(),
        r#type: MARKED.into(),
        ..Default::default()
    };
    let mut client = super::grpc::client(gateway.http).await;
    let batches = [1, 2].map(|batch_number| CollectBidiRequest {
        batch_number,
        events: vec![event()],
        ..Default::default()
    });
    let answers = client.collect_bidi(futures::stream::iter(batches)).await;
    let mut answers = answers.unwrap().into_inner();
    while within(answers.message()).await.unwrap().is_some() {}
    let bidi = lines.taken();
    let messages = [(), ()].map(|()| CollectStreamRequest {
        events: vec![event()],
        ..Default::default()
    });
    let messages = futures::stream::iter(messages);
    client.collect_stream(messages).await.unwrap();
    let client_stream = lines.taken();
    let body = format!(
        r#"{{"batch":[{{"type":"{MARKED}"}},{{"userId":"{MARKED}"}}],"writeKey":"{MARKED}"}}"#
    );
    assert_eq!(gateway.post("/v1/batch", "", body).await.status(), 200);
    let segment = lines.taken();
    for (taken, path, batches) in [
        (bidi, "/eventkit.v1.IngestService/CollectBidi", 2),
        (client_stream, "/eventkit.v1.IngestService/CollectStream", 2),
        (segment, "/v1/batch", 0),
    ] {
        assert!(!Value::from(taken.clone()).to_string().contains(MARKED));
        let ours = ours(&taken);
        let told = |message: &str| {
            ours.iter()
                .filter(|line| line["message"] == message)
                .count()
        };
        assert_eq!(
            (told("request_received"), told("request_completed")),
            (1, 1),
            "{path}"
        );
        assert_eq!(
            (told("batch_received"), told("event_sequenced")),
            (batches, 2),
            "{path}"
        );
        let ids: Vec<_> = ours
            .iter()
            .map(|line| line["request_id"].as_str().unwrap())
            .collect();
        assert!(
            ids.windows(2).all(|pair| pair[0] == pair[1]),
            "{path}: {ids:?}"
        );
        assert!(ours.iter().all(|line| line["stream"].is_string()), "{path}");
        let (first, last) = (ours[0], ours[ours.len() - 1]);
        assert_eq!(
            (&first["message"], &first["path"]),
            (&"request_received".into(), &path.into())
        );
        assert_eq!(
            (&last["message"], &last["status_code"]),
            (&"request_completed".into(), &200.into())
        );
    }
}

#[tokio::test]
async fn names_that_are_none_stay_out_of_the_log() {
    let (lines, _guard) = listen(tracing::Level::DEBUG);
    let gateway = gateway().await;
    for path in ["/collect/a%20PERSONAL", "/PERSONAL", "/collect/PERSONAL/x"] {
        let answer = gateway
            .post(path, "X-Request-Id: PERSONAL x\r\n", "{}")
            .await;
        assert!([400, 404].contains(&answer.status()));
    }
    let body = r#"{"type":"PERSONAL","PERSONAL":tru}"#;
    gateway.post("/collect", "", body).await;
    let taken = Value::from(lines.taken()).to_string();
    assert!(taken.contains("request_completed"), "{taken}");
    assert!(!taken.contains(MARKED), "{taken}");
}

#[tokio::test]
async fn what_never_reaches_a_handler_has_its_lines_too() {
    let (lines, _guard) = listen(tracing::Level::INFO);
    let gateway = gateway().await;
    let mut told = Vec::new();
    let mut tell = |lines: Vec<Value>| {
        let ours = ours(&lines);
        let [first, last] = ours.as_slice() else {
            panic!("not two lines: {ours:?}")
        };
        assert_eq!(first["request_id"], last["request_id"]);
        assert_eq!(
            (&first["message"], &last["message"]),
            (&"request_received".into(), &"request_completed".into())
        );
        let text = |field: &str| first[field].as_str().unwrap().to_owned();
        told.push((text("method"), text("path"), last["status_code"].as_u64()));
    };
    gateway.post("/PERSONAL", "", "{}").await;
    tell(lines.taken());
    gateway.get("/collect").await;
    tell(lines.taken());
    let request = "PERSONAL / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    gateway.send(request).await;
    tell(lines.taken());
    let headers = "Content-Type: application/grpc\r\n";
    gateway.post("/PERSONAL", headers, "").await;
    tell(lines.taken());
    let mut client = super::grpc::client(gateway.http).await;
    let large = Event {
        properties_json: vec![b' '; 70_000].into(),
        ..Default::default()
    };
    let request = CollectRequest {
        events: vec![large],
        ..Default::default()
    };
    client.collect(request).await.unwrap_err();
    tell(lines.taken());
    let channel = super::grpc::channel(gateway.http).await;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<CollectRequest, CollectRequest>::default();
    let path = ::http::uri::PathAndQuery::from_static("/PERSONAL/PERSONAL");
    let request = tonic::Request::new(CollectRequest::default());
    grpc.unary(request, path, codec).await.unwrap_err();
    tell(lines.taken());
    let collect = "/eventkit.v1.IngestService/Collect";
    let expected = [
        ("POST", "other", 404),
        ("GET", "other", 405),
        ("other", "other", 404),
        ("POST", "other", 404),
        ("POST", collect, 413),
        ("POST", "other", 404),
    ];
    let expected =
        expected.map(|(method, path, status)| (method.to_owned(), path.to_owned(), Some(status)));
    assert_eq!(told, expected);
}
