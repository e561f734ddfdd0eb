//! A client whose every request is a step of the scenario, with a ledger of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use eventkit::proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::events::{Made, Maker, Wire};
use crate::scenario::Stage;
use crate::support::clients;
use crate::support::gateway::Endpoints;
use crate::support::ledger::{Answer, Ledger, Sent};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// One outcome per event.
    Outcomes,
    /// 503 or UNAVAILABLE: whether anything was stored is not known. With the time to come back, if one was named.
    Refused(Option<Duration>),
    /// No answer: the gateway is gone.
    Nothing,
}

/// Makes events, sends them in single requests, and writes down both sides.
#[derive(Debug)]
pub(super) struct Script {
    name: String,
    maker: Maker,
    ledger: Ledger,
    /// What was sent last, to be sent again.
    last: Vec<Made>,
}

impl Script {
    pub(super) fn new(stage: &Stage, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            maker: Maker::new(name, stage.settings.seed),
            ledger: Ledger::default(),
            last: Vec::new(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// The gateway was restarted.
    pub(super) fn restarted(&mut self) {
        self.ledger.incarnation += 1;
    }

    /// How many events were acknowledged so far.
    pub(super) fn acknowledged(&self) -> usize {
        let acknowledged = self.ledger.obligations();
        acknowledged.filter(|event| event.acknowledged()).count()
    }

    /// So many new events in one HTTP request.
    pub(super) async fn http(&mut self, endpoints: &Endpoints, events: usize) -> Result<Heard> {
        self.last = (0..events).map(|_| self.maker.make(true)).collect();
        self.over_http(endpoints).await
    }

    /// So many new events in one gRPC call.
    pub(super) async fn grpc(&mut self, endpoints: &Endpoints, events: usize) -> Result<Heard> {
        self.last = (0..events).map(|_| self.maker.make(false)).collect();
        self.over_grpc(endpoints).await
    }

    /// The last request once more, with the same ids.
    pub(super) async fn again(&mut self, endpoints: &Endpoints) -> Result<Heard> {
        match self.last.first().map(|made| &made.wire) {
            Some(Wire::Proto(_)) => self.over_grpc(endpoints).await,
            Some(Wire::Json(_)) | None => self.over_http(endpoints).await,
        }
    }

    async fn over_http(&mut self, endpoints: &Endpoints) -> Result<Heard> {
        let sent = self.sending();
        let events: Vec<&str> = self.last.iter().filter_map(json).collect();
        let body = Bytes::from(format!("[{}]", events.join(",")));
        let path = format!("/collect/{}", self.name);
        let http = clients::Http::new(endpoints);
        let Ok(answer) = http.exchange(http::Method::POST, &path, body).await else {
            return Ok(self.nothing(Heard::Nothing));
        };
        let retry_after = answer.headers().get(http::header::RETRY_AFTER);
        let retry_after = retry_after
            .map(|value| anyhow::Ok(Duration::from_secs(value.to_str()?.parse()?)))
            .transpose()?;
        match answer.status().as_u16() {
            202 | 400 => {}
            503 => return Ok(self.nothing(Heard::Refused(retry_after))),
            other => anyhow::bail!("unexpected answer {other} {:?}", answer.body()),
        }
        let body: serde_json::Value = serde_json::from_slice(answer.body())?;
        let results = body.get("results").and_then(|results| results.as_array());
        let outcomes = results.context("no results")?.iter().map(|result| {
            let word = result.get("status").and_then(|status| status.as_str());
            let word = word.context("no status")?;
            Answer::from_word(word).with_context(|| format!("status {word}"))
        });
        self.heard(&sent, outcomes.collect::<Result<_>>()?)
    }

    async fn over_grpc(&mut self, endpoints: &Endpoints) -> Result<Heard> {
        let sent = self.sending();
        let events = self.last.iter().filter_map(proto).collect();
        let call = v1::CollectRequest {
            events,
            ..v1::CollectRequest::default()
        };
        let answer = match clients::grpc(endpoints)?.collect(call).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let retry_after = status.get_details_retry_info();
                let retry_after = retry_after.and_then(|retry| retry.retry_delay);
                // A status of the connection has a cause, one that the gateway sent has none.
                let is_gone = std::error::Error::source(&status).is_some();
                let heard = match (status.code(), retry_after) {
                    _ if is_gone => Heard::Nothing,
                    (Code::Unavailable, after) => Heard::Refused(after),
                    (Code::Unknown | Code::Cancelled | Code::DeadlineExceeded, _) => Heard::Nothing,
                    _ => anyhow::bail!("unexpected status {status}"),
                };
                return Ok(self.nothing(heard));
            }
        };
        let outcomes = answer.results.iter().map(|result| match result.status() {
            v1::EventStatus::Accepted => Ok(Answer::Accepted),
            v1::EventStatus::Duplicate => Ok(Answer::Duplicate),
            v1::EventStatus::Rejected => Ok(Answer::Rejected),
            v1::EventStatus::Unspecified => Err(anyhow::anyhow!("no status")),
        });
        self.heard(&sent, outcomes.collect::<Result<_>>()?)
    }

    fn sending(&mut self) -> Vec<Sent> {
        let sent: Vec<Sent> = self.last.iter().map(|made| made.sent.clone()).collect();
        self.ledger.sending(&sent);
        sent
    }

    fn nothing(&mut self, heard: Heard) -> Heard {
        self.ledger.unanswered_requests += 1;
        heard
    }

    fn heard(&mut self, sent: &[Sent], outcomes: Vec<Answer>) -> Result<Heard> {
        ensure!(
            sent.len() == outcomes.len(),
            "{} events, {} outcomes",
            sent.len(),
            outcomes.len()
        );
        for (event, answer) in sent.iter().zip(outcomes) {
            self.ledger.heard(&event.message_id, answer);
        }
        Ok(Heard::Outcomes)
    }
}

fn json(made: &Made) -> Option<&str> {
    match &made.wire {
        Wire::Json(text) => Some(text),
        Wire::Proto(_) => None,
    }
}

fn proto(made: &Made) -> Option<v1::Event> {
    match &made.wire {
        Wire::Proto(event) => Some(v1::Event::clone(event)),
        Wire::Json(_) => None,
    }
}
