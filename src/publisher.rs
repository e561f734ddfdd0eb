//! The publisher: follows the log's durable tail, seals batches per lane, hands them on, moves the checkpoint.
//!
//! What it promises:
//!
//! 1. Every record of the log becomes part of exactly one batch of its lane, and batches of a lane are sent in order, one
//!    unsettled at a time.
//! 2. A batch's seal is durable before the batch is handed on; after a crash the same batch with the same identity is
//!    sent again.
//! 3. The checkpoint passes a record only after its batch is owned by the next owner. A queue that can only say later
//!    whether it owns what it took is asked while there is something to ask about; what it lost is sent again.
//! 4. Memory is bounded however large the backlog: one reader feeds all lanes, each lane holds one batch under way and one
//!    open one, each of at most its equal share of the budget. A full lane makes the reader wait; a lane that is stalled
//!    while others could go on falls behind: it keeps a cursor and nothing else, and rescans when it is free again.
//!
//! Architecture invariant: it does not know which queue it sends to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use opentelemetry::KeyValue;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::sleep_until;
use crate::config::{BatchRules, PublisherConfig};
use crate::event::{Lane, Offset};
use crate::queue::{Producer, Verdict};
use crate::telemetry::Metrics;
use crate::wal::{Checkpoint, LaneCheckpoint, ReadError, Unsettled, Wal};

mod gauges;
mod lane;
mod read;
mod send;
mod spans;
mod verify;

use gauges::Gauges;
use lane::{HELD_MAX, LaneState, Offered};
use read::{place, read, records};
use send::send;
use verify::Verifier;

/// A lane whose batch is under way for longer is stalled, if others could go on.
const STALL: Duration = Duration::from_secs(5);

/// Why the publisher ended although it was not told to.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The log cannot be read back.
    #[error("read the log")]
    Read(#[from] ReadError),
    /// What the log holds between a seal's offsets is not what was sealed.
    #[error("batch {number} of lane {lane} is not what was sealed")]
    SealMismatch {
        /// The lane.
        lane: Lane,
        /// The batch's number.
        number: u64,
    },
    /// The log failed or was closed.
    #[error("the log takes no seals any more")]
    LogClosed,
    /// The queue's other end is gone.
    #[error("the queue is closed")]
    QueueClosed,
    /// The runtime refused to run a read.
    #[error("a read of the log did not run")]
    Runtime,
}

/// A batch on its way: resolves when the queue took it.
type Sending = BoxFuture<'static, Result<Lane, PublishError>>;

/// See the module's page.
#[derive(Debug)]
pub struct Publisher {
    wal: Wal,
    producer: Arc<dyn Producer>,
    rules: BatchRules,
    metrics: Metrics,
    lanes: Vec<LaneState>,
    /// Everything below was offered to its lane.
    scanned: Offset,
    /// Records that were read and not yet offered.
    read: VecDeque<(Offset, Bytes)>,
    sending: FuturesUnordered<Sending>,
    verifier: Verifier,
    checkpoint: Checkpoint,
    /// Everything below is with the queue.
    sent: watch::Sender<Offset>,
    /// The queue could not say lately whether it keeps what it takes.
    in_doubt: bool,
    gauges: Arc<Gauges>,
}

impl Publisher {
    /// A publisher that goes on where the log's seals and checkpoint say.
    #[must_use]
    pub fn new(
        wal: Wal,
        unsettled: Unsettled,
        producer: Arc<dyn Producer>,
        config: &PublisherConfig,
        metrics: Metrics,
    ) -> Self {
        let Unsettled { checkpoint, seals } = unsettled;
        let count = usize::from(wal.lanes()).max(checkpoint.lanes.len());
        let log_id = wal.log_id();
        let lanes = (0..u16::try_from(count).unwrap_or(u16::MAX)).map(|lane| {
            let settled = checkpoint.lanes.get(usize::from(lane)).copied();
            let resumed = seals
                .iter()
                .filter(|seal| seal.batch.lane.0 == lane)
                .copied()
                .collect();
            LaneState::new(Lane(lane), log_id, settled.unwrap_or_default(), resumed)
        });
        // Each lane may hold two batches: its share of the budget is the same whatever the others do.
        let share = config.budget_bytes / (2 * count.max(1));
        let bytes = config.batch.bytes.min(share).max(1);
        let at = (count, checkpoint.offset);
        let verifier = Verifier::new(Arc::clone(&producer));
        let gauges = Gauges::register(&metrics, &wal, at, bytes.saturating_mul(count));
        gauges::age_limit(&metrics, config.batch.age);
        Self {
            lanes: lanes.collect(),
            rules: BatchRules {
                bytes,
                ..config.batch
            },
            wal,
            producer,
            metrics,
            scanned: checkpoint.offset,
            read: VecDeque::new(),
            sending: FuturesUnordered::new(),
            verifier,
            sent: watch::Sender::new(checkpoint.offset),
            in_doubt: false,
            checkpoint,
            gauges,
        }
    }

    /// Follows how far everything is with the queue, owned or not: all records below the offset. It does not move on while nobody
    /// knows whether the queue keeps what it takes, and goes back to what the queue lost.
    #[must_use]
    pub fn sent(&self) -> watch::Receiver<Offset> {
        self.sent.subscribe()
    }

    /// Publishes until told to stop; then seals what is there, waits until everything is settled, and returns. Dropping the
    /// future at any point loses nothing.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; what was not settled stays in the log.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), PublishError> {
        let mut durable = self.wal.durable();
        loop {
            let tail = *durable.borrow_and_update();
            let draining = stop.is_cancelled();
            self.catch_up().await?;
            self.offer(tail).await?;
            for lane in 0..self.lanes.len() {
                self.start_sending(lane, draining);
            }
            let asks_at = self.start_verifying(draining);
            if draining && self.is_settled(tail) {
                return self.move_checkpoint().await;
            }
            self.gauges.holds(&self.lanes, self.sending.len());
            let waiting = self.scanned >= tail;
            let ripe = self.lanes.iter();
            let ripe = ripe.filter_map(|lane| lane.deadline(&self.rules));
            let deadline = ripe.chain(asks_at).min();
            tokio::select! {
                // Cancel safe: the futures stay in the set.
                Some(sent) = self.sending.next() => self.took(sent?).await?,
                // Cancel safe: the question stays in the set.
                Some((round, verdict)) = self.verifier.answer() => self.verified(round, verdict).await?,
                // Cancel safe: the value is looked at again above.
                changed = durable.changed(), if waiting => {
                    changed.map_err(|_gone| PublishError::LogClosed)?;
                }
                // Cancel safe: a deadline that is cut short is computed again.
                () = sleep_until(deadline) => {}
                // Cancel safe: the token stays cancelled.
                () = stop.cancelled(), if !draining => {}
                // Cancel safe. Only a stalled lane can be what the reader waits for now.
                () = tokio::time::sleep(STALL), if !waiting => {}
            }
        }
    }

    /// Offers records up to the durable tail, as far as lanes take them.
    async fn offer(&mut self, tail: Offset) -> Result<(), PublishError> {
        loop {
            if self.read.is_empty() {
                if self.scanned >= tail {
                    return Ok(());
                }
                let groups = read(self.wal.clone(), self.scanned).await?;
                let from = self.scanned;
                self.read
                    .extend(records(groups).filter(|(offset, _)| *offset >= from));
            }
            let now = Instant::now();
            while let Some((offset, bytes)) = self.read.front().cloned() {
                let (lane, day) = place(&bytes, self.lanes.len());
                let rules = self.rules;
                let Some(state) = self.lanes.get_mut(lane) else {
                    break;
                };
                if state.offer((offset, day), &bytes, &rules, now) == Offered::Full
                    && !self.start_sending(lane, false)
                {
                    if !self.is_stalled(lane, now) {
                        return Ok(());
                    }
                    tracing::warn!(lane, "lane_fell_behind");
                    if let Some(state) = self.lanes.get_mut(lane) {
                        state.behind = Some(offset);
                    }
                } else if self
                    .lanes
                    .get(lane)
                    .is_some_and(|state| state.holds(offset))
                {
                    self.scanned = offset + 1;
                    self.read.pop_front();
                }
            }
        }
    }

    /// Lanes that fell behind and are free again fetch what they left, up to the reader's position.
    async fn catch_up(&mut self) -> Result<(), PublishError> {
        for lane in 0..self.lanes.len() {
            let cursor = |lanes: &[LaneState]| {
                lanes
                    .get(lane)
                    .filter(|state| !state.is_busy())
                    .and_then(|state| state.behind)
            };
            let mut full = false;
            while let (false, Some(from)) = (full, cursor(&self.lanes)) {
                let groups = if from < self.scanned {
                    read(self.wal.clone(), from).await?
                } else {
                    Vec::new()
                };
                let (scanned, rules, now) = (self.scanned, self.rules, Instant::now());
                let mut reached = from;
                for (offset, bytes) in records(groups) {
                    if offset < from || offset >= scanned {
                        continue;
                    }
                    let (at, day) = place(&bytes, self.lanes.len());
                    let Some(state) = self.lanes.get_mut(lane) else {
                        break;
                    };
                    if at == lane && !state.catch_up((offset, day), &bytes, &rules, now) {
                        full = true;
                        break;
                    }
                    reached = offset + 1;
                }
                if let Some(state) = self.lanes.get_mut(lane) {
                    state.behind = (reached < scanned).then_some(reached);
                }
            }
        }
        Ok(())
    }

    /// Puts the lane's next batch under way, if there is one to be put and the lane is free.
    fn start_sending(&mut self, lane: usize, drain: bool) -> bool {
        let now = Instant::now();
        let Some(state) = self.lanes.get_mut(lane) else {
            return false;
        };
        let (seal, new) = if let Some(seal) = state.resume(now) {
            (seal, None)
        } else if let Some(reason) = state.ripe(&self.rules, now, drain)
            && let Some((seal, batch, contexts)) = state.seal(now)
        {
            let reason = [KeyValue::new("reason", reason.as_str())];
            self.metrics.publisher_batches_sealed.add(1, &reason);
            (seal, Some((batch, contexts)))
        } else {
            return false;
        };
        let (wal, producer) = (self.wal.clone(), Arc::clone(&self.producer));
        let tracing = self.metrics.tracing().clone();
        self.sending
            .push(Box::pin(send(wal, producer, tracing, seal, new)));
        true
    }

    /// Asks the queue what it owns, when it is time to; says when there is something to ask next.
    fn start_verifying(&mut self, draining: bool) -> Option<Instant> {
        if self.lanes.iter().all(|lane| lane.held() == 0) {
            return None;
        }
        let is_crowded = self.lanes.iter().any(|lane| lane.held() * 2 > HELD_MAX);
        // At the end nothing new is sent, so that one question about all of it is enough.
        let is_last = draining && self.sending.is_empty();
        self.verifier.ask(Instant::now(), is_last || is_crowded);
        self.verifier.due()
    }

    /// The queue answered about everything that it took up to this round.
    async fn verified(&mut self, round: u64, verdict: Verdict) -> Result<(), PublishError> {
        match verdict {
            Verdict::Owned => {
                let settled: u64 = self.lanes.iter_mut().map(|lane| lane.settle(round)).sum();
                self.metrics.publisher_batches_settled.add(settled, &[]);
            }
            Verdict::Lost => {
                let lost: usize = self.lanes.iter_mut().map(LaneState::lose).sum();
                self.metrics.publisher_batches_lost.add(lost as u64, &[]);
                tracing::error!(batch_count = lost, "queue_lost_batches_sent_again");
            }
            Verdict::Unknown => {}
        }
        self.in_doubt = verdict == Verdict::Unknown;
        let holds = self.lanes.iter().any(|lane| lane.held() > 0);
        self.verifier.answered(verdict, holds, Instant::now());
        self.move_checkpoint().await
    }

    /// The queue took a batch.
    async fn took(&mut self, lane: Lane) -> Result<(), PublishError> {
        let (now, round) = (Instant::now(), self.verifier.round());
        if let Some(state) = self.lanes.get_mut(usize::from(lane.0)) {
            let took = state.busy_for(now).unwrap_or_default();
            let seconds = &self.metrics.publisher_send_seconds;
            seconds.record(took.as_secs_f64(), &[]);
            if let Some(seal) = state.hold(round) {
                if self.verifier.is_never_asked() {
                    self.metrics
                        .publisher_batches_settled
                        .add(state.settle(round), &[]);
                }
                tracing::info!(
                    partition = lane.0,
                    event_count = seal.count,
                    duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "flush_completed"
                );
            }
        }
        self.verifier.took(Instant::now());
        self.move_checkpoint().await
    }

    /// Records how far everything is settled, if that has changed.
    async fn move_checkpoint(&mut self) -> Result<(), PublishError> {
        let lanes: Vec<LaneCheckpoint> = self
            .lanes
            .iter()
            .map(|lane| lane.checkpoint(self.scanned))
            .collect();
        let sent = self
            .lanes
            .iter()
            .map(|lane| lane.sent_below(self.scanned))
            .min();
        let in_doubt = self.in_doubt;
        self.sent.send_if_modified(|below| {
            let moved = sent.filter(|sent| sent < below || (sent > below && !in_doubt));
            moved.is_some_and(|sent| std::mem::replace(below, sent) != sent)
        });
        self.gauges.settled(&lanes);
        let offset = lanes
            .iter()
            .map(|lane| lane.settled_below)
            .min()
            .unwrap_or(0);
        let checkpoint = Checkpoint { offset, lanes };
        if checkpoint == self.checkpoint {
            return Ok(());
        }
        self.checkpoint = checkpoint.clone();
        if self.wal.checkpoint(checkpoint).await {
            Ok(())
        } else {
            Err(PublishError::LogClosed)
        }
    }

    /// Whether the lane keeps the reader waiting while another could go on.
    fn is_stalled(&self, lane: usize, now: Instant) -> bool {
        let busy = self.lanes.get(lane).and_then(|state| state.busy_for(now));
        busy.is_some_and(|busy| busy >= STALL) && self.lanes.iter().any(LaneState::is_idle)
    }

    fn is_settled(&self, tail: Offset) -> bool {
        let done = |lane: &LaneState| lane.is_idle() && lane.held() == 0;
        self.scanned >= tail && self.sending.is_empty() && self.lanes.iter().all(done)
    }
}
