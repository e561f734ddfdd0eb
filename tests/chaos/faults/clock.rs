//! The wall clock jumps: nothing that is promised depends on it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chrono::{NaiveTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::script::{Heard, Script};
use super::{SOON, degraded, preload, store_files};
use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::shim::{Fault, Faults, Rule, on};
use crate::support::warehouse;

const HOUR: i64 = 3_600_000_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("faults::a_clock_that_jumps", jumps),
        Scenario::on_both("faults::a_day_that_ends", midnight),
        Scenario::on_both("faults::an_age_that_jumps", ages),
    ];
    family.into_iter().flatten().collect()
}

fn shift(faults: &Faults, micros: i64) -> Result<()> {
    faults.set(
        0,
        &Rule::new(Fault::Clock(micros), 0, std::path::Path::new("")),
    )
}

/// An hour forward, an hour back, and to and fro, with kills in between: nothing hangs, nothing is lost or repeated, the order of each user holds (the oracle's judgement).
async fn jumps(mut stage: Stage) -> Result<()> {
    let faults = preload(&mut stage)?;
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = Load::start(&stage);
    let began = Instant::now();
    let length = Duration::from_secs(stage.pick(2, 60));
    let mut count = 0;
    for hours in [0, 1, -1, 0].into_iter().cycle() {
        if began.elapsed() >= length {
            break;
        }
        let (gateway, endpoints) = stage.start().await?;
        load.up(&endpoints);
        for _ in 0..4 {
            let jitter = rng.random_range(-1_000_000..1_000_000);
            shift(&faults, hours * HOUR + jitter)?;
            load.grows(Load::answers, 50, SOON).await?;
            shift(&faults, rng.random_range(-1..=1) * HOUR)?;
            load.grows(Load::answers, 50, SOON).await?;
            count += 2;
        }
        load.down(gateway.kill().await?);
    }
    stage.figure(&format!("{count} jumps of the clock"))?;
    let (gateway, endpoints) = stage.start().await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// The day ends under load, begins again because the clock is set back, and ends once more: no object holds rows of two days.
async fn midnight(mut stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let faults = preload(&mut stage)?;
    let load = Load::start(&stage);
    let midnight = Utc::now()
        .with_time(NaiveTime::MIN)
        .single()
        .context("a day begins at midnight")?
        + TimeDelta::days(1);
    // So long before the end of the day, whatever time it is.
    let before = |left: TimeDelta| {
        let micros = (midnight - Utc::now() - left).num_microseconds();
        shift(&faults, micros.unwrap_or(0))
    };
    before(TimeDelta::minutes(1))?;
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    for _ in 0..stage.pick(2, 10) {
        load.grows(Load::answers, 50, SOON).await?;
        // Over the end of the day by itself, and back again.
        before(TimeDelta::milliseconds(500))?;
        sleep(Duration::from_secs(1)).await;
        load.grows(Load::answers, 50, SOON).await?;
        before(TimeDelta::minutes(1))?;
    }
    let dir = stage.dir.clone();
    load.finish(gateway, &endpoints).await?;

    let (days, mixed) = warehouse::days(&dir)?;
    ensure!(
        mixed.is_empty(),
        "objects with rows of another day: {mixed:?}"
    );
    ensure!(days.len() >= 2, "the day did not end: {days:?}");
    stage.figure(&format!("objects of {} days, none of two", days.len()))
}

/// Everything in the log is suddenly older than what is kept, while the store is out: only what is published may be forgotten
/// for its age.
async fn ages(mut stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let faults = preload(&mut stage)?;
    stage.set("EVENTKIT_RING_BUFFER_RETENTION_HOURS", "0.5");
    stage.set("EVENTKIT_RING_BUFFER_CLEANUP_INTERVAL", "0.1");
    let mut load = Load::start(&stage);
    let mut script = Script::new(&stage, "old");
    let (gateway, endpoints) = stage.start().await?;
    let out = Rule::new(Fault::Fail(libc::EIO), on::WRITE, &store_files(&stage));
    faults.set(1, &out)?;
    for _ in 0..20 {
        ensure!(script.http(&endpoints, 5).await? == Heard::Outcomes);
    }
    degraded(&endpoints, "store", "").await?;
    shift(&faults, 2 * HOUR)?;
    // The committer looks after the age of things at every commit, and twice a second when idle.
    for _ in 0..20 {
        ensure!(script.grpc(&endpoints, 5).await? == Heard::Outcomes);
    }
    sleep(Duration::from_millis(1_200)).await;
    load.adopt(script.into_ledger());
    load.down(gateway.kill().await?);
    shift(&faults, -2 * HOUR)?;
    let (gateway, endpoints) = stage.start().await?;
    faults.off(1)?;
    load.up(&endpoints);
    load.grows(Load::answers, 100, SOON).await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}
