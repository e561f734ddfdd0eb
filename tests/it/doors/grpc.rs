//! The gRPC door, on both ports.

use bytes::Bytes;
use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use eventkit::proto::v1::{CollectRequest, Event, EventStatus};
use prost::Message as _;
use prost_types::{Struct, Timestamp};
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::*;

pub(crate) async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub(crate) async fn client(addr: SocketAddr) -> IngestServiceClient<Channel> {
    IngestServiceClient::new(channel(addr).await)
}

pub(crate) fn event(id: &str) -> Event {
    Event {
        message_id: id.into(),
        r#type: "track".into(),
        ..Default::default()
    }
}

pub(crate) fn batch(events: Vec<Event>) -> CollectRequest {
    CollectRequest {
        events,
        ..Default::default()
    }
}

/// Code, reason and whether a retry is invited.
pub(crate) fn error(status: &Status) -> (Code, String, bool) {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "eventkit.v1");
    let retry = details.retry_info().is_some();
    (status.code(), info.reason.clone(), retry)
}

#[tokio::test]
async fn a_batch_is_collected_on_both_ports() {
    let gateway = gateway().await;
    for (n, addr) in [gateway.http, gateway.grpc].into_iter().enumerate() {
        let mut request = Request::new(CollectRequest {
            events: vec![event(&format!("m{n}")), event(""), event(&format!("m{n}"))],
            stream: "clicks".into(),
            sent_at: Some(Timestamp {
                seconds: 1,
                nanos: 0,
            }),
        });
        request
            .metadata_mut()
            .insert("x-request-id", "req-7".parse().unwrap());
        let response = client(addr).await.collect(request).await.unwrap();
        assert_eq!(response.metadata().get("x-request-id").unwrap(), "req-7");
        let answer = response.into_inner();
        assert_eq!(
            (answer.accepted, answer.duplicate, answer.rejected),
            (2, 1, 0)
        );
        assert_eq!(answer.request_id, "req-7");
        assert_eq!(answer.results[1].message_id.len(), 36);
        assert_eq!(answer.results[2].status(), EventStatus::Duplicate);
    }
    let stored = gateway.stored();
    assert_eq!(stored.len(), 4);
    assert!(stored.iter().all(|(_, stream)| stream == "clicks"));
    let received = "eventkit_events_received_total{protocol=\"grpc\"} 6";
    assert!(gateway.metrics.render().contains(received));
}

#[tokio::test]
async fn a_bad_event_costs_no_other() {
    // Sent as bytes: a client's own types could not write an event that does not decode.
    let gateway = gateway().await;
    let conflict = Event {
        properties: Some(Struct::default()),
        properties_json: Bytes::from_static(b"{}"),
        ..event("conflict")
    };
    let large = Event {
        properties_json: vec![b' '; 5_000].into(),
        ..event("large")
    };
    let deep = Event {
        properties_json: "[".repeat(20).into(),
        ..event("deep")
    };
    let not_utf8 = Event {
        context_json: Bytes::from_static(b"\xff"),
        ..event("latin")
    };
    let not_json = Event {
        context_json: Bytes::from_static(b"{nope"),
        ..event("for the worker")
    };
    let events = [
        event("good").encode_to_vec(),
        b"\x0a\x05ab".to_vec(),
        conflict.encode_to_vec(),
        large.encode_to_vec(),
        deep.encode_to_vec(),
        not_utf8.encode_to_vec(),
        event(&"m".repeat(257)).encode_to_vec(),
        not_json.encode_to_vec(),
    ];
    let raw = eventkit::proto::server::CollectRequest {
        events: events.into_iter().map(Bytes::from).collect(),
        ..Default::default()
    };
    let mut grpc = tonic::client::Grpc::new(channel(gateway.grpc).await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<_, eventkit::proto::v1::CollectResponse>::default();
    let path = ::http::uri::PathAndQuery::from_static("/eventkit.v1.IngestService/Collect");
    let answer = grpc
        .unary(Request::new(raw), path, codec)
        .await
        .unwrap()
        .into_inner();
    let found: Vec<_> = answer
        .results
        .iter()
        .map(|result| (result.message_id.as_str(), result.code.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("good", ""),
            ("", "invalid_protobuf"),
            ("conflict", "payload_conflict"),
            ("", "event_too_large"),
            ("deep", "too_deep"),
            ("latin", "invalid_utf8"),
            ("", "message_id_too_long"),
            ("for the worker", ""),
        ]
    );
    assert_eq!(gateway.stored().len(), 2);
}

#[tokio::test]
async fn an_empty_request_is_ok() {
    let gateway = gateway().await;
    let answer = client(gateway.grpc)
        .await
        .collect(batch(vec![]))
        .await
        .unwrap();
    assert!(answer.into_inner().results.is_empty());
    assert!(gateway.stored().is_empty());
}

#[tokio::test]
async fn whole_requests_fail_with_a_reason() {
    let gateway = gateway().await;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let large = Event {
        properties_json: vec![b' '; 70_000].into(),
        ..event("m")
    };
    let cases = [
        (
            CollectRequest {
                stream: "../x".into(),
                ..batch(vec![event("m")])
            },
            (Code::InvalidArgument, "INVALID_STREAM"),
        ),
        (
            CollectRequest {
                sent_at: at(i64::MAX),
                ..batch(vec![event("m")])
            },
            (Code::InvalidArgument, "INVALID_TIMESTAMP"),
        ),
        (
            batch(vec![event("m"); 101]),
            (Code::ResourceExhausted, "TOO_MANY_EVENTS"),
        ),
        (
            batch(vec![large]),
            (Code::ResourceExhausted, "BODY_TOO_LARGE"),
        ),
    ];
    for (request, (code, reason)) in cases {
        let mut client = client(gateway.grpc).await;
        let status = client.collect(request).await.unwrap_err();
        assert_eq!(error(&status), (code, reason.into(), false), "{status:?}");
        let named = status.get_error_details().bad_request().is_some();
        assert_eq!(named, code == Code::InvalidArgument);
    }
    assert!(gateway.stored().is_empty());
}

#[tokio::test]
async fn a_bomb_is_too_large_after_decompression() {
    let gateway = gateway().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = client(gateway.grpc)
            .await
            .send_compressed(encoding)
            .accept_compressed(encoding);
        let good = client.collect(batch(vec![event("m")])).await.unwrap();
        assert_eq!(
            good.metadata().get("grpc-encoding").unwrap(),
            &encoding.to_string()
        );
        let large = Event {
            properties_json: vec![b' '; 1_000_000].into(),
            ..event("large")
        };
        let status = client.collect(batch(vec![large])).await.unwrap_err();
        let expected = (Code::ResourceExhausted, "BODY_TOO_LARGE".into(), false);
        assert_eq!(error(&status), expected, "{encoding}: {status:?}");
    }
}

#[tokio::test]
async fn what_passes_invites_a_retry() {
    let gateway = gateway().await;
    gateway.wal.close().await;
    let mut client = client(gateway.grpc).await;
    let status = client.collect(batch(vec![event("m")])).await.unwrap_err();
    assert_eq!(error(&status), (Code::Unavailable, "DRAINING".into(), true));

    let tight = gateway_with(IngressConfig {
        in_flight_bytes_max: 10,
        ..config()
    })
    .await;
    let mut client = super::grpc::client(tight.grpc).await;
    let status = client.collect(batch(vec![event("m")])).await.unwrap_err();
    assert_eq!(
        error(&status),
        (Code::Unavailable, "OVERLOADED".into(), true)
    );
    let empty = client.collect(batch(vec![])).await;
    assert!(empty.is_ok(), "what was held was given back: {empty:?}");
}

#[tokio::test]
async fn a_deadline_that_passed_stores_nothing() {
    let gateway = gateway().await;
    // A client with a clock of its own might answer in the server's place: gRPC-web by hand has none.
    let headers = "Content-Type: application/grpc-web+proto\r\ngrpc-timeout: 0n\r\n";
    let body = frame(&batch(vec![event("m")]).encode_to_vec());
    let answer = gateway
        .post("/eventkit.v1.IngestService/Collect", headers, body)
        .await;
    let code = i32::from(Code::DeadlineExceeded).to_string();
    assert_eq!(
        answer.header("grpc-status"),
        Some(code.as_str()),
        "{answer:?}"
    );
    assert!(gateway.stored().is_empty());
}

#[tokio::test]
async fn unknown_services_and_methods_are_named_so() {
    let gateway = gateway().await;
    for addr in [gateway.http, gateway.grpc] {
        for path in ["/no.Such/Method", "/eventkit.v1.IngestService/Nothing"] {
            let mut grpc = tonic::client::Grpc::new(channel(addr).await);
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<CollectRequest, CollectRequest>::default();
            let path = ::http::uri::PathAndQuery::from_static(path);
            let request = Request::new(CollectRequest::default());
            let status = grpc.unary(request, path, codec).await.unwrap_err();
            assert_eq!(
                error(&status),
                (Code::Unimplemented, "NOT_FOUND".into(), false)
            );
        }
    }
}

/// A gRPC frame.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

#[tokio::test]
async fn browsers_speak_grpc_web_over_http_1() {
    let gateway = gateway().await;
    let headers = "Content-Type: application/grpc-web+proto\r\nOrigin: https://a.example\r\n";
    let path = "/eventkit.v1.IngestService/Collect";
    let body = frame(&batch(vec![event("web")]).encode_to_vec());
    let answer = gateway.post(path, headers, body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a.example")
    );
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("grpc-status:0"), "{text}");
    assert_eq!(gateway.stored(), [("web".into(), "default".into())]);

    let garbage = gateway.post(path, headers, frame(b"\x0a\x05ab")).await;
    let all = format!("{garbage:?}");
    assert!(
        all.contains("grpc-status: 3") || all.contains("grpc-status:3"),
        "{all}"
    );
}

#[tokio::test]
async fn the_wrong_protocol_gets_an_answer_that_can_be_read() {
    let gateway = gateway().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = send_to(gateway.grpc, request.as_bytes()).await;
    assert_eq!(answer.error(), (404, "not_found".into()));
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .contains("gRPC alone")
    );

    let headers = "Content-Type: application/grpc\r\n";
    let answer = gateway
        .post("/eventkit.v1.IngestService/Collect", headers, "")
        .await;
    assert_eq!(answer.error(), (404, "not_found".into()));
    assert!(
        answer.json()["message"]
            .as_str()
            .unwrap()
            .contains("HTTP/2")
    );
}
