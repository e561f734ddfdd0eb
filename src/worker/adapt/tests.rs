use bytes::Bytes;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

use super::*;
use crate::event::{Client, Lane};
use crate::proto::v1;

const RECEIVED: Micros = 1_714_566_600_000_000;

fn event(format: PayloadFormat, payload: &[u8]) -> Event<'_> {
    Event {
        format,
        payload,
        source: "default",
        message_id: "m",
        message_id_assigned: false,
        stream: "events",
        kind: None,
        lane: Lane(0),
        received_at: RECEIVED,
        sent_at: None,
        trace: None,
        batch_context: &[],
        batch_integrations: &[],
        client: Default::default(),
    }
}

fn json(payload: &str) -> Result<Draft, Rejected> {
    adapt(&event(PayloadFormat::Json, payload.as_bytes()))
}

fn protobuf(message: &v1::Event) -> Result<Draft, Rejected> {
    adapt(&event(PayloadFormat::Event, &message.encode_to_vec()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn none() -> Draft {
    Draft {
        timestamp: RECEIVED,
        ..Draft::default()
    }
}

#[test]
fn every_field_finds_its_column() {
    let draft = json(
        r#"{"type":"track","userId":"u","anonymousId":"a","event":"e","name":"n","category":"c","groupId":"g",
        "previousId":"p","properties":{ "x" : 1.0 },"traits":{},"context":{"ip":"::1"},"integrations":{"All":true},
        "timestamp":"2024-05-01T12:00:00Z","sentAt":"2024-05-01T12:10:00Z","channel":"web","_metadata":[1, 2]}"#,
    );
    let expected = Draft {
        kind: some("track"),
        user_id: some("u"),
        anonymous_id: some("a"),
        event: some("e"),
        name: some("n"),
        category: some("c"),
        group_id: some("g"),
        previous_id: some("p"),
        properties: some(r#"{ "x" : 1.0 }"#),
        traits: some("{}"),
        context: some(r#"{"ip":"::1"}"#),
        integrations: some(r#"{"All":true}"#),
        extra: some(r#"{"channel":"web","_metadata":[1, 2]}"#),
        timestamp: RECEIVED - 600_000_000,
        original_timestamp: Some(RECEIVED - 1_800_000_000),
        sent_at: Some(RECEIVED - 1_200_000_000),
    };
    assert_eq!(draft, Ok(expected));
}

#[test]
fn null_empty_and_missing_are_the_same() {
    let nulls = r#"{"type":null,"userId":null,"event":null,"properties":null,"context":null,"timestamp":null,
        "originalTimestamp":null,"sentAt":null,"messageId":null}"#;
    let empties =
        r#"{"type":"","userId":"","anonymousId":"","event":"","groupId":"","timestamp":""}"#;
    for payload in ["{}", nulls, empties] {
        assert_eq!(json(payload), Ok(none()), "{payload}");
    }
    assert_eq!(protobuf(&v1::Event::default()), Ok(none()));
}

#[test]
fn numeric_ids_are_text_digit_for_digit() {
    let draft = json(r#"{"userId":12345678901234567890123,"anonymousId":1.50,"groupId":-7,"previousId":0,"messageId":5}"#)
        .unwrap();
    assert_eq!(draft.user_id, some("12345678901234567890123"));
    assert_eq!(draft.anonymous_id, some("1.50"));
    assert_eq!(draft.group_id, some("-7"));
    assert_eq!(draft.previous_id, some("0"));
}

/// Payloads with what they are refused for.
const REFUSED: &[(&str, Code, &str)] = &[
    ("secret", Code::NotAnObject, "not a JSON object"),
    (
        r#"{"secret""#,
        Code::InvalidJson,
        "not JSON at line 1, column 9",
    ),
    (
        r#"{"messageId":["secret"]}"#,
        Code::InvalidField,
        "message_id must be a string or a number",
    ),
    (
        r#"{"messageId":true}"#,
        Code::InvalidField,
        "message_id must be a string or a number",
    ),
    (
        r#"{"userId":{"secret":1}}"#,
        Code::InvalidField,
        "user_id must be a string or a number",
    ),
    (
        r#"{"userId":"\ud800"}"#,
        Code::InvalidField,
        "user_id must be a string or a number",
    ),
    (r#"{"type":1}"#, Code::InvalidField, "type must be a string"),
    (
        r#"{"event":12}"#,
        Code::InvalidField,
        "event must be a string",
    ),
    (
        r#"{"event":-12}"#,
        Code::InvalidField,
        "event must be a string",
    ),
    (
        r#"{"name":false}"#,
        Code::InvalidField,
        "name must be a string",
    ),
    (
        r#"{"category":["secret"]}"#,
        Code::InvalidField,
        "category must be a string",
    ),
    (
        r#"{"properties":"secret"}"#,
        Code::InvalidField,
        "properties must be an object",
    ),
    (
        r#"{"traits":[]}"#,
        Code::InvalidField,
        "traits must be an object",
    ),
    (
        r#"{"context":1}"#,
        Code::InvalidField,
        "context must be an object",
    ),
    (
        r#"{"integrations":true}"#,
        Code::InvalidField,
        "integrations must be an object",
    ),
    (
        r#"{"timestamp":"secret"}"#,
        Code::InvalidTimestamp,
        "timestamp is neither ISO 8601 nor Unix time",
    ),
    (
        r#"{"timestamp":{}}"#,
        Code::InvalidTimestamp,
        "timestamp is neither ISO 8601 nor Unix time",
    ),
    (
        r#"{"originalTimestamp":1e300}"#,
        Code::InvalidTimestamp,
        "original_timestamp lies outside the years 1 to 9999",
    ),
];

#[test]
fn what_no_column_holds_is_refused_without_quoting_it() {
    for &(payload, code, reason) in REFUSED {
        let expected = Rejected {
            stage: Stage::Adapt,
            code,
            reason: reason.to_owned(),
        };
        assert_eq!(json(payload), Err(expected), "{payload}");
    }
}

#[test]
fn a_sent_at_that_cannot_be_read_costs_the_correction_only() {
    for sent_at in ["\"yesterday\"", "[]", "1e300", "true"] {
        let payload = format!(r#"{{"timestamp":1714566000,"sentAt":{sent_at}}}"#);
        let expected = Draft {
            timestamp: RECEIVED - 600_000_000,
            original_timestamp: Some(RECEIVED - 600_000_000),
            ..none()
        };
        assert_eq!(json(&payload), Ok(expected), "{payload}");
    }
}

#[test]
fn the_requests_sent_at_comes_before_the_events_own() {
    let payload = br#"{"timestamp":1714566000,"sentAt":0}"#;
    let with_request = Event {
        sent_at: Some(RECEIVED),
        ..event(PayloadFormat::Json, payload)
    };
    assert_eq!(
        adapt(&with_request).unwrap().timestamp,
        RECEIVED - 600_000_000
    );
}

#[test]
fn the_path_says_the_type() {
    let payload = br#"{"type":"page"}"#;
    let from_path = Event {
        kind: Some("track"),
        ..event(PayloadFormat::Json, payload)
    };
    assert_eq!(adapt(&from_path).unwrap().kind, some("track"));
    assert_eq!(json(r#"{"type":"page"}"#).unwrap().kind, some("page"));
}

#[test]
fn the_batchs_context_lies_under_the_events_own() {
    let cases = [
        (r#"{}"#, "", None),
        (r#"{}"#, "null", None),
        (r#"{}"#, r#"{ "a": 1 }"#, some(r#"{ "a": 1 }"#)),
        (r#"{"context":{}}"#, r#"{"a":1}"#, some(r#"{"a":1}"#)),
        (r#"{"context":{"a": 2 }}"#, "", some(r#"{"a": 2 }"#)),
        (
            r#"{"context":{"a": 2 }}"#,
            r#"{"a":1}"#,
            some(r#"{"a": 2 }"#),
        ),
        (
            r#"{"context":{"\u0061":2}}"#,
            r#"{"a":1}"#,
            some(r#"{"\u0061":2}"#),
        ),
        // Top-level keys only: an object of the event's replaces the batch's whole.
        (
            r#"{"context":{"app":{"v":2}}}"#,
            r#"{"app":{"n":"x"},"os":{"n": "y"}}"#,
            some(r#"{"app":{"v":2},"os":{"n": "y"}}"#),
        ),
        (r#"{"context":null}"#, r#"{"a":1}"#, some(r#"{"a":1}"#)),
        (r#"{"context":{"a":2}}"#, "{}", some(r#"{"a":2}"#)),
    ];
    for (payload, batch, expected) in cases {
        let shared = Event {
            batch_context: batch.as_bytes(),
            batch_integrations: batch.as_bytes(),
            ..event(PayloadFormat::Json, payload.as_bytes())
        };
        assert_eq!(
            adapt(&shared).unwrap().context,
            expected,
            "{payload} {batch}"
        );
    }
    let wrong = Event {
        batch_context: b"[1]",
        ..event(PayloadFormat::Json, b"{}")
    };
    assert_eq!(adapt(&wrong).unwrap_err().code, Code::InvalidField);
}

#[test]
fn what_was_seen_of_the_client_fills_what_the_context_does_not_say() {
    let both = Client {
        ip: Some("192.0.2.1"),
        user_agent: Some("a \"b\""),
    };
    let ip = Client {
        user_agent: None,
        ..both
    };
    let cases = [
        (
            both,
            "{}",
            "",
            some(r#"{"ip":"192.0.2.1","userAgent":"a \"b\""}"#),
        ),
        (ip, "{}", "", some(r#"{"ip":"192.0.2.1"}"#)),
        (Client::default(), "{}", "", None),
        (
            ip,
            r#"{"context":{"page": 1 }}"#,
            "",
            some(r#"{"page": 1 ,"ip":"192.0.2.1"}"#),
        ),
        (
            both,
            r#"{"context":{"ip":"0.0.0.0"}}"#,
            r#"{"userAgent":null}"#,
            some(r#"{"ip":"0.0.0.0","userAgent":null}"#),
        ),
    ];
    for (client, payload, batch, expected) in cases {
        let seen = Event {
            client,
            batch_context: batch.as_bytes(),
            ..event(PayloadFormat::Json, payload.as_bytes())
        };
        let context = adapt(&seen).unwrap().context;
        assert_eq!(context, expected, "{client:?} {payload} {batch}");
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn tree(fields: &[(&str, Value)]) -> Struct {
    let fields = fields
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()));
    Struct {
        fields: fields.collect(),
    }
}

#[test]
fn a_struct_becomes_canonical_json() {
    let number = |number| value(Kind::NumberValue(number));
    let list = vec![
        number(1.0),
        number(-0.0),
        number(-12.0),
        number(0.1),
        number(9_007_199_254_740_991.0),
        number(9_007_199_254_740_992.0),
        number(1e300),
        number(5e-324),
    ];
    let inner = tree(&[
        ("k", value(Kind::BoolValue(true))),
        ("none", Value { kind: None }),
    ]);
    let properties = tree(&[
        ("z", value(Kind::StringValue("quote \" \u{1} é".into()))),
        ("b", value(Kind::ListValue(ListValue { values: list }))),
        ("a", value(Kind::StructValue(inner))),
        ("n", value(Kind::NullValue(0))),
    ]);
    let message = v1::Event {
        properties: Some(properties),
        ..v1::Event::default()
    };
    assert_eq!(
        protobuf(&message).unwrap().properties.unwrap(),
        "{\"a\":{\"k\":true,\"none\":null},\"b\":[1,0,-12,0.1,9007199254740991,9007199254740992.0,1e+300,5e-324],\
         \"n\":null,\"z\":\"quote \\\" \\u0001 é\"}"
    );
    let empty = v1::Event {
        traits: Some(Struct::default()),
        ..v1::Event::default()
    };
    assert_eq!(protobuf(&empty).unwrap().traits, some("{}"));
}

#[test]
fn every_protobuf_field_finds_its_column() {
    let json = |text: &'static str| Bytes::from_static(text.as_bytes());
    let message = v1::Event {
        message_id: "m".into(),
        r#type: "track".into(),
        user_id: "u".into(),
        anonymous_id: "a".into(),
        event: "e".into(),
        name: "n".into(),
        category: "c".into(),
        group_id: "g".into(),
        previous_id: "p".into(),
        timestamp: Some(Timestamp {
            seconds: 1_714_566_000,
            nanos: 1_999,
        }),
        properties_json: json(" {\"x\" : 1.0}\n"),
        traits_json: json("{\"t\":1}"),
        context_json: json("{\"c\":1}"),
        integrations_json: json("{\"i\":1}"),
        extra_json: json("{\"e\":1}"),
        ..v1::Event::default()
    };
    let payload = message.encode_to_vec();
    let sent = Event {
        sent_at: Some(RECEIVED + 60_000_000),
        ..event(PayloadFormat::Event, &payload)
    };
    let expected = Draft {
        kind: some("track"),
        user_id: some("u"),
        anonymous_id: some("a"),
        event: some("e"),
        name: some("n"),
        category: some("c"),
        group_id: some("g"),
        previous_id: some("p"),
        properties: some(" {\"x\" : 1.0}\n"),
        traits: some("{\"t\":1}"),
        context: some("{\"c\":1}"),
        integrations: some("{\"i\":1}"),
        extra: some("{\"e\":1}"),
        timestamp: RECEIVED - 660_000_000 + 1,
        original_timestamp: Some(RECEIVED - 600_000_000 + 1),
        sent_at: Some(RECEIVED + 60_000_000),
    };
    assert_eq!(adapt(&sent), Ok(expected));
}

#[test]
fn protobuf_parts_that_no_column_holds_are_refused() {
    let nan = tree(&[("secret", value(Kind::NumberValue(f64::NAN)))]);
    let timestamp = |seconds, nanos| v1::Event {
        timestamp: Some(Timestamp { seconds, nanos }),
        ..v1::Event::default()
    };
    let json = |text: &'static [u8]| v1::Event {
        properties_json: Bytes::from_static(text),
        ..v1::Event::default()
    };
    let twice = v1::Event {
        context: Some(Struct::default()),
        context_json: Bytes::from_static(b"{}"),
        ..v1::Event::default()
    };
    let not_a_number = v1::Event {
        extra: Some(nan),
        ..v1::Event::default()
    };
    let cases = [
        (json(b"[]"), Code::InvalidField),
        (json(b"{} {}"), Code::InvalidField),
        (json(b"{\"secret\":"), Code::InvalidField),
        (json(b"\xff"), Code::InvalidField),
        (json(b"null"), Code::InvalidField),
        (twice, Code::PayloadConflict),
        (not_a_number, Code::InvalidField),
        (timestamp(i64::MAX, 0), Code::InvalidTimestamp),
        (timestamp(0, -1), Code::InvalidTimestamp),
    ];
    for (message, code) in cases {
        let rejected = protobuf(&message).unwrap_err();
        assert_eq!(rejected.code, code, "{message:?}");
        assert!(!rejected.reason.contains("secret"), "{rejected}");
    }
    let rejected = adapt(&event(PayloadFormat::Event, b"\xff\xff")).unwrap_err();
    assert_eq!(rejected.code, Code::InvalidProtobuf);
}
