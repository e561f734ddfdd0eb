//! The event store is out, without the gateway's doing: its folders are something else for a while.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::fs::{CWD, RenameFlags};
use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::scenario::{Scenario, Stage};
use crate::support::clients;
use crate::support::gateway::Endpoints;

/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("outages::a_blocked_store_is_waited_out", blocked),
        Scenario::on_both("outages::a_store_that_is_gone_is_waited_out", gone),
    ];
    family.into_iter().flatten().collect()
}

/// How the store is out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Plain files lie where the folders of objects should be: "not a directory".
    Blocked,
    /// The whole directory is a link that leads nowhere: "not found".
    Gone,
}

/// An outage of the store. What is there already is kept, and is there again afterwards.
#[derive(Debug)]
pub(crate) struct Outage {
    replaced: Vec<PathBuf>,
}

impl Outage {
    pub(crate) fn begin(stage: &Stage, way: Way) -> Result<Self> {
        let store = stage.dir.join("store");
        let replaced = match way {
            Way::Blocked => vec![store.join("events"), store.join("errors")],
            Way::Gone => vec![store],
        };
        for folder in &replaced {
            std::fs::create_dir_all(folder)?;
            let away = folder.with_extension("away");
            match way {
                Way::Blocked => std::fs::write(&away, "in the way")?,
                Way::Gone => std::os::unix::fs::symlink("nowhere/at/all", &away)?,
            }
            exchange(folder, &away)?;
        }
        Ok(Self { replaced })
    }

    pub(crate) fn end(self) -> Result<()> {
        for folder in &self.replaced {
            let away = folder.with_extension("away");
            exchange(folder, &away)?;
            std::fs::remove_file(&away)
                .with_context(|| format!("{} became something else", folder.display()))?;
        }
        Ok(())
    }
}

/// At once: in between, the gateway would make a folder.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .with_context(|| format!("exchange {} and {}", one.display(), other.display()))
}

/// An outage, with kills meanwhile. The gateway stays ready and says that it is degraded; afterwards every row is there, and
/// no good event became an error row (the oracle's judgement).
async fn blocked(stage: Stage) -> Result<()> {
    let length = Duration::from_secs(stage.pick(4, 60));
    let mut rng = StdRng::seed_from_u64(stage.settings.seed);
    let mut load = Load::start(&stage);
    let (mut gateway, mut endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 500, SOON).await?;

    let outage = Outage::begin(&stage, Way::Blocked)?;
    let began = Instant::now();
    let from = load.answers();
    let mut kills = 0;
    while began.elapsed() < length {
        load.grows(Load::answers, 100, SOON)
            .await
            .context("answers during the outage")?;
        degraded(&endpoints).await?;
        sleep(Duration::from_millis(
            rng.random_range(0..stage.pick(500, 4_000)),
        ))
        .await;
        load.down(gateway.kill().await?);
        (gateway, endpoints) = stage.start().await.context("a start during the outage")?;
        load.up(&endpoints);
        kills += 1;
    }
    load.grows(Load::answers, 100, SOON).await?;
    degraded(&endpoints).await?;
    let meanwhile = load.answers() - from;
    outage.end()?;
    stage.figure(&format!(
        "an outage of {length:?} with {kills} kills; {meanwhile} answers meanwhile"
    ))?;
    well_again(&endpoints).await?;
    let verdict = load.finish(gateway, &endpoints).await?;
    ensure!(verdict.timeouts == 0, "clients waited in vain: {verdict:?}");
    Ok(())
}

/// The store's directory is gone: a running gateway goes on; one that was killed refuses to start, says why, and changes
/// nothing; all is well when the directory is back.
async fn gone(stage: Stage) -> Result<()> {
    let length = Duration::from_secs(stage.pick(2, 60));
    let mut load = Load::start(&stage);
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 500, SOON).await?;
    let outage = Outage::begin(&stage, Way::Gone)?;
    let began = Instant::now();
    degraded(&endpoints).await?;
    while began.elapsed() < length {
        load.grows(Load::answers, 100, SOON).await?;
        degraded(&endpoints).await?;
    }
    load.down(gateway.kill().await?);
    let refused = stage.spawn()?.ended(SOON).await?;
    ensure!(
        refused.status.code() == Some(1) && refused.said.contains("open the event store"),
        "{}\n{}",
        refused.status,
        refused.said
    );
    load.down(refused.alarms);
    outage.end()?;
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    stage.figure(&format!("an outage of {length:?}"))?;
    well_again(&endpoints).await?;
    load.finish(gateway, &endpoints).await.map(drop)
}

/// Waits until `/ready` says "degraded" because of the store; it must stay 200 all the time.
pub(crate) async fn degraded(endpoints: &Endpoints) -> Result<()> {
    ready_when(endpoints, |degraded| degraded.contains("store")).await
}

/// Waits until nothing is degraded any more. A write waits at most half a minute before it is tried again.
pub(crate) async fn well_again(endpoints: &Endpoints) -> Result<()> {
    ready_when(endpoints, |degraded| {
        degraded.is_empty() || degraded == "{}"
    })
    .await
}

async fn ready_when(endpoints: &Endpoints, is: fn(&str) -> bool) -> Result<()> {
    let http = clients::Http::new(endpoints);
    let began = Instant::now();
    loop {
        let (status, ready) = http.get("/ready").await?;
        ensure!(status == 200, "/ready {status} {ready}");
        let degraded = ready.get("degraded");
        if is(&degraded.map(ToString::to_string).unwrap_or_default()) {
            return Ok(());
        }
        ensure!(began.elapsed() < 2 * SOON, "/ready still says {ready}");
        sleep(Duration::from_millis(20)).await;
    }
}
