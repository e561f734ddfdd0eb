//! SIGSTOP, SIGTERM, and SIGTERM again.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use eventkit::proto::v1;
use eventkit::proto::v1::collect_bidi_response::Message;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::events::{Made, Maker, Wire};
use crate::load::Load;
use crate::outages::{Outage, Way};
use crate::scenario::{Scenario, Stage};
use crate::support::clients;
use crate::support::gateway::Endpoints;
use crate::support::ledger::{Answer, Fate};

/// How long a graceful stop may take: the default of `EVENTKIT_DRAIN_TIMEOUT`, the last phases, and a busy machine.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// How long a stop may take when nothing is in its way. It must not be the budget that ended it.
const QUICK_STOP: Duration = Duration::from_secs(20);
/// How long anything else may take that takes a moment.
const SOON: Duration = Duration::from_secs(30);

/// The scenarios of this family.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let family = [
        Scenario::on_both("signals::stopped_and_continued", stopped_and_continued),
        Scenario::on_both(
            "signals::a_stop_under_load_answers_everybody",
            stop_under_load,
        ),
        Scenario::on_both("signals::a_second_stop_ends_at_once", second_stop),
        Scenario::on_both(
            "signals::a_stop_ends_streams_that_idle",
            stop_with_idle_streams,
        ),
    ];
    family.into_iter().flatten().collect()
}

/// SIGSTOP: clients give up waiting and try again, with the same ids. SIGCONT: all of it is judged.
async fn stopped_and_continued(stage: Stage) -> Result<()> {
    let (stopped, patience) = stage.pick((3, 1), (60, 5));
    let load = Load::with_patience(&stage, Duration::from_secs(patience));
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 500, SOON).await?;
    gateway.signal(Signal::STOP)?;
    sleep(Duration::from_secs(stopped)).await;
    let before = load.answers();
    gateway.signal(Signal::CONT)?;
    load.grows(Load::answers, 500, SOON)
        .await
        .context("answers after SIGCONT")?;
    stage.figure(&format!("stopped for {stopped} s; {before} answers before"))?;
    let verdict = load.finish(gateway, &endpoints).await?;
    ensure!(
        verdict.timeouts > 0 && verdict.duplicates > 0,
        "nobody waited in vain, and nothing was proved: {verdict:?}"
    );
    Ok(())
}

/// SIGTERM under load, again and again: a quick stop with exit code 0, and nobody is left without an answer or an end.
async fn stop_under_load(stage: Stage) -> Result<()> {
    let rounds = stage.pick(3, 20);
    let mut load = Load::start(&stage);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let (gateway, endpoints) = stage.start().await?;
        load.up(&endpoints);
        load.grows(Load::answers, 300, SOON).await?;
        let began = Instant::now();
        let ended = gateway.terminate(STOP_WITHIN).await?;
        slowest = slowest.max(began.elapsed());
        ensure!(
            ended.status.code() == Some(0),
            "stop {round}: {}\n{}",
            ended.status,
            ended.said
        );
        load.down(ended.alarms);
    }
    stage.figure(&format!(
        "{rounds} stops under load, the slowest took {slowest:.1?}"
    ))?;
    ensure!(slowest < QUICK_STOP, "a stop took {slowest:?}");
    let (gateway, endpoints) = stage.start().await?;
    let verdict = load.finish(gateway, &endpoints).await?;
    ensure!(verdict.timeouts == 0, "clients waited in vain: {verdict:?}");
    ensure!(
        verdict.unanswered_requests > 0,
        "nothing was cut off: {verdict:?}"
    );
    Ok(())
}

/// A stop that has to wait (the store is out), and SIGTERM again: it ends at once, and loses nothing.
async fn second_stop(stage: Stage) -> Result<()> {
    let mut load = Load::start(&stage);
    for _ in 0..stage.pick(1, 10) {
        let (gateway, endpoints) = stage.start().await?;
        load.up(&endpoints);
        load.grows(Load::answers, 300, SOON).await?;
        let outage = Outage::begin(&stage, Way::Blocked)?;
        load.grows(Load::answers, 300, SOON).await?;
        gateway.signal(Signal::TERM)?;
        until_draining(&endpoints).await?;
        let began = Instant::now();
        let ended = gateway.terminate(STOP_WITHIN).await?;
        let took = began.elapsed();
        ensure!(
            ended.status.code() == Some(143) && took < Duration::from_secs(15),
            "after {took:?}: {}\n{}",
            ended.status,
            ended.said
        );
        load.down(ended.alarms);
        outage.end()?;
    }
    let (gateway, endpoints) = stage.start().await?;
    let verdict = load.finish(gateway, &endpoints).await?;
    ensure!(verdict.timeouts == 0, "clients waited in vain: {verdict:?}");
    Ok(())
}

/// The public ports are closed by then; the admin port knows.
async fn until_draining(endpoints: &Endpoints) -> Result<()> {
    let admin = clients::Http::at(&endpoints.admin);
    let draining = async {
        loop {
            let (status, ready) = admin.get("/ready").await?;
            if status == 503 {
                return Ok::<_, anyhow::Error>(ready);
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ready = timeout(SOON, draining).await.context("never draining")??;
    ensure!(ready.to_string().contains("draining"), "{ready}");
    Ok(())
}

/// SIGTERM while streams are open on which nothing happens: they hear `UNAVAILABLE`, and do not hold up the stop.
async fn stop_with_idle_streams(stage: Stage) -> Result<()> {
    let mut load = Load::start(&stage);
    let mut maker = Maker::new("idle", stage.settings.seed);
    let (gateway, endpoints) = stage.start().await?;
    load.up(&endpoints);
    load.grows(Load::answers, 100, SOON).await?;

    let mut bidi = Idle::open(&endpoints, &mut maker, &load).await?;
    let (messages, stream) = mpsc::channel(1);
    let mut grpc = clients::grpc(&endpoints)?;
    let mut summary = JoinSet::new();
    summary.spawn(async move { grpc.collect_stream(ReceiverStream::new(stream)).await });
    let sent = made(&mut maker, &load);
    let message = v1::CollectStreamRequest {
        events: protos(&sent),
        ..v1::CollectStreamRequest::default()
    };
    messages.send(message).await?;
    // Its events are read when a request that came later on another connection is answered; nothing else tells.
    load.grows(Load::answers, 100, SOON).await?;

    let began = Instant::now();
    gateway.signal(Signal::TERM)?;
    bidi.ends().await?;
    let ended = timeout(SOON, summary.join_next())
        .await
        .context("no end of the client stream")?;
    match ended.context("no task")?? {
        Err(status) if status.code() == Code::Unavailable => {}
        other => bail!("an open client stream heard {other:?}"),
    }
    let ended = gateway.ended(STOP_WITHIN).await?;
    let took = began.elapsed();
    ensure!(
        ended.status.code() == Some(0) && took < QUICK_STOP,
        "after {took:?}: {}\n{}",
        ended.status,
        ended.said
    );
    drop(messages);
    load.down(ended.alarms);
    stage.figure(&format!("a stop with idle streams took {took:.1?}"))?;
    let (gateway, endpoints) = stage.start().await?;
    load.finish(gateway, &endpoints).await.map(drop)
}

/// A stream in both directions whose first batch is acknowledged and which then is quiet.
struct Idle {
    _requests: mpsc::Sender<v1::CollectBidiRequest>,
    answers: tonic::Streaming<v1::CollectBidiResponse>,
}

impl Idle {
    async fn open(endpoints: &Endpoints, maker: &mut Maker, load: &Load) -> Result<Self> {
        let (requests, stream) = mpsc::channel(1);
        let sent = made(maker, load);
        requests
            .send(v1::CollectBidiRequest {
                batch_number: 1,
                events: protos(&sent),
                ..v1::CollectBidiRequest::default()
            })
            .await?;
        let mut grpc = clients::grpc(endpoints)?;
        let mut answers = grpc
            .collect_bidi(ReceiverStream::new(stream))
            .await?
            .into_inner();
        loop {
            match next(&mut answers).await? {
                Message::Hello(_) => {}
                Message::Draining(_) => bail!("draining before anybody said so"),
                Message::Ack(ack) => {
                    ensure!(ack.batch_number == 1 && ack.accepted == 1, "{ack:?}");
                    load.ledger().heard(&sent.sent.message_id, Answer::Accepted);
                    break;
                }
            }
        }
        Ok(Self {
            _requests: requests,
            answers,
        })
    }

    /// The farewell, then the status.
    async fn ends(&mut self) -> Result<()> {
        let farewell = next(&mut self.answers).await?;
        ensure!(matches!(farewell, Message::Draining(_)), "{farewell:?}");
        let end = timeout(SOON, self.answers.message())
            .await
            .context("no end of the stream")?;
        match end {
            Err(status) if status.code() == Code::Unavailable => Ok(()),
            other => bail!("an open stream heard {other:?}"),
        }
    }
}

async fn next(answers: &mut tonic::Streaming<v1::CollectBidiResponse>) -> Result<Message> {
    let answer = timeout(SOON, answers.message())
        .await
        .context("no answer")??;
    answer
        .and_then(|answer| answer.message)
        .context("the stream ended, or an answer without a message")
}

/// One good event, written down as sent.
fn made(maker: &mut Maker, load: &Load) -> Made {
    let made = maker.make_as(false, Fate::Row, 10);
    load.ledger().sending(std::slice::from_ref(&made.sent));
    made
}

fn protos(made: &Made) -> Vec<v1::Event> {
    match &made.wire {
        Wire::Proto(event) => vec![v1::Event::clone(event)],
        Wire::Json(_) => Vec::new(),
    }
}
