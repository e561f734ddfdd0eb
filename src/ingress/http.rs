//! The HTTP door: `POST /collect`, `POST /collect/{stream}`, `GET /health`, `GET /ready`, `GET /openapi.json`, and the paths of
//! Segment's clients. `paths` has them all.
//!
//! A body is read as JSON whatever its Content-Type says. Every answer is JSON and carries `x-request-id`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tokio::time::Instant;

use super::body::{self, BodyLimits};
use super::contract::Document;
use super::decode::scan::{self, Item, SplitError};
use super::entrance::Entrant;
use super::lines::{self, Line};
use super::outcome::RequestError;
use super::pace::PaceLimits;
use super::paths::{self, Serves};
use super::sender::{Party, Sender};
use super::shed::Held;
use super::unpack::Encoding;
use super::{
    Caller, Ingress, Input, Protocol, Shared, StreamOf, Submission, admit, answer, request_id,
    segment, spans, write_key,
};
use crate::event::DEFAULT_STREAM;
use crate::status::Code;
use crate::telemetry::metrics::labels;

/// When a client may come again, in milliseconds since 1970.
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The door.
pub(crate) fn router(ingress: Ingress) -> Router {
    let prefix = ingress.config().http_prefix.clone();
    routes(&prefix).with_state(ingress)
}

/// Everything that is answered: the paths where they are, and once more under the configured prefix. Where a path with the
/// prefix is one that is there without, that one stays what it is.
pub(super) fn routes(prefix: &str) -> Router<Ingress> {
    let mut taken = BTreeSet::new();
    let mut router = Router::new();
    let document = Document::default();
    for prefix in ["", prefix] {
        for (path, serves) in paths::all() {
            let path = format!("{prefix}{path}");
            if taken.insert(path.clone()) {
                router = router.route(&path, methods(serves, &document));
            }
        }
    }
    let refuse_with = |code: Code| {
        async move |State(ingress): State<Ingress>, method: Method, headers: HeaderMap| {
            refuse(&ingress, &method, &headers, code.into()).await
        }
    };
    router
        .method_not_allowed_fallback(refuse_with(Code::MethodNotAllowed))
        .fallback(refuse_with(Code::NotFound))
}

/// The name of the path that takes a request, under the prefix or not; `None`: none does.
pub(super) fn route(prefix: &str, path: &str) -> Option<&'static str> {
    let bare = path
        .strip_prefix(prefix)
        .filter(|bare| bare.starts_with('/'));
    [Some(path), bare]
        .into_iter()
        .flatten()
        .find_map(paths::label)
}

/// Who answers.
fn methods(serves: Serves, document: &Document) -> MethodRouter<Ingress> {
    match serves {
        Serves::Collect => post(
            async |State(ingress): State<Ingress>, request: Request<Body>| {
                collect(&ingress, None, request).await
            },
        ),
        Serves::CollectStream => post(collect_stream),
        Serves::Health => get(health),
        Serves::Ready => get(ready),
        Serves::Contract => {
            let document = document.clone();
            get(
                async move |State(ingress): State<Ingress>, headers: HeaderMap| {
                    describe(&ingress, &document, &headers).await
                },
            )
        }
        Serves::Segment(endpoint) => segment::methods(endpoint),
    }
}

/// What can be asked here, for machines.
async fn describe(ingress: &Ingress, document: &Document, headers: &HeaderMap) -> Response<Body> {
    let request_id = request_id::of(headers, ingress.now());
    let line = Line {
        method: "GET",
        path: paths::CONTRACT,
        event_type: "any",
        stream: "any",
        request_id: &request_id,
    };
    let written = Ok(answer::written(document.bytes(ingress), &request_id));
    answered(ingress, line, std::future::ready(written)).await
}

/// Alive: checks nothing.
async fn health(State(ingress): State<Ingress>, headers: HeaderMap) -> Response<Body> {
    answer::ok(&request_id::of(&headers, ingress.now()))
}

/// Whether new work is taken.
async fn ready(State(ingress): State<Ingress>, headers: HeaderMap) -> Response<Body> {
    let request_id = request_id::of(&headers, ingress.now());
    answer::readiness(&ingress.health().readiness(), &request_id)
}

/// Answers a request that no path takes.
pub(super) async fn refuse(
    ingress: &Ingress,
    method: &Method,
    headers: &HeaderMap,
    error: RequestError,
) -> Response<Body> {
    let request_id = request_id::of(headers, ingress.now());
    let line = Line::of_stranger(method, &request_id);
    answered(ingress, line, std::future::ready(Err(error))).await
}

async fn collect_stream(
    State(ingress): State<Ingress>,
    stream: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Response<Body> {
    let named = stream
        .as_ref()
        .map(|Path(stream)| stream.as_str())
        .ok()
        .filter(|stream| admit::is_stream_name(stream))
        .ok_or(Code::InvalidStream);
    collect(&ingress, Some(named), request).await
}

/// One request to `/collect`, or to a stream under it, from its headers to its answer.
async fn collect(
    ingress: &Ingress,
    named: Option<Result<&str, Code>>,
    request: Request<Body>,
) -> Response<Body> {
    let request_id = request_id::of(request.headers(), ingress.now());
    let entered = enter(ingress, named.unwrap_or(Ok(DEFAULT_STREAM)), &request);
    // A name that is none, and one of somebody who may not use it, is the client's invention and stays out of the log: it may
    // be a key in the wrong place.
    let known = entered.as_ref().ok().filter(|_| named.is_some());
    let known = known.filter(|(stream, entrant)| entrant.may_name(ingress, stream));
    let (path, stream) = match (named, known) {
        (None, _) => (Cow::Borrowed("/collect"), DEFAULT_STREAM),
        (Some(_), Some((stream, _))) => (Cow::Owned(format!("/collect/{stream}")), *stream),
        (Some(Ok(_)), None) => (Cow::Borrowed("/collect/{stream}"), lines::OTHER),
        (Some(Err(_)), None) => (Cow::Borrowed("/collect/{stream}"), "invalid"),
    };
    let line = Line {
        method: "POST",
        path: &path,
        event_type: "any",
        stream,
        request_id: &request_id,
    };
    let stored = async {
        let (stream, entrant) = entered?;
        store(ingress, (stream, entrant), &request_id, request).await
    };
    answered(ingress, line, stored).await
}

/// Asks who sends, where that can be without the body, and whether he may write there.
fn enter<'s>(
    ingress: &Ingress,
    stream: Result<&'s str, Code>,
    request: &Request<Body>,
) -> Result<(&'s str, Entrant), RequestError> {
    let stream = stream?;
    let entrant = ingress.enter(request)?;
    ingress.check_stream(entrant.caller(), stream)?;
    Ok((stream, entrant))
}

/// Answers a request, whatever came of it, with its two lines in the log.
pub(super) async fn answered(
    ingress: &Ingress,
    line: Line<'_>,
    stored: impl Future<Output = Result<Response<Body>, RequestError>>,
) -> Response<Body> {
    let started = Instant::now();
    let request_id = line.request_id;
    line.received();
    let response = match stored.await {
        Ok(response) => response,
        Err(error) => {
            let mut response = answer::error(&error, request_id);
            let headers = response.headers_mut();
            match (error.code, error.retry_after()) {
                (Code::UnsupportedEncoding, _) => {
                    let all = HeaderValue::from_static(Encoding::NAMES);
                    headers.insert(ACCEPT_ENCODING, all);
                }
                (Code::WriteKeyMissing | Code::WriteKeyUnknown, _) => {
                    // Not Basic, for which browsers would ask the person in front of them.
                    let scheme = HeaderValue::from_static("Bearer realm=\"eventkit\"");
                    headers.insert(WWW_AUTHENTICATE, scheme);
                }
                (Code::RateLimited, Some(wait)) => {
                    // Older clients of Segment's read when, and not for how long.
                    let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                    let at = (ingress.now() / 1_000).saturating_add(wait);
                    headers.insert(X_RATELIMIT_RESET, HeaderValue::from(at));
                }
                _ => {}
            }
            response
        }
    };
    let (status_code, took) = (response.status().as_u16(), started.elapsed());
    let labels = labels::http_request(status_code);
    let seconds = &ingress.metrics().request_seconds;
    seconds.record(took.as_secs_f64(), labels);
    line.completed(status_code, took);
    response
}

/// The whole body of a request, and its place in the budget. Everything that can be known to fail is asked before the
/// body is read.
pub(super) async fn read_body(
    ingress: &Ingress,
    caller: &Caller,
    request: Request<Body>,
) -> Result<(Bytes, Held), RequestError> {
    let config = ingress.config();
    let encoding = Encoding::of(request.headers())?;
    let announced = content_length(request.headers());
    if announced > config.body_bytes_max {
        return Err(RequestError::body_too_large(config.body_bytes_max));
    }
    let held = ingress.gate(announced, caller)?;
    let limits = BodyLimits {
        bytes_max: config.body_bytes_max,
        pace: PaceLimits::of(config),
    };
    let body = body::read(request, encoding, &held, limits)
        .await
        .inspect_err(|error| {
            if error.code == Code::Overloaded {
                ingress.shed(error.code);
            }
        })?;
    Ok((body, held))
}

async fn store(
    ingress: &Ingress,
    (stream, entrant): (&str, Entrant),
    request_id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, RequestError> {
    let span = spans::of(request.extensions());
    let trusted = &ingress.config().trusted_proxies;
    let (headers, extensions) = (request.headers(), request.extensions());
    let sender = Sender::of(headers, extensions, Party::Anyone, trusted);
    let (body, held) = read_body(ingress, entrant.caller(), request).await?;
    let caller = entrant.named(ingress, &held, || write_key::of(&body))?;
    let items = scan::split(&body, ingress.config().batch_events_max).map_err(malformed)?;
    ingress.hold_answer(&held, items.len())?;
    let events: Vec<Cow<'_, [u8]>> = items
        .iter()
        .map(|item| write_key::without(item.bytes))
        .collect();
    let items = items.iter().zip(&events);
    let outcomes = ingress
        .submit(Submission {
            protocol: Protocol::Http,
            caller: &caller,
            request_id,
            stream: StreamOf::Named(stream),
            kind: None,
            shared: Shared::default(),
            sent_at: None,
            client: sender.client(),
            deadline: None,
            span,
            inputs: items
                .map(|(item, bytes)| Input::Json(Item { bytes, ..*item }))
                .collect(),
        })
        .await?;
    let answer = answer::outcomes(&outcomes, request_id);
    Ok(answer::holding(answer, held))
}

pub(super) fn malformed(error: SplitError) -> RequestError {
    match error {
        SplitError::TooMany { max } => RequestError::too_many_events(max),
        SplitError::Empty
        | SplitError::NotABatch
        | SplitError::CutOff
        | SplitError::Trailing { .. }
        | SplitError::Unexpected { .. } => {
            RequestError::new(Code::MalformedRequest, format!("{error}; do not retry"))
        }
    }
}

/// The announced length; 0 where there is none. A number too large to hold is as large as can be.
fn content_length(headers: &HeaderMap) -> usize {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .map_or(0, |value| value.parse().unwrap_or(usize::MAX))
}
