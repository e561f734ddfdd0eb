//! `CollectBidi`: one long stream for all batches, as many of them under way as its window allows.
//!
//! One task owns the stream. It opens one when there is something to send, numbers the batches, and answers each with its
//! acknowledgement. When a stream ends, everything that it did not acknowledge is told so and sent again by its senders,
//! with the same ids, on the next one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::deliver::{Attempt, Outcome};
use super::failure::AttemptError;
use super::grpc::{Grpc, outcome};
use crate::clock::sleep_until;
use crate::lifecycle::Tasks;
use crate::proto::v1;
use crate::proto::v1::collect_bidi_response::Message;
use crate::status::Code;

/// The most batches under way on one stream, whatever the gateway's window is.
const WINDOW_MAX: usize = 64;

/// Bytes of a request around its events, at most: batch number, stream name, lengths.
const ENVELOPE_BYTES: usize = 256;

type Answer = Result<v1::BatchAck, AttemptError>;

/// A batch that waits to be sent.
#[derive(Debug)]
struct Ask {
    events: Vec<v1::Event>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
pub(super) struct Bidi {
    asks: mpsc::Sender<Ask>,
}

impl Bidi {
    /// Starts the task that owns the stream. It ends when this is dropped.
    pub(super) fn open(grpc: Grpc) -> Self {
        let (asks, receiver) = mpsc::channel(1);
        drop(Tasks::default().spawn_isolated("bidi client", run(grpc, receiver)));
        Self { asks }
    }

    /// One batch and its acknowledgement.
    pub(super) async fn attempt(&self, events: Vec<v1::Event>) -> Attempt {
        let count = events.len();
        let (answer, answered) = oneshot::channel();
        let ended = || AttemptError::Ended {
            reason: "the client is stopping".into(),
            after: None,
        };
        if self.asks.send(Ask { events, answer }).await.is_err() {
            return Attempt::failed(count, ended());
        }
        match answered.await.unwrap_or_else(|_dropped| Err(ended())) {
            Ok(ack) => read_ack(count, ack),
            Err(error) => Attempt::failed(count, error),
        }
    }
}

/// What an acknowledgement does not list was accepted.
fn read_ack(events: usize, ack: v1::BatchAck) -> Attempt {
    let mut attempt = Attempt::of(events);
    let total = u64::from(ack.accepted) + u64::from(ack.duplicate) + u64::from(ack.rejected);
    if u64::try_from(events).ok() != Some(total) {
        return attempt.fail("the acknowledgement does not count what was sent");
    }
    for result in ack.results {
        let index = usize::try_from(result.index).unwrap_or(usize::MAX);
        let noted = outcome(result).is_some_and(|outcome| attempt.set(index, outcome));
        if !noted {
            return attempt.fail("the acknowledgement lists an event that was not sent");
        }
    }
    for outcome in &mut attempt.outcomes {
        outcome.get_or_insert(Outcome::Accepted);
    }
    attempt
}

/// Keeps a stream while there is something to send.
async fn run(grpc: Grpc, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        match tokio::time::timeout(grpc.answer_timeout, Session::open(&grpc)).await {
            Ok(Ok(session)) => session.run(ask, &mut asks).await,
            Ok(Err(error)) => tell(ask, error),
            Err(_elapsed) => tell(ask, AttemptError::Timeout(grpc.answer_timeout)),
        }
    }
}

/// A sender that has gone does not need to hear it.
fn tell(ask: Ask, error: AttemptError) {
    drop(ask.answer.send(Err(error)));
}

/// A batch that is not acknowledged.
struct Sent {
    number: u64,
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

/// One stream.
struct Session {
    stream: String,
    answer_timeout: Duration,
    requests: mpsc::Sender<v1::CollectBidiRequest>,
    responses: Streaming<v1::CollectBidiResponse>,
    hello: v1::Hello,
    window: usize,
    sent: VecDeque<Sent>,
    last: u64,
    /// How long the gateway asks to wait, once it has said that it stops.
    draining: Option<Duration>,
}

/// What a session does next.
enum Next {
    Ask(Option<Ask>),
    Response(Result<Option<v1::CollectBidiResponse>, tonic::Status>),
    Late,
}

impl Session {
    /// Opens a stream and waits for its limits.
    async fn open(grpc: &Grpc) -> Result<Self, AttemptError> {
        let (requests, receiver) = mpsc::channel(WINDOW_MAX);
        let mut responses = grpc
            .client
            .clone()
            .collect_bidi(ReceiverStream::new(receiver))
            .await
            .map_err(|status| AttemptError::from_status(&status))?
            .into_inner();
        let first = responses
            .message()
            .await
            .map_err(|status| AttemptError::from_status(&status))?;
        let Some(Message::Hello(hello)) = first.and_then(|response| response.message) else {
            return Err(AttemptError::Protocol("a stream without a hello".into()));
        };
        let window = usize::try_from(hello.window_batches).unwrap_or(WINDOW_MAX);
        Ok(Self {
            stream: grpc.stream.clone(),
            answer_timeout: grpc.answer_timeout,
            requests,
            responses,
            window: window.clamp(1, WINDOW_MAX),
            hello,
            sent: VecDeque::new(),
            last: 0,
            draining: None,
        })
    }

    /// Sends and receives until the stream ends or nobody can ask any more.
    async fn run(mut self, first: Ask, asks: &mut mpsc::Receiver<Ask>) {
        self.send(first);
        let error = loop {
            let open = self.draining.is_none() && self.sent.len() < self.window;
            let late = self.sent.front().map(|sent| sent.until);
            let next = tokio::select! {
                // Cancel safe: a message that was not taken stays in the stream.
                response = self.responses.message() => Next::Response(response),
                // Cancel safe: an ask that was not taken stays in the channel.
                ask = asks.recv(), if open => Next::Ask(ask),
                // Cancel safe: the moment stays the same.
                () = sleep_until(late) => Next::Late,
            };
            match next {
                Next::Ask(Some(ask)) => self.send(ask),
                // Nobody waits for anything: whoever asked holds the channel while it waits.
                Next::Ask(None) => return,
                Next::Late => break AttemptError::Timeout(self.answer_timeout),
                Next::Response(Ok(Some(response))) => {
                    if let Err(error) = self.take(response) {
                        break error;
                    }
                }
                Next::Response(Ok(None)) => {
                    break AttemptError::Ended {
                        reason: "closed by the gateway".into(),
                        after: self.draining,
                    };
                }
                Next::Response(Err(status)) => break AttemptError::from_status(&status),
            }
        };
        self.end(error);
    }

    /// Numbers a batch and puts it on the stream; what the stream would not take is refused here.
    fn send(&mut self, ask: Ask) {
        if let Some(code) = self.too_large(&ask.events) {
            let error = AttemptError::refused(Some(code.to_string()), code.text().into(), false);
            return tell(ask, error);
        }
        let number = self.last + 1;
        let request = v1::CollectBidiRequest {
            batch_number: number,
            events: ask.events,
            stream: self.stream.clone(),
            sent_at: None,
        };
        // There is room: the channel holds a whole window. It is closed when the stream has ended, and then the next
        // response says why.
        drop(self.requests.try_send(request));
        self.last = number;
        self.sent.push_back(Sent {
            number,
            until: Instant::now() + self.answer_timeout,
            answer: ask.answer,
        });
    }

    fn too_large(&self, events: &[v1::Event]) -> Option<Code> {
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        if self.hello.batch_events_max > 0 && count > self.hello.batch_events_max {
            return Some(Code::TooManyEvents);
        }
        let bytes: usize = events
            .iter()
            .map(|event| prost::encoding::message::encoded_len(2, event))
            .sum();
        let bytes = u64::try_from(bytes.saturating_add(ENVELOPE_BYTES)).unwrap_or(u64::MAX);
        let max = self.hello.message_bytes_max;
        // An event alone is judged by the gateway, which knows better why.
        (max > 0 && bytes > max && count > 1).then_some(Code::BodyTooLarge)
    }

    /// Takes a message of the gateway.
    fn take(&mut self, response: v1::CollectBidiResponse) -> Result<(), AttemptError> {
        match response.message {
            Some(Message::Ack(ack)) => self.acknowledge(ack),
            Some(Message::Draining(draining)) => {
                let wait = draining
                    .retry_after
                    .and_then(|wait| Duration::try_from(wait).ok());
                self.draining = Some(wait.unwrap_or_default());
                Ok(())
            }
            Some(Message::Hello(_)) => Err(AttemptError::Protocol("a second hello".into())),
            // A message of a newer gateway.
            None => Ok(()),
        }
    }

    fn acknowledge(&mut self, ack: v1::BatchAck) -> Result<(), AttemptError> {
        let unasked = || AttemptError::Protocol("an acknowledgement of an unknown batch".into());
        while let Some(sent) = self.sent.pop_front() {
            if sent.number == ack.batch_number {
                drop(sent.answer.send(Ok(ack)));
                return Ok(());
            }
            if sent.number > ack.batch_number {
                self.sent.push_front(sent);
                return Err(unasked());
            }
            // Durable too, but without a word about its events: sent again, they are duplicates.
            drop(sent.answer.send(Err(AttemptError::Partial)));
        }
        Err(unasked())
    }

    /// Tells everybody who waits. One error has one batch to blame only if there is just one.
    fn end(self, error: AttemptError) {
        let after = error.retry_after().or(self.draining);
        if self.sent.len() > 1 {
            let reason = error.to_string();
            for sent in self.sent {
                let reason = reason.clone();
                drop(sent.answer.send(Err(AttemptError::Ended { reason, after })));
            }
        } else if let Some(sent) = self.sent.into_iter().next() {
            drop(sent.answer.send(Err(error.after(after))));
        }
    }
}
