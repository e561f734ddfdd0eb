//! A client's deadline: it counts until the events are appended, never afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Until when a request may be appended. Shared between the layer that watches the clock and the handler.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: Instant,
    appended: Arc<AtomicBool>,
}

impl Deadline {
    /// A deadline at that moment.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self {
            at,
            appended: Arc::default(),
        }
    }

    /// The deadline that a request's `grpc-timeout` sets; `None` without one, or with one that cannot be read.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let timeout = parse_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?;
        Instant::now().checked_add(timeout).map(Self::new)
    }

    /// The moment itself.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Said just before the append: false when it is too late; otherwise the deadline is over and done with.
    #[must_use]
    pub fn begin_append(&self) -> bool {
        if Instant::now() >= self.at {
            return false;
        }
        self.appended.store(true, Ordering::Relaxed);
        true
    }

    /// Whether the append has begun.
    #[must_use]
    pub fn is_past_append(&self) -> bool {
        self.appended.load(Ordering::Relaxed)
    }
}

/// The value of a `grpc-timeout` header: at most 8 digits and a unit.
fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_says() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("20m", Some(Duration::from_millis(20))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("123456789S", None),
            ("1é", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse_timeout(value), expected, "{value:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_with_the_append() {
        let deadline = Deadline::new(Instant::now() + Duration::from_secs(1));
        assert!(!deadline.is_past_append());
        assert!(deadline.begin_append());
        assert!(deadline.is_past_append());

        let late = Deadline::new(Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!late.begin_append());
        assert!(!late.is_past_append());
    }
}
