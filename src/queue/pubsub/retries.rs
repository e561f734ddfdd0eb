//! What the client library tries again by itself is counted like what we do.

use std::time::Duration;

use google_cloud_gax::error::Error;
use google_cloud_gax::retry_policy::RetryPolicy;
use google_cloud_gax::retry_result::RetryResult;
use google_cloud_gax::retry_state::RetryState;
use google_cloud_gax::throttle_result::ThrottleResult;

use crate::telemetry::Metrics;

/// A policy for publishes, whose repeats are counted.
#[derive(Debug)]
pub(super) struct CountedRetries<P> {
    pub(super) inner: P,
    pub(super) metrics: Metrics,
}

impl<P: RetryPolicy> RetryPolicy for CountedRetries<P> {
    fn on_error(&self, state: &RetryState, error: Error) -> RetryResult {
        let result = self.inner.on_error(state, error);
        if matches!(result, RetryResult::Continue(_)) {
            self.metrics.queue_publish_retries.add(1, &[]);
        }
        result
    }

    fn on_throttle(&self, state: &RetryState, error: Error) -> ThrottleResult {
        self.inner.on_throttle(state, error)
    }

    fn remaining_time(&self, state: &RetryState) -> Option<Duration> {
        self.inner.remaining_time(state)
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::retry_policy::RetryPolicyExt as _;
    use google_cloud_pubsub::retry_policy::RetryableErrors;

    use super::*;

    #[test]
    fn only_what_is_tried_again_counts() {
        let metrics = Metrics::new();
        let counted = |attempts| CountedRetries {
            inner: RetryableErrors.with_attempt_limit(attempts),
            metrics: metrics.clone(),
        };
        let state = RetryState::new(true).set_attempt_count(1_u32);
        let lost = || Error::io("the connection was reset");
        let again = counted(3).on_error(&state, lost());
        assert!(matches!(again, RetryResult::Continue(_)), "{again:?}");
        let last = counted(1).on_error(&state, lost());
        assert!(matches!(last, RetryResult::Exhausted(_)), "{last:?}");
        let rendered = metrics.render();
        assert!(
            rendered.contains("eventkit_queue_publish_retries_total 1\n"),
            "{rendered}"
        );
    }
}
