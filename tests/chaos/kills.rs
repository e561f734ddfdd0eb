//! SIGKILL at random moments, start-up and recovery included.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::scenario::{Scenario, Stage};

/// How long a gateway lives under load, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 20..2_500;

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let name = "kills::a_kill_at_any_moment_loses_and_repeats_nothing";
    Scenario::on_both(name, again_and_again).into()
}

/// Start, load, kill; one kill in four meets a gateway that is still starting.
async fn again_and_again(stage: Stage) -> Result<()> {
    let kills = stage.settings.kills.unwrap_or(stage.pick(11, 200));
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = Load::start(&stage);
    let mut start_up = Duration::from_millis(100);
    let mut starting = 0;
    for kill in 0..kills {
        let gateway = if kill > 0 && rng.random_range(0..4) == 0 {
            let gateway = stage.spawn()?;
            starting += 1;
            sleep(start_up.mul_f64(rng.random_range(0.0..1.2))).await;
            gateway
        } else {
            let began = Instant::now();
            let (gateway, endpoints) = stage
                .start()
                .await
                .with_context(|| format!("restart after {kill} kills"))?;
            start_up = began.elapsed();
            load.up(&endpoints);
            sleep(Duration::from_millis(rng.random_range(LIFE_MS))).await;
            gateway
        };
        let said = gateway.kill().await;
        load.down(said.with_context(|| format!("kill {}", kill + 1))?);
    }
    stage.figure(&format!(
        "{kills} kills, {starting} of them during start-up (a start took {start_up:.1?} in the end)"
    ))?;
    let (gateway, endpoints) = stage.start().await?;
    let verdict = load.finish(gateway, &endpoints).await?;
    ensure!(
        verdict.duplicates > 0 && verdict.unanswered_requests > 0 && verdict.tally.objects > 0,
        "the load did not meet the kills, and nothing was proved: {verdict:?}"
    );
    Ok(())
}
