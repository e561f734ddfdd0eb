//! Streams of batches: what both streaming calls share.
//!
//! A stream hands one batch after the other to the log without waiting for each, so that the batches of one stream lie in the
//! log in the order in which they were sent and share its syncs. Their outcomes come back in the same order. What is under
//! way is bounded by a [`Window`]: while it is full, nothing is read, and HTTP/2 flow control holds the client.
//!
//! A stream runs as a task of its own: what was begun is settled and counted even when the client is gone.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::grpc::{Batch, By};
use super::lines::Line;
use super::outcome::{self, Outcome, RequestError};
use super::rpc_status;
use super::sender::Sender;
use super::shed::Held;
use super::{Caller, Deadline, Ingress, spans};
use crate::clock::sleep_until;
use crate::status::Code;
use crate::telemetry::Span;
use crate::telemetry::metrics::{Raised, labels};

pub(super) mod bidi;
pub(super) mod client;

/// How many batches of one stream may be under way.
pub(super) const WINDOW_BATCHES: u32 = 64;
/// The HTTP status in the log of a stream that its client left.
const CLIENT_GONE: u16 = 499;

/// One streaming call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) ingress: Ingress,
    /// Who opened it; looked up again when the keys have changed.
    pub(super) caller: Caller,
    pub(super) request_id: Arc<str>,
    pub(super) deadline: Option<Deadline>,
    pub(super) drain: CancellationToken,
    /// The bytes that arrived and are not a whole message yet.
    pub(super) unread: Option<Arc<Held>>,
    pub(super) path: &'static str,
    /// Who makes it, where that is a browser itself.
    pub(super) sender: Arc<Sender>,
    pub(super) span: Span,
    pub(super) started: Instant,
    /// Counted as long as it lives.
    pub(super) _open: Raised,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed its side, and was told everything.
    Closed,
    /// The client is gone.
    Gone,
    /// With an error that the client is told.
    Failed(RequestError),
}

impl End {
    fn code(&self) -> tonic::Code {
        match self {
            Self::Closed => tonic::Code::Ok,
            Self::Gone => tonic::Code::Cancelled,
            Self::Failed(error) => error.code.grpc(),
        }
    }
}

/// What reading the next message came to.
#[derive(Debug)]
pub(super) enum Read<T> {
    Message(T),
    /// There is no next message.
    End(End),
}

impl Call {
    /// The stream's first line in the log.
    pub(super) fn received(&self) {
        self.line().received();
    }

    fn line(&self) -> Line<'_> {
        Line::of_call(self.path, "any", &self.request_id)
    }

    /// The stream's last line in the log; how long it took.
    pub(super) fn completed(&self, end: &End) -> Duration {
        let took = self.started.elapsed();
        let status_code = match end {
            End::Closed => 200,
            End::Gone => CLIENT_GONE,
            End::Failed(error) => error.code.http(),
        };
        if matches!(end, End::Closed) {
            spans::rpc_ended(&self.span, end.code());
        }
        self.line().completed(status_code, took);
        took
    }

    /// Counts a stream whose status went out in trailers, where the layer around the calls does not see it.
    pub(super) fn record(&self, end: &End, took: Duration) {
        if !matches!(end, End::Closed) {
            spans::rpc_ended(&self.span, end.code());
        }
        let seconds = &self.ingress.metrics().request_seconds;
        seconds.record(took.as_secs_f64(), labels::grpc_request(end.code()));
    }

    /// Resolves when nothing more may be read: the deadline passed, the stream is too old, or the server drains. Cancel safe.
    pub(super) async fn told_to_end(&self) -> RequestError {
        let age_max = self.ingress.config().guard.stream_age_max;
        let deadline = self.deadline.as_ref().map(Deadline::at);
        told_to_end(&self.drain, deadline, self.started, age_max).await
    }

    /// Says what came from the client.
    pub(super) fn read<T>(&self, message: Result<Option<T>, Status>) -> Read<T> {
        // The message is complete: what it took on the wire is free for the next one.
        if let Some(unread) = &self.unread {
            unread.give_back();
        }
        match message {
            Ok(Some(message)) => Read::Message(message),
            Ok(None) => Read::End(End::Closed),
            Err(status) => {
                let max = self.ingress.config().body_bytes_max;
                let error = rpc_status::request_error(&status, max);
                Read::End(error.map_or(End::Gone, End::Failed))
            }
        }
    }

    /// Hands a batch to the log. Its outcomes come out of the window, after those of every batch before it.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: nothing of this batch was stored.
    pub(super) fn begin(&self, batch: &Batch<'_>, window: &mut Window) -> Result<(), RequestError> {
        let span = spans::of_message(self.ingress.tracing(), &self.span, batch.events.len());
        let renewed = self.ingress.renewed(&self.caller)?;
        let by = By {
            request_id: &self.request_id,
            caller: renewed.as_ref().unwrap_or(&self.caller),
            client: self.sender.client(),
            deadline: self.deadline.as_ref(),
        };
        let submission = batch.submission(by, span)?;
        tracing::debug!(
            batch = batch.number,
            events = batch.events.len(),
            request_id = &*self.request_id,
            stream = submission.stream.of(""),
            "batch_received"
        );
        let bytes: usize = batch.events.iter().map(bytes::Bytes::len).sum();
        let cost = bytes + batch.events.len() * outcome::BYTES;
        let cost = cost.min(self.ingress.config().body_bytes_max);
        let held = self.ingress.hold(cost, by.caller)?;
        let pending = self.ingress.begin(submission)?.into_owned();
        let (ingress, number) = (self.ingress.clone(), batch.number);
        let settled = async move {
            let outcomes = ingress.settle(pending).await;
            Settled {
                number,
                outcomes,
                cost,
                _held: held,
            }
        };
        window.cost += cost;
        window.under_way.push_back(Box::pin(settled));
        Ok(())
    }
}

/// Resolves when the server drains, the deadline passed, or what began then is too old. Cancel safe.
pub(super) async fn told_to_end(
    drain: &CancellationToken,
    deadline: Option<Instant>,
    began: Instant,
    age_max: Option<Duration>,
) -> RequestError {
    let old_at = age_max.and_then(|age| began.checked_add(age));
    // All arms are cancel safe: a token stays cancelled, a moment stays past.
    tokio::select! {
        biased;
        () = drain.cancelled() => Code::Draining.into(),
        () = sleep_until(deadline) => Code::DeadlineExceeded.into(),
        () = sleep_until(old_at) => too_old(age_max.unwrap_or_default()),
    }
}

/// Connections and streams that live for ever never find another gateway.
fn too_old(age: Duration) -> RequestError {
    let text = format!(
        "the stream is {} s old and ends; what came before is answered; go on in another one with the same message ids",
        age.as_secs_f64()
    );
    RequestError::new(Code::Draining, text)
}

/// What is under way below so many bytes leaves room for one more message, however large. A stream that takes more than there ever
/// is would be refused as often as it came.
fn window_bytes(largest: usize, room: usize) -> usize {
    room.saturating_sub(largest).saturating_add(1).min(largest)
}

/// The batches of a stream that are under way.
pub(super) struct Window {
    under_way: FuturesOrdered<BoxFuture<'static, Settled>>,
    cost: usize,
    cost_max: usize,
}

/// A batch whose outcome is known.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) number: u64,
    pub(super) outcomes: Result<Vec<Outcome<'static>>, RequestError>,
    cost: usize,
    _held: Held,
}

impl Window {
    pub(super) fn new(ingress: &Ingress, caller: &Caller) -> Self {
        let (config, share) = (ingress.config(), caller.share());
        let room = share.map_or(usize::MAX, |share| share.bytes.max());
        let room = room.min(config.in_flight_bytes_max);
        Self {
            under_way: FuturesOrdered::new(),
            cost: 0,
            cost_max: window_bytes(config.body_bytes_max, room),
        }
    }

    /// Whether one more message may be read: with it, at most about two of the largest are under way, and no more than there is
    /// room for when nobody else needs any.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.len() < WINDOW_BATCHES as usize && self.cost < self.cost_max
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The next batch, in the order of the stream, once it is settled; `None` when none is under way. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Settled> {
        let settled = self.under_way.next().await?;
        self.cost = self.cost.saturating_sub(settled.cost);
        Some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_leaves_room_for_the_largest_message() {
        let cases = [
            (64, 4),
            (7, 4),
            (6, 3),
            (5, 2),
            (4, 1),
            (1, 1),
            (usize::MAX, 4),
        ];
        for (room, expected) in cases {
            assert_eq!(window_bytes(4, room), expected, "{room}");
        }
    }
}
