//! Segment's HTTP paths, and those of the clients that speak like Segment's: `POST /v1/{identify,track,page,screen,group,alias}`
//! with one event, `POST /v1/{batch,import}` with an envelope around many, the short names, pixels, beacons, and what
//! clients load before they start. `endpoints` has them all.
//!
//! - The answer is exactly `200` with `"success":true` once the events are judged and what could be held is durable; single
//!   events that were rejected stand in `results`. `400` is solely for a body that is no usable envelope: some clients
//!   resend a whole batch on any error, others drop it.
//! - An envelope's `context`, `integrations` and `sentAt` hold for each of its events. The events themselves are cut out
//!   by the splitter, so that a bad one never costs its neighbours, and no tree is built.
//! - `writeKey` is a credential: it is looked for wherever clients put it, and never stored.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};

use super::decode::scan::Item;
use super::http as door;
use super::lines::Line;
use super::outcome::{Outcome, RequestError};
use super::sender::Sender;
use super::shed::Held;
use super::{
    Caller, Ingress, Input, Protocol, StreamOf, Submission, answer, request_id, spans, write_key,
};
use crate::event::Micros;
use crate::status::Code;
use crate::worker::adapt::time;

pub(super) mod endpoints;
mod envelope;
mod pixel;
mod settings;

use endpoints::{Endpoint, Takes};
use envelope::Envelope;

/// Who answers at an endpoint.
pub(super) fn methods(endpoint: Endpoint) -> MethodRouter<Ingress> {
    let events = async move |State(ingress): State<Ingress>, request: Request<Body>| {
        answer_to(&ingress, endpoint, request).await
    };
    match endpoint.takes {
        Takes::One(_) | Takes::Many | Takes::Figures => post(events),
        Takes::SourceConfig => get(events),
        // Whoever only looks whether the picture is there has not seen it.
        Takes::Pixel(_) => get(events).head(
            async move |State(ingress): State<Ingress>, headers: HeaderMap| {
                let request_id = request_id::of(&headers, ingress.now());
                let line = Line {
                    method: "HEAD",
                    ..line(endpoint, &request_id)
                };
                let picture = Ok(answer::picture(pixel::GIF, &request_id));
                door::answered(&ingress, line, std::future::ready(picture)).await
            },
        ),
        Takes::Settings => get(
            async move |State(ingress): State<Ingress>,
                        key: Result<Path<String>, PathRejection>,
                        headers: HeaderMap| {
                let request_id = request_id::of(&headers, ingress.now());
                // A key that is no text has no settings.
                let response = match key {
                    Ok(Path(key)) => ingress
                        .check_key(&key)
                        .map(|()| answer::loaded(&settings::of_project(&key), &request_id)),
                    Err(_no_text) => Err(Code::NotFound.into()),
                };
                let line = line(endpoint, &request_id);
                door::answered(&ingress, line, std::future::ready(response)).await
            },
        ),
    }
}

fn line(endpoint: Endpoint, request_id: &str) -> Line<'_> {
    let kind = endpoint.takes.kind();
    Line {
        method: endpoint.takes.method(),
        path: endpoint.label,
        event_type: kind.unwrap_or("any"),
        stream: kind.map_or("any", |kind| StreamOf::ItsType.of(kind)),
        request_id,
    }
}

async fn answer_to(
    ingress: &Ingress,
    endpoint: Endpoint,
    request: Request<Body>,
) -> Response<Body> {
    let request_id = request_id::of(request.headers(), ingress.now());
    let line = line(endpoint, &request_id);
    let stored = async {
        match endpoint.takes {
            Takes::One(_) | Takes::Many | Takes::Pixel(_) => {
                store(ingress, endpoint, &request_id, request).await
            }
            Takes::Figures => {
                // They come without a key.
                let caller = ingress.passer_by(&request);
                let (body, _held) = door::read_body(ingress, &caller, request).await?;
                let max = ingress.config().batch_events_max;
                ingress.count_figures(envelope::figures(&body, max));
                Ok(answer::success(&[], &request_id))
            }
            Takes::Settings | Takes::SourceConfig => {
                // The same for everyone, so that no key is no reason to refuse it; one that is not known is worth a word.
                ingress.enter(&request)?;
                Ok(answer::loaded(&settings::of_source(), &request_id))
            }
        }
    };
    door::answered(ingress, line, stored).await
}

async fn store(
    ingress: &Ingress,
    endpoint: Endpoint,
    request_id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, RequestError> {
    let entrant = ingress.enter(&request)?;
    let span = spans::of(request.extensions());
    let trusted = &ingress.config().trusted_proxies;
    let (headers, extensions) = (request.headers(), request.extensions());
    let sender = Sender::of(headers, extensions, endpoint.party, trusted);
    let sent_at = sent_at(headers);
    let (body, held) = match endpoint.takes {
        Takes::Pixel(_) => read_query(ingress, entrant.caller(), &request)?,
        _ => door::read_body(ingress, entrant.caller(), request).await?,
    };
    let kind = endpoint.takes.kind();
    let envelope = match kind {
        Some(_) => Envelope::of_one(&body)?,
        None => Envelope::read(&body, ingress.config().batch_events_max)?,
    };
    ingress.hold_answer(&held, envelope.items.len())?;
    let key = envelope.write_key;
    let caller = entrant.named(ingress, &held, || key.and_then(write_key::text))?;
    let events: Vec<Cow<'_, [u8]>> = envelope
        .items
        .iter()
        .map(|item| write_key::without(item.bytes))
        .collect();
    let items = envelope.items.iter().zip(&events);
    let outcomes = ingress
        .submit(Submission {
            protocol: Protocol::Http,
            caller: &caller,
            request_id,
            stream: StreamOf::ItsType,
            kind,
            shared: envelope.shared,
            sent_at: envelope.sent_at.or(sent_at),
            client: sender.client(),
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
        ] if kind.is_some() => Err(RequestError::new(*code, reason.clone())),
        outcomes => Ok(match endpoint.takes {
            Takes::Pixel(_) => answer::picture(pixel::GIF, request_id),
            _ => answer::holding(answer::success(outcomes, request_id), held),
        }),
    }
}

/// When RudderStack's SDKs for browsers say that they sent a request. What the body says goes before.
fn sent_at(headers: &HeaderMap) -> Option<Micros> {
    const SENT_AT: HeaderName = HeaderName::from_static("sentat");
    let text = headers.get(SENT_AT)?.to_str().ok()?;
    time::parse(text).ok()
}

/// The event that stands in a query, and its place in the budget.
fn read_query(
    ingress: &Ingress,
    caller: &Caller,
    request: &Request<Body>,
) -> Result<(Bytes, Held), RequestError> {
    let query = request.uri().query().unwrap_or_default();
    let held = ingress.gate(query.len(), caller)?;
    Ok((pixel::event(query)?.into(), held))
}
