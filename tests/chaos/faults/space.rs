//! A full disk, suddenly: a write finds no room although the volume's figures promised some. (With true figures the log sheds
//! before that; see `volume`.)

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{SOON, degraded, preload, store_files, unload, warehouse_file, well_again};
use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{Ended, Gateway, START_TIMEOUT};
use crate::support::shim::{Fault, Faults, Rule, on};

/// More than any of these runs needs.
const PLENTY: i64 = 1 << 40;

pub(super) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("faults::no_room_for_the_log", log),
        Scenario::on_both("faults::no_room_behind_the_log", behind),
    ];
    family.into_iter().flatten().collect()
}

/// Room for so many bytes more below a path.
fn room(path: &Path, bytes: i64) -> Rule {
    let operations = on::CHANGES | on::OPEN;
    Rule::new(Fault::Room(bytes), operations, path)
}

/// The log finds no room: it acknowledges nothing that it could not write, and ends. It starts again on the full disk, since
/// it has a ballast to give up; without one it says what is wrong. With room it goes on.
async fn log(mut stage: Stage) -> Result<()> {
    let faults = preload(&mut stage)?;
    // What the log's files and all that lies beside them have in common.
    let wal = stage.dir.join("wal");
    let mut load = Load::start(&stage);
    load.expect_alarm("log_failed");
    load.expect_alarm("shutdown_after_failure");
    load.allow_alarm("publisher_failed");
    let mut starts = 0;
    for round in 0..stage.pick(1, 4) {
        let (gateway, endpoints) = stage.start().await?;
        load.up(&endpoints);
        load.grows(Load::answers, 300, SOON).await?;
        faults.set(0, &room(&wal, 50_000 * round))?;
        load.down(ended_full(&faults, gateway).await?.alarms);
        ensure!(
            !stage.dir.join("wal.poisoned").exists(),
            "a write without room is no failed sync, and a full disk has no room for a copy"
        );

        // Nothing is free now but the ballast.
        faults.set_argument(0, 0)?;
        let (gateway, endpoints) = stage
            .start()
            .await
            .context("a start on the full disk, with the ballast")?;
        if !gateway.tail().contains("ballast_dropped") {
            // Its files have grown by then, and may have room in themselves.
            ensure!(round > 0, "no ballast was needed\n{}", gateway.tail());
            load.down(gateway.kill().await?);
            faults.set_argument(0, PLENTY)?;
            continue;
        }
        load.up(&endpoints);
        load.grows(Load::answers, 100, SOON)
            .await
            .context("answers out of the ballast")?;
        load.down(gateway.kill().await?);
        starts += 1;

        // And that is used up as well: it finds room in its own files, or says what is wrong.
        faults.set_argument(0, 0)?;
        let mut gateway = stage.spawn()?;
        if gateway.ready(START_TIMEOUT).await.is_ok() {
            load.down(gateway.kill().await?);
        } else {
            let ended = gateway.ended(SOON).await?;
            ensure!(
                ended.status.code() == Some(1) && ended.said.contains("the volume is full"),
                "without any room: {}\n{}",
                ended.status,
                ended.said
            );
        }
        faults.set_argument(0, PLENTY)?;
    }
    faults.off(0)?;
    unload(&mut stage);
    stage.figure(&format!("{starts} starts on a full disk with the ballast"))?;
    let (gateway, endpoints) = stage.start().await?;
    ensure!(
        stage.dir.join("wal.ballast").exists(),
        "the ballast did not come back with the room"
    );
    load.finish(gateway, &endpoints).await?;
    Ok(())
}

/// Waits until the process has ended because the log had no room.
async fn ended_full(faults: &Faults, gateway: Gateway) -> Result<Ended> {
    let ended = gateway.ended(SOON).await?;
    ensure!(faults.hit(0)? > 0, "no write was refused");
    ensure!(
        ended.status.code() == Some(1),
        "ended with {}\n{}",
        ended.status,
        ended.said
    );
    Ok(ended)
}

/// The store, then the warehouse, find no room: work is taken all the same, also after a kill and a start on the full disk,
/// and with room everything arrives.
async fn behind(mut stage: Stage) -> Result<()> {
    if !stage.has_turn() {
        return Ok(());
    }
    let faults = preload(&mut stage)?;
    let mut load = Load::start(&stage);
    load.allow_alarm("store_lane_stuck");
    let (mut gateway, mut endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 300, SOON).await?;
    for (component, files) in [
        ("store", store_files(&stage)),
        ("warehouse", warehouse_file(&stage)),
    ] {
        faults.set(0, &room(&files, 20_000))?;
        degraded(&endpoints, component, "").await?;
        let more = stage.pick(200, 5_000);
        load.grows(Load::answers, more, SOON * 4)
            .await
            .with_context(|| format!("answers while the {component} is full"))?;
        load.down(gateway.kill().await?);
        faults.set_argument(0, 0)?;
        (gateway, endpoints) = stage
            .start()
            .await
            .with_context(|| format!("a start with a full {component}"))?;
        load.up(&endpoints);
        degraded(&endpoints, component, "").await?;
        load.grows(Load::answers, more, SOON * 4).await?;
        ensure!(faults.hit(0)? > 0, "no write was refused");
        faults.set_argument(0, PLENTY)?;
        well_again(&endpoints).await?;
    }
    load.finish(gateway, &endpoints).await?;
    Ok(())
}
