//! Events that the edge accepts and that are as unpleasant for a worker as can be: each must become one row or one error
//! row, and take nothing else with it.

use eventkit::proto::v1;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

use crate::events::struct_of;

/// What stands in a JSON event beside its ids and its properties.
const JSON: [&str; 26] = [
    r#""type":"track","event":"e","timestamp":"9999-12-31T23:59:60.999999999Z""#,
    r#""type":"track","event":"e","timestamp":"0000-00-00T00:00:00Z""#,
    r#""type":"track","event":"e","timestamp":"+292277026596-12-04T15:30:07Z""#,
    r#""type":"track","event":"e","timestamp":"-0001-01-01T00:00:00+23:59""#,
    r#""type":"track","event":"e","timestamp":9223372036854775807"#,
    r#""type":"track","event":"e","timestamp":-1.7976931348623157e308"#,
    r#""type":"track","event":"e","timestamp":{"$date":{"$numberLong":"1"}}"#,
    r#""type":"track","event":"e","originalTimestamp":"10000-01-01T00:00:00Z""#,
    r#""type":"track","event":"e","sentAt":"1969-12-31T23:59:59.99999999999999999999Z""#,
    r#""type":"track","event":"e","sentAt":1e18"#,
    r#""type":"track","event":{"not":"a text"}"#,
    r#""type":"track","event":["e"]"#,
    r#""type":"track","event":"\u0000\u0001\u001f\u007f\u2028\ufeff""#,
    r#""type":"track","event":"'); DROP TABLE events; --""#,
    r#""type":"track","event":12345678901234567890123456789012345678901234567890"#,
    r#""type":"no such type \ud83d\ude00","event":"e""#,
    r#""type":null,"event":"e""#,
    r#""type":{"type":["track"]},"event":"e""#,
    r#""type":"track","event":"e","context":[[],{}],"traits":"text","integrations":false"#,
    r#""type":"track","event":"e","context":{"a":-0.0,"b":1e-400,"c":0.1e1,"d":18446744073709551616}"#,
    r#""type":"track","event":"e","":"","\u0000":{"":{"":{}}}," ":null"#,
    r#""type":"track","event":"e","deep":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"#,
    r#""type":"alias","event":"e","previousId":{"a":1}"#,
    r#""type":"group","groupId":1e2,"event":"e""#,
    r#""type":"TRACK","event":"e","message_id":"another","properties_json":"e30=","lane":-1,"offset":"0""#,
    r#""type":"track","event":"e","channel":"a\u0301\u0327","version":"\u202e\u0000","_metadata":{"nodeVersion":1e999}"#,
];

pub(crate) fn json(choice: u32) -> &'static str {
    let mut all = JSON.iter().cycle();
    all.nth(choice as usize).expect("a cycle has no end")
}

/// The same for protobuf: makes a good event odd.
pub(crate) fn proto(choice: u32, event: &mut v1::Event) {
    let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
    match choice % 14 {
        0 => event.timestamp = at(i64::MAX, i32::MAX),
        1 => event.timestamp = at(i64::MIN, i32::MIN),
        2 => event.timestamp = at(253_402_300_800, 0),
        3 => event.timestamp = at(-62_135_596_801, 999_999_999),
        4 => event.context = Some(one("n", Kind::NumberValue(f64::NAN))),
        5 => event.context = Some(one("n", Kind::NumberValue(f64::NEG_INFINITY))),
        6 => event.traits = Some(nested(20)),
        7 => event.traits_json = "[1,2]".into(),
        8 => event.integrations_json = r#"{"a":1e999,"a":2,"a":{}}"#.into(),
        9 => event.extra_json = r#"{"message_id":"another","type":null,"offset":-1}"#.into(),
        10 => event.extra = Some(one("\0", Kind::StringValue("\0\u{feff}".into()))),
        11 => event.r#type = "no such type \u{1f600}\0".into(),
        12 => event.event = "\u{202e}".repeat(2_000),
        _ => {
            event.context = serde_json::from_str(r#"{"":{"":[null,{},[[]]]}}"#)
                .ok()
                .map(struct_of)
        }
    }
}

fn one(key: &str, kind: Kind) -> Struct {
    let value = Value { kind: Some(kind) };
    Struct {
        fields: [(key.to_owned(), value)].into(),
    }
}

/// Lists in lists, and in the last one a value that is none.
fn nested(depth: u32) -> Struct {
    let list = |value| Value {
        kind: Some(Kind::ListValue(ListValue {
            values: vec![value],
        })),
    };
    let value = (0..depth).fold(Value { kind: None }, |value, _| list(value));
    Struct {
        fields: [("deep".to_owned(), value)].into(),
    }
}
