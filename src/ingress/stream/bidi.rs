//! `CollectBidi`: numbered batches in, durable acknowledgements out.
//!
//! - The first answer is a `Hello` with the window and the limits.
//! - An acknowledgement is sent only when its batch is durable, and in order: it means everything up to its number.
//! - A client that does not take its acknowledgements is held: the window fills, nothing more is read. After
//!   `EVENTKIT_BODY_TIMEOUT` without progress its stream ends; if it does not take the status either, its connection is
//!   closed, since HTTP/2 gives a server that is not read no other word.
//! - A quiet stream is legitimate for as long as its connection answers keep-alive pings.
//! - Whatever ends a stream, what was begun before is acknowledged first: at the drain after a `Draining`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};

use super::super::accept::Via;
use super::super::grpc::Batch;
use super::super::outcome::RequestError;
use super::super::{results, rpc_status};
use super::{Call, End, Read, Settled, WINDOW_BATCHES, Window};
use crate::lifecycle::Tasks;
use crate::proto::server::CollectBidiRequest;
use crate::proto::v1::collect_bidi_response::Message;
use crate::proto::v1::{CollectBidiResponse, Draining, Hello};
use crate::status::Code;

/// How many answers wait between the stream's task and its connection.
const ANSWERS_MAX: usize = 4;

/// Starts the task of a stream; returns what its client hears.
pub(crate) fn open(
    call: Call,
    messages: Streaming<CollectBidiRequest>,
    tasks: &Tasks,
    connection: Option<Via>,
) -> Answers {
    let (to_client, from_task) = mpsc::channel(ANSWERS_MAX);
    let (end, ended) = oneshot::channel();
    let gone = CancellationToken::new();
    let answers = Answers {
        messages: from_task,
        end: Some(ended),
        _gone: gone.clone().drop_guard(),
    };
    let patience = call.ingress.config().body_timeout;
    let stream = Bidi {
        window: Window::new(&call.ingress, &call.caller),
        outgoing: VecDeque::new(),
        offered_at: Instant::now(),
        next: 1,
        patience,
        call,
        messages,
    };
    let span = stream.call.span.clone();
    let run = async move {
        let answer = stream.run(to_client, &gone).await;
        drop(end.send(answer));
        // Whoever takes neither the last acknowledgements nor the status holds on to them for ever.
        if tokio::time::timeout(patience, gone.cancelled())
            .await
            .is_err()
            && let Some(connection) = connection
        {
            connection.close();
        }
    };
    drop(tasks.spawn_isolated("bidi stream", span.around(run)));
    answers
}

/// What the client hears: the answers, then how the stream ended.
#[derive(Debug)]
pub(crate) struct Answers {
    messages: mpsc::Receiver<Message>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
    /// Tells the task that nobody listens any more.
    _gone: DropGuard,
}

impl Stream for Answers {
    type Item = Result<CollectBidiResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(message) = std::task::ready!(this.messages.poll_recv(cx)) {
            let message = Some(message);
            return Poll::Ready(Some(Ok(CollectBidiResponse { message })));
        }
        let Some(end) = &mut this.end else {
            return Poll::Ready(None);
        };
        let end = std::task::ready!(Pin::new(end).poll(cx));
        this.end = None;
        Poll::Ready(match end {
            Ok(Ok(())) => None,
            Ok(Err(status)) => Some(Err(status)),
            // The task ended by a panic: what was not acknowledged is to be sent again.
            Err(_dropped) => Some(Err(rpc_status::status(&Code::OutcomeUnknown.into()))),
        })
    }
}

struct Bidi {
    call: Call,
    messages: Streaming<CollectBidiRequest>,
    window: Window,
    /// Answers that have no place in the channel yet: at most a hello, an acknowledgement and a farewell.
    outgoing: VecDeque<Message>,
    /// Since when the first of them waits.
    offered_at: Instant,
    /// The number that the next batch must have.
    next: u64,
    /// How long the client may leave answers untaken.
    patience: Duration,
}

impl Bidi {
    /// The whole stream, with its lines in the log; returns the status that it ends with.
    async fn run(
        mut self,
        to_client: mpsc::Sender<Message>,
        gone: &CancellationToken,
    ) -> Result<(), Status> {
        self.call.received();
        let end = self.converse(&to_client, gone).await;
        // Nobody hears it, but it is stored and counts.
        while self.window.next().await.is_some() {}
        let took = self.call.completed(&end);
        self.call.record(&end, took);
        match end {
            End::Closed | End::Gone => Ok(()),
            End::Failed(error) => Err(rpc_status::status(&error)),
        }
    }

    async fn converse(
        &mut self,
        to_client: &mpsc::Sender<Message>,
        gone: &CancellationToken,
    ) -> End {
        self.say(self.hello());
        let mut end: Option<End> = None;
        loop {
            // After its end is known a stream lives on until everything begun is acknowledged.
            if self.outgoing.is_empty()
                && self.window.is_empty()
                && let Some(end) = end.take()
            {
                return end;
            }
            let is_open = end.is_none();
            let has_room = is_open && self.window.has_room();
            let must_settle = self.outgoing.is_empty() && !self.window.is_empty();
            let untaken_at = self.offered_at + self.patience;
            // Every arm is cancel safe: an unused place in the channel is given back, the window and the stream keep
            // what they have, a token stays cancelled, a moment stays past.
            tokio::select! {
                biased;
                () = gone.cancelled() => return End::Gone,
                place = to_client.reserve(), if !self.outgoing.is_empty() => {
                    let (Ok(place), Some(message)) = (place, self.outgoing.pop_front()) else {
                        return End::Gone;
                    };
                    place.send(message);
                    self.offered_at = Instant::now();
                }
                () = tokio::time::sleep_until(untaken_at), if !self.outgoing.is_empty() => {
                    return End::Failed(self.untaken());
                }
                Some(settled) = self.window.next(), if must_settle => {
                    if let Err(failed) = self.acknowledge(settled) {
                        return failed;
                    }
                }
                error = self.call.told_to_end(), if is_open => end = Some(self.told(error)),
                message = self.messages.message(), if has_room => end = self.take(message),
            }
        }
    }

    /// Takes the client's next message in; returns the stream's end, if that is what came.
    fn take(&mut self, message: Result<Option<CollectBidiRequest>, Status>) -> Option<End> {
        let taken = match self.call.read(message) {
            Read::Message(message) => self.begin(&message),
            Read::End(End::Failed(error)) => Err(error),
            Read::End(end) => return Some(end),
        };
        match taken {
            Ok(()) => {
                self.next += 1;
                None
            }
            Err(error) => Some(End::Failed(error.at("batch", self.next))),
        }
    }

    fn begin(&mut self, message: &CollectBidiRequest) -> Result<(), RequestError> {
        if message.batch_number != self.next {
            let text = format!("its batch_number is {}; do not retry", message.batch_number);
            let error = RequestError::new(Code::MalformedRequest, text);
            return Err(error.in_field("batch_number"));
        }
        let batch = Batch {
            number: message.batch_number,
            events: &message.events,
            stream: &message.stream,
            sent_at: message.sent_at.as_ref(),
        };
        self.call.begin(&batch, &mut self.window)
    }

    fn acknowledge(&mut self, settled: Settled) -> Result<(), End> {
        let outcomes = settled
            .outcomes
            .map_err(|error| End::Failed(error.at("batch", settled.number)))?;
        self.say(Message::Ack(results::ack(settled.number, outcomes)));
        Ok(())
    }

    /// The end of a stream that the server ends; a client that can still choose where to go is told at once.
    fn told(&mut self, error: RequestError) -> End {
        if error.code == Code::Draining {
            let retry_after = error
                .retry_after()
                .and_then(|wait| prost_types::Duration::try_from(wait).ok());
            self.say(Message::Draining(Draining { retry_after }));
        }
        End::Failed(error.at("batch", self.next))
    }

    fn untaken(&self) -> RequestError {
        let seconds = self.patience.as_secs_f64();
        let text = format!(
            "acknowledgements were not taken for {seconds} s; connect again and resend, with the same message ids, what was \
             not acknowledged"
        );
        RequestError::new(Code::RequestTimeout, text)
    }

    fn say(&mut self, message: Message) {
        if self.outgoing.is_empty() {
            self.offered_at = Instant::now();
        }
        self.outgoing.push_back(message);
    }

    fn hello(&self) -> Message {
        let config = self.call.ingress.config();
        Message::Hello(Hello {
            window_batches: WINDOW_BATCHES,
            message_bytes_max: config.body_bytes_max as u64,
            batch_events_max: u32::try_from(config.batch_events_max).unwrap_or(u32::MAX),
            event_bytes_max: config.event_bytes_max as u64,
            request_id: self.call.request_id.to_string(),
        })
    }
}
