use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::event::LogId;
use crate::store::fake::{Fault, Faulty};

/// Takes everything.
#[derive(Debug, Clone, Copy)]
struct Sink;

#[async_trait]
impl EventStore for Sink {
    async fn write_events(
        &self,
        _: &BatchId,
        _: Day,
        _: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        Ok(Written {
            created: true,
            ..Written::default()
        })
    }
}

#[async_trait]
impl ErrorStore for Sink {
    async fn write_errors(
        &self,
        _: &BatchId,
        _: Day,
        _: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        Ok(Written::default())
    }
}

struct Rig {
    store: Arc<Retrying<Faulty<Sink>>>,
    plan: Faulty<Sink>,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
}

fn rig(plan: impl IntoIterator<Item = Option<Fault>>) -> Rig {
    let plan = Faulty::new(Sink, plan);
    let (health, metrics, stop) = (Health::default(), Metrics::new(), CancellationToken::new());
    let store = Arc::new(Retrying::new(
        plan.clone(),
        Backoff::default(),
        health.clone(),
        metrics.clone(),
        stop.clone(),
    ));
    Rig {
        store,
        plan,
        health,
        metrics,
        stop,
    }
}

fn batch(lane: u16) -> BatchId {
    BatchId {
        log_id: LogId(1),
        lane: Lane(lane),
        number: 0,
        first: 0,
        last: 0,
        input_hash: 0,
    }
}

impl Rig {
    async fn write(&self, lane: u16) -> Result<Written, WriteError> {
        self.store
            .write_events(&batch(lane), Day(0), Arc::new([]))
            .await
    }

    fn degraded(&self) -> Option<String> {
        self.health.readiness().degraded.remove(COMPONENT)
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_repeated_until_it_succeeds() {
    let faults = [Fault::Unavailable, Fault::Denied, Fault::AnswerLost];
    let rig = rig((0..30).map(|n| Some(faults[n % 3])));
    let began = Instant::now();
    assert!(rig.write(0).await.unwrap().created);
    assert_eq!(rig.plan.calls(), 31);
    // The waits grow to their cap and stay there: 100 ms, doubling up to 30 s, each at least half.
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_secs(300) && waited < Duration::from_secs(720),
        "{waited:?}"
    );
    assert_eq!(rig.degraded(), None);
    let metrics = rig.metrics.render();
    assert!(
        metrics.contains(r#"eventkit_store_write_retries_total{kind="events"} 30"#),
        "{metrics}"
    );
    for line in [
        r#"eventkit_store_write_seconds_count{kind="events"} 31"#,
        r#"eventkit_store_write_failures_total{reason="denied"} 10"#,
        r#"eventkit_store_write_failures_total{reason="unavailable"} 20"#,
        "eventkit_store_writes_failing 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_is_degraded_exactly_while_a_write_fails() {
    let rig = rig([Some(Fault::Unavailable); 3]);
    assert_eq!(rig.degraded(), None);
    let write = rig.write(7);
    let watch = async {
        // The first wait is at least 50 ms.
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(
            rig.degraded().as_deref(),
            Some("writes fail and are retried: events of lane 7")
        );
        assert!(rig.health.readiness().is_ready());
        let metrics = rig.metrics.render();
        assert!(metrics.contains("eventkit_store_writes_failing 1"));
    };
    let (written, ()) = tokio::join!(write, watch);
    assert!(written.is_ok());
    assert_eq!(rig.degraded(), None);
}

#[tokio::test(start_paused = true)]
async fn one_lane_that_is_well_does_not_hide_another_that_is_not() {
    let rig = rig([Some(Fault::Unavailable), None, None]);
    let failing = rig.write(1);
    let well = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(rig.write(2).await.is_ok());
        assert!(rig.degraded().is_some());
    };
    let (written, ()) = tokio::join!(failing, well);
    assert!(written.is_ok());
    assert_eq!(rig.degraded(), None);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_program_ends_the_retries_with_the_last_error() {
    let rig = rig([Some(Fault::Unavailable); 1_000]);
    let stop = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        rig.stop.cancel();
    };
    let (written, ()) = tokio::join!(rig.write(0), stop);
    assert!(matches!(written, Err(WriteError::Unavailable { .. })));
    assert!(rig.plan.calls() < 30);
    // Still degraded: nobody got through.
    assert!(rig.degraded().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_drain_still_writes_once() {
    let rig = rig([None, Some(Fault::Unavailable)]);
    rig.stop.cancel();
    assert!(rig.write(0).await.is_ok());
    assert!(rig.write(0).await.is_err());
    assert_eq!(rig.plan.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn error_rows_are_retried_too() {
    let rig = rig([Some(Fault::Unavailable)]);
    let written = rig
        .store
        .write_errors(&batch(0), Day(0), Arc::new([]))
        .await;
    assert!(written.is_ok());
    let metrics = rig.metrics.render();
    assert!(
        metrics.contains(r#"eventkit_store_write_retries_total{kind="errors"} 1"#),
        "{metrics}"
    );
}

/// Refuses an error row at its first two calls.
#[derive(Debug, Default)]
struct Picky(AtomicUsize);

#[async_trait]
impl ErrorStore for Picky {
    async fn write_errors(
        &self,
        _: &BatchId,
        _: Day,
        _: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        let refused = match self.0.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => vec![(0, "the document is too large".to_owned())],
            _ => vec![],
        };
        Ok(Written {
            refused,
            ..Written::default()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_row_that_is_refused_is_tried_again() {
    let metrics = Metrics::new();
    let store = Retrying::new(
        Picky::default(),
        Backoff::default(),
        Health::default(),
        metrics.clone(),
        CancellationToken::new(),
    );
    let written = store.write_errors(&batch(0), Day(0), Arc::new([])).await;
    assert!(written.unwrap().refused.is_empty());
    let metrics = metrics.render();
    for line in [
        r#"eventkit_store_write_failures_total{reason="denied"} 2"#,
        r#"eventkit_store_write_retries_total{kind="errors"} 2"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

const REFUSAL: Alarms = Alarms {
    refusal: true,
    stuck: false,
};
const STUCK: Alarms = Alarms {
    refusal: false,
    stuck: true,
};
const NONE: Alarms = Alarms {
    refusal: false,
    stuck: false,
};

fn lane(number: u16) -> Whose {
    ("events", LogId(1), Lane(number))
}

#[test]
fn a_refusal_is_told_once_per_outage() {
    let mut outage = Outage::default();
    assert_eq!(outage.failed(lane(1), Disposition::Alarm), REFUSAL);
    assert_eq!(outage.failed(lane(1), Disposition::Alarm), NONE);
    assert_eq!(outage.failed(lane(2), Disposition::Alarm), NONE);
    outage.succeeded(lane(1));
    outage.succeeded(lane(2));
    assert_eq!(outage.text(), None);
    assert_eq!(outage.failed(lane(1), Disposition::Alarm), REFUSAL);
}

#[test]
fn a_lane_is_stuck_when_it_fails_again_and_again_while_others_get_through() {
    let mut outage = Outage::default();
    assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE);
    for _ in 1..STUCK_AFTER {
        outage.succeeded(lane(2));
        assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE);
    }
    outage.succeeded(lane(2));
    assert_eq!(outage.failed(lane(1), Disposition::Retry), STUCK);
    outage.succeeded(lane(2));
    assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE, "once");
    outage.succeeded(lane(1));
    assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE);
}

#[test]
fn no_lane_is_stuck_when_the_whole_store_is_out_although_some_writes_were_in_time() {
    let mut outage = Outage::default();
    for number in 0..16 {
        // The lane before was still in time when this one failed.
        assert_eq!(outage.failed(lane(number), Disposition::Retry), NONE);
        outage.succeeded(lane(number + 16));
    }
    for _ in 0..100 {
        for number in 0..16 {
            assert_eq!(outage.failed(lane(number), Disposition::Retry), NONE);
        }
    }
    // It is back: one after the other gets through while the last waits for its turn.
    (0..15).for_each(|number| outage.succeeded(lane(number)));
    assert_eq!(outage.failed(lane(15), Disposition::Retry), NONE);
    outage.succeeded(lane(15));
    assert_eq!(outage.text(), None);
}

#[test]
fn a_lane_of_one_log_is_not_that_of_another() {
    let mut outage = Outage::default();
    let other = ("events", LogId(2), Lane(1));
    assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE);
    assert_eq!(outage.failed(other, Disposition::Retry), NONE);
    outage.succeeded(other);
    let degraded = outage.text();
    assert_eq!(
        degraded.as_deref(),
        Some("writes fail and are retried: events of lane 1"),
        "the other log's success is not this one's"
    );
    for _ in 1..STUCK_AFTER {
        assert_eq!(outage.failed(lane(1), Disposition::Retry), NONE);
        outage.succeeded(other);
    }
    assert_eq!(outage.failed(lane(1), Disposition::Retry), STUCK);
}
