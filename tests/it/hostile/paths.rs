//! Paths that lead elsewhere, and everything of a head that is larger than it may be. Larger bodies and events are in `bad_input`.

use super::shapes::{raw, row};
use super::*;
use crate::bad_input::grpc::{TOO_LARGE, assert_ended};
use crate::bad_input::wire::{call, http2, post, whole};
use crate::bad_input::{Case, Judged, Refused, Rejected, Row};
use crate::doors::grpc::frame;
use crate::doors::within;

fn paths() -> Vec<Case> {
    let nowhere = [
        "//collect",
        "/collect//",
        "/./collect",
        "/x/../collect",
        "/../collect",
        "/collect/../health",
        "/COLLECT",
        "/%63ollect",
        "/collect;x=1",
        "/collect%00",
        "/collect%2f",
        "/collect\\x",
        "/v1//batch",
        "/v1/../v1/batch",
        "/v1/batch/x",
        "/v1%2fbatch",
        "/api/s/../../collect",
        "/metrics",
        "/admin/wal/stat",
        "/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/.git/config",
        "/",
    ];
    let body = br#"{"type":"x"}"#;
    let mut cases: Vec<Case> = nowhere
        .into_iter()
        .map(|path| raw(path, post(path, "", body), vec![Refused(404, "not_found")]))
        .collect();
    let long_query = format!("/collect?{}", "q".repeat(60_000));
    let long_path = format!("/{}", "p".repeat(60_000));
    cases.extend([
        raw("a query of 60 kB", post(&long_query, "", body), vec![row()]),
        raw(
            "a path of 60 kB",
            post(&long_path, "", body),
            vec![Refused(404, "not_found")],
        ),
        raw(
            "a path as a query",
            post("/collect?/../../health", "", body),
            vec![row()],
        ),
        raw("a fragment", post("/collect#x", "", body), vec![row()]),
        raw(
            "no slash",
            post("collect", "", body),
            vec![Refused(404, "not_found")],
        ),
    ]);
    cases
}

/// Larger than it may be, in every dimension that a request has; `bad_input` has the body's and the events'.
fn sizes() -> Vec<Case> {
    let header = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    let method = "M".repeat(10_000);
    let body = br#"{"type":"x"}"#;
    let agent = format!("User-Agent: {}\r\n", "a".repeat(30_000));
    let id = format!("X-Request-Id: {}\r\n", "i".repeat(30_000));
    let encoding = format!("Content-Encoding: {}\r\n", "gzip,".repeat(6_000));
    let basic = format!("Authorization: Basic {}\r\n", "QUFB".repeat(7_000));
    let forwarded = format!("X-Forwarded-For: {}\r\n", "1.2.3.4, ".repeat(3_000));
    let trace = format!("traceparent: {}\r\n", "0".repeat(30_000));
    vec![
        raw(
            "a header of 60 kB",
            post("/collect", &header(60_000), body),
            vec![row()],
        ),
        raw(
            "a method of 10 kB",
            format!("{method} /collect HTTP/1.1\r\nHost: x\r\n\r\n"),
            vec![Refused(405, "method_not_allowed")],
        ),
        raw(
            "a user agent of 30 kB",
            post("/v1/track", &agent, br#"{"userId":"u","event":"e"}"#),
            vec![Judged(200, vec![Row("")])],
        ),
        raw("an id of 30 kB", post("/collect", &id, body), vec![row()]),
        raw(
            "6,000 encodings",
            post("/collect", &encoding, body),
            vec![Refused(415, "unsupported_encoding")],
        ),
        raw(
            "a key of 21 kB",
            post("/collect", &basic, body),
            vec![row()],
        ),
        raw(
            "3,000 proxies",
            post("/collect", &forwarded, body),
            vec![row()],
        ),
        raw(
            "a trace of 30 kB",
            post("/collect", &trace, body),
            vec![row()],
        ),
        raw(
            "an event of 4 MB",
            post("/collect", "", &sized(4_000_000)),
            vec![Judged(413, vec![Rejected("event_too_large")])],
        ),
    ]
}

fn sized(bytes: usize) -> Vec<u8> {
    format!(r#"{{"type":"x","a":"{}"}}"#, "x".repeat(bytes)).into_bytes()
}

#[tokio::test]
async fn no_path_leads_elsewhere_and_what_is_too_large_is_refused() {
    let subject = Subject::start(&[]).await;
    for table in [paths(), sizes()] {
        subject.walk(table).await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn a_call_that_is_too_large_ends_with_a_reason() {
    let subject = Subject::start(&[]).await;
    let collect = "/eventkit.v1.IngestService/Collect";
    let long = "v".repeat(12_000);
    for addr in [subject.http_addr(), subject.grpc_addr()] {
        // Within what headers may be, and taken no notice of.
        let (status, _) = call(addr, collect, &[("x-long", &long)], whole(frame(b""))).await;
        assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
        let (mut sender, _connection) = http2(addr).await;
        let request = http::Request::post(format!("http://{addr}{collect}"))
            .header("content-type", "application/grpc")
            .header("x-a", &long)
            .header("x-b", &long);
        let response = sender.send_request(request.body(whole(frame(b""))).unwrap());
        let response = within(response).await;
        // HTTP's own words, or the end of the stream.
        assert!(response.is_err() || response.unwrap().status() == 431);
        let (status, _) = call(addr, collect, &[], whole(frame(&vec![0; 5 << 20]))).await;
        assert_ended("5 MiB", &status, TOO_LARGE);
        subject.good("a call that is too large").await;
    }
    subject.finish().await;
}
