//! What one address may have: half of the connections and, without a key, half of what may be under way and of the log's queue; a key
//! has shares of its own. Whoever takes all of his is in nobody else's way. Clients of two addresses are told apart by where on loopback they come from.

use std::net::IpAddr;

use eventkit::ingress::auth::Strangers;
use eventkit::proto::v1::CollectBidiRequest;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::grpc::{client, error, event};
use super::keys::{APP, SHOP, entry, keys_with_shares};
use super::streams::{gated_wal, until};
use super::*;

const GREEDY: [u8; 4] = [127, 0, 0, 2];
const MODEST: [u8; 4] = [127, 0, 0, 3];

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::from(from), 0).into()).unwrap();
    within(socket.connect(to)).await.unwrap()
}

async fn ask(from: [u8; 4], to: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(from, to).await;
    drop(stream.write_all(request.as_bytes()).await);
    read_answer(&mut stream).await
}

fn post(header: &str, body: &str) -> String {
    format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Begins requests whose bodies do not end, until so many bytes of them are held.
async fn stall(
    gateway: &Gateway,
    from: [u8; 4],
    header: &str,
    count: usize,
    bytes: usize,
) -> Vec<TcpStream> {
    let mut open = Vec::new();
    let head =
        format!("POST /collect HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {bytes}\r\n\r\n{{");
    for _ in 0..count {
        let mut stream = connect(from, gateway.http).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let held = format!("eventkit_ingress_in_flight_bytes {}\n", count * bytes);
    until("the bodies are under way", || {
        gateway.metrics.render().contains(&held)
    })
    .await;
    open
}

#[tokio::test]
async fn one_address_leaves_connections_for_all_others() {
    // Each of the two listeners holds a place while it waits.
    let gateway = gateway_with(IngressConfig {
        connections_max: 10,
        ..config()
    })
    .await;
    let health = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(GREEDY, gateway.http).await;
        stream.write_all(health.as_bytes()).await.unwrap();
        let mut byte = [0];
        within(stream.read_exact(&mut byte)).await.unwrap();
        open.push(stream);
    }
    let mut beyond = connect(GREEDY, gateway.http).await;
    assert_eq!(read_to_end(&mut beyond).await, b"");
    let answer = ask(MODEST, gateway.http, &post("", "{}")).await;
    assert_eq!(answer.status(), 202);
}

#[tokio::test]
async fn one_address_leaves_room_under_way_for_all_others() {
    let mut config = config();
    config.in_flight_bytes_max = 40_000;
    config.guard.address_in_flight_bytes_max = 20_000;
    let gateway = gateway_with(config).await;
    let greedy = stall(&gateway, GREEDY, "", 2, 10_000).await;
    let answer = ask(GREEDY, gateway.http, &post("", "{}")).await;
    assert_eq!(answer.error(), (503, "overloaded".into()));
    let answer = ask(MODEST, gateway.http, &post("", "{}")).await;
    assert_eq!(answer.status(), 202);
    drop(greedy);
    until("the bodies are given up", || {
        gateway
            .metrics
            .render()
            .contains("eventkit_ingress_in_flight_bytes 0\n")
    })
    .await;
    let answer = ask(GREEDY, gateway.http, &post("", "{}")).await;
    assert_eq!(answer.status(), 202);
}

#[tokio::test]
async fn a_key_has_a_share_of_its_own_and_none_of_its_address() {
    let mut config = config();
    config.in_flight_bytes_max = 100_000;
    config.guard.address_in_flight_bytes_max = 20_000;
    let both = vec![entry(SHOP, "shop"), entry(APP, "app")];
    let keys = keys_with_shares(both, 40_000, Strangers::Welcome);
    let gateway = guarded_gateway(memory_wal(4), config, keys).await;
    let (shop, app) = (
        format!("X-Write-Key: {SHOP}\r\n"),
        format!("X-Write-Key: {APP}\r\n"),
    );
    // More than its address may have, and all that the key may have.
    let _greedy = stall(&gateway, GREEDY, &shop, 4, 10_000).await;
    let in_body = format!(r#"{{"type":"track","userId":"u","event":"e","writeKey":"{SHOP}"}}"#);
    for (from, header, body, status) in [
        (GREEDY, shop.as_str(), "{}", 503),
        (MODEST, shop.as_str(), "{}", 503),
        // Until its body is read it is a stranger, and then it is not.
        (MODEST, "", in_body.as_str(), 503),
        (GREEDY, app.as_str(), "{}", 202),
        (GREEDY, "", "{}", 202),
    ] {
        let answer = ask(from, gateway.http, &post(header, body)).await;
        assert_eq!(answer.status(), status, "{from:?} {header} {answer:?}");
    }
}

#[tokio::test]
async fn health_and_readiness_are_told_while_everything_else_is_shed() {
    let mut config = config();
    config.in_flight_bytes_max = 20_000;
    let gateway = gateway_with(config).await;
    let _greedy = stall(&gateway, GREEDY, "", 2, 10_000).await;
    let answer = ask(MODEST, gateway.http, &post("", "{}")).await;
    assert_eq!(answer.error(), (503, "overloaded".into()));
    for path in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    let channel = super::grpc::channel(gateway.grpc).await;
    let asked = tonic_health::pb::HealthCheckRequest::default();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    within(health.check(asked)).await.unwrap();
}

#[tokio::test]
async fn one_key_leaves_half_of_the_logs_queue_for_all_others() {
    /// More than half of the queue of 4,096 and less than all, however many the log takes in its first commit.
    const STREAMS: usize = 62;
    let both = vec![entry(SHOP, "shop"), entry(APP, "app")];
    // Bytes are not what it has too much of.
    let keys = keys_with_shares(both, 8 << 20, Strangers::Refused);
    let (wal, log) = gated_wal();
    let room = IngressConfig {
        in_flight_bytes_max: 16 << 20,
        ..config()
    };
    let gateway = guarded_gateway(wal, room, keys).await;
    log.set(true);
    let mut client = client(gateway.grpc).await;
    let mut open = Vec::new();
    for stream in 0..STREAMS {
        let (batches, incoming) = mpsc::channel(64);
        for number in 1..=64 {
            let message = CollectBidiRequest {
                batch_number: number,
                events: vec![event(&format!("{stream}-{number}"))],
                ..Default::default()
            };
            batches.send(message).await.unwrap();
        }
        let mut request = Request::new(ReceiverStream::new(incoming));
        let metadata = request.metadata_mut();
        metadata.insert("x-write-key", SHOP.parse().unwrap());
        match client.collect_bidi(request).await {
            Ok(answers) => open.push((batches, answers)),
            // It has as many as it may have already.
            Err(status) => {
                assert_eq!(error(&status).1, "OVERLOADED");
                break;
            }
        }
    }
    let shed = r#"eventkit_ingress_requests_shed_total{code="overloaded"}"#;
    let is_shed = |line: &str| line.starts_with(shed) && !line.ends_with(" 0");
    until("the key has all that it may have", || {
        gateway.metrics.render().lines().any(is_shed)
    })
    .await;
    let (shop, app) = (
        format!("X-Write-Key: {SHOP}\r\n"),
        format!("X-Write-Key: {APP}\r\n"),
    );
    let answer = gateway.post("/collect", &shop, "{}").await;
    assert_eq!(answer.error(), (503, "overloaded".into()));
    let asked = gateway.post("/collect", &app, r#"{"type":"track","event":"e"}"#);
    let received = r#"eventkit_events_received_total{protocol="http"} 1"#;
    let goes_on = async {
        until(received, || gateway.metrics.render().contains(received)).await;
        log.set(false);
    };
    let (answer, ()) = tokio::join!(asked, goes_on);
    assert_eq!(answer.status(), 202, "{answer:?}");
    let answer = gateway.post("/collect", &shop, "{}").await;
    assert_eq!(
        answer.status(),
        202,
        "its places are free again: {answer:?}"
    );
}
