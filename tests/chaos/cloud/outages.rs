//! Services that cannot be reached, do not answer, or refuse; a subscription that is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventkit::queue::pubsub::set_up;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::SubscriptionAdmin;
use tokio::time::{Instant, sleep};

use super::back::Kind;
use super::engine;
use super::front::Trouble;
use super::frozen::Frozen;
use super::line::Mode;
use super::set::{Plan, Queue, Set};
use crate::load::Load;
use crate::scenario::{Scenario, Settings, Stage};
use crate::support::emulators;
use crate::support::gateway::setting;

/// How long it may take until everything is noticed and goes on after an outage: calls run into their timeouts, leases run out.
const AGAIN_WITHIN: Duration = Duration::from_secs(150);
/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// Writes that a store refused and that were tried again.
const RETRIES: &str = "eventkit_store_write_retries_total";

/// Publishes that failed and were tried again.
const PUBLISHES: &str = "eventkit_queue_publish_retries_total";

/// Batches that count as Pub/Sub's own.
const OWNED: &str = "eventkit_publisher_batches_settled_total";

/// Rounds of the loader that failed, and at which step.
const FAILURES: &str = "eventkit_loader_failures_total";
const FAILED_LOADS: &str = r#"eventkit_loader_step_failures_total{step="load"}"#;
const FAILED_MERGES: &str = r#"eventkit_loader_step_failures_total{step="merge"}"#;

/// The scenarios of this family.
pub(super) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let named = |turn, name: &str| (format!("cloud::{name}"), engine(settings, turn));
    let (bad, bad_engine) = named(0, "a_bad_line_to_pubsub_is_waited_out");
    let (still, still_engine) = named(1, "a_pubsub_that_stands_still_is_waited_out");
    let (silent, silent_engine) = named(
        0,
        "a_stream_that_died_in_silence_is_noticed_while_its_batches_wait",
    );
    let (made, made_engine) = named(1, "a_deleted_subscription_is_made_again");
    let (missed, missed_engine) = named(0, "a_deleted_subscription_is_waited_for");
    let (ill, ill_engine) = named(1, "a_storage_that_is_ill_is_waited_out");
    let (cut, cut_engine) = named(0, "a_firestore_that_is_cut_off_is_waited_out");
    let mut scenarios = vec![
        Scenario::alone(bad, bad_engine, bad_line),
        Scenario::alone(still, still_engine, standing_still),
        Scenario::alone(silent, silent_engine, died_in_silence),
        Scenario::alone(made, made_engine, |stage| deleted(stage, true)),
        Scenario::alone(missed, missed_engine, |stage| deleted(stage, false)),
        Scenario::alone(ill, ill_engine, ill_storage),
        Scenario::alone(cut, cut_engine, cut_off),
    ];
    if settings.long {
        // Its emulator takes half a minute for each step.
        let (slow, engine) = named(0, "a_bigquery_that_is_ill_is_waited_out");
        scenarios.push(Scenario::alone(slow, engine, ill_bigquery));
    }
    scenarios
}

/// Pub/Sub is late, gone without a word, gone with a reset, and half open. Clients are answered all the while.
async fn bad_line(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Local);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let load = Load::paced(&stage, plan.pace());
    set.start_all(&load).await?;
    let length = Duration::from_secs(stage.pick(4, 75));
    let gateway = set.place("gateway")?;
    // Whether each publish that fails on it is counted; a short silence may pass before one does.
    let modes = [
        (Mode::Late(Duration::from_millis(300)), false),
        (Mode::Reset, true),
        (Mode::BlackHole, stage.settings.long),
        (Mode::HalfOpen, stage.settings.long),
    ];
    for (mode, fails) in modes {
        load.grows(Load::answers, 100, SOON).await?;
        let before = set.value(gateway, PUBLISHES).await?;
        line(&set)?.set(mode);
        let until = Instant::now() + length;
        while Instant::now() < until {
            load.grows(Load::answers, 20, SOON)
                .await
                .with_context(|| format!("answers while the line is {mode:?}"))?;
            sleep(Duration::from_millis(100)).await;
        }
        if fails {
            counted(&set, gateway, PUBLISHES, before).await?;
        }
        line(&set)?.set(Mode::Good);
        let began = Instant::now();
        set.grows(200, AGAIN_WITHIN)
            .await
            .with_context(|| format!("after the line was {mode:?}"))?;
        stage.figure(&format!(
            "{mode:?} for {length:?}: rows again after {:.1?}",
            began.elapsed()
        ))?;
    }
    let verdict = set.finish(load).await?;
    ensure!(verdict.timeouts == 0, "clients waited in vain: {verdict:?}");
    Ok(())
}

/// The emulator itself is stopped, twice, longer than its leases and for a moment, and goes on where it was.
async fn standing_still(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Local);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let options = set.options.clone().context("no Pub/Sub")?;
    let url = options.endpoint.url().context("an emulator has a URL")?;
    let load = Load::paced(&stage, plan.pace());
    set.start_all(&load).await?;
    for length in [stage.pick(4, 75), stage.pick(1, 10)].map(Duration::from_secs) {
        set.grows(300, SOON).await?;
        let Some(frozen) = Frozen::at(url, "pubsub")? else {
            let what = "a Pub/Sub that stands still (its emulator is no process that can be stopped from here)";
            ensure!(setting("CI").as_deref() != Some("true"), "{what}");
            emulators::list_not_run("a process of Pub/Sub's emulator", what);
            break;
        };
        let until = Instant::now() + length;
        while Instant::now() < until {
            load.grows(Load::answers, 20, SOON)
                .await
                .context("answers while Pub/Sub stands still")?;
            sleep(Duration::from_millis(100)).await;
        }
        drop(frozen);
        let began = Instant::now();
        set.grows(200, AGAIN_WITHIN)
            .await
            .context("after Pub/Sub stood still")?;
        stage.figure(&format!(
            "still for {length:?}: rows again after {:.1?}",
            began.elapsed()
        ))?;
    }
    let verdict = set.finish(load).await?;
    ensure!(verdict.timeouts == 0, "clients waited in vain: {verdict:?}");
    Ok(())
}

/// The worker holds batches that it cannot store, and its line to Pub/Sub dies without a word: nothing that it holds comes to an
/// end meanwhile, so only the silence says so.
async fn died_in_silence(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Gcs);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut load = Load::paced(&stage, plan.pace());
    // One lane may have been written to last when the others were well.
    load.allow_alarm("store_lane_stuck");
    set.start_all(&load).await?;
    set.grows(200, SOON).await?;
    let worker = set.place("worker")?;
    let front = set.storage.as_ref().context("no Cloud Storage")?;
    front.set(Trouble::Status(503));
    held_grows(&set, worker, 20, SOON).await?;
    line(&set)?.set(Mode::HalfOpen);
    sleep(Duration::from_secs(stage.pick(5, 60))).await;
    line(&set)?.set(Mode::Good);
    let began = Instant::now();
    held_grows(&set, worker, 20, AGAIN_WITHIN)
        .await
        .context("batches arrive again while the store is still out")?;
    stage.figure(&format!(
        "half open with batches held: batches again after {:.1?}",
        began.elapsed()
    ))?;
    let front = set.storage.as_ref().context("no Cloud Storage")?;
    front.set(Trouble::None);
    set.grows(200, AGAIN_WITHIN).await?;
    set.finish(load).await.map(drop)
}

/// Waits until a worker holds so many more messages.
async fn held_grows(set: &Set, worker: usize, by: u64, within: Duration) -> Result<()> {
    let (began, mut first) = (Instant::now(), None);
    loop {
        let held = set.value(worker, "eventkit_queue_held_messages").await?;
        let first = *first.get_or_insert(held);
        if held >= first + f64::from(u32::try_from(by)?) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < within,
            "it holds {held} messages after {within:?}, {first} before"
        );
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until a process has counted more of what it tries again.
async fn counted(set: &Set, at: usize, metric: &str, before: f64) -> Result<()> {
    let began = Instant::now();
    while set.value(at, metric).await? <= before {
        ensure!(began.elapsed() < AGAIN_WITHIN, "{metric} stays at {before}");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn line(set: &Set) -> Result<&super::line::Line> {
    set.pubsub.as_ref().context("no line to Pub/Sub")
}

/// The subscription is deleted under load, before anything that it held counts as owned: all of it is published again, once the
/// subscription is there again. What Pub/Sub owned already would be lost, by whoever deleted it.
async fn deleted(stage: Stage, create: bool) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Local);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let options = set.options.clone().context("no Pub/Sub")?;
    // Shorter than a worker waits for what is missing, as by default.
    set.set("EVENTKIT_PUBSUB_VERIFY_INTERVAL", 30);
    set.set("EVENTKIT_PUBSUB_CREATE", create);
    // On a busy machine it may wait too short after all.
    set.counted_order = true;
    set_up(&options).await?;
    let mut load = Load::paced(&stage, plan.pace());
    load.expect_alarm("queue_lost_batches_sent_again");
    load.allow_alarm("subscription_unusable");
    set.start_all(&load).await?;
    set.grows(300, SOON).await?;
    let url = options.endpoint.url().context("an emulator has a URL")?;
    let admin = SubscriptionAdmin::builder()
        .with_endpoint(url)
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    let path = format!(
        "projects/{}/subscriptions/{}",
        options.project, options.subscription
    );
    let delete = admin.delete_subscription().set_subscription(path);
    delete.send().await?;
    let owned = set.value(set.place("gateway")?, OWNED).await?;
    ensure!(owned == 0.0, "too slow: {owned} batches count as owned");
    load.grows(Load::answers, 300, SOON)
        .await
        .context("answers without a subscription")?;
    if !create {
        sleep(Duration::from_secs(stage.pick(5, 60))).await;
        set_up(&options).await?;
    }
    set.grows(300, AGAIN_WITHIN)
        .await
        .context("after the subscription was there again")?;
    set.finish(load).await.map(drop)
}

/// Cloud Storage refuses for a while, says that it is too much, does what it is told and loses the answer, and does not answer.
async fn ill_storage(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::PubSub, Kind::Gcs);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    // Small: the emulator reads all names for each page of a list.
    let mut load = Load::paced(&stage, Duration::from_millis(300));
    // Writes that were under way when it began count as success of others.
    load.allow_alarm("store_lane_stuck");
    set.start_all(&load).await?;
    let worker = set.place("worker")?;
    let length = Duration::from_secs(stage.pick(4, 30));
    let troubles = [
        Trouble::Status(503),
        Trouble::Status(429),
        Trouble::Lost,
        Trouble::Hang,
    ];
    let some = usize::try_from(stage.settings.seed % 4)?;
    let troubles = troubles.into_iter().cycle().skip(some);
    for trouble in troubles.take(stage.pick(2, 4)) {
        set.grows(100, SOON).await?;
        let before = set.value(worker, RETRIES).await?;
        let front = set.storage.as_ref().context("no Cloud Storage")?;
        front.set(trouble);
        sleep(length).await;
        load.grows(Load::answers, 100, SOON)
            .await
            .with_context(|| format!("answers with {trouble:?}"))?;
        if matches!(trouble, Trouble::Status(_)) {
            counted(&set, worker, RETRIES, before).await?;
        }
        let front = set.storage.as_ref().context("no Cloud Storage")?;
        front.set(Trouble::None);
        let began = Instant::now();
        set.grows(200, AGAIN_WITHIN)
            .await
            .with_context(|| format!("after {trouble:?}"))?;
        stage.figure(&format!(
            "{trouble:?} for {length:?}: objects again after {:.1?}",
            began.elapsed()
        ))?;
    }
    set.finish(load).await.map(drop)
}

/// BigQuery refuses, does not answer, does what it is told and loses the answer, or takes its time; so a job is inserted, runs and ends
/// without anybody who hears of it. Or it takes jobs, and they fail. All of it is counted.
async fn ill_bigquery(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::InProcess, Kind::BigQuery);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let load = plan.load(&stage);
    set.start_all(&load).await?;
    let length = Duration::from_secs(20);
    // What is ill, and which step counts it; the others may pass without an error of the round.
    let troubles = [
        (Trouble::Status(503), Some(FAILURES)),
        (Trouble::Status(429), Some(FAILURES)),
        (Trouble::Lost, None),
        (Trouble::Late(Duration::from_secs(3)), None),
        (Trouble::Hang, None),
        (Trouble::JobsFail("-events-"), Some(FAILED_LOADS)),
        (Trouble::JobsFail("-merge-"), Some(FAILED_MERGES)),
    ];
    for (trouble, step) in troubles {
        set.grows(1, plan.kind.soon()).await?;
        let before = match step {
            Some(step) => set.value(0, step).await?,
            None => 0.0,
        };
        let front = set.bigquery.as_ref().context("no BigQuery")?;
        front.set(trouble);
        sleep(length).await;
        load.grows(Load::answers, 20, SOON)
            .await
            .with_context(|| format!("answers with {trouble:?}"))?;
        if let Some(step) = step {
            counted(&set, 0, step, before).await?;
        }
        let front = set.bigquery.as_ref().context("no BigQuery")?;
        front.set(Trouble::None);
        let began = Instant::now();
        set.grows(1, plan.kind.soon())
            .await
            .with_context(|| format!("after {trouble:?}"))?;
        stage.figure(&format!(
            "{trouble:?} for {length:?}: rows again after {:.1?}",
            began.elapsed()
        ))?;
    }
    // Nothing of it was held against an object.
    let quarantined = set
        .value(0, "eventkit_loader_markers_quarantined_total")
        .await?;
    ensure!(quarantined == 0.0, "{quarantined} markers in quarantine");
    set.finish(load).await.map(drop)
}

/// Firestore's connections are reset for a while, and half open in the long form.
async fn cut_off(stage: Stage) -> Result<()> {
    let plan = Plan::new(Queue::InProcess, Kind::Firestore);
    let Some(mut set) = Set::make(&stage, plan.clone()).await? else {
        return Ok(());
    };
    let mut load = plan.load(&stage);
    load.allow_alarm("store_lane_stuck");
    set.start_all(&load).await?;
    let length = Duration::from_secs(stage.pick(4, 30));
    let modes = [Mode::Reset, Mode::BlackHole, Mode::HalfOpen];
    let some = usize::try_from(stage.settings.seed % 2)?;
    for mode in modes.into_iter().cycle().skip(some).take(stage.pick(1, 3)) {
        set.grows(20, plan.kind.soon()).await?;
        let before = set.value(0, RETRIES).await?;
        let line = set.firestore.as_ref().context("no line to Firestore")?;
        line.set(mode);
        sleep(length).await;
        load.grows(Load::answers, 20, SOON)
            .await
            .with_context(|| format!("answers with {mode:?}"))?;
        // On the others a write waits for its own timeout first.
        if mode == Mode::Reset {
            counted(&set, 0, RETRIES, before).await?;
        }
        let line = set.firestore.as_ref().context("no line to Firestore")?;
        line.set(Mode::Good);
        let began = Instant::now();
        set.grows(50, AGAIN_WITHIN)
            .await
            .with_context(|| format!("after {mode:?}"))?;
        stage.figure(&format!(
            "{mode:?} for {length:?}: documents again after {:.1?}",
            began.elapsed()
        ))?;
    }
    set.finish(load).await.map(drop)
}
