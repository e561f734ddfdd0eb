//! Kills at steps that have a name: a front before the service holds the request, or its answer, and the process is killed then.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::timeout;

use super::back::Kind;
use super::engine;
use super::front::Step;
use super::set::{Plan, Queue, Set};
use crate::load::Load;
use crate::scenario::{Scenario, Settings, Stage};

/// How long it may take until somebody is at a step.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// The steps of a worker's write.
const WRITES: [(&str, Step); 4] = [
    (
        "before the upload",
        Step {
            method: "POST",
            with: "name=events",
            done: false,
        },
    ),
    (
        "after the upload, which nobody answered",
        Step {
            method: "POST",
            with: "name=events",
            done: true,
        },
    ),
    (
        "after the upload, before the marker",
        Step {
            method: "POST",
            with: "name=inbox",
            done: false,
        },
    ),
    (
        "after the marker, before the ack",
        Step {
            method: "POST",
            with: "name=inbox",
            done: true,
        },
    ),
];

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let sets = [(0, Queue::PubSub), (1, Queue::InProcess)];
    sets.map(|(turn, queue)| {
        let plan = Plan::new(queue, Kind::Gcs);
        let name = format!("cloud::a_kill_at_a_step_of_a_write::{}", plan.name());
        Scenario::alone(name, engine(settings, turn), move |stage| {
            at_each(stage, plan)
        })
    })
    .into()
}

/// Kills whoever stores at each step, once or (in the long form) often.
async fn at_each(stage: Stage, plan: Plan) -> Result<()> {
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut load = Load::paced(&stage, plan.pace());
    set.start_all(&load).await?;
    let worker = set.place("worker").or_else(|_| set.place("all"))?;
    let rounds = stage.pick(1, 8);
    for (name, step) in WRITES.iter().cycle().take(rounds * WRITES.len()) {
        let front = set.storage.as_ref().context("no Cloud Storage")?;
        let reached = front.hold(*step);
        timeout(REACHED_WITHIN, reached)
            .await
            .with_context(|| format!("nobody came to the step {name}"))?
            .context("the front is gone")?;
        set.kill(worker, &mut load).await?;
        set.start(worker, &load)
            .await
            .with_context(|| (*name).to_owned())?;
    }
    set.finish(load).await.map(drop)
}
