//! Kills at steps that have a name: a front before the service holds the request, or its answer, and the process is killed then.

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;

use super::back::Kind;
use super::engine;
use super::front::Step;
use super::set::{Plan, Queue, Set};
use crate::scenario::{Scenario, Settings, Stage};

/// A name, where it is held, and what.
type Named = (&'static str, Service, Step);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Storage,
    BigQuery,
}

/// A request that is held before it is done.
const fn before(method: &'static str, with: &'static str) -> Step {
    Step {
        method,
        with,
        done: false,
    }
}

/// A request whose answer is held.
const fn after(method: &'static str, with: &'static str) -> Step {
    Step {
        method,
        with,
        done: true,
    }
}

/// The steps of a worker's write.
const WRITES: &[Named] = &[
    (
        "before the upload",
        Service::Storage,
        before("POST", "name=events"),
    ),
    (
        "after the upload, which nobody answered",
        Service::Storage,
        UPLOADED,
    ),
    (
        "after the upload, before the marker",
        Service::Storage,
        before("POST", "name=inbox"),
    ),
    (
        "after the marker, before the ack",
        Service::Storage,
        after("POST", "name=inbox"),
    ),
];

/// The steps of a loader's round; jobs are known by their ids.
const LOADS: &[Named] = &[
    (
        "after the manifest, before the job",
        Service::Storage,
        after("POST", "name=manifests"),
    ),
    (
        "after the load job, before the merge",
        Service::BigQuery,
        after("POST", "-events-"),
    ),
    (
        "before the merge",
        Service::BigQuery,
        before("POST", "-merge-"),
    ),
    (
        "after the merge, before the record",
        Service::BigQuery,
        after("POST", "-merge-"),
    ),
    (
        "after the record",
        Service::BigQuery,
        after("POST", "-record-"),
    ),
    (
        "while markers are removed",
        Service::Storage,
        after("DELETE", "inbox"),
    ),
];

/// The step at which an object is there and nobody has said so.
const UPLOADED: Step = after("POST", "name=events");

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let kinds = [Kind::Gcs, Kind::BigQuery].into_iter();
    let kinds = kinds.filter(|kind| settings.long || *kind == Kind::Gcs);
    let upgrades = (1..).zip(kinds).map(|(turn, kind)| {
        let plan = Plan::new(Queue::PubSub, kind);
        let name = format!(
            "cloud::a_writer_is_upgraded_between_the_upload_and_the_ack::{}",
            plan.name()
        );
        Scenario::alone(name, engine(settings, turn), |stage| upgraded(stage, plan))
    });
    let sets = [
        ("write", Queue::PubSub, Kind::Gcs, "worker", WRITES),
        ("write", Queue::InProcess, Kind::Gcs, "all", WRITES),
        ("load", Queue::PubSub, Kind::BigQuery, "loader", LOADS),
    ];
    // BigQuery's emulator takes half a minute for each kill.
    let sets = (0..).zip(sets);
    let sets = sets.filter(|(_, (_, _, kind, _, _))| settings.long || *kind != Kind::BigQuery);
    sets.map(|(turn, (what, queue, kind, role, steps))| {
        let plan = Plan::new(queue, kind);
        let name = format!("cloud::a_kill_at_a_step_of_a_{what}::{}", plan.name());
        Scenario::alone(name, engine(settings, turn), move |stage| {
            at_each(stage, plan, role, steps)
        })
    })
    .chain(upgrades)
    .collect()
}

/// A worker is killed with its object there and not acknowledged, and the next version of it writes the same rows in other bytes: what
/// is there counts, is loaded, and stays as it is.
async fn upgraded(stage: Stage, plan: Plan) -> Result<()> {
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut load = plan.load(&stage);
    set.start_all(&load).await?;
    let worker = set.place("worker")?;
    let wanted = match plan.kind {
        Kind::BigQuery => 3,
        Kind::Local | Kind::Gcs | Kind::Firestore => stage.pick(1, 8),
    };
    let (mut rewritten, mut kills) = (0, 0);
    while rewritten < wanted {
        // What came again because its acknowledgement was lost with the worker has its marker already: that kill shows nothing.
        ensure!(
            kills < 5 * wanted,
            "{rewritten} of {wanted} objects had no marker"
        );
        let front = set.storage.as_ref().context("no Cloud Storage")?;
        let reached = front.hold(UPLOADED);
        timeout(plan.kind.soon(), reached)
            .await
            .context("nothing was uploaded")?
            .context("the front is gone")?;
        set.kill(worker, &mut load).await?;
        kills += 1;
        rewritten += set.back.rewrite_unmarked().await?;
        set.start(worker, &load).await?;
    }
    stage.figure(&format!(
        "{kills} kills, {rewritten} objects of another version"
    ))?;
    set.finish(load).await.map(drop)
}

/// Kills whoever does the work at each step, once or (in the long form) often.
async fn at_each(stage: Stage, plan: Plan, role: &str, steps: &[Named]) -> Result<()> {
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut load = plan.load(&stage);
    set.start_all(&load).await?;
    let victim = set.place(role)?;
    let rounds = match plan.kind {
        // Half a minute for each kill.
        Kind::BigQuery => 2,
        Kind::Local | Kind::Gcs | Kind::Firestore => stage.pick(1, 8),
    };
    for (name, service, step) in steps.iter().cycle().take(rounds * steps.len()) {
        let front = match service {
            Service::Storage => set.storage.as_ref(),
            Service::BigQuery => set.bigquery.as_ref(),
        };
        let reached = front.context("no such service")?.hold(*step);
        timeout(plan.kind.soon(), reached)
            .await
            .with_context(|| format!("nobody came to the step: {name}"))?
            .context("the front is gone")?;
        set.kill(victim, &mut load).await?;
        set.start(victim, &load)
            .await
            .with_context(|| format!("a start after a kill {name}"))?;
    }
    set.finish(load).await.map(drop)
}
