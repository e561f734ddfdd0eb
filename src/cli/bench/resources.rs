//! Memory, and how long a start takes on a log that holds much.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::load::{Load, Shape, Way};
use super::process::{Process, Server, ask};
use super::stats::Spread;
use super::{Bench, BenchError};

/// How often it is looked whether a log is filled.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a server that has just started is left alone before its memory counts as idle.
const IDLE: Duration = Duration::from_secs(1);
/// How often a start is measured.
const STARTS: u32 = 3;

/// Resident memory, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Resident {
    /// The whole product without a client.
    pub(super) idle: u64,
    /// The whole product at the end of a closed loop.
    pub(super) full_load: u64,
    pub(super) full_load_peak: u64,
    pub(super) full_load_events: u64,
    /// How many unpublished events the log held then.
    pub(super) backlog_events: u64,
    pub(super) backlog: u64,
    pub(super) backlog_peak: u64,
    /// The same after a restart on that log.
    pub(super) reopened: u64,
    pub(super) reopened_peak: u64,
}

pub(super) async fn resident(bench: &mut Bench<'_>) -> Result<Resident, BenchError> {
    let process = Process::start(bench, Server::Full, &[]).await?;
    tokio::time::sleep(IDLE).await;
    let idle = process.memory()?.resident;
    let load = start(bench, &process);
    tokio::time::sleep(bench.settling() + Duration::from_secs_f64(bench.seconds())).await;
    let full = process.memory()?;
    let full_load_events = load.stop().await?;
    bench.say(&format!(
        "memory: idle {}, full load {}",
        mib(idle),
        mib(full.resident)
    ));
    drop(process);

    let (mut process, backlog_events) = filled(bench, bench.backlog()).await?;
    let backlog = process.memory()?;
    process = process.restart(bench)?;
    process.ready().await?;
    let reopened = process.memory()?;
    bench.say(&format!(
        "memory: {backlog_events} unpublished events {}, opened again {}",
        mib(backlog.resident),
        mib(reopened.resident)
    ));
    Ok(Resident {
        idle,
        full_load: full.resident,
        full_load_peak: full.peak,
        full_load_events,
        backlog_events,
        backlog: backlog.resident,
        backlog_peak: backlog.peak,
        reopened: reopened.resident,
        reopened_peak: reopened.peak,
    })
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// From the start of the process to its first "accepted", on a log full of unpublished events.
#[derive(Debug, Serialize)]
pub(super) struct Opened {
    pub(super) unpublished_events: u64,
    pub(super) seconds: Spread,
}

pub(super) async fn opened(bench: &mut Bench<'_>) -> Result<Opened, BenchError> {
    let (mut process, unpublished_events) = filled(bench, bench.unpublished()).await?;
    let mut seconds = Vec::new();
    for _ in 0..STARTS {
        process = process.restart(bench)?;
        let body = bench.prepared.source().json();
        process
            .until(async |http| {
                let request = Request::post("/collect")
                    .header(HOST, http.to_string())
                    .body(Full::<Bytes>::from(body.clone()));
                let Ok(request) = request else { return false };
                matches!(ask(http, request).await, Ok((StatusCode::ACCEPTED, _)))
            })
            .await?;
        let took = process.started().elapsed().as_secs_f64();
        bench.say(&format!(
            "open: {unpublished_events} unpublished events in {took:.2} s"
        ));
        seconds.push(took);
    }
    let seconds = Spread::of(seconds).expect("it was started at least once");
    Ok(Opened {
        unpublished_events,
        seconds,
    })
}

/// A server with so many events in its log, none of them published.
async fn filled(bench: &Bench<'_>, events: u64) -> Result<(Process, u64), BenchError> {
    let process = Process::start(bench, Server::Accept, &[]).await?;
    let load = start(bench, &process);
    let mut before = 0;
    let mut quiet = 0;
    while load.accepted() < events {
        tokio::time::sleep(LOOK_EVERY).await;
        let accepted = load.accepted();
        quiet = if accepted == before { quiet + 1 } else { 0 };
        before = accepted;
        if quiet > 1_000 {
            let why = load.failure().unwrap_or_else(|| process.output());
            return Err(BenchError::NothingAccepted(why));
        }
    }
    let accepted = load.stop().await?;
    Ok((process, accepted))
}

fn start(bench: &Bench<'_>, process: &Process) -> Load {
    let shape: Shape = bench.shape(Way::Bidi);
    Load::start(process.addr(Way::Bidi), shape, &bench.prepared)
}
