//! JSON answers, written straight from the outcomes.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::ser::{Serialize, SerializeSeq as _, Serializer};

use super::outcome::{self, Counts, Outcome, RequestError};
use super::shed::Held;
use crate::lifecycle::health::Readiness;

/// The header that names a request.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const FOR_MINUTES: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// `202` with one result per event; an error with the same list when there were events and none was accepted.
pub(crate) fn outcomes(outcomes: &[Outcome<'_>], request_id: &str) -> Response<Body> {
    let counts = Counted::of(outcomes);
    let none_accepted = counts.accepted == 0 && counts.duplicate == 0;
    match outcome::code_of_all_rejected(outcomes).filter(|_| none_accepted) {
        None => {
            let body = Accepted::with(counts, request_id);
            json(StatusCode::ACCEPTED, &body, request_id)
        }
        Some(code) => {
            let text = match outcomes {
                [Outcome::Rejected { reason, .. }] => reason.as_ref(),
                _ => "no event was accepted: see results; do not retry",
            };
            let body = Failure {
                success: false,
                code: code.as_str(),
                message: text,
                error: text,
                request_id,
                counts: Some(counts),
            };
            json(status(code.http()), &body, request_id)
        }
    }
}

/// What Segment's clients take for success, whatever became of single events: exactly `200` with `"success":true`.
pub(crate) fn success(outcomes: &[Outcome<'_>], request_id: &str) -> Response<Body> {
    json(
        StatusCode::OK,
        &success_body(outcomes, request_id),
        request_id,
    )
}

pub(super) fn accepted_body<'a>(
    outcomes: &'a [Outcome<'a>],
    request_id: &'a str,
) -> impl Serialize + 'a {
    Accepted::with(Counted::of(outcomes), request_id)
}

pub(super) fn success_body<'a>(
    outcomes: &'a [Outcome<'a>],
    request_id: &'a str,
) -> impl Serialize + 'a {
    Success {
        success: true,
        counts: Counted::of(outcomes),
        request_id,
    }
}

pub(super) fn failure_body<'a>(
    error: &'a RequestError,
    request_id: &'a str,
) -> impl Serialize + 'a {
    Failure {
        success: false,
        code: error.code.as_str(),
        message: &error.text,
        error: &error.text,
        request_id,
        counts: None,
    }
}

/// A request that failed as a whole.
pub(crate) fn error(error: &RequestError, request_id: &str) -> Response<Body> {
    let body = failure_body(error, request_id);
    let mut response = json(status(error.code.http()), &body, request_id);
    if let Some(wait) = error.retry_after() {
        // Whole seconds, and never too few of them.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let seconds = HeaderValue::from(seconds.max(1));
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// How things stand: 200 when ready, else 503 naming what is not.
pub(crate) fn readiness(readiness: &Readiness, request_id: &str) -> Response<Body> {
    #[derive(serde::Serialize)]
    struct Body<'a> {
        status: &'static str,
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        not_ready: &'a std::collections::BTreeMap<&'static str, String>,
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        degraded: &'a std::collections::BTreeMap<&'static str, String>,
    }
    let (code, word) = if readiness.is_ready() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let body = Body {
        status: word,
        not_ready: &readiness.not_ready,
        degraded: &readiness.degraded,
    };
    json(code, &body, request_id)
}

/// `{"status":"ok"}`.
pub(crate) fn ok(request_id: &str) -> Response<Body> {
    raw(
        StatusCode::OK,
        br#"{"status":"ok"}"#.as_slice().into(),
        request_id,
    )
}

/// What clients load before they start; they may keep it for a while.
pub(crate) fn loaded(body: &serde_json::Value, request_id: &str) -> Response<Body> {
    let mut response = json(StatusCode::OK, body, request_id);
    response.headers_mut().insert(CACHE_CONTROL, FOR_MINUTES);
    response
}

/// A JSON document that is there already; clients may keep it for a while.
pub(crate) fn written(document: Bytes, request_id: &str) -> Response<Body> {
    let mut response = raw(StatusCode::OK, document.into(), request_id);
    response.headers_mut().insert(CACHE_CONTROL, FOR_MINUTES);
    response
}

/// A GIF that is asked for anew each time.
pub(crate) fn picture(gif: &'static [u8], request_id: &str) -> Response<Body> {
    let mut response = raw(StatusCode::OK, gif.into(), request_id);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-cache, must-revalidate"),
    );
    response
}

/// The answer keeps its request's place in the budget until the client has taken it.
pub(crate) fn holding(mut response: Response<Body>, held: Held) -> Response<Body> {
    response.extensions_mut().insert(Arc::new(held));
    response
}

fn json(status: StatusCode, body: &impl Serialize, request_id: &str) -> Response<Body> {
    let bytes = serde_json::to_vec(body).expect("plain structs of strings and numbers are JSON");
    raw(status, bytes.into(), request_id)
}

fn raw(status: StatusCode, body: Body, request_id: &str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    response
}

fn status(http: u16) -> StatusCode {
    StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[derive(serde::Serialize)]
struct Accepted<'a> {
    status: &'static str,
    #[serde(flatten)]
    counts: Counted<'a>,
    request_id: &'a str,
}

impl<'a> Accepted<'a> {
    fn with(counts: Counted<'a>, request_id: &'a str) -> Self {
        Self {
            status: "accepted",
            counts,
            request_id,
        }
    }
}

#[derive(serde::Serialize)]
struct Success<'a> {
    success: bool,
    #[serde(flatten)]
    counts: Counted<'a>,
    request_id: &'a str,
}

#[derive(serde::Serialize)]
struct Failure<'a> {
    success: bool,
    code: &'static str,
    message: &'a str,
    error: &'a str,
    request_id: &'a str,
    #[serde(flatten)]
    counts: Option<Counted<'a>>,
}

#[derive(serde::Serialize)]
struct Counted<'a> {
    accepted: u32,
    duplicate: u32,
    rejected: u32,
    results: Results<'a>,
}

impl<'a> Counted<'a> {
    fn of(outcomes: &'a [Outcome<'a>]) -> Self {
        let counts = Counts::of(outcomes);
        Self {
            accepted: counts.accepted,
            duplicate: counts.duplicate,
            rejected: counts.rejected,
            results: Results(outcomes),
        }
    }
}

/// The outcomes as a list of objects, without a list of objects in between.
struct Results<'a>(&'a [Outcome<'a>]);

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            index: usize,
            status: &'static str,
            message_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            code: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (index, outcome) in self.0.iter().enumerate() {
            let (status, code, reason) = match outcome {
                Outcome::Accepted { .. } => ("accepted", None, None),
                Outcome::Duplicate { .. } => ("duplicate", None, None),
                Outcome::Rejected { code, reason, .. } => {
                    ("rejected", Some(code.as_str()), Some(reason.as_ref()))
                }
            };
            list.serialize_element(&Line {
                index,
                status,
                message_id: outcome.message_id(),
                code,
                reason,
            })?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::status::Code;

    async fn check(response: Response<Body>, status: u16, expected: &str) {
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["x-request-id"], "r");
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), expected);
    }

    fn rejected(code: Code) -> Outcome<'static> {
        Outcome::Rejected {
            message_id: None,
            code,
            reason: "why \"so\"".into(),
        }
    }

    #[tokio::test]
    async fn a_mixed_batch_is_accepted_with_one_result_per_event() {
        let list = [
            Outcome::Accepted {
                message_id: "a\n".into(),
                assigned: false,
            },
            Outcome::Duplicate {
                message_id: "b".into(),
            },
            rejected(Code::TooDeep),
        ];
        let expected = concat!(
            r#"{"status":"accepted","accepted":1,"duplicate":1,"rejected":1,"results":["#,
            r#"{"index":0,"status":"accepted","message_id":"a\n"},"#,
            r#"{"index":1,"status":"duplicate","message_id":"b"},"#,
            r#"{"index":2,"status":"rejected","message_id":null,"code":"too_deep","reason":"why \"so\""}"#,
            r#"],"request_id":"r"}"#,
        );
        check(outcomes(&list, "r"), 202, expected).await;
    }

    #[tokio::test]
    async fn nothing_sent_is_accepted() {
        let expected = r#"{"status":"accepted","accepted":0,"duplicate":0,"rejected":0,"results":[],"request_id":"r"}"#;
        check(outcomes(&[], "r"), 202, expected).await;
    }

    #[tokio::test]
    async fn nothing_accepted_is_an_error_with_the_same_list() {
        let expected = concat!(
            r#"{"success":false,"code":"event_too_large","message":"why \"so\"","error":"why \"so\"","request_id":"r","#,
            r#""accepted":0,"duplicate":0,"rejected":1,"results":["#,
            r#"{"index":0,"status":"rejected","message_id":null,"code":"event_too_large","reason":"why \"so\""}]}"#,
        );
        check(
            outcomes(&[rejected(Code::EventTooLarge)], "r"),
            413,
            expected,
        )
        .await;
        let mixed = [rejected(Code::EventTooLarge), rejected(Code::TooDeep)];
        assert_eq!(outcomes(&mixed, "r").status(), 400);
    }

    #[tokio::test]
    async fn what_passes_says_when_to_come_again() {
        let response = error(&Code::Overloaded.into(), "r");
        assert_eq!(response.headers()["retry-after"], "1");
        let text = Code::Overloaded.text();
        let expected = format!(
            r#"{{"success":false,"code":"overloaded","message":"{text}","error":"{text}","request_id":"r"}}"#
        );
        check(response, 503, &expected).await;
        let never = error(&Code::MalformedRequest.into(), "r");
        assert!(!never.headers().contains_key("retry-after"));
    }
}
