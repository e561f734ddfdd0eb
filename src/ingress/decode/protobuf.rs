//! One `eventkit.v1.Event` of a gRPC request.
//!
//! Judged at the edge: that the bytes are an event, that no part comes in both forms, that JSON parts are UTF-8, and how
//! deep and wide the whole is. *Not* judged: whether the JSON parts are JSON. Their depth and keys are counted by the same
//! scanner as HTTP bodies; for bytes that are not JSON that count is whatever their brackets and colons say, and it is
//! held against the same limits. What passes is accepted, and the worker sets it aside if it is not JSON.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value};

use super::scan::{self, Extent};
use crate::proto::v1;
use crate::status::Code;

/// Why the bytes are not an event that can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// They do not decode.
    #[error("not an eventkit.v1.Event")]
    Invalid,
    /// A `Struct` is nested deeper than protobuf decoders follow.
    #[error("nested deeper than protobuf decoders follow")]
    TooDeep,
    /// A part comes in both forms.
    #[error("{part} comes in both forms")]
    Conflict {
        /// Its name.
        part: &'static str,
    },
    /// A JSON part is not UTF-8.
    #[error("{part} is not UTF-8")]
    InvalidUtf8 {
        /// Its name.
        part: &'static str,
    },
}

impl EventError {
    /// The word for it in the closed list.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid => Code::InvalidProtobuf,
            Self::TooDeep => Code::TooDeep,
            Self::Conflict { .. } => Code::PayloadConflict,
            Self::InvalidUtf8 { .. } => Code::InvalidUtf8,
        }
    }
}

/// An event, and how deep and wide it is. The event itself is one level, as a JSON event's outer object is.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The event.
    pub event: v1::Event,
    /// The extent of the whole; top-level fields do not count as keys.
    pub extent: Extent,
    /// What is wrong with it although it decodes: its message id can still be named.
    pub fault: Option<EventError>,
}

/// Reads and measures one event.
///
/// # Errors
///
/// [`EventError::Invalid`] or [`EventError::TooDeep`]: the bytes do not decode.
pub fn event(bytes: &Bytes) -> Result<Measured, EventError> {
    let event = v1::Event::decode(bytes.clone()).map_err(|_undecodable| {
        if nests_beyond(Part::Event, bytes, PROST_NESTING_MAX) {
            EventError::TooDeep
        } else {
            EventError::Invalid
        }
    })?;
    let mut extent = Extent { depth: 1, keys: 0 };
    let mut fault = None;
    let parts = [
        ("properties", &event.properties, &event.properties_json),
        ("traits", &event.traits, &event.traits_json),
        ("context", &event.context, &event.context_json),
        (
            "integrations",
            &event.integrations,
            &event.integrations_json,
        ),
        ("extra", &event.extra, &event.extra_json),
    ];
    for (part, tree, json) in parts {
        if let Some(tree) = tree {
            measure_struct(tree, 2, &mut extent);
        }
        if json.is_empty() {
            continue;
        }
        if tree.is_some() {
            fault = fault.or(Some(EventError::Conflict { part }));
        } else if std::str::from_utf8(json).is_err() {
            fault = fault.or(Some(EventError::InvalidUtf8 { part }));
        }
        let found = scan::extent(json);
        extent.depth = extent.depth.max(found.depth + 1);
        extent.keys += found.keys;
    }
    Ok(Measured {
        event,
        extent,
        fault,
    })
}

/// Recursion is bounded by prost's own limit on nested messages.
fn measure_struct(tree: &Struct, depth: usize, extent: &mut Extent) {
    extent.depth = extent.depth.max(depth);
    extent.keys += tree.fields.len();
    for value in tree.fields.values() {
        measure_value(value, depth, extent);
    }
}

fn measure_value(value: &Value, depth: usize, extent: &mut Extent) {
    match &value.kind {
        Some(ValueKind::StructValue(tree)) => measure_struct(tree, depth + 1, extent),
        Some(ValueKind::ListValue(list)) => {
            extent.depth = extent.depth.max(depth + 1);
            for value in &list.values {
                measure_value(value, depth + 1, extent);
            }
        }
        Some(
            ValueKind::NullValue(_)
            | ValueKind::NumberValue(_)
            | ValueKind::StringValue(_)
            | ValueKind::BoolValue(_),
        )
        | None => {}
    }
}

/// How many nested messages prost follows.
const PROST_NESTING_MAX: u32 = 100;

/// The messages that can hold one another within an event.
#[derive(Clone, Copy)]
enum Part {
    Event,
    Struct,
    Entry,
    Value,
    List,
}

impl Part {
    fn child(self, tag: u32) -> Option<Self> {
        match (self, tag) {
            (Self::Event, 20..=24) | (Self::Value, 5) => Some(Self::Struct),
            (Self::Struct, 1) => Some(Self::Entry),
            (Self::Entry, 2) | (Self::List, 1) => Some(Self::Value),
            (Self::Value, 6) => Some(Self::List),
            _ => None,
        }
    }
}

/// Whether messages nest more than `left` deep: asked about bytes that did not decode, to say why.
fn nests_beyond(part: Part, mut bytes: &[u8], left: u32) -> bool {
    while !bytes.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut bytes) else {
            return false;
        };
        if wire != WireType::LengthDelimited {
            if skip_field(wire, tag, &mut bytes, DecodeContext::default()).is_err() {
                return false;
            }
            continue;
        }
        let split = decode_varint(&mut bytes)
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| bytes.split_at_checked(length));
        let Some((inner, rest)) = split else {
            return false;
        };
        bytes = rest;
        if let Some(child) = part.child(tag)
            && (left == 0 || nests_beyond(child, inner, left - 1))
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value {
            kind: Some(ValueKind::StringValue(value.into())),
        }
    }

    fn tree(key: &str, value: Value) -> Struct {
        Struct {
            fields: [(key.to_owned(), value)].into(),
        }
    }

    fn nested(levels: usize) -> Struct {
        (1..levels).fold(tree("a", text("x")), |inner, _| {
            let kind = Some(ValueKind::StructValue(inner));
            tree("a", Value { kind })
        })
    }

    fn measured(event: &v1::Event) -> Measured {
        super::event(&event.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn structs_and_json_parts_are_measured_alike() {
        let list = Value {
            kind: Some(ValueKind::ListValue(prost_types::ListValue {
                values: vec![Value {
                    kind: Some(ValueKind::StructValue(tree("b", text("x")))),
                }],
            })),
        };
        let by_struct = v1::Event {
            properties: Some(tree("a", list)),
            ..Default::default()
        };
        let by_json = v1::Event {
            properties_json: r#"{"a":[{"b":"x"}]}"#.into(),
            ..Default::default()
        };
        let expected = Extent { depth: 4, keys: 2 };
        assert_eq!(measured(&by_struct).extent, expected);
        assert_eq!(measured(&by_json).extent, expected);
        let plain = measured(&v1::Event::default()).extent;
        assert_eq!(plain, Extent { depth: 1, keys: 0 });
    }

    #[test]
    fn both_forms_of_a_part_conflict() {
        let event = v1::Event {
            traits: Some(Struct::default()),
            traits_json: "{}".into(),
            ..Default::default()
        };
        let fault = measured(&event).fault.unwrap();
        assert_eq!(fault, EventError::Conflict { part: "traits" });
        assert_eq!(fault.code(), Code::PayloadConflict);
        let different = v1::Event {
            traits: Some(Struct::default()),
            context_json: "{}".into(),
            ..Default::default()
        };
        assert_eq!(measured(&different).fault, None);
    }

    #[test]
    fn json_parts_must_be_utf8_and_need_not_be_json() {
        let event = |json: &'static [u8]| v1::Event {
            extra_json: Bytes::from_static(json),
            ..Default::default()
        };
        assert_eq!(
            measured(&event(b"\"\xff\"")).fault,
            Some(EventError::InvalidUtf8 { part: "extra" })
        );
        assert_eq!(measured(&event(b"{nope")).fault, None);
    }

    #[test]
    fn bytes_that_do_not_decode_are_refused() {
        for bytes in [
            &b"\xff"[..],
            b"\x0a\x05ab",
            b"\x0a\x01\xff",
            b"{\"messageId\":\"m\"}",
        ] {
            let found = super::event(&Bytes::copy_from_slice(bytes));
            assert_eq!(found, Err(EventError::Invalid), "{bytes:?}");
        }
    }

    #[test]
    fn endless_nesting_is_too_deep_and_costs_no_stack() {
        // Built from the inside, since encoding such a tree recursively would overflow the test's own stack.
        let mut bytes = Vec::new();
        let wrap = |tag: u32, inner: &[u8]| {
            let mut outer = Vec::with_capacity(inner.len() + 8);
            prost::encoding::encode_key(tag, WireType::LengthDelimited, &mut outer);
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend_from_slice(inner);
            outer
        };
        for _ in 0..1_000 {
            bytes = wrap(5, &wrap(1, &wrap(2, &bytes)));
        }
        bytes = wrap(20, &wrap(1, &wrap(2, &bytes)));
        assert_eq!(super::event(&bytes.into()), Err(EventError::TooDeep));

        let shallow = v1::Event {
            properties: Some(nested(30)),
            ..Default::default()
        };
        assert_eq!(measured(&shallow).extent.depth, 31);
    }
}
