//! What bodies look like.

use serde_json::{Map, Value, json};

use super::duty::EVENT;
use super::to;
use crate::config::IngressConfig;
use crate::event::MESSAGE_ID_BYTES_MAX;
use crate::status::Code;
use crate::worker::validate::{TEXT_BYTES_MAX, TYPE_BYTES_MAX};

pub(super) fn all(config: &IngressConfig) -> Map<String, Value> {
    let mut all = Map::new();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let code = json!({
        "type": "string",
        "enum": codes,
        "description": "The closed list, the same in both protocols, the error store, metrics and logs. A code is never renamed and never reused; new ones may come.",
    });
    let requests = [
        ("Event", event()),
        ("AnyEvent", any_event()),
        ("Events", events(config.batch_events_max)),
        ("Batch", batch(config.batch_events_max)),
        (
            "Figures",
            json!({ "description": "Any body.", "examples": [{ "series": [] }] }),
        ),
    ];
    let answers = [
        ("Code", code),
        ("Result", result()),
        (
            "Accepted",
            counted(&json!({ "status": { "const": "accepted" } })),
        ),
        ("Success", counted(&json!({ "success": { "const": true } }))),
        ("Failure", failure()),
        (
            "Alive",
            object(&json!({ "status": { "const": "ok" } }), &["status"]),
        ),
        ("Readiness", readiness()),
        ("Settings", settings()),
        ("SourceConfig", source_config()),
        ("Contract", contract()),
    ];
    for (name, schema) in requests.into_iter().chain(answers) {
        all.insert(name.to_owned(), schema);
    }
    all
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

/// What becomes a row.
fn event() -> Value {
    let text = |bytes: usize, what: &str| {
        let description = format!("{what} At most {bytes} bytes.");
        json!({ "type": ["string", "null"], "description": description })
    };
    let id = |bytes: usize, what: &str| {
        let description =
            format!("{what} At most {bytes} bytes; a number is taken digit for digit.");
        json!({ "type": ["string", "number", "null"], "description": description })
    };
    let moment = |what: &str| json!({ "type": ["string", "number", "null"], "description": format!("{what} ISO 8601 or Unix time.") });
    let part = |what: &str| json!({ "type": ["object", "null"], "description": what });
    let long = TEXT_BYTES_MAX;
    json!({
        "type": "object",
        "description": "An event as it becomes a row. `identify`, `track`, `page`, `screen` and `group` need `userId` or `anonymousId`; `track` needs `event`, `group` needs `groupId`, \
            `alias` needs `previousId` and `userId`. Every further member is kept in the column `extra`, but for `writeKey`, which is stored nowhere.",
        "properties": {
            "type": text(TYPE_BYTES_MAX, "`identify`, `track`, `page`, `screen`, `group`, `alias`, or a type of your own; not needed where the path says it."),
            "messageId": id(MESSAGE_ID_BYTES_MAX, "Half of the event's identity: a repeat with the same id ends as the same row. Clients that repeat must set it."),
            "userId": id(long, "The user; events of one user keep their order."),
            "anonymousId": id(long, "The user before they are known."),
            "event": text(long, "What happened."),
            "name": text(long, "The name of a page or screen."),
            "category": text(long, "The category of a page or screen."),
            "groupId": id(long, "The group that the user joins."),
            "previousId": id(long, "The former id of the user."),
            "timestamp": moment("When it happened, by the client's clock."),
            "originalTimestamp": moment("The same, where an SDK corrects `timestamp` itself."),
            "sentAt": moment("When it was sent, by the same clock: the clock's error is taken out of `timestamp`."),
            "properties": part("What belongs to this occurrence."),
            "traits": part("What is known about the user or group."),
            "context": part("The circumstances; `context.traceparent` names a trace."),
            "integrations": part("Destinations; stored, not interpreted."),
            "writeKey": { "type": ["string", "null"], "description": "Whose event it is, where no header says it." },
        },
        "examples": [{ "type": "track", "messageId": "order-1", "userId": "ada", "event": "Order Placed" }],
    })
}

/// What is taken in.
fn any_event() -> Value {
    json!({
        "description": "Any JSON object is taken. One that is no event is accepted all the same and becomes an error row with a reason.",
        "anyOf": [to("schemas", "Event"), { "type": "object" }],
    })
}

fn events(max: usize) -> Value {
    json!({
        "description": "One event, or an array of them. An item that is no object is rejected by itself.",
        "anyOf": [
            to("schemas", "AnyEvent"),
            { "type": "array", "items": to("schemas", "AnyEvent"), "maxItems": max },
        ],
    })
}

fn batch(max: usize) -> Value {
    let shared = |what: &str| json!({ "type": ["object", "null"], "description": what });
    let properties = json!({
        "batch": {
            "type": "array",
            "items": to("schemas", "AnyEvent"),
            "maxItems": max,
            "description": "An item that is no object is rejected by itself.",
        },
        "context": shared("Lies under each event's own `context`, which wins."),
        "integrations": shared("Lies under each event's own `integrations`, which win."),
        "sentAt": { "description": "When the client sent the batch, by its own clock. One that cannot be read costs the correction of times alone." },
        "writeKey": { "description": "A string: whose events they are, where no header says it. Anything else is no key." },
    });
    object(&properties, &["batch"])
}

fn result() -> Value {
    let codes = EVENT.iter().chain(&[Code::StreamNotAllowed]);
    let words: Vec<&str> = codes.map(|code| code.as_str()).collect();
    let mut result = object(
        &json!({
            "index": { "type": "integer", "minimum": 0, "description": "The event's place in the request." },
            "status": { "enum": ["accepted", "duplicate", "rejected"] },
            "message_id": {
                "type": ["string", "null"],
                "description": "The client's id, or the one that the gateway gave; null where a rejected event has none that can be read.",
            },
            "code": { "enum": words, "description": "Why it was rejected." },
            "reason": { "type": "string", "description": "The same for people." },
        }),
        &["index", "status", "message_id"],
    );
    if let Value::Object(result) = &mut result {
        let rejected = json!({ "properties": { "status": { "const": "rejected" } } });
        result.insert("if".into(), rejected);
        result.insert("then".into(), json!({ "required": ["code", "reason"] }));
    }
    result
}

fn counts() -> Map<String, Value> {
    let count = |what: &str| json!({ "type": "integer", "minimum": 0, "description": what });
    let counts = json!({
        "accepted": count("Events that this request stored."),
        "duplicate": count("Events that were stored before, under the same source and message id."),
        "rejected": count("Events that were not stored and never will be as they are."),
        "results": { "type": "array", "items": to("schemas", "Result"), "description": "One for each event, in the order of the request." },
        "request_id": { "type": "string" },
    });
    match counts {
        Value::Object(counts) => counts,
        _ => Map::new(),
    }
}

/// An answer with one outcome for each event.
fn counted(own: &Value) -> Value {
    let own = own.as_object().cloned().unwrap_or_default();
    let properties: Map<String, Value> = own.into_iter().chain(counts()).collect();
    let required: Vec<&String> = properties.keys().collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn failure() -> Value {
    let own = json!({
        "success": { "const": false },
        "code": to("schemas", "Code"),
        "message": { "type": "string", "description": "The same for people; says whether to retry." },
        "error": { "type": "string", "description": "The same as `message`: some SDKs look for it here." },
    });
    let own = own.as_object().cloned().unwrap_or_default();
    let properties: Map<String, Value> = own.into_iter().chain(counts()).collect();
    json!({
        "type": "object",
        "description": "The request as a whole was refused. `results` and the counts are there when it had events and each was rejected.",
        "properties": properties,
        "required": ["success", "code", "message", "error", "request_id"],
        "dependentRequired": { "results": ["accepted", "duplicate", "rejected"] },
    })
}

fn readiness() -> Value {
    let reasons = |what: &str| json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": what });
    let properties = json!({
        "status": { "enum": ["ready", "not_ready"] },
        "not_ready": reasons("Why no new work is taken, by component."),
        "degraded": reasons("What does not work although work is taken, by component."),
    });
    object(&properties, &["status"])
}

fn settings() -> Value {
    let source = object(&json!({ "apiKey": { "type": "string" } }), &["apiKey"]);
    let integrations = object(&json!({ "Segment.io": source }), &["Segment.io"]);
    let properties = json!({
        "integrations": integrations,
        "plan": { "type": "object" },
        "analyticsNextEnabled": { "const": true },
    });
    object(
        &properties,
        &["integrations", "plan", "analyticsNextEnabled"],
    )
}

fn source_config() -> Value {
    let source = json!({
        "id": { "type": "string" },
        "enabled": { "const": true },
        "config": { "type": "object" },
        "destinations": { "type": "array" },
    });
    let source = object(&source, &["id", "enabled", "config", "destinations"]);
    object(&json!({ "source": source }), &["source"])
}

fn contract() -> Value {
    let properties = json!({ "openapi": { "type": "string" }, "info": { "type": "object" }, "paths": { "type": "object" } });
    object(&properties, &["openapi", "info", "paths"])
}
