//! Figures from figures: spreads, ratios per round, whether something grows. Pure.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// What the rounds of one measurement came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Each round's value, in order.
    pub(super) values: Vec<f64>,
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: Vec<f64>) -> Option<Self> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            values,
        })
    }
}

/// The middle of sorted values, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// One over the other, round by round: what disturbed a round disturbed both.
pub(super) fn ratios(over: &Spread, under: &Spread) -> Option<Spread> {
    let rounds = over.values.iter().zip(&under.values);
    Spread::of(rounds.map(|(over, under)| over / under).collect())
}

/// A median and between which values the true one is likely to lie.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Interval {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Each round's value, in order.
    pub(super) values: Vec<f64>,
}

/// How sure an [`Interval`] is.
pub(super) const CONFIDENCE: f64 = 0.95;

/// So often the rounds are drawn anew.
const RESAMPLES: usize = 10_000;

impl Interval {
    /// By percentile bootstrap over the rounds: the medians of as many rounds, drawn again and again with replacement. It supposes
    /// nothing about how the values are spread. The same values give the same interval. `None` of no values.
    pub(super) fn of(values: Vec<f64>) -> Option<Self> {
        let spread = Spread::of(values)?;
        let mut rng = StdRng::seed_from_u64(RESAMPLES as u64);
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let drawn = spread.values.iter().filter_map(|_| {
                    let at = rng.random_range(0..spread.values.len());
                    spread.values.get(at).copied()
                });
                Some(Spread::of(drawn.collect())?.median)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        // The resamples' ranks: a whole number of them lies outside on each side.
        let outside = RESAMPLES * 25 / 1_000;
        Some(Self {
            median: spread.median,
            low: *medians.get(outside)?,
            high: *medians.get(medians.len().checked_sub(outside + 1)?)?,
            values: spread.values,
        })
    }
}

/// How much a lag may have grown between the first and the last third of a run: this share of what came in meanwhile, and
/// never less than what comes in within [`TOLERANCE_SECONDS`]. A batch or a merge more or less is not growth.
const TOLERANCE_SHARE: f64 = 0.01;
/// See [`TOLERANCE_SHARE`].
const TOLERANCE_SECONDS: f64 = 0.5;

/// Whether a lag grows, seen at even intervals over a run of so many seconds at so many events per second: its mean over the
/// last third against that over the first.
pub(super) fn grows(lags: &[f64], rate: f64, seconds: f64) -> bool {
    let third = (lags.len() / 3).max(1);
    let first = mean(lags.get(..third).unwrap_or(lags));
    let last = mean(lags.get(lags.len().saturating_sub(third)..).unwrap_or(lags));
    let between = seconds * 2.0 / 3.0;
    last - first > rate * (between * TOLERANCE_SHARE).max(TOLERANCE_SECONDS)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_median_whatever_the_order() {
        assert_eq!(Spread::of(vec![]), None);
        for (values, median) in [
            (vec![3.0], 3.0),
            (vec![4.0, 1.0], 2.5),
            (vec![9.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 3.0, 2.0], 2.5),
        ] {
            let spread = Spread::of(values.clone()).unwrap();
            assert!((spread.median - median).abs() < 1e-9, "{spread:?}");
            assert!(spread.min <= median && median <= spread.max);
            assert_eq!(spread.values, values);
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let over = Spread::of(vec![1.0, 30.0]).unwrap();
        let under = Spread::of(vec![2.0, 40.0]).unwrap();
        assert_eq!(ratios(&over, &under).unwrap().values, [0.5, 0.75]);
    }

    #[test]
    fn an_interval_holds_the_median_and_narrows_with_the_spread() {
        assert_eq!(Interval::of(vec![]), None);
        let one = Interval::of(vec![1.5]).unwrap();
        assert_eq!([one.low, one.median, one.high], [1.5; 3]);
        let of = |width: f64| {
            let values = (-5..=5).map(|at| 1.0 + width * f64::from(at)).collect();
            Interval::of(values).unwrap()
        };
        let (wide, narrow) = (of(0.1), of(0.01));
        for interval in [&wide, &narrow] {
            assert!((interval.median - 1.0).abs() < 1e-9, "{interval:?}");
            assert!(interval.low < 1.0 && 1.0 < interval.high, "{interval:?}");
            // Not the ends: a single round says little.
            let ends = Spread::of(interval.values.clone()).unwrap();
            assert!(ends.min < interval.low && interval.high < ends.max);
        }
        assert!(narrow.high - narrow.low < (wide.high - wide.low) / 5.0);
        assert_eq!(of(0.1), wide);
    }

    #[test]
    fn a_saw_does_not_grow_and_a_ramp_does() {
        let saw = |slope: f64| -> Vec<f64> {
            (0..40u32)
                .map(|at| 1_000.0 * f64::from(at % 4) + slope * f64::from(at) / 4.0)
                .collect()
        };
        // Ten seconds at 10,000 events/s.
        assert!(!grows(&saw(0.0), 10_000.0, 10.0));
        assert!(!grows(&saw(500.0), 10_000.0, 10.0));
        assert!(!grows(&saw(-5_000.0), 10_000.0, 10.0));
        assert!(grows(&saw(1_000.0), 10_000.0, 10.0));
        // In two minutes one hundredth shows.
        let ramp: Vec<f64> = (0..120u32).map(|at| 150.0 * f64::from(at)).collect();
        assert!(grows(&ramp, 10_000.0, 120.0));
        assert!(!grows(&[], 1.0, 1.0));
    }
}
