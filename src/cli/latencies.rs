//! Latencies, any number of them in the same memory.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest that is told from longer ones, in microseconds.
const MICROS_MAX: u64 = 3_600_000_000;
/// Values are known to so many decimal digits.
const DIGITS: u8 = 3;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let micros = Histogram::new_with_bounds(1, MICROS_MAX, DIGITS);
        Self(micros.expect("the bounds are in order and the digits are few"))
    }
}

impl Latencies {
    pub(super) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What this share of all lies below, in milliseconds.
    pub(super) fn millis_at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest, in milliseconds.
    pub(super) fn millis_max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_known_to_three_digits() {
        let mut latencies = Latencies::default();
        assert!(latencies.is_empty());
        for millis in 1..=1_000 {
            latencies.record(Duration::from_millis(millis));
        }
        for (found, expected) in [
            (latencies.millis_at(0.5), 500.0),
            (latencies.millis_at(0.99), 990.0),
            (latencies.millis_max(), 1_000.0),
        ] {
            let off = (found - expected) / expected;
            assert!(off.abs() < 0.001, "{found} instead of {expected}");
        }
        latencies.record(Duration::MAX);
        assert!(latencies.millis_max() > 3_599_000.0);
    }
}
