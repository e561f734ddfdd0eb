//! Capped exponential backoff, half of each wait by chance.

use std::time::Duration;

use rand::RngExt as _;

/// How long to wait before which attempt.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The upper bound of the first wait.
    pub base: Duration,
    /// The upper bound of any wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            max: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The upper bound of the wait after the given number of failures (1 is the first): `base * 2^(failures - 1)`, capped.
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }

    /// A random wait between half the bound and the bound.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        self.bound(failures)
            .mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// The same where the other side asks for a wait: no less than that, and up to a quarter more. Everybody is told the same, and who
    /// comes back at the same moment is too much again.
    #[must_use]
    pub fn wait_asked(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let asked = asked.unwrap_or_default();
        self.wait(failures)
            .max(asked.mul_f64(rand::rng().random_range(1.0..=1.25)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_and_is_capped() {
        let backoff = Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        let bounds: Vec<u128> = (1..=6).map(|n| backoff.bound(n).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.bound(u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn a_wait_stays_within_its_bound() {
        let backoff = Backoff::default();
        for failures in 1..100 {
            let wait = backoff.wait(failures);
            assert!(wait <= backoff.bound(failures) && wait * 2 >= backoff.bound(failures));
        }
    }

    /// How many of a hundred are not the same.
    fn different(mut wait: impl FnMut() -> Duration) -> usize {
        let waits: std::collections::HashSet<_> = (0..100).map(|_| wait()).collect();
        waits.len()
    }

    #[test]
    fn not_all_come_again_at_once() {
        let backoff = Backoff::default();
        assert!(different(|| backoff.wait(9)) > 50);
        let asked = Duration::from_secs(60);
        let wait = || backoff.wait_asked(1, Some(asked));
        assert!(different(wait) > 50);
        for _ in 0..100 {
            assert!((asked..=asked * 5 / 4).contains(&wait()));
        }
        assert!(backoff.wait_asked(1, None) >= backoff.base / 2);
    }
}
