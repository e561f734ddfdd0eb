//! From a batch to one outcome per event: attempts, waits, cuts, and when to give up.

use std::collections::VecDeque;
use std::fmt;

use http::HeaderValue;
use tokio::time::{Instant, sleep};

use super::bidi::Bidi;
use super::event::Event;
use super::failure::{AttemptError, Verdict};
use super::grpc::Grpc;
use super::http::Http;
use super::{RetryPolicy, proto};
use crate::proto::v1;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable in the gateway's log.
    Accepted,
    /// Was durable under the same message id already, possibly by an earlier attempt of this very send.
    Duplicate,
    /// Not stored, and never will be as it is.
    Rejected {
        /// One word of the closed list of codes.
        code: String,
        /// The same for people.
        reason: String,
    },
    /// Not answered within the limits: stored or not, nobody knows. Sending it again is safe.
    Unacknowledged {
        /// What the last attempt met with.
        reason: String,
    },
}

/// What became of a batch.
#[derive(Debug)]
pub struct Delivery {
    /// One per event, in the order of the batch.
    pub outcomes: Vec<Outcome>,
    /// How many requests it took.
    pub requests: u32,
    /// How many of them were retries.
    pub retries: u32,
    /// Why events are unacknowledged or the batch was refused as a whole, if so.
    pub error: Option<AttemptError>,
}

/// One way for a batch to travel.
#[derive(Debug)]
pub(super) enum Transport {
    Http(Http),
    Unary(Grpc),
    Stream(Grpc),
    Bidi(Bidi),
}

/// What one request found out about the events that it carried.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) outcomes: Vec<Option<Outcome>>,
    /// Why some have none.
    pub(super) failure: Option<AttemptError>,
}

impl Attempt {
    pub(super) fn of(events: usize) -> Self {
        Self {
            outcomes: vec![None; events],
            failure: None,
        }
    }

    pub(super) fn failed(events: usize, error: AttemptError) -> Self {
        Self {
            failure: Some(error),
            ..Self::of(events)
        }
    }

    /// Notes an outcome; false when there is no such event or it has one already.
    pub(super) fn set(&mut self, index: usize, outcome: Outcome) -> bool {
        match self.outcomes.get_mut(index) {
            Some(free @ None) => {
                *free = Some(outcome);
                true
            }
            Some(Some(_)) | None => false,
        }
    }

    /// What was learned stands; the rest failed.
    pub(super) fn fail(mut self, error: impl fmt::Display) -> Self {
        self.failure = Some(AttemptError::Protocol(error.to_string()));
        self
    }
}

impl Transport {
    async fn attempt(&self, events: &[&Event], trace: Option<&HeaderValue>) -> Attempt {
        match self {
            Self::Http(http) => http.attempt(events, trace).await,
            Self::Unary(grpc) => over_grpc(events, |events| grpc.unary(events, trace)).await,
            Self::Stream(grpc) => over_grpc(events, |events| grpc.stream(events, trace)).await,
            Self::Bidi(bidi) => over_grpc(events, |events| bidi.attempt(events)).await,
        }
    }
}

/// Those that gRPC cannot carry have their outcome before anything is sent.
async fn over_grpc<F: Future<Output = Attempt>>(
    events: &[&Event],
    call: impl FnOnce(Vec<v1::Event>) -> F,
) -> Attempt {
    let mut attempt = Attempt::of(events.len());
    let mut carried = Vec::with_capacity(events.len());
    let mut places = Vec::with_capacity(events.len());
    for (place, event) in events.iter().enumerate() {
        match proto::event(event) {
            Ok(event) => {
                carried.push(event);
                places.push(place);
            }
            Err(outcome) => {
                attempt.set(place, outcome);
            }
        }
    }
    if carried.is_empty() {
        return attempt;
    }
    let sent = call(carried).await;
    for (place, outcome) in places.into_iter().zip(sent.outcomes) {
        if let Some(outcome) = outcome {
            attempt.set(place, outcome);
        }
    }
    attempt.failure = sent.failure;
    attempt
}

/// A batch on its way.
struct Run<'a> {
    events: &'a [Event],
    /// The `traceparent` of its requests.
    trace: Option<HeaderValue>,
    outcomes: Vec<Option<Outcome>>,
    requests: u32,
    retries: u32,
    error: Option<AttemptError>,
}

/// Sends a batch to its end.
pub(super) async fn deliver(
    transport: &Transport,
    retry: &RetryPolicy,
    events: &[Event],
    trace: Option<HeaderValue>,
) -> Delivery {
    let mut run = Run {
        events,
        trace,
        outcomes: vec![None; events.len()],
        requests: 0,
        retries: 0,
        error: None,
    };
    // In order: of a batch that was cut, the first half is sent first.
    let mut parts = VecDeque::from([(0..events.len()).collect::<Vec<usize>>()]);
    while let Some(part) = parts.pop_front() {
        if let Some((first, second)) = run.part(transport, retry, part).await {
            parts.push_front(second);
            parts.push_front(first);
        }
    }
    let unknown = || Outcome::Unacknowledged {
        reason: "never sent".into(),
    };
    Delivery {
        outcomes: run
            .outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(unknown))
            .collect(),
        requests: run.requests,
        retries: run.retries,
        error: run.error,
    }
}

impl Run<'_> {
    /// Sends these events until each has its outcome, or returns them in two halves.
    async fn part(
        &mut self,
        transport: &Transport,
        retry: &RetryPolicy,
        mut part: Vec<usize>,
    ) -> Option<(Vec<usize>, Vec<usize>)> {
        let mut since = Instant::now();
        let mut failures = 0u32;
        loop {
            if part.is_empty() {
                return None;
            }
            let before = part.len();
            let error = self.request(transport, &mut part).await?;
            if part.len() < before {
                (since, failures) = (Instant::now(), 0);
            }
            match error.verdict() {
                Verdict::Split if part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    return Some((part, second));
                }
                Verdict::Split | Verdict::Reject => {
                    self.end(&part, &reject(&error), error);
                    return None;
                }
                Verdict::GiveUp => {
                    self.end(&part, &unacknowledged(&error), error);
                    return None;
                }
                Verdict::Retry => {}
            }
            failures = failures.saturating_add(1);
            let wait = retry.backoff.wait_asked(failures, error.retry_after());
            if failures >= retry.attempts_max || since.elapsed() + wait > retry.elapsed_max {
                self.end(&part, &unacknowledged(&error), error);
                return None;
            }
            sleep(wait).await;
            self.retries = self.retries.saturating_add(1);
        }
    }

    /// One request; leaves in `part` what it did not answer. `None` when nothing is left.
    async fn request(
        &mut self,
        transport: &Transport,
        part: &mut Vec<usize>,
    ) -> Option<AttemptError> {
        let events: Vec<&Event> = part.iter().filter_map(|at| self.events.get(*at)).collect();
        // The futures of the transports are large; callers keep many of them.
        let attempt = Box::pin(transport.attempt(&events, self.trace.as_ref())).await;
        self.requests = self.requests.saturating_add(1);
        let mut left = Vec::new();
        for (at, outcome) in part.drain(..).zip(attempt.outcomes) {
            match (outcome, self.outcomes.get_mut(at)) {
                (Some(outcome), Some(place)) => *place = Some(outcome),
                _ => left.push(at),
            }
        }
        *part = left;
        (!part.is_empty()).then(|| attempt.failure.unwrap_or(AttemptError::Partial))
    }

    /// The same end for all that are left.
    fn end(&mut self, part: &[usize], outcome: &Outcome, error: AttemptError) {
        for at in part {
            if let Some(place) = self.outcomes.get_mut(*at) {
                *place = Some(outcome.clone());
            }
        }
        self.error = Some(error);
    }
}

fn reject(error: &AttemptError) -> Outcome {
    match error {
        AttemptError::Refused {
            code: Some(code),
            message,
            ..
        } => Outcome::Rejected {
            code: code.clone(),
            reason: message.clone(),
        },
        other => unacknowledged(other),
    }
}

fn unacknowledged(error: &AttemptError) -> Outcome {
    Outcome::Unacknowledged {
        reason: error.to_string(),
    }
}
