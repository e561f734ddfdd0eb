//! One JSON event, read into borrowed parts.
//!
//! What holds for every event that [`json_event`] returns: its bytes are UTF-8, they are exactly one JSON object, and
//! every part of it is syntactically valid. What the parts mean is not judged here. Numbers stay the text they are,
//! whatever their size; nesting costs no stack.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::status::Code;

/// Why the bytes are not one JSON event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not UTF-8.
    #[error("not UTF-8 at byte {at}")]
    InvalidUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// The bytes are something else than an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The bytes begin like an object and are not JSON.
    #[error("not JSON at line {line}, column {column}")]
    InvalidJson {
        /// The line, from 1, within the event.
        line: usize,
        /// The column, from 1, within that line.
        column: usize,
    },
}

impl DecodeError {
    /// The word for it in the closed list.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidUtf8 { .. } => Code::InvalidUtf8,
            Self::NotAnObject => Code::NotAnObject,
            Self::InvalidJson { .. } => Code::InvalidJson,
        }
    }
}

/// The top-level fields of an event, each as the client wrote it. A field that occurs twice has its last value, as in
/// JavaScript. A field that is `null` is present and says `null`.
#[derive(Debug, Clone, Default)]
#[expect(
    missing_docs,
    reason = "the fields are the public API's; see `proto/eventkit/v1/event.proto`"
)]
pub struct JsonEvent<'a> {
    pub message_id: Option<&'a RawValue>,
    pub kind: Option<&'a RawValue>,
    pub user_id: Option<&'a RawValue>,
    pub anonymous_id: Option<&'a RawValue>,
    pub event: Option<&'a RawValue>,
    pub name: Option<&'a RawValue>,
    pub category: Option<&'a RawValue>,
    pub group_id: Option<&'a RawValue>,
    pub previous_id: Option<&'a RawValue>,
    pub properties: Option<&'a RawValue>,
    pub traits: Option<&'a RawValue>,
    pub context: Option<&'a RawValue>,
    pub integrations: Option<&'a RawValue>,
    pub timestamp: Option<&'a RawValue>,
    pub original_timestamp: Option<&'a RawValue>,
    pub sent_at: Option<&'a RawValue>,
    /// Every other field but `writeKey` (a credential, which is never stored): the key with its quotes, and the value,
    /// both as the client wrote them. In order; each key once, with its last value.
    pub extra: Vec<(&'a RawValue, &'a RawValue)>,
}

impl<'a> JsonEvent<'a> {
    /// The fields without a column as one JSON object; `None` when there are none.
    #[must_use]
    pub fn extra_json(&self) -> Option<String> {
        if self.extra.is_empty() {
            return None;
        }
        let bytes: usize = self
            .extra
            .iter()
            .map(|(key, value)| key.get().len() + value.get().len() + 2)
            .sum();
        let mut json = String::with_capacity(bytes + 1);
        for (key, value) in &self.extra {
            json.push(if json.is_empty() { '{' } else { ',' });
            json.push_str(key.get());
            json.push(':');
            json.push_str(value.get());
        }
        json.push('}');
        Some(json)
    }

    /// Where a known field is kept; `None` for any other key.
    fn field(&mut self, key: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match key {
            "messageId" => &mut self.message_id,
            "type" => &mut self.kind,
            "userId" => &mut self.user_id,
            "anonymousId" => &mut self.anonymous_id,
            "event" => &mut self.event,
            "name" => &mut self.name,
            "category" => &mut self.category,
            "groupId" => &mut self.group_id,
            "previousId" => &mut self.previous_id,
            "properties" => &mut self.properties,
            "traits" => &mut self.traits,
            "context" => &mut self.context,
            "integrations" => &mut self.integrations,
            "timestamp" => &mut self.timestamp,
            "originalTimestamp" => &mut self.original_timestamp,
            "sentAt" => &mut self.sent_at,
            _ => return None,
        })
    }

    /// Leaves each key of `extra` once, with its last value. Keys are compared as text, however they are escaped.
    fn keep_last_of_extra(&mut self) {
        if self.extra.len() < 2 {
            return;
        }
        let mut seen = HashSet::with_capacity(self.extra.len());
        self.extra.reverse();
        self.extra.retain(|(key, _)| seen.insert(key_text(key)));
        self.extra.reverse();
    }
}

/// Reads one event.
///
/// # Errors
///
/// [`DecodeError`], which never quotes the event.
pub fn json_event(bytes: &[u8]) -> Result<JsonEvent<'_>, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::InvalidUtf8 {
        at: error.valid_up_to(),
    })?;
    let first = text
        .bytes()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    if first != Some(b'{') {
        return Err(DecodeError::NotAnObject);
    }
    serde_json::from_str(text).map_err(|error| DecodeError::InvalidJson {
        line: error.line(),
        column: error.column(),
    })
}

impl<'de> Deserialize<'de> for JsonEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

/// Puts each field of the map in its place.
struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = JsonEvent<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut event = JsonEvent::default();
        // The key is read raw: its text is only needed to compare it, and a key with half a surrogate is still a key.
        while let Some(key) = map.next_key::<&'de RawValue>()? {
            let value = map.next_value::<&'de RawValue>()?;
            let text = key_text(key);
            match event.field(&text) {
                Some(field) => *field = Some(value),
                None if text == "writeKey" => {}
                None => event.extra.push((key, value)),
            }
        }
        event.keep_last_of_extra();
        Ok(event)
    }
}

/// A key's text; a key that has none (half a surrogate) is compared as it is written, quotes included.
fn key_text(key: &RawValue) -> Cow<'_, str> {
    match id_text(key) {
        Id::Text(text) => text,
        Id::Absent | Id::Invalid => Cow::Borrowed(key.get()),
    }
}

/// A scalar that serves as an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id<'a> {
    /// A string without its escapes, or a number as the text it is. May be empty.
    Text(Cow<'a, str>),
    /// `null`.
    Absent,
    /// A boolean, an object, an array, or a string that is not text (half a surrogate).
    Invalid,
}

/// Reads a field as an id: a string gives its text, a number its digits as they stand.
#[must_use]
pub fn id_text(raw: &RawValue) -> Id<'_> {
    let json = raw.get();
    match json.as_bytes().first() {
        Some(b'"') if !json.contains('\\') => {
            let inner = json
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            inner.map_or(Id::Invalid, |text| Id::Text(Cow::Borrowed(text)))
        }
        Some(b'"') => serde_json::from_str::<String>(json)
            .map_or(Id::Invalid, |text| Id::Text(Cow::Owned(text))),
        Some(b'-' | b'0'..=b'9') => Id::Text(Cow::Borrowed(json)),
        Some(b'n') => Id::Absent,
        _ => Id::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).expect("a JSON value")
    }

    fn get(field: Option<&RawValue>) -> Option<&str> {
        field.map(RawValue::get)
    }

    #[test]
    fn every_known_field_is_borrowed_as_written() {
        let json = r#" {"messageId":"m","type":"track","userId":7,"anonymousId":"a","event":"e","name":"n",
            "category":"c","groupId":"g","previousId":"p","properties":{"a" : 1},"traits":{},"context":null,
            "integrations":{"All":true},"timestamp":"t","originalTimestamp":1,"sentAt":"s",
            "custom": [1, 2],"writeKey":"secret"} "#;
        let event = json_event(json.as_bytes()).unwrap();
        assert_eq!(get(event.message_id), Some("\"m\""));
        assert_eq!(get(event.kind), Some("\"track\""));
        assert_eq!(get(event.user_id), Some("7"));
        assert_eq!(get(event.anonymous_id), Some("\"a\""));
        assert_eq!(get(event.event), Some("\"e\""));
        assert_eq!(get(event.name), Some("\"n\""));
        assert_eq!(get(event.category), Some("\"c\""));
        assert_eq!(get(event.group_id), Some("\"g\""));
        assert_eq!(get(event.previous_id), Some("\"p\""));
        assert_eq!(get(event.properties), Some("{\"a\" : 1}"));
        assert_eq!(get(event.traits), Some("{}"));
        assert_eq!(get(event.context), Some("null"));
        assert_eq!(get(event.integrations), Some("{\"All\":true}"));
        assert_eq!(get(event.timestamp), Some("\"t\""));
        assert_eq!(get(event.original_timestamp), Some("1"));
        assert_eq!(get(event.sent_at), Some("\"s\""));
        assert_eq!(event.extra_json().unwrap(), r#"{"custom":[1, 2]}"#);
    }

    #[test]
    fn bad_bytes_have_a_reason_that_quotes_nothing() {
        let deep = format!("{{\"a\":{}", "[".repeat(10_000));
        let cases: &[(&[u8], Code)] = &[
            (b"", Code::NotAnObject),
            (b"   ", Code::NotAnObject),
            (b"[]", Code::NotAnObject),
            (b"null", Code::NotAnObject),
            (b"\"{}\"", Code::NotAnObject),
            (b"{", Code::InvalidJson),
            (b"{}{}", Code::InvalidJson),
            (b"{} x", Code::InvalidJson),
            (b"{\"secret\":tru}", Code::InvalidJson),
            (b"{\"a\":1,}", Code::InvalidJson),
            (b"{a:1}", Code::InvalidJson),
            (b"{1:1}", Code::InvalidJson),
            (b"{'a':1}", Code::InvalidJson),
            (b"{\"a\":01}", Code::InvalidJson),
            (b"{\"a\":NaN}", Code::InvalidJson),
            (b"{\"a\":\"\\x\"}", Code::InvalidJson),
            (b"{\"a\":\"\n\"}", Code::InvalidJson),
            (b"{\"a\":\"\0\"}", Code::InvalidJson),
            (b"{\"a\":1}\0", Code::InvalidJson),
            (b"{\"a\":{\"b\":}}", Code::InvalidJson),
            (b"{\"a\":[1}", Code::InvalidJson),
            (b"{\"a\":\"\xff\"}", Code::InvalidUtf8),
            (b"{\"a\":\"\xed\xa0\x80\"}", Code::InvalidUtf8),
            (deep.as_bytes(), Code::InvalidJson),
        ];
        for (bytes, code) in cases {
            let shown = String::from_utf8_lossy(bytes.get(..bytes.len().min(40)).unwrap());
            let error = json_event(bytes).map(drop).expect_err(&shown);
            assert_eq!(error.code(), *code, "{shown}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let json = format!(
                "{{\"properties\":{}1{}}}",
                open.repeat(100_000),
                close.repeat(100_000)
            );
            assert!(json_event(json.as_bytes()).unwrap().properties.is_some());
        }
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        let json = br#"{"userId":"a","x":1,"y":2,"user\u0049d":"b","\u0078":3}"#;
        let event = json_event(json).unwrap();
        assert_eq!(get(event.user_id), Some("\"b\""));
        assert_eq!(event.extra_json().unwrap(), r#"{"y":2,"\u0078":3}"#);
    }

    #[test]
    fn many_unknown_keys_are_kept_quickly() {
        let fields: Vec<String> = (0..100_000).map(|n| format!("\"k{n}\":{n}")).collect();
        let json = format!("{{{}}}", fields.join(","));
        let event = json_event(json.as_bytes()).unwrap();
        assert_eq!(event.extra.len(), 100_000);
        assert_eq!(event.extra_json().unwrap(), json);
    }

    #[test]
    fn half_a_surrogate_is_kept_in_values_and_keys() {
        let json = br#"{"\ud800":"\udfff","userId":"\ud800"}"#;
        let event = json_event(json).unwrap();
        assert_eq!(event.extra_json().unwrap(), r#"{"\ud800":"\udfff"}"#);
        assert_eq!(id_text(event.user_id.unwrap()), Id::Invalid);
    }

    #[test]
    fn numbers_of_any_size_stay_as_they_are() {
        let json = br#"{"properties":1e999999,"userId":123456789012345678901234567890}"#;
        let event = json_event(json).unwrap();
        assert_eq!(get(event.properties), Some("1e999999"));
        assert_eq!(
            id_text(event.user_id.unwrap()),
            Id::Text("123456789012345678901234567890".into())
        );
    }

    #[test]
    fn ids_are_strings_and_numbers() {
        let text = |text: &'static str| Id::Text(Cow::Borrowed(text));
        let cases = [
            ("\"\"", text("")),
            ("\"abc\"", text("abc")),
            ("\"\u{fc}\u{1f600}\"", text("\u{fc}\u{1f600}")),
            (r#""a\"b\\\u00e9\n""#, text("a\"b\\\u{e9}\n")),
            (r#""\ud83d\ude00""#, text("\u{1f600}")),
            (r#""\u0000""#, text("\0")),
            ("42", text("42")),
            ("-1.50", text("-1.50")),
            ("1e3", text("1e3")),
            ("null", Id::Absent),
            ("true", Id::Invalid),
            ("{}", Id::Invalid),
            ("[1]", Id::Invalid),
            (r#""\ud800""#, Id::Invalid),
            (r#""\ud800x""#, Id::Invalid),
            (r#""\udc00\ud800""#, Id::Invalid),
        ];
        for (json, expected) in cases {
            assert_eq!(id_text(raw(json)), expected, "{json}");
        }
    }
}
