//! The write key, and the trace that a request belongs to: what goes with every request besides its events.

use std::fmt;

use http::{HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;

use crate::ingress::auth::secret::KEY_BYTES_MAX;
use crate::telemetry::trace::link_to;

/// Where a key goes, over both protocols.
pub(super) const X_WRITE_KEY: HeaderName = HeaderName::from_static("x-write-key");
/// <https://www.w3.org/TR/trace-context/#traceparent-header>
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A write key. Shown to nobody.
#[derive(Clone)]
pub struct WriteKey(HeaderValue);

/// A text that no key can be.
#[derive(Debug, thiserror::Error)]
#[error("a write key is 1 to 256 visible ASCII characters")]
pub struct InvalidWriteKey;

impl WriteKey {
    /// A key as `eventkit keys add` printed it.
    ///
    /// # Errors
    ///
    /// [`InvalidWriteKey`], which does not quote it.
    pub fn new(key: &str) -> Result<Self, InvalidWriteKey> {
        let is_plain = !key.is_empty()
            && key.len() <= KEY_BYTES_MAX
            && key.bytes().all(|b| b.is_ascii_graphic());
        let value = HeaderValue::from_str(key).ok().filter(|_| is_plain);
        let mut value = value.ok_or(InvalidWriteKey)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey(..)")
    }
}

/// The `traceparent` of whoever sends: of OpenTelemetry's current context, if that has a span.
pub(super) fn current_trace() -> Option<HeaderValue> {
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return None;
    }
    HeaderValue::from_str(&link_to(span).to_string()).ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    #[test]
    fn a_key_is_plain_and_never_shown() {
        let key = WriteKey::new("ek_secret").unwrap();
        assert_eq!(
            format!("{key:?} {:?}", key.header()),
            "WriteKey(..) Sensitive"
        );
        for bad in ["", "a b", "a\n", "schlüssel", &"x".repeat(257)] {
            assert!(WriteKey::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_trace_is_the_current_one_if_any() {
        assert_eq!(current_trace(), None);
        let span = SpanContext::new(
            TraceId::from_bytes([1; 16]),
            SpanId::from_bytes([2; 8]),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        let _current = Context::new().with_remote_span_context(span).attach();
        let header = current_trace().unwrap();
        let expected = format!("00-{}-{}-01", "01".repeat(16), "02".repeat(8));
        assert_eq!(header, expected.as_str());
    }
}
