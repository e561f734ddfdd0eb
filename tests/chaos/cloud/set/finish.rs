//! How a run ends: everything arrives, every process ends in order, and what is there is judged.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventkit::queue::pubsub::PubSubOptions;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use tokio::time::{Instant, sleep};

use super::{Part, Queue, Set};
use crate::cloud::back::Kind;
use crate::cloud::runs;
use crate::load::{Load, Verdict};
use crate::support::gateway::Written;
use crate::support::warehouse::Found;

/// How long the last backlog may take: leases of killed workers run out, and emulators are slow.
const DRAIN_WITHIN: Duration = Duration::from_secs(240);
/// How long a process may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(60);
/// The most memory of a process, whatever is done to the others: the pipeline's budget is 64 MiB.
const PEAK_KIB_MAX: u64 = 512 << 10;

/// Runs that went without what precedes them.
const GIVEN_UP: &str = r#"eventkit_queue_gaps_total{outcome="given_up"}"#;

impl Set {
    /// Settles, waits for the backlog, ends everything in the order of the path, and judges.
    pub(in crate::cloud) async fn finish(self, load: Load) -> Result<Verdict> {
        let verdicts = self.finish_all(vec![load]).await?;
        verdicts.into_iter().next().context("one load, one verdict")
    }

    /// The same with a load for each gateway, in their order.
    pub(in crate::cloud) async fn finish_all(
        mut self,
        mut loads: Vec<Load>,
    ) -> Result<Vec<Verdict>> {
        let doors = (0..self.len()).filter(|at| self.parts.get(*at).is_some_and(Part::takes_in));
        for (at, load) in doors.zip(&mut loads) {
            let endpoints = self.running(at)?.1.clone();
            load.settle(&endpoints).await?;
        }
        let drained = self.drained(&loads).await?;
        let failed = self.failed().await?;
        let given_up = self.counted(GIVEN_UP).await?;
        self.stage.say(&format!(
            "the last backlog had arrived {}",
            drained.map_or("NOT IN TIME".to_owned(), |took| format!("after {took:.1?}"))
        ));
        self.end_all(&mut loads).await?;
        self.clear_pubsub().await?;
        let mut found = self.back.read().await?;
        self.back.keeps_rewritten().await?;
        self.back.clear().await;
        let objects = found.objects.len();
        if self.plan.queue == Queue::PubSub {
            // Objects are runs here: cut anew after a kill, they may overlap, and are numbered by their first batch.
            found.objects.clear();
            self.judge_order(given_up)?;
        }
        self.forget_damage(&mut found, &loads)?;
        self.stage.figure(&format!(
            "{}: {} kills, {objects} objects, peaks {}, seed {}",
            self.plan.name(),
            self.kills,
            self.peaks(),
            self.stage.settings.seed
        ))?;
        // A redelivered event is counted each time.
        let error_rows = found.errors.len();
        ensure!(
            failed.is_none_or(
                |failed| failed >= u32::try_from(error_rows).map_or(f64::MAX, f64::from)
            ),
            "{error_rows} error rows, and {failed:?} counted"
        );
        let mut verdicts = Vec::new();
        while let Some(load) = loads.pop() {
            // What nobody sent is held against the first.
            let (own, rest) = match loads.is_empty() {
                true => (std::mem::take(&mut found), Found::default()),
                false => split(std::mem::take(&mut found), &load),
            };
            found = rest;
            verdicts.push(load.judge_found(&own)?);
        }
        for (role, peak) in &self.peaks_kib {
            ensure!(*peak < PEAK_KIB_MAX, "{role} held {peak} KiB");
        }
        Ok(verdicts)
    }

    /// How many events became error rows, as their workers count; `None` where one that was killed took its count with it.
    async fn failed(&self) -> Result<Option<f64>> {
        if self.kills > 0 {
            return Ok(None);
        }
        self.counted("eventkit_events_failed_total").await.map(Some)
    }

    /// What all that store count together, as far as they run now.
    async fn counted(&self, metric: &str) -> Result<f64> {
        let mut counted = 0.0;
        for (at, part) in self.parts.iter().enumerate() {
            if matches!(part.role, "all" | "worker") {
                counted += self.value(at, metric).await?;
            }
        }
        Ok(counted)
    }

    /// SIGTERM, in the order of the path.
    async fn end_all(&mut self, loads: &mut [Load]) -> Result<()> {
        for at in 0..self.len() {
            self.note_peak(at)?;
            self.note_gaps(at).await?;
            let part = self.parts.get_mut(at).context("no such process")?;
            let (process, _) = part.running.take().context("it does not run")?;
            let ended = process.terminate(END_WITHIN).await.context(part.role)?;
            let load = loads.first_mut().context("a load")?;
            load.heard(ended.alarms);
            ensure!(
                ended.status.success(),
                "{}: SIGTERM ended with {}\n{}",
                part.role,
                ended.status,
                ended.said
            );
        }
        Ok(())
    }

    /// What a worker says about the order of what it was given, since it was started.
    async fn note_gaps(&self, at: usize) -> Result<()> {
        if self.part(at)?.role != "worker" {
            return Ok(());
        }
        let metrics = self.metrics(at).await?;
        let told = [
            "eventkit_queue_gaps_total",
            "eventkit_queue_redeliveries_total",
        ];
        let lines = metrics.lines();
        let lines = lines.filter(|line| told.iter().any(|name| line.starts_with(name)));
        let lines: Vec<&str> = lines.collect();
        self.stage
            .figure(&format!("the last worker: {}", lines.join(", ")))
    }

    /// The order in which rows appeared, where that can be seen.
    fn judge_order(&self, given_up: f64) -> Result<()> {
        if self.plan.kind != Kind::Local {
            return Ok(());
        }
        let written: Vec<_> = self.written.iter().map(Written::objects).collect();
        let order = runs::judge(&self.stage.dir.join("store"), &written)?;
        self.stage.figure(&format!(
            "{} of {} rows appeared in the store behind a later one of their lane; {} of them were overtaken by a worker that had stored \
             what precedes them, {} by one that was killed before it said what it wrote",
            order.late,
            order.rows,
            order.violations.len(),
            order.unclaimed
        ))?;
        for violation in order.violations.iter().take(10) {
            self.stage.say(violation);
        }
        ensure!(
            order.late == 0 || !self.strict_order,
            "OUT OF ORDER: {} rows",
            order.late
        );
        ensure!(
            order.violations.is_empty() || self.counted_order && given_up > 0.0,
            "OUT OF ORDER: {} rows, {given_up} runs given up, the first: {:?}",
            order.violations.len(),
            order.violations.first()
        );
        Ok(())
    }

    /// A damaged batch accounts for every offset of its range; where a row or an error row stands that names its event, that says nothing.
    fn forget_damage(&self, found: &mut Found, loads: &[Load]) -> Result<()> {
        if !self.damaged {
            return Ok(());
        }
        let rows = found.rows.iter().map(|row| (&row.log_id, row.offset));
        let errors = found
            .errors
            .iter()
            .filter(|error| is_sent(loads, &error.message_id));
        let errors = errors.map(|error| (&error.log_id, error.offset));
        let named: HashSet<(String, u64)> = rows
            .chain(errors)
            .map(|(log, offset)| (log.clone(), offset))
            .collect();
        let before = found.errors.len();
        found.errors.retain(|error| {
            let is_named = named.contains(&(error.log_id.clone(), error.offset));
            is_sent(loads, &error.message_id) || !is_named
        });
        self.stage.figure(&format!(
            "{} error rows of damaged batches stand beside an event's own",
            before - found.errors.len()
        ))
    }

    /// The emulator keeps everything in memory: what a run leaves there is missing to the next.
    async fn clear_pubsub(&self) -> Result<()> {
        for options in self.options.iter().chain(&self.more) {
            clear(options).await?;
        }
        Ok(())
    }

    /// Waits until every acknowledged event is there. What is missing in the end is the oracle's to say.
    async fn drained(&mut self, loads: &[Load]) -> Result<Option<Duration>> {
        let (acknowledged, began) = (loads.iter().map(Load::acknowledged).sum(), Instant::now());
        while began.elapsed() < DRAIN_WITHIN {
            let asked = Instant::now();
            let (arrived, is_loaded) = self.back.arrived().await?;
            // Fewer are not all of them. As many may be others: events that were stored and never answered, and what stands for
            // damage; while those that are waited for are on the lease of a worker that was killed.
            if arrived >= acknowledged && is_loaded && self.has_all(loads).await? {
                return Ok(Some(began.elapsed()));
            }
            // Half of the time is for those who are waited for.
            sleep(asked.elapsed().max(Duration::from_millis(100))).await;
        }
        Ok(None)
    }

    async fn has_all(&mut self, loads: &[Load]) -> Result<bool> {
        let found = self.back.read().await?;
        let rows = found.rows.iter().map(|row| row.message_id.as_str());
        let errors = found.errors.iter().map(|error| error.message_id.as_str());
        let there: HashSet<&str> = rows.chain(errors).collect();
        Ok(loads.iter().all(|load| {
            let ledger = load.ledger();
            let mut acknowledged = ledger.obligations().filter(|event| event.acknowledged());
            acknowledged.all(|event| there.contains(event.sent.message_id.as_str()))
        }))
    }
}

/// A topic and its subscription go.
async fn clear(options: &PubSubOptions) -> Result<()> {
    let url = options.endpoint.url().context("an emulator has a URL")?;
    let (project, topic) = (&options.project, &options.topic);
    let subscription = &options.subscription;
    let subscriptions = SubscriptionAdmin::builder()
        .with_endpoint(url)
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    let topics = TopicAdmin::builder()
        .with_endpoint(url)
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await?;
    let path = format!("projects/{project}/subscriptions/{subscription}");
    let delete = subscriptions.delete_subscription();
    delete.set_subscription(path).send().await?;
    let delete = topics.delete_topic();
    let path = format!("projects/{project}/topics/{topic}");
    delete.set_topic(path).send().await?;
    Ok(())
}

/// Whether one of them sent it.
fn is_sent(loads: &[Load], message_id: &str) -> bool {
    let mut loads = loads.iter();
    loads.any(|load| load.ledger().get(message_id).is_some())
}

/// What a load's own clients sent, and the rest.
fn split(found: Found, load: &Load) -> (Found, Found) {
    let ledger = load.ledger();
    let (own_rows, rows) = found
        .rows
        .into_iter()
        .partition(|row| ledger.get(&row.message_id).is_some());
    let (own_errors, errors) = found
        .errors
        .into_iter()
        .partition(|error| ledger.get(&error.message_id).is_some());
    let found = |rows, errors| Found {
        rows,
        errors,
        ..Found::default()
    };
    (found(own_rows, own_errors), found(rows, errors))
}
