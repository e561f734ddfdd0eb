//! The processes of a run, the lines and fronts between them and the services, and how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use eventkit::config::Endpoint;
use eventkit::queue::pubsub::PubSubOptions;
use http::Method;
use tokio::time::{Instant, sleep};

use super::back::{Back, Bucket, Kind};
use super::front::Front;
use super::line::Line;
use super::tables::Tables;
use crate::load::Load;
use crate::scenario::Stage;
use crate::support::clients::Http;
use crate::support::emulators;
use crate::support::gateway::{Endpoints, Gateway, START_TIMEOUT, Written};

/// The project of everything but Firestore, where each run has its own.
const PROJECT: &str = "eventkit-test";

mod finish;

/// What carries batches to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// One process.
    InProcess,
    /// Processes of their own.
    PubSub,
}

/// What a run consists of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) queue: Queue,
    pub(super) kind: Kind,
    /// Of the processes.
    pub(super) roles: Vec<&'static str>,
}

impl Plan {
    /// One process of each role that there is something to do for.
    pub(super) fn new(queue: Queue, kind: Kind) -> Self {
        let roles = match (queue, kind) {
            (Queue::InProcess, _) => vec!["all"],
            (Queue::PubSub, Kind::Local | Kind::BigQuery) => vec!["gateway", "worker", "loader"],
            (Queue::PubSub, Kind::Gcs | Kind::Firestore) => vec!["gateway", "worker"],
        };
        Self { queue, kind, roles }
    }

    /// How it is called.
    pub(super) fn name(&self) -> String {
        let queue = match self.queue {
            Queue::InProcess => "async",
            Queue::PubSub => "pubsub",
        };
        format!("{queue}_{}", self.kind.name())
    }

    /// Clients that are no faster than the emulators.
    pub(super) fn load(&self, stage: &Stage) -> Load {
        let mut load = Load::paced(stage, self.pace());
        if self.kind == Kind::BigQuery {
            // The emulator shows a table without its columns while it is being made, which one loader meets when another one, or one that
            // was killed, makes it.
            load.allow_alarm("is not an eventkit warehouse");
        }
        load
    }

    /// The least time between two requests of a client.
    pub(super) fn pace(&self) -> Duration {
        Duration::from_millis(match self.kind {
            Kind::Local | Kind::Gcs => 60,
            Kind::Firestore => 1_000,
            Kind::BigQuery => 2_000,
        })
    }
}

/// One process.
#[derive(Debug)]
struct Part {
    role: &'static str,
    running: Option<(Gateway, Endpoints)>,
}

impl Part {
    fn takes_in(&self) -> bool {
        matches!(self.role, "all" | "gateway")
    }
}

/// All of it. What runs is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Set {
    stage: Stage,
    plan: Plan,
    settings: BTreeMap<&'static str, String>,
    parts: Vec<Part>,
    pub(super) back: Back,
    /// The line to Pub/Sub.
    pub(super) pubsub: Option<Line>,
    /// Pub/Sub itself, past the line.
    pub(super) options: Option<PubSubOptions>,
    /// What stands before Cloud Storage.
    pub(super) storage: Option<Front>,
    /// What stands before BigQuery.
    pub(super) bigquery: Option<Front>,
    /// The line to Firestore.
    pub(super) firestore: Option<Line>,
    peaks_kib: BTreeMap<&'static str, u64>,
    kills: u64,
    /// Topics behind the first, to be forgotten with it.
    more: Vec<PubSubOptions>,
    /// What each process that ever stored something says it wrote.
    written: Vec<Written>,
    /// Whether nothing may appear behind a later one of its lane, whoever stored that.
    pub(super) strict_order: bool,
    /// Whether order is not promised, but that it was not kept is counted.
    pub(super) counted_order: bool,
    /// Whether batches are damaged on their way: offsets then have error rows that name no event.
    pub(super) damaged: bool,
}

impl Set {
    /// Everything but the processes; `None` where an emulator is missing, which is listed.
    pub(super) async fn make(stage: &Stage, plan: Plan) -> Result<Option<Self>> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let mut set = Self {
            stage: stage.clone(),
            parts: Vec::new(),
            settings: common(),
            back: Back::Local(stage.clone()),
            pubsub: None,
            options: None,
            storage: None,
            bigquery: None,
            firestore: None,
            peaks_kib: BTreeMap::new(),
            kills: 0,
            more: Vec::new(),
            written: Vec::new(),
            strict_order: false,
            counted_order: false,
            damaged: false,
            plan,
        };
        let parts = set.plan.roles.iter();
        set.parts = parts
            .map(|&role| Part {
                role,
                running: None,
            })
            .collect();
        if set.plan.queue == Queue::PubSub && !set.add_pubsub(&name).await? {
            return Ok(None);
        }
        let is_there = match set.plan.kind {
            Kind::Local => true,
            Kind::Gcs => set.add_storage(&name).await?,
            Kind::BigQuery => set.add_storage(&name).await? && set.add_bigquery(&name).await?,
            Kind::Firestore => set.add_firestore(&name).await?,
        };
        Ok(is_there.then_some(set))
    }

    async fn add_pubsub(&mut self, name: &str) -> Result<bool> {
        let Some(url) = emulators::pubsub() else {
            return Ok(false);
        };
        let line = Line::to(&url).await?;
        let options = PubSubOptions {
            project: PROJECT.to_owned(),
            topic: format!("topic-{name}"),
            subscription: format!("workers-{name}"),
            create: true,
            retention: Duration::from_secs(7 * 86_400),
            verify_every: Duration::from_secs(1),
            endpoint: Endpoint::emulator(&url),
        };
        self.set("EVENTKIT_QUEUE_MODE", "pubsub");
        self.set("PUBSUB_EMULATOR_HOST", line.url());
        self.set("EVENTKIT_PUBSUB_TOPIC", &options.topic);
        self.set("EVENTKIT_PUBSUB_SUBSCRIPTION", &options.subscription);
        self.set("EVENTKIT_PUBSUB_VERIFY_INTERVAL", "1");
        (self.pubsub, self.options) = (Some(line), Some(options));
        Ok(true)
    }

    async fn add_storage(&mut self, name: &str) -> Result<bool> {
        let Some(url) = emulators::storage() else {
            return Ok(false);
        };
        let bucket = format!("chaos-{name}");
        self.back = Back::Gcs(Bucket::make(&url, &bucket).await?);
        let front = Front::before(&url).await?;
        self.set("EVENTKIT_EVENT_STORE", "gcs");
        self.set("GCP_GCS_BUCKET", bucket);
        self.set("STORAGE_EMULATOR_HOST", front.url());
        self.set("EVENTKIT_WAREHOUSE_ENABLED", "false");
        self.storage = Some(front);
        Ok(true)
    }

    async fn add_bigquery(&mut self, name: &str) -> Result<bool> {
        let Some(url) = emulators::bigquery() else {
            return Ok(false);
        };
        let front = Front::before(&url).await?;
        let tables = Tables {
            url,
            project: PROJECT.to_owned(),
            dataset: format!("chaos_{name}"),
        };
        self.set("EVENTKIT_WAREHOUSE_ENABLED", "true");
        self.set("EVENTKIT_WAREHOUSE_LOADER_INTERVAL", "1");
        self.set("BIGQUERY_EMULATOR_HOST", front.url());
        self.set("GCP_BIGQUERY_DATASET", &tables.dataset);
        self.set("GCP_BIGQUERY_TABLE", "events");
        let back = std::mem::replace(&mut self.back, Back::Local(self.stage.clone()));
        if let Back::Gcs(bucket) = back {
            self.back = Back::BigQuery(bucket, tables);
        }
        self.bigquery = Some(front);
        Ok(true)
    }

    async fn add_firestore(&mut self, name: &str) -> Result<bool> {
        let Some(url) = emulators::firestore() else {
            return Ok(false);
        };
        let project = format!("chaos-{name:.20}");
        let line = Line::to(&url).await?;
        self.set("EVENTKIT_EVENT_STORE", "firestore");
        self.set("GCP_PROJECT_ID", &project);
        self.set("FIRESTORE_EMULATOR_HOST", line.url());
        if let Some(options) = &mut self.options {
            options.project.clone_from(&project);
        }
        self.back = Back::Firestore { url, project };
        self.firestore = Some(line);
        Ok(true)
    }

    /// A setting of every process that is started from now on.
    pub(super) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.settings.insert(name, value.to_string());
    }

    /// Another topic of this run, with its subscription: gone with it.
    pub(super) fn forget_also(&mut self, options: PubSubOptions) {
        self.more.push(options);
    }

    /// How many processes there are.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The first process of a role.
    pub(super) fn place(&self, role: &str) -> Result<usize> {
        let place = self.parts.iter().position(|part| part.role == role);
        place.with_context(|| format!("no {role}"))
    }

    /// Starts a process and does not wait for anything.
    pub(super) fn spawn(&mut self, at: usize) -> Result<Gateway> {
        let part = self.part(at)?;
        let mut settings: Vec<(String, String)> = self
            .settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        settings.push(("EVENTKIT_ROLE".to_owned(), part.role.to_owned()));
        // What workers and loaders share is a directory; a gateway's log is its own.
        let below = match part.role {
            "gateway" => format!("front-{at}"),
            _ => String::new(),
        };
        let process = self.stage.serve(&below, &settings)?;
        self.written.push(process.written());
        Ok(process)
    }

    /// Starts a process and waits until it is ready.
    pub(super) async fn start(&mut self, at: usize, load: &Load) -> Result<()> {
        let mut process = self.spawn(at)?;
        let role = self.part(at)?.role;
        let endpoints = process.ready(START_TIMEOUT).await.context(role)?;
        let part = self.parts.get_mut(at).context("no such process")?;
        if part.takes_in() {
            load.up(&endpoints);
        }
        part.running = Some((process, endpoints));
        Ok(())
    }

    /// Starts all of them.
    pub(super) async fn start_all(&mut self, load: &Load) -> Result<()> {
        for at in 0..self.len() {
            self.start(at, load).await?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, at: usize, load: &mut Load) -> Result<()> {
        self.note_peak(at)?;
        let part = self.parts.get_mut(at).context("no such process")?;
        let (process, _) = part.running.take().context("it does not run")?;
        let alarms = process.kill().await.context(part.role)?;
        if part.takes_in() {
            load.down(alarms);
        } else {
            load.heard(alarms);
        }
        self.kills += 1;
        Ok(())
    }

    /// A process that runs.
    pub(super) fn running(&self, at: usize) -> Result<&(Gateway, Endpoints)> {
        let part = self.part(at)?;
        let running = part.running.as_ref();
        running.with_context(|| format!("{} does not run", part.role))
    }

    /// Waits until so many more events have arrived than now.
    pub(super) async fn grows(&mut self, by: u64, within: Duration) -> Result<()> {
        let (from, began) = (self.back.arrived().await?.0, Instant::now());
        loop {
            let (now, _) = self.back.arrived().await?;
            if now >= from + by {
                return Ok(());
            }
            if began.elapsed() > within {
                let come = now.saturating_sub(from);
                bail!("{come} of {by} events arrived within {within:?}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a process says at `/metrics`.
    pub(super) async fn metrics(&self, at: usize) -> Result<String> {
        let http = Http::at(&self.running(at)?.1.admin);
        let answer = http.exchange(Method::GET, "/metrics", Bytes::new()).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// The value of a process's metric, all its labels together.
    pub(super) async fn value(&self, at: usize, metric: &str) -> Result<f64> {
        let metrics = self.metrics(at).await?;
        let values = metrics.lines().filter_map(|line| {
            let labels = line.strip_prefix(metric)?;
            let value = line.rsplit(' ').next()?;
            labels.starts_with([' ', '{']).then(|| value.parse::<f64>())
        });
        let values: Vec<f64> = values.collect::<Result<_, _>>()?;
        anyhow::ensure!(!values.is_empty(), "no metric {metric}");
        Ok(values.iter().sum())
    }

    fn part(&self, at: usize) -> Result<&Part> {
        self.parts.get(at).context("no such process")
    }

    fn note_peak(&mut self, at: usize) -> Result<()> {
        let role = self.part(at)?.role;
        let held = self.running(at)?.0.held()?;
        let peak = self.peaks_kib.entry(role).or_default();
        *peak = held.peak_kib.max(*peak);
        Ok(())
    }

    fn peaks(&self) -> String {
        let peaks = self.peaks_kib.iter();
        let texts: Vec<String> = peaks
            .map(|(role, kib)| format!("{role} {} MiB", kib >> 10))
            .collect();
        texts.join(", ")
    }
}

/// Small batches, often: there is much to be killed in the middle of.
fn common() -> BTreeMap<&'static str, String> {
    [
        ("EVENTKIT_EVENT_STORE", "local"),
        ("GCP_PROJECT_ID", PROJECT),
        ("EVENTKIT_EVENTLOADER_BATCH_SIZE", "500"),
        ("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.3"),
        ("EVENTKIT_WAREHOUSE_LOADER_INTERVAL", "0.2"),
        ("EVENTKIT_ALLOW_VOLATILE_LOG", "true"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}
