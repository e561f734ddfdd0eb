//! Syncs that fail, and syncs that take seconds.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::script::{Heard, Script};
use super::{
    SOON, degraded, log_files, log_not_ready, mark_file, preload, readiness, store_files, unload,
    until, warehouse_file, well_again,
};
use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{Endpoints, Gateway};
use crate::support::ledger::Ledger;
use crate::support::shim::{Fault, Rule, on};

/// How often more is sent than there is room for: on a busy machine not all of it comes at the same time.
const FLOODS_MAX: usize = 5;

pub(super) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("faults::a_failed_sync_of_the_log", |stage| {
            poisoned(stage, log_files, true)
        }),
        Scenario::on_both("faults::a_failed_sync_of_the_mark", |stage| {
            poisoned(stage, mark_file, false)
        }),
        Scenario::on_both("faults::failed_syncs_behind_the_log", outages),
        Scenario::on_both("faults::syncs_that_take_seconds", slow),
    ];
    family.into_iter().flatten().collect()
}

/// One sync fails with EIO. What it would have covered is not acknowledged, `/ready` fails first, the process exits with a
/// failure; the next one copies the log's files before it believes them, and nothing is lost.
async fn poisoned(
    mut stage: Stage,
    file: fn(&Stage) -> PathBuf,
    covers_requests: bool,
) -> Result<()> {
    let faults = preload(&mut stage)?;
    let once = Rule::new(Fault::Fail(libc::EIO), on::SYNC, &file(&stage)).calls(1, 1);

    // Quietly, so that it is known what the sync would have covered.
    let mut script = Script::new(&stage, "quiet");
    let (gateway, endpoints) = stage.start().await?;
    ensure!(
        script.http(&endpoints, 3).await? == Heard::Outcomes,
        "the first request"
    );
    faults.set(0, &once)?;
    let (mut requests, began) = (0, Instant::now());
    // The mark is synced once a second at most, so its turn may come with a later request, or with none.
    while faults.hit(0)? == 0 {
        requests += 1;
        ensure!(began.elapsed() < SOON, "no sync failed");
        let before = script.acknowledged();
        let heard = if requests % 2 == 0 {
            script.http(&endpoints, 2).await?
        } else {
            script.grpc(&endpoints, 2).await?
        };
        if faults.hit(0)? > 0 && covers_requests {
            ensure!(
                heard != Heard::Outcomes && script.acknowledged() == before,
                "acknowledged although its sync failed: {heard:?}"
            );
        }
    }
    unready(&endpoints).await?;
    let heard = script.http(&endpoints, 1).await?;
    ensure!(
        heard != Heard::Outcomes,
        "acknowledged after a failed sync: {heard:?}"
    );
    let alarms = ended_poisoned(&stage, gateway).await?;
    ensure!(faults.hit(0)? == 1, "one sync was to fail");

    // And under load.
    let mut load = Load::start(&stage);
    load.expect_alarm("log_failed");
    load.expect_alarm("shutdown_after_failure");
    load.allow_alarm("publisher_failed");
    load.adopt(script.into_ledger());
    load.down(alarms);
    faults.off(0)?;
    for round in 0..stage.pick(1, 5) {
        let (gateway, endpoints) = stage
            .start()
            .await
            .with_context(|| format!("restart {round}"))?;
        ensure!(
            gateway.tail().contains("log_copied_after_failed_sync"),
            "the files were believed as they are\n{}",
            gateway.tail()
        );
        load.up(&endpoints);
        load.grows(Load::answers, 300, SOON).await?;
        faults.set(0, &once)?;
        unready(&endpoints).await?;
        let alarms = ended_poisoned(&stage, gateway).await?;
        load.down(alarms);
        faults.off(0)?;
    }
    unload(&mut stage);
    let (gateway, endpoints) = stage.start().await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// Waits until `/ready` names the log, or nobody listens any more.
async fn unready(endpoints: &Endpoints) -> Result<()> {
    until("readiness fails", async || {
        Ok(match readiness(endpoints).await {
            None => true,
            Some((status, ready)) => status == 503 && log_not_ready(&ready) == Some("failed"),
        })
    })
    .await
}

/// The process ends by itself, with a failure, and leaves the sign; its alarms.
async fn ended_poisoned(stage: &Stage, gateway: Gateway) -> Result<Vec<String>> {
    let ended = gateway.ended(SOON).await?;
    ensure!(
        ended.status.code() == Some(1),
        "ended with {}\n{}",
        ended.status,
        ended.said
    );
    ensure!(
        stage.dir.join("wal.poisoned").exists(),
        "no sign of the failed sync is left"
    );
    Ok(ended.alarms)
}

/// Syncs behind the log fail: an outage that is waited out, of the store and then of the warehouse.
async fn outages(mut stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let faults = preload(&mut stage)?;
    let mut load = Load::start(&stage);
    load.allow_alarm("store_lane_stuck");
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 200, SOON).await?;
    for (component, files) in [
        ("store", store_files(&stage)),
        ("warehouse", warehouse_file(&stage)),
    ] {
        faults.set(0, &Rule::new(Fault::Fail(libc::EIO), on::SYNC, &files))?;
        degraded(&endpoints, component, "").await?;
        load.grows(Load::answers, stage.pick(200, 5_000), SOON * 4)
            .await
            .with_context(|| format!("answers while the {component} is out"))?;
        ensure!(faults.hit(0)? > 0, "no sync failed");
        faults.off(0)?;
        well_again(&endpoints).await?;
    }
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// Every sync of the log takes seconds: what is under way is bounded, the rest is shed with a time to come back, and all is
/// well as soon as the disk is.
async fn slow(mut stage: Stage) -> Result<()> {
    let seconds = stage.pick(1, 5);
    stage.set("EVENTKIT_MAX_IN_FLIGHT_BYTES", "1MiB");
    stage.set("EVENTKIT_MAX_BODY_BYTES", "1MiB");
    let faults = preload(&mut stage)?;
    let load = Load::start(&stage);
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 200, SOON).await?;
    let idle = gateway.held()?.rss_kib;
    let slow = Fault::Delay(seconds * 1_000_000);
    faults.set(0, &Rule::new(slow, on::SYNC, &log_files(&stage)))?;
    let mut shed = Shed::default();
    for round in 0..FLOODS_MAX {
        let length = Duration::from_secs(seconds * 2);
        let (more, ledgers) = flood(&stage, &endpoints, (round, length)).await?;
        shed.http += more.http;
        shed.grpc += more.grpc;
        for ledger in ledgers {
            load.adopt(ledger);
        }
        if shed.http > 0 && shed.grpc > 0 {
            break;
        }
    }
    let grown = gateway.held()?.rss_kib.saturating_sub(idle) << 10;
    stage.figure(&format!(
        "with syncs of {seconds} s: {} HTTP and {} gRPC requests were shed; resident memory grew by {} MiB",
        shed.http,
        shed.grpc,
        grown >> 20
    ))?;
    ensure!(shed.http > 0 && shed.grpc > 0, "nothing was shed");
    ensure!(grown < 256 << 20, "memory grew by {grown} bytes");
    faults.off(0)?;
    load.grows(Load::answers, 200, SOON).await?;
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

#[derive(Debug, Default)]
pub(super) struct Shed {
    http: u64,
    grpc: u64,
}

/// Requests over both doors, more than there is room for at a time.
pub(super) async fn flood(
    stage: &Stage,
    endpoints: &Endpoints,
    (round, length): (usize, Duration),
) -> Result<(Shed, Vec<Ledger>)> {
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..24_u32 {
        let (stage, endpoints) = (stage.clone(), endpoints.clone());
        senders.spawn(async move {
            let mut shed = Shed::default();
            let mut script = Script::new(&stage, &format!("flood-{round}-{sender}"));
            while began.elapsed() < length {
                let over_http = sender.is_multiple_of(2);
                let heard = if over_http {
                    script.http(&endpoints, 300).await?
                } else {
                    script.grpc(&endpoints, 300).await?
                };
                match heard {
                    Heard::Refused(None) => bail!("shed without a time to come back"),
                    Heard::Refused(Some(_)) if over_http => shed.http += 1,
                    Heard::Refused(Some(_)) => shed.grpc += 1,
                    Heard::Outcomes | Heard::Nothing => {}
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok((shed, script.into_ledger()))
        });
    }
    let (mut all, mut ledgers) = (Shed::default(), Vec::new());
    while let Some(sender) = senders.join_next().await {
        let (shed, ledger) = sender??;
        all.http += shed.http;
        all.grpc += shed.grpc;
        ledgers.push(ledger);
    }
    Ok((all, ledgers))
}
