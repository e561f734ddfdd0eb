//! Limits: the log's size, and what an outage costs in memory and descriptors.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use eventkit::proto::v1;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tonic_types::StatusExt as _;

use crate::events::{Maker, Wire};
use crate::load::Load;
use crate::outages::{Outage, Way, well_again};
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{self, Endpoints, Held};
use crate::support::ledger::{Answer, Fate};
use crate::support::{clients, warehouse};

/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(60);
/// How long a large backlog may take to become rows.
const DRAIN_WITHIN: Duration = Duration::from_secs(400);

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("resources::a_full_log_sheds_and_recovers", full_log),
        Scenario::on_both("resources::an_outage_costs_no_memory", outage_memory),
    ];
    family.into_iter().flatten().collect()
}

/// The least that `EVENTKIT_WAL_MAX_BYTES` may be.
const LOG_BYTES_MAX: usize = 64 << 20;
/// Random letters in one of the events that fill the log.
const FILLER_BYTES: u32 = 200_000;
/// How many of them a request carries.
const FILLERS: usize = 16;

/// A log that is full of what cannot be stored: it sheds with a time to come back, at every door, and takes new work by
/// itself when the store is back.
async fn full_log(mut stage: Stage) -> Result<()> {
    stage.set("EVENTKIT_WAL_MAX_BYTES", LOG_BYTES_MAX);
    let mut load = Load::start(&stage);
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 200, SOON).await?;
    let outage = Outage::begin(&stage, Way::Blocked)?;
    let fillers = fill(&stage, &load, &endpoints).await?;
    load.grows(Load::shed, 50, SOON)
        .await
        .context("requests shed")?;
    sheds_with_a_time(&load, &endpoints).await?;
    // Nothing of it is forgotten when the process dies now, and it is as full as before.
    load.down(gateway.kill().await?);
    let mut gateway = stage.spawn()?;
    let endpoints = gateway.listening(SOON).await?;
    load.up(&endpoints);
    load.grows(Load::shed, 50, SOON)
        .await
        .context("requests shed after a restart")?;
    sheds_with_a_time(&load, &endpoints).await?;

    outage.end()?;
    let before = load.answers();
    load.grows(Load::answers, 500, SOON)
        .await
        .context("answers after the outage")?;
    stage.figure(&format!(
        "full after {fillers} large events; {before} answers before, {} requests shed",
        load.shed()
    ))?;
    well_again(&endpoints).await?;
    load.finish(gateway, &endpoints).await.map(drop)
}

/// Sends large events until they are shed; how many were taken.
async fn fill(stage: &Stage, load: &Load, endpoints: &Endpoints) -> Result<usize> {
    let http = clients::Http::new(endpoints);
    let mut maker = Maker::new("filler", stage.settings.seed);
    let mut taken = 0;
    while taken < 2 * LOG_BYTES_MAX / FILLER_BYTES as usize {
        let events: Vec<_> = (0..FILLERS)
            .map(|_| maker.make_as(true, Fate::Row, FILLER_BYTES))
            .collect();
        let sent: Vec<_> = events.iter().map(|made| made.sent.clone()).collect();
        let texts: Vec<&str> = events
            .iter()
            .filter_map(|made| match &made.wire {
                Wire::Json(text) => Some(text.as_str()),
                Wire::Proto(_) => None,
            })
            .collect();
        load.ledger().sending(&sent);
        let body = format!("[{}]", texts.join(","));
        match http.post("/collect", body).await {
            Ok((202, _)) => {
                let mut ledger = load.ledger();
                for event in &sent {
                    ledger.heard(&event.message_id, Answer::Accepted);
                }
                taken += FILLERS;
            }
            // Shed before its body was read: a client that is still writing may find the connection closed first.
            Ok((503, _)) | Err(_) => {
                load.ledger().unanswered_requests += 1;
                return Ok(taken);
            }
            Ok(other) => bail!("unexpected answer {other:?}"),
        }
    }
    bail!("{taken} events of {FILLER_BYTES} B in a log of {LOG_BYTES_MAX} B")
}

/// What a client is told at both doors, and what a balancer is told.
async fn sheds_with_a_time(load: &Load, endpoints: &Endpoints) -> Result<()> {
    let http = clients::Http::new(endpoints);
    let body = Bytes::from_static(b"{\"type\":\"track\",\"event\":\"shed\",\"userId\":\"u\"}");
    let answer = http.exchange(http::Method::POST, "/collect", body).await?;
    let wait = answer.headers().get(http::header::RETRY_AFTER);
    let seconds = wait.and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
    ensure!(
        answer.status() == 503 && seconds.is_some_and(|seconds| (1..=60).contains(&seconds)),
        "{answer:?}"
    );
    let event = v1::Event {
        r#type: "track".to_owned(),
        event: "shed".to_owned(),
        user_id: "u".to_owned(),
        ..v1::Event::default()
    };
    let call = v1::CollectRequest {
        events: vec![event],
        ..v1::CollectRequest::default()
    };
    match clients::grpc(endpoints)?.collect(call).await {
        Err(status) if status.code() == tonic::Code::Unavailable => {
            let retry = status.get_details_retry_info();
            let wait = retry.and_then(|retry| retry.retry_delay);
            ensure!(wait.is_some_and(|wait| wait > Duration::ZERO), "{status:?}");
        }
        other => bail!("a full log said {other:?}"),
    }
    let (status, ready) = http.get("/ready").await?;
    ensure!(
        status == 503 && ready.to_string().contains("full"),
        "{status} {ready}"
    );
    ensure!(load.shed() > 0, "nobody was shed");
    Ok(())
}

/// How much more memory twice the backlog may take.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// How many more descriptors.
const DESCRIPTORS_MORE_MAX: usize = 8;

/// The log's own limit where none is configured.
const LOG_LIMIT: f64 = 10.0 * 1024.0 * 1024.0 * 1024.0;

fn is_bounded(once: Held, twice: Held) -> bool {
    twice.rss_kib <= once.rss_kib + GROWTH_KIB_MAX
        && twice.descriptors <= once.descriptors + DESCRIPTORS_MORE_MAX
}

/// The store is out at full rate: memory and descriptors with a backlog of N events and of 2N, and what an hour would take.
/// The duplicate filter remembers less than N, so that it does not grow between the two.
async fn outage_memory(mut stage: Stage) -> Result<()> {
    let events: u64 = stage.pick(20_000, 1_000_000);
    stage.set("EVENTKIT_DEDUP_MAX_IDS", events / 4);
    let (gateway, endpoints) = stage.start().await?;
    let outage = Outage::begin(&stage, Way::Blocked)?;
    let idle = gateway.held()?;
    let began = Instant::now();
    send(&endpoints, events).await?;
    let once = gateway.held()?;
    send(&endpoints, events).await?;
    let rate = 2.0 * as_f64(events) / began.elapsed().as_secs_f64();
    // What was taken for a moment goes again, what is kept for the backlog does not.
    let (looking, mut twice) = (Instant::now(), gateway.held()?);
    while !is_bounded(once, twice) && looking.elapsed() < SOON {
        sleep(Duration::from_millis(100)).await;
        twice = gateway.held()?;
    }
    stage.figure(&format!(
        "RSS {} MiB idle, {} MiB with {events} events waiting, {} MiB with twice as many; descriptors {}, {}, {}",
        idle.rss_kib >> 10,
        once.rss_kib >> 10,
        twice.rss_kib >> 10,
        idle.descriptors,
        once.descriptors,
        twice.descriptors,
    ))?;
    let more = twice.rss_kib.saturating_sub(once.rss_kib);
    let bytes = log_bytes(&endpoints).await? / (2.0 * as_f64(events));
    extrapolate(&stage, (as_f64(events), more, twice), rate, bytes)?;
    ensure!(is_bounded(once, twice), "not bounded: {once:?} {twice:?}");
    outage.end()?;
    let began = Instant::now();
    drained(&stage, 2 * events).await?;
    let after = gateway.held()?;
    stage.figure(&format!(
        "all of it was in the warehouse {:.0?} after the outage; RSS {} MiB then, {} MiB at its peak",
        began.elapsed(),
        after.rss_kib >> 10,
        after.peak_kib >> 10
    ))?;
    let ended = gateway.terminate(SOON).await?;
    ensure!(
        ended.status.code() == Some(0) && ended.alarms.is_empty(),
        "{ended:?}"
    );
    Ok(())
}

/// From the growth between two sizes to an hour, or to the moment at which the log is full and sheds. Short runs are too
/// small for it: there the caches still fill.
fn extrapolate(
    stage: &Stage,
    (events, more_kib, held): (f64, u64, Held),
    rate: f64,
    log_bytes_per_event: f64,
) -> Result<()> {
    if !stage.settings.long {
        return Ok(());
    }
    let per_event = as_f64(more_kib) * 1024.0 / events;
    let hour = rate * 3600.0;
    let full = LOG_LIMIT / log_bytes_per_event;
    let mib = |backlog: f64| as_f64(held.rss_kib >> 10) + per_event * backlog / 1024.0 / 1024.0;
    stage.figure(&format!(
        "{per_event:.1} B of RSS an event more; an hour at {rate:.0} events/s would take {:.0} MiB, a log of 10 GiB ({:.0} M events, full after {:.0} min) {:.0} MiB",
        mib(hour),
        full / 1e6,
        full / rate / 60.0,
        mib(full)
    ))
}

/// Bytes of records in the log, as its gauge says.
async fn log_bytes(endpoints: &Endpoints) -> Result<f64> {
    let admin = clients::Http::at(&endpoints.admin);
    let answer = admin
        .exchange(http::Method::GET, "/metrics", Bytes::new())
        .await?;
    let text = String::from_utf8_lossy(answer.body());
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("eventkit_wal_bytes "));
    Ok(line
        .context("no gauge of the log's bytes")?
        .trim()
        .parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Sends made-up events with the crate's own client, as fast as it goes; every one of them must be accepted.
async fn send(endpoints: &Endpoints, events: u64) -> Result<()> {
    let to = format!("grpc://{}", endpoints.grpc);
    let count = events.to_string();
    let output = Command::new(gateway::binary())
        .args(["send", "--to", &to, "--rpc", "bidi", "--batch", "100"])
        .args(["--concurrency", "8", "--count", &count, "--json"])
        .output()
        .await?;
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let accepted = summary.get("accepted").and_then(serde_json::Value::as_u64);
    ensure!(accepted == Some(events), "{summary}");
    Ok(())
}

/// Waits until so many rows are there and none is missing or too many.
async fn drained(stage: &Stage, events: u64) -> Result<()> {
    let began = Instant::now();
    loop {
        let (rows, errors) = warehouse::counts(&stage.dir);
        if rows == events && errors == 0 && warehouse::inbox_len(&stage.dir) == 0 {
            return Ok(());
        }
        ensure!(
            rows <= events && errors == 0 && began.elapsed() < DRAIN_WITHIN,
            "{rows} rows and {errors} error rows of {events} events"
        );
        sleep(Duration::from_millis(200)).await;
    }
}
