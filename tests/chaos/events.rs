//! The events that the clients send: good, invalid and impossible ones, in JSON and in protobuf.

use eventkit::proto::v1;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use xxhash_rust::xxh3::xxh3_64;

use crate::odd;
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

    /// The next event: one in 25 is invalid (an error row), one in 40 as odd as can be (either), one in 60 is impossible
    /// (rejected).
    pub(crate) fn make(&mut self, json: bool) -> Made {
        let fate = match self.choose(0..300) {
            0..5 => Fate::Nothing,
            5..17 => Fate::ErrorRow,
            17..25 => Fate::AnyRow,
            _ => Fate::Row,
        };
        // Now and then it is large.
        let pad = match self.choose(0..200) {
            0 => 20_000,
            1..20 => 2_000,
            _ => 40,
        };
        let pad = self.choose(0..pad);
        self.make_as(json, fate, pad)
    }

    /// An event with a fate, and with so many bytes in it that cannot be compressed.
    pub(crate) fn make_as(&mut self, json: bool, fate: Fate, pad: u32) -> Made {
        self.number += 1;
        let mut message_id = format!("{}-{}", self.client, self.number);
        if fate == Fate::Nothing {
            message_id.push_str(&"x".repeat(257));
        }
        // Half of the users are known by an anonymous id alone.
        let user = self.choose(0..USERS);
        let draft = Draft {
            client: self.client.clone(),
            fate,
            message_id,
            routing_key: format!("{}-user-{user}", self.client),
            identified: user.is_multiple_of(2),
            properties: self.properties(pad),
            choice: self.choose(0..1000),
        };
        if json { draft.json() } else { draft.proto() }
    }

    /// A JSON object with odd spacing and spelling, which must survive untouched.
    fn properties(&mut self, pad: u32) -> String {
        let pad: String = (0..pad)
            .map(|_| char::from(b'a' + u8::try_from(self.choose(0..26)).unwrap_or(0)))
            .collect();
        let price = self.choose(0..1000);
        format!(
            r#"{{"n": {},"price":{price}.50 ,"pad":"{pad}", "näme":["\u00e9",true,null,{{"deep":1e2}}]}}"#,
            self.number
        )
    }
}

/// An event before it has a form.
struct Draft {
    client: String,
    fate: Fate,
    message_id: String,
    routing_key: String,
    identified: bool,
    properties: String,
    /// A random number for what else there is to choose.
    choice: u32,
}

impl Draft {
    fn json(self) -> Made {
        let id_field = if self.identified {
            "userId"
        } else {
            "anonymousId"
        };
        let rest = match self.fate {
            Fate::ErrorRow => r#""type":"track""#,
            Fate::AnyRow => odd::json(self.choice),
            Fate::Row | Fate::Nothing => r#""type":"track","event":"Crash Tested""#,
        };
        let text = format!(
            r#"{{ {rest},"messageId":"{}","{id_field}":"{}","properties":{}}}"#,
            self.message_id, self.routing_key, self.properties
        );
        let payload = Payload::Verbatim(xxh3_64(self.properties.as_bytes()));
        let original = xxh3_64(text.as_bytes());
        self.made(Wire::Json(text), payload, original)
    }

    fn proto(self) -> Made {
        let mut event = v1::Event {
            message_id: self.message_id.clone(),
            r#type: "track".to_owned(),
            ..v1::Event::default()
        };
        if self.identified {
            event.user_id.clone_from(&self.routing_key);
        } else {
            event.anonymous_id.clone_from(&self.routing_key);
        }
        if self.fate != Fate::ErrorRow {
            "Crash Tested".clone_into(&mut event.event);
        }
        if self.fate == Fate::AnyRow {
            odd::proto(self.choice, &mut event);
        }
        let payload = if self.choice.is_multiple_of(2) {
            event.properties = serde_json::from_str(&self.properties).ok().map(struct_of);
            Payload::Value(value_hash(self.properties.as_bytes()).unwrap_or_default())
        } else {
            event.properties_json = self.properties.clone().into();
            Payload::Verbatim(xxh3_64(self.properties.as_bytes()))
        };
        let original = xxh3_64(&event.encode_to_vec());
        self.made(Wire::Proto(Box::new(event)), payload, original)
    }

    fn made(self, wire: Wire, payload: Payload, original: u64) -> Made {
        Made {
            sent: Sent {
                message_id: self.message_id,
                routing_key: self.routing_key,
                client: self.client,
                fate: self.fate,
                payload,
                original,
            },
            wire,
        }
    }
}

pub(crate) fn struct_of(map: serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
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
