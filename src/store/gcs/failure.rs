//! What a failed attempt means for the one who waits.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use google_cloud_gax::error::{CredentialsError, Error as ClientError};
use google_cloud_storage::error::{ReadError, WriteError as UploadError};
use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::store::WriteError;

/// The longest wait that an answer can impose on us.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

type Source = Box<dyn StdError + Send + Sync>;

/// Why one attempt failed.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    /// Without payload.
    what: String,
    status: Option<u16>,
    retry_after: Option<Duration>,
    damaged_generation: Option<i64>,
    source: Option<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may succeed at once when it is repeated.
    Passing,
    /// It took all the time that it had: a repeat is for later.
    TimedOut,
    /// A person must do something.
    Refused,
}

impl Failure {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            status: None,
            retry_after: None,
            damaged_generation: None,
            source: None,
        }
    }

    /// Something that is not the service's word but will not last.
    pub(super) fn passing(what: impl Into<String>) -> Self {
        Self::new(Kind::Passing, what)
    }

    /// Something that will last.
    pub(super) fn refusal(what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what)
    }

    /// No answer in time.
    pub(super) fn timed_out(after: Duration) -> Self {
        Self::new(Kind::TimedOut, format!("no answer within {after:?}"))
    }

    /// An answer that is none of the service's.
    pub(super) fn unreadable(source: impl Into<Source>) -> Self {
        Self::passing("the answer cannot be read").because(source)
    }

    /// We could not say who we are.
    pub(super) fn unauthenticated(error: CredentialsError) -> Self {
        if error.is_transient() {
            Self::passing("no access token yet").because(error)
        } else {
            Self::refusal("no access token: check the credentials").because(error)
        }
    }

    /// What the service answered, if that was not success.
    pub(super) fn answered(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        Self::said(status, headers, message(body))
    }

    fn said(status: u16, headers: &HeaderMap, message: Option<String>) -> Self {
        let kind = if is_passing(status, message.as_deref()) {
            Kind::Passing
        } else {
            Kind::Refused
        };
        let mut failure = Self::new(kind, format!("HTTP {status}{}", advice(kind, status)));
        failure.status = Some(status);
        failure.retry_after = retry_after(headers);
        failure.source = message.map(Into::into);
        failure
    }

    fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether time alone may mend it.
    pub(super) fn is_passing(&self) -> bool {
        self.kind != Kind::Refused
    }

    /// Whether a repeat within a moment may succeed.
    pub(super) fn is_worth_another_attempt(&self) -> bool {
        self.kind == Kind::Passing
    }

    /// The answer's status.
    pub(super) const fn status(&self) -> Option<u16> {
        self.status
    }

    /// How long the service wants to be left alone.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The generation of an object that was stored, but not as it was sent.
    pub(super) const fn damaged_generation(&self) -> Option<i64> {
        self.damaged_generation
    }

    /// The same for whoever called: what was tried, with what, and what to do.
    pub(super) fn into_write_error(self, operation: &str, name: &str, bucket: &str) -> WriteError {
        let reason = format!("{operation} {name} in gs://{bucket}: {self}");
        let source = self.source;
        if self.kind == Kind::Refused {
            WriteError::Denied { reason, source }
        } else {
            WriteError::Unavailable { reason, source }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if let Some(status) = error.http_status_code() {
            let nothing = HeaderMap::new();
            let message = match error.status() {
                Some(status) => Some(status.message.clone()),
                None => error.http_payload().and_then(|body| message(body)),
            };
            return Self::said(status, error.http_headers().unwrap_or(&nothing), message);
        }
        if error.is_authentication() {
            return match source_of::<CredentialsError>(&error) {
                Some(credentials) => Self::unauthenticated(credentials.clone()),
                None => Self::refusal("no access token: check the credentials").because(error),
            };
        }
        let mut failure = Self::passing("no answer");
        if let Some(UploadError::ChecksumMismatch { object, .. }) = source_of(&error) {
            failure = Self::passing("it was stored damaged");
            failure.damaged_generation = Some(object.generation);
        } else if let Some(ReadError::ChecksumMismatch(_)) = source_of(&error) {
            failure = Self::passing("the checksum does not match");
        } else if error.is_binding() {
            failure = Self::refusal("the request cannot be built");
        }
        failure.because(error)
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // Its text would name the URL, and with it the object a second time.
        Self::passing("no answer").because(error.without_url())
    }
}

fn source_of<E: StdError + 'static>(error: &ClientError) -> Option<&E> {
    let mut source = StdError::source(error);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// What the body of an error says to people; anything else is a proxy's page.
fn message(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        error: Inner,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        message: String,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(body.error.message)
}

fn is_passing(status: u16, message: Option<&str>) -> bool {
    match status {
        408 | 409 | 429 | 500..=599 => true,
        // The bytes were damaged on their way to the service, which therefore stored nothing. Nothing but its text tells.
        400 => message.is_some_and(|message| message.to_ascii_lowercase().contains("crc32c")),
        _ => false,
    }
}

fn advice(kind: Kind, status: u16) -> &'static str {
    match (kind, status) {
        (Kind::Refused, 401) => " (the credentials are not accepted)",
        (Kind::Refused, 403) => {
            " (the account may not do that: it needs roles/storage.objectUser on the bucket)"
        }
        (Kind::Refused, 404) => " (there is no such bucket)",
        _ => "",
    }
}

/// Seconds alone: no service here answers with a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Disposition;

    fn error(reason: &str, message: &str) -> String {
        format!(
            r#"{{"error":{{"code":1,"message":"{message}","errors":[{{"domain":"global","reason":"{reason}"}}]}}}}"#
        )
    }

    #[test]
    fn a_status_is_an_outage_or_a_refusal() {
        let none = HeaderMap::new();
        let check = |status, body: &str, expected| {
            let failure = Failure::answered(status, &none, body.as_bytes());
            let passing = expected == Disposition::Retry;
            assert_eq!(
                failure.is_worth_another_attempt(),
                passing,
                "{status} {body}"
            );
            let error = failure.into_write_error("put", "a", "b");
            assert_eq!(error.disposition(), expected, "{status} {body}");
        };
        for status in [408, 409, 429, 500, 502, 503, 504] {
            check(status, "", Disposition::Retry);
            check(status, "<html>", Disposition::Retry);
        }
        for status in [301, 400, 401, 403, 404, 405, 410, 411, 413, 416] {
            check(status, "", Disposition::Alarm);
            check(status, &error("x", "y"), Disposition::Alarm);
        }
        let damaged = "Provided CRC32C \\\"AAAAAA==\\\" doesn't match calculated CRC32C";
        check(400, &error("invalid", damaged), Disposition::Retry);
        check(400, &error("invalid", "Bad name"), Disposition::Alarm);
    }

    #[test]
    fn a_refusal_says_in_one_line_what_to_do() {
        let none = HeaderMap::new();
        let body = error("forbidden", "somebody@example.com does not have access");
        for (status, expected) in [
            (
                403,
                "store refuses: put events/x in gs://b: HTTP 403 (the account may not do that: it needs roles/storage.objectUser on \
                 the bucket)",
            ),
            (
                404,
                "store refuses: put events/x in gs://b: HTTP 404 (there is no such bucket)",
            ),
            (
                401,
                "store refuses: put events/x in gs://b: HTTP 401 (the credentials are not accepted)",
            ),
        ] {
            let failure = Failure::answered(status, &none, body.as_bytes());
            let error = failure.into_write_error("put", "events/x", "b");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_service_says_how_long_to_wait_and_not_for_ever() {
        for (header, expected) in [
            ("2", Some(2)),
            (" 7 ", Some(7)),
            ("86400", Some(30)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, header.parse().unwrap())]);
            let failure = Failure::answered(429, &headers, b"");
            assert_eq!(
                failure.retry_after(),
                expected.map(Duration::from_secs),
                "{header}"
            );
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_timeout_is_an_outage_that_is_not_tried_again_at_once() {
        let failure = Failure::timed_out(Duration::from_secs(60));
        assert!(failure.is_passing() && !failure.is_worth_another_attempt());
        assert_eq!(
            failure.into_write_error("put", "a", "b").to_string(),
            "store unavailable: put a in gs://b: no answer within 60s"
        );
    }

    #[test]
    fn what_the_client_library_says_keeps_its_meaning() {
        let check = |error: ClientError, passing| {
            let text = error.to_string();
            assert_eq!(Failure::from(error).is_passing(), passing, "{text}");
        };
        let http = |status| ClientError::http(status, HeaderMap::new(), bytes::Bytes::new());
        check(http(503), true);
        check(http(403), false);
        check(ClientError::io("reset"), true);
        check(ClientError::connect("refused"), true);
        let credentials = |transient| {
            ClientError::authentication(CredentialsError::from_msg(transient, "no token"))
        };
        check(credentials(true), true);
        check(credentials(false), false);
    }
}
