//! A JSON event as an `eventkit.v1.Event`.
//!
//! Open-ended parts travel as the JSON bytes that they are. What the contract has no place for (`originalTimestamp`, a `sentAt` of
//! the event's own) travels with the other unknown fields, so nothing is lost. An event with a field of a type that the
//! contract cannot carry is refused here; over HTTP it would be accepted and set aside by the worker with the same code.

use bytes::Bytes;
use prost_types::Timestamp;
use serde_json::value::RawValue;

use super::deliver::Outcome;
use super::event::Event;
use crate::event::Micros;
use crate::ingress::decode::{Id, id_text, json_event};
use crate::proto::v1;
use crate::status::Code;
use crate::worker::adapt::time;

type Field<'a> = Option<&'a RawValue>;

/// The event, or why gRPC cannot carry it.
pub(crate) fn event(event: &Event) -> Result<v1::Event, Outcome> {
    let mut json =
        json_event(event.json()).map_err(|error| rejected(error.code(), error.to_string()))?;
    for (key, field) in [
        ("originalTimestamp", json.original_timestamp),
        ("sentAt", json.sent_at),
    ] {
        if let Some(value) = field {
            json.extra.push((quoted(key), value));
        }
    }
    Ok(v1::Event {
        message_id: event.message_id().to_owned(),
        r#type: text("type", json.kind)?,
        user_id: text("userId", json.user_id)?,
        anonymous_id: text("anonymousId", json.anonymous_id)?,
        event: text("event", json.event)?,
        name: text("name", json.name)?,
        category: text("category", json.category)?,
        group_id: text("groupId", json.group_id)?,
        previous_id: text("previousId", json.previous_id)?,
        timestamp: timestamp(json.timestamp)?,
        properties_json: part(json.properties),
        traits_json: part(json.traits),
        context_json: part(json.context),
        integrations_json: part(json.integrations),
        extra_json: json.extra_json().map(Bytes::from).unwrap_or_default(),
        ..v1::Event::default()
    })
}

fn quoted(key: &str) -> &'static RawValue {
    let quoted = match key {
        "sentAt" => "\"sentAt\"",
        _ => "\"originalTimestamp\"",
    };
    serde_json::from_str(quoted).expect("a quoted word is JSON")
}

fn text(name: &str, field: Field<'_>) -> Result<String, Outcome> {
    match field.map(id_text) {
        None | Some(Id::Absent) => Ok(String::new()),
        Some(Id::Text(text)) => Ok(text.into_owned()),
        Some(Id::Invalid) => Err(rejected(
            Code::InvalidField,
            format!("{name} must be a string; gRPC carries no other"),
        )),
    }
}

fn timestamp(field: Field<'_>) -> Result<Option<Timestamp>, Outcome> {
    let invalid = |error: &dyn std::fmt::Display| {
        rejected(Code::InvalidTimestamp, format!("timestamp {error}"))
    };
    match field.map(id_text) {
        None | Some(Id::Absent) => Ok(None),
        Some(Id::Text(text)) if text.is_empty() => Ok(None),
        Some(Id::Text(text)) => time::parse(&text)
            .map(|micros| Some(moment(micros)))
            .map_err(|error| invalid(&error)),
        Some(Id::Invalid) => Err(invalid(&"must be a string or a number")),
    }
}

fn moment(micros: Micros) -> Timestamp {
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).expect("below a billion"),
    }
}

fn part(field: Field<'_>) -> Bytes {
    match field.map(RawValue::get) {
        None | Some("null") => Bytes::new(),
        Some(json) => Bytes::copy_from_slice(json.as_bytes()),
    }
}

fn rejected(code: Code, reason: String) -> Outcome {
    Outcome::Rejected {
        code: code.as_str().to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_place() {
        let json = r#"{"messageId":"m","type":"track","userId":7,"event":"e","properties":{"a" : 1},"traits":null,
            "timestamp":"2024-01-02T03:04:05.5Z","sentAt":"s","custom":[1]}"#;
        let found = event(&Event::from_json(json).unwrap()).unwrap();
        let expected = v1::Event {
            message_id: "m".into(),
            r#type: "track".into(),
            user_id: "7".into(),
            event: "e".into(),
            properties_json: r#"{"a" : 1}"#.into(),
            timestamp: Some(Timestamp {
                seconds: 1_704_164_645,
                nanos: 500_000_000,
            }),
            extra_json: r#"{"custom":[1],"sentAt":"s"}"#.into(),
            ..v1::Event::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_carried_is_rejected_by_name() {
        for (json, code) in [
            (r#"{"userId":{}}"#, "invalid_field"),
            (r#"{"type":true}"#, "invalid_field"),
            (r#"{"timestamp":"yesterday"}"#, "invalid_timestamp"),
            (r#"{"timestamp":[]}"#, "invalid_timestamp"),
        ] {
            let refused = event(&Event::from_json(json).unwrap()).unwrap_err();
            let Outcome::Rejected { code: found, .. } = refused else {
                panic!("{json}: {refused:?}");
            };
            assert_eq!(found, code, "{json}");
        }
    }
}
