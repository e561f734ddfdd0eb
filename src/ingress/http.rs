//! The HTTP door: `POST /collect`, `POST /collect/{stream}`, `GET /health`, `GET /ready`, and Segment's paths.
//!
//! A body is read as JSON whatever its Content-Type says. Every answer is JSON and carries `x-request-id`.

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::time::Instant;

use super::body::{self, BodyLimits};
use super::decode::scan::{self, SplitError};
use super::lines::Line;
use super::outcome::RequestError;
use super::pace::PaceLimits;
use super::shed::Held;
use super::{
    Ingress, Input, Protocol, Shared, StreamOf, Submission, admit, answer, request_id, segment,
    spans,
};
use crate::event::DEFAULT_STREAM;
use crate::status::Code;
use crate::telemetry::metrics::labels;

/// The paths of this door: where they are, and once more under the configured prefix.
pub(crate) fn router(ingress: Ingress) -> Router {
    let prefix = ingress.config().http_prefix.as_str();
    let mut router = routes(Router::new(), "");
    if !prefix.is_empty() {
        router = routes(router, prefix);
    }
    let refuse_with = |code: Code| {
        async move |State(ingress): State<Ingress>, method: Method, headers: HeaderMap| {
            refuse(&ingress, &method, &headers, code.into()).await
        }
    };
    router
        .method_not_allowed_fallback(refuse_with(Code::MethodNotAllowed))
        .fallback(refuse_with(Code::NotFound))
        .with_state(ingress)
}

/// The path of this door that takes a request, as it is written in the list above; `None`: none does.
pub(super) fn route(prefix: &str, path: &str) -> Option<&'static str> {
    let bare = path
        .strip_prefix(prefix)
        .filter(|bare| bare.starts_with('/'));
    [Some(path), bare].into_iter().flatten().find_map(|path| {
        match path.strip_suffix('/').unwrap_or(path) {
            "/collect" => Some("/collect"),
            "/health" => Some("/health"),
            "/ready" => Some("/ready"),
            other => match other.strip_prefix("/collect/") {
                Some(stream) => (!stream.contains('/')).then_some("/collect/{stream}"),
                None => segment::route(other),
            },
        }
    })
}

fn routes(router: Router<Ingress>, prefix: &str) -> Router<Ingress> {
    let collect = post(
        async |State(ingress): State<Ingress>, request: Request<Body>| {
            collect(&ingress, Ok(DEFAULT_STREAM), "/collect", request).await
        },
    );
    let router = router
        .route(&format!("{prefix}/collect"), collect.clone())
        .route(&format!("{prefix}/collect/"), collect)
        .route(
            &format!("{prefix}/collect/{{stream}}"),
            post(collect_stream),
        )
        .route(&format!("{prefix}/health"), get(health))
        .route(&format!("{prefix}/ready"), get(ready));
    segment::routes(router, prefix)
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
    let path = named.map_or_else(
        |_invalid| "/collect/{stream}".to_owned(),
        |stream| format!("/collect/{stream}"),
    );
    collect(&ingress, named, &path, request).await
}

/// One request to `/collect` from its headers to its answer.
async fn collect(
    ingress: &Ingress,
    stream: Result<&str, Code>,
    path: &str,
    request: Request<Body>,
) -> Response<Body> {
    let request_id = request_id::of(request.headers(), ingress.now());
    let line = Line {
        method: "POST",
        path,
        event_type: "any",
        // A name that is none is the client's invention and stays out of the logs.
        stream: stream.unwrap_or("invalid"),
        request_id: &request_id,
    };
    let stored = store(ingress, stream, &request_id, request);
    answered(ingress, line, stored).await
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
            if error.code == Code::UnsupportedEncoding {
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(ACCEPT_ENCODING, gzip);
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
    request: Request<Body>,
) -> Result<(Bytes, Held), RequestError> {
    let config = ingress.config();
    let gzip = body::is_gzip(request.headers())?;
    let announced = content_length(request.headers());
    if announced > config.body_bytes_max {
        return Err(RequestError::body_too_large(config.body_bytes_max));
    }
    let held = ingress.gate(announced)?;
    let limits = BodyLimits {
        bytes_max: config.body_bytes_max,
        pace: PaceLimits::of(config),
    };
    let body = body::read(request, gzip, &held, limits)
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
    stream: Result<&str, Code>,
    request_id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, RequestError> {
    let stream = stream?;
    let span = spans::of(request.extensions());
    let (body, _held) = read_body(ingress, request).await?;
    let items = scan::split(&body, ingress.config().batch_events_max).map_err(malformed)?;
    let outcomes = ingress
        .submit(Submission {
            protocol: Protocol::Http,
            request_id,
            stream: StreamOf::Named(stream),
            kind: None,
            shared: Shared::default(),
            sent_at: None,
            deadline: None,
            span,
            inputs: items.into_iter().map(Input::Json).collect(),
        })
        .await?;
    Ok(answer::outcomes(&outcomes, request_id))
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
