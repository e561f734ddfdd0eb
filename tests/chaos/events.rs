//! The events that the clients send: good, invalid and impossible ones, in JSON and in protobuf.

use eventkit::proto::v1;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use xxhash_rust::xxh3::xxh3_64;

use crate::support::ledger::{Fate, Payload, Sent};
use crate::support::warehouse::value_hash;

/// One event, ready to be sent, and what the oracle needs to know about it.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) sent: Sent,
    pub(crate) wire: Wire,
}

/// The event's form on the wire.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    Json(String),
    Proto(Box<v1::Event>),
}

/// Makes the events of one client. Its users belong to it alone, so that it knows their order.
#[derive(Debug)]
pub(crate) struct Maker {
    client: String,
    number: u64,
    rng: StdRng,
}

/// How many users a client speaks for.
const USERS: u32 = 4;

impl Maker {
    pub(crate) fn new(client: &str, seed: u64) -> Self {
        Self {
            client: client.to_owned(),
            number: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A number of the client's own choice.
    pub(crate) fn choose(&mut self, range: std::ops::Range<u32>) -> u32 {
        self.rng.random_range(range)
    }

    /// The next event: one in 25 is invalid (an error row), one in 60 is impossible (rejected).
    pub(crate) fn make(&mut self, json: bool) -> Made {
        self.number += 1;
        let fate = match self.choose(0..300) {
            0..5 => Fate::Nothing,
            5..17 => Fate::ErrorRow,
            _ => Fate::Row,
        };
        let mut message_id = format!("{}-{}", self.client, self.number);
        if fate == Fate::Nothing {
            message_id.push_str(&"x".repeat(257));
        }
        // Half of the users are known by an anonymous id alone.
        let user = self.choose(0..USERS);
        let routing_key = format!("{}-user-{user}", self.client);
        let identified = user.is_multiple_of(2);
        let properties = self.properties();
        if json {
            json_event(
                &self.client,
                fate,
                message_id,
                (routing_key, identified),
                &properties,
            )
        } else {
            let as_struct = self.choose(0..2) == 0;
            let ids = (routing_key, identified);
            proto_event(
                &self.client,
                fate,
                message_id,
                ids,
                (&properties, as_struct),
            )
        }
    }

    /// A JSON object with odd spacing and spelling, which must survive untouched. Now and then it is large.
    fn properties(&mut self) -> String {
        let pad = match self.choose(0..200) {
            0 => 20_000,
            1..20 => 2_000,
            _ => 40,
        };
        let pad: String = (0..self.choose(0..pad))
            .map(|_| char::from(b'a' + u8::try_from(self.choose(0..26)).unwrap_or(0)))
            .collect();
        let price = self.choose(0..1000);
        format!(
            r#"{{"n": {},"price":{price}.50 ,"pad":"{pad}", "näme":["\u00e9",true,null,{{"deep":1e2}}]}}"#,
            self.number
        )
    }
}

fn json_event(
    client: &str,
    fate: Fate,
    message_id: String,
    (routing_key, identified): (String, bool),
    properties: &str,
) -> Made {
    let id_field = if identified { "userId" } else { "anonymousId" };
    let event = if fate == Fate::ErrorRow {
        ""
    } else {
        r#","event":"Crash Tested""#
    };
    let text = format!(
        r#"{{ "type":"track","messageId":"{message_id}","{id_field}":"{routing_key}"{event},"properties":{properties}}}"#
    );
    Made {
        sent: Sent {
            message_id,
            routing_key,
            client: client.to_owned(),
            fate,
            payload: Payload::Verbatim(xxh3_64(properties.as_bytes())),
            original: xxh3_64(text.as_bytes()),
        },
        wire: Wire::Json(text),
    }
}

fn proto_event(
    client: &str,
    fate: Fate,
    message_id: String,
    (routing_key, identified): (String, bool),
    (properties, as_struct): (&str, bool),
) -> Made {
    let mut event = v1::Event {
        message_id: message_id.clone(),
        r#type: "track".to_owned(),
        ..v1::Event::default()
    };
    if identified {
        event.user_id.clone_from(&routing_key);
    } else {
        event.anonymous_id.clone_from(&routing_key);
    }
    if fate != Fate::ErrorRow {
        "Crash Tested".clone_into(&mut event.event);
    }
    let payload = if as_struct {
        event.properties = serde_json::from_str(properties).ok().map(struct_of);
        Payload::Value(value_hash(properties.as_bytes()).unwrap_or_default())
    } else {
        event.properties_json = properties.to_owned().into();
        Payload::Verbatim(xxh3_64(properties.as_bytes()))
    };
    Made {
        sent: Sent {
            message_id,
            routing_key,
            client: client.to_owned(),
            fate,
            payload,
            original: xxh3_64(&event.encode_to_vec()),
        },
        wire: Wire::Proto(Box::new(event)),
    }
}

fn struct_of(map: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct {
        fields: map
            .into_iter()
            .map(|(key, value)| (key, value_of(value)))
            .collect(),
    }
}

fn value_of(value: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(value_of).collect(),
        }),
        Value::Object(map) => Kind::StructValue(struct_of(map)),
    };
    prost_types::Value { kind: Some(kind) }
}
