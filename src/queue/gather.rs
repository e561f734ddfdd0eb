//! Runs: consecutive batches of one log and lane, gathered until they are worth one object. Pure: time comes in as an
//! argument, and a message's handle is whatever the queue needs to settle it.
//!
//! ```text
//!   messages ─▶ open run ─▶ closed by a gap, another day or its size ─┐
//!                  └──────── ripe by count, bytes or age ─────────────┴─(lane free)─▶ out ─(settled)─▶ all handles
//! ```
//!
//! What it promises:
//!
//! 1. A lane has at most one run out at a time, and runs go out in the order of their numbers, as far as they are here.
//! 2. A run holds consecutive batches of one UTC day. A batch that comes again while it is here joins its first copy, and is
//!    settled with it.
//! 3. All runs share one budget; past half of it the oldest run counts as ripe, past all of it nothing more should be
//!    taken in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, input_hash};
use crate::config::BatchRules;
use crate::event::{BatchId, Lane, LogId};

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
}

#[derive(Debug)]
struct Waiting<H> {
    batches: Vec<Batch>,
    node: Arc<str>,
    handles: Vec<H>,
    bytes: usize,
    events: usize,
    since: Instant,
    is_closed: bool,
}

#[derive(Debug)]
struct Out<H> {
    ids: Vec<BatchId>,
    handles: Vec<H>,
    bytes: usize,
}

#[derive(Debug)]
struct Runs<H> {
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<H>>,
    out: Option<Out<H>>,
}

/// See the module's page.
#[derive(Debug)]
pub struct Gatherer<H> {
    rules: Rules,
    lanes: BTreeMap<Key, Runs<H>>,
    bytes: usize,
    messages: usize,
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
        }
    }

    /// Takes a message in; `false` when its batch is here already.
    pub fn offer(&mut self, message: Message<H>, now: Instant) -> bool {
        let id = message.batch.id;
        let runs = self.lanes.entry((id.log_id, id.lane)).or_default();
        self.messages += 1;
        let Some(message) = runs.join(message) else {
            return false;
        };
        self.bytes += message.batch.bytes();
        runs.put(message, &self.rules, now);
        true
    }

    /// Whether there is a run to be written whose lane is free.
    #[must_use]
    pub fn is_ready(&self, now: Instant, drain: bool) -> bool {
        let hurry = drain || self.is_crowded();
        let mut lanes = self.lanes.values();
        lanes.any(|runs| runs.is_ripe(&self.rules, now, hurry))
    }

    /// The next run to be written, if there is one and its lane is free: from now on the lane is not.
    pub fn take(&mut self, now: Instant, drain: bool) -> Option<Run> {
        let (rules, hurry) = (self.rules, drain || self.is_crowded());
        let (key, runs) = self
            .lanes
            .iter_mut()
            .filter(|(_, runs)| runs.is_ripe(&rules, now, hurry))
            .min_by_key(|(_, runs)| runs.waiting.front().map(|run| run.since))?;
        let (batch, node) = runs.start()?;
        Some(Run {
            key: *key,
            batch: Arc::new(batch),
            node,
        })
    }

    /// The lane's run that is out is done with: its handles, and those of copies that came meanwhile.
    pub fn settle(&mut self, key: Key) -> Vec<H> {
        let Some(runs) = self.lanes.get_mut(&key) else {
            return Vec::new();
        };
        let Some(out) = runs.out.take() else {
            return Vec::new();
        };
        if runs.waiting.is_empty() {
            self.lanes.remove(&key);
        }
        self.bytes -= out.bytes;
        self.messages -= out.handles.len();
        out.handles
    }

    /// When the next run comes of age, among the lanes that are free.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let runs = self.lanes.values().filter(|runs| runs.out.is_none());
        runs.filter_map(|runs| runs.waiting.front())
            .map(|run| run.deadline(&self.rules))
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
        self.lanes.is_empty()
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
}

// === impl Runs ===

impl<H> Default for Runs<H> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            out: None,
        }
    }
}

impl<H> Runs<H> {
    /// A copy of a batch that is here is settled with it; gives back what is none.
    fn join(&mut self, message: Message<H>) -> Option<Message<H>> {
        let id = message.batch.id;
        if let Some(out) = &mut self.out
            && out.ids.contains(&id)
        {
            out.handles.push(message.handle);
            return None;
        }
        let holds = |run: &&mut Waiting<H>| run.batches.iter().any(|batch| batch.id == id);
        match self.waiting.iter_mut().find(holds) {
            Some(run) => run.handles.push(message.handle),
            None => return Some(message),
        }
        None
    }

    fn put(&mut self, message: Message<H>, rules: &Rules, now: Instant) {
        let number = message.batch.id.number;
        // Behind every run that begins before it; mostly that is all of them.
        let place = self.waiting.partition_point(|run| run.first() < number);
        let is_last = place == self.waiting.len();
        if let Some(run) = self.waiting.back_mut().filter(|_| is_last) {
            if run.takes(&message.batch, rules) {
                run.add(message);
                return;
            }
            run.is_closed = true;
        }
        let mut run = Waiting {
            batches: Vec::new(),
            node: Arc::clone(&message.node),
            handles: Vec::new(),
            bytes: 0,
            events: 0,
            since: now,
            is_closed: !is_last,
        };
        run.add(message);
        self.waiting.insert(place, run);
    }

    fn is_ripe(&self, rules: &Rules, now: Instant, hurry: bool) -> bool {
        let is_ripe = |run: &Waiting<H>| hurry || run.is_closed || run.deadline(rules) <= now;
        self.out.is_none() && self.waiting.front().is_some_and(is_ripe)
    }

    fn start(&mut self) -> Option<(Batch, Arc<str>)> {
        let run = self.waiting.pop_front()?;
        self.out = Some(Out {
            ids: run.batches.iter().map(|batch| batch.id).collect(),
            handles: run.handles,
            bytes: run.bytes,
        });
        Some((merged(run.batches)?, run.node))
    }
}

// === impl Waiting ===

impl<H> Waiting<H> {
    fn first(&self) -> u64 {
        self.batches.first().map_or(0, |batch| batch.id.number)
    }

    fn takes(&self, batch: &Batch, rules: &Rules) -> bool {
        let follows = self.batches.last().is_some_and(|last| {
            batch.id.number == last.id.number + 1
                && batch.id.first > last.id.last
                && batch.day == last.day
        });
        follows
            && !self.is_closed
            && self.bytes < rules.run.bytes
            && self.events < rules.run.events_max
    }

    fn add(&mut self, message: Message<H>) {
        self.bytes += message.batch.bytes();
        self.events += message.batch.records.len();
        self.batches.push(message.batch);
        self.handles.push(message.handle);
    }

    fn deadline(&self, rules: &Rules) -> Instant {
        let rules = &rules.run;
        let age = if self.bytes >= rules.bytes || self.events >= rules.events_max {
            Duration::ZERO
        } else if self.events >= rules.events {
            rules.events_age.min(rules.age)
        } else {
            rules.age
        };
        self.since + age
    }
}

/// Consecutive batches as one, under the first one's number.
fn merged(batches: Vec<Batch>) -> Option<Batch> {
    let mut batches = batches.into_iter();
    let mut all = batches.next()?;
    for batch in batches {
        all.id.last = batch.id.last;
        all.records.extend(batch.records);
        all.sent_in.extend(batch.sent_in);
    }
    all.id.input_hash = input_hash(&all.records);
    Some(all)
}

#[cfg(test)]
mod tests;
