//! The closed list of codes, and what each means in gRPC, in HTTP, for people and for a retry.
//!
//! The same words stand in HTTP bodies, gRPC results, the error store, metrics and logs. A code is never renamed and
//! never reused.

/// Whether sending the same thing again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It cannot: the request or event itself is at fault.
    Never,
    /// It can: resend with the same message ids after a moment.
    SameIds,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $grpc:ident, $http:literal, $retry:ident, $text:literal;)*) => {
        /// Why an event or a request was not accepted, or why an accepted event became an error row.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that stands for the code everywhere.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The gRPC code of a call that fails as a whole with it.
            #[must_use]
            pub const fn grpc(self) -> tonic::Code {
                match self { $(Self::$name => tonic::Code::$grpc,)* }
            }

            /// The HTTP status of a request that fails as a whole with it.
            #[must_use]
            pub const fn http(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// Whether a retry is safe and useful.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// The public text: never internals, always what to do.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    // --- one event, refused at the edge -------------------------------------------------------------------
    /// An item of a batch is not a JSON object.
    NotAnObject = "not_an_object", InvalidArgument, 400, Never, "an event must be a JSON object; do not retry";
    /// The event's bytes are not JSON.
    InvalidJson = "invalid_json", InvalidArgument, 400, Never, "the event is not valid JSON; do not retry";
    /// The event's bytes are not UTF-8.
    InvalidUtf8 = "invalid_utf8", InvalidArgument, 400, Never, "the event is not valid UTF-8; do not retry";
    /// The bytes of one event in a gRPC request are not an `eventkit.v1.Event`.
    InvalidProtobuf = "invalid_protobuf", InvalidArgument, 400, Never, "the event is not a valid eventkit.v1.Event; do not retry";
    /// A gRPC event gives the same part as a Struct and as JSON bytes.
    PayloadConflict = "payload_conflict", InvalidArgument, 400, Never, "give each part either as Struct or as JSON bytes, never both; do not retry";
    /// The event is larger than `EVENTKIT_MAX_EVENT_BYTES`.
    EventTooLarge = "event_too_large", ResourceExhausted, 413, Never, "the event is too large; do not retry";
    /// The event is nested deeper than `EVENTKIT_MAX_DEPTH`.
    TooDeep = "too_deep", InvalidArgument, 400, Never, "the event is nested too deeply; do not retry";
    /// The event has more keys than `EVENTKIT_MAX_KEYS`.
    TooManyKeys = "too_many_keys", InvalidArgument, 400, Never, "the event has too many keys; do not retry";
    /// The message id is longer than 256 bytes.
    MessageIdTooLong = "message_id_too_long", InvalidArgument, 400, Never, "a message id holds at most 256 bytes; do not retry";
    /// The stream's name is not one.
    InvalidStream = "invalid_stream", InvalidArgument, 400, Never, "a stream name is 1 to 128 characters of A-Z a-z 0-9 _ - . and does not begin with a dot; do not retry";

    // --- a whole request, refused -------------------------------------------------------------------------
    /// The body is empty or is neither a JSON object nor an array.
    MalformedRequest = "malformed_request", InvalidArgument, 400, Never, "the body must be one JSON object or an array of them; do not retry";
    /// The body is larger than `EVENTKIT_MAX_BODY_BYTES`, after decompression.
    BodyTooLarge = "body_too_large", ResourceExhausted, 413, Never, "the request is too large; do not retry it, send smaller batches";
    /// The request carries more events than `EVENTKIT_MAX_BATCH_EVENTS`.
    TooManyEvents = "too_many_events", ResourceExhausted, 413, Never, "the request carries too many events; do not retry it, send smaller batches";
    /// The body's content encoding is not supported.
    UnsupportedEncoding = "unsupported_encoding", Unimplemented, 415, Never, "the content encoding is not supported; do not retry";
    /// The body is not what its content encoding says.
    InvalidEncoding = "invalid_encoding", InvalidArgument, 400, Never, "the body is not what its content encoding says; do not retry";
    /// The body did not arrive in time; nothing was stored.
    RequestTimeout = "request_timeout", DeadlineExceeded, 408, SameIds, "the body did not arrive in time; nothing was stored; retry with the same message ids";
    /// The client's deadline passed before the events were appended; nothing was stored.
    DeadlineExceeded = "deadline_exceeded", DeadlineExceeded, 504, SameIds, "the deadline passed; nothing was stored; retry with the same message ids";
    /// No such path or method.
    NotFound = "not_found", Unimplemented, 404, Never, "there is nothing here; do not retry";
    /// The path exists, but not for this HTTP method.
    MethodNotAllowed = "method_not_allowed", Unimplemented, 405, Never, "the path does not take this method; do not retry";
    /// Only a process on the same machine may ask for it.
    Forbidden = "forbidden", PermissionDenied, 403, Never, "this is answered only on the machine itself; do not retry";
    /// The RPC is in the contract but not in this server yet.
    Unimplemented = "unimplemented", Unimplemented, 404, Never, "this server does not implement the call yet; do not retry";

    // --- our capacity, not the client's fault -------------------------------------------------------------
    /// The log is full of events that are not yet published.
    LogFull = "log_full", Unavailable, 503, SameIds, "the log is full; nothing was stored; retry with the same message ids";
    /// More is under way than the limits allow.
    Overloaded = "overloaded", Unavailable, 503, SameIds, "the server is overloaded; nothing was stored; retry with the same message ids";
    /// The server is stopping.
    Draining = "draining", Unavailable, 503, SameIds, "the server is stopping; nothing was stored; retry elsewhere with the same message ids";
    /// The log failed; nothing more is acknowledged and the process stops.
    LogFailed = "log_failed", Unavailable, 503, SameIds, "the durable write failed; retry with the same message ids";
    /// The answer came before the outcome was known.
    OutcomeUnknown = "outcome_unknown", Unavailable, 503, SameIds, "outcome unknown; retry with the same message ids";
    /// The sender is too fast.
    RateLimited = "rate_limited", ResourceExhausted, 429, SameIds, "too many requests; slow down and retry with the same message ids";
    /// A fault of the server's own.
    Internal = "internal", Internal, 500, SameIds, "internal error; retry with the same message ids";

    // --- an accepted event that became an error row -------------------------------------------------------
    /// The payload could not be read by the worker.
    InvalidPayload = "invalid_payload", InvalidArgument, 400, Never, "the payload could not be read";
    /// A required field is missing.
    MissingField = "missing_field", InvalidArgument, 400, Never, "a required field is missing";
    /// A field has the wrong type or an impossible value.
    InvalidField = "invalid_field", InvalidArgument, 400, Never, "a field has the wrong type or an impossible value";
    /// A timestamp cannot be read or lies outside the years 1 to 9999.
    InvalidTimestamp = "invalid_timestamp", InvalidArgument, 400, Never, "a timestamp cannot be read";
    /// A field is longer than its column holds.
    FieldTooLong = "field_too_long", InvalidArgument, 400, Never, "a field is too long";
    /// Reading the event made the worker panic; the event alone is set aside.
    WorkerPanicked = "worker_panicked", Internal, 500, Never, "the event could not be processed";
    /// The store refused this one row.
    RowRefused = "row_refused", Internal, 500, Never, "the store refused the row";
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique_and_snake_case() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|word| {
            word.len() <= 63
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }));
    }

    #[test]
    fn what_a_client_hears_says_whether_to_retry() {
        let heard = Code::ALL
            .iter()
            .take_while(|code| **code != Code::InvalidPayload);
        for code in heard {
            let text = code.text();
            let says_never = text.contains("do not retry");
            assert_eq!(says_never, code.retry() == Retry::Never, "{code}: {text}");
            assert!(text.contains("retry"), "{code}: {text}");
        }
    }

    #[test]
    fn no_status_makes_a_client_lose_or_repeat_data() {
        for &code in Code::ALL {
            let http = code.http();
            assert!((400..600).contains(&http), "{code}");
            // 402 and 410 and 460 are read as something else by SDKs; 501, 505 and 511 make them drop data.
            assert!(![402, 410, 460, 501, 505, 511].contains(&http), "{code}");
            let retryable = matches!(http, 408 | 429 | 500..);
            if retryable && code.http() != 500 {
                assert_eq!(code.retry(), Retry::SameIds, "{code}");
            }
            if code.retry() == Retry::Never {
                assert!(!matches!(code.grpc(), tonic::Code::Unavailable), "{code}");
            }
        }
    }
}
