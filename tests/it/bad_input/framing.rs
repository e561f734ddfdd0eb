//! Requests that are wrong around their body: lengths, chunks, heads.

use super::wire::{get, http2, post, whole};
use super::*;
use crate::doors::within;

const EVENT: &str = r#"{"type":"x"}"#;
const CHUNKED: &str = "Transfer-Encoding: chunked";

/// A request with these header lines instead of the right ones.
fn framed(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /collect HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}").into_bytes()
}

/// One chunk.
fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn good(name: &'static str, sent: Vec<u8>) -> Case {
    (name, sent, vec![Judged(202, vec![Row("")])])
}

/// A body that is not what its frame says.
fn cut(name: &'static str, sent: Vec<u8>) -> Case {
    refused(name, sent, 400, "malformed_request")
}

fn too_large(name: &'static str, sent: Vec<u8>) -> Case {
    refused(name, sent, 413, "body_too_large")
}

fn refused(name: &'static str, sent: Vec<u8>, status: u16, code: &'static str) -> Case {
    (name, sent, vec![Refused(status, code)])
}

fn not_http(name: &'static str, sent: Vec<u8>, status: u16) -> Case {
    (name, sent, vec![NotHttp(status)])
}

fn lengths() -> Vec<Case> {
    // What was announced is a request; what follows it is none.
    let two = framed("Content-Length: 12", &format!("{EVENT}{EVENT}"));
    let too_short = vec![Judged(202, vec![Row("")]), NotHttp(400)];
    let cuts_it = vec![Refused(400, "malformed_request"), NotHttp(400)];
    let of = |length: &str| framed(&format!("Content-Length: {length}"), EVENT);
    let twice = |a, b| {
        framed(
            &format!("Content-Length: {a}\r\nContent-Length: {b}"),
            EVENT,
        )
    };
    let announced = |length| {
        framed(
            &format!("Connection: close\r\nContent-Length: {length}"),
            "",
        )
    };
    vec![
        cut("a length that is too long", of("50")),
        ("a length that is too short", two, too_short),
        ("a length that cuts the event", of("9"), cuts_it),
        not_http("a negative length", of("-1"), 400),
        not_http("a length in words", of("twelve"), 400),
        not_http("a length with a sign", of("+12"), 400),
        not_http("a length beyond 64 bits", of("99999999999999999999"), 400),
        not_http("two lengths", twice(12, 13), 400),
        good("the same length twice", twice(12, 12)),
        cut("no length at all", framed("Connection: close", EVENT)),
        // Only the head is sent: the answer cannot have waited for the body.
        too_large("4 MiB and a byte, announced", announced("4194305")),
        too_large("9 GB, announced", announced("9000000000")),
    ]
}

fn chunks() -> Vec<Case> {
    let whole = format!("{}0\r\n\r\n", chunk(EVENT));
    let many = format!("{}0\r\n\r\n", chunk(&"x".repeat(64 << 10)).repeat(65));
    let both = format!("Connection: close\r\nContent-Length: 3\r\n{CHUNKED}");
    let both_again = format!("Connection: close\r\n{CHUNKED}\r\nContent-Length: 3");
    let last = "Transfer-Encoding: chunked, gzip";
    vec![
        good("a length and chunks", framed(&both, &whole)),
        good("chunks and a length", framed(&both_again, &whole)),
        not_http(
            "an encoding that is none",
            framed("Transfer-Encoding: gzip", EVENT),
            400,
        ),
        not_http(
            "chunks that are not the last encoding",
            framed(last, EVENT),
            400,
        ),
        cut(
            "a chunk without a size",
            framed(CHUNKED, "zz\r\n{}\r\n0\r\n\r\n"),
        ),
        cut(
            "a chunk beyond 64 bits",
            framed(CHUNKED, "fffffffffffffffff\r\n{}\r\n"),
        ),
        cut(
            "a chunk that is longer than it says",
            framed(CHUNKED, "2\r\n{}xx\r\n0\r\n\r\n"),
        ),
        cut("chunks that are cut off", framed(CHUNKED, &chunk(EVENT))),
        too_large("4 MiB and more, in chunks", framed(CHUNKED, &many)),
    ]
}

fn heads() -> Vec<Case> {
    let asks = |line: &str| format!("{line} HTTP/1.1\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let headers = |header: &str, count| framed(&vec![header; count].join("\r\n"), "");
    let large = format!("X: {}", "y".repeat(100_000));
    let long_path = format!("POST /{}", "x".repeat(100_000));
    let grpc = "Content-Type: application/grpc\r\n";
    let over_http1 = post("/eventkit.v1.IngestService/Collect", grpc, b"");
    vec![
        not_http("words", b"hello\r\n\r\n".to_vec(), 400),
        not_http("a space in the path", asks("POST /collect/a b"), 400),
        not_http(
            "a header without a colon",
            headers("Content-Length 12", 1),
            400,
        ),
        not_http("a NUL in a header", headers("X: \0", 1), 400),
        not_http("200 headers", headers("X: y", 200), 431),
        not_http("a header of 100 kB", headers(&large, 1), 431),
        not_http("a path of 100 kB", asks(&long_path), 431),
        refused(
            "raw UTF-8 in the path",
            asks("POST /collect/é"),
            400,
            "invalid_stream",
        ),
        refused(
            "a method that is none",
            asks("FETCH /collect"),
            405,
            "method_not_allowed",
        ),
        refused("GET", asks("GET /collect"), 405, "method_not_allowed"),
        refused(
            "a path that is none",
            asks("POST /nowhere"),
            404,
            "not_found",
        ),
        refused("gRPC over HTTP/1.1", over_http1, 404, "not_found"),
    ]
}

#[tokio::test]
async fn a_request_that_is_wrongly_framed_is_refused_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    for table in [lengths(), chunks(), heads()] {
        subject.walk(table).await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn over_http2_an_early_answer_arrives_and_a_wrong_length_costs_its_stream_alone() {
    let subject = Subject::start(&[]).await;
    let addr = subject.http_addr();
    let (mut sender, _connection) = http2(addr).await;
    let request = |path: &str| http::Request::post(format!("http://{addr}{path}"));
    let cases: [(&str, usize, u16, &str); 4] = [
        ("/collect", 5 << 20, 413, "body_too_large"),
        ("/collect/..", 5 << 20, 400, "invalid_stream"),
        ("/nowhere", 5 << 20, 404, "not_found"),
        ("/collect", 5 << 10, 400, "malformed_request"),
    ];
    for round in 0..5 {
        for (path, bytes, status, code) in cases {
            let body = whole(vec![b' '; bytes]);
            let response = sender.send_request(request(path).body(body).unwrap());
            let (head, body) = within(response).await.unwrap().into_parts();
            assert_eq!(head.status.as_u16(), status, "{path}, round {round}");
            let body = http_body_util::BodyExt::collect(body);
            let json: Value =
                serde_json::from_slice(&within(body).await.unwrap().to_bytes()).unwrap();
            assert_eq!(
                (&json["success"], &json["code"]),
                (&false.into(), &code.into())
            );
            assert_clear(path, Some(status), code, json["message"].as_str().unwrap());
        }
        for length in ["5", "500"] {
            let wrong = request("/collect").header("content-length", length);
            let refused = within(sender.send_request(wrong.body(whole(EVENT)).unwrap())).await;
            // The protocol itself forbids it: the stream is reset, or was never sent by a client that looks.
            assert!(refused.is_err(), "{length}: {refused:?}");
        }
        subject.good("HTTP/2").await;
    }
    drop((sender, _connection));
    // Nothing that was refused left a trace: health is as before.
    assert!(get(&subject.endpoints.http, "/health").await.contains("ok"));
    subject.finish().await;
}
