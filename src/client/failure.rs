//! Why one attempt did not answer everything, and what to do about it.

use std::time::Duration;

use tonic_types::StatusExt as _;

use crate::status::{Code, Retry};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why one attempt to send left events without an answer.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The connection could not be made or broke; whether anything was stored is unknown.
    #[error("the connection failed: {0}")]
    Connection(#[source] Source),
    /// No answer came in time; whether anything was stored is unknown.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The gateway refused the request as a whole.
    #[error("{}: {message}", code.as_deref().unwrap_or("refused"))]
    Refused {
        /// The word of the closed list, where the gateway said one.
        code: Option<String>,
        /// The gateway's text.
        message: String,
        /// Whether a retry is safe and useful.
        retry: bool,
        /// How long to wait before it.
        after: Option<Duration>,
    },
    /// The stream ended with the batch unacknowledged.
    #[error("the stream ended before the batch was acknowledged: {reason}")]
    Ended {
        /// Why.
        reason: String,
        /// How long to wait before the next one.
        after: Option<Duration>,
    },
    /// The answer named some events and left out others; these are to be sent again.
    #[error("the answer left events out")]
    Partial,
    /// The answer is not one that a gateway gives.
    #[error("the answer is not a gateway's: {0}")]
    Protocol(String),
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try the same again.
    Retry,
    /// Try with less at once.
    Split,
    /// The gateway will never take it.
    Reject,
    /// Nothing helps.
    GiveUp,
}

impl AttemptError {
    /// How long the gateway asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { after, .. } | Self::Ended { after, .. } => *after,
            Self::Connection(_) | Self::Timeout(_) | Self::Partial | Self::Protocol(_) => None,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Connection(_) | Self::Timeout(_) | Self::Ended { .. } | Self::Partial => {
                Verdict::Retry
            }
            Self::Refused { retry: true, .. } => Verdict::Retry,
            Self::Refused { code, .. } => match code.as_deref().and_then(known) {
                Some(Code::BodyTooLarge | Code::TooManyEvents) => Verdict::Split,
                Some(code) if is_about_the_events(code) => Verdict::Reject,
                Some(_) | None => Verdict::GiveUp,
            },
            Self::Protocol(_) => Verdict::GiveUp,
        }
    }

    /// A broken connection. Only the deepest cause says what happened.
    pub(super) fn connection(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut deepest = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        Self::Connection(deepest.to_string().into())
    }

    /// A refusal by a gateway or by whatever stands before it.
    pub(super) fn refused(code: Option<String>, message: String, otherwise: bool) -> Self {
        let retry = code
            .as_deref()
            .and_then(known)
            .map_or(otherwise, |code| code.retry() == Retry::SameIds);
        Self::Refused {
            code,
            message,
            retry,
            after: None,
        }
    }

    /// The same, with the time that the gateway asks for.
    pub(super) fn after(mut self, wait: Option<Duration>) -> Self {
        if let Self::Refused { after, .. } | Self::Ended { after, .. } = &mut self {
            *after = wait;
        }
        self
    }

    /// What a failed call means.
    pub(super) fn from_status(status: &tonic::Status) -> Self {
        use tonic::Code as Grpc;
        let details = status.get_error_details();
        let after = details.retry_info().and_then(|info| info.retry_delay);
        let code = details
            .error_info()
            .map(|info| info.reason.to_ascii_lowercase());
        if code.is_none() && std::error::Error::source(status).is_some() {
            return Self::connection(status);
        }
        let otherwise = match status.code() {
            // Only ever said with the time to wait when waiting helps.
            Grpc::ResourceExhausted => after.is_some(),
            Grpc::Cancelled
            | Grpc::Unknown
            | Grpc::DeadlineExceeded
            | Grpc::Aborted
            | Grpc::Internal
            | Grpc::Unavailable
            | Grpc::DataLoss => true,
            _ => false,
        };
        let message = match status.message() {
            "" => format!("{:?}", status.code()),
            text => text.to_owned(),
        };
        Self::refused(code, message, otherwise).after(after)
    }
}

fn known(word: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| code.as_str() == word)
}

/// Whether the code says that what was sent will never be taken, rather than that it was sent to the wrong place or with the wrong
/// key.
fn is_about_the_events(code: Code) -> bool {
    !matches!(
        code,
        Code::NotFound
            | Code::MethodNotAllowed
            | Code::Unimplemented
            | Code::UnsupportedEncoding
            | Code::WriteKeyMissing
            | Code::WriteKeyUnknown
            | Code::OriginNotAllowed
            | Code::StreamNotAllowed
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn every_code_of_the_closed_list_has_its_verdict() {
        for &code in Code::ALL {
            let error = AttemptError::refused(Some(code.as_str().into()), String::new(), false);
            let expected = match code {
                _ if code.retry() == Retry::SameIds => Verdict::Retry,
                Code::BodyTooLarge | Code::TooManyEvents => Verdict::Split,
                Code::NotFound
                | Code::MethodNotAllowed
                | Code::Unimplemented
                | Code::UnsupportedEncoding
                | Code::WriteKeyMissing
                | Code::WriteKeyUnknown
                | Code::OriginNotAllowed
                | Code::StreamNotAllowed => Verdict::GiveUp,
                _ => Verdict::Reject,
            };
            assert_eq!(error.verdict(), expected, "{code}");
        }
    }

    #[test]
    fn a_status_is_read_with_its_details() {
        let mut details =
            ErrorDetails::with_error_info("OVERLOADED", "eventkit.v1", HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(7)));
        let status = tonic::Status::with_error_details(tonic::Code::Unavailable, "x", details);
        let error = AttemptError::from_status(&status);
        assert_eq!(error.verdict(), Verdict::Retry);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.to_string(), "overloaded: x");

        // It tells no time to wait, and is no reason to give up.
        let details =
            ErrorDetails::with_error_info("DEADLINE_EXCEEDED", "eventkit.v1", HashMap::new());
        let status = tonic::Status::with_error_details(tonic::Code::DeadlineExceeded, "x", details);
        let error = AttemptError::from_status(&status);
        assert_eq!(error.verdict(), Verdict::Retry);
        assert_eq!(error.retry_after(), None);

        let cases = [
            (tonic::Status::resource_exhausted("x"), Verdict::GiveUp),
            (tonic::Status::unavailable("x"), Verdict::Retry),
            (tonic::Status::deadline_exceeded("x"), Verdict::Retry),
            (tonic::Status::permission_denied("x"), Verdict::GiveUp),
            (tonic::Status::unimplemented("x"), Verdict::GiveUp),
        ];
        for (status, verdict) in cases {
            assert_eq!(
                AttemptError::from_status(&status).verdict(),
                verdict,
                "{status}"
            );
        }
    }
}
