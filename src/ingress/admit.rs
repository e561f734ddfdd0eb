//! The edge's judgement of one event. Pure.
//!
//! The edge refuses only what the gateway cannot hold: what is not an object, not JSON, not UTF-8, too large, too deep,
//! too wide, or has a message id that is too long. Everything else is accepted, and set aside later with a reason if it is
//! no valid event; the same in both protocols.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::decode::scan::{self, Extent, Item};
use super::decode::{Id, id_text, json_event, protobuf};
use crate::event::{MESSAGE_ID_BYTES_MAX, PayloadFormat};
use crate::status::Code;

/// The longest stream name.
pub const STREAM_BYTES_MAX: usize = 128;

/// What one event may measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest event in bytes.
    pub event_bytes_max: usize,
    /// The deepest nesting.
    pub depth_max: usize,
    /// The most keys, at all levels together.
    pub keys_max: usize,
}

/// What the events of a batch have in common, to be merged under each one's own (which wins). It counts in full against
/// each event's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shared<'a> {
    /// One JSON object; empty: none.
    pub context: &'a [u8],
    /// One JSON object; empty: none.
    pub integrations: &'a [u8],
    /// How deep and wide the two are, as parts of an event.
    pub extent: Extent,
}

impl<'a> Shared<'a> {
    /// Measures what is shared.
    #[must_use]
    pub fn new(context: &'a [u8], integrations: &'a [u8]) -> Self {
        let (a, b) = (scan::extent(context), scan::extent(integrations));
        Self {
            context,
            integrations,
            extent: Extent {
                depth: a.depth.max(b.depth) + 1,
                keys: a.keys + b.keys,
            },
        }
    }

    /// Bytes that it adds to each event.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.context.len() + self.integrations.len()
    }
}

/// What the edge needs to know of an event that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted<'a> {
    /// How `payload` is to be read.
    pub format: PayloadFormat,
    /// The event's own bytes.
    pub payload: &'a [u8],
    /// The client's message id; `None`: one has to be assigned.
    pub message_id: Option<Cow<'a, str>>,
    /// The user id, where there is one that routes.
    pub user_id: Option<Cow<'a, str>>,
    /// The anonymous id, where there is one that routes.
    pub anonymous_id: Option<Cow<'a, str>>,
    /// The type as a word that can be logged: one of the known types, `custom` or `none`.
    pub kind: &'static str,
}

/// Why an event is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The client's message id, where it could be read and is not itself what is wrong.
    pub message_id: Option<Cow<'a, str>>,
    /// The word for it.
    pub code: Code,
    /// The same for people; never holds values of the event.
    pub reason: Cow<'static, str>,
}

/// Judges one item of a JSON body.
///
/// # Errors
///
/// [`Refused`], for this item alone.
pub fn json<'a>(
    item: Item<'a>,
    shared: &Shared<'_>,
    limits: &Limits,
) -> Result<Admitted<'a>, Refused<'a>> {
    size(item.bytes.len(), shared.bytes(), limits)?;
    let event = json_event(item.bytes).map_err(|error| Refused {
        message_id: None,
        code: error.code(),
        reason: format!("{error}; do not retry").into(),
    })?;
    // An id of the wrong type is no reason to refuse: the worker says what is wrong with it.
    let id = |field: Option<&'a RawValue>| match field.map(id_text) {
        Some(Id::Text(text)) if !text.is_empty() => Some(text),
        Some(Id::Text(_) | Id::Absent | Id::Invalid) | None => None,
    };
    let message_id = message_id(id(event.message_id))?;
    let whole = Extent {
        depth: item.extent.depth.max(shared.extent.depth),
        keys: item.extent.keys + shared.extent.keys,
    };
    let message_id = extent(whole, limits, message_id)?;
    Ok(Admitted {
        format: PayloadFormat::Json,
        payload: item.bytes,
        message_id,
        user_id: id(event.user_id),
        anonymous_id: id(event.anonymous_id),
        kind: match id(event.kind) {
            None if event.kind.is_none() => "none",
            kind => label(&kind.unwrap_or_default()),
        },
    })
}

/// Judges one event of a gRPC request.
///
/// # Errors
///
/// [`Refused`], for this event alone.
pub fn event<'a>(bytes: &'a Bytes, limits: &Limits) -> Result<Admitted<'a>, Refused<'a>> {
    size(bytes.len(), 0, limits)?;
    let fault = |error: protobuf::EventError, message_id| Refused {
        message_id,
        code: error.code(),
        reason: format!("{error}; do not retry").into(),
    };
    let measured = protobuf::event(bytes).map_err(|error| fault(error, None))?;
    let id = |text: String| (!text.is_empty()).then_some(Cow::Owned(text));
    let message_id = message_id(id(measured.event.message_id))?;
    if let Some(error) = measured.fault {
        return Err(fault(error, message_id));
    }
    let message_id = extent(measured.extent, limits, message_id)?;
    Ok(Admitted {
        format: PayloadFormat::Event,
        payload: bytes,
        message_id,
        user_id: id(measured.event.user_id),
        anonymous_id: id(measured.event.anonymous_id),
        kind: match measured.event.r#type.as_str() {
            "" => "none",
            kind => label(kind),
        },
    })
}

/// Whether a stream may have this name: 1 to 128 characters of `A-Z a-z 0-9 _ - .`, not beginning with a dot.
#[must_use]
pub fn is_stream_name(name: &str) -> bool {
    (1..=STREAM_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn size(own: usize, shared: usize, limits: &Limits) -> Result<(), Refused<'static>> {
    let (bytes, max) = (own.saturating_add(shared), limits.event_bytes_max);
    if bytes <= max {
        return Ok(());
    }
    let with = match shared {
        0 => "",
        _ => " with the batch's context and integrations",
    };
    Err(Refused {
        message_id: None,
        code: Code::EventTooLarge,
        reason: format!("the event has {bytes} bytes{with}, the limit is {max}; do not retry")
            .into(),
    })
}

fn extent<'a>(
    extent: Extent,
    limits: &Limits,
    message_id: Option<Cow<'a, str>>,
) -> Result<Option<Cow<'a, str>>, Refused<'a>> {
    let (code, reason) = if extent.depth > limits.depth_max {
        let (depth, max) = (extent.depth, limits.depth_max);
        let reason = format!("the event is nested {depth} deep, the limit is {max}; do not retry");
        (Code::TooDeep, reason)
    } else if extent.keys > limits.keys_max {
        let (keys, max) = (extent.keys, limits.keys_max);
        let reason = format!("the event has {keys} keys, the limit is {max}; do not retry");
        (Code::TooManyKeys, reason)
    } else {
        return Ok(message_id);
    };
    Err(Refused {
        message_id,
        code,
        reason: reason.into(),
    })
}

fn message_id(id: Option<Cow<'_, str>>) -> Result<Option<Cow<'_, str>>, Refused<'static>> {
    match id {
        Some(id) if id.len() > MESSAGE_ID_BYTES_MAX => Err(Refused {
            message_id: None,
            code: Code::MessageIdTooLong,
            reason: Cow::Borrowed(Code::MessageIdTooLong.text()),
        }),
        id => Ok(id),
    }
}

/// A type as a word of a closed list: what a client made up never reaches a log line.
fn label(kind: &str) -> &'static str {
    match kind {
        "identify" => "identify",
        "track" => "track",
        "page" => "page",
        "screen" => "screen",
        "group" => "group",
        "alias" => "alias",
        _ => "custom",
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::decode::scan::split;
    use super::*;
    use crate::proto::v1;

    const LIMITS: Limits = Limits {
        event_bytes_max: 1_000,
        depth_max: 3,
        keys_max: 4,
    };

    fn check_json(body: &str) -> Result<Admitted<'_>, Refused<'_>> {
        let item = split(body.as_bytes(), 1).unwrap()[0];
        json(item, &Shared::default(), &LIMITS)
    }

    #[test]
    fn message_ids_are_taken_or_left_to_be_assigned() {
        let cases = [
            (r#"{"messageId":"m-1"}"#, Some("m-1")),
            (r#"{"messageId":42}"#, Some("42")),
            (r#"{"messageId":"\u00e9"}"#, Some("\u{e9}")),
            (r#"{"messageId":""}"#, None),
            (r#"{"messageId":null}"#, None),
            (r#"{"messageId":true}"#, None),
            (r#"{"messageId":{}}"#, None),
            (r#"{"messageId":"\ud800"}"#, None),
            ("{}", None),
        ];
        for (body, expected) in cases {
            let admitted = check_json(body).unwrap();
            assert_eq!(admitted.message_id.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_refused_with_its_id_where_that_is_known() {
        let long = |bytes: usize| format!(r#"{{"messageId":"{}"}}"#, "é".repeat(bytes / 2));
        let cases = [
            (
                format!("{{\"a\":\"{}\"}}", "x".repeat(1_000)),
                Code::EventTooLarge,
                None,
            ),
            ("[{\"a\":tru}]".into(), Code::InvalidJson, None),
            ("[1]".into(), Code::NotAnObject, None),
            (
                r#"{"messageId":"m","a":[[[]]]}"#.into(),
                Code::TooDeep,
                Some("m"),
            ),
            (
                r#"{"messageId":"m","a":1,"b":2,"c":3,"d":4}"#.into(),
                Code::TooManyKeys,
                Some("m"),
            ),
            (long(258), Code::MessageIdTooLong, None),
        ];
        for (body, code, message_id) in cases {
            let refused = check_json(&body).unwrap_err();
            assert_eq!(refused.code, code, "{body}");
            assert_eq!(refused.message_id.as_deref(), message_id, "{body}");
            assert!(refused.reason.contains("do not retry"), "{body}");
        }
        assert!(check_json(&long(256)).unwrap().message_id.is_some());
    }

    #[test]
    fn ids_that_route_and_types_that_can_be_logged() {
        let body = r#"{"userId":7,"anonymousId":"","type":"track"}"#;
        let admitted = check_json(body).unwrap();
        assert_eq!(admitted.user_id.as_deref(), Some("7"));
        assert_eq!(admitted.anonymous_id, None);
        assert_eq!(admitted.kind, "track");
        let custom = r#"{"type":"secret@example.org"}"#;
        assert_eq!(check_json(custom).unwrap().kind, "custom");
        assert_eq!(check_json("{}").unwrap().kind, "none");
    }

    #[test]
    fn both_protocols_judge_alike() {
        let encoded = |event: v1::Event| Bytes::from(event.encode_to_vec());
        let good = encoded(v1::Event {
            message_id: "m".into(),
            user_id: "u".into(),
            r#type: "page".into(),
            ..Default::default()
        });
        let admitted = event(&good, &LIMITS).unwrap();
        assert_eq!(admitted.message_id.as_deref(), Some("m"));
        assert_eq!(admitted.user_id.as_deref(), Some("u"));
        assert_eq!(admitted.anonymous_id, None);
        assert_eq!((admitted.kind, admitted.payload), ("page", &good[..]));
        assert_eq!(
            event(&Bytes::new(), &LIMITS).unwrap().message_id,
            None,
            "an empty event decodes; the worker says what is missing"
        );

        let json = |text: &str| v1::Event {
            message_id: "m".into(),
            properties_json: text.to_owned().into(),
            ..Default::default()
        };
        let cases = [
            (encoded(json(&"x".repeat(1_000))), Code::EventTooLarge, None),
            (Bytes::from_static(b"\xff"), Code::InvalidProtobuf, None),
            (encoded(json("{\"a\":[[]]}")), Code::TooDeep, Some("m")),
            (encoded(json("{:::::}")), Code::TooManyKeys, Some("m")),
            (
                encoded(v1::Event {
                    properties: Some(prost_types::Struct::default()),
                    ..json("{}")
                }),
                Code::PayloadConflict,
                Some("m"),
            ),
            (
                encoded(v1::Event {
                    message_id: "m".repeat(257),
                    ..Default::default()
                }),
                Code::MessageIdTooLong,
                None,
            ),
        ];
        for (bytes, code, message_id) in cases {
            let refused = event(&bytes, &LIMITS).unwrap_err();
            assert_eq!(refused.code, code);
            assert_eq!(refused.message_id.as_deref(), message_id, "{code}");
        }
    }

    #[test]
    fn stream_names_are_plain() {
        for good in ["a", "A-Z_0.9", "-x", &"s".repeat(128)] {
            assert!(is_stream_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "../x",
            "a/b",
            "a b",
            "é",
            "a\0",
            "a%20",
            &"s".repeat(129),
        ] {
            assert!(!is_stream_name(bad), "{bad}");
        }
    }
}
