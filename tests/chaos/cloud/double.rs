//! More than one of a kind, by plan or by accident, and one that was believed to be dead.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::back::Kind;
use super::engine;
use super::set::{Plan, Queue, Set};
use crate::load::Load;
use crate::scenario::{Scenario, Settings, Stage};

/// Longer than a lease: what a worker holds is delivered to another one.
const STOPPED: Duration = Duration::from_secs(25);

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let late = "cloud::what_a_stopped_worker_writes_late_repeats_nothing".to_owned();
    let late = Scenario::alone(late, engine(settings, 1), stopped);
    let pairs = [(0, Kind::Local), (1, Kind::BigQuery)].map(|(turn, kind)| {
        let plan = plan(kind);
        let name = format!(
            "cloud::two_workers_and_two_loaders_make_one_row_of_each_event::{}",
            plan.name()
        );
        Scenario::alone(name, engine(settings, turn), |stage| {
            pairs_killed(stage, plan)
        })
    });
    [late].into_iter().chain(pairs).collect()
}

fn plan(kind: Kind) -> Plan {
    Plan {
        roles: vec!["gateway", "worker", "worker", "loader", "loader"],
        ..Plan::new(Queue::PubSub, kind)
    }
}

/// Two of each work side by side, and one after the other is killed.
async fn pairs_killed(stage: Stage, plan: Plan) -> Result<()> {
    if !stage.settings.long {
        stage.say("in the long form alone; the short one has pairs in the other scenario");
        return Ok(());
    }
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = plan.load(&stage);
    set.start_all(&load).await?;
    let (kills, life_ms) = match plan.kind {
        // Its loaders need seconds for each step.
        Kind::BigQuery => (10, 1_000..15_000),
        Kind::Local | Kind::Gcs | Kind::Firestore => (30, 200..2_500),
    };
    for _ in 0..kills {
        sleep(Duration::from_millis(rng.random_range(life_ms.clone()))).await;
        // The gateway lives.
        let victim = rng.random_range(1..set.len());
        set.kill(victim, &mut load).await?;
        sleep(Duration::from_millis(rng.random_range(100..1_500))).await;
        set.start(victim, &load).await?;
    }
    set.finish(load).await.map(drop)
}

/// A worker stands still for longer than its leases, with writes under way; another one gets what it held. Meanwhile one of
/// two loaders is killed in the middle of its work.
async fn stopped(stage: Stage) -> Result<()> {
    let Some(mut set) = Set::make(&stage, plan(Kind::Local)).await? else {
        return Ok(());
    };
    let mut load = Load::paced(&stage, plan(Kind::Local).pace());
    set.start_all(&load).await?;
    let (worker, loader) = (set.place("worker")?, set.place("loader")?);
    for _ in 0..stage.pick(1, 4) {
        set.grows(500, Duration::from_secs(60)).await?;
        set.running(worker)?.0.signal(Signal::STOP)?;
        let until = Instant::now() + STOPPED;
        set.redelivered = true;
        set.kill(loader, &mut load).await?;
        set.start(loader, &load).await?;
        sleep_until(until).await;
        set.grows(1, Duration::from_secs(60))
            .await
            .context("the other worker goes on")?;
        set.running(worker)?.0.signal(Signal::CONT)?;
    }
    set.finish(load).await.map(drop)
}
