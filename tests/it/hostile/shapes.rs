//! Requests that two servers in a row might read differently. One connection brings exactly the answers that stand here: nothing that hides behind a request is another one.

use super::*;
use crate::bad_input::{Case, Expected, Judged, NotHttp, Refused, Row};

/// What tries to come in behind another request: it would be a row.
const HIDDEN: &str = "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 37\r\n\r\n{\"type\":\"x\",\"messageId\":\"smuggled-1\"}";

/// A head, and what follows it.
pub(super) fn raw(name: &'static str, sent: impl AsRef<[u8]>, expected: Vec<Expected>) -> Case {
    (name, sent.as_ref().to_vec(), expected)
}

/// A `POST` with these lines, and this behind them.
fn lines(name: &'static str, lines: &str, rest: &str, expected: Vec<Expected>) -> Case {
    let sent = format!("POST /collect HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{rest}");
    raw(name, sent, expected)
}

pub(super) fn row() -> Expected {
    Judged(202, vec![Row("")])
}

fn none() -> Expected {
    Judged(202, vec![])
}

fn malformed() -> Expected {
    Refused(400, "malformed_request")
}

fn no_http() -> Vec<Expected> {
    vec![NotHttp(400)]
}

/// Both a length and chunks, or two lengths.
fn lengths() -> Vec<Case> {
    let chunked = format!("c\r\n{{\"type\":\"x\"}}\r\n0\r\n\r\n{HIDDEN}");
    let nothing = format!("0\r\n\r\n{HIDDEN}");
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked";
    let both_again = "Transfer-Encoding: chunked\r\nContent-Length: 4";
    let of = |name, value: &str, expected| {
        lines(name, &format!("Content-Length: {value}"), "[]", expected)
    };
    let te = |name, value: &str| {
        let header = format!("Transfer-Encoding{value}\r\nContent-Length: 2");
        lines(name, &header, &nothing, no_http())
    };
    vec![
        // The chunks count, and the connection is over after them.
        lines("a length and chunks", both, &chunked, vec![row()]),
        lines("chunks and a length", both_again, &chunked, vec![row()]),
        lines("a length and no chunk", both, &nothing, vec![malformed()]),
        of("a list of lengths", "2, 2", no_http()),
        of("a list of two lengths", "2, 3", no_http()),
        of("a length in hex", "0x2", no_http()),
        of("a length with a space", "1 2", no_http()),
        of("a length with a dot", "2.0", no_http()),
        of("no length", "", no_http()),
        of("a length between spaces", " 2 ", vec![none()]),
        lines(
            "a space before the colon",
            "Content-Length : 2",
            "[]",
            no_http(),
        ),
        te("a coding with a space before the colon", " : chunked"),
        te("a coding that sounds like chunked", ": xchunked"),
        te("a coding in quotes", ": \"chunked\""),
        te("a coding behind a vertical tab", ": \x0bchunked"),
        te(
            "chunked, and then not",
            ": chunked\r\nTransfer-Encoding: identity",
        ),
        te("chunked within another", ": chunked, identity"),
        raw(
            "chunks in HTTP/1.0",
            format!(
                "POST /collect HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{nothing}"
            ),
            no_http(),
        ),
    ]
}

/// Lines that end, go on or are cut in an unusual way.
fn line_ends() -> Vec<Case> {
    let close = "Connection: close";
    vec![
        lines("a line that goes on", "X: a\r\n b", "", no_http()),
        lines(
            "a length that goes on",
            "Content-Length:\r\n 2",
            "[]",
            no_http(),
        ),
        lines("a line that begins with a space", " X: a", "", no_http()),
        lines("a carriage return in a value", "X: a\rb", "", no_http()),
        lines("a NUL in a name", "X\0: a", "", no_http()),
        lines("no name", ": a", "", no_http()),
        lines("a name with a parenthesis", "X(: a", "", no_http()),
        // A line may end with a line feed alone (RFC 9112, 2.2): it is the same line for everybody behind.
        lines(
            "a line feed alone",
            &format!("X: a\nContent-Length: 2\r\n{close}"),
            "[]",
            vec![none()],
        ),
        raw(
            "nothing but line feeds",
            format!("POST /collect HTTP/1.1\nHost: x\n{close}\nContent-Length: 2\n\n[]"),
            vec![none()],
        ),
    ]
}

/// Chunks that are framed in an unusual way.
fn chunks() -> Vec<Case> {
    let wrong = |name, rest: &str| {
        let chunked = "Transfer-Encoding: chunked";
        lines(name, chunked, rest, vec![malformed()])
    };
    let close = "Connection: close";
    vec![
        wrong("a chunk's size behind a sign", "+2\r\n[]\r\n0\r\n\r\n"),
        wrong("a chunk's size with 0x", "0x2\r\n[]\r\n0\r\n\r\n"),
        wrong("a chunk's size behind a space", " 2\r\n[]\r\n0\r\n\r\n"),
        wrong("a chunk's size and a line feed", "2\n[]\r\n0\r\n\r\n"),
        wrong("a chunk that ends with a line feed", "2\r\n[]\n0\r\n\r\n"),
        wrong(
            "a chunk's extension with a line feed",
            "2;a\n[]\r\n0\r\n\r\n",
        ),
        lines(
            "a chunk's extension",
            &format!("Transfer-Encoding: chunked\r\n{close}"),
            "2;a=b\r\n[]\r\n0\r\n\r\n",
            vec![none()],
        ),
        wrong(
            "a chunk's extension of 1 MB",
            &format!("2;{}\r\n[]\r\n0\r\n\r\n", "a".repeat(1 << 20)),
        ),
        wrong(
            "trailers of 1 MB",
            &format!("2\r\n[]\r\n0\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)),
        ),
        wrong(
            "2,000 trailers",
            &format!("2\r\n[]\r\n0\r\n{}\r\n", "X: a\r\n".repeat(2_000)),
        ),
        lines(
            "a length in the trailers",
            &format!("Transfer-Encoding: chunked\r\n{close}"),
            "2\r\n[]\r\n0\r\nContent-Length: 99\r\n\r\n",
            vec![none()],
        ),
    ]
}

/// Another protocol, another host, another method than it seems.
fn others() -> Vec<Case> {
    let with = |head: &str| {
        format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]")
    };
    let method = Refused(405, "method_not_allowed");
    vec![
        raw("HTTP/0.9", "GET /health\r\n\r\n", no_http()),
        raw("HTTP/1.2", with("POST /collect HTTP/1.2"), no_http()),
        raw(
            "HTTP/2 in HTTP/1.1's words",
            with("POST /collect HTTP/2.0"),
            no_http(),
        ),
        raw(
            "two hosts",
            with("POST /collect HTTP/1.1\r\nHost: y"),
            vec![none()],
        ),
        raw(
            "another host in the path",
            with("POST http://elsewhere/collect HTTP/1.1"),
            vec![none()],
        ),
        raw(
            "a tunnel",
            with("CONNECT elsewhere:80 HTTP/1.1"),
            vec![Refused(404, "not_found")],
        ),
        raw(
            "a tunnel to a path",
            with("CONNECT /collect HTTP/1.1"),
            vec![method.clone()],
        ),
        raw(
            "a method that is set over",
            with("GET /collect HTTP/1.1\r\nX-HTTP-Method-Override: POST"),
            vec![method.clone()],
        ),
        raw(
            "a method in small letters",
            with("post /collect HTTP/1.1"),
            vec![method],
        ),
        raw(
            "another protocol",
            with("POST /collect HTTP/1.1\r\nUpgrade: websocket"),
            vec![none()],
        ),
        raw(
            "HTTP/2 by the way",
            with("POST /collect HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"),
            vec![none()],
        ),
        raw(
            "an expectation that is none",
            with("POST /collect HTTP/1.1\r\nExpect: wonders"),
            vec![none()],
        ),
        raw(
            "everything behind a line of nothing",
            format!("\r\n\r\n{}", with("POST /collect HTTP/1.1")),
            vec![none()],
        ),
    ]
}

#[tokio::test]
async fn nothing_hides_behind_a_request() {
    let subject = Subject::start(&[]).await;
    for table in [lengths(), line_ends(), chunks(), others()] {
        subject.walk(table).await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn what_hides_would_be_seen() {
    let subject = Subject::start(&[]).await;
    let row = Judged(202, vec![Row("smuggled-1")]);
    subject.walk([raw("what hides", HIDDEN, vec![row])]).await;
    subject.finish().await;
}
