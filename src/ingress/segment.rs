//! Segment's HTTP paths: `POST /v1/{identify,track,page,screen,group,alias}` with one event, `POST /v1/{batch,import}`
//! with an envelope around many.
//!
//! - The answer is exactly `200` with `"success":true` once the events are judged and what could be held is durable; single
//!   events that were rejected stand in `results`. `400` is solely for a body that is no usable envelope: some clients
//!   resend a whole batch on any error, others drop it.
//! - An envelope's `context`, `integrations` and `sentAt` hold for each of its events. The events themselves are cut out
//!   by the splitter, so that a bad one never costs its neighbours, and no tree is built.
//! - `writeKey` is a credential: it is tolerated wherever clients put it, and never stored.

use std::borrow::Cow;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use http::{Request, Response};
use serde_json::value::RawValue;

use super::decode::scan::{self, Item, Member, SplitError};
use super::decode::{Id, id_text};
use super::http as door;
use super::lines::Line;
use super::outcome::{Outcome, RequestError};
use super::{Ingress, Input, Protocol, Shared, StreamOf, Submission, answer, request_id, spans};
use crate::event::Micros;
use crate::status::Code;
use crate::worker::adapt::time;

/// A path, and the type that it gives its one event; without one it takes an envelope.
#[derive(Debug, Clone, Copy)]
struct Endpoint {
    path: &'static str,
    kind: Option<&'static str>,
}

const ENDPOINTS: [Endpoint; 8] = [
    Endpoint::one("/v1/identify", "identify"),
    Endpoint::one("/v1/track", "track"),
    Endpoint::one("/v1/page", "page"),
    Endpoint::one("/v1/screen", "screen"),
    Endpoint::one("/v1/group", "group"),
    Endpoint::one("/v1/alias", "alias"),
    Endpoint::many("/v1/batch"),
    Endpoint::many("/v1/import"),
];

impl Endpoint {
    const fn one(path: &'static str, kind: &'static str) -> Self {
        Self {
            path,
            kind: Some(kind),
        }
    }

    const fn many(path: &'static str) -> Self {
        Self { path, kind: None }
    }
}

/// The path among these that is the given one.
pub(super) fn route(path: &str) -> Option<&'static str> {
    let mut known = ENDPOINTS.iter().map(|endpoint| endpoint.path);
    known.find(|known| *known == path)
}

/// Adds the paths under a prefix, each with and without a slash at its end.
pub(super) fn routes(mut router: Router<Ingress>, prefix: &str) -> Router<Ingress> {
    for endpoint in ENDPOINTS {
        let take = post(
            async move |State(ingress): State<Ingress>, request: Request<Body>| {
                answer_to(&ingress, endpoint, request).await
            },
        );
        router = router
            .route(&format!("{prefix}{}", endpoint.path), take.clone())
            .route(&format!("{prefix}{}/", endpoint.path), take);
    }
    router
}

async fn answer_to(
    ingress: &Ingress,
    endpoint: Endpoint,
    request: Request<Body>,
) -> Response<Body> {
    let request_id = request_id::of(request.headers(), ingress.now());
    let line = Line {
        method: "POST",
        path: endpoint.path,
        event_type: endpoint.kind.unwrap_or("any"),
        stream: endpoint
            .kind
            .map_or("any", |kind| StreamOf::ItsType.of(kind)),
        request_id: &request_id,
    };
    let stored = store(ingress, endpoint, &request_id, request);
    door::answered(ingress, line, stored).await
}

async fn store(
    ingress: &Ingress,
    endpoint: Endpoint,
    request_id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, RequestError> {
    let span = spans::of(request.extensions());
    let (body, _held) = door::read_body(ingress, request).await?;
    let envelope = match endpoint.kind {
        Some(_) => Envelope::of_one(&body)?,
        None => Envelope::read(&body, ingress.config().batch_events_max)?,
    };
    let events: Vec<Cow<'_, [u8]>> = envelope
        .items
        .iter()
        .map(|item| without_write_key(item.bytes))
        .collect();
    let items = envelope.items.iter().zip(&events);
    let outcomes = ingress
        .submit(Submission {
            protocol: Protocol::Http,
            request_id,
            stream: StreamOf::ItsType,
            kind: endpoint.kind,
            shared: envelope.shared,
            sent_at: envelope.sent_at,
            deadline: None,
            span,
            inputs: items
                .map(|(item, bytes)| Input::Json(Item { bytes, ..*item }))
                .collect(),
        })
        .await?;
    match outcomes.as_slice() {
        // Of a body with one event, that event is the envelope.
        [
            Outcome::Rejected {
                code: code @ (Code::InvalidJson | Code::InvalidUtf8),
                reason,
                ..
            },
        ] if endpoint.kind.is_some() => Err(RequestError::new(*code, reason.clone())),
        outcomes => Ok(answer::success(outcomes, request_id)),
    }
}

/// What a body carries.
#[derive(Debug, Default)]
struct Envelope<'a> {
    items: Vec<Item<'a>>,
    shared: Shared<'a>,
    sent_at: Option<Micros>,
}

impl<'a> Envelope<'a> {
    /// A body that is one event. Its own `sentAt` is read with it.
    fn of_one(body: &'a [u8]) -> Result<Self, RequestError> {
        scan::members(body, |_member| {}).map_err(unusable)?;
        Ok(Self {
            items: scan::split(body, 1).map_err(unusable)?,
            ..Self::default()
        })
    }

    /// `{"batch":[…],"context":…,"integrations":…,"sentAt":…}`; of a key that occurs twice the last value counts, and
    /// every other key is passed over.
    fn read(body: &'a [u8], events_max: usize) -> Result<Self, RequestError> {
        let (mut batch, mut context, mut integrations, mut sent_at) = (None, None, None, None);
        scan::members(body, |member| {
            let place = match key(&member).as_ref() {
                "batch" => &mut batch,
                "context" => &mut context,
                "integrations" => &mut integrations,
                "sentAt" => &mut sent_at,
                _ => return,
            };
            *place = Some(member.value);
        })
        .map_err(unusable)?;
        let batch = batch
            .filter(|batch| batch.starts_with(b"["))
            .ok_or_else(|| malformed("the body has no array \"batch\"").in_field("batch"))?;
        Ok(Self {
            items: scan::split(batch, events_max).map_err(unusable)?,
            shared: Shared::new(
                object("context", context)?,
                object("integrations", integrations)?,
            ),
            sent_at: sent_at.and_then(moment),
        })
    }
}

/// A member's key as text; a key that has none is like no other.
fn key<'a>(member: &Member<'a>) -> Cow<'a, str> {
    match serde_json::from_slice::<&RawValue>(member.key).map(id_text) {
        Ok(Id::Text(text)) => text,
        Ok(Id::Absent | Id::Invalid) | Err(_) => Cow::Borrowed(""),
    }
}

/// A shared part: an object, or nothing.
fn object<'a>(field: &'static str, value: Option<&'a [u8]>) -> Result<&'a [u8], RequestError> {
    let value = value.unwrap_or(b"null");
    match serde_json::from_slice::<&RawValue>(value).map(RawValue::get) {
        Ok("null") => Ok(&[]),
        Ok(json) if json.starts_with('{') => Ok(value),
        Ok(_) | Err(_) => {
            let text = format!("the batch's {field} is not a JSON object");
            Err(malformed(&text).in_field(field))
        }
    }
}

/// When the client says it sent the envelope. A time that cannot be read costs the correction, never the events.
fn moment(value: &[u8]) -> Option<Micros> {
    match id_text(serde_json::from_slice(value).ok()?) {
        Id::Text(text) => time::parse(&text).ok(),
        Id::Absent | Id::Invalid => None,
    }
}

/// The event with `null` in the place of every top-level `writeKey`. Bytes that are no object are left as they are: they
/// are rejected, and stored nowhere.
fn without_write_key(event: &[u8]) -> Cow<'_, [u8]> {
    let mut found = Vec::new();
    let outline = scan::members(event, |member| {
        if key(&member) == "writeKey" {
            found.push((member.value_at, member.value.len()));
        }
    });
    if found.is_empty() || outline.is_err() {
        return Cow::Borrowed(event);
    }
    let mut rest = event;
    let mut kept = Vec::with_capacity(event.len());
    let mut at = 0;
    for (value_at, length) in found {
        let (before, from_value) = rest.split_at(value_at - at);
        kept.extend_from_slice(before);
        kept.extend_from_slice(b"null");
        rest = from_value.get(length..).unwrap_or_default();
        at = value_at + length;
    }
    kept.extend_from_slice(rest);
    Cow::Owned(kept)
}

fn unusable(error: SplitError) -> RequestError {
    match error {
        SplitError::NotABatch => malformed("the body is not a JSON object"),
        error => door::malformed(error),
    }
}

fn malformed(what: &str) -> RequestError {
    RequestError::new(Code::MalformedRequest, format!("{what}; do not retry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Envelope<'_>, RequestError> {
        Envelope::read(body.as_bytes(), 3)
    }

    #[test]
    fn an_envelope_is_read_without_its_events() {
        let body = r#" {"writeKey":"k","sentAt":"1970-01-01T00:00:01Z","batch":[{"a":tru}, {"b":"]"},1],"x":[{}],
            "context":{"ip" : "::1"},"integrations":null} "#;
        let envelope = read(body).unwrap();
        let items: Vec<_> = envelope.items.iter().map(|item| item.bytes).collect();
        assert_eq!(items, [&br#"{"a":tru}"#[..], br#"{"b":"]"}"#, b"1"]);
        assert_eq!(envelope.shared.context, br#"{"ip" : "::1"}"#);
        assert_eq!(envelope.shared.integrations, b"");
        let extent = scan::Extent { depth: 2, keys: 1 };
        assert_eq!(envelope.shared.extent, extent);
        assert_eq!(envelope.sent_at, Some(1_000_000));

        let last = r#"{"batch":[1,2],"b\u0061tch":[],"sentAt":"soon"}"#;
        let envelope = read(last).unwrap();
        assert!(envelope.items.is_empty());
        assert_eq!(envelope.sent_at, None);
    }

    #[test]
    fn an_envelope_that_cannot_be_used_is_refused_as_a_whole() {
        let cases = [
            ("", Code::MalformedRequest),
            ("[]", Code::MalformedRequest),
            ("{}", Code::MalformedRequest),
            (r#"{"batch":{}}"#, Code::MalformedRequest),
            (r#"{"batch":[]"#, Code::MalformedRequest),
            (r#"{"batch":[{},]}"#, Code::MalformedRequest),
            (r#"{"batch":[],"context":[]}"#, Code::MalformedRequest),
            (
                r#"{"batch":[],"integrations":{"a"}}"#,
                Code::MalformedRequest,
            ),
            (r#"{"batch":[1,2,3,4]}"#, Code::TooManyEvents),
        ];
        for (body, code) in cases {
            assert_eq!(read(body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn a_write_key_is_cut_out_wherever_it_stands() {
        let cases = [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"writeKey":"s"}"#, r#"{"writeKey":null}"#),
            (
                r#"{"a":{"writeKey":"inner"},"write\u004bey" : "s" ,"writeKey":["s",{}]}"#,
                r#"{"a":{"writeKey":"inner"},"write\u004bey" : null ,"writeKey":null}"#,
            ),
            (r#"{"writeKey":"s""#, r#"{"writeKey":"s""#),
            ("7", "7"),
        ];
        for (event, kept) in cases {
            let found = without_write_key(event.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), kept);
        }
    }
}
