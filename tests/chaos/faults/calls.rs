//! SIGKILL at every call that changes something on disk, one after the other: a scripted run, from an empty directory until
//! its rows are in the warehouse and the process has ended, is repeated with death at another of its calls each time. That
//! includes every two steps of the loader, the store's dance of file, link, folder and marker, and the making of the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::SOON;
use super::script::{Heard, Script};
use crate::scenario::{Scenario, Stage};
use crate::support::gateway::{Endpoints, Gateway, START_TIMEOUT};
use crate::support::shim::{Fault, Faults, Rule, on};
use crate::support::{oracle, warehouse};

/// Runs side by side: most of a run is waiting.
const ABREAST: usize = 4;

pub(super) fn scenarios() -> Vec<Scenario> {
    let name = "faults::a_kill_at_each_call";
    Scenario::on_both(name, each).into()
}

/// One run to count the calls, then one for each of them, or for a spread of them.
async fn each(stage: Stage) -> Result<()> {
    let run = Run::new(&stage, "counted", (0, Fault::Count))?;
    let calls = run.play().await.context("the run without a kill")?.calls;
    let runs = calls.min(stage.pick(24, 300));
    let abreast = Arc::new(Semaphore::new(ABREAST));
    let mut playing = JoinSet::new();
    for number in 0..runs {
        // Spread over the whole run; the seed shifts the spread.
        let spread = calls * number / runs;
        let call = 1 + (spread + stage.settings.seed % (calls / runs).max(1)) % calls;
        let faults = [Fault::KillBefore, Fault::KillHalf, Fault::KillAfter];
        let fault = faults
            .into_iter()
            .cycle()
            .nth(usize::try_from((number + stage.settings.seed) % 3)?)
            .unwrap_or(Fault::KillBefore);
        let (stage, abreast) = (stage.clone(), Arc::clone(&abreast));
        playing.spawn(async move {
            let _turn = abreast.acquire_owned().await?;
            killed(&stage, number, (call, fault)).await
        });
    }
    let mut died: BTreeMap<String, u64> = BTreeMap::new();
    let (mut missed, mut unanswered) = (0, 0);
    while let Some(played) = playing.join_next().await {
        let played = played??;
        unanswered += played.unanswered;
        match played.died {
            Some(place) => *died.entry(place).or_default() += 1,
            None => missed += 1,
        }
    }
    let kills: u64 = died.values().sum();
    let places: Vec<String> = died.iter().map(|(at, n)| format!("{n} × {at}")).collect();
    stage.say(&places.join(", "));
    stage.figure(&format!(
        "{kills} kills at calls of a run that makes {calls} ({missed} runs ended before their call); {unanswered} requests unanswered"
    ))?;
    // How often threads meet differs from run to run, so the last calls are not made in each.
    ensure!(
        kills * 10 >= runs * 8,
        "only {kills} of {runs} runs were killed"
    );
    ensure!(unanswered > 0, "no kill met a request");
    Ok(())
}

/// Plays a run with a kill. One that made so few calls that it ended before that is played once more, with a kill well within what it
/// made: how often threads meet differs from run to run, on a busy machine by more than a few calls.
async fn killed(stage: &Stage, number: u64, (call, fault): (u64, Fault)) -> Result<Played> {
    let play = async |name: &str, call: u64| {
        let run = Run::new(stage, name, (call, fault))?;
        let what = format!("{fault:?} at call {call}");
        run.play().await.context(what)
    };
    let played = play(&number.to_string(), call).await?;
    if played.died.is_some() {
        return Ok(played);
    }
    let again = play(&format!("{number}-again"), (played.calls / 4 * 3).max(1)).await?;
    Ok(Played {
        unanswered: played.unanswered + again.unanswered,
        ..again
    })
}

/// One run of the script.
struct Run {
    stage: Stage,
    faults: Faults,
}

/// What became of it.
struct Played {
    calls: u64,
    died: Option<String>,
    unanswered: u64,
}

impl Run {
    fn new(stage: &Stage, name: &str, (call, fault): (u64, Fault)) -> Result<Self> {
        let mut stage = stage.clone();
        stage.dir = stage.dir.join(format!("run-{name}"));
        std::fs::create_dir_all(&stage.dir)?;
        stage.set("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL", "0.03");
        stage.set("EVENTKIT_LANES", "2");
        let faults = super::preload(&mut stage)?;
        let rule = Rule::new(fault, on::CHANGES, &stage.dir);
        let times = u64::from(fault != Fault::Count);
        faults.set(0, &rule.calls(call.max(1), times))?;
        Ok(Self { stage, faults })
    }

    async fn play(mut self) -> Result<Played> {
        let mut script = Script::new(&self.stage, "script");
        let mut gateway = self.stage.spawn()?;
        let alarms = match self.first_life(&mut gateway, &mut script).await {
            Ok(()) if self.faults.died()?.is_none() => {
                let ended = gateway.terminate(SOON).await?;
                let by_itself = ended.status.code() == Some(0) || self.faults.died()?.is_some();
                ensure!(by_itself, "ended with {}\n{}", ended.status, ended.said);
                ended.alarms
            }
            Err(error) if self.faults.died()?.is_none() => return Err(error),
            _ => gateway.kill().await?,
        };
        ensure!(alarms.is_empty(), "alarms: {alarms:?}");
        let (calls, died) = (self.faults.seen(0)?, self.faults.died()?);
        if died.is_some() {
            script.restarted();
            let second = self.second_life(&mut script).await;
            second
                .with_context(|| format!("after death at {}", died.clone().unwrap_or_default()))?;
        }
        self.judge(&script)?;
        std::fs::remove_dir_all(&self.stage.dir)?;
        Ok(Played {
            calls,
            died: died.map(|place| self.place(&place)),
            unanswered: script.ledger().unanswered_requests,
        })
    }

    /// A few requests on both doors, and everything in the warehouse.
    async fn first_life(&self, gateway: &mut Gateway, script: &mut Script) -> Result<()> {
        let endpoints = gateway.ready(START_TIMEOUT).await?;
        for (http, events) in [(true, 3), (false, 2), (true, 12), (false, 4)] {
            send(script, &endpoints, http, events).await?;
            if self.faults.died()?.is_some() {
                return Ok(());
            }
            self.arrive(script).await?;
        }
        Ok(())
    }

    /// Without faults: what was not answered is sent again, and one thing more.
    async fn second_life(&mut self, script: &mut Script) -> Result<()> {
        super::unload(&mut self.stage);
        self.faults.off(0)?;
        self.faults.revive()?;
        let (gateway, endpoints) = self.stage.start().await?;
        let again = script.again(&endpoints).await?;
        ensure!(again == Heard::Outcomes, "the repeat: {again:?}");
        let more = script.http(&endpoints, 2).await?;
        ensure!(more == Heard::Outcomes, "one request more: {more:?}");
        self.arrive(script).await?;
        let ended = gateway.terminate(SOON).await?;
        ensure!(
            ended.status.code() == Some(0) && ended.alarms.is_empty(),
            "ended with {}\n{}",
            ended.status,
            ended.said
        );
        Ok(())
    }

    /// Waits until everything that was acknowledged is in the warehouse, or the process has died.
    async fn arrive(&self, script: &Script) -> Result<()> {
        let began = Instant::now();
        while self.faults.died()?.is_none() {
            let (events, errors) = warehouse::counts(&self.stage.dir);
            let rows = usize::try_from(events + errors)?;
            if rows >= script.acknowledged() && warehouse::inbox_len(&self.stage.dir) == 0 {
                return Ok(());
            }
            if began.elapsed() > SOON {
                bail!("{rows} rows of {} events", script.acknowledged());
            }
            sleep(Duration::from_millis(15)).await;
        }
        Ok(())
    }

    fn judge(&self, script: &Script) -> Result<()> {
        let found = warehouse::read(&self.stage.dir)?;
        let (_, violations) = oracle::judge(script.ledger(), &found);
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        ensure!(lines.is_empty(), "broken promises: {}", lines.join("\n"));
        Ok(())
    }

    /// The place of a death without what differs from run to run.
    fn place(&self, died: &str) -> String {
        let (operation, path) = died.split_once(" of ").unwrap_or((died, ""));
        let kinds = [
            ("/inbox/", "a marker"),
            ("/manifests/", "a manifest"),
            ("/store/tmp/", "a temporary file"),
            (".parquet", "an object"),
            ("/store", "a folder of the store"),
            ("/warehouse.db", "the warehouse"),
            ("/wal.", "a file beside the log"),
            ("/wal", "the log"),
            ("", "the data directory"),
        ];
        let kind = kinds.iter().find(|(part, _)| path.contains(part));
        format!("{operation} of {}", kind.map_or(path, |(_, kind)| kind))
    }
}

async fn send(script: &mut Script, to: &Endpoints, http: bool, events: usize) -> Result<Heard> {
    if http {
        script.http(to, events).await
    } else {
        script.grpc(to, events).await
    }
}
