//! The load of a scenario: clients on every door, the ledger of what they sent and heard, and the judgement.
//!
//! A scenario starts the load, tells it where a gateway is ([`Load::up`]) and that it is gone ([`Load::down`]) as often as it
//! likes, and ends with [`Load::finish`], or with the steps of which that consists.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::scenario::Stage;
use crate::support::gateway::{Endpoints, Gateway};
use crate::support::ledger::Ledger;
use crate::support::warehouse::Found;
use crate::support::{clients, oracle, warehouse};

mod client;
mod streams;

use client::{Client, Door};

/// Who sends. Every second one of them repeats what was not answered.
const DOORS: [Door; 18] = [
    Door::HttpSingle,
    Door::HttpSingle,
    Door::HttpBatch,
    Door::HttpBatch,
    Door::Grpc,
    Door::Grpc,
    Door::Segment,
    Door::Segment,
    Door::ClientStream,
    Door::ClientStream,
    Door::Bidi,
    Door::Bidi,
    Door::HttpSingle,
    Door::HttpBatch,
    Door::Grpc,
    Door::Segment,
    Door::ClientStream,
    Door::Bidi,
];

/// Less than what ends a request underneath, so that it is counted.
const PATIENCE: Duration = clients::ANSWER_TIMEOUT.saturating_sub(Duration::from_secs(1));
/// The least time between two requests of a client: kills should meet many requests, not a saturated machine.
const PACE: Duration = Duration::from_millis(20);
/// How long the clients may take to settle what is open, after the last restart.
const SETTLE_WITHIN: Duration = Duration::from_secs(90);
/// How long the pipeline may take to bring the backlog into the warehouse.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
/// How many faults in answers are kept for the report.
const WRONG_MAX: usize = 1_000;
/// How many faults of a kind a report lists; the rest would only repeat them.
const LISTED_MAX: usize = 20;

/// What the clients know of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// It is being restarted.
    Down,
    /// It is up.
    Up(Endpoints),
    /// It is up, and will stay so until every client has settled what it still wants to know.
    Last(Endpoints),
}

/// What all clients write to.
#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    wrong: Mutex<Vec<String>>,
    /// Requests that were refused with a time to come back.
    shed: AtomicU64,
    /// How long a client waits for an answer.
    patience: Duration,
    /// Requests for which that was not long enough, though the gateway that they were sent to was there all the time.
    timeouts: AtomicU64,
    /// The least time between two requests of a client.
    pace: Duration,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client gave up waiting for an answer.
    fn waited_in_vain(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers that no gateway may give, whatever happened to it.
    fn wrong(&self) -> MutexGuard<'_, Vec<String>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_wrong(&self, what: String) {
        let mut wrong = self.wrong();
        if wrong.len() < WRONG_MAX {
            wrong.push(what);
        }
    }
}

/// What was compared in the end; a scenario asserts what makes its run worth something.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) tally: oracle::Tally,
    /// Answers "duplicate".
    pub(crate) duplicates: u64,
    /// Requests without a usable answer.
    pub(crate) unanswered_requests: u64,
    /// Requests whose client gave up waiting for a gateway that was there all the time.
    pub(crate) timeouts: u64,
}

/// Clients that send until they are told to settle.
#[derive(Debug)]
pub(crate) struct Load {
    stage: Stage,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    clients: JoinSet<()>,
    alarms: Vec<String>,
    /// Events of the log (its field `event` or `message`) at level "error" that the scenario brings about, and how often each was seen.
    expected: BTreeMap<&'static str, u64>,
    began: Instant,
}

impl Load {
    /// Starts the clients; they wait for a gateway.
    pub(crate) fn start(stage: &Stage) -> Self {
        Self::with(stage, PATIENCE, PACE)
    }

    /// More clients, of other names, for another gateway beside the first.
    pub(crate) fn beside(stage: &Stage, pace: Duration) -> Self {
        Self::numbered(stage, (PATIENCE, pace), DOORS.len())
    }

    /// The same with clients that send no faster than this, for back ends that are slower than the gateway.
    pub(crate) fn paced(stage: &Stage, pace: Duration) -> Self {
        Self::with(stage, PATIENCE, pace)
    }

    /// The same with clients that wait for an answer only so long.
    pub(crate) fn with_patience(stage: &Stage, patience: Duration) -> Self {
        Self::with(stage, patience, PACE)
    }

    fn with(stage: &Stage, patience: Duration, pace: Duration) -> Self {
        Self::numbered(stage, (patience, pace), 0)
    }

    fn numbered(stage: &Stage, (patience, pace): (Duration, Duration), from: usize) -> Self {
        let from = u64::try_from(from).unwrap_or(u64::MAX);
        let shared = Arc::new(Shared {
            ledger: Mutex::default(),
            wrong: Mutex::default(),
            shed: AtomicU64::new(0),
            patience,
            timeouts: AtomicU64::new(0),
            pace,
        });
        let (phase, phases) = watch::channel(Phase::Down);
        let mut clients = JoinSet::new();
        for (number, door) in (from..).zip(DOORS) {
            clients.spawn(Client::new(number, door, stage.settings.seed, &shared, &phases).run());
        }
        Self {
            stage: stage.clone(),
            shared,
            phase,
            clients,
            alarms: Vec::new(),
            expected: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// A gateway is up.
    pub(crate) fn up(&self, endpoints: &Endpoints) {
        self.phase.send_replace(Phase::Up(endpoints.clone()));
    }

    /// The gateway is gone. `alarms` is what it said at level "error" ([`Gateway::kill`], `Ended::alarms`).
    pub(crate) fn down(&mut self, alarms: Vec<String>) {
        self.phase.send_replace(Phase::Down);
        self.alarms.extend(alarms);
        self.shared.ledger().incarnation += 1;
    }

    /// Another process than the gateway ended, and said this at level "error".
    pub(crate) fn heard(&mut self, alarms: Vec<String>) {
        self.alarms.extend(alarms);
    }

    /// This line of the log at level "error" is what the scenario wants to see.
    pub(crate) fn expect_alarm(&mut self, name: &'static str) {
        self.expected.entry(name).or_default();
    }

    /// This line of the log at level "error" may be seen or not.
    pub(crate) fn allow_alarm(&mut self, name: &'static str) {
        self.expected.entry(name).or_insert(1);
    }

    /// What somebody else sent to the same gateways and heard from them is judged as well.
    pub(crate) fn adopt(&self, ledger: Ledger) {
        self.shared.ledger().adopt(ledger);
    }

    /// What was sent and heard: for a scenario that sends something of its own.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// How many events were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        let ledger = self.shared.ledger();
        let acknowledged = ledger.obligations().filter(|event| event.acknowledged());
        u64::try_from(acknowledged.count()).unwrap_or(u64::MAX)
    }

    /// Every answer "accepted" or "duplicate" so far: grows while the gateway answers.
    pub(crate) fn answers(&self) -> u64 {
        let ledger = self.shared.ledger();
        ledger.answers.accepted + ledger.answers.duplicate
    }

    /// Every answer "duplicate" so far.
    pub(crate) fn duplicates(&self) -> u64 {
        self.shared.ledger().answers.duplicate
    }

    /// How many requests were refused with a time to come back so far.
    pub(crate) fn shed(&self) -> u64 {
        self.shared.shed.load(Ordering::Relaxed)
    }

    /// Waits until the number that `of` reads has grown by `by`.
    pub(crate) async fn grows(
        &self,
        of: fn(&Self) -> u64,
        by: u64,
        within: Duration,
    ) -> Result<()> {
        let (from, began) = (of(self), Instant::now());
        while of(self) < from.saturating_add(by) {
            if began.elapsed() > within {
                bail!(
                    "{} of {by} within {within:?}",
                    of(self).saturating_sub(from)
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Settles on this gateway, drains, ends it, and judges.
    pub(crate) async fn finish(
        mut self,
        gateway: Gateway,
        endpoints: &Endpoints,
    ) -> Result<Verdict> {
        self.settle(endpoints).await?;
        let drained = self.drained(DRAIN_WITHIN).await;
        let ended = gateway.terminate(DRAIN_WITHIN).await?;
        self.alarms.extend(ended.alarms);
        if ended.status.code() != Some(0) {
            bail!("SIGTERM ended with {}\n{}", ended.status, ended.said);
        }
        self.stage.say(&format!(
            "the last backlog was in the warehouse {}",
            drained.map_or("NOT IN TIME".to_owned(), |took| format!("after {took:.1?}"))
        ));
        self.judge()
    }

    /// Waits until every client has heard what it wants to know; this gateway has to live until then.
    pub(crate) async fn settle(&mut self, endpoints: &Endpoints) -> Result<()> {
        self.phase.send_replace(Phase::Last(endpoints.clone()));
        let settled = async {
            while self.clients.join_next().await.transpose()?.is_some() {}
            Ok::<_, anyhow::Error>(())
        };
        timeout(SETTLE_WITHIN, settled)
            .await
            .context(
                "clients that repeat what was not answered got no answer from the last gateway",
            )?
            .context("a client panicked")
    }

    /// Waits until every acknowledged event could be in the warehouse and the inbox is empty. Another process brings them
    /// there, so the only way to know is to look. What is missing in the end is the oracle's to say.
    pub(crate) async fn drained(&self, within: Duration) -> Option<Duration> {
        let acknowledged = self.acknowledged();
        let began = Instant::now();
        while began.elapsed() < within {
            let (events, errors) = warehouse::counts(&self.stage.dir);
            if events + errors >= acknowledged && warehouse::inbox_len(&self.stage.dir) == 0 {
                return Some(began.elapsed());
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }

    /// Judges what lies in the warehouse, prints the figures, and fails on anything that should not be.
    pub(crate) fn judge(self) -> Result<Verdict> {
        let found = warehouse::read(&self.stage.dir)?;
        self.judge_found(&found)
    }

    /// The same for what was found elsewhere.
    pub(crate) fn judge_found(mut self, found: &Found) -> Result<Verdict> {
        let ledger = self.shared.ledger();
        let (tally, violations) = oracle::judge(&ledger, found);
        let answers = &ledger.answers;
        self.stage.figure(&format!(
            "{} events sent, {} acknowledged, {} rejected, {} never answered ({} of them stored) · {} requests unanswered, {} of them shed; {} answers duplicate · {} rows, {} error rows, {} objects · {:.0?}",
            tally.sent,
            tally.acknowledged,
            tally.rejected,
            tally.unanswered,
            tally.unanswered_but_stored,
            ledger.unanswered_requests,
            self.shed(),
            answers.duplicate,
            tally.rows,
            tally.error_rows,
            tally.objects,
            self.began.elapsed()
        ))?;
        for alarm in std::mem::take(&mut self.alarms) {
            let expected = self
                .expected
                .iter_mut()
                .find(|(name, _)| alarm.contains(**name));
            match expected {
                Some((_, seen)) => *seen += 1,
                None => self.alarms.push(alarm),
            }
        }
        let unseen = self.expected.iter().filter(|(_, seen)| **seen == 0);
        let unseen = unseen.map(|(name, _)| format!("nothing in the logs about {name}"));
        let wrong: Vec<String> = self.shared.wrong().iter().cloned().chain(unseen).collect();
        let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
        for lines in [&violations, &wrong, &self.alarms] {
            for line in lines.iter().take(LISTED_MAX) {
                self.stage.say(line);
            }
        }
        let [broken, wrong, alarms] = [&violations, &wrong, &self.alarms].map(Vec::len);
        if broken + wrong + alarms > 0 {
            bail!(
                "{broken} broken promises, {wrong} wrong answers, {alarms} alarms in the logs ({LISTED_MAX} of each are listed)"
            );
        }
        // Of a few events there may be none.
        let has_all_kinds = tally.rejected > 0 && tally.error_rows > 0;
        if tally.acknowledged == 0 || tally.acknowledged >= 1_000 && !has_all_kinds {
            bail!("a figure above is 0: the load did not meet the fault, and nothing was proved");
        }
        Ok(Verdict {
            duplicates: answers.duplicate,
            unanswered_requests: ledger.unanswered_requests,
            timeouts: self.shared.timeouts.load(Ordering::Relaxed),
            tally,
        })
    }
}
