//! When there will be no room any more, at the present rate: decided from figures, by pure functions.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What stands for "not in sight": thirty days.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 86_400);

/// How far apart samples are.
const EVERY: Duration = Duration::from_secs(10);
/// How many are kept: the rate is that of the last five minutes.
const SAMPLES: usize = 30;

/// How fast a number of bytes that are left falls.
#[derive(Debug, Default)]
pub(crate) struct Trend(VecDeque<(Instant, u64)>);

impl Trend {
    /// Takes note of what is left now; answers when nothing will be. After less than ten seconds nobody knows yet.
    pub(crate) fn note(&mut self, now: Instant, left: u64) -> Duration {
        if self.0.back().is_none_or(|(at, _)| now - *at >= EVERY) {
            if self.0.len() == SAMPLES {
                self.0.pop_front();
            }
            self.0.push_back((now, left));
        }
        let Some(&(at, before)) = self.0.front() else {
            return NEVER;
        };
        let (fallen, took) = (before.saturating_sub(left), now - at);
        if left == 0 {
            Duration::ZERO
        } else if fallen == 0 || took < EVERY {
            NEVER
        } else {
            let micros = u128::from(left).saturating_mul(took.as_micros()) / u128::from(fallen);
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(NEVER)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKey, Lane, PayloadFormat};
    use crate::wal::storage::memory::MemoryStorage;
    use crate::wal::{Append, Checkpoint, LaneCheckpoint, Wal, testing};

    /// What is said after what was left at each of these seconds.
    fn after(left: &[(u64, u64)]) -> Duration {
        let (begin, mut trend) = (Instant::now(), Trend::default());
        let mut said = NEVER;
        for (second, left) in left {
            said = trend.note(begin + Duration::from_secs(*second), *left);
        }
        said
    }

    #[test]
    fn what_falls_has_an_end_and_what_does_not_has_none() {
        let seconds = Duration::from_secs;
        assert_eq!(after(&[(0, 1_000)]), NEVER);
        assert_eq!(after(&[(0, 1_000), (9, 100)]), NEVER);
        assert_eq!(after(&[(0, 1_000), (10, 900)]), seconds(90));
        assert_eq!(after(&[(0, 1_000), (10, 900), (20, 1_000)]), NEVER);
        assert_eq!(after(&[(0, 1_000), (10, 900), (20, 1_100)]), NEVER);
        assert_eq!(after(&[(0, 1_000), (5, 0)]), Duration::ZERO);
        assert_eq!(after(&[(0, 1 << 60), (300, (1 << 60) - 1)]), NEVER);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minutes() {
        // An hour of quiet, then a byte a second for five minutes.
        let quiet = (0..360).map(|n| (n * 10, 10_000));
        let falling = (0..=30).map(|n| (3_600 + n * 10, 10_000 - n * 10));
        let samples: Vec<_> = quiet.chain(falling).collect();
        let said = after(&samples).as_secs();
        assert!((9_600..=10_100).contains(&said), "{said}");
    }

    #[test]
    fn however_often_it_is_asked_it_keeps_a_bounded_number_of_samples() {
        let (begin, mut trend) = (Instant::now(), Trend::default());
        for n in 0..100_000 {
            trend.note(begin + Duration::from_millis(n * 100), 10);
        }
        assert_eq!(trend.0.len(), SAMPLES);
    }

    /// Appends one event as a group of its own.
    async fn append(wal: &Wal, message_id: &str) {
        let key = EventKey {
            source: "default",
            message_id,
        };
        let event = Event {
            format: PayloadFormat::Json,
            payload: b"{}",
            source: "default",
            message_id,
            message_id_assigned: false,
            stream: "events",
            kind: None,
            lane: Lane(0),
            received_at: 0,
            sent_at: None,
            trace: None,
            batch_context: &[],
            batch_integrations: &[],
        };
        let mut append = Append::default();
        append.push(&event, wal.fingerprint(key));
        wal.append(append).unwrap().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_settled_is_counted_out_and_a_restart_knows_it() {
        let storage = MemoryStorage::default();
        let (wal, _) = testing::open(&storage, 1).unwrap();
        for id in ["a", "b", "c"] {
            append(&wal, id).await;
        }
        assert_eq!(wal.unsettled_bytes(), wal.stored_bytes());
        let settled = LaneCheckpoint {
            settled_below: 2,
            ..LaneCheckpoint::default()
        };
        let checkpoint = Checkpoint {
            offset: 2,
            lanes: vec![settled],
        };
        assert!(wal.checkpoint(checkpoint).await);
        // A later commit: the checkpoint is in it or in one before.
        append(&wal, "d").await;
        let figures = (wal.stored_bytes(), wal.unsettled_bytes(), wal.dedup_ids());
        assert_eq!(figures, (2 * figures.1, figures.1, 4));
        assert_eq!(wal.full_seconds(), NEVER.as_secs());
        wal.close().await;
        let (wal, _) = testing::open(&storage, 1).unwrap();
        let found = (wal.stored_bytes(), wal.unsettled_bytes(), wal.dedup_ids());
        assert_eq!(found, figures);
    }
}
