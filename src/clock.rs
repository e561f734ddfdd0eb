//! The wall clock, as a value that tests can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::event::Micros;

/// Tells the time of day. It may step back: order is the offset, never the clock.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Microseconds since 1970-01-01T00:00:00Z.
    fn now(&self) -> Micros;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else takes"
    )]
    fn now(&self) -> Micros {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        }
    }
}

/// A clock that stands where it was put.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }

    /// Puts the clock; it may go back.
    pub fn set(&self, now: Micros) {
        self.0.store(now, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// Waits for a moment; for ever, where there is none.
pub(crate) async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
