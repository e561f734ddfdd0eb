//! The two lines that every request has in the log, whichever door it came to and however early it was refused.

use std::time::Duration;

/// What stands in the place of a path, a method or a stream that a client made up.
pub(super) const OTHER: &str = "other";

/// What a request's lines say about it; nothing that a client made up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    pub(super) event_type: &'static str,
    pub(super) stream: &'a str,
    pub(super) request_id: &'a str,
}

impl<'a> Line<'a> {
    /// Of a gRPC call.
    pub(super) fn of_call(path: &'a str, stream: &'a str, request_id: &'a str) -> Self {
        Self {
            method: "POST",
            path,
            event_type: "any",
            stream,
            request_id,
        }
    }

    /// Of a request that has no such path, or not with this method.
    pub(super) fn of_stranger(method: &http::Method, request_id: &'a str) -> Self {
        Self {
            method: known_method(method).unwrap_or(OTHER),
            path: OTHER,
            event_type: "any",
            stream: "any",
            request_id,
        }
    }

    /// The first line.
    pub(super) fn received(&self) {
        let Self {
            method,
            path,
            event_type,
            stream,
            request_id,
        } = *self;
        tracing::info!(
            method,
            path,
            event_type,
            request_id,
            stream,
            "request_received"
        );
    }

    /// The last line.
    pub(super) fn completed(&self, status_code: u16, took: Duration) {
        tracing::info!(
            status_code,
            // To the microsecond: the digits behind it are those of a product of floats.
            duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3,
            request_id = self.request_id,
            stream = self.stream,
            "request_completed"
        );
    }
}

/// A method as a word of a closed list, if it is one of those that HTTP itself defines.
pub(super) fn known_method(method: &http::Method) -> Option<&'static str> {
    Some(match *method {
        http::Method::GET => "GET",
        http::Method::HEAD => "HEAD",
        http::Method::POST => "POST",
        http::Method::PUT => "PUT",
        http::Method::PATCH => "PATCH",
        http::Method::DELETE => "DELETE",
        http::Method::OPTIONS => "OPTIONS",
        http::Method::CONNECT => "CONNECT",
        http::Method::TRACE => "TRACE",
        _ => return None,
    })
}
