//! gRPC statuses with their details: what went wrong (`ErrorInfo`), whether and when to try again (`RetryInfo`), which
//! part of the request is at fault (`BadRequest`).

use std::collections::HashMap;

use http::{HeaderMap, Response};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::outcome::RequestError;
use crate::status::Code;

/// The domain of every `ErrorInfo`.
pub(crate) const DOMAIN: &str = "eventkit.v1";

/// The status of a call that fails as a whole.
pub(crate) fn status(error: &RequestError) -> Status {
    let reason = error.code.as_str().to_ascii_uppercase();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
    }
    if let Some(quota) = error.quota {
        details.add_quota_failure_violation(quota.subject, error.text.as_ref());
    }
    if error.code.grpc() == tonic::Code::InvalidArgument {
        details.add_bad_request_violation(error.field.unwrap_or_default(), error.text.as_ref());
    }
    Status::with_error_details(error.code.grpc(), error.text.as_ref(), details)
}

/// Puts our words in the place of those that tonic itself found for a request that never reached its handler. Answers
/// that have details already are ours and stay.
pub(crate) fn translate<B>(response: &mut Response<B>, message_bytes_max: usize) {
    let headers = response.headers_mut();
    let Some(theirs) = Status::from_header_map(headers) else {
        return;
    };
    if !theirs.details().is_empty() {
        return;
    }
    let unknown_encoding = headers.contains_key("grpc-accept-encoding");
    let error = match theirs.code() {
        tonic::Code::Unimplemented if unknown_encoding => {
            let text = format!("{}; do not retry", theirs.message());
            RequestError::new(Code::UnsupportedEncoding, text)
        }
        tonic::Code::Unimplemented => {
            let text = "this server has no such service or method; do not retry";
            RequestError::new(Code::NotFound, text)
        }
        _ => match unreadable(&theirs, message_bytes_max) {
            Some(error) => error,
            None => return,
        },
    };
    write(&status(&error), headers);
}

/// Why a message could not be read, from the words that tonic found for it.
fn unreadable(theirs: &Status, message_bytes_max: usize) -> Option<RequestError> {
    match theirs.code() {
        // Too long by its own length, and too long once decompressed.
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            Some(RequestError::body_too_large(message_bytes_max))
        }
        // tonic blames itself for bytes that do not decode.
        tonic::Code::Internal => Some(RequestError::new(
            Code::MalformedRequest,
            format!(
                "the request cannot be read: {}; do not retry",
                theirs.message()
            ),
        )),
        _ => None,
    }
}

/// Why a stream's next message could not be read; `None` when its client is gone.
pub(crate) fn request_error(theirs: &Status, message_bytes_max: usize) -> Option<RequestError> {
    match our_code(theirs) {
        Some(code) => Some(RequestError::new(code, theirs.message().to_owned())),
        None => unreadable(theirs, message_bytes_max),
    }
}

/// The code of a call that fails with a status of ours among its headers.
pub(crate) fn code_of(headers: &HeaderMap) -> Option<Code> {
    our_code(&Status::from_header_map(headers)?)
}

fn our_code(status: &Status) -> Option<Code> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
    let is_named = |code: &&Code| info.reason.eq_ignore_ascii_case(code.as_str());
    Code::ALL.iter().find(is_named).copied()
}

/// Replaces the status among these headers.
fn write(status: &Status, headers: &mut HeaderMap) {
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        headers.remove(name);
    }
    if let Err(unwritable) = status.add_header(headers) {
        tracing::warn!(error = %unwritable, "grpc_status_unwritable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_reason_and_its_retry() {
        for &code in Code::ALL {
            let status = status(&code.into());
            assert_eq!(status.code(), code.grpc());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.domain, DOMAIN);
            assert_eq!(info.reason.to_ascii_lowercase(), code.as_str());
            let wait = RequestError::from(code).retry_after();
            assert_eq!(
                details.retry_info().and_then(|retry| retry.retry_delay),
                wait,
                "{code}"
            );
        }
    }

    #[test]
    fn tonics_own_words_become_ours() {
        let cases = [
            (
                Status::out_of_range("x"),
                Some((Code::BodyTooLarge, tonic::Code::ResourceExhausted)),
            ),
            (
                Status::resource_exhausted("x"),
                Some((Code::BodyTooLarge, tonic::Code::ResourceExhausted)),
            ),
            (
                Status::internal("x"),
                Some((Code::MalformedRequest, tonic::Code::InvalidArgument)),
            ),
            (
                Status::unimplemented(""),
                Some((Code::NotFound, tonic::Code::Unimplemented)),
            ),
            (Status::not_found("x"), None),
            (
                super::status(&Code::Overloaded.into()),
                Some((Code::Overloaded, tonic::Code::Unavailable)),
            ),
        ];
        for (theirs, expected) in cases {
            let mut response = theirs.clone().into_http::<()>();
            translate(&mut response, 7);
            let ours = Status::from_header_map(response.headers()).unwrap();
            let Some((code, grpc)) = expected else {
                assert_eq!(ours.code(), theirs.code());
                continue;
            };
            assert_eq!(ours.code(), grpc);
            let details = ours.get_error_details();
            let reason = &details.error_info().unwrap().reason;
            assert_eq!(reason.to_ascii_lowercase(), code.as_str());
        }
    }
}
