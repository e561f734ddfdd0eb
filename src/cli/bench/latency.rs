//! How long an answer takes when the gateway is busy but not overrun: open loop, at a share of what it takes at most.

use serde::Serialize;

use super::load::{Latency, Shape, Way};
use super::process::{Process, Server};
use super::rounds::measure;
use super::{Bench, BenchError};

/// The share of the maximum.
const SHARE: f64 = 0.7;

/// The answers of one server.
#[derive(Debug, Serialize)]
pub(super) struct Answers {
    pub(super) way: Way,
    pub(super) server: Server,
    /// What the share is taken of, in events per second.
    pub(super) maximum: f64,
    pub(super) asked_events_per_second: f64,
    pub(super) events_per_second: f64,
    pub(super) events: u64,
    pub(super) failed: u64,
    #[serde(flatten)]
    pub(super) latency: Latency,
}

pub(super) async fn answers(
    bench: &mut Bench<'_>,
    way: Way,
    server: Server,
    maximum: f64,
) -> Result<Answers, BenchError> {
    bench.look_at_disk()?;
    let rate = maximum * SHARE;
    let shape = Shape {
        rate: Some(rate),
        ..bench.shape(way)
    };
    let process = Process::start(bench, server, &[]).await?;
    let measured = measure(bench, &process, shape).await?;
    bench.say(&format!(
        "{} latency of {} at {rate:.0} events/s: p50 {:.2} ms, p99 {:.2} ms",
        way.name(),
        server.name(),
        measured.latency.p50_ms,
        measured.latency.p99_ms
    ));
    Ok(Answers {
        way,
        server,
        maximum,
        asked_events_per_second: rate,
        events_per_second: measured.rate(),
        events: measured.events,
        failed: measured.failed,
        latency: measured.latency,
    })
}
