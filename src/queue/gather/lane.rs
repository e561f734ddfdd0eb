//! One lane's runs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Message, PATIENCE, REMEMBERED, Rules};
use crate::event::BatchId;
use crate::queue::{Batch, input_hash};

/// How many batches of a lane that could not be taken in are waited for; of more only the earliest.
const EXPECTED_MAX: usize = 64;

#[derive(Debug)]
struct Waiting<H> {
    batches: Vec<Batch>,
    node: Arc<str>,
    handles: Vec<H>,
    bytes: usize,
    events: usize,
    since: Instant,
}

#[derive(Debug)]
struct Out<H> {
    ids: Vec<BatchId>,
    back: Back<H>,
}

/// What leaves the lane.
#[derive(Debug)]
pub(super) struct Back<H> {
    pub(super) handles: Vec<H>,
    pub(super) bytes: usize,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Runs<H> {
    /// In the order of their numbers.
    waiting: VecDeque<Waiting<H>>,
    out: Option<Out<H>>,
    /// The number after the last that went out, while that is remembered.
    next: Option<u64>,
    /// Batches that were here and could not be taken in, and until when those behind wait for them.
    expected: BTreeMap<u64, Instant>,
    /// When something last happened.
    touched: Option<Instant>,
    /// From when on what is missing could come.
    open_since: Option<Instant>,
}

impl<H> Default for Runs<H> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            out: None,
            next: None,
            expected: BTreeMap::new(),
            touched: None,
            open_since: None,
        }
    }
}

impl<H> Runs<H> {
    /// Something happens now: what was known of a lane that was idle for long is forgotten.
    pub(super) fn touch(&mut self, now: Instant) {
        if self.is_forgotten(now) {
            self.next = None;
            self.expected.clear();
        }
        self.touched = Some(now);
    }

    /// Since then nothing could come, of no lane: what was known is known still, and what was waited for is waited for from now on.
    pub(super) fn nothing_came(&mut self, since: Instant, now: Instant) {
        if self.is_forgotten(since) {
            return;
        }
        self.touched = Some(now);
        self.open_since = Some(now);
        for until in self.expected.values_mut() {
            if *until > since {
                *until += now - since;
            }
        }
    }

    /// Whether nothing happened for so long that what is known of it says nothing any more.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        let is_idle = self.out.is_none() && self.waiting.is_empty();
        let expects = self.expected.values().any(|until| *until > now);
        is_idle && !expects && self.touched.is_none_or(|at| at + REMEMBERED <= now)
    }

    /// A copy of a batch that is here is settled with it; gives back what is none.
    pub(super) fn join(&mut self, message: Message<H>) -> Option<Message<H>> {
        let id = message.batch.id;
        self.expected.remove(&id.number);
        if let Some(out) = &mut self.out
            && out.ids.contains(&id)
        {
            out.back.handles.push(message.handle);
            return None;
        }
        let holds = |run: &&mut Waiting<H>| run.batches.iter().any(|batch| batch.id == id);
        match self.waiting.iter_mut().find(holds) {
            Some(run) => run.handles.push(message.handle),
            None => return Some(message),
        }
        None
    }

    /// Puts a batch into its place; whether the lane waits for something before it.
    pub(super) fn put(&mut self, message: Message<H>, rules: &Rules, now: Instant) -> bool {
        let number = message.batch.id.number;
        // Behind every run that begins before it; mostly that is all of them.
        let place = self.waiting.partition_point(|run| run.first() <= number);
        let before = place.checked_sub(1);
        let before = before.and_then(|before| self.waiting.get_mut(before));
        let end = before.as_ref().map(|run| run.end());
        if let Some(run) = before
            && run.takes(&message.batch, rules)
        {
            run.add(message);
            return false;
        }
        let mut run = Waiting {
            batches: Vec::new(),
            node: Arc::clone(&message.node),
            handles: Vec::new(),
            bytes: 0,
            events: 0,
            since: now,
        };
        run.add(message);
        self.waiting.insert(place, run);
        end.max(self.next).is_some_and(|end| end < number)
    }

    pub(super) fn expect(&mut self, number: u64, until: Instant) {
        if self.next.is_some_and(|next| number < next) {
            return;
        }
        self.expected.entry(number).or_insert(until);
        if self.expected.len() > EXPECTED_MAX {
            self.expected.pop_last();
        }
    }

    /// Whether the next run should be written now.
    pub(super) fn is_ripe(
        &self,
        rules: &Rules,
        now: Instant,
        (hurry, nothing_comes): (bool, bool),
    ) -> bool {
        let is_ripe = |run: &Waiting<H>| hurry || self.is_closed() || run.deadline(rules) <= now;
        self.out.is_none()
            && !self.is_early(now, nothing_comes)
            && self.waiting.front().is_some_and(is_ripe)
    }

    /// Whether the next run waits for what is missing before it; for as long as nothing can come, in any case.
    pub(super) fn is_early(&self, now: Instant, nothing_comes: bool) -> bool {
        let waits = |until| nothing_comes || until > now;
        self.out.is_none() && self.early_until().is_some_and(waits)
    }

    /// Until when the next run waits for what is missing.
    fn early_until(&self) -> Option<Instant> {
        let run = self.waiting.front()?;
        let is_behind_a_gap = self.next.is_some_and(|next| next < run.first());
        // It was missing already when the first of those that wait came.
        let since = self.waiting.iter().map(|run| run.since).min();
        let gap = since.max(self.open_since).filter(|_| is_behind_a_gap);
        let gap = gap.map(|since| since + PATIENCE);
        let expected = self.expected.range(..run.first());
        gap.max(expected.map(|(_, until)| *until).max())
    }

    /// Whether nothing more is to be expected for the next run: another one stands behind it.
    fn is_closed(&self) -> bool {
        self.waiting.len() > 1
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Since when the next run waits, if there is one and the lane is free.
    pub(super) fn since(&self) -> Option<Instant> {
        let run = self.waiting.front().filter(|_| self.out.is_none())?;
        Some(run.since)
    }

    /// When the next run can go out, if there is one and the lane is free.
    pub(super) fn deadline(&self, rules: &Rules, nothing_comes: bool) -> Option<Instant> {
        let run = self.waiting.front().filter(|_| self.out.is_none())?;
        let early_until = self.early_until();
        if nothing_comes && early_until.is_some() {
            return None;
        }
        let ripe = if self.is_closed() {
            run.since
        } else {
            run.deadline(rules)
        };
        Some(early_until.map_or(ripe, |until| until.max(ripe)))
    }

    /// The next run goes out: its batches as one, and how many before it are waited for no longer.
    pub(super) fn start(&mut self) -> Option<(Batch, Arc<str>, u64)> {
        let run = self.waiting.pop_front()?;
        let (first, end) = (run.first(), run.end());
        let gap = self.next.map_or(0, |next| first.saturating_sub(next));
        let expected = self.expected.range(..first).count();
        let missing = gap.max(expected.try_into().unwrap_or(u64::MAX));
        // A copy of what goes out now may have been one that could not be taken in.
        self.expected = self.expected.split_off(&end);
        self.next = Some(self.next.map_or(end, |next| next.max(end)));
        self.out = Some(Out {
            ids: run.batches.iter().map(|batch| batch.id).collect(),
            back: Back {
                handles: run.handles,
                bytes: run.bytes,
            },
        });
        Some((merged(run.batches)?, run.node, missing))
    }

    /// The run that was out is written.
    pub(super) fn settle(&mut self) -> Option<Back<H>> {
        Some(self.out.take()?.back)
    }

    /// Everything leaves; what was out comes next again.
    pub(super) fn give_back(&mut self) -> Back<H> {
        let mut back = Back {
            handles: Vec::new(),
            bytes: 0,
        };
        if let Some(out) = self.out.take() {
            let first = out.ids.iter().map(|id| id.number).min();
            self.next = self.next.min(first.or(self.next));
            back = out.back;
        }
        for run in self.waiting.drain(..) {
            back.bytes += run.bytes;
            back.handles.extend(run.handles);
        }
        back
    }
}

// === impl Waiting ===

impl<H> Waiting<H> {
    fn first(&self) -> u64 {
        self.batches.first().map_or(0, |batch| batch.id.number)
    }

    /// The number that follows.
    fn end(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.id.number + 1)
    }

    fn takes(&self, batch: &Batch, rules: &Rules) -> bool {
        let follows = self.batches.last().is_some_and(|last| {
            batch.id.number == last.id.number + 1
                && batch.id.first > last.id.last
                && batch.day == last.day
        });
        follows && !rules.run.is_full(self.events, self.bytes)
    }

    fn add(&mut self, message: Message<H>) {
        self.bytes += message.batch.bytes();
        self.events += message.batch.records.len();
        self.batches.push(message.batch);
        self.handles.push(message.handle);
    }

    fn deadline(&self, rules: &Rules) -> Instant {
        self.since + rules.run.ripe_at(self.events, self.bytes)
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
