//! A protobuf event's columns.

use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};
use serde_json::value::RawValue;

use super::time::{self, Times};
use super::{Draft, Rejected, filled, rejected};
use crate::event::Event;
use crate::proto::v1;
use crate::status::Code;

/// Doubles below this hold every integer exactly; such ones are written without a fraction.
const EXACT_INTEGERS_BELOW: f64 = 9_007_199_254_740_992.0;

pub(super) fn adapt(event: &Event<'_>) -> Result<Draft, Rejected> {
    let message = v1::Event::decode(event.payload).map_err(|_malformed| {
        rejected(
            Code::InvalidProtobuf,
            "the payload is not an eventkit.v1.Event",
        )
    })?;
    let times = Times {
        received_at: event.received_at,
        sent_at: event.sent_at,
        timestamp: message.timestamp.as_ref().map(moment).transpose()?,
        original: None,
    }
    .corrected();
    Ok(Draft {
        kind: filled(message.r#type),
        user_id: filled(message.user_id),
        anonymous_id: filled(message.anonymous_id),
        event: filled(message.event),
        name: filled(message.name),
        category: filled(message.category),
        group_id: filled(message.group_id),
        previous_id: filled(message.previous_id),
        properties: part("properties", message.properties, &message.properties_json)?,
        traits: part("traits", message.traits, &message.traits_json)?,
        context: part("context", message.context, &message.context_json)?,
        integrations: part(
            "integrations",
            message.integrations,
            &message.integrations_json,
        )?,
        extra: part("extra", message.extra, &message.extra_json)?,
        timestamp: times.timestamp,
        original_timestamp: times.original_timestamp,
        sent_at: times.sent_at,
    })
}

fn moment(timestamp: &Timestamp) -> Result<i64, Rejected> {
    time::from_parts(timestamp.seconds, timestamp.nanos)
        .map_err(|error| rejected(Code::InvalidTimestamp, format!("timestamp {error}")))
}

/// An open-ended part: a `Struct`, or JSON bytes, or none; never both.
fn part(column: &str, tree: Option<Struct>, json: &[u8]) -> Result<Option<String>, Rejected> {
    match (tree, json) {
        (None, []) => Ok(None),
        (Some(tree), []) => {
            let mut text = String::new();
            write_struct(column, &tree, &mut text)?;
            Ok(Some(text))
        }
        (None, json) => object(json).map(Some).ok_or_else(|| {
            rejected(
                Code::InvalidField,
                format!("{column}_json must be one JSON object"),
            )
        }),
        (Some(_), _) => Err(rejected(
            Code::PayloadConflict,
            format!("{column} is given twice"),
        )),
    }
}

/// The bytes as they are, if they are one JSON object.
fn object(json: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(json).ok()?;
    let value = serde_json::from_str::<&RawValue>(text).ok()?;
    value.get().starts_with('{').then(|| text.to_owned())
}

// === canonical JSON: keys sorted, no spaces, integers without fraction ===

fn write_struct(column: &str, tree: &Struct, out: &mut String) -> Result<(), Rejected> {
    out.push('{');
    for (place, (key, value)) in tree.fields.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write_text(key, out);
        out.push(':');
        write_value(column, value, out)?;
    }
    out.push('}');
    Ok(())
}

fn write_value(column: &str, value: &Value, out: &mut String) -> Result<(), Rejected> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.push_str("null"),
        Some(Kind::BoolValue(value)) => out.push_str(if *value { "true" } else { "false" }),
        Some(Kind::NumberValue(number)) => write_number(column, *number, out)?,
        Some(Kind::StringValue(text)) => write_text(text, out),
        Some(Kind::StructValue(tree)) => write_struct(column, tree, out)?,
        Some(Kind::ListValue(list)) => {
            out.push('[');
            for (place, value) in list.values.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_value(column, value, out)?;
            }
            out.push(']');
        }
    }
    Ok(())
}

fn write_number(column: &str, number: f64, out: &mut String) -> Result<(), Rejected> {
    if number == 0.0 {
        out.push('0');
    } else if number.fract() == 0.0 && number.abs() < EXACT_INTEGERS_BELOW {
        out.push_str(&format!("{number:.0}"));
    } else {
        let number = serde_json::Number::from_f64(number).ok_or_else(|| {
            rejected(
                Code::InvalidField,
                format!("{column} holds a number that JSON cannot: NaN or infinity"),
            )
        })?;
        out.push_str(&number.to_string());
    }
    Ok(())
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
