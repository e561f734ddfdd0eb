//! Segment's paths: `200` with `"success":true` whatever single events are; `400` solely for an envelope that cannot be used.

use super::wire::post;
use super::*;

fn case(name: &'static str, path: &str, body: impl AsRef<[u8]>, expected: Expected) -> Case {
    let request = post(path, "Content-Type: text/plain\r\n", body.as_ref());
    (name, request, vec![expected])
}

/// A body that is no envelope.
fn unusable(name: &'static str, path: &str, body: &str) -> Case {
    case(name, path, body, Refused(400, "malformed_request"))
}

/// A body that is one event.
fn one(name: &'static str, path: &str, body: &str, fate: Fate) -> Case {
    case(name, path, body, Judged(200, vec![fate]))
}

fn batch(items: &str) -> String {
    format!(r#"{{"batch":[{items}],"writeKey":"k","sentAt":"2026-01-01T00:00:00Z"}}"#)
}

fn large() -> String {
    format!(r#"{{"type":"x","a":"{}"}}"#, "x".repeat(300_000))
}

fn long_id() -> String {
    format!(r#"{{"type":"x","messageId":"{}"}}"#, "m".repeat(10_000))
}

fn single_events() -> Vec<Case> {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let (no_json, too_long) = (r#"{"event":tru}"#, Rejected("message_id_too_long"));
    let missing = || ErrorRow("missing_field");
    vec![
        unusable("nothing", "/v1/track", ""),
        unusable("an array for one event", "/v1/track", r#"[{"event":"E"}]"#),
        unusable("a bare string", "/v1/page", r#""x""#),
        unusable("a cut-off event", "/v1/track", r#"{"event":"E""#),
        case(
            "no JSON",
            "/v1/track",
            no_json,
            Refused(400, "invalid_json"),
        ),
        case(
            "no UTF-8",
            "/v1/track",
            b"{\"a\":\"\xff\"}",
            Refused(400, "invalid_utf8"),
        ),
        one(
            "an event that is too large",
            "/v1/track",
            &large(),
            Rejected("event_too_large"),
        ),
        one(
            "an event that is too deep",
            "/v1/track",
            &deep,
            Rejected("too_deep"),
        ),
        one("a message id of 10 kB", "/v1/track", &long_id(), too_long),
        one("nobody", "/v1/identify", r#"{"traits":{}}"#, missing()),
        one(
            "a group without its id",
            "/v1/group",
            r#"{"userId":"u"}"#,
            missing(),
        ),
        one(
            "an alias of nobody before",
            "/v1/alias",
            r#"{"userId":"u"}"#,
            missing(),
        ),
        one(
            "an alias for nobody",
            "/v1/alias",
            r#"{"previousId":"p","anonymousId":"a"}"#,
            missing(),
        ),
        one(
            "a track without its event",
            "/v1/track",
            r#"{"userId":"u"}"#,
            missing(),
        ),
    ]
}

fn envelopes() -> Vec<Case> {
    let many = batch(&vec!["{}"; 10_001].join(","));
    let spaces = " ".repeat((4 << 20) + 1);
    let (large, long_id) = (large(), long_id());
    let mixed = [
        (r#"{"type":"x","messageId":"one"}"#, Row("one")),
        ("7", Rejected("not_an_object")),
        (r#"{"a":tru}"#, Rejected("invalid_json")),
        (&large, Rejected("event_too_large")),
        (&long_id, Rejected("message_id_too_long")),
        (r#"{"type":"track"}"#, ErrorRow("missing_field")),
        (r#"{"type":"x","messageId":"one"}"#, Duplicate),
        (r#"{"type":"x","messageId":"two"}"#, Row("two")),
    ];
    let (items, fates): (Vec<_>, Vec<_>) = mixed.into_iter().unzip();
    let mixed = batch(&items.join(","));
    let bad = Judged(
        200,
        vec![Rejected("not_an_object"), Rejected("not_an_object")],
    );
    vec![
        unusable("no envelope", "/v1/batch", ""),
        unusable("an array in its place", "/v1/batch", r#"[{"type":"x"}]"#),
        unusable("no batch in it", "/v1/batch", r#"{"writeKey":"k"}"#),
        unusable("a batch that is an object", "/v1/batch", r#"{"batch":{}}"#),
        unusable(
            "a batch that is cut off",
            "/v1/import",
            r#"{"batch":[{"type":"x"}"#,
        ),
        unusable(
            "a context that is a number",
            "/v1/batch",
            r#"{"batch":[],"context":7}"#,
        ),
        case(
            "an empty batch",
            "/v1/batch",
            batch(""),
            Judged(200, vec![]),
        ),
        case(
            "bad events among good ones",
            "/v1/batch",
            mixed,
            Judged(200, fates),
        ),
        case("nothing but bad events", "/v1/import", batch("7,null"), bad),
        case(
            "10,001 events",
            "/v1/batch",
            many,
            Refused(413, "too_many_events"),
        ),
        case(
            "4 MiB and a byte",
            "/v1/batch",
            spaces,
            Refused(413, "body_too_large"),
        ),
        case(
            "a path that is none",
            "/v1/nothing",
            "{}",
            Refused(404, "not_found"),
        ),
    ]
}

fn requests() -> Vec<Case> {
    let encoded = |encoding| {
        let headers = format!("Content-Encoding: {encoding}\r\n");
        post("/v1/batch", &headers, b"nonsense")
    };
    let get = b"GET /v1/batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec();
    vec![
        (
            "gzip that is none",
            encoded("gzip"),
            vec![Refused(400, "invalid_encoding")],
        ),
        (
            "brotli that is none",
            encoded("br"),
            vec![Refused(400, "invalid_encoding")],
        ),
        (
            "zstd that is none",
            encoded("zstd"),
            vec![Refused(400, "invalid_encoding")],
        ),
        (
            "an encoding that nobody knows",
            encoded("rot13"),
            vec![Refused(415, "unsupported_encoding")],
        ),
        ("GET", get, vec![Refused(405, "method_not_allowed")]),
    ]
}

#[tokio::test]
async fn segments_paths_blame_the_envelope_alone_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    for table in [single_events(), envelopes(), requests()] {
        subject.walk(table).await;
    }
    subject.finish().await;
}
