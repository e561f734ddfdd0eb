//! The HTTP door: `POST /collect`, `POST /collect/{stream}`, `GET /health`, `GET /ready`.
//!
//! A body is read as JSON whatever its Content-Type says. Every answer is JSON and carries `x-request-id`.

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry::KeyValue;
use tokio::time::Instant;

use super::body::{self, BodyLimits};
use super::decode::scan::{self, SplitError};
use super::outcome::RequestError;
use super::{Ingress, Input, Protocol, Submission, admit, answer, request_id};
use crate::event::DEFAULT_STREAM;
use crate::status::Code;

/// The paths of this door.
pub(crate) fn router(ingress: Ingress) -> Router {
    let collect = post(
        async |State(ingress): State<Ingress>, request: Request<Body>| {
            collect(&ingress, Ok(DEFAULT_STREAM), "/collect", request).await
        },
    );
    Router::new()
        .route("/collect", collect.clone())
        .route("/collect/", collect)
        .route("/collect/{stream}", post(collect_stream))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .method_not_allowed_fallback(async |State(ingress): State<Ingress>, headers: HeaderMap| {
            refuse(&ingress, &headers, Code::MethodNotAllowed)
        })
        .fallback(async |State(ingress): State<Ingress>, headers: HeaderMap| {
            refuse(&ingress, &headers, Code::NotFound)
        })
        .with_state(ingress)
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

fn refuse(ingress: &Ingress, headers: &HeaderMap, code: Code) -> Response<Body> {
    let request_id = request_id::of(headers, ingress.now());
    answer::error(&code.into(), &request_id)
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

/// One request from its headers to its answer, with its two lines in the log.
async fn collect(
    ingress: &Ingress,
    stream: Result<&str, Code>,
    path: &str,
    request: Request<Body>,
) -> Response<Body> {
    let started = Instant::now();
    let request_id = request_id::of(request.headers(), ingress.now());
    // A name that is none is the client's invention and stays out of the logs.
    let logged = stream.unwrap_or("invalid");
    tracing::info!(
        method = "POST",
        path,
        event_type = "any",
        request_id,
        stream = logged,
        "request_received"
    );
    let response = match store(ingress, stream, &request_id, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = answer::error(&error, &request_id);
            if error.code == Code::UnsupportedEncoding {
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(ACCEPT_ENCODING, gzip);
            }
            response
        }
    };
    let (status_code, took) = (response.status().as_u16(), started.elapsed());
    ingress.metrics().request_seconds.record(
        took.as_secs_f64(),
        &[
            KeyValue::new("protocol", "http"),
            KeyValue::new("status", i64::from(status_code)),
        ],
    );
    tracing::info!(
        status_code,
        duration_ms = took.as_secs_f64() * 1e3,
        request_id,
        stream = logged,
        "request_completed"
    );
    response
}

/// Everything that can be known to fail is asked before the body is read.
async fn store(
    ingress: &Ingress,
    stream: Result<&str, Code>,
    request_id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, RequestError> {
    let config = ingress.config();
    let stream = stream?;
    let gzip = body::is_gzip(request.headers())?;
    let announced = content_length(request.headers());
    if announced > config.body_bytes_max {
        return Err(RequestError::body_too_large(config.body_bytes_max));
    }
    let held = ingress.gate(announced)?;
    let limits = BodyLimits {
        bytes_max: config.body_bytes_max,
        pause_max: config.body_timeout,
    };
    let body = body::read(request, gzip, &held, limits)
        .await
        .inspect_err(|error| {
            if error.code == Code::Overloaded {
                ingress.shed(error.code);
            }
        })?;
    let items = scan::split(&body, config.batch_events_max).map_err(malformed)?;
    let outcomes = ingress
        .submit(Submission {
            protocol: Protocol::Http,
            request_id,
            stream,
            sent_at: None,
            deadline: None,
            inputs: items.into_iter().map(Input::Json).collect(),
        })
        .await?;
    Ok(answer::outcomes(&outcomes, request_id))
}

fn malformed(error: SplitError) -> RequestError {
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
