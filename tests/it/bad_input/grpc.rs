//! gRPC calls whose frames, messages or events are wrong.

use bytes::Bytes;
use eventkit::proto::{server, v1};
use prost::Message as _;
use prost_types::{Struct, Timestamp};
use tonic::Code as Grpc;

use super::wire::{call, whole};
use super::*;
use crate::doors::grpc::{error, frame};

const COLLECT: &str = "/eventkit.v1.IngestService/Collect";

/// How a call ends: gRPC's code and ours.
pub(crate) type End = (Grpc, &'static str);

pub(crate) const MALFORMED: End = (Grpc::InvalidArgument, "MALFORMED_REQUEST");
pub(crate) const TOO_LARGE: End = (Grpc::ResourceExhausted, "BODY_TOO_LARGE");
const TOO_MANY: End = (Grpc::ResourceExhausted, "TOO_MANY_EVENTS");
const BAD_STREAM: End = (Grpc::InvalidArgument, "INVALID_STREAM");
const BAD_TIME: End = (Grpc::InvalidArgument, "INVALID_TIMESTAMP");
const UNSUPPORTED: End = (Grpc::Unimplemented, "UNSUPPORTED_ENCODING");
const NOWHERE: End = (Grpc::Unimplemented, "NOT_FOUND");

/// A frame whose header says something else than what follows.
pub(crate) fn lying(compressed: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[compressed], &length.to_be_bytes()[..], message].concat()
}

fn encoded(stream: &str, events: usize) -> Vec<u8> {
    let request = v1::CollectRequest {
        stream: stream.into(),
        ..batch(vec![good_event(""); events])
    };
    request.encode_to_vec()
}

/// A call, and how it ends.
struct Call {
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    end: End,
}

fn plain(name: &'static str, body: Vec<u8>, end: End) -> Call {
    with(name, &[], body, end)
}

/// A call that announces gzip.
fn packed(name: &'static str, body: Vec<u8>, end: End) -> Call {
    with(name, &[("grpc-encoding", "gzip")], body, end)
}

fn with(
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    end: End,
) -> Call {
    Call {
        name,
        headers,
        body,
        end,
    }
}

/// A frame that says the truth about a packed message.
fn zipped(message: &[u8]) -> Vec<u8> {
    lying(1, u32::try_from(message.len()).unwrap(), message)
}

fn frames() -> Vec<Call> {
    let good = encoded("", 1);
    let length = u32::try_from(good.len()).unwrap();
    let gzip = encodings::gzip(&good);
    let mut broken = gzip.clone();
    broken[15] ^= 0xff;
    let cut = &gzip[..gzip.len() - 9];
    let in_json: &[_] = &[("content-type", "application/grpc+json")];
    vec![
        plain("no message", vec![], MALFORMED),
        plain("half a header", vec![0, 0, 0], MALFORMED),
        plain("a header alone", lying(0, length, b""), MALFORMED),
        plain(
            "a message that is cut off",
            lying(0, length, &good[..10]),
            MALFORMED,
        ),
        plain(
            "a length that is too long",
            lying(0, length + 1, &good),
            MALFORMED,
        ),
        plain(
            "a length that is too short",
            lying(0, length - 1, &good),
            MALFORMED,
        ),
        plain("4 GiB, announced", lying(0, u32::MAX, &good), TOO_LARGE),
        plain(
            "4 MiB and a byte, announced",
            lying(0, (4 << 20) + 1, b""),
            TOO_LARGE,
        ),
        plain(
            "two messages",
            [frame(&good), frame(&good)].concat(),
            MALFORMED,
        ),
        plain(
            "a message and a stray byte",
            [frame(&good), vec![0]].concat(),
            MALFORMED,
        ),
        plain("garbage", frame(b"\xff\xff\xff\xff"), MALFORMED),
        plain("JSON", frame(br#"{"events":[]}"#), MALFORMED),
        plain("a field that is cut off", frame(b"\x0a\x05ab"), MALFORMED),
        plain("a flag that is none", lying(7, length, &good), MALFORMED),
        plain("packed, and nobody says how", zipped(&gzip), MALFORMED),
        packed("gzip that is none", zipped(&good), MALFORMED),
        packed("gzip that is broken", zipped(&broken), MALFORMED),
        packed("gzip that is cut off", zipped(cut), MALFORMED),
        packed("64 MiB in 64 kB", zipped(&encodings::bomb()), TOO_LARGE),
        with(
            "brotli",
            &[("grpc-encoding", "br")],
            zipped(&good),
            UNSUPPORTED,
        ),
        with("messages in JSON", in_json, frame(&good), UNSUPPORTED),
    ]
}

fn requests() -> Vec<Call> {
    let request = |stream: &str, events| frame(&encoded(stream, events));
    let late = v1::CollectRequest {
        sent_at: Some(Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
        ..batch(vec![good_event("")])
    };
    vec![
        plain("a name with a folder up", request("../x", 1), BAD_STREAM),
        plain("a name with a space", request("a b", 1), BAD_STREAM),
        plain("a name with an accent", request("café", 1), BAD_STREAM),
        plain("a name with a NUL", request("a\0", 1), BAD_STREAM),
        plain(
            "a name of 10 kB",
            request(&"s".repeat(10_000), 1),
            BAD_STREAM,
        ),
        plain("10,001 events", request("", 10_001), TOO_MANY),
        plain("5 MiB", request(&"s".repeat(5 << 20), 1), TOO_LARGE),
        plain("a time beyond all", frame(&late.encode_to_vec()), BAD_TIME),
    ]
}

/// A status has its details, and says whether to retry; what a client is to blame for invites no retry.
pub(crate) fn assert_ended(name: &str, status: &tonic::Status, (code, reason): End) {
    let found = error(status);
    assert_eq!(
        found,
        (code, reason.to_owned(), false),
        "{name}: {status:?}"
    );
    assert_clear(name, None, &reason.to_lowercase(), status.message());
}

#[tokio::test]
async fn a_call_that_is_wrongly_framed_ends_with_a_reason_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    let addrs = [subject.http_addr(), subject.grpc_addr()];
    for (case, addr) in frames()
        .into_iter()
        .chain(requests())
        .zip(addrs.into_iter().cycle())
    {
        let (status, _) = call(addr, COLLECT, case.headers, whole(case.body)).await;
        assert_ended(case.name, &status, case.end);
        subject.good(case.name).await;
    }
    for path in ["/no.Such/Method", "/eventkit.v1.IngestService/Nothing", "/"] {
        let (status, _) = call(subject.grpc_addr(), path, &[], whole(frame(b""))).await;
        assert_ended(path, &status, NOWHERE);
        subject.good(path).await;
    }
    subject.finish().await;
}

/// A good event but for the JSON of its properties.
fn json(id: &str, properties: impl Into<Bytes>) -> Vec<u8> {
    let event = v1::Event {
        properties_json: properties.into(),
        ..good_event(id)
    };
    event.encode_to_vec()
}

/// Events as a client's own types would not write them, and what becomes of each.
fn events() -> Vec<(Vec<u8>, Fate)> {
    let id = |id: &str| good_event(id).encode_to_vec();
    let both = v1::Event {
        properties: Some(Struct::default()),
        properties_json: "{}".into(),
        ..good_event("both")
    };
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    let wide = format!("{{{}}}", vec![r#""":0"#; 20_000].join(","));
    let longest: &'static str = "g".repeat(256).leak();
    vec![
        (id("first"), Row("first")),
        (b"\xff\xff".to_vec(), Rejected("invalid_protobuf")),
        (b"\x0a\x05ab".to_vec(), Rejected("invalid_protobuf")),
        // A message id that is not UTF-8.
        (b"\x0a\x02\xff\xff".to_vec(), Rejected("invalid_protobuf")),
        (both.encode_to_vec(), Rejected("payload_conflict")),
        (
            json("latin", b"{\"a\":\"\xff\"}".as_slice()),
            Rejected("invalid_utf8"),
        ),
        (
            json("large", vec![b' '; 300_000]),
            Rejected("event_too_large"),
        ),
        (json("deep", deep), Rejected("too_deep")),
        (json("wide", wide), Rejected("too_many_keys")),
        (id(&"m".repeat(10_000)), Rejected("message_id_too_long")),
        (id(&"m".repeat(257)), Rejected("message_id_too_long")),
        (id(longest), Row(longest)),
        (id("first"), Duplicate),
        (json("not JSON", "{nope"), ErrorRow("invalid_field")),
        (json("no object", "7"), ErrorRow("invalid_field")),
        (vec![], ErrorRow("missing_field")),
        (json("beyond f64", r#"{"a":1e999}"#), Row("beyond f64")),
        (id("nul\0"), Row("nul\0")),
        (id("last"), Row("last")),
    ]
}

#[tokio::test]
async fn a_bad_event_costs_no_other_and_ten_thousand_are_taken() {
    let subject = Subject::start(&[]).await;
    let (sent, fates): (Vec<_>, Vec<_>) = events().into_iter().unzip();
    let cases = [
        ("an empty request", vec![], vec![]),
        ("good events with bad ones between them", sent, fates),
        (
            "10,000 events",
            vec![good_event("").encode_to_vec(); 10_000],
            vec![Row(""); 10_000],
        ),
        (
            "nothing but a bad event",
            vec![b"\xff".to_vec()],
            vec![Rejected("invalid_protobuf")],
        ),
    ];
    for (name, sent, fates) in cases {
        let request = server::CollectRequest {
            events: sent.into_iter().map(Bytes::from).collect(),
            ..Default::default()
        };
        let body = whole(frame(&request.encode_to_vec()));
        let (status, answer) = call(subject.grpc_addr(), COLLECT, &[], body).await;
        assert_eq!(status.code(), Grpc::Ok, "{name}: {status:?}");
        let answer = v1::CollectResponse::decode(&answer[5..]).unwrap();
        assert_eq!(answer.results.len(), fates.len(), "{name}");
        for (result, fate) in answer.results.iter().zip(&fates) {
            let status = match result.status() {
                v1::EventStatus::Accepted => "accepted",
                v1::EventStatus::Duplicate => "duplicate",
                v1::EventStatus::Rejected => "rejected",
                v1::EventStatus::Unspecified => "unspecified",
            };
            let outcome = Outcome {
                status,
                id: &result.message_id,
                code: &result.code,
                reason: &result.reason,
            };
            subject.judged(name, &outcome, fate);
        }
        subject.good(name).await;
    }
    subject.finish().await;
}
