//! Gauges of the process and of what the log holds; the stages show and count the rest themselves.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;

use super::Shared;
use crate::clock::Clock;
use crate::config::{Config, Role};
use crate::lifecycle::health::COMPONENTS;
use crate::telemetry::logs::LEVELS;
use crate::wal::Wal;

/// The parts that a process may have, and the components without which each does not work.
const PARTS: [(Role, &[&str]); 3] = [
    // An outage behind the log is what it is for.
    (Role::Gateway, &[]),
    (Role::Worker, &["store", "pubsub pull", "pubsub messages"]),
    (Role::Loader, &["warehouse"]),
];

/// Registers what every process shows.
pub(super) fn observe_process(config: &Config, shared: &Shared) {
    readiness(config.role, shared);
    limits(config, shared);
    let role = KeyValue::new("role", config.role.as_str());
    let version = KeyValue::new("version", env!("CARGO_PKG_VERSION"));
    shared.metrics.observe(
        "eventkit_info",
        "Always 1; what runs is in its labels",
        vec![role, version],
        || 1.0,
    );
    let Some(logs) = &shared.logs else {
        return;
    };
    let levels = || -> Vec<_> {
        LEVELS
            .map(|level| vec![KeyValue::new("level", level)])
            .into()
    };
    let counted = logs.clone();
    shared.metrics.observe_counts(
        "eventkit_log_lines",
        "Log lines written",
        levels(),
        move |at| counted.written(at),
    );
    let counted = logs.clone();
    shared.metrics.observe_counts(
        "eventkit_log_lines_suppressed",
        "Log lines that were too many of their kind",
        levels(),
        move |at| counted.suppressed(at),
    );
}

fn readiness(role: Role, shared: &Shared) {
    let has = |part: Role| match part {
        Role::Gateway => role.takes_in(),
        Role::Worker => role.stores(),
        Role::Loader => role.loads(),
        Role::All => false,
    };
    let parts: Vec<_> = PARTS.into_iter().filter(|(part, _)| has(*part)).collect();
    let labels = parts
        .iter()
        .map(|(part, _)| vec![KeyValue::new("role", part.as_str())]);
    let health = shared.health.clone();
    shared.metrics.observe_all(
        "eventkit_ready",
        "1 when the part works",
        labels.collect(),
        move |at| {
            let Some((part, needed)) = parts.get(at) else {
                return 0.0;
            };
            let is_down = needed.iter().any(|component| health.is_degraded(component));
            let is_taken_out = match part {
                Role::Gateway => !health.is_ready(),
                // A log that takes nothing more is the gateway's.
                _ => health
                    .readiness()
                    .not_ready
                    .keys()
                    .any(|part| *part != "log"),
            };
            f64::from(u8::from(!is_taken_out && !is_down))
        },
    );
    let labels = COMPONENTS
        .iter()
        .map(|component| vec![KeyValue::new("component", component.replace(' ', "_"))]);
    let health = shared.health.clone();
    shared.metrics.observe_all(
        "eventkit_degraded",
        "1 while the component does not work",
        labels.collect(),
        move |at| {
            let is_down = COMPONENTS
                .get(at)
                .is_some_and(|component| health.is_degraded(component));
            f64::from(u8::from(is_down))
        },
    );
}

fn limits(config: &Config, shared: &Shared) {
    if !config.role.stores() {
        return;
    }
    let (workers, budget) = (
        float(config.workers as u64),
        float(config.publisher.budget_bytes as u64),
    );
    for (name, description, value) in [
        ("eventkit_workers", "Workers", workers),
        (
            "eventkit_queue_held_bytes_limit",
            "The most bytes of batches that are gathered or being stored",
            budget,
        ),
    ] {
        let metrics = &shared.metrics;
        metrics.observe(name, description, vec![], move || value);
    }
}

type Read = fn(&Wal, &dyn Clock) -> f64;

/// What the log shows.
const OF_THE_LOG: [(&str, &str, Read); 12] = [
    ("eventkit_wal_bytes", "Bytes of stored records", |wal, _| {
        float(wal.stored_bytes())
    }),
    (
        "eventkit_wal_bytes_limit",
        "Stored bytes at which work is shed",
        |wal, _| float(wal.limit_bytes()),
    ),
    (
        "eventkit_wal_unsettled_bytes",
        "Bytes of records that are not settled",
        |wal, _| float(wal.unsettled_bytes()),
    ),
    (
        "eventkit_wal_full_seconds",
        "Seconds until the log takes nothing more at the present rate",
        |wal, _| float(wal.full_seconds()),
    ),
    (
        "eventkit_wal_volume_free_bytes",
        "Bytes free on the log's volume",
        |wal, _| float(wal.volume_free_bytes()),
    ),
    (
        "eventkit_wal_queued_bytes",
        "Bytes of appends that wait for the committer",
        |wal, _| float(wal.queued_bytes().0 as u64),
    ),
    (
        "eventkit_wal_queued_bytes_limit",
        "Waiting bytes at which work is shed",
        |wal, _| float(wal.queued_bytes().1 as u64),
    ),
    (
        "eventkit_queue_depth",
        "Events in the log that are not settled",
        |wal, _| float(wal.durable().borrow().saturating_sub(wal.settled())),
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
        "eventkit_dedup_ids",
        "Event keys that the duplicate filter knows",
        |wal, _| float(wal.dedup_ids()),
    ),
    (
        "eventkit_wal_usable",
        "1 when the log takes appends",
        |wal, _| f64::from(u8::from(wal.usable().is_ok())),
    ),
];

/// Registers what the log shows.
pub(super) fn observe(wal: &Wal, config: &Config, shared: &Shared) {
    for (name, description, read) in OF_THE_LOG {
        let (wal, clock) = (wal.clone(), Arc::clone(&shared.clock));
        shared
            .metrics
            .observe(name, description, vec![], move || read(&wal, &*clock));
    }
    let limit = float(config.wal.dedup_ids_max as u64);
    shared.metrics.observe(
        "eventkit_dedup_ids_limit",
        "The most event keys that the duplicate filter knows",
        vec![],
        move || limit,
    );
}

fn age(clock: &dyn Clock, since: Option<i64>) -> f64 {
    let micros = since.map_or(0, |since| clock.now().saturating_sub(since));
    Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn float(value: u64) -> f64 {
    value as f64
}
