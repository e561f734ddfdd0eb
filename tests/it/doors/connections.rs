//! Connections: deadlines, limits, HTTP/2 and the drain.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::*;

/// Longer than any test takes.
const HOUR: Duration = Duration::from_secs(3_600);

fn impatient() -> IngressConfig {
    IngressConfig {
        header_timeout: Duration::from_millis(600),
        idle_timeout: Duration::from_millis(1_200),
        ..config()
    }
}

/// Waits until the server closes the connection; fails after [`within`]'s time.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    drop(within(stream.read_to_end(&mut rest)).await);
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let gateway = gateway_with(impatient()).await;
    let settings: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let openings: &[&[u8]] = &[
        b"",
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        settings,
        b"POST /collect HTTP/1.1\r\nHost:",
    ];
    for addr in [gateway.http, gateway.grpc] {
        let closed = openings.iter().map(async |opening| {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(opening).await.unwrap();
            closed(&mut stream).await;
        });
        futures::future::join_all(closed).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_request() {
    let gateway = gateway_with(impatient()).await;
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let gateway = gateway_with(impatient()).await;
    let (mut sender, connection) = http2(gateway.http).await;
    let connection = gateway.tasks.spawn("client", connection);
    let request = || get(gateway.http, "/health");
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.status(), 200);

    // A stream that stays open keeps its connection: health's Watch has nothing to say for a long time.
    let channel = super::grpc::channel(gateway.http).await;
    let mut watch = tonic_health::pb::health_client::HealthClient::new(channel)
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    within(watch.message()).await.unwrap().unwrap();

    within(connection).await.unwrap();
    tokio::time::sleep(impatient().idle_timeout * 2).await;
    gateway.health.not_ready("log", Some("full".into()));
    assert!(within(watch.message()).await.unwrap().is_some());
}

/// It says it understands HTTP/2, asks for something, and is never heard of again.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    const PING: u8 = 6;
    let mut config = config();
    (config.header_timeout, config.idle_timeout) = (HOUR, HOUR);
    config.guard.keepalive_interval = Duration::from_millis(100);
    config.guard.keepalive_timeout = Duration::from_millis(1_500);
    let gateway = gateway_with(config).await;
    // Who answers stays.
    let (mut sender, connection) = http2(gateway.http).await;
    drop(gateway.tasks.spawn("client", connection));
    let mut silent = TcpStream::connect(gateway.http).await.unwrap();
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    silent.write_all(settings).await.unwrap();
    let mut frames = Vec::new();
    drop(within(silent.read_to_end(&mut frames)).await);
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = frames[..] {
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        kinds.push(kind);
        frames.drain(..(9 + length).min(frames.len()));
    }
    assert!(kinds.contains(&PING), "{kinds:?}");
    let answer = within(sender.send_request(get(gateway.http, "/health"))).await;
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn an_old_connection_takes_nothing_new_and_finishes_what_is_under_way() {
    let mut config = config();
    config.guard.connection_age_max = Some(Duration::from_secs(1));
    let gateway = gateway_with(config).await;
    // A stream that is under way goes on when its connection is old; the next one has another connection.
    let mut client = super::grpc::client(gateway.http).await;
    let (batches, receiver) = tokio::sync::mpsc::channel(1);
    let batches_of = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = client.collect_bidi(batches_of).await.unwrap();
    let mut answers = answers.into_inner();
    assert!(within(answers.message()).await.unwrap().is_some());

    let mut old = TcpStream::connect(gateway.http).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    old.write_all(request).await.unwrap();
    let mut byte = [0];
    within(old.read_exact(&mut byte)).await.unwrap();
    closed(&mut old).await;
    let (mut sender, connection) = http2(gateway.http).await;
    let connection = gateway.tasks.spawn("client", connection);
    let answer = sender.send_request(get(gateway.http, "/health")).await;
    assert_eq!(answer.unwrap().status(), 200);
    within(connection).await.unwrap();
    let refused = sender.send_request(get(gateway.http, "/health")).await;
    assert!(refused.is_err());

    let event = eventkit::proto::v1::Event {
        message_id: "late".into(),
        ..Default::default()
    };
    let batch = eventkit::proto::v1::CollectBidiRequest {
        batch_number: 1,
        events: vec![event],
        ..Default::default()
    };
    within(batches.send(batch)).await.unwrap();
    assert!(within(answers.message()).await.unwrap().is_some());
    drop(batches);
    assert!(within(answers.message()).await.unwrap().is_none());
    assert_eq!(gateway.stored().len(), 1);
}

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn http2(addr: SocketAddr) -> (Sender, impl Future<Output = hyper::Result<()>>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap()
}

fn get(addr: SocketAddr, path: &str) -> ::http::Request<Full<Bytes>> {
    ::http::Request::get(format!("http://{addr}{path}"))
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn a_grpc_body_that_stalls_ends_with_a_status() {
    let gateway = gateway_with(IngressConfig {
        body_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    let stream = TcpStream::connect(gateway.grpc).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    drop(gateway.tasks.spawn("client", connection));
    let stalled = futures::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
    let path = "/eventkit.v1.IngestService/Collect";
    let request = ::http::Request::post(format!("http://{}{path}", gateway.grpc))
        .header("content-type", "application/grpc")
        .body(http_body_util::StreamBody::new(stalled))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(details.error_info().unwrap().reason, "REQUEST_TIMEOUT");
}

#[tokio::test]
async fn http2_posts_are_answered_early_and_completely() {
    let gateway = gateway().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    for (path, bytes, status) in [
        ("/collect", 2, 400),
        ("/nowhere", 60_000, 404),
        ("/collect", 200_000, 413),
    ] {
        for _ in 0..10 {
            let request = ::http::Request::post(format!("http://{}{path}", gateway.http))
                .body(Full::from(vec![b'x'; bytes]))
                .unwrap();
            let response = client.request(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{path} {bytes}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(b"{\"success\":false"), "{body:?}");
        }
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_for_it() {
    let gateway = gateway_with(IngressConfig {
        // Each of the two listeners holds a place while it waits; so one of them is left.
        connections_max: 2,
        ..config()
    })
    .await;
    let mut first = TcpStream::connect(gateway.http).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    first.write_all(request).await.unwrap();
    let mut byte = [0];
    within(first.read_exact(&mut byte)).await.unwrap();
    // Accepted by the kernel, not by us: it gets its answer as soon as the first one goes.
    let second = gateway.get("/health");
    tokio::pin!(second);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), second.as_mut())
            .await
            .is_err()
    );
    drop(first);
    assert_eq!(within(second).await.status(), 200);
}

#[tokio::test]
async fn a_drain_finishes_what_was_begun_and_takes_nothing_new() {
    let gateway = gateway().await;
    let body = r#"{"messageId":"last"}"#;
    let (start, end) = body.split_at(5);
    let mut slow = TcpStream::connect(gateway.http).await.unwrap();
    let head = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{start}",
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let idle = TcpStream::connect(gateway.http).await.unwrap();
    // The request is under way once its bytes are held.
    let under_way = format!("eventkit_ingress_in_flight_bytes {}", body.len());
    within(async {
        while !gateway.metrics.render().contains(&under_way) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gateway.drain.cancel();
    slow.write_all(end.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut slow).await.status(), 202);
    drop(idle);
    within(gateway.tasks.join()).await;
    assert!(TcpStream::connect(gateway.http).await.is_err());
    assert_eq!(gateway.stored().len(), 1);
}

#[tokio::test]
async fn a_drain_drops_who_does_not_finish() {
    let gateway = gateway().await;
    let mut stalled = TcpStream::connect(gateway.http).await.unwrap();
    let head = "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{";
    stalled.write_all(head.as_bytes()).await.unwrap();
    let under_way = "eventkit_ingress_in_flight_bytes 10";
    within(async {
        while !gateway.metrics.render().contains(under_way) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    gateway.drain.cancel();
    within(gateway.tasks.join()).await;
}
