//! SIGKILL of any process at any moment, over every queue and every store.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use super::back::Kind;
use super::engine;
use super::set::{Plan, Queue, Set};
use crate::load::Load;
use crate::scenario::{Scenario, Settings, Stage};

/// How long all processes live between two kills, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 200..2_500;
/// The same where a loader needs seconds until it has its tables, and more for each job: kills should meet all of its steps.
const SLOW_LIFE_MS: std::ops::Range<u64> = 1_000..15_000;
/// How long a killed process stays away, in milliseconds.
const AWAY_MS: std::ops::Range<u64> = 0..1_500;

/// Queue and store, and how many kills in the short form and in the long one; one process on local files is killed elsewhere,
/// hundreds of times. The short form has every second of its sets, whose turn it is: once more a topic, and once the process itself.
const SETS: [(Queue, Kind, u64, u64); 7] = [
    (Queue::PubSub, Kind::Local, 5, 30),
    (Queue::PubSub, Kind::Gcs, 4, 20),
    (Queue::InProcess, Kind::Gcs, 3, 15),
    (Queue::InProcess, Kind::Firestore, 3, 20),
    (Queue::PubSub, Kind::BigQuery, 0, 12),
    (Queue::PubSub, Kind::Firestore, 0, 30),
    (Queue::InProcess, Kind::BigQuery, 0, 12),
];

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let sets = (0..).zip(SETS);
    let has_turn = |turn: u64| settings.long || (settings.seed + turn).is_multiple_of(2);
    let sets = sets.filter(|(turn, (_, _, short, _))| {
        settings.long || settings.kills.is_some() || *short > 0 && has_turn(*turn)
    });
    sets.map(|(turn, (queue, kind, short, long))| {
        let plan = Plan::new(queue, kind);
        let name = format!(
            "cloud::a_kill_of_any_process_loses_and_repeats_nothing::{}",
            plan.name()
        );
        Scenario::alone(name, engine(settings, turn), move |stage| {
            again_and_again(stage, plan, (short, long))
        })
    })
    .collect()
}

/// Load, kill, start; one kill in four meets a process that is still starting.
async fn again_and_again(stage: Stage, plan: Plan, (short, long): (u64, u64)) -> Result<()> {
    let kills = stage.settings.kills.unwrap_or(stage.pick(short, long));
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = plan.load(&stage);
    set.start_all(&load).await?;
    let life = match plan.kind {
        Kind::BigQuery => SLOW_LIFE_MS,
        Kind::Local | Kind::Gcs | Kind::Firestore => LIFE_MS,
    };
    // More of them where none has met a request yet.
    let more = |kill: u64, load: &Load| kill < kills || load.duplicates() == 0 && kill < 3 * kills;
    let mut kill = 0;
    while more(kill, &load) {
        sleep(Duration::from_millis(rng.random_range(life.clone()))).await;
        // Each of them has its turn, and whose it is first is chance.
        let turn = stage.settings.seed + kill;
        let victim = usize::try_from(turn % u64::try_from(set.len())?)?;
        set.kill(victim, &mut load).await?;
        sleep(Duration::from_millis(rng.random_range(AWAY_MS))).await;
        if rng.random_range(0..4) == 0 {
            let process = set.spawn(victim)?;
            sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
            load.heard(process.kill().await.context("killed while it starts")?);
        }
        set.start(victim, &load)
            .await
            .with_context(|| format!("start after {} kills", kill + 1))?;
        kill += 1;
    }
    set.grows(1, plan.kind.soon())
        .await
        .context("after the last kill")?;
    let verdict = set.finish(load).await?;
    // Few kills of few gateways may meet no request, nor do kills under a small load.
    let few = !stage.settings.long || plan.kind.is_slow();
    ensure!(
        verdict.duplicates > 0 && (few || verdict.unanswered_requests > 0),
        "the load did not meet the kills, and nothing was proved: {verdict:?}"
    );
    Ok(())
}
