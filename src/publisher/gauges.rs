//! What the publisher holds, as its gauges show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::lane::LaneState;
use crate::event::Offset;
use crate::telemetry::Metrics;
use crate::wal::{LaneCheckpoint, Wal};

/// Written by the publisher, read at each scrape.
#[derive(Debug)]
pub(super) struct Gauges {
    /// How far each lane is settled.
    settled: Box<[AtomicU64]>,
    open_bytes: AtomicU64,
    under_way: AtomicU64,
    held: AtomicU64,
}

impl Gauges {
    /// Registers them; all lanes are settled below `offset`.
    pub(super) fn register(
        metrics: &Metrics,
        wal: &Wal,
        (lanes, offset): (usize, Offset),
        open_bytes_limit: usize,
    ) -> Arc<Self> {
        let gauges = Arc::new(Self {
            settled: (0..lanes).map(|_| AtomicU64::new(offset)).collect(),
            open_bytes: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let (shown, wal) = (Arc::clone(&gauges), wal.clone());
        // The one that lags most is the one that pins the log.
        metrics.observe_lanes(
            "eventkit_publisher_lane_lag",
            "Offsets between the durable tail and what the lane has settled",
            lanes,
            move |lane| {
                let below = shown.settled.get(lane).map_or(0, read);
                float(wal.durable().borrow().saturating_sub(below))
            },
        );
        let gauge = |name, description, field: fn(&Self) -> &AtomicU64| {
            let shown = Arc::clone(&gauges);
            metrics.observe(name, description, vec![], move || {
                float(read(field(&shown)))
            });
        };
        gauge(
            "eventkit_publisher_open_bytes",
            "Bytes of batches that are not sealed yet",
            |gauges| &gauges.open_bytes,
        );
        gauge(
            "eventkit_publisher_batches_under_way",
            "Batches that the queue has not taken yet",
            |gauges| &gauges.under_way,
        );
        gauge(
            "eventkit_publisher_batches_held",
            "Batches that the queue took and is not known to own",
            |gauges| &gauges.held,
        );
        let limit = float(open_bytes_limit as u64);
        metrics.observe(
            "eventkit_publisher_open_bytes_limit",
            "Bytes at which a lane's batch is sealed, over all lanes",
            vec![],
            move || limit,
        );
        gauges
    }

    pub(super) fn settled(&self, lanes: &[LaneCheckpoint]) {
        for (gauge, lane) in self.settled.iter().zip(lanes) {
            gauge.store(lane.settled_below, Ordering::Relaxed);
        }
    }

    pub(super) fn holds(&self, lanes: &[LaneState], under_way: usize) {
        let sum = |of: fn(&LaneState) -> usize| lanes.iter().map(of).sum::<usize>() as u64;
        self.open_bytes
            .store(sum(LaneState::open_bytes), Ordering::Relaxed);
        self.held.store(sum(LaneState::held), Ordering::Relaxed);
        self.under_way.store(under_way as u64, Ordering::Relaxed);
    }
}

fn read(gauge: &AtomicU64) -> u64 {
    gauge.load(Ordering::Relaxed)
}

/// How old a batch may become before it is sealed: events wait in the log for so long and are well.
pub(super) fn age_limit(metrics: &Metrics, age: Duration) {
    metrics.observe(
        "eventkit_publisher_batch_age_limit_seconds",
        "Age at which a lane's batch is sealed, whatever its size",
        vec![],
        move || age.as_secs_f64(),
    );
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn float(value: u64) -> f64 {
    value as f64
}
