//! Clients that vanish, and one that never reads. What was acknowledged stays; what was not is there at most once.

use bytes::Bytes;
use eventkit::proto::v1::collect_bidi_response::Message;
use eventkit::proto::v1::{CollectBidiRequest, CollectStreamRequest, Event};
use futures::StreamExt as _;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::wire::{http2, pieces, post};
use super::*;
use crate::doors::grpc::frame;
use crate::doors::streams::{narrow, never_read};
use crate::doors::within;

const SERVICE: &str = "/eventkit.v1.IngestService";

fn json(id: &str) -> String {
    format!(r#"{{"type":"x","messageId":"{id}"}}"#)
}

fn bidi(batch_number: u64, event: Event) -> Vec<u8> {
    let batch = CollectBidiRequest {
        batch_number,
        events: vec![event],
        ..Default::default()
    };
    frame(&batch.encode_to_vec())
}

fn message(event: Event) -> Vec<u8> {
    let message = CollectStreamRequest {
        events: vec![event],
        ..Default::default()
    };
    frame(&message.encode_to_vec())
}

/// In the middle of a body, before the answer, and with a reset instead of an end.
async fn vanish_over_http(subject: &Subject, round: usize) {
    let whole = post("/collect", "", json(&format!("http-{round}")).as_bytes());
    let batch = format!(
        "[{},{}",
        json(&format!("cut-a-{round}")),
        json(&format!("cut-b-{round}"))
    );
    let head = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        batch.len() + 1
    );
    let cut = [head.as_bytes(), batch.as_bytes()].concat();
    for (sent, reset) in [(&whole, false), (&cut, false), (&cut, true)] {
        let mut stream = TcpStream::connect(subject.http_addr()).await.unwrap();
        if reset {
            stream.set_zero_linger().unwrap();
        }
        stream.write_all(sent).await.unwrap();
        drop(stream);
    }
    // Whole but unanswered: it may be stored. What was cut is no request, and must not be.
    subject.never_answered(&format!("http-{round}"));
}

/// Sends these frames on a call, hears the answers until enough of them came, and is gone.
async fn vanish_from_call(addr: SocketAddr, method: &str, frames: Vec<u8>, answers: usize) {
    let (mut sender, connection) = http2(addr).await;
    let never_ends = futures::stream::iter([Bytes::from(frames)]).chain(futures::stream::pending());
    let request = http::Request::post(format!("http://{addr}{SERVICE}/{method}"))
        .header("content-type", "application/grpc");
    let response = sender.send_request(request.body(pieces(never_ends)).unwrap());
    if answers == 0 {
        // The call is on its way once the connection had a moment to write it.
        assert!(
            tokio::time::timeout(Duration::from_millis(50), response)
                .await
                .is_err()
        );
    } else {
        let mut body = within(response).await.unwrap().into_body();
        let mut heard = Vec::new();
        while acknowledged(&heard) < answers {
            let frame = within(http_body_util::BodyExt::frame(&mut body)).await;
            heard.extend_from_slice(frame.unwrap().unwrap().data_ref().unwrap());
        }
    }
    drop((sender, connection));
}

/// How many acknowledgements these frames hold.
pub(crate) fn acknowledged(mut frames: &[u8]) -> usize {
    let mut acks = 0;
    while let Some((header, rest)) = frames.split_at_checked(5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let Some((answer, rest)) = rest.split_at_checked(length.try_into().unwrap()) else {
            break;
        };
        let answer = eventkit::proto::v1::CollectBidiResponse::decode(answer).unwrap();
        acks += usize::from(matches!(answer.message, Some(Message::Ack(_))));
        frames = rest;
    }
    acks
}

async fn vanish_over_grpc(subject: &Subject, round: usize) {
    let id = |name: &str| format!("{name}-{round}");
    let addr = subject.grpc_addr();
    let call = frame(&batch(vec![good_event(&id("unary"))]).encode_to_vec());
    vanish_from_call(addr, "Collect", call, 0).await;
    subject.never_answered(&id("unary"));
    let half = message(good_event(&id("half")));
    let stream = [
        message(good_event(&id("stream"))),
        half[..half.len() - 1].to_vec(),
    ]
    .concat();
    vanish_from_call(addr, "CollectStream", stream, 0).await;
    subject.never_answered(&id("stream"));

    let half = bidi(4, good_event(&id("half")));
    let batches = [
        bidi(1, good_event(&id("acked-a"))),
        bidi(2, good_event(&id("acked-b"))),
        bidi(3, good_event(&id("unacked"))),
        half[..half.len() - 1].to_vec(),
    ];
    vanish_from_call(addr, "CollectBidi", batches.concat(), 2).await;
    subject.stored(&id("acked-a"));
    subject.stored(&id("acked-b"));
    subject.never_answered(&id("unacked"));
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_what_was_acknowledged_and_nothing_half() {
    let subject = Subject::start(&[]).await;
    for round in 0..10 {
        vanish_over_http(&subject, round).await;
        vanish_over_grpc(&subject, round).await;
        subject.good("a client that vanished").await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_ended_and_others_are_served_meanwhile() {
    let subject = Subject::start(&[("EVENTKIT_BODY_TIMEOUT", "5")]).await;
    let connections = async || {
        let metrics = wire::get(&subject.endpoints.admin, "/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("eventkit_ingress_connections "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let before = connections().await;
    let stuck = [
        narrow(subject.grpc_addr()).await,
        narrow(subject.http_addr()).await,
    ];
    for bidi in &stuck {
        let held_at = never_read(bidi).await;
        assert!(held_at < 1_000, "{held_at} batches were taken");
        subject.good("a client that does not read").await;
    }
    // It takes no status either, and so it loses its connection.
    until("connections are closed", async || {
        subject.good("a client that does not read").await;
        connections().await <= before
    })
    .await;
    drop(stuck);
    subject.finish().await;
}
