//! Parameters, headers, bodies and credentials: what requests and answers have in common.

use serde_json::{Map, Value, json};

use super::super::admit::STREAM_BYTES_MAX;
use super::to;

/// In the order in which a key is looked for; the body is the last.
pub(super) const SECURITY_SCHEMES: [&str; 4] = ["basic", "bearer", "header", "query"];

pub(super) fn security_schemes() -> Value {
    let place = |place: &str, name: &str, text: &str| json!({ "type": "apiKey", "in": place, "name": name, "description": text });
    json!({
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "The write key as the user, any password. SDKs that know no header have it in the body, as `writeKey`.",
        },
        "bearer": { "type": "http", "scheme": "bearer", "description": "The write key as a token. A token that is no key is passed over." },
        "header": place("header", "X-Write-Key", "The write key."),
        "query": place("query", "writeKey", "The write key; `writekey` is taken as well."),
    })
}

pub(super) fn parameters() -> Value {
    let header = |name: &str, text: &str, schema: Value| json!({ "name": name, "in": "header", "description": text, "schema": schema });
    let text = || json!({ "type": "string" });
    let rest = STREAM_BYTES_MAX - 1;
    let encodings = super::Encoding::NAMES.split(", ").chain(["identity", ""]);
    let encodings: Vec<&str> = encodings.collect();
    json!({
        "Stream": {
            "name": "stream",
            "in": "path",
            "required": true,
            "description": "The stream that the events are stored under.",
            "schema": {
                "type": "string",
                "pattern": format!("^[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{rest}}}$"),
                "minLength": 1,
                "maxLength": STREAM_BYTES_MAX,
            },
            "example": "shop",
        },
        "Key": {
            "name": "key",
            "in": "path",
            "required": true,
            "description": "The write key that an SDK was given.",
            "schema": { "type": "string", "minLength": 1 },
            "example": "any",
        },
        "ContentEncoding": header(
            "Content-Encoding",
            "How the body is packed; empty: it is not. Limits count what it unpacks to.",
            json!({ "type": "string", "enum": encodings }),
        ),
        "SentAt": header(
            "SentAt",
            "When the client sent the request, by its own clock (RudderStack's SDKs); the body's `sentAt` goes before. One that cannot be read is passed over.",
            text(),
        ),
        "RequestId": header(
            "X-Request-Id",
            "Names the request in the answer and in the gateway's logs, if it is 1 to 128 visible ASCII characters; else one is made.",
            text(),
        ),
        "Traceparent": header("traceparent", "The trace that the request belongs to (W3C Trace Context).", text()),
        "EventInQuery": event_in_query(),
    })
}

/// The event of a picture: in `data`, or a parameter for each field.
fn event_in_query() -> Value {
    json!({
        "name": "event",
        "in": "query",
        "required": true,
        "style": "form",
        "explode": true,
        "description": "`data` is the event's JSON in base64. Without it each parameter is a field; one dot leads one level deeper, as in `properties.campaign`.",
        "schema": {
            "type": "object",
            "minProperties": 1,
            "properties": { "data": { "type": "string", "contentEncoding": "base64", "contentMediaType": "application/json", "format": "event-in-base64" } },
        },
        "examples": {
            "data": { "value": { "data": "eyJ1c2VySWQiOiJhZGEiLCJldmVudCI6Ik1haWwgT3BlbmVkIn0=" } },
            "fields": { "value": { "userId": "ada", "event": "Mail Opened", "properties.campaign": "spring" } },
        },
    })
}

pub(super) fn headers() -> Value {
    json!({
        "RequestId": {
            "required": true,
            "description": "Names the request in the gateway's logs: the client's own id, or one that was made.",
            "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" },
        },
        "RetryAfter": {
            "required": true,
            "description": "Seconds to wait before the same is sent again.",
            "schema": { "type": "integer", "minimum": 1, "maximum": 300 },
        },
        "RateLimitReset": {
            "required": true,
            "description": "The same as a moment, in milliseconds since 1970.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "AcceptEncoding": {
            "required": true,
            "description": "The encodings that are taken.",
            "schema": { "const": super::Encoding::NAMES },
        },
        "Challenge": {
            "required": true,
            "description": "Not Basic, for which browsers would ask the person in front of them.",
            "schema": { "type": "string", "pattern": "^Bearer " },
        },
        "CacheControl": {
            "required": true,
            "description": "For how long the answer may be kept.",
            "schema": { "type": "string" },
        },
    })
}

pub(super) fn request_bodies() -> Map<String, Value> {
    let track = json!({ "type": "track", "messageId": "order-1", "userId": "ada", "event": "Order Placed", "properties": { "total": 12.5 } });
    let page =
        json!({ "type": "page", "messageId": "view-1", "anonymousId": "a-1", "name": "Home" });
    let batch = json!({
        "batch": [track, page],
        "context": { "library": { "name": "curl", "version": "8" } },
        "sentAt": "2026-01-02T03:04:05.678Z",
        "writeKey": "any",
    });
    let figures = json!({ "series": [{ "type": "Counter", "metric": "analytics_js.invoke", "value": 1, "tags": {} }] });
    let named = [
        (
            "Events",
            "One event, or an array of them.",
            "Events",
            json!({ "one": { "value": track }, "several": { "value": [track, page] }, "none": { "value": [] } }),
        ),
        (
            "Batch",
            "Events with what they share.",
            "Batch",
            json!({ "batch": { "value": batch } }),
        ),
        (
            "Figures",
            "What an SDK counted; a body without any that can be counted is taken as well.",
            "Figures",
            json!({ "figures": { "value": figures } }),
        ),
    ];
    let of_type = ["identify", "track", "page", "screen", "group", "alias"].map(|kind| {
        let example = json!({ kind: { "value": example_of(kind) } });
        (
            kind,
            "One event; its type is the path's, whatever it says itself.",
            "AnyEvent",
            example,
        )
    });
    let all = named.into_iter().chain(of_type);
    all.map(|(name, text, schema, examples)| {
        let media = json!({ "schema": to("schemas", schema), "examples": examples });
        let body = json!({
            // What SDKs say of themselves may be nothing at all.
            "required": name != "Figures",
            "description": text,
            "content": { "application/json": media, "text/plain": media },
        });
        (name.to_owned(), body)
    })
    .collect()
}

fn example_of(kind: &str) -> Value {
    let traits = json!({ "plan": "free" });
    match kind {
        "identify" => json!({ "messageId": "m-1", "userId": "ada", "traits": traits }),
        "track" => {
            json!({ "messageId": "m-2", "userId": "ada", "event": "Order Placed", "properties": { "total": 12.5 } })
        }
        "group" => {
            json!({ "messageId": "m-3", "userId": "ada", "groupId": "g-1", "traits": traits })
        }
        "alias" => json!({ "messageId": "m-4", "userId": "ada", "previousId": "a-1" }),
        _ => json!({ "messageId": "m-5", "anonymousId": "a-1", "name": "Home" }),
    }
}

/// `HEAD` of a picture.
pub(super) fn looked_for() -> Value {
    json!({
        "tags": ["pixels"],
        "summary": "Look whether the picture is there",
        "parameters": [to("parameters", "RequestId")],
        "responses": { "200": to("responses", "LookedFor") },
        "security": [],
    })
}
