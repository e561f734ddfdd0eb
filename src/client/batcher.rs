//! A queue before the client: events go in one by one, batches go out, and each event's outcome is told.
//!
//! - A batch leaves when it has as many events or bytes as [`BatchOptions`] say, when its first event has waited so long, or when
//!   somebody flushes; so many batches may be under way at once.
//! - Memory is bounded: what waits and what is under way is counted together, in events and in bytes. When that is full, whoever
//!   enqueues waits, or gets the event back.
//! - An event leaves the queue with exactly one [`Outcome`]. What is unacknowledged when the limits of
//!   [`super::RetryPolicy`] are reached is told so, and may be enqueued again: it keeps its id.
//! - Events keep their order where one batch is under way at a time ([`BatchOptions::concurrency`] 1).
//!
//! Dropped without [`Batcher::close`], what is in the queue is still sent, as long as the runtime lives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::stats::Counts;
use super::{Client, Event, Outcome};
use crate::lifecycle::Tasks;

mod run;

/// What an event takes beyond its JSON text, about.
const EVENT_BYTES: usize = 256;

type Tell = dyn Fn(&Event, &Outcome) + Send + Sync;

/// What is done with an event's outcome.
#[derive(Clone)]
pub struct OnOutcome(Arc<Tell>);

impl OnOutcome {
    /// Called once for each event, from the queue's own task: what takes long holds it up. A panic in it is caught, and logged.
    pub fn new(tell: impl Fn(&Event, &Outcome) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

/// Nobody is told; the counts are in [`Client::stats`].
impl Default for OnOutcome {
    fn default() -> Self {
        Self::new(|_event, _outcome| {})
    }
}

impl fmt::Debug for OnOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnOutcome(..)")
    }
}

/// What becomes of an event that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Whoever enqueues it waits for room.
    Wait,
    /// It is given back: [`EnqueueError::Full`].
    Refuse,
}

/// How a queue gathers and how much it holds.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// A batch leaves with so many events.
    pub batch_events: usize,
    /// A batch leaves when its events have so many bytes; it may have one event more.
    pub batch_bytes: usize,
    /// A batch leaves when its first event has waited so long.
    pub age_max: Duration,
    /// So many batches are under way at once; events of different batches then have no order.
    pub concurrency: usize,
    /// The most events that wait or are under way.
    pub queue_events: usize,
    /// The most bytes that they take, about.
    pub queue_bytes: usize,
    /// What happens beyond that.
    pub when_full: WhenFull,
    /// Who hears of each event's outcome.
    pub on_outcome: OnOutcome,
}

impl Default for BatchOptions {
    /// 100 events, 512 KiB or a second a batch; four of them at once; at most 10,000 events and 32 MiB in all; then one waits.
    fn default() -> Self {
        Self {
            batch_events: 100,
            batch_bytes: 512 * 1024,
            age_max: Duration::from_secs(1),
            concurrency: 4,
            queue_events: 10_000,
            queue_bytes: 32 * 1024 * 1024,
            when_full: WhenFull::Wait,
            on_outcome: OnOutcome::default(),
        }
    }
}

/// Why an event did not go in. It is given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnqueueError {
    /// There is no room, and waiting was not asked for.
    #[error("the queue is full")]
    Full(Event),
    /// It takes more than the whole queue may hold.
    #[error("the event is larger than the queue")]
    TooLarge(Event),
    /// The queue was closed.
    #[error("the queue is closed")]
    Closed(Event),
}

impl EnqueueError {
    /// The event.
    #[must_use]
    pub fn into_event(self) -> Event {
        match self {
            Self::Full(event) | Self::TooLarge(event) | Self::Closed(event) => event,
        }
    }
}

/// Why a flush did not reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// Time was up; so many events of the queue have no outcome yet.
    #[error("time is up, and {waiting} events have no outcome yet")]
    Late {
        /// How many.
        waiting: usize,
    },
    /// The queue was closed meanwhile.
    #[error("the queue is closed")]
    Closed,
}

/// Gathers events into batches and sends them. Cheap to clone; all clones are one queue.
#[derive(Debug, Clone)]
pub struct Batcher {
    items: mpsc::Sender<Item>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    options: BatchOptions,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Nothing more is sent.
    stop: CancellationToken,
    /// Every event has its outcome, and the task is over.
    ended: CancellationToken,
}

#[derive(Debug)]
enum Item {
    Event(Queued),
    /// Answered when everything before it has an outcome.
    Flush(oneshot::Sender<()>),
}

/// An event and the room that it takes.
#[derive(Debug)]
struct Queued {
    event: Event,
    room: Room,
}

/// One of the events and so many of the bytes, until it is dropped.
#[derive(Debug)]
struct Room {
    _event: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Batcher {
    /// A queue before a client. Must be called within a runtime.
    pub(super) fn new(client: Client, options: BatchOptions) -> Self {
        let queue_events = options.queue_events.clamp(1, Semaphore::MAX_PERMITS);
        let queue_bytes = options.queue_bytes.min(u32::MAX as usize);
        let (items, receiver) = mpsc::channel(queue_events);
        let shared = Arc::new(Shared {
            events: Arc::new(Semaphore::new(queue_events)),
            bytes: Arc::new(Semaphore::new(queue_bytes)),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            options: BatchOptions {
                queue_events,
                queue_bytes,
                ..options
            },
            client,
        });
        let task = run::run(Arc::clone(&shared), receiver);
        drop(Tasks::default().spawn_isolated("client queue", task));
        Self { items, shared }
    }

    /// Puts an event into the queue: it will be sent.
    ///
    /// Cancel safe: dropped before it is ready, the event is not in the queue.
    ///
    /// # Errors
    ///
    /// [`EnqueueError`], with the event.
    pub async fn enqueue(&self, event: Event) -> Result<(), EnqueueError> {
        let bytes = event.json().len().saturating_add(EVENT_BYTES);
        if bytes > self.shared.options.queue_bytes {
            return Err(EnqueueError::TooLarge(event));
        }
        // It is no more than the queue, which is no more than this.
        let many = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = match self.shared.options.when_full {
            WhenFull::Wait => self.shared.wait_for_room(many).await,
            WhenFull::Refuse => self.shared.take_room(many),
        };
        let room = match room {
            Ok(room) => room,
            Err(TryAcquireError::Closed) => return Err(EnqueueError::Closed(event)),
            Err(TryAcquireError::NoPermits) => {
                self.shared.counts().refused();
                return Err(EnqueueError::Full(event));
            }
        };
        // There is a place for every event that has room, unless many flush at once.
        let Ok(place) = self.items.reserve().await else {
            return Err(EnqueueError::Closed(event));
        };
        self.shared.counts().queued(1);
        place.send(Item::Event(Queued { event, room }));
        Ok(())
    }

    /// Sends what is in the queue without waiting for more, and waits until everything that was enqueued before has its outcome.
    ///
    /// # Errors
    ///
    /// [`FlushError`]: time was up. Everything stays in the queue and is sent on.
    pub async fn flush(&self, within: Duration) -> Result<(), FlushError> {
        let (tell, told) = oneshot::channel();
        let all = async {
            let sent = self.items.send(Item::Flush(tell)).await;
            sent.map_err(|_refused| FlushError::Closed)?;
            told.await.map_err(|_dropped| FlushError::Closed)
        };
        timeout(within, all).await.unwrap_or_else(|_elapsed| {
            Err(FlushError::Late {
                waiting: self.waiting().0,
            })
        })
    }

    /// Takes nothing more in, sends what there is, and ends. Whatever has no outcome by then is told that it is unacknowledged.
    ///
    /// # Errors
    ///
    /// [`FlushError::Late`]: so many events were told so.
    pub async fn close(&self, within: Duration) -> Result<(), FlushError> {
        self.shared.events.close();
        self.shared.bytes.close();
        let flushed = self.flush(within).await;
        self.shared.stop.cancel();
        self.shared.ended.cancelled().await;
        flushed
    }

    /// How many events, and how many of their bytes, wait or are under way.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let Shared {
            options,
            events,
            bytes,
            ..
        } = &*self.shared;
        (
            options.queue_events - events.available_permits(),
            options.queue_bytes - bytes.available_permits(),
        )
    }

    /// What sends the batches; its [`Client::stats`] count the queue's events.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }
}

impl Shared {
    fn counts(&self) -> &Counts {
        &self.client.counts
    }

    async fn wait_for_room(&self, bytes: u32) -> Result<Room, TryAcquireError> {
        let closed = |_closed| TryAcquireError::Closed;
        let event = Arc::clone(&self.events).acquire_owned().await;
        let event = event.map_err(closed)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        Ok(Room {
            _event: event,
            bytes: bytes.map_err(closed)?,
        })
    }

    fn take_room(&self, bytes: u32) -> Result<Room, TryAcquireError> {
        Ok(Room {
            _event: Arc::clone(&self.events).try_acquire_owned()?,
            bytes: Arc::clone(&self.bytes).try_acquire_many_owned(bytes)?,
        })
    }

    /// An event leaves the queue.
    fn tell(&self, event: &Event, outcome: &Outcome) {
        self.counts().queued(-1);
        let tell = || (self.options.on_outcome.0)(event, outcome);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell)).is_err() {
            tracing::error!("outcome_callback_panicked");
        }
    }
}
