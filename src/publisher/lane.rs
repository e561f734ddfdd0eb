//! One lane of the publisher: what is open, what is under way, where it goes on. Pure: time comes in as an argument.
//!
//! ```text
//!   records ─▶ open batch ─(ripe, lane free)─▶ under way: sealed, sent ─▶ held by the queue ─(owned)─▶ checkpoint
//!                 │                                          ▲                   │
//!                 │                                          └─────(lost)────────┘
//!                 └─(full, lane busy)─▶ the reader waits; a stalled lane falls behind: it keeps a cursor and nothing else
//! ```
//!
//! With a queue that owns what it took (the in-process one) "held" is over at once. Towards a broker a batch is only its
//! seal by then, a few bytes: what is lost after all is fetched from the log again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::config::BatchRules as Rules;
use crate::event::{BatchId, Day, Lane, LogId, Offset};
use crate::queue::{Batch, input_hash};
use crate::telemetry::trace::Contexts;
use crate::wal::{LaneCheckpoint, Seal, record};

/// So many batches of one lane may wait to be known as owned; then the lane waits with them.
pub(crate) const HELD_MAX: usize = 1_024;

/// Why a batch was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Count,
    Bytes,
    Age,
    Day,
    Drain,
}

impl Reason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Day => "day",
            Self::Drain => "drain",
        }
    }
}

/// What became of a record that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is in the open batch, or was sealed or settled before, or the lane will fetch it itself.
    Taken,
    /// The open batch is full and the lane is busy: offer it again later.
    Full,
}

#[derive(Debug)]
struct Open {
    records: Vec<(Offset, Bytes)>,
    bytes: usize,
    /// The recorded requests that they came in. Read when a record comes: at the seal most are in no cache any more.
    contexts: Contexts,
    day: Day,
    since: Instant,
    /// Set when the next record belongs to another day.
    closed: Option<Reason>,
}

#[derive(Debug)]
struct UnderWay {
    seal: Seal,
    since: Instant,
    /// The queue lost what it held: this batch follows what is sent again, so it is sent again too.
    again: bool,
}

/// A batch that the queue took, and after which of the publisher's questions.
#[derive(Debug, Clone, Copy)]
struct Held {
    seal: Seal,
    round: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct LaneState {
    lane: Lane,
    log_id: LogId,
    next_number: u64,
    /// Every record of the lane below is sealed or settled.
    sealed_below: Offset,
    /// Seals found at the start, oldest first.
    resumed: VecDeque<Seal>,
    open: Option<Open>,
    under_way: Option<UnderWay>,
    /// What the queue took and is not known to own yet, oldest first.
    held: VecDeque<Held>,
    /// Where a lane that fell behind goes on.
    pub(crate) behind: Option<Offset>,
    settled: LaneCheckpoint,
}

impl LaneState {
    /// A lane as the log's checkpoint and seals left it.
    pub(crate) fn new(
        lane: Lane,
        log_id: LogId,
        settled: LaneCheckpoint,
        resumed: Vec<Seal>,
    ) -> Self {
        let next_number = resumed
            .last()
            .map_or(settled.next_number, |seal| seal.batch.number + 1);
        let sealed_below = resumed
            .last()
            .map_or(settled.settled_below, |seal| seal.batch.last + 1);
        Self {
            lane,
            log_id,
            next_number,
            sealed_below,
            resumed: resumed.into(),
            open: None,
            under_way: None,
            held: VecDeque::new(),
            behind: None,
            settled,
        }
    }

    /// Offers the lane's next record, in offset order.
    pub(crate) fn offer(
        &mut self,
        at: (Offset, Day),
        record: &Bytes,
        rules: &Rules,
        now: Instant,
    ) -> Offered {
        let (offset, day) = at;
        if self.holds(offset) || self.put(at, record, rules, now) {
            return Offered::Taken;
        }
        self.close_at(day);
        Offered::Full
    }

    /// Whether the record needs no place any more: it has one, or the lane will fetch it itself.
    pub(crate) fn holds(&self, offset: Offset) -> bool {
        let open = self.open.as_ref().and_then(|open| open.records.last());
        offset < self.sealed_below
            || self.behind.is_some_and(|cursor| offset >= cursor)
            || open.is_some_and(|&(last, _)| offset <= last)
    }

    /// The open batch ends where another day begins.
    fn close_at(&mut self, day: Day) {
        if let Some(open) = &mut self.open
            && open.day != day
        {
            open.closed = Some(Reason::Day);
        }
    }

    /// As [`LaneState::offer`] for a lane that fetches what it left behind; `false` when its batch is full.
    pub(crate) fn catch_up(
        &mut self,
        at: (Offset, Day),
        record: &Bytes,
        rules: &Rules,
        now: Instant,
    ) -> bool {
        let put = at.0 < self.sealed_below || self.put(at, record, rules, now);
        if put {
            self.behind = Some(at.0 + 1);
        } else {
            self.close_at(at.1);
        }
        put
    }

    fn put(
        &mut self,
        (offset, day): (Offset, Day),
        record: &Bytes,
        rules: &Rules,
        now: Instant,
    ) -> bool {
        let open = self.open.get_or_insert_with(|| Open {
            records: Vec::new(),
            bytes: 0,
            contexts: Contexts::default(),
            day,
            since: now,
            closed: None,
        });
        let full = rules.is_full(open.records.len(), open.bytes) || open.day != day;
        if !full {
            open.bytes += record.len();
            open.contexts.extend(record::trace_link(record));
            open.records.push((offset, record.clone()));
        }
        !full
    }

    /// Why the open batch should be sealed now, if the lane is free for it.
    pub(crate) fn ripe(&self, rules: &Rules, now: Instant, drain: bool) -> Option<Reason> {
        if self.is_busy() {
            return None;
        }
        let open = self.open.as_ref()?;
        let (events, age) = (open.records.len(), now.duration_since(open.since));
        if open.closed.is_some() {
            open.closed
        } else if age < rules.ripe_at(events, open.bytes) {
            drain.then_some(Reason::Drain)
        } else if open.bytes >= rules.bytes {
            Some(Reason::Bytes)
        } else if events >= rules.events {
            Some(Reason::Count)
        } else {
            Some(Reason::Age)
        }
    }

    /// When the open batch comes of age, if the lane is free for it.
    pub(crate) fn deadline(&self, rules: &Rules) -> Option<Instant> {
        let open = self.open.as_ref().filter(|_| !self.is_busy())?;
        Some(open.since + rules.ripe_at(open.records.len(), open.bytes))
    }

    /// Decides what the open batch is, and says whose requests are in it: from now on the lane is busy with it.
    pub(crate) fn seal(&mut self, now: Instant) -> Option<(Seal, Batch, Contexts)> {
        let open = self.open.take()?;
        let (first, last) = (open.records.first()?.0, open.records.last()?.0);
        let batch = BatchId {
            log_id: self.log_id,
            lane: self.lane,
            number: self.next_number,
            first,
            last,
            input_hash: input_hash(&open.records),
        };
        let count = u32::try_from(open.records.len()).unwrap_or(u32::MAX);
        let seal = Seal {
            batch,
            count,
            day: open.day,
        };
        self.next_number += 1;
        self.sealed_below = last + 1;
        self.under_way = Some(UnderWay {
            seal,
            since: now,
            again: false,
        });
        Some((
            seal,
            Batch {
                id: batch,
                day: open.day,
                records: open.records,
                sent_in: Vec::new(),
            },
            open.contexts,
        ))
    }

    /// The next seal that was made before, if the lane is free for it: from now on the lane is busy with it.
    pub(crate) fn resume(&mut self, now: Instant) -> Option<Seal> {
        if self.under_way.is_some() || self.held.len() >= HELD_MAX {
            return None;
        }
        let seal = self.resumed.pop_front()?;
        self.under_way = Some(UnderWay {
            seal,
            since: now,
            again: false,
        });
        Some(seal)
    }

    /// The queue took the batch under way: the lane is free. `None` when it has to be sent again.
    pub(crate) fn hold(&mut self, round: u64) -> Option<Seal> {
        let UnderWay { seal, again, .. } = self.under_way.take()?;
        if again {
            let number = seal.batch.number;
            let place = self.resumed.partition_point(|s| s.batch.number < number);
            self.resumed.insert(place, seal);
            return None;
        }
        self.held.push_back(Held { seal, round });
        Some(seal)
    }

    /// What was held in this round and before belongs to its next owner; how many batches that are.
    pub(crate) fn settle(&mut self, round: u64) -> u64 {
        let mut settled = 0;
        while let Some(held) = self.held.front().filter(|held| held.round <= round) {
            self.settled.next_number = held.seal.batch.number + 1;
            self.held.pop_front();
            settled += 1;
        }
        settled
    }

    /// The queue lost what it held: all of it is sent again, in order, before anything new; how many batches that are.
    pub(crate) fn lose(&mut self) -> usize {
        let lost = self.held.len();
        for held in self.held.drain(..).rev() {
            self.resumed.push_front(held.seal);
        }
        // It may have been taken, and lost, before it was known to be.
        if let Some(under_way) = &mut self.under_way {
            under_way.again = true;
        }
        lost
    }

    /// Bytes of the open batch.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes)
    }

    /// How many batches the queue took and is not known to own.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Every record of the lane below is with the queue, when the reader stands at `scanned`.
    pub(crate) fn sent_below(&self, scanned: Offset) -> Offset {
        self.first_unsent().unwrap_or(scanned)
    }

    fn first_unsent(&self) -> Option<Offset> {
        let under_way = self.under_way.as_ref().map(|busy| busy.seal.batch.first);
        let resumed = self.resumed.front().map(|seal| seal.batch.first);
        let open = self
            .open
            .as_ref()
            .and_then(|open| open.records.first())
            .map(|first| first.0);
        [under_way, resumed, open, self.behind]
            .into_iter()
            .flatten()
            .min()
    }

    /// How long the batch under way has been so.
    pub(crate) fn busy_for(&self, now: Instant) -> Option<Duration> {
        self.under_way
            .as_ref()
            .map(|busy| now.duration_since(busy.since))
    }

    /// Whether nothing may be sealed now.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.resumed.is_empty() || self.held.len() >= HELD_MAX
    }

    /// Whether nothing of the lane is left to be sent below the reader's position.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy() && self.open.is_none() && self.behind.is_none()
    }

    /// How far the lane is settled when the reader stands at `scanned`.
    pub(crate) fn checkpoint(&self, scanned: Offset) -> LaneCheckpoint {
        let held = self.held.front().map(|held| held.seal.batch.first);
        let unsettled = held.or(self.first_unsent());
        let settled_below = unsettled.unwrap_or(scanned).max(self.settled.settled_below);
        LaneCheckpoint {
            next_number: self.settled.next_number,
            settled_below,
        }
    }
}

#[cfg(test)]
mod tests;
