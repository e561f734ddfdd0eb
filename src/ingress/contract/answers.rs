//! Answers: the positive ones, and for each status of an endpoint the words of the closed list that it may carry.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::answer;
use super::super::outcome::{Outcome, RequestError};
use super::duty::Duty;
use super::to;
use crate::status::Code;

/// The id that requests have in examples.
const REQUEST_ID: &str = "01a20aec-ca2e-7178-9298-cc68e90db013";

/// The answers that were referred to.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By name: the codes behind it.
    errors: BTreeMap<String, (u16, Vec<Code>)>,
}

impl Answers {
    /// The answers of an endpoint, by status.
    pub(super) fn of(&mut self, duty: Duty) -> Map<String, Value> {
        let (status, name) = duty.answer();
        let mut all = Map::new();
        all.insert(status.to_string(), to("responses", name));
        if duty == Duty::Ready {
            all.insert("503".into(), to("responses", "NotReady"));
        }
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in duty.codes() {
            by_status.entry(code.http()).or_default().push(code);
        }
        for (status, mut codes) in by_status {
            codes.sort_unstable();
            codes.dedup();
            let name = self.error(status, codes);
            all.insert(status.to_string(), to("responses", &name));
        }
        all
    }

    /// The name of the answer with this status and one of these codes; endpoints that have it in common share it.
    fn error(&mut self, status: u16, codes: Vec<Code>) -> String {
        let is_same = |(name, known): (&String, &(u16, Vec<Code>))| {
            (*known == (status, codes.clone())).then(|| name.clone())
        };
        if let Some(name) = self.errors.iter().find_map(is_same) {
            return name;
        }
        let reason = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let reason = reason.unwrap_or("Error").replace(' ', "");
        let names = (1..).map(|nth| match nth {
            1 => reason.clone(),
            nth => format!("{reason}{nth}"),
        });
        let mut free = names.filter(|name| !self.errors.contains_key(name));
        let name = free.next().unwrap_or(reason.clone());
        self.errors.insert(name.clone(), (status, codes));
        name
    }

    /// All of them.
    pub(super) fn into_components(self) -> Map<String, Value> {
        let errors = self
            .errors
            .into_iter()
            .map(|(name, (_status, codes))| (name, error(&codes)));
        good().into_iter().chain(errors).collect()
    }
}

/// A refusal with one of these codes.
fn error(codes: &[Code]) -> Value {
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let lines = codes
        .iter()
        .map(|code| format!("- `{code}`: {}", code.text()));
    let lines: Vec<String> = lines.collect();
    let first = codes.first().copied().unwrap_or(Code::Internal);
    let example = RequestError::from(first);
    let mut headers = json!({ "X-Request-Id": to("headers", "RequestId") });
    let mut add = |name: &str, value: Value| {
        if let Value::Object(headers) = &mut headers {
            headers.insert(name.to_owned(), value);
        }
    };
    let comes_again = |code: &Code| RequestError::from(*code).retry_after().is_some();
    if codes.iter().all(comes_again) {
        add("Retry-After", to("headers", "RetryAfter"));
    }
    if codes == [Code::RateLimited] {
        add("X-RateLimit-Reset", to("headers", "RateLimitReset"));
    }
    if codes == [Code::UnsupportedEncoding] {
        add("Accept-Encoding", to("headers", "AcceptEncoding"));
    }
    if codes.iter().all(|code| code.http() == 401) {
        add("WWW-Authenticate", to("headers", "Challenge"));
    }
    json!({
        "description": lines.join("\n"),
        "headers": headers,
        "content": { "application/json": {
            "schema": { "allOf": [
                to("schemas", "Failure"),
                { "properties": { "code": { "enum": words } } },
            ] },
            "example": value(answer::failure_body(&example, REQUEST_ID)),
        } },
    })
}

/// The positive answers, and that of a gateway that takes nothing now.
fn good() -> Vec<(String, Value)> {
    let outcomes = [
        Outcome::Accepted {
            message_id: "order-1".into(),
            assigned: false,
        },
        Outcome::Rejected {
            message_id: None,
            code: Code::NotAnObject,
            reason: Code::NotAnObject.text().into(),
        },
    ];
    let events = value(answer::accepted_body(&outcomes, REQUEST_ID));
    let success = value(answer::success_body(&outcomes, REQUEST_ID));
    let not_ready = json!({ "status": "not_ready", "not_ready": { "log": "full" } });
    let durable = "Durable, but for what `results` says was rejected.";
    let answers = [
        ("Accepted", durable, "Accepted", events),
        ("Success", durable, "Success", success),
        ("Alive", "It lives.", "Alive", json!({ "status": "ok" })),
        (
            "Ready",
            "New work is taken.",
            "Readiness",
            json!({ "status": "ready" }),
        ),
        (
            "NotReady",
            "No new work is taken; `not_ready` says why.",
            "Readiness",
            not_ready,
        ),
    ];
    let answers = answers.map(|(name, text, schema, example)| {
        let media = json!({ "schema": to("schemas", schema), "example": example });
        (name, text, ("application/json", media), false)
    });
    let kept = [
        ("Settings", "The settings of a write key.", "Settings"),
        (
            "SourceConfig",
            "A source that is switched on.",
            "SourceConfig",
        ),
        ("Contract", "An OpenAPI document.", "Contract"),
    ];
    let kept = kept.map(|(name, text, schema)| {
        let media = json!({ "schema": to("schemas", schema) });
        (name, text, ("application/json", media), true)
    });
    let pictures = [
        ("Picture", "A transparent pixel."),
        (
            "LookedFor",
            "It is there. Whoever only looks has not seen it: nothing is stored.",
        ),
    ];
    let pictures = pictures.map(|(name, text)| (name, text, ("image/gif", json!({})), true));
    let all = answers.into_iter().chain(kept).chain(pictures);
    all.map(|(name, text, (media_type, media), says_how_long)| {
        let mut headers = Map::new();
        headers.insert("X-Request-Id".into(), to("headers", "RequestId"));
        if says_how_long {
            headers.insert("Cache-Control".into(), to("headers", "CacheControl"));
        }
        let answer =
            json!({ "description": text, "headers": headers, "content": { media_type: media } });
        (name.to_owned(), answer)
    })
    .collect()
}

fn value(body: impl Serialize) -> Value {
    serde_json::to_value(body).expect("plain structs of strings and numbers are JSON")
}
