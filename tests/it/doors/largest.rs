//! The largest body, where no more than that may be under way: alone it always fits, however it comes. Were it "too much for now" its
//! client would send it again for ever.

use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use eventkit::proto::v1::{CollectBidiRequest, CollectRequest, CollectStreamRequest};
use futures::StreamExt as _;
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::codec::CompressionEncoding;

use super::grpc::{channel, client, event, frame};
use super::streams::{gated, until};
use super::*;
use crate::bad_input::wire::{call, http2, pieces, whole};

const LARGEST: usize = 64 * 1024;

fn tight_config() -> IngressConfig {
    IngressConfig {
        body_bytes_max: LARGEST,
        in_flight_bytes_max: LARGEST,
        event_bytes_max: LARGEST,
        ..config()
    }
}

async fn tight() -> Gateway {
    gateway_with(tight_config()).await
}

/// A message of a client stream with one event.
fn message(id: &str, bytes: usize) -> CollectStreamRequest {
    exactly(bytes, |name| CollectStreamRequest {
        events: vec![named(id, name)],
        ..Default::default()
    })
}

/// Text that packs badly.
fn noise(bytes: usize) -> String {
    let mut rng = StdRng::seed_from_u64(7);
    let printable = || char::from(rng.random_range(b'#'..b'['));
    std::iter::repeat_with(printable).take(bytes).collect()
}

/// A message of this many bytes more or less, in which the name of an event is as long as it takes.
fn exactly<M: Message>(bytes: usize, of: impl Fn(String) -> M) -> M {
    let empty = of(noise(bytes / 2)).encoded_len() - bytes / 2;
    let message = of(noise(bytes - empty));
    assert_eq!(message.encoded_len(), bytes);
    message
}

fn named(id: &str, name: String) -> eventkit::proto::v1::Event {
    eventkit::proto::v1::Event {
        event: name,
        ..event(id)
    }
}

#[tokio::test]
async fn the_largest_body_fits_plain_and_packed() {
    let gateway = tight().await;
    let start = r#"{"messageId":"#;
    for (id, encoding) in [
        ("1", ""),
        ("2", "gzip"),
        ("3", "deflate"),
        ("4", "br"),
        ("5", "zstd"),
    ] {
        let start = format!("{start}\"{id}\",\"event\":\"");
        let mut body = start.clone() + &noise(LARGEST - start.len() - 2) + "\"}";
        assert_eq!(body.len(), LARGEST);
        let header = match encoding {
            "" => String::new(),
            _ => format!("Content-Encoding: {encoding}\r\n"),
        };
        let packed = super::drop_in::packed(encoding, body.as_bytes());
        let answer = gateway.post("/collect", &header, packed).await;
        assert_eq!(answer.status(), 202, "{encoding}: {answer:?}");
        body.push(' ');
        let packed = super::drop_in::packed(encoding, body.as_bytes());
        let answer = gateway.post("/collect", &header, packed).await;
        assert_eq!(answer.error(), (413, "body_too_large".into()), "{encoding}");
    }
    assert_eq!(gateway.stored().len(), 5);
}

#[tokio::test]
async fn the_largest_message_fits_into_every_call_plain_and_packed() {
    let gateway = tight().await;
    for packing in [
        None,
        Some(CompressionEncoding::Gzip),
        Some(CompressionEncoding::Zstd),
    ] {
        let mut client = client(gateway.grpc).await;
        if let Some(packing) = packing {
            client = client.send_compressed(packing);
        }
        let id = format!("{packing:?}");
        let unary = exactly(LARGEST, |name| CollectRequest {
            events: vec![named(&format!("unary {id}"), name)],
            ..Default::default()
        });
        let answer = client.collect(unary).await.unwrap();
        assert_eq!(answer.into_inner().accepted, 1, "{packing:?}");

        let messages = tokio_stream::iter([message(&format!("stream {id}"), LARGEST)]);
        let answer = client.collect_stream(messages).await.unwrap();
        assert_eq!(answer.into_inner().accepted, 1, "{packing:?}");

        let message = exactly(LARGEST, |name| CollectBidiRequest {
            batch_number: 1,
            events: vec![named(&format!("bidi {id}"), name)],
            ..Default::default()
        });
        let messages = tokio_stream::iter([message]);
        let mut answers = client.collect_bidi(messages).await.unwrap().into_inner();
        let mut heard = 0;
        while let Some(_answer) = within(answers.message()).await.unwrap() {
            heard += 1;
        }
        assert_eq!(heard, 2, "{packing:?}: a hello and an acknowledgement");
    }
    assert_eq!(gateway.stored().len(), 9);
}

/// Its outcomes take more room than its events.
#[tokio::test]
async fn as_many_events_as_there_may_be_fit_into_every_call() {
    let gateway = gateway_with(IngressConfig {
        body_bytes_max: 8 * 1024,
        in_flight_bytes_max: 8 * 1024,
        batch_events_max: 1_000,
        ..config()
    })
    .await;
    let events = |call: &str| (0..200).map(|n| event(&format!("{call}{n}"))).collect();
    let mut client = client(gateway.grpc).await;
    let unary = CollectRequest {
        events: events("u"),
        ..Default::default()
    };
    let answer = client.collect(unary).await.unwrap();
    assert_eq!(answer.into_inner().accepted, 200);
    let message = CollectStreamRequest {
        events: events("s"),
        ..Default::default()
    };
    let answer = client.collect_stream(tokio_stream::iter([message])).await;
    assert_eq!(answer.unwrap().into_inner().accepted, 200);
    let body = serde_json::json!(
        (0..200)
            .map(|n| serde_json::json!({ "messageId": format!("h{n}") }))
            .collect::<Vec<_>>()
    );
    let answer = gateway.post("/collect", "", body.to_string()).await;
    assert_eq!(answer.status(), 202, "{answer:?}");
    assert_eq!(gateway.stored().len(), 600);
}

/// Each fits, and two of them do not. A stream that were refused for the second would be sent again from its start, for ever.
#[tokio::test]
async fn messages_that_do_not_fit_together_wait_for_each_other() {
    let (gateway, log) = gated(tight_config()).await;
    let channel = channel(gateway.grpc).await;
    let mut client = IngestServiceClient::new(channel.clone());
    let (sent, all_sent) = tokio::sync::oneshot::channel::<()>();
    let messages = (0..4).map(|n| message(&format!("m{n}"), LARGEST / 5 * 3));
    let last = futures::stream::once(async move {
        drop(sent);
        message("last", 100)
    });
    let messages = futures::stream::iter(messages.collect::<Vec<_>>()).chain(last);
    log.set(true);
    let opened = async {
        until("the first is before the sync", || log.is_waited_at()).await;
        // It ends when the last one is asked for, or with the call.
        drop(within(all_sent).await);
        // On the same connection, behind what was sent: all of that is there now.
        let asked = tonic_health::pb::HealthCheckRequest::default();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        within(health.check(asked)).await.unwrap();
        log.set(false);
    };
    let (summary, ()) = tokio::join!(within(client.collect_stream(messages)), opened);
    assert_eq!(summary.unwrap().into_inner().accepted, 5);
    assert_eq!(gateway.stored().len(), 5);
}

#[tokio::test]
async fn a_length_that_is_announced_is_never_too_much_for_now() {
    let gateway = tight().await;
    let unary = exactly(LARGEST, |name| CollectRequest {
        events: vec![named("unary", name)],
        ..Default::default()
    });
    let stream: Vec<u8> = (0..3)
        .flat_map(|n| frame(&message(&format!("stream {n}"), LARGEST).encode_to_vec()))
        .collect();
    for (method, body) in [
        ("Collect", frame(&unary.encode_to_vec())),
        ("CollectStream", stream),
    ] {
        let path = format!("/eventkit.v1.IngestService/{method}");
        let length = body.len().to_string();
        let headers = [("content-length", length.as_str())];
        let (status, _answer) = call(gateway.grpc, &path, &headers, whole(body)).await;
        assert_eq!(status.code(), tonic::Code::Ok, "{method}: {status:?}");
    }
    assert_eq!(gateway.stored().len(), 4);
}

/// It would keep its place for as long as the stream may be open.
#[tokio::test]
async fn a_stream_that_only_announces_something_holds_nothing() {
    let gateway = tight().await;
    let (mut sender, _connection) = http2(gateway.grpc).await;
    let uri = format!(
        "http://{}/eventkit.v1.IngestService/CollectBidi",
        gateway.grpc
    );
    let request = ::http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("content-length", LARGEST)
        .body(pieces(futures::stream::pending()))
        .unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let held = "eventkit_ingress_in_flight_bytes 0\n";
    assert!(gateway.metrics.render().contains(held));
    let beside = gateway
        .post("/collect", "", r#"{"messageId":"beside"}"#)
        .await;
    assert_eq!(beside.status(), 202, "{beside:?}");
}

#[tokio::test]
async fn the_largest_limit_that_may_be_set_holds_to_the_byte() {
    const LARGEST: usize = 64 << 20;
    let gateway = gateway_with(IngressConfig {
        body_bytes_max: LARGEST,
        in_flight_bytes_max: 4 * LARGEST,
        event_bytes_max: 2 << 20,
        ..config()
    })
    .await;
    let whole = |last: usize| CollectRequest {
        events: (0..64)
            .map(|n| {
                named(
                    &n.to_string(),
                    "x".repeat(if n < 63 { 1 << 20 } else { last }),
                )
            })
            .collect(),
        ..Default::default()
    };
    let rest = LARGEST - (whole(1 << 19).encoded_len() - (1 << 19));
    let (fits, beyond) = (whole(rest), whole(rest + 1));
    assert_eq!(
        (fits.encoded_len(), beyond.encoded_len()),
        (LARGEST, LARGEST + 1)
    );
    let mut client = client(gateway.grpc).await;
    let status = client.collect(beyond).await.unwrap_err();
    assert!(status.message().contains("67108864 bytes"), "{status:?}");
    let answer = client.collect(fits).await.unwrap();
    assert_eq!(answer.into_inner().accepted, 64);
}
