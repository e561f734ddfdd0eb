//! Kills the real binary with SIGKILL at random moments under concurrent load on every door, restarts it on the same
//! directory, and lets the oracle compare what the clients were told with what became of it. A round for each log engine.
//!
//! `EVENTKIT_CRASH_KILLS` (22, 12 of them on sled and 10 on SQLite; other numbers are shared out alike),
//! `EVENTKIT_CRASH_SEED` (random, printed) and `EVENTKIT_BIN` (the binary cargo built) steer it. One kill in four meets a gateway that is still starting, recovery included. A failed run keeps its directory.

#[path = "../support/support.rs"]
mod support;

mod events;
mod load;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::load::{Client, Door, Phase, Shared};
use crate::support::gateway::{self, Gateway, setting};
use crate::support::ledger::Answers;
use crate::support::{oracle, warehouse};

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

type Settings = &'static [(&'static str, &'static str)];

/// A log so small that trimming goes on all the time, and yet remembers the last request of every client.
const SLED: Settings = &[("EVENTKIT_RING_BUFFER_MAX_SIZE", "10000"), gateway::SLED];
/// The same on the other engine.
const SQLITE: Settings = &[("EVENTKIT_RING_BUFFER_MAX_SIZE", "10000"), gateway::SQLITE];

/// How long a gateway lives at most under load, in milliseconds.
const LIFE_MS_MAX: u64 = 3_000;
/// How long the clients may take to settle what is open, after the last restart.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// How long the pipeline may take to bring the backlog into the warehouse.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);

/// How many faults of a kind a report lists; the rest would only repeat them.
const LISTED_MAX: usize = 20;

/// A line for the log of the run.
fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("write to stdout");
}

/// A number from a setting.
fn number(name: &str, default: u64) -> Result<u64> {
    setting(name).map_or(Ok(default), |text| {
        text.parse()
            .with_context(|| format!("{name}={text} is not a number"))
    })
}

fn main() -> ExitCode {
    // What cargo passes to every test binary: a name to look for, or a wish for a list.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        say("kill_nine_loses_and_repeats_nothing: test");
        return ExitCode::SUCCESS;
    }
    let wanted = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .all(|name| "kill_nine_loses_and_repeats_nothing".contains(name.as_str()));
    if !wanted {
        say("0 passed, 0 failed, 1 skipped");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => {
            say("1 passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("crash: FAILED: {error:#}"));
            say("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let kills = number("EVENTKIT_CRASH_KILLS", 22)?;
    let seed = number("EVENTKIT_CRASH_SEED", u64::from(rand::random::<u32>()))?;
    let on_sled = (kills * 12).div_ceil(22);
    say(&format!("crash: seed {seed}, {kills} kills"));
    for (engine, settings, kills) in [("sled", SLED, on_sled), ("sqlite", SQLITE, kills - on_sled)]
    {
        if kills > 0 {
            round(engine, settings, (seed, kills))
                .with_context(|| format!("the log on {engine}"))?;
        }
    }
    Ok(())
}

/// One engine's kills, on a directory of its own.
fn round(engine: &str, settings: Settings, (seed, kills): (u64, u64)) -> Result<()> {
    say(&format!(
        "crash: {engine}: {kills} kills, {} clients",
        DOORS.len()
    ));
    let dir = tempfile::Builder::new()
        .prefix("eventkit-crash-")
        .tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(crash(dir.path(), settings, (seed, kills)));
    if result.is_err() {
        say(&format!(
            "crash: data kept in {}; again with the same EVENTKIT_CRASH_SEED and EVENTKIT_CRASH_KILLS",
            dir.keep().display()
        ));
    }
    result
}

/// The whole run.
async fn crash(dir: &Path, settings: Settings, (seed, kills): (u64, u64)) -> Result<()> {
    let began = Instant::now();
    let shared = Arc::new(Shared::default());
    let (phase, phases) = watch::channel(Phase::Down);
    let mut clients = JoinSet::new();
    for (number, door) in (0..).zip(DOORS) {
        clients.spawn(Client::new(number, door, seed, &shared, &phases).run());
    }

    let mut alarms = kill_again_and_again((dir, settings), (seed, kills), &shared, &phase).await?;

    let (gateway, endpoints) = Gateway::start(dir, settings).await?;
    phase.send_replace(Phase::Last(endpoints));
    let settled = async {
        while clients.join_next().await.transpose()?.is_some() {}
        Ok::<_, anyhow::Error>(())
    };
    timeout(SETTLE_WITHIN, settled)
        .await
        .context("clients that repeat what was not answered got no answer from the last gateway")?
        .context("a client panicked")?;
    let drained = drained(dir, &shared).await;
    let ended = gateway.terminate(DRAIN_WITHIN).await?;
    alarms.extend(ended.alarms);
    if ended.status.code() != Some(0) {
        bail!("SIGTERM ended with {}\n{}", ended.status, ended.said);
    }
    say(&format!(
        "crash: the last backlog was in the warehouse {}",
        drained.map_or("NOT IN TIME".to_owned(), |took| format!("after {took:?}"))
    ));
    report(dir, &shared, &alarms, began.elapsed())
}

/// Start, load, kill; now and then kill a gateway that is still starting. Returns the alarms in the logs.
async fn kill_again_and_again(
    (dir, settings): (&Path, Settings),
    (seed, kills): (u64, u64),
    shared: &Shared,
    phase: &watch::Sender<Phase>,
) -> Result<Vec<String>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut alarms = Vec::new();
    let mut start_up = Duration::from_millis(100);
    let (mut under_load, mut starting) = (0, 0);
    for kill in 0..kills {
        let gateway = if kill > 0 && rng.random_range(0..4) == 0 {
            let gateway = Gateway::spawn(dir, settings)?;
            starting += 1;
            sleep(start_up.mul_f64(rng.random_range(0.0..1.2))).await;
            gateway
        } else {
            let began = Instant::now();
            let (gateway, endpoints) = Gateway::start(dir, settings)
                .await
                .with_context(|| format!("restart after {kill} kills"))?;
            start_up = began.elapsed();
            under_load += 1;
            phase.send_replace(Phase::Up(endpoints));
            sleep(Duration::from_millis(rng.random_range(20..LIFE_MS_MAX))).await;
            gateway
        };
        let said = gateway.kill().await;
        phase.send_replace(Phase::Down);
        alarms.extend(said.with_context(|| format!("kill {}", kill + 1))?);
        shared.ledger().incarnation += 1;
    }
    say(&format!(
        "crash: {under_load} kills under load, {starting} during start-up (a start takes {start_up:?})"
    ));
    Ok(alarms)
}

/// Waits until every acknowledged event could be in the warehouse and the inbox is empty. Another process brings them
/// there, so the only way to know is to look. What is missing in the end is the oracle's to say.
async fn drained(dir: &Path, shared: &Shared) -> Option<Duration> {
    let acknowledged = {
        let ledger = shared.ledger();
        let acknowledged = ledger.obligations().filter(|event| event.acknowledged());
        u64::try_from(acknowledged.count()).unwrap_or(u64::MAX)
    };
    let began = Instant::now();
    while began.elapsed() < DRAIN_WITHIN {
        let (events, errors) = warehouse::counts(dir);
        if events + errors >= acknowledged && warehouse::inbox_len(dir) == 0 {
            return Some(began.elapsed());
        }
        sleep(Duration::from_millis(100)).await;
    }
    None
}

/// Judges, prints the figures, and fails on anything that should not be.
fn report(dir: &Path, shared: &Shared, alarms: &[String], took: Duration) -> Result<()> {
    let found = warehouse::read(dir)?;
    let ledger = shared.ledger();
    let (tally, violations) = oracle::judge(&ledger, &found);
    let Answers {
        accepted,
        duplicate,
        rejected,
    } = ledger.answers;
    say(&format!(
        "crash: answers: {accepted} accepted, {duplicate} duplicate, {rejected} rejected; {} requests unanswered",
        ledger.unanswered_requests
    ));
    say(&format!(
        "crash: events: {} sent, {} acknowledged, {} rejected, {} never answered ({} of them stored), {} routing keys",
        tally.sent,
        tally.acknowledged,
        tally.rejected,
        tally.unanswered,
        tally.unanswered_but_stored,
        tally.routing_keys
    ));
    say(&format!(
        "crash: found: {} rows, {} error rows, {} objects; the whole run took {took:?}",
        tally.rows, tally.error_rows, tally.objects
    ));
    let wrong = shared.wrong();
    for line in wrong
        .iter()
        .take(LISTED_MAX)
        .chain(alarms.iter().take(LISTED_MAX))
    {
        say(&format!("crash: {line}"));
    }
    for violation in violations.iter().take(LISTED_MAX) {
        say(&format!("crash: {violation}"));
    }
    if !violations.is_empty() || !wrong.is_empty() || !alarms.is_empty() {
        bail!(
            "{} broken promises, {} wrong answers, {} alarms in the logs ({LISTED_MAX} of each are listed)",
            violations.len(),
            wrong.len(),
            alarms.len()
        );
    }
    let empty = [
        accepted,
        duplicate,
        rejected,
        ledger.unanswered_requests,
        u64::try_from(tally.error_rows)?,
        u64::try_from(tally.objects)?,
    ]
    .contains(&0);
    if empty {
        bail!("a figure above is 0: the load did not meet the kills, and nothing was proved");
    }
    Ok(())
}
