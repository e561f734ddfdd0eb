//! How fast a body has to come. Pure.
//!
//! A body may not pause for longer than `EVENTKIT_BODY_TIMEOUT`, and all in all it has that long and one second more for
//! every `EVENTKIT_MIN_BODY_RATE` bytes that have come. So neither a body that stalls nor one that drips keeps its place
//! for ever, and a large body over a slow line has the time it needs.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::IngressConfig;

/// The limits of every body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PaceLimits {
    /// The longest pause.
    pub(crate) pause_max: Duration,
    /// The least bytes per second in the long run.
    pub(crate) rate_min: u64,
}

impl PaceLimits {
    pub(crate) fn of(config: &IngressConfig) -> Self {
        Self {
            pause_max: config.body_timeout,
            rate_min: config.body_rate_min,
        }
    }
}

/// How one body has come so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    limits: PaceLimits,
    began: Instant,
    came_at: Instant,
    bytes: u64,
}

impl Pace {
    /// A body of which nothing has come yet.
    pub(crate) fn begin(limits: PaceLimits, now: Instant) -> Self {
        Self {
            limits,
            began: now,
            came_at: now,
            bytes: 0,
        }
    }

    /// Bytes came.
    pub(crate) fn came(&mut self, bytes: usize, now: Instant) {
        // Frames of nothing are no progress.
        if bytes > 0 {
            self.came_at = now;
            self.bytes = self.bytes.saturating_add(bytes as u64);
        }
    }

    /// Until when more has to come.
    pub(crate) fn due(&self) -> Instant {
        let PaceLimits {
            pause_max,
            rate_min,
        } = self.limits;
        let earned = Duration::from_secs(self.bytes / rate_min.max(1));
        (self.came_at + pause_max).min(self.began + pause_max + earned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_a_pause_and_what_its_bytes_have_earned() {
        let limits = PaceLimits {
            pause_max: Duration::from_secs(10),
            rate_min: 100,
        };
        // What came when, and until when the next must come; seconds and bytes.
        let cases: &[(&[(u64, usize)], u64)] = &[
            (&[], 10),
            (&[(0, 1)], 10),
            (&[(5, 99)], 10),
            (&[(5, 100)], 11),
            (&[(9, 1), (9, 1)], 10),
            (&[(9, 0)], 10),
            (&[(0, 1_000)], 10),
            (&[(9, 1_000)], 19),
            (&[(9, 1_000), (18, 0)], 19),
            (&[(9, 1_000), (18, 100)], 21),
        ];
        let began = Instant::now();
        for (parts, due) in cases {
            let mut pace = Pace::begin(limits, began);
            for (at, bytes) in *parts {
                pace.came(*bytes, began + Duration::from_secs(*at));
            }
            let found = pace.due() - began;
            assert_eq!(found, Duration::from_secs(*due), "{parts:?}");
        }
    }
}
