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
const STOPPED: Duration = Duration::from_secs(30);

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let late = "cloud::what_a_stopped_worker_writes_late_repeats_nothing".to_owned();
    let late = Scenario::alone(late, engine(settings, 1), stopped);
    let after =
        "cloud::a_worker_that_comes_when_the_leases_of_a_killed_one_are_over_keeps_the_order";
    let after = Scenario::alone(after.to_owned(), engine(settings, 0), after_the_leases);
    let pairs = [(0, Kind::Local), (1, Kind::BigQuery)].into_iter();
    // BigQuery's emulator takes half a minute for each step.
    let pairs = pairs.filter(|(_, kind)| settings.long || *kind == Kind::Local);
    let pairs = pairs.map(|(turn, kind)| {
        let plan = plan(kind);
        let name = format!(
            "cloud::two_workers_and_two_loaders_make_one_row_of_each_event::{}",
            plan.name()
        );
        Scenario::alone(name, engine(settings, turn), |stage| {
            pairs_killed(stage, plan)
        })
    });
    let gateways = Scenario::alone(
        "cloud::two_gateways_and_two_workers_share_nothing_but_the_topic".to_owned(),
        engine(settings, 0),
        gateways_killed,
    );
    [late, after, gateways].into_iter().chain(pairs).collect()
}

/// Each gateway has its own log and its own clients; any process is killed, gateways and workers in pairs as well.
async fn gateways_killed(stage: Stage) -> Result<()> {
    let plan = Plan {
        roles: vec!["gateway", "gateway", "worker", "worker", "loader"],
        ..Plan::new(Queue::PubSub, Kind::Local)
    };
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let pace = plan.pace() * 2;
    let mut loads = vec![Load::paced(&stage, pace), Load::beside(&stage, pace)];
    // A process is told of, and tells of itself, by the load of its gateway; of the others by the first.
    let load_of = |at: usize| usize::from(at == 1);
    for at in 0..set.len() {
        let load = loads.get(load_of(at)).context("a load")?;
        set.start(at, load).await?;
    }
    for _ in 0..stage.pick(2, 20) {
        sleep(Duration::from_millis(rng.random_range(200..2_500))).await;
        let victims = match rng.random_range(0..6) {
            0 => vec![0, 1],
            1 => vec![2, 3],
            _ => vec![rng.random_range(0..set.len())],
        };
        for &victim in &victims {
            let load = loads.get_mut(load_of(victim)).context("a load")?;
            set.kill(victim, load).await?;
        }
        sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        for &victim in &victims {
            let load = loads.get(load_of(victim)).context("a load")?;
            set.start(victim, load).await?;
        }
    }
    set.finish_all(loads).await.map(drop)
}

fn plan(kind: Kind) -> Plan {
    Plan {
        roles: vec!["gateway", "worker", "worker", "loader", "loader"],
        ..Plan::new(Queue::PubSub, kind)
    }
}

/// Two of each work side by side, and one after the other is killed.
async fn pairs_killed(stage: Stage, plan: Plan) -> Result<()> {
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = plan.load(&stage);
    set.start_all(&load).await?;
    let (kills, life_ms) = match plan.kind {
        // Its loaders need seconds for each step.
        Kind::BigQuery => (10, 1_000..15_000),
        Kind::Local | Kind::Gcs | Kind::Firestore => (stage.pick(3, 30), 200..2_500),
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

/// The one worker is killed, and comes again when everything that it held is free: the emulator then does what the service does at
/// any time, and gives it the earliest batch of each lane first. No row may appear behind a later one.
async fn after_the_leases(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Local);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    set.strict_order = true;
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = Load::paced(&stage, plan.pace());
    set.start_all(&load).await?;
    let worker = set.place("worker")?;
    for _ in 0..stage.pick(1, 8) {
        set.grows(500, Duration::from_secs(60)).await?;
        sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
        set.kill(worker, &mut load).await?;
        sleep(STOPPED).await;
        set.start(worker, &load).await?;
    }
    set.grows(500, Duration::from_secs(60)).await?;
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
