//! Ids that the gateway invents, and the one that names a request in the logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;

use crate::event::Micros;

/// A request's id, on its way from the layer that read it to the handler.
#[derive(Debug, Clone)]
pub(crate) struct RequestId {
    id: Arc<str>,
    reached: Arc<AtomicBool>,
}

impl RequestId {
    pub(crate) fn new(id: String) -> Self {
        Self {
            id: id.into(),
            reached: Arc::default(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.id
    }

    /// For the handler, which from here on writes the request's lines in the log.
    pub(crate) fn reach(&self) -> Arc<str> {
        self.reached.store(true, Ordering::Relaxed);
        Arc::clone(&self.id)
    }

    /// Whether the request came as far as its handler.
    pub(crate) fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
}

/// The longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A request's id: the client's `x-request-id` when that is 1 to 128 visible ASCII characters, else a UUIDv7.
pub(crate) fn of(headers: &HeaderMap, now: Micros) -> String {
    let given = headers
        .get("x-request-id")
        .map(http::HeaderValue::as_bytes)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()))
        .filter(|id| id.iter().all(u8::is_ascii_graphic))
        .and_then(|id| std::str::from_utf8(id).ok());
    given.map_or_else(|| uuid_v7(now), str::to_owned)
}

/// A UUIDv7 for that moment.
pub(crate) fn uuid_v7(now: Micros) -> String {
    let millis = u64::try_from(now / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random())
        .into_uuid()
        .hyphenated()
        .to_string()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_clients_id_is_taken_when_it_can_be_logged() {
        let long = "x".repeat(128);
        let cases: &[(&[u8], bool)] = &[
            (b"abc-123", true),
            (long.as_bytes(), true),
            (b"", false),
            (b"two words", false),
            (b"tab\t", false),
            (b"\xc3\xa9", false),
            (&[b'x'; 129], false),
        ];
        for (value, taken) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_bytes(value).unwrap());
            let id = of(&headers, 0);
            assert_eq!(id.as_bytes() == *value, *taken, "{value:?}");
            assert!(*taken || id.len() == 36, "{id}");
        }
    }

    #[test]
    fn invented_ids_carry_their_time_and_differ() {
        let now = 1_700_000_000_123_456;
        let (a, b) = (uuid_v7(now), uuid_v7(now));
        assert_ne!(a, b);
        let parsed = uuid::Uuid::parse_str(&a).unwrap();
        assert_eq!(parsed.get_version_num(), 7);
        let (seconds, nanos) = parsed.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos / 1_000_000), (1_700_000_000, 123));
        assert_eq!(uuid_v7(-5).len(), 36);
    }
}
