//! One lane of the publisher: what is open, what is under way, where it goes on. Pure: time comes in as an argument.
//!
//! ```text
//!   records ─▶ open batch ─(ripe, lane free)─▶ under way: sealed, sent ─(settled)─▶ checkpoint
//!                 └─(full, lane busy)─▶ the reader waits; a stalled lane falls behind: it keeps a cursor and nothing else
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

use crate::event::{BatchId, Day, Lane, LogId, Offset};
use crate::queue::Batch;
use crate::wal::{LaneCheckpoint, Seal};

/// When a batch is sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// At so many events.
    pub(crate) events: usize,
    /// At so many bytes of records.
    pub(crate) bytes: usize,
    /// At this age.
    pub(crate) age: Duration,
}

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
    day: Day,
    since: Instant,
    /// Set when the next record belongs to another day.
    closed: Option<Reason>,
}

#[derive(Debug)]
struct UnderWay {
    seal: Seal,
    since: Instant,
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
            day,
            since: now,
            closed: None,
        });
        let full =
            open.records.len() >= rules.events || open.bytes >= rules.bytes || open.day != day;
        if !full {
            open.bytes += record.len();
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
        if open.closed.is_some() {
            open.closed
        } else if open.records.len() >= rules.events {
            Some(Reason::Count)
        } else if open.bytes >= rules.bytes {
            Some(Reason::Bytes)
        } else if now.duration_since(open.since) >= rules.age {
            Some(Reason::Age)
        } else {
            drain.then_some(Reason::Drain)
        }
    }

    /// When the open batch comes of age, if the lane is free for it.
    pub(crate) fn deadline(&self, rules: &Rules) -> Option<Instant> {
        let open = self.open.as_ref().filter(|_| !self.is_busy())?;
        Some(open.since + rules.age)
    }

    /// Decides what the open batch is: from now on the lane is busy with it.
    pub(crate) fn seal(&mut self, now: Instant) -> Option<(Seal, Batch)> {
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
        self.under_way = Some(UnderWay { seal, since: now });
        Some((
            seal,
            Batch {
                id: batch,
                day: open.day,
                records: open.records,
            },
        ))
    }

    /// The next seal that was found at the start, if the lane is free for it: from now on the lane is busy with it.
    pub(crate) fn resume(&mut self, now: Instant) -> Option<Seal> {
        if self.under_way.is_some() {
            return None;
        }
        let seal = self.resumed.pop_front()?;
        self.under_way = Some(UnderWay { seal, since: now });
        Some(seal)
    }

    /// The batch under way belongs to its next owner.
    pub(crate) fn settle(&mut self) -> Option<Seal> {
        let done = self.under_way.take()?.seal;
        self.settled.next_number = done.batch.number + 1;
        Some(done)
    }

    /// How long the batch under way has been so.
    pub(crate) fn busy_for(&self, now: Instant) -> Option<Duration> {
        self.under_way
            .as_ref()
            .map(|busy| now.duration_since(busy.since))
    }

    /// Whether nothing may be sealed now.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.resumed.is_empty()
    }

    /// Whether nothing of the lane is unsettled below the reader's position.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy() && self.open.is_none() && self.behind.is_none()
    }

    /// How far the lane is settled when the reader stands at `scanned`.
    pub(crate) fn checkpoint(&self, scanned: Offset) -> LaneCheckpoint {
        let under_way = self.under_way.as_ref().map(|busy| busy.seal.batch.first);
        let resumed = self.resumed.front().map(|seal| seal.batch.first);
        let open = self
            .open
            .as_ref()
            .and_then(|open| open.records.first())
            .map(|first| first.0);
        let unsettled = under_way.or(resumed).or(open).or(self.behind);
        let settled_below = unsettled.unwrap_or(scanned).max(self.settled.settled_below);
        LaneCheckpoint {
            next_number: self.settled.next_number,
            settled_below,
        }
    }
}

/// xxh3-64 over every record's length (u32, little endian) and bytes, in order.
pub(crate) fn input_hash(records: &[(Offset, Bytes)]) -> u64 {
    let mut hash = Xxh3Default::new();
    for (_, record) in records {
        hash.update(
            &u32::try_from(record.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        hash.update(record);
    }
    hash.digest()
}

#[cfg(test)]
mod tests;
