//! An event as a client sends it: one JSON object that has its message id.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::ingress::decode::{DecodeError, Id, id_text, json_event};

/// One event, ready to be sent any number of times. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    message_id: String,
    json: Bytes,
}

/// Why bytes are not an event that can be sent.
#[derive(Debug, thiserror::Error)]
pub enum FromJsonError {
    /// They are not one JSON object.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The `messageId` cannot identify anything.
    #[error("messageId must be a string or a number")]
    InvalidMessageId,
}

impl Event {
    /// An event from one JSON object. Its bytes are sent as they are; an event without a `messageId` gets a UUIDv7.
    ///
    /// # Errors
    ///
    /// [`FromJsonError`], which never quotes the event.
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self, FromJsonError> {
        let json = json.into();
        let id = match json_event(&json)?.message_id.map(id_text) {
            Some(Id::Text(text)) => text.into_owned(),
            None | Some(Id::Absent) => String::new(),
            Some(Id::Invalid) => return Err(FromJsonError::InvalidMessageId),
        };
        if !id.is_empty() {
            return Ok(Self {
                message_id: id,
                json,
            });
        }
        let message_id = uuid::Uuid::now_v7().hyphenated().to_string();
        Ok(Self {
            json: with_id(&json, &message_id),
            message_id,
        })
    }

    /// An event from its fields.
    #[must_use]
    pub fn builder(kind: impl Into<String>) -> Builder {
        Builder(Map::new()).text("type", kind.into())
    }

    /// The id that makes it the same event whenever it is sent again.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// The event as one JSON object.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }
}

/// Adds an id behind all other fields: of equal keys the last one counts.
fn with_id(json: &[u8], message_id: &str) -> Bytes {
    let object = json.trim_ascii_end();
    let open = object.strip_suffix(b"}").unwrap_or(object);
    let comma = if open.trim_ascii_end().ends_with(b"{") {
        ""
    } else {
        ","
    };
    let id = format!("{comma}\"messageId\":\"{message_id}\"}}");
    [open, id.as_bytes()].concat().into()
}

/// Puts an event together.
#[derive(Debug, Clone, PartialEq)]
pub struct Builder(Map<String, Value>);

/// Why fields are not an event.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// They are nested too deeply, or the message id cannot be one.
    #[error("the fields are not an event")]
    Event(#[from] FromJsonError),
}

impl Builder {
    /// Identifies the event within its source; absent: a UUIDv7.
    #[must_use]
    pub fn message_id(self, id: impl Into<String>) -> Self {
        self.text("messageId", id.into())
    }

    /// The user, as your system knows them.
    #[must_use]
    pub fn user_id(self, id: impl Into<String>) -> Self {
        self.text("userId", id.into())
    }

    /// The user before they are known.
    #[must_use]
    pub fn anonymous_id(self, id: impl Into<String>) -> Self {
        self.text("anonymousId", id.into())
    }

    /// What happened, for the type `track`.
    #[must_use]
    pub fn event(self, event: impl Into<String>) -> Self {
        self.text("event", event.into())
    }

    /// What belongs to this occurrence.
    #[must_use]
    pub fn properties(self, properties: Map<String, Value>) -> Self {
        self.field("properties", Value::Object(properties))
    }

    /// What is known about the user or group.
    #[must_use]
    pub fn traits(self, traits: Map<String, Value>) -> Self {
        self.field("traits", Value::Object(traits))
    }

    /// The circumstances: library, device, page, campaign. In place of those that were there.
    #[must_use]
    pub fn context(self, context: Map<String, Value>) -> Self {
        self.field("context", Value::Object(context))
    }

    /// When it happened: RFC 3339, or milliseconds since 1970 as text.
    #[must_use]
    pub fn timestamp(self, timestamp: impl Into<String>) -> Self {
        self.text("timestamp", timestamp.into())
    }

    /// The trace that the event belongs to, as a `traceparent` (<https://www.w3.org/TR/trace-context/>): part of its context.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        let context = self.0.entry("context").or_insert_with(|| json!({}));
        if let Some(context) = context.as_object_mut() {
            context.insert("traceparent".into(), Value::String(traceparent.into()));
        }
        self
    }

    /// Any field, under its JSON name.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, value: Value) -> Self {
        self.0.insert(name.into(), value);
        self
    }

    fn text(self, name: &str, value: String) -> Self {
        self.field(name, Value::String(value))
    }

    /// The event.
    ///
    /// # Errors
    ///
    /// [`BuildError`].
    pub fn build(self) -> Result<Event, BuildError> {
        let json = Value::Object(self.0).to_string();
        Ok(Event::from_json(json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_added_where_there_is_none_and_kept_where_there_is() {
        let cases = [
            (r#"{"messageId":"m1","type":"track"}"#, Some("m1")),
            (r#"{"messageId":17}"#, Some("17")),
            ("{}", None),
            ("{ }\n", None),
            (r#"{"a":{}} "#, None),
            (r#"{"messageId":null,"a":1}"#, None),
            (r#"{"messageId":"","a":[1,{}]}"#, None),
        ];
        for (json, id) in cases {
            let event = Event::from_json(json).unwrap();
            match id {
                Some(id) => {
                    assert_eq!(event.message_id(), id);
                    assert_eq!(event.json(), json, "the bytes stay as they are");
                }
                None => {
                    let id = uuid::Uuid::parse_str(event.message_id()).unwrap();
                    assert_eq!(id.get_version_num(), 7, "{json}");
                    let again = Event::from_json(event.json().clone()).unwrap();
                    assert_eq!(again, event, "{json}: the id is part of the event");
                }
            }
        }
    }

    #[test]
    fn what_is_no_event_is_refused_with_a_reason() {
        let cases = [
            ("[]", "not a JSON object"),
            (r#"{"a":}"#, "not JSON at line 1, column 6"),
            (r#"{"messageId":true}"#, "messageId must be"),
        ];
        for (json, reason) in cases {
            let error = Event::from_json(json).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    #[test]
    fn fields_become_an_event() {
        let event = Event::builder("track")
            .message_id("m")
            .user_id("u")
            .event("Signed up")
            .field("plan", 3.into())
            .build()
            .unwrap();
        assert_eq!(event.message_id(), "m");
        let json: Value = serde_json::from_slice(event.json()).unwrap();
        let expected = serde_json::json!({
            "type": "track", "messageId": "m", "userId": "u", "event": "Signed up", "plan": 3
        });
        assert_eq!(json, expected);
    }
}
