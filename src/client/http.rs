//! `POST /collect[/{stream}]` with a JSON array.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;

use super::deliver::{Attempt, Outcome};
use super::event::Event;
use super::failure::AttemptError;
use super::{ANSWER_BYTES_MAX, Options};
use crate::clock::Clock;
use crate::event::Micros;

/// The longest part of a foreign answer that is shown.
const SHOWN_CHARS_MAX: usize = 120;

#[derive(Debug)]
pub(super) struct Http {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
    url: String,
    gzip: bool,
    answer_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Http {
    pub(super) fn new(options: Options) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        let url = match &options.stream {
            None => format!("{}/collect", options.target.url()),
            Some(stream) => format!("{}/collect/{stream}", options.target.url()),
        };
        Self {
            client: legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(connector),
            url,
            gzip: options.gzip,
            answer_timeout: options.answer_timeout,
            clock: options.clock,
        }
    }

    /// One request with these events.
    pub(super) async fn attempt(&self, events: &[&Event]) -> Attempt {
        match tokio::time::timeout(self.answer_timeout, self.post(events)).await {
            Err(_elapsed) => {
                Attempt::failed(events.len(), AttemptError::Timeout(self.answer_timeout))
            }
            Ok(Err(error)) => Attempt::failed(events.len(), error),
            Ok(Ok((status, headers, body))) => read(events.len(), status, &body, || {
                retry_after(&headers, self.clock.now())
            }),
        }
    }

    async fn post(
        &self,
        events: &[&Event],
    ) -> Result<(StatusCode, HeaderMap, Bytes), AttemptError> {
        let connection = AttemptError::Connection;
        let mut request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        let mut body = array(events);
        if self.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
            body = gzip(&body).map_err(|error| connection(error.into()))?;
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| connection(error.into()))?;
        let response: Response<Incoming> = self
            .client
            .request(request)
            .await
            .map_err(|error| AttemptError::connection(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(connection)?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }
}

fn array(events: &[&Event]) -> Vec<u8> {
    let bytes: usize = events.iter().map(|event| event.json().len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 2);
    for event in events {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(event.json());
    }
    if body.is_empty() {
        body.push(b'[');
    }
    body.push(b']');
    body
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// What a gateway answers; of a refusal, `results` may be there or not.
#[derive(Deserialize)]
struct Answer {
    results: Option<Vec<Line>>,
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    index: usize,
    status: String,
    code: Option<String>,
    reason: Option<String>,
}

fn read(
    events: usize,
    status: StatusCode,
    body: &[u8],
    retry_after: impl FnOnce() -> Option<Duration>,
) -> Attempt {
    let answer = serde_json::from_slice::<Answer>(body).ok();
    match answer {
        Some(Answer {
            results: Some(lines),
            ..
        }) => read_lines(events, lines),
        answer if !status.is_success() => {
            let (code, message) =
                answer.map_or((None, None), |answer| (answer.code, answer.message));
            let message = message.unwrap_or_else(|| format!("HTTP status {status}"));
            let otherwise = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
            let error = AttemptError::refused(code, message, otherwise).after(retry_after());
            Attempt::failed(events, error)
        }
        _ => {
            let shown: String = String::from_utf8_lossy(body)
                .chars()
                .take(SHOWN_CHARS_MAX)
                .collect();
            Attempt::of(events).fail(format!("HTTP status {status} with {shown:?}"))
        }
    }
}

fn read_lines(events: usize, lines: Vec<Line>) -> Attempt {
    let mut attempt = Attempt::of(events);
    for line in lines {
        let outcome = match line.status.as_str() {
            "accepted" => Outcome::Accepted,
            "duplicate" => Outcome::Duplicate,
            "rejected" => Outcome::Rejected {
                code: line.code.unwrap_or_default(),
                reason: line.reason.unwrap_or_default(),
            },
            other => return attempt.fail(format!("an event's status is {other:?}")),
        };
        if !attempt.set(line.index, outcome) {
            return attempt.fail(format!("a second or unasked result {}", line.index));
        }
    }
    attempt
}

/// Seconds, or the moment of a date.
fn retry_after(headers: &HeaderMap, now: Micros) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    let micros = at.timestamp_micros().saturating_sub(now).max(0);
    Some(Duration::from_micros(u64::try_from(micros).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::failure::Verdict;
    use super::*;

    fn attempt(events: usize, status: u16, body: &str) -> Attempt {
        let status = StatusCode::from_u16(status).unwrap();
        read(events, status, body.as_bytes(), || None)
    }

    #[test]
    fn results_are_read_whatever_the_status_is() {
        let body = r#"{"results":[{"index":1,"status":"duplicate"},{"index":0,"status":"accepted"},
            {"index":2,"status":"rejected","code":"too_deep","reason":"why"}]}"#;
        for status in [202, 400] {
            let found = attempt(3, status, body);
            let rejected = Outcome::Rejected {
                code: "too_deep".into(),
                reason: "why".into(),
            };
            let expected = [Outcome::Accepted, Outcome::Duplicate, rejected].map(Some);
            assert_eq!(found.outcomes, expected);
            assert!(found.failure.is_none());
        }
    }

    #[test]
    fn an_answer_that_is_none_leaves_the_rest_unanswered() {
        let cases = [
            "<html>",
            "",
            "{}",
            r#"{"results":[{"index":0,"status":"accepted"},{"index":0,"status":"accepted"}]}"#,
            r#"{"results":[{"index":0,"status":"accepted"},{"index":2,"status":"accepted"}]}"#,
            r#"{"results":[{"index":0,"status":"accepted"},{"index":1,"status":"ok"}]}"#,
        ];
        for body in cases {
            let found = attempt(2, 200, body);
            assert_eq!(found.outcomes[1], None, "{body}");
            assert_eq!(found.failure.unwrap().verdict(), Verdict::GiveUp, "{body}");
        }
    }

    #[test]
    fn refusals_are_judged_by_their_code_and_else_by_their_status() {
        let cases = [
            (
                503,
                r#"{"code":"log_full","message":"full"}"#,
                Verdict::Retry,
            ),
            (413, r#"{"code":"body_too_large"}"#, Verdict::Split),
            (400, r#"{"code":"invalid_stream"}"#, Verdict::Reject),
            (404, r#"{"code":"not_found"}"#, Verdict::GiveUp),
            (502, "<html>", Verdict::Retry),
            (404, "<html>", Verdict::GiveUp),
        ];
        for (status, body, verdict) in cases {
            let found = attempt(1, status, body);
            assert_eq!(found.failure.unwrap().verdict(), verdict, "{status} {body}");
        }
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now = 1_445_412_470_000_000; // 2015-10-21T07:27:50Z
        let cases = [
            ("7", Some(7)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(10)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
