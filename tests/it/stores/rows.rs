//! Rows, plain ones and ones whose values are hard to keep.

use std::borrow::Cow;

use eventkit::event::{BatchId, Day, Lane, LogId};
use eventkit::store::{ErrorRow, Row};

pub(crate) const DAY: Day = Day(19_844);

pub(super) fn batch(number: u64) -> BatchId {
    BatchId {
        log_id: LogId(0xfeed),
        lane: Lane(3),
        number,
        first: 100,
        last: 5_000,
        input_hash: number,
    }
}

pub(crate) fn row(offset: u64) -> Row {
    Row {
        message_id: format!("m-{offset}"),
        source: "default".into(),
        kind: "track".into(),
        stream: "events".into(),
        user_id: Some("u".into()),
        anonymous_id: None,
        event: Some("e".into()),
        name: None,
        category: None,
        group_id: None,
        previous_id: None,
        properties: Some("{\"a\" : 1}".into()),
        traits: None,
        context: None,
        integrations: None,
        extra: None,
        timestamp: 1_714_566_600_123_456,
        original_timestamp: None,
        sent_at: None,
        received_at: 1_714_566_601_000_001,
        node: "n".into(),
        log_id: LogId(0xfeed),
        lane: Lane(3),
        offset,
        trace_id: None,
    }
}

pub(crate) fn error_row(offset: u64) -> ErrorRow {
    ErrorRow {
        log_id: LogId(0xfeed),
        offset,
        original_hash: format!("{offset:016x}"),
        original: b"{\"type\":null}".to_vec(),
        original_format: Cow::Borrowed("json"),
        stage: Cow::Borrowed("validate"),
        code: Cow::Borrowed("missing_field"),
        reason: "type is required".into(),
        source: "default".into(),
        message_id: "m".into(),
        stream: "events".into(),
        received_at: 1_714_566_601_000_001,
        node: "n".into(),
        lane: Lane(3),
        trace_id: None,
    }
}

/// A JSON object of about so many bytes.
pub(super) fn filled(bytes: usize) -> Option<String> {
    Some(format!("{{\"x\":\"{}\"}}", "y".repeat(bytes)))
}

/// Open-ended parts that a store which understood them would spoil.
const JSON: [&str; 12] = [
    "{\"a\":null,\"b\":[null,{\"c\":null}]}",
    "{ \"b\" : 1 ,\n\t\"a\":2, \"b\":3 }",
    "{\"nested\":[[1,[2,[]]],[{}]]}",
    "{\"large\":9223372036854775807,\"larger\":18446744073709551615,\"small\":-9223372036854775808}",
    "{\"f\":1.0,\"g\":0.1,\"h\":1e400,\"i\":-0.0,\"j\":1E+2,\"k\":3.141592653589793238462643}",
    "{\"__x__\":1,\"a.b\":2,\"\":3,\"`\":4,\"a/b\":5,\".\":6,\"..\":7}",
    "{\"日本語\":\"\u{1F980}\",\"é\":\"e\u{301}\"}",
    "{\"escaped\":\"\\u0000\\ud83e\\udd80\\/\"}",
    "{\"deep\":{\"1\":{\"2\":{\"3\":{\"4\":{\"5\":{\"6\":{\"7\":{\"8\":{\"9\":{\"10\":{\"11\":{\"12\":{\"13\":{\"14\":{\"15\":{\"16\":{\"17\":{\"18\":{\"19\":{\"20\":{\"21\":{}}}}}}}}}}}}}}}}}}}}}}}",
    "null",
    "{}",
    "",
];

/// Rows whose values are hard to keep.
pub(super) fn tricky_rows() -> Vec<Row> {
    let ids = [
        "a/b",
        ".",
        "..",
        "__x__",
        "日本語 \u{1F980}",
        "tab\tnewline\n",
        " ",
        "~2f",
        "%2F",
        "a\u{0}b",
    ];
    let mut rows: Vec<Row> = JSON
        .iter()
        .zip(100..)
        .map(|(json, offset)| Row {
            properties: Some((*json).to_owned()),
            traits: Some((*json).to_owned()),
            context: Some((*json).to_owned()),
            integrations: Some((*json).to_owned()),
            extra: Some((*json).to_owned()),
            ..row(offset)
        })
        .collect();
    rows.extend(ids.iter().zip(200..).map(|(id, offset)| Row {
        message_id: (*id).to_owned(),
        user_id: Some((*id).to_owned()),
        event: Some((*id).to_owned()),
        name: Some(String::new()),
        ..row(offset)
    }));
    let streams = ["__all__", "a.b", "-", "_", "UPPER.lower-1_2"];
    rows.extend(streams.iter().zip(300..).map(|(stream, offset)| Row {
        stream: (*stream).to_owned(),
        ..row(offset)
    }));
    rows.push(Row {
        message_id: "x".repeat(256),
        timestamp: -62_135_596_800_000_000,
        original_timestamp: Some(253_402_300_799_999_999),
        sent_at: Some(-1),
        trace_id: Some("ab".repeat(16)),
        log_id: LogId(u128::MAX),
        lane: Lane(u16::MAX),
        properties: None,
        user_id: None,
        anonymous_id: Some("a".into()),
        event: None,
        category: Some("c".into()),
        group_id: Some("g".into()),
        previous_id: Some("p".into()),
        ..row(i64::MAX as u64)
    });
    rows
}
