//! gRPC calls that lie: gRPC-web as text and in binary with frames, text and trailers that are none, and the streams' frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eventkit::proto::v1::{CollectBidiRequest, CollectStreamRequest};
use prost::Message as _;
use tonic::{Code as Grpc, Status};

use super::*;
use crate::bad_input::good_event;
use crate::bad_input::grpc::{End, MALFORMED, TOO_LARGE, assert_ended, lying};
use crate::bad_input::streams::acknowledged;
use crate::bad_input::wire::{call, exchange, post, whole};
use crate::doors::grpc::{batch, frame};
use crate::doors::{Answer, send_to};

const COLLECT: &str = "/eventkit.v1.IngestService/Collect";
const TRAILERS: u8 = 0x80;
const OK: End = (Grpc::Ok, "");

/// The status of an answer, from its head or from the frame of its trailers.
fn status(name: &str, answer: &Answer) -> Status {
    assert_eq!(answer.status(), 200, "{name}: {answer:?}");
    let mut headers = http::HeaderMap::new();
    for field in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        if let Some(value) = answer.header(field) {
            headers.insert(field, value.parse().unwrap());
        }
    }
    if let Some(status) = Status::from_header_map(&headers) {
        return status;
    }
    let body = match answer.header("content-type") {
        Some(kind) if kind.starts_with("application/grpc-web-text") => decoded(&answer.body),
        _ => answer.body.clone(),
    };
    let mut rest = body.as_slice();
    while let Some((header, more)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let (payload, more) = more.split_at(usize::try_from(length).unwrap());
        if header[0] & TRAILERS != 0 {
            let text = std::str::from_utf8(payload).unwrap();
            for (field, value) in text.lines().filter_map(|line| line.split_once(':')) {
                let field: http::HeaderName = field.trim().parse().unwrap();
                headers.insert(field, value.trim().parse().unwrap());
            }
        }
        rest = more;
    }
    Status::from_header_map(&headers).unwrap_or_else(|| panic!("{name}: no status: {answer:?}"))
}

/// Pieces of base64, each with its own padding.
fn decoded(text: &[u8]) -> Vec<u8> {
    let pieces = text.split_inclusive(|byte| *byte == b'=');
    let mut whole = Vec::new();
    let mut open = Vec::new();
    for piece in pieces {
        open.extend_from_slice(piece);
        if open.len().is_multiple_of(4) {
            whole.extend(STANDARD.decode(&open).unwrap());
            open.clear();
        }
    }
    whole
}

fn good(id: &str) -> Vec<u8> {
    batch(vec![good_event(id)]).encode_to_vec()
}

/// What is in the body, whatever it is packed in.
fn bodies() -> Vec<(&'static str, Vec<u8>, End)> {
    let message = good("never");
    let length = u32::try_from(message.len()).unwrap();
    let trailers = b"grpc-status:0\r\nx-write-key:k\r\n";
    let trailers = |length: u32| lying(TRAILERS, length, trailers);
    let honest = trailers(30);
    vec![
        ("nothing", vec![], MALFORMED),
        ("half a header", vec![0, 0, 0], MALFORMED),
        (
            "a message that is cut off",
            lying(0, length, &message[..9]),
            MALFORMED,
        ),
        (
            "a length that is too long",
            lying(0, length + 1, &message),
            MALFORMED,
        ),
        (
            "a length that is too short",
            lying(0, length - 1, &message),
            MALFORMED,
        ),
        ("4 GiB, announced", lying(0, u32::MAX, &message), TOO_LARGE),
        ("a flag that is none", lying(7, length, &message), MALFORMED),
        (
            "a packed message that nobody announced",
            lying(1, length, &message),
            MALFORMED,
        ),
        (
            "two messages",
            [frame(&message), frame(&message)].concat(),
            MALFORMED,
        ),
        ("garbage", frame(b"\xff\xff\xff\xff"), MALFORMED),
        ("nothing but trailers", honest.clone(), MALFORMED),
        (
            "trailers before the message",
            [honest.clone(), frame(&message)].concat(),
            MALFORMED,
        ),
        (
            "trailers that lie about their length",
            [frame(&message), trailers(4_000)].concat(),
            MALFORMED,
        ),
        (
            "trailers of 4 GiB",
            [frame(&message), trailers(u32::MAX)].concat(),
            MALFORMED,
        ),
        (
            "trailers that are packed",
            [frame(&message), lying(TRAILERS | 1, 30, &honest[5..])].concat(),
            MALFORMED,
        ),
        (
            "trailers that are no text",
            [frame(&message), lying(TRAILERS, 4, b"\xff\0\r\n")].concat(),
            MALFORMED,
        ),
        (
            "a message after the trailers",
            [frame(&message), honest, frame(&message)].concat(),
            MALFORMED,
        ),
    ]
}

/// Text that is none.
fn texts() -> Vec<(&'static str, Vec<u8>)> {
    let text = STANDARD.encode(frame(&good("never"))).into_bytes();
    let put = |at: usize, bytes: &[u8]| [&text[..at], bytes, &text[at..]].concat();
    vec![
        ("bytes", frame(&good("never"))),
        ("a letter that is none", put(8, b"*")),
        ("a line break", put(8, b"\r\n")),
        ("padding in the middle", put(8, b"==")),
        ("text that is cut off", text[..text.len() - 3].to_vec()),
        ("one letter", b"A".to_vec()),
        ("nothing but padding", b"====".to_vec()),
        ("the other alphabet", b"AAAA-___".to_vec()),
    ]
}

/// What chunks carry.
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = chunks.windows(2).position(|bytes| bytes == b"\r\n") {
        let size = std::str::from_utf8(&chunks[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&chunks[end + 2..end + 2 + size]);
        chunks = &chunks[end + 2 + size + 2..];
    }
    whole
}

async fn web(subject: &Subject, kind: &str, body: &[u8], name: &str) -> Status {
    let headers = format!("Content-Type: application/{kind}\r\nX-Grpc-Web: 1\r\n");
    let mut answer = send_to(subject.http_addr(), &post(COLLECT, &headers, body)).await;
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = joined(&answer.body);
    }
    status(name, &answer)
}

#[tokio::test]
async fn grpc_web_that_is_none_ends_with_a_reason_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    for (name, body, end) in bodies() {
        let text = STANDARD.encode(&body).into_bytes();
        for (kind, body) in [("grpc-web+proto", &body), ("grpc-web-text", &text)] {
            assert_ended(name, &web(&subject, kind, body, name).await, end);
        }
        subject.good(name).await;
    }
    for (name, text) in texts() {
        let status = web(&subject, "grpc-web-text+proto", &text, name).await;
        assert_ended(name, &status, MALFORMED);
        subject.good(name).await;
    }
    for kind in ["grpc-web+json", "grpc-web-text+thrift", "grpc-webx"] {
        let headers = format!("Content-Type: application/{kind}\r\n");
        let answers = exchange(subject.http_addr(), &post(COLLECT, &headers, b"{}")).await;
        assert_eq!(answers[0].error(), (415, "unsupported_encoding".into()));
    }
    // As it should be, in both forms, however they are spelled.
    for (kind, id) in [
        ("grpc-web+proto", "web-binary"),
        ("grpc-web-text", "web-text"),
        ("gRPC-Web; charset=utf-8", "web-parameters"),
        ("GRPC-WEB-TEXT+PROTO", "web-capitals"),
    ] {
        let body = frame(&good(id));
        let text = STANDARD.encode(&body).into_bytes();
        let is_text = kind.to_lowercase().contains("text");
        let body = if is_text { text } else { body };
        let status = web(&subject, kind, &body, id).await;
        assert_eq!(status.code(), OK.0, "{status:?}");
        subject.stored(id);
    }
    subject.finish().await;
}

/// Frames that lie on the calls that take many of them: what came whole before is stored, what lies ends the stream.
#[tokio::test]
async fn a_stream_whose_frames_lie_ends_with_a_reason_and_keeps_what_was_acknowledged() {
    let subject = Subject::start(&[]).await;
    let stream = |id: &str| CollectStreamRequest {
        events: vec![good_event(id)],
        ..Default::default()
    };
    let bidi = |id: &str, batch_number| CollectBidiRequest {
        batch_number,
        events: vec![good_event(id)],
        ..Default::default()
    };
    for method in ["CollectStream", "CollectBidi"] {
        let path = format!("/eventkit.v1.IngestService/{method}");
        let message = |id: &str, number| match method {
            "CollectStream" => stream(id).encode_to_vec(),
            _ => bidi(id, number).encode_to_vec(),
        };
        let lie = message(&format!("lie-{method}"), 2);
        let length = u32::try_from(lie.len()).unwrap();
        let lies = [
            ("a flag that is none", lying(7, length, &lie), MALFORMED),
            ("4 GiB, announced", lying(0, u32::MAX, &lie), TOO_LARGE),
            (
                "a length that is too long",
                lying(0, length + 1, &lie),
                MALFORMED,
            ),
            (
                "a length that is too short",
                lying(0, length - 1, &lie),
                MALFORMED,
            ),
            (
                "packed, and nobody says how",
                lying(1, length, &lie),
                MALFORMED,
            ),
            ("garbage", frame(b"\xff\xff\xff\xff"), MALFORMED),
            ("half a header", vec![0, 0], MALFORMED),
        ];
        for (n, (name, lie, end)) in lies.into_iter().enumerate() {
            let id = format!("before-{method}-{n}");
            let body = [frame(&message(&id, 1)), lie].concat();
            let (status, answers) = call(subject.grpc_addr(), &path, &[], whole(body)).await;
            assert_ended(&format!("{method}: {name}"), &status, end);
            if method == "CollectBidi" {
                // What was whole is acknowledged before the stream ends.
                assert_eq!(acknowledged(&answers), 1, "{name}");
                subject.stored(&id);
            } else {
                subject.never_answered(&id);
            }
            subject.good(name).await;
        }
    }
    subject.finish().await;
}
