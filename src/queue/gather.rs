//! Runs: consecutive batches of one log and lane, gathered until they are worth one object. Pure: time comes in as an
//! argument, and a message's handle is whatever the queue needs to settle it.
//!
//! ```text
//!   messages ─▶ open run ─▶ closed by a gap, another day or its size ─┐
//!                  └──────── ripe by count, bytes or age ─────────────┴─(lane free, nothing missing)─▶ out ─(settled)─▶ all handles
//! ```
//!
//! What it promises:
//!
//! 1. A lane has at most one run out at a time, and runs go out in the order of their numbers, as far as they are here.
//! 2. A run holds consecutive batches of one UTC day. A batch that comes again while it is here joins its first copy, and is
//!    settled with it.
//! 3. A run whose predecessor is missing waits for it: numbers are dense, so whoever wrote a lane's batch 7 a moment ago and
//!    is given 9 knows that there is an 8. It waits for [`PATIENCE`], not counting the time in which nothing could come, or as
//!    long as the budget allows; then it goes, and says what it did not wait for any longer. Nobody can know what came before
//!    the first batch that they see of a lane: there the queue's own order counts, and counts again after a while without a
//!    batch of the lane ([`REMEMBERED`]), in which it may have been another worker's.
//! 4. All runs share one budget; past half of it the oldest run counts as ripe, past all of it nothing more should be
//!    taken in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Batch;
use crate::config::BatchRules;
use crate::event::{Lane, LogId};

use lane::Runs;

mod lane;

/// How long a run waits for what is missing before it: long enough that whatever somebody else held, who died, has been given back
/// and delivered here.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How long a lane is remembered of which nothing comes.
pub const REMEMBERED: Duration = Duration::from_secs(120);

/// When there was no room for so long, nothing could come meanwhile.
const FULL_FOR_LONG: Duration = Duration::from_secs(5);

/// When a run is worth an object, and what all runs may hold.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// When a run is ripe; it is never longer than its bytes and one batch.
    pub run: BatchRules,
    /// The most bytes of records in all runs together.
    pub budget_bytes: usize,
    /// The most messages in all runs together.
    pub budget_messages: usize,
}

/// Whose order a run keeps.
pub type Key = (LogId, Lane);

/// One message.
#[derive(Debug)]
pub struct Message<H> {
    /// What it holds.
    pub batch: Batch,
    /// The label of the gateway that sealed it.
    pub node: Arc<str>,
    /// What settles it.
    pub handle: H,
}

/// Consecutive batches as one.
#[derive(Debug, Clone)]
pub struct Run {
    /// Their log and lane.
    pub key: Key,
    /// All events; named after the first batch's number.
    pub batch: Arc<Batch>,
    /// The label of the gateway that sealed them.
    pub node: Arc<str>,
    /// How many batches before it were waited for in vain.
    pub missing: u64,
}

/// What became of a message that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in a run.
    Taken,
    /// It is in a run that waits for what is missing before it.
    Early,
    /// Its batch was here already.
    Copy,
}

/// See the module's page.
#[derive(Debug)]
pub struct Gatherer<H> {
    rules: Rules,
    lanes: BTreeMap<Key, Runs<H>>,
    bytes: usize,
    messages: usize,
    /// When to look next for lanes that can be forgotten.
    prune_at: Option<Instant>,
    /// Since when nothing more should be taken in.
    full_since: Option<Instant>,
    /// Since when the queue is out of reach.
    cut_off_since: Option<Instant>,
}

impl<H> Gatherer<H> {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            lanes: BTreeMap::new(),
            bytes: 0,
            messages: 0,
            prune_at: None,
            full_since: None,
            cut_off_since: None,
        }
    }

    /// Takes a message in.
    pub fn offer(&mut self, message: Message<H>, now: Instant) -> Offered {
        self.reached(now);
        self.prune(now);
        let id = message.batch.id;
        let runs = self.lanes.entry((id.log_id, id.lane)).or_default();
        runs.touch(now);
        self.messages += 1;
        let mut offered = Offered::Copy;
        if let Some(message) = runs.join(message) {
            self.bytes += message.batch.bytes();
            let is_early = runs.put(message, &self.rules, now);
            offered = if is_early {
                Offered::Early
            } else {
                Offered::Taken
            };
        }
        if self.is_full() {
            self.full_since.get_or_insert(now);
        }
        offered
    }

    /// A batch was here and could not be taken in: those behind it wait for it until then. Asked again, it changes nothing.
    pub fn expect(&mut self, (key, number): (Key, u64), until: Instant, now: Instant) {
        self.reached(now);
        self.prune(now);
        let runs = self.lanes.entry(key).or_default();
        runs.touch(now);
        runs.expect(number, until);
    }

    /// The queue is out of reach: until it is reached again, or something comes, nobody waits in vain.
    pub fn cut_off(&mut self, now: Instant) {
        self.cut_off_since.get_or_insert(now);
    }

    /// The queue is within reach.
    pub fn reached(&mut self, now: Instant) {
        if let Some(since) = self.cut_off_since.take() {
            self.nothing_came(since, now);
        }
    }

    fn nothing_came(&mut self, since: Instant, now: Instant) {
        let lanes = self.lanes.values_mut();
        lanes.for_each(|runs| runs.nothing_came(since, now));
    }

    /// Whether what is missing cannot come now.
    fn nothing_comes(&self) -> bool {
        self.is_full() || self.cut_off_since.is_some()
    }

    /// Whether there is a run to be written whose lane is free.
    #[must_use]
    pub fn is_ready(&self, now: Instant, drain: bool) -> bool {
        self.pick(now, drain).is_some()
    }

    /// The next run to be written, if there is one and its lane is free: from now on the lane is not.
    pub fn take(&mut self, now: Instant, drain: bool) -> Option<Run> {
        let key = self.pick(now, drain)?;
        let (batch, node, missing) = self.lanes.get_mut(&key)?.start()?;
        Some(Run {
            key,
            batch: Arc::new(batch),
            node,
            missing,
        })
    }

    /// The lane of the oldest run that should be written.
    fn pick(&self, now: Instant, drain: bool) -> Option<Key> {
        let hurry = drain || self.is_crowded();
        let oldest = |is_it: &dyn Fn(&Runs<H>) -> bool| {
            let lanes = self.lanes.iter().filter(|(_, runs)| is_it(runs));
            lanes
                .min_by_key(|(_, runs)| runs.since())
                .map(|(key, _)| *key)
        };
        let ripe = oldest(&|runs| runs.is_ripe(&self.rules, now, (hurry, self.nothing_comes())));
        if ripe.is_some() || drain || !self.is_full() {
            return ripe;
        }
        // What is missing cannot come any more: there is no room for it.
        let is_busy = self.lanes.values().any(Runs::is_out);
        oldest(&|runs| !is_busy && runs.since().is_some())
    }

    /// The lane's run that is out is done with: its handles, and those of copies that came meanwhile.
    pub fn settle(&mut self, key: Key, now: Instant) -> Vec<H> {
        let Some(runs) = self.lanes.get_mut(&key) else {
            return Vec::new();
        };
        runs.touch(now);
        let Some(out) = runs.settle() else {
            return Vec::new();
        };
        self.gone(out, now)
    }

    /// The lane's run that is out was not written: its handles, and those of all that waits behind it, which must not overtake it.
    pub fn give_back(&mut self, key: Key, now: Instant) -> Vec<H> {
        let Some(runs) = self.lanes.get_mut(&key) else {
            return Vec::new();
        };
        runs.touch(now);
        let back = runs.give_back();
        self.gone(back, now)
    }

    /// What left a lane is not held any more.
    fn gone(&mut self, back: lane::Back<H>, now: Instant) -> Vec<H> {
        self.bytes -= back.bytes;
        self.messages -= back.handles.len();
        if !self.is_full()
            && let Some(since) = self.full_since.take()
            && now - since >= FULL_FOR_LONG
        {
            self.nothing_came(since, now);
        }
        back.handles
    }

    /// The handles of all runs that wait for what is missing: for those who will not wait.
    pub fn give_back_early(&mut self, now: Instant) -> Vec<H> {
        let early = self.lanes.iter();
        let early = early.filter(|(_, runs)| runs.is_early(now, self.nothing_comes()));
        let keys: Vec<Key> = early.map(|(key, _)| *key).collect();
        keys.into_iter()
            .flat_map(|key| self.give_back(key, now))
            .collect()
    }

    /// When the next run can go out, among the lanes that are free.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let lanes = self.lanes.values();
        lanes
            .filter_map(|runs| runs.deadline(&self.rules, self.nothing_comes()))
            .min()
    }

    fn is_crowded(&self) -> bool {
        self.bytes * 2 > self.rules.budget_bytes || self.messages * 2 > self.rules.budget_messages
    }

    /// Whether nothing more should be taken in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= self.rules.budget_bytes || self.messages >= self.rules.budget_messages
    }

    /// Whether everything is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of records that are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages that are held.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// How many lanes wait for what is missing.
    #[must_use]
    pub fn early(&self, now: Instant) -> usize {
        let lanes = self.lanes.values();
        lanes
            .filter(|runs| runs.is_early(now, self.nothing_comes()))
            .count()
    }

    /// Forgets lanes of which nothing came for a while.
    fn prune(&mut self, now: Instant) {
        if self.prune_at.is_none_or(|at| at <= now) {
            self.prune_at = Some(now + REMEMBERED);
            self.lanes.retain(|_, runs| !runs.is_forgotten(now));
        }
    }
}

#[cfg(test)]
mod tests;
