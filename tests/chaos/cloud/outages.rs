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

/// How long it may take until everything is noticed and goes on after an outage: calls run into their timeouts, leases run out.
const AGAIN_WITHIN: Duration = Duration::from_secs(150);
/// How long anything may take that takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// Writes that a store refused and that were tried again.
const RETRIES: &str = "eventkit_store_write_retries_total";

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
    let (slow, slow_engine) = named(0, "a_bigquery_that_is_ill_is_waited_out");
    let (cut, cut_engine) = named(0, "a_firestore_that_is_cut_off_is_waited_out");
    vec![
        Scenario::alone(bad, bad_engine, bad_line),
        Scenario::alone(still, still_engine, standing_still),
        Scenario::alone(silent, silent_engine, died_in_silence),
        Scenario::alone(made, made_engine, |stage| deleted(stage, true)),
        Scenario::alone(missed, missed_engine, |stage| deleted(stage, false)),
        Scenario::alone(ill, ill_engine, ill_storage),
        Scenario::alone(slow, slow_engine, ill_bigquery),
        Scenario::alone(cut, cut_engine, cut_off),
    ]
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
    let modes = [
        Mode::Late(Duration::from_millis(300)),
        Mode::Reset,
        Mode::BlackHole,
        Mode::HalfOpen,
    ];
    for mode in modes {
        load.grows(Load::answers, 100, SOON).await?;
        line(&set)?.set(mode);
        let until = Instant::now() + length;
        while Instant::now() < until {
            load.grows(Load::answers, 20, SOON)
                .await
                .with_context(|| format!("answers while the line is {mode:?}"))?;
            sleep(Duration::from_millis(100)).await;
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
        let frozen = Frozen::at(url, "pubsub")?;
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
    let load = Load::paced(&stage, plan.pace());
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
    if !stage.settings.long && stage.settings.seed.is_multiple_of(2) == create {
        stage.say("in the short form every second time");
        return Ok(());
    }
    let verify_every = Duration::from_secs(15);
    set.set("EVENTKIT_PUBSUB_VERIFY_INTERVAL", verify_every.as_secs());
    set.set("EVENTKIT_PUBSUB_CREATE", create);
    set_up(&options).await?;
    let mut load = Load::paced(&stage, plan.pace());
    load.expect_alarm("queue_lost_batches_sent_again");
    load.allow_alarm("subscription_unusable");
    let began = Instant::now();
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
    ensure!(
        began.elapsed() < verify_every,
        "too slow: some of it counts as owned by now"
    );
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
    for trouble in troubles {
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
    let length = Duration::from_secs(stage.pick(4, 20));
    let troubles = [
        Trouble::Status(503),
        Trouble::Status(429),
        Trouble::Lost,
        Trouble::Late(Duration::from_secs(3)),
        Trouble::Hang,
        Trouble::JobsFail,
    ];
    for trouble in troubles {
        set.grows(1, plan.kind.soon()).await?;
        let before = set.value(0, "eventkit_loader_failures_total").await?;
        let front = set.bigquery.as_ref().context("no BigQuery")?;
        front.set(trouble);
        sleep(length).await;
        load.grows(Load::answers, 20, SOON)
            .await
            .with_context(|| format!("answers with {trouble:?}"))?;
        if matches!(trouble, Trouble::Status(_) | Trouble::JobsFail) {
            counted(&set, 0, "eventkit_loader_failures_total", before).await?;
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
        set.grows(20, SOON).await?;
        let line = set.firestore.as_ref().context("no line to Firestore")?;
        line.set(mode);
        sleep(length).await;
        load.grows(Load::answers, 20, SOON)
            .await
            .with_context(|| format!("answers with {mode:?}"))?;
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
