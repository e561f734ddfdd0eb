//! The clients: each sends one request after the other, writes down what it sends before the first byte leaves and what
//! it hears when the answer is complete, and knows nothing of what is done to the gateway.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow};
use eventkit::proto::v1;
use eventkit::proto::v1::ingest_service_client::IngestServiceClient;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Code;
use tonic::transport::Channel;

use super::{Phase, Shared, streams};
use crate::events::{Made, Maker, Wire};
use crate::support::clients;
use crate::support::gateway::Endpoints;
use crate::support::ledger::{Answer, Sent};

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// One JSON object per request.
    HttpSingle,
    /// A JSON array per request.
    HttpBatch,
    /// `POST /v1/batch`.
    Segment,
    /// `Collect`.
    Grpc,
    /// `CollectStream`: several messages, one summary.
    ClientStream,
    /// `CollectBidi`: several numbered batches, one acknowledgement each.
    Bidi,
}

impl Door {
    fn is_json(self) -> bool {
        matches!(self, Self::HttpSingle | Self::HttpBatch | Self::Segment)
    }
}

/// One answer, in the order of the request.
pub(super) type Outcomes = Vec<(Answer, String)>;

/// What came back for a request.
#[derive(Debug)]
pub(super) enum Heard {
    /// One outcome per event; of a stream that broke off, those that were acknowledged before.
    Outcomes(Outcomes),
    /// Nothing usable: the events may or may not be stored.
    Nothing,
}

/// A connection for as long as the gateway lives.
#[derive(Debug)]
enum Connection {
    Http(clients::Http),
    Grpc(IngestServiceClient<Channel>),
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    name: String,
    door: Door,
    /// Whether it sends again, with the same ids, what was not answered.
    retries: bool,
    maker: Maker,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
}

impl Client {
    pub(super) fn new(
        number: u64,
        door: Door,
        seed: u64,
        shared: &Arc<Shared>,
        phase: &watch::Receiver<Phase>,
    ) -> Self {
        let name = format!("{door:?}-{number}").to_lowercase();
        Self {
            maker: Maker::new(&name, seed.wrapping_add(number)),
            name,
            door,
            retries: number.is_multiple_of(2),
            shared: Arc::clone(shared),
            phase: phase.clone(),
        }
    }

    /// Sends until the last phase, and then until nothing is left that it wants an answer for.
    pub(super) async fn run(mut self) {
        let mut pace = interval(self.shared.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connected: Option<(Endpoints, Connection)> = None;
        let mut again: Option<Vec<Made>> = None;
        loop {
            pace.tick().await;
            let up = self.phase.wait_for(|phase| *phase != Phase::Down).await;
            let Ok(phase) = up.map(|phase| phase.clone()) else {
                return;
            };
            let (endpoints, last) = match phase {
                Phase::Up(endpoints) => (endpoints, false),
                Phase::Last(endpoints) => (endpoints, true),
                Phase::Down => continue,
            };
            if last && again.is_none() {
                return;
            }
            if connected.as_ref().is_none_or(|(to, _)| *to != endpoints) {
                match self.connect(&endpoints) {
                    Ok(connection) => connected = Some((endpoints, connection)),
                    Err(error) => return self.shared.say_wrong(format!("{error:#}")),
                }
            }
            let Some((_, connection)) = &mut connected else {
                continue;
            };
            let request = again.take().unwrap_or_else(|| self.make());
            match self.exchange(connection, &request).await {
                Heard::Nothing if self.retries => again = Some(request),
                Heard::Nothing => {}
                Heard::Outcomes(_) if self.maker.choose(0..20) == 0 => {
                    self.repeat(connection, &request).await;
                }
                Heard::Outcomes(_) => {}
            }
        }
    }

    /// The gateway that is up.
    fn gateway(&self) -> Option<Endpoints> {
        match &*self.phase.borrow() {
            Phase::Down => None,
            Phase::Up(endpoints) | Phase::Last(endpoints) => Some(endpoints.clone()),
        }
    }

    fn connect(&self, endpoints: &Endpoints) -> Result<Connection> {
        Ok(match self.door {
            Door::HttpSingle | Door::HttpBatch | Door::Segment => {
                Connection::Http(clients::Http::new(endpoints))
            }
            Door::Grpc | Door::ClientStream | Door::Bidi => {
                Connection::Grpc(clients::grpc(endpoints)?)
            }
        })
    }

    fn make(&mut self) -> Vec<Made> {
        let events = match self.door {
            Door::HttpSingle => 1,
            Door::HttpBatch | Door::Segment => self.maker.choose(2..20),
            Door::Grpc => self.maker.choose(1..9),
            Door::ClientStream | Door::Bidi => self.maker.choose(2..30),
        };
        (0..events)
            .map(|_| self.maker.make(self.door.is_json()))
            .collect()
    }

    async fn answer(&self, connection: &mut Connection, request: &[Made]) -> Result<Heard> {
        match (connection, self.door) {
            (Connection::Http(http), _) => self.over_http(http, request).await,
            (Connection::Grpc(grpc), Door::ClientStream) => {
                streams::over_client_stream(grpc, request).await
            }
            (Connection::Grpc(grpc), Door::Bidi) => streams::over_bidi(grpc, request).await,
            (Connection::Grpc(grpc), _) => over_grpc(grpc, request).await,
        }
    }

    /// Sends once, and writes down both sides.
    async fn exchange(&self, connection: &mut Connection, request: &[Made]) -> Heard {
        let sent: Vec<Sent> = request.iter().map(|made| made.sent.clone()).collect();
        self.shared.ledger().sending(&sent);
        let asked = self.gateway();
        let answer = self.answer(connection, request);
        let answer = timeout(self.shared.patience, answer)
            .await
            .unwrap_or_else(|_elapsed| {
                // One that was killed meanwhile owes no answer.
                if asked == self.gateway() {
                    self.shared.waited_in_vain();
                }
                Ok(Heard::Nothing)
            });
        let heard = answer.and_then(|heard| {
            if let Heard::Outcomes(outcomes) = &heard {
                check_outcomes(&sent, outcomes)?;
            }
            Ok(heard)
        });
        match heard {
            Ok(Heard::Outcomes(outcomes)) => {
                let mut ledger = self.shared.ledger();
                for (event, (answer, _)) in sent.iter().zip(&outcomes) {
                    ledger.heard(&event.message_id, *answer);
                }
                // A stream that broke off: what was acknowledged is owed, and the rest is not answered.
                if outcomes.len() < sent.len() {
                    ledger.unanswered_requests += 1;
                    return Heard::Nothing;
                }
                Heard::Outcomes(outcomes)
            }
            Ok(Heard::Nothing) => {
                self.shared.ledger().unanswered_requests += 1;
                Heard::Nothing
            }
            Err(error) => {
                self.shared.say_wrong(format!("{}: {error:#}", self.name));
                Heard::Nothing
            }
        }
    }

    /// Sends again what was answered a moment ago: all of it must be known.
    async fn repeat(&self, connection: &mut Connection, request: &[Made]) {
        let Heard::Outcomes(outcomes) = self.exchange(connection, request).await else {
            return;
        };
        for (made, (answer, _)) in request.iter().zip(outcomes) {
            if answer == Answer::Accepted {
                self.shared.say_wrong(format!(
                    "{}: event {} was accepted a second time",
                    self.name, made.sent.message_id
                ));
            }
        }
    }

    async fn over_http(&self, http: &clients::Http, request: &[Made]) -> Result<Heard> {
        let events: Vec<&str> = request
            .iter()
            .filter_map(|made| match &made.wire {
                Wire::Json(text) => Some(text.as_str()),
                Wire::Proto(_) => None,
            })
            .collect();
        let body = match self.door {
            Door::HttpBatch => format!("[{}]", events.join(",\n ")),
            Door::Segment => format!(
                r#"{{"batch":[{}],"context":{{"library":"crash"}},"writeKey":"k"}}"#,
                events.join(",\n ")
            ),
            Door::HttpSingle | Door::Grpc | Door::ClientStream | Door::Bidi => events.concat(),
        };
        let path = match self.door {
            Door::Segment => "/v1/batch".to_owned(),
            _ => format!("/collect/{}", self.name),
        };
        // No answer, half an answer: the gateway was killed.
        let Ok((status, answer)) = http.post(&path, body).await else {
            return Ok(Heard::Nothing);
        };
        match status {
            200 if self.door == Door::Segment && answer.get("success") == Some(&true.into()) => {
                outcomes_of(&answer).and_then(|outcomes| whole(request, outcomes))
            }
            202 | 400 | 413 if self.door != Door::Segment => outcomes_of(&answer)
                .and_then(|outcomes| whole(request, outcomes))
                .with_context(|| format!("answer {status} {answer}")),
            429 | 503 => {
                self.shared.shed.fetch_add(1, Ordering::Relaxed);
                Ok(Heard::Nothing)
            }
            _ => Err(anyhow!("unexpected answer {status} {answer}")),
        }
    }
}

/// An answer that must be about every event.
fn whole(request: &[Made], outcomes: Outcomes) -> Result<Heard> {
    if request.len() == outcomes.len() {
        return Ok(Heard::Outcomes(outcomes));
    }
    let (sent, told) = (request.len(), outcomes.len());
    Err(anyhow!("{sent} events, {told} outcomes"))
}

/// The outcomes in an HTTP answer.
fn outcomes_of(answer: &serde_json::Value) -> Result<Outcomes> {
    let results = answer["results"].as_array().context("no results")?;
    let mut outcomes = Vec::with_capacity(results.len());
    for (index, result) in results.iter().enumerate() {
        if result["index"].as_u64() != Some(index.try_into()?) {
            return Err(anyhow!("result {index} has another index"));
        }
        let status = result["status"].as_str().context("no status")?;
        let answer = Answer::from_word(status).with_context(|| format!("status {status}"))?;
        let message_id = result["message_id"].as_str().unwrap_or_default();
        outcomes.push((answer, message_id.to_owned()));
    }
    Ok(outcomes)
}

pub(super) fn protos(request: &[Made]) -> Vec<v1::Event> {
    request
        .iter()
        .filter_map(|made| match &made.wire {
            Wire::Proto(event) => Some(v1::Event::clone(event)),
            Wire::Json(_) => None,
        })
        .collect()
}

/// What a client sees when the other side is killed, is draining or is full; anything else is wrong.
pub(super) fn broken(status: &tonic::Status) -> Result<()> {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal => Ok(()),
        _ => Err(anyhow!("unexpected status {status}")),
    }
}

pub(super) fn answer_of(result: &v1::EventResult) -> Result<Answer> {
    Ok(match result.status() {
        v1::EventStatus::Accepted => Answer::Accepted,
        v1::EventStatus::Duplicate => Answer::Duplicate,
        v1::EventStatus::Rejected => Answer::Rejected,
        v1::EventStatus::Unspecified => {
            return Err(anyhow!("result {} has no status", result.index));
        }
    })
}

async fn over_grpc(grpc: &mut IngestServiceClient<Channel>, request: &[Made]) -> Result<Heard> {
    let call = v1::CollectRequest {
        events: protos(request),
        ..v1::CollectRequest::default()
    };
    let answer = match grpc.collect(call).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            return broken(&status).map(|()| Heard::Nothing);
        }
    };
    let mut outcomes = Vec::with_capacity(answer.results.len());
    for (index, result) in (0u32..).zip(answer.results) {
        let outcome = answer_of(&result)?;
        if result.index != index {
            return Err(anyhow!("result {index} has the index {}", result.index));
        }
        outcomes.push((outcome, result.message_id));
    }
    whole(request, outcomes)
}

/// One outcome per event, each under the event's own id; fewer only where a stream broke off ([`streams::over_bidi`]).
fn check_outcomes(sent: &[Sent], outcomes: &Outcomes) -> Result<()> {
    if sent.len() < outcomes.len() {
        return Err(anyhow!(
            "{} events, {} outcomes",
            sent.len(),
            outcomes.len()
        ));
    }
    for (event, (answer, message_id)) in sent.iter().zip(outcomes) {
        if *answer != Answer::Rejected && event.message_id != *message_id {
            return Err(anyhow!(
                "event {} was answered {answer:?} under the id {message_id:?}",
                event.message_id
            ));
        }
    }
    Ok(())
}
