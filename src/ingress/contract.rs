//! The contract of the HTTP door for machines: an OpenAPI document, made of the program's own tables when it is first asked for.
//!
//! - Paths and methods are those of [`paths`], from which the router is made. Statuses, words and texts are those of
//!   [`Code`](crate::status::Code), limits those in force; examples of answers are written by the code that writes answers.
//! - `duty` says of each endpoint what it takes and what it may answer, by a match without a rest: an endpoint that nobody has
//!   described does not compile.
//! - No library: those that make such documents read them off annotated handlers and types. Here nearly two hundred paths share a few
//!   handlers, bodies are never read into types, and the annotations would be a second copy of both tables.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::auth::Strangers;
use super::paths::{self, Serves};
use super::{Ingress, unpack::Encoding};
use crate::config::IngressConfig;

mod answers;
mod duty;
mod parts;
mod schemas;

use answers::Answers;
use duty::{Asks, Duty};

/// The document of one door, once somebody has asked for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Document(Arc<OnceLock<Bytes>>);

impl Document {
    pub(super) fn bytes(&self, ingress: &Ingress) -> Bytes {
        let written = self.0.get_or_init(|| {
            let document = of(ingress.config(), ingress.keys().strangers());
            document.to_string().into()
        });
        written.clone()
    }
}

/// The whole document.
fn of(config: &IngressConfig, strangers: Strangers) -> Value {
    let mut answers = Answers::default();
    let mut shared = BTreeMap::new();
    let paths: Map<String, Value> = paths::all()
        .map(|(path, serves)| {
            let item = match shared_name(serves, &path) {
                None => {
                    let id = operation_id(&path);
                    item(serves, Some(id), strangers, &mut answers)
                }
                Some(name) => {
                    let reference = to("pathItems", &name);
                    shared
                        .entry(name)
                        .or_insert_with(|| item(serves, None, strangers, &mut answers));
                    reference
                }
            };
            (path, item)
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": info(config),
        "servers": servers(&config.http_prefix),
        "tags": duty::tags(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(config),
            "parameters": parts::parameters(),
            "headers": parts::headers(),
            "requestBodies": parts::request_bodies(),
            "responses": answers.into_components(),
            "securitySchemes": parts::security_schemes(),
            "pathItems": shared,
        },
    })
}

fn info(config: &IngressConfig) -> Value {
    let IngressConfig {
        event_bytes_max,
        body_bytes_max,
        batch_events_max,
        depth_max,
        keys_max,
        ..
    } = config;
    let encodings = Encoding::NAMES;
    json!({
        "title": "eventkit",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "Product events over HTTP: accepted means fsynced, each event is one row.",
        "description": format!(
            "Every event of a request has exactly one outcome: accepted, duplicate or rejected. A positive answer is sent only once the events are \
             durable. Send again, with the same message ids, what was answered with 408, 429 or 5xx or not at all; nothing else.\n\n\
             Limits of this gateway: an event has at most {event_bytes_max} bytes, {depth_max} levels and {keys_max} keys; a body at most \
             {body_bytes_max} bytes, after decompression, and {batch_events_max} events. A body may be packed ({encodings}) and is read as JSON whatever its \
             Content-Type says, but for those of gRPC, which lead to the other protocol of this port.\n\n\
             `OPTIONS` is answered at every path with 204, for browsers' preflights; every answer lets its origin read it. A path that is not here is answered \
             with 404 `not_found`, a method that is not here with 405 `method_not_allowed`."
        ),
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        "x-limits": {
            "event_bytes": event_bytes_max,
            "body_bytes": body_bytes_max,
            "batch_events": batch_events_max,
            "event_depth": depth_max,
            "event_keys": keys_max,
        },
    })
}

fn servers(prefix: &str) -> Value {
    let mut servers = vec![json!({ "url": "/" })];
    if !prefix.is_empty() {
        servers.push(json!({ "url": prefix, "description": "The same paths once more." }));
    }
    servers.into()
}

/// One path's methods.
fn item(
    serves: Serves,
    operation_id: Option<String>,
    strangers: Strangers,
    answers: &mut Answers,
) -> Value {
    let duty = Duty::of(serves);
    let mut operation = json!({
        "tags": [duty.tag()],
        "summary": duty.summary(),
        "responses": answers.of(duty),
        "security": security(duty.asks(), strangers),
    });
    let mut add = |name: &str, value: Value| {
        if let Value::Object(operation) = &mut operation {
            operation.insert(name.to_owned(), value);
        }
    };
    let parameters = duty.parameters();
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| to("parameters", name))
        .collect();
    add("parameters", parameters.into());
    if let Some(text) = duty.description(serves) {
        add("description", text.into());
    }
    if let Some(body) = duty.request_body() {
        add("requestBody", to("requestBodies", body));
    }
    if let Some(id) = operation_id {
        add("operationId", id.into());
    }
    match duty {
        Duty::Pixel(_) => json!({ "get": operation, "head": parts::looked_for() }),
        _ => json!({ (serves.method().to_ascii_lowercase()): operation }),
    }
}

/// What a request has to bring. A key in the body is no scheme that OpenAPI knows: it is a member of the bodies.
fn security(asks: Asks, strangers: Strangers) -> Value {
    let schemes = || {
        parts::SECURITY_SCHEMES
            .iter()
            .map(|name| json!({ *name: [] }))
    };
    match (asks, strangers) {
        (Asks::Nothing, _) => json!([]),
        (Asks::Key, Strangers::Refused) => schemes().collect(),
        (Asks::Key | Asks::NoWrongKey, _) => std::iter::once(json!({})).chain(schemes()).collect(),
    }
}

/// The name that an endpoint's item has where several spellings share it; `None`: the path has one of its own.
fn shared_name(serves: Serves, path: &str) -> Option<String> {
    match serves {
        Serves::Segment(endpoint) if endpoint.label != path => Some(duty::name(endpoint)),
        Serves::Collect if path != "/collect" => Some("collect".to_owned()),
        _ => None,
    }
}

/// `/collect/{stream}` is `collectStream`.
fn operation_id(path: &str) -> String {
    let words = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !matches!(*word, "" | "v1"));
    words.enumerate().fold(String::new(), |id, (at, word)| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        match at {
            0 => format!("{first}{rest}"),
            _ => format!("{id}{}{rest}", first.to_ascii_uppercase()),
        }
    })
}

/// A reference to a part that stands among the components.
fn to(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

#[cfg(test)]
mod tests;
