//! Rows as documents. Pure.

use std::collections::HashMap;

use firestore::gcloud_sdk::google::firestore::v1::value::ValueType;
use firestore::gcloud_sdk::google::firestore::v1::{Document, Value};
use prost_types::Timestamp;

use crate::event::{Micros, Offset};
use crate::store::{ErrorRow, Row};

/// The largest document, counted as [`size`] does.
pub(super) const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// The largest original that is kept in an error row's own document; a larger one is cut into pieces of this size.
pub(super) const ORIGINAL_BYTES_MAX: usize = 900 << 10;

pub(super) type Fields = HashMap<String, Value>;

/// An offset is beyond what a signed 64-bit field holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offset is beyond what Firestore's integers hold")]
pub(super) struct OffsetTooLarge;

/// A good row's fields.
pub(super) fn event(row: &Row) -> Result<Fields, OffsetTooLarge> {
    Ok(fields([
        ("message_id", text(&row.message_id)),
        ("source", text(&row.source)),
        ("type", text(&row.kind)),
        ("stream", text(&row.stream)),
        ("user_id", optional(row.user_id.as_deref())),
        ("anonymous_id", optional(row.anonymous_id.as_deref())),
        ("event", optional(row.event.as_deref())),
        ("name", optional(row.name.as_deref())),
        ("category", optional(row.category.as_deref())),
        ("group_id", optional(row.group_id.as_deref())),
        ("previous_id", optional(row.previous_id.as_deref())),
        ("properties", optional(row.properties.as_deref())),
        ("traits", optional(row.traits.as_deref())),
        ("context", optional(row.context.as_deref())),
        ("integrations", optional(row.integrations.as_deref())),
        ("extra", optional(row.extra.as_deref())),
        ("timestamp", time(row.timestamp)),
        (
            "original_timestamp",
            row.original_timestamp.map_or_else(null, time),
        ),
        ("sent_at", row.sent_at.map_or_else(null, time)),
        ("received_at", time(row.received_at)),
        ("node", text(&row.node)),
        ("log_id", text(&row.log_id.to_string())),
        ("lane", integer(i64::from(row.lane.0))),
        ("offset", offset(row.offset)?),
        ("trace_id", optional(row.trace_id.as_deref())),
    ]))
}

/// An error row's fields, and the pieces of an original that is too large to be one of them. Then `original` is null and `original_parts`
/// says how many documents under `parts` hold it.
pub(super) fn error(row: &ErrorRow) -> Result<(Fields, Vec<Fields>), OffsetTooLarge> {
    let parts: Vec<Fields> = if row.original.len() > ORIGINAL_BYTES_MAX {
        let pieces = row.original.chunks(ORIGINAL_BYTES_MAX);
        pieces
            .map(|piece| fields([("bytes", bytes(piece))]))
            .collect()
    } else {
        Vec::new()
    };
    let original = if parts.is_empty() {
        bytes(&row.original)
    } else {
        null()
    };
    let fields = fields([
        ("log_id", text(&row.log_id.to_string())),
        ("offset", offset(row.offset)?),
        ("original_hash", text(&row.original_hash)),
        ("original", original),
        (
            "original_parts",
            integer(i64::try_from(parts.len()).unwrap_or(i64::MAX)),
        ),
        ("original_format", text(&row.original_format)),
        ("stage", text(&row.stage)),
        ("code", text(&row.code)),
        ("reason", text(&row.reason)),
        ("source", text(&row.source)),
        ("message_id", text(&row.message_id)),
        ("stream", text(&row.stream)),
        ("received_at", time(row.received_at)),
        ("node", text(&row.node)),
        ("lane", integer(i64::from(row.lane.0))),
        ("trace_id", optional(row.trace_id.as_deref())),
    ]);
    Ok((fields, parts))
}

/// A document's size as Firestore counts it: its name, each field's name and value, and 32 bytes.
pub(super) fn size(document: &Document) -> usize {
    let path = document.name.split_once("/documents/");
    let names = path
        .map_or(document.name.as_str(), |(_, path)| path)
        .split('/');
    let name = names.map(|name| name.len() + 1).sum::<usize>() + 16;
    let fields = document.fields.iter();
    name + 32
        + fields
            .map(|(name, value)| name.len() + 1 + value_size(value))
            .sum::<usize>()
}

fn value_size(value: &Value) -> usize {
    match &value.value_type {
        Some(ValueType::StringValue(text)) => text.len() + 1,
        Some(ValueType::BytesValue(bytes)) => bytes.len(),
        Some(ValueType::NullValue(_) | ValueType::BooleanValue(_)) | None => 1,
        // Numbers and times; there is nothing else in our documents.
        Some(_) => 8,
    }
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Fields {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn value(value: ValueType) -> Value {
    Value {
        value_type: Some(value),
    }
}

fn text(text: &str) -> Value {
    value(ValueType::StringValue(text.to_owned()))
}

fn optional(text: Option<&str>) -> Value {
    text.map_or_else(null, self::text)
}

fn bytes(bytes: &[u8]) -> Value {
    value(ValueType::BytesValue(bytes.to_vec()))
}

fn null() -> Value {
    value(ValueType::NullValue(0))
}

fn integer(number: i64) -> Value {
    value(ValueType::IntegerValue(number))
}

fn offset(offset: Offset) -> Result<Value, OffsetTooLarge> {
    i64::try_from(offset)
        .map(integer)
        .map_err(|_over| OffsetTooLarge)
}

fn time(at: Micros) -> Value {
    let nanos = at.rem_euclid(1_000_000) * 1_000;
    value(ValueType::TimestampValue(Timestamp {
        seconds: at.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).expect("less than a second"),
    }))
}
