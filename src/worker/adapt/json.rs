//! A JSON event's columns.

use serde_json::value::RawValue;

use super::time::{self, Times};
use super::{Draft, Rejected, filled, rejected};
use crate::event::{Event, Micros};
use crate::ingress::decode::{Id, id_text, json_event};
use crate::status::Code;

type Field<'a> = Option<&'a RawValue>;

pub(super) fn adapt(event: &Event<'_>) -> Result<Draft, Rejected> {
    let json = json_event(event.payload)?;
    // The edge took the id where it is one; a value that cannot be an id is told to the sender here.
    id("message_id", json.message_id)?;
    let times = Times {
        received_at: event.received_at,
        // A sentAt that cannot be read costs the correction, never the event.
        sent_at: event
            .sent_at
            .or_else(|| moment(json.sent_at).ok().flatten()),
        timestamp: timestamp("timestamp", json.timestamp)?,
        original: timestamp("original_timestamp", json.original_timestamp)?,
    }
    .corrected();
    Ok(Draft {
        kind: text("type", json.kind)?,
        user_id: id("user_id", json.user_id)?,
        anonymous_id: id("anonymous_id", json.anonymous_id)?,
        event: text("event", json.event)?,
        name: text("name", json.name)?,
        category: text("category", json.category)?,
        group_id: id("group_id", json.group_id)?,
        previous_id: id("previous_id", json.previous_id)?,
        properties: object("properties", json.properties)?,
        traits: object("traits", json.traits)?,
        context: object("context", json.context)?,
        integrations: object("integrations", json.integrations)?,
        extra: json.extra_json(),
        timestamp: times.timestamp,
        original_timestamp: times.original_timestamp,
        sent_at: times.sent_at,
    })
}

/// A string or a number.
fn id(column: &str, field: Field<'_>) -> Result<Option<String>, Rejected> {
    match field.map(id_text) {
        None | Some(Id::Absent) => Ok(None),
        Some(Id::Text(text)) => Ok(filled(text.into_owned())),
        Some(Id::Invalid) => Err(rejected(
            Code::InvalidField,
            format!("{column} must be a string or a number"),
        )),
    }
}

/// A string, and nothing else.
fn text(column: &str, field: Field<'_>) -> Result<Option<String>, Rejected> {
    let is_number = field.is_some_and(|raw| {
        raw.get()
            .starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
    });
    match field.map(id_text) {
        None | Some(Id::Absent) => Ok(None),
        Some(Id::Text(text)) if !is_number => Ok(filled(text.into_owned())),
        Some(Id::Text(_) | Id::Invalid) => Err(rejected(
            Code::InvalidField,
            format!("{column} must be a string"),
        )),
    }
}

/// An object, as it is written.
fn object(column: &str, field: Field<'_>) -> Result<Option<String>, Rejected> {
    match field.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(json) if json.starts_with('{') => Ok(Some(json.to_owned())),
        Some(_) => Err(rejected(
            Code::InvalidField,
            format!("{column} must be an object"),
        )),
    }
}

fn timestamp(column: &str, field: Field<'_>) -> Result<Option<Micros>, Rejected> {
    moment(field).map_err(|error| rejected(Code::InvalidTimestamp, format!("{column} {error}")))
}

/// A string or number that says when.
fn moment(field: Field<'_>) -> Result<Option<Micros>, time::TimeError> {
    match field.map(id_text) {
        None | Some(Id::Absent) => Ok(None),
        Some(Id::Text(text)) if text.is_empty() => Ok(None),
        Some(Id::Text(text)) => time::parse(&text).map(Some),
        Some(Id::Invalid) => Err(time::TimeError::Unreadable),
    }
}
