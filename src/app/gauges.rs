//! Gauges of what the log holds; the stages count the rest themselves.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::clock::Clock;
use crate::wal::Wal;

/// Registers them.
pub(super) fn observe(wal: &Wal, shared: &Shared) {
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    fn gauge(value: u64) -> f64 {
        value as f64
    }
    fn age(clock: &dyn Clock, since: Option<i64>) -> f64 {
        let micros = since.map_or(0, |since| clock.now().saturating_sub(since));
        Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
    }
    type Read = fn(&Wal, &dyn Clock) -> f64;
    let gauges: [(&str, &str, Read); 6] = [
        ("eventkit_wal_bytes", "Bytes of stored records", |wal, _| {
            gauge(wal.stored_bytes())
        }),
        (
            "eventkit_wal_bytes_limit",
            "Stored bytes at which work is shed",
            |wal, _| gauge(wal.limit_bytes()),
        ),
        (
            "eventkit_queue_depth",
            "Events in the log that are not settled",
            |wal, _| gauge(wal.durable().borrow().saturating_sub(wal.settled())),
        ),
        (
            "eventkit_wal_oldest_unsettled_seconds",
            "Age of the oldest unsettled event",
            |wal, clock| age(clock, wal.received_at(wal.settled())),
        ),
        (
            "eventkit_dedup_window_seconds",
            "How far back repeats are recognised",
            |wal, clock| age(clock, wal.dedup_since()),
        ),
        (
            "eventkit_wal_usable",
            "1 when the log takes appends",
            |wal, _| gauge(u64::from(wal.admit().is_ok())),
        ),
    ];
    for (name, description, read) in gauges {
        let (wal, clock) = (wal.clone(), Arc::clone(&shared.clock));
        shared
            .metrics
            .observe(name, description, vec![], move || read(&wal, &*clock));
    }
}
