//! `CollectStream`: batches in, one summary out.

use tonic::Streaming;

use super::super::grpc::Batch;
use super::super::outcome::{self, Counts, Outcome, RequestError};
use super::super::results;
use super::{Call, End, Read, Settled, Window};
use crate::proto::server::CollectStreamRequest;
use crate::proto::v1::{CodeCount, CollectStreamResponse, StreamEventResult};
use crate::status::Code;

/// How many outcomes a summary lists.
const LISTED_MAX: usize = 1_000;

/// Reads a client stream to its end.
///
/// # Errors
///
/// Why the stream ended early, and in its text what of it had been stored by then.
pub(crate) async fn run(
    call: Call,
    messages: Streaming<CollectStreamRequest>,
) -> Result<CollectStreamResponse, RequestError> {
    call.received();
    let mut stream = ClientStream {
        window: Window::new(&call.ingress, &call.caller),
        summary: Summary::default(),
        events: 0,
        next: 0,
        call,
    };
    let end = stream.read_all(messages).await;
    // What was begun is settled before anything is said about it.
    let end = match stream.settle_all().await {
        Ok(()) => end,
        Err(failed) => failed,
    };
    stream.call.completed(&end);
    let ClientStream { call, summary, .. } = stream;
    match end {
        End::Closed => Ok(summary.response(&call.request_id)),
        End::Failed(error) => Err(summary.complete(error)),
        // Nobody hears this.
        End::Gone => Err(Code::OutcomeUnknown.into()),
    }
}

struct ClientStream {
    call: Call,
    window: Window,
    summary: Summary,
    /// Events read so far.
    events: usize,
    /// The place of the next message in the stream.
    next: u64,
}

impl ClientStream {
    async fn read_all(&mut self, mut messages: Streaming<CollectStreamRequest>) -> End {
        loop {
            let has_room = self.window.has_room();
            // Every arm is cancel safe: the window and the stream keep what they have.
            let message = tokio::select! {
                biased;
                Some(settled) = self.window.next(), if !self.window.is_empty() => {
                    match self.summary.add(settled) {
                        Ok(()) => continue,
                        Err(failed) => return failed,
                    }
                }
                error = self.call.told_to_end() => return self.failed(error),
                message = messages.message(), if has_room => message,
            };
            let message = match self.call.read(message) {
                Read::Message(message) => message,
                Read::End(End::Failed(error)) => return self.failed(error),
                Read::End(end) => return end,
            };
            if let Err(error) = self.begin(&message) {
                return self.failed(error);
            }
            self.next += 1;
        }
    }

    fn begin(&mut self, message: &CollectStreamRequest) -> Result<(), RequestError> {
        let max = self.call.ingress.config().stream_events_max;
        self.events = self.events.saturating_add(message.events.len());
        if self.events > max {
            let text = format!(
                "the stream carries more than {max} events; do not retry it, go on in another one"
            );
            return Err(RequestError::new(Code::TooManyEvents, text));
        }
        let batch = Batch {
            number: self.next,
            events: &message.events,
            stream: &message.stream,
            sent_at: message.sent_at.as_ref(),
        };
        self.call.begin(&batch, &mut self.window)
    }

    async fn settle_all(&mut self) -> Result<(), End> {
        while let Some(settled) = self.window.next().await {
            self.summary.add(settled)?;
        }
        Ok(())
    }

    /// The end of a stream whose next message was not taken.
    fn failed(&self, error: RequestError) -> End {
        End::Failed(error.at("message", self.next))
    }
}

/// What became of the events so far.
#[derive(Debug, Default)]
struct Summary {
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    by_code: Vec<(Code, u64)>,
    listed: Vec<StreamEventResult>,
    truncated: bool,
}

impl Summary {
    fn add(&mut self, settled: Settled) -> Result<(), End> {
        let outcomes = settled
            .outcomes
            .map_err(|error| End::Failed(error.at("message", settled.number)))?;
        let counts = Counts::of(&outcomes);
        self.accepted += u64::from(counts.accepted);
        self.duplicate += u64::from(counts.duplicate);
        self.rejected += u64::from(counts.rejected);
        if counts.rejected > 0 {
            for (code, count) in outcome::rejected_by_code(&outcomes) {
                match self.by_code.iter_mut().find(|(known, _)| *known == code) {
                    Some((_, total)) => *total += count,
                    None => self.by_code.push((code, count)),
                }
            }
        }
        for (index, outcome) in (0u32..).zip(outcomes) {
            if matches!(outcome, Outcome::Accepted { .. }) {
                continue;
            }
            if self.listed.len() == LISTED_MAX {
                self.truncated = true;
                break;
            }
            self.listed.push(StreamEventResult {
                message_index: settled.number,
                result: Some(results::result(index, outcome)),
            });
        }
        Ok(())
    }

    /// The error of a stream that ended early, with what of it is stored all the same.
    fn complete(&self, mut error: RequestError) -> RequestError {
        error.text = format!(
            "{}; before that: {} accepted, {} duplicate, {} rejected",
            error.text, self.accepted, self.duplicate, self.rejected
        )
        .into();
        error
    }

    fn response(self, request_id: &str) -> CollectStreamResponse {
        let by_code = self.by_code.into_iter().map(|(code, count)| CodeCount {
            code: code.as_str().to_owned(),
            count,
        });
        CollectStreamResponse {
            accepted: self.accepted,
            duplicate: self.duplicate,
            rejected: self.rejected,
            rejected_by_code: by_code.collect(),
            results: self.listed,
            results_truncated: self.truncated,
            request_id: request_id.to_owned(),
        }
    }
}
