//! Faults below the gateway that a preloaded shim brings about (`tests/support/shim.rs`), and some that need no shim: of
//! the disk, the clock, and the warehouse's file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::scenario::{Engine, Scenario, Stage};
use crate::support::clients;
use crate::support::gateway::Endpoints;
use crate::support::shim::Faults;

mod calls;
mod clock;
mod script;
mod space;
mod syncs;
mod volume;
mod warehouse;

/// How long anything may take that takes a moment, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    [
        syncs::scenarios(),
        space::scenarios(),
        volume::scenarios(),
        calls::scenarios(),
        clock::scenarios(),
        warehouse::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Stage {
    /// Where the log's engine hardly matters, the short form has one of them, by the seed.
    fn has_turn(&self) -> bool {
        let first = self.settings.seed.is_multiple_of(2);
        let has = self.settings.long || first == (self.engine == Engine::BOTH[0]);
        if !has {
            self.say("in the short form on the other engine alone");
        }
        has
    }
}

/// Puts the shim under every gateway that this stage starts from now on.
fn preload(stage: &mut Stage) -> Result<Faults> {
    let mut control = stage.dir.clone().into_os_string();
    control.push(".faults");
    let faults = Faults::at(&PathBuf::from(control))?;
    for (name, value) in faults.environment() {
        stage.set(name, value);
    }
    Ok(faults)
}

/// Takes it away again.
fn unload(stage: &mut Stage) {
    stage.unset("LD_PRELOAD");
    stage.unset("FAULTS_CONTROL");
}

/// The files of a stage, as a shim's rule or a test names them.
fn log_files(stage: &Stage) -> PathBuf {
    stage.dir.join("wal/")
}

fn mark_file(stage: &Stage) -> PathBuf {
    stage.dir.join("wal.mark")
}

fn store_files(stage: &Stage) -> PathBuf {
    stage.dir.join("store/")
}

fn warehouse_file(stage: &Stage) -> PathBuf {
    stage.dir.join("warehouse.db")
}

/// Polls until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds().await.with_context(|| what.to_owned())? {
        // Whatever is tried again is so within half a minute.
        if began.elapsed() > 2 * SOON {
            bail!("{what}: not within {:?}", 2 * SOON);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What `/ready` says now; `None` when nobody answers.
async fn readiness(endpoints: &Endpoints) -> Option<(u16, Value)> {
    clients::Http::new(endpoints).get("/ready").await.ok()
}

/// Why no work is taken, as `/ready` says it, if it is the log.
fn log_not_ready(ready: &Value) -> Option<&str> {
    ready.get("not_ready")?.get("log")?.as_str()
}

/// Waits until `/ready` says that a component is degraded, with words of this kind, and that work is taken meanwhile.
async fn degraded(endpoints: &Endpoints, component: &str, words: &str) -> Result<()> {
    until(&format!("{component} is degraded: {words}"), async || {
        let Some((status, ready)) = readiness(endpoints).await else {
            bail!("nobody answers");
        };
        let degraded = ready.get("degraded").and_then(|all| all.get(component));
        let said = degraded.and_then(Value::as_str);
        Ok(status == 200 && said.is_some_and(|said| said.contains(words)))
    })
    .await
}

/// Waits until nothing is degraded any more.
async fn well_again(endpoints: &Endpoints) -> Result<()> {
    until("all is well again", async || {
        let ready = readiness(endpoints).await;
        Ok(ready.is_some_and(|(status, ready)| {
            status == 200
                && ready
                    .get("degraded")
                    .and_then(Value::as_object)
                    .is_none_or(serde_json::Map::is_empty)
        }))
    })
    .await
}

/// Removes files that may not be there.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A file's name with something after it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
