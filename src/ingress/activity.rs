//! What a connection is doing, and how long it may go on: since when it was without a request, and which answers its client does
//! not take.
//!
//! An answer has the pace of a body ([`Pace`]): a client that reads nothing of it, or a few bytes now and then, is not waited
//! for. So that this can be seen, a large answer leaves in pieces; what it holds of the budget it holds until the last of them is
//! handed over. An answer that has nothing to say yet owes nothing: streams may be quiet.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::pace::{Pace, PaceLimits};
use super::shed::Held;

/// How much of an answer is handed over at a time: with HTTP/2 about what a stream whose client reads nothing takes in memory.
const PIECE_BYTES: usize = 16 * 1024;

/// What a connection is doing.
#[derive(Debug, Clone, Copy)]
enum State {
    /// It has not asked for anything.
    Fresh,
    /// So many requests are under way.
    Busy(usize),
    /// Nothing has been under way since then.
    Idle(Instant),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    pace: PaceLimits,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    state: State,
    /// The number of the next request.
    next: u64,
    /// Until when a client has to take more of an answer.
    due: HashMap<u64, Instant>,
}

impl Activity {
    /// A connection that was opened then; its answers are taken at this pace.
    pub(super) fn new(opened: Instant, pace: PaceLimits) -> Self {
        Self {
            opened,
            pace,
            now: Mutex::new(Now {
                state: State::Fresh,
                next: 0,
                due: HashMap::new(),
            }),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has asked for anything.
    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.now().state, State::Fresh)
    }

    /// When it has to close, as things stand: without its first request for so long, or without another for so long, or when an
    /// answer is not taken. `None`: it has something to do.
    pub(super) fn closes_at(&self, fresh: Duration, idle: Duration) -> Option<Instant> {
        let now = self.now();
        match now.state {
            State::Fresh => Some(self.opened + fresh),
            State::Idle(since) => Some(since + idle),
            State::Busy(_) => now.due.values().min().copied(),
        }
    }
}

/// One request under way, until the last byte of its answer is handed over.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    number: u64,
}

impl InFlight {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        let mut now = activity.now();
        now.state = match now.state {
            State::Busy(requests) => State::Busy(requests + 1),
            State::Fresh | State::Idle(_) => State::Busy(1),
        };
        let number = now.next;
        now.next += 1;
        drop(now);
        Self {
            activity: Arc::clone(activity),
            number,
        }
    }

    /// The client has to take more until then; `None`: nothing is there for it.
    fn owes(&self, due: Option<Instant>) {
        let mut now = self.activity.now();
        match due {
            Some(due) => now.due.insert(self.number, due),
            None => now.due.remove(&self.number),
        };
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut now = self.activity.now();
        now.due.remove(&self.number);
        now.state = match now.state {
            State::Busy(requests) if requests > 1 => State::Busy(requests - 1),
            State::Fresh | State::Busy(_) | State::Idle(_) => State::Idle(Instant::now()),
        };
    }
}

/// Keeps a request under way until its answer is handed over.
pub(super) fn guarded(mut response: Response<Body>, request: InFlight) -> Response<Answer> {
    let held = response.extensions_mut().remove::<Arc<Held>>();
    let limits = request.activity.pace;
    response.map(|inner| {
        let mut answer = Answer {
            inner,
            rest: Bytes::new(),
            handed_over: 0,
            pace: None,
            limits,
            request,
            _held: held,
        };
        answer.hand_over(0);
        answer
    })
}

/// An answer's body.
pub(super) struct Answer {
    inner: Body,
    /// What is left of a piece that was too large.
    rest: Bytes,
    /// How much the last piece was.
    handed_over: usize,
    /// How the client takes what is there for it; `None`: nothing is.
    pace: Option<Pace>,
    limits: PaceLimits,
    request: InFlight,
    _held: Option<Arc<Held>>,
}

impl Answer {
    /// So much is there for the client, and it is asked for more once that is on its way.
    fn hand_over(&mut self, bytes: usize) {
        let pace = self
            .pace
            .get_or_insert_with(|| Pace::begin(self.limits, Instant::now()));
        self.handed_over = bytes;
        self.request.owes(Some(pace.due()));
    }

    /// The client took what was there for it.
    fn taken(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.came(self.handed_over, Instant::now());
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.taken();
        if this.rest.is_empty() {
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                this.pace = None;
                this.request.owes(None);
                return Poll::Pending;
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(trailers))) => {
                    this.hand_over(0);
                    return Poll::Ready(Some(Ok(trailers)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        this.hand_over(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.inner.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::shed::Budget;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: PaceLimits = PaceLimits {
        pause_max: Duration::from_secs(5),
        rate_min: 16 * 1024,
    };

    fn connection() -> Arc<Activity> {
        Arc::new(Activity::new(Instant::now(), LIMITS))
    }

    fn closes_in(activity: &Activity) -> Option<u64> {
        let at = activity.closes_at(10 * SECOND, 60 * SECOND)?;
        Some((at - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_closes_when_it_asks_for_nothing() {
        let activity = connection();
        assert_eq!(closes_in(&activity), Some(10));
        let (one, two) = (InFlight::begin(&activity), InFlight::begin(&activity));
        assert!(activity.has_begun());
        tokio::time::advance(SECOND).await;
        drop(one);
        assert_eq!(closes_in(&activity), None);
        drop(two);
        assert_eq!(closes_in(&activity), Some(60));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_due_at_its_pace_and_holds_its_place_to_the_end() {
        let (activity, budget) = (connection(), Budget::new(100));
        let mut response = Response::new(Body::from(vec![7; 40_000]));
        let held = Arc::new(budget.take(10).unwrap());
        response.extensions_mut().insert(held);
        let mut answer = guarded(response, InFlight::begin(&activity)).into_body();
        assert_eq!(answer.size_hint().exact(), Some(40_000));
        assert_eq!(closes_in(&activity), Some(5));
        let mut sizes = Vec::new();
        // Each piece that was taken earns a second.
        for due in [5, 4, 3] {
            sizes.push(
                answer
                    .frame()
                    .await
                    .unwrap()
                    .unwrap()
                    .into_data()
                    .unwrap()
                    .len(),
            );
            assert_eq!(closes_in(&activity), Some(due), "{sizes:?}");
            tokio::time::advance(2 * SECOND).await;
        }
        assert_eq!(sizes, [16_384, 16_384, 7_232]);
        assert_eq!(budget.used(), 10);
        assert!(answer.is_end_stream() && answer.frame().await.is_none());
        drop(answer);
        assert_eq!((budget.used(), closes_in(&activity)), (0, Some(60)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_with_nothing_to_say_owes_nothing() {
        let activity = connection();
        let endless = futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        let body = Body::new(http_body_util::StreamBody::new(endless));
        let mut answer = guarded(Response::new(body), InFlight::begin(&activity)).into_body();
        let mut frame = std::pin::pin!(answer.frame());
        assert!(futures::poll!(&mut frame).is_pending());
        assert_eq!(closes_in(&activity), None);
    }
}
