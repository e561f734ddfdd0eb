//! JSON that is none, or is too much, at `POST /collect`; and streams' names that are none.

use super::wire::post;
use super::*;

/// One event that is good but for what a case does to it.
fn with(parts: &str) -> Vec<u8> {
    format!(r#"{{"type":"x",{parts}}}"#).into_bytes()
}

/// One event of exactly so many bytes.
fn sized(bytes: usize) -> Vec<u8> {
    let around = with(r#""a":"""#).len();
    with(&format!(r#""a":"{}""#, "x".repeat(bytes - around)))
}

fn many(events: usize) -> Vec<u8> {
    let list = vec![r#"{"type":"x"}"#; events].join(",");
    format!("[{list}]").into_bytes()
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn keys(count: usize) -> String {
    vec![r#""":0"#; count].join(",")
}

fn collect(name: &'static str, body: impl Into<Vec<u8>>, expected: Expected) -> Case {
    (name, post("/collect", "", &body.into()), vec![expected])
}

/// A body that is refused as a whole, as it has no events.
fn malformed(name: &'static str, body: impl Into<Vec<u8>>) -> Case {
    collect(name, body, Refused(400, "malformed_request"))
}

/// A body with one event, which is rejected.
fn bad(name: &'static str, body: impl Into<Vec<u8>>, code: &'static str) -> Case {
    let status = if code == "event_too_large" { 413 } else { 400 };
    collect(name, body, Judged(status, vec![Rejected(code)]))
}

/// A body with one event, which is accepted and becomes a row or an error row.
fn held(name: &'static str, body: impl Into<Vec<u8>>, fate: Fate) -> Case {
    collect(name, body, Judged(202, vec![fate]))
}

fn no_bodies() -> Vec<Case> {
    vec![
        malformed("an empty body", ""),
        malformed("nothing but space", " \r\n\t "),
        malformed(
            "an object that is cut off",
            r#"{"type":"x","messageId":"cut"#,
        ),
        malformed("an array that is cut off", r#"[{"type":"x"},{"type""#),
        malformed("an array that is not closed", r#"[{"type":"x"}"#),
        malformed("a bare number", "42"),
        malformed("a bare string", r#""text""#),
        malformed("null", "null"),
        malformed("true", "true"),
        malformed("words", "type=x&userId=u"),
        malformed("NUL bytes", "\0\0\0"),
        malformed("two objects", r#"{"type":"x"} {"type":"x"}"#),
        malformed("one object a line", "{\"type\":\"x\"}\n{\"type\":\"x\"}\n"),
        malformed("UTF-16", b"\xff\xfe{\0}\0".as_slice()),
        malformed(
            "nothing between two commas",
            r#"[{"type":"x"},,{"type":"x"}]"#,
        ),
        malformed("100,000 arrays that never close", "[".repeat(100_000)),
        malformed("brackets that cross", r#"[{"type":"x"]}"#),
        collect(
            "10,001 events",
            many(10_001),
            Refused(413, "too_many_events"),
        ),
        collect(
            "4 MiB and a byte",
            spaces((4 << 20) + 1),
            Refused(413, "body_too_large"),
        ),
    ]
}

fn spaces(bytes: usize) -> String {
    " ".repeat(bytes)
}

fn id(bytes: usize) -> Vec<u8> {
    with(&format!(r#""messageId":"{}""#, "m".repeat(bytes)))
}

fn bad_events() -> Vec<Case> {
    let a = |value: &str| with(&format!("\"a\":{value}"));
    let longest: &'static str = "m".repeat(256).leak();
    vec![
        bad("a word that is none", a("tru"), "invalid_json"),
        bad("a comma too many", a("1,"), "invalid_json"),
        bad("NaN", a("NaN"), "invalid_json"),
        bad("single quotes", "{'type':'x'}", "invalid_json"),
        bad("a NUL in a string", a("\"\0\""), "invalid_json"),
        bad("a line break in a string", a("\"\n\""), "invalid_json"),
        bad("half an escape", a(r#""\ud8""#), "invalid_json"),
        bad(
            "a byte that is not UTF-8",
            b"{\"a\":\"\xff\"}",
            "invalid_utf8",
        ),
        bad(
            "a NUL in two bytes",
            b"{\"a\":\"\xc0\x80\"}",
            "invalid_utf8",
        ),
        bad(
            "a surrogate in UTF-8",
            b"{\"a\":\"\xed\xa0\x80\"}",
            "invalid_utf8",
        ),
        bad(
            "nothing but arrays, 10,000 deep",
            nested(10_000),
            "not_an_object",
        ),
        bad("10,000 deep", a(&nested(10_000)), "too_deep"),
        bad("65 deep", a(&nested(64)), "too_deep"),
        held("64 deep", a(&nested(63)), Row("")),
        bad("100,000 keys", with(&keys(100_000)), "event_too_large"),
        bad("20,000 keys", with(&keys(20_000)), "too_many_keys"),
        bad("10,001 keys", with(&keys(10_000)), "too_many_keys"),
        held("10,000 keys", with(&keys(9_999)), Row("")),
        bad(
            "256 KiB and a byte",
            sized((256 << 10) + 1),
            "event_too_large",
        ),
        held("256 KiB", sized(256 << 10), Row("")),
        bad("a message id of 10 kB", id(10_000), "message_id_too_long"),
        bad("a message id of 257 bytes", id(257), "message_id_too_long"),
        held("a message id of 256 bytes", id(256), Row(longest)),
    ]
}

/// Bad events and good ones beside each other.
fn batches() -> Vec<Case> {
    let large = sized(300_000);
    let mixed: [(&[u8], Fate); 12] = [
        (br#"{"type":"x","messageId":"first"}"#, Row("first")),
        (b"7", Rejected("not_an_object")),
        (b"null", Rejected("not_an_object")),
        (b"\"text\"", Rejected("not_an_object")),
        (b"[]", Rejected("not_an_object")),
        (br#"{"type":"x","messageId":"second"}"#, Row("second")),
        (b"{\"a\":tru}", Rejected("invalid_json")),
        (b"{\"a\":\"\xff\"}", Rejected("invalid_utf8")),
        (&large, Rejected("event_too_large")),
        (br#"{"type":"x","messageId":"first"}"#, Duplicate),
        (br#"{"type":"track"}"#, ErrorRow("missing_field")),
        (br#"{"type":"x","messageId":"last"}"#, Row("last")),
    ];
    let (events, fates): (Vec<_>, Vec<_>) = mixed.into_iter().unzip();
    let mixed = [b"[", events.join(&b","[..]).as_slice(), b"]"].concat();
    let none = [b"[7,", large.as_slice(), b"]"].concat();
    let none_of_it = vec![Rejected("not_an_object"), Rejected("event_too_large")];
    let (space, events) = (spaces((4 << 20) - 2), vec![Row(""); 10_000]);
    vec![
        collect("bad events among good ones", mixed, Judged(202, fates)),
        collect("nothing but bad events", none, Judged(400, none_of_it)),
        collect("an empty array", "[]", Judged(202, vec![])),
        collect(
            "4 MiB around nothing",
            format!("[{space}]"),
            Judged(202, vec![]),
        ),
        collect("10,000 events", many(10_000), Judged(202, events)),
    ]
}

/// What looks bad and can be held: it is stored, or set aside with the reason.
fn oddities() -> Vec<Case> {
    let row = |name, parts: &str, id| held(name, with(parts), Row(id));
    let aside = |name, parts: &str, code| held(name, with(parts), ErrorRow(code));
    let bom = [b"\xef\xbb\xbf", with(r#""messageId":"bom""#).as_slice()].concat();
    let long_user = format!(r#""userId":"{}""#, "u".repeat(10_000));
    let beyond_f64 = r#""properties":{"a":1e999,"b":-1e400,"c":123456789012345678901234567890}"#;
    vec![
        held("a byte order mark", bom, Row("bom")),
        row(
            "a key twice",
            r#""messageId":"its first","messageId":"its last""#,
            "its last",
        ),
        row(
            "a key twice, once escaped",
            r#""messageId":"a","message\u0049d":"b""#,
            "b",
        ),
        row("numbers beyond f64", beyond_f64, ""),
        row("a number for an id", r#""messageId":1e999"#, "1e999"),
        row("an escaped NUL", r#""properties":{"a\u0000":"\u0000"}"#, ""),
        row(
            "an escaped NUL in an id",
            r#""messageId":"nul\u0000id""#,
            "nul\0id",
        ),
        row("lone surrogates", r#""properties":{"\udc00":"\ud800"}"#, ""),
        row("a whole pair", r#""messageId":"\ud83d\ude00""#, "\u{1f600}"),
        held("an empty object", "{}", ErrorRow("missing_field")),
        held(
            "a type that is a list",
            r#"{"type":["x"]}"#,
            ErrorRow("invalid_field"),
        ),
        aside(
            "a lone surrogate in an id",
            r#""messageId":"\ud800""#,
            "invalid_field",
        ),
        aside(
            "a user that is an object",
            r#""userId":{}"#,
            "invalid_field",
        ),
        aside(
            "properties that are a number",
            r#""properties":7"#,
            "invalid_field",
        ),
        aside(
            "the year 20,000",
            r#""timestamp":"20000-01-01T00:00:00Z""#,
            "invalid_timestamp",
        ),
        aside(
            "a time beyond f64",
            r#""timestamp":1e999"#,
            "invalid_timestamp",
        ),
        aside("a user of 10 kB", &long_user, "field_too_long"),
    ]
}

#[tokio::test]
async fn json_that_is_none_is_refused_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    for table in [no_bodies(), bad_events(), batches(), oddities()] {
        subject.walk(table).await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    let (invalid, nowhere) = (Refused(400, "invalid_stream"), Refused(404, "not_found"));
    let good = || Judged(202, vec![Row("")]);
    let (longest, too_long) = ("s".repeat(128), "s".repeat(129));
    let cases = [
        ("a/..", "..", invalid.clone()),
        ("a hidden file", ".profile", invalid.clone()),
        ("a folder up", "../x", nowhere.clone()),
        ("a folder up, escaped", "..%2fx", invalid.clone()),
        (
            "a folder up, escaped throughout",
            "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            invalid.clone(),
        ),
        ("a folder up, escaped twice", "..%252fx", invalid.clone()),
        ("a backslash", "..%5cx", invalid.clone()),
        ("two names", "a/b", nowhere.clone()),
        ("no name before the second", "/a", nowhere),
        ("a space", "a%20b", invalid.clone()),
        ("a plus", "a+b", invalid.clone()),
        ("a line break", "a%0d%0ab", invalid.clone()),
        ("a NUL", "a%00", invalid.clone()),
        ("an accent", "caf%C3%A9", invalid.clone()),
        ("an emoji", "%F0%9F%98%80", invalid.clone()),
        ("bytes that are not UTF-8", "%ff", invalid.clone()),
        ("a percent sign alone", "100%", invalid.clone()),
        ("10 kB", &"s".repeat(10_000), invalid.clone()),
        ("129 characters", &too_long, invalid),
        ("128 characters", &longest, good()),
        ("dots within", "a..b", good()),
        ("no name", "", good()),
    ];
    let cases = cases.map(|(name, stream, expected)| {
        let request = post(&format!("/collect/{stream}"), "", br#"{"type":"x"}"#);
        (name, request, vec![expected])
    });
    subject.walk(cases).await;
    subject.finish().await;
}
