//! What the log must be: a `Vec` of events, a list of checkpoints and a list of seals, with how far each was acknowledged.

use eventkit::event::Offset;
use eventkit::wal::{Checkpoint, Commit, LaneCheckpoint, LogState, Seal, Unsettled, Wal};
use futures::FutureExt;

use super::{LANES, Sent, append, assert_holds, durable, first_held, seal, to_append, wait};

/// One thing that is done to a log.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Appends new events, the last one twice.
    Append(Vec<Sent>),
    /// Appends what is not settled yet once more, at most so many, and a new event after it.
    Repeat(usize, Sent),
    /// Seals the next so many unsealed offsets for a lane.
    Seal(usize, u64),
    /// Settles a share of what is sealed: so many of four quarters.
    Checkpoint(u64),
    /// Waits until all before it is committed.
    Barrier,
}

/// The expectation.
#[derive(Debug, Clone)]
pub(super) struct Oracle {
    /// By offset.
    sent: Vec<Sent>,
    /// Offsets below were acknowledged.
    acknowledged: usize,
    /// All that were sent since the newest that was found or confirmed, that one first.
    checkpoints: Vec<Checkpoint>,
    /// Whether each was acknowledged.
    seals: Vec<(Seal, bool)>,
    numbers: [u64; LANES],
    sealed_below: Offset,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            acknowledged: 0,
            checkpoints: vec![Checkpoint::default()],
            seals: Vec::new(),
            numbers: [0; LANES],
            sealed_below: 0,
        }
    }
}

impl Oracle {
    /// Does a step; `false` when the log has failed.
    pub(super) fn apply(&mut self, wal: &Wal, step: &Step) -> bool {
        match step {
            Step::Append(events) => self.append(wal, events),
            Step::Repeat(count, new) => {
                // What is below a checkpoint may be forgotten, what is above must be known.
                let from = usize::try_from(self.newest_checkpoint().offset).unwrap();
                let known = self.sent.get(from..self.acknowledged).unwrap_or_default();
                let repeated: Vec<Sent> = known.iter().take(*count).cloned().collect();
                let all = [repeated.as_slice(), std::slice::from_ref(new)].concat();
                self.send(wal, &all, std::slice::from_ref(new), repeated.len())
            }
            Step::Seal(lane, count) => {
                let last = (self.sealed_below + count).min(self.acknowledged as u64);
                if last == self.sealed_below {
                    return true;
                }
                let number = self.numbers[*lane];
                let lane16 = u16::try_from(*lane).unwrap();
                let sealed = seal(wal, lane16, number, self.sealed_below, last - 1);
                self.numbers[*lane] += 1;
                self.sealed_below = last;
                self.seals.push((sealed, false));
                let done = wait(wal.seal(vec![sealed]));
                if done && let Some(newest) = self.seals.last_mut() {
                    newest.1 = true;
                }
                done
            }
            Step::Checkpoint(quarters) => {
                let before = self.newest_checkpoint().clone();
                let offset = before.offset + (self.sealed_below - before.offset) * quarters / 4;
                let lanes = (0..LANES).map(|lane| LaneCheckpoint {
                    next_number: self
                        .settled_number(lane, offset)
                        .max(before.lanes.get(lane).map_or(0, |lane| lane.next_number)),
                    settled_below: offset,
                });
                let checkpoint = Checkpoint {
                    offset,
                    lanes: lanes.collect(),
                };
                self.checkpoints.push(checkpoint.clone());
                wait(wal.checkpoint(checkpoint))
            }
            Step::Barrier => {
                let done = wait(wal.seal(Vec::new()));
                if done {
                    self.checkpoints.drain(..self.checkpoints.len() - 1);
                }
                done
            }
        }
    }

    /// Sends appends without waiting; what is acknowledged by the time `crash` is called must survive it.
    pub(super) fn append_in_flight<T>(
        &mut self,
        wal: &Wal,
        appends: &[Vec<Sent>],
        crash: impl FnOnce() -> T,
    ) -> T {
        let mut commits: Vec<Commit> = Vec::new();
        for events in appends {
            commits.push(wal.append(to_append(wal, events)).unwrap());
            self.sent.extend_from_slice(events);
        }
        let before: usize = self.sent.len() - appends.iter().map(Vec::len).sum::<usize>();
        let answered = commits
            .into_iter()
            .map_while(FutureExt::now_or_never)
            .take_while(Result::is_ok)
            .count();
        let known: usize = appends.iter().take(answered).map(Vec::len).sum();
        if answered > 0 {
            self.acknowledged = before + known;
        }
        crash()
    }

    /// Compares a log that was just opened, and goes on from what it holds.
    pub(super) fn check(&mut self, wal: &Wal, unsettled: &Unsettled) {
        let next = usize::try_from(durable(wal)).unwrap();
        assert!(
            (self.acknowledged..=self.sent.len()).contains(&next),
            "the log ends at {next}; {} were acknowledged, {} sent",
            self.acknowledged,
            self.sent.len()
        );
        let first = first_held(wal);
        assert!(
            first <= unsettled.checkpoint.offset,
            "forgotten up to {first}, settled {}",
            unsettled.checkpoint.offset
        );
        let held = &self.sent[usize::try_from(first).unwrap()..next];
        assert_holds(wal, first, held);
        assert!(
            self.checkpoints.contains(&unsettled.checkpoint),
            "{:?} is none of {:?}",
            unsettled.checkpoint,
            self.checkpoints
        );
        self.check_seals(unsettled);
        assert_eq!(*wal.state().borrow(), LogState::Open);
        assert_eq!(wal.settled(), unsettled.checkpoint.offset);

        self.sent.truncate(next);
        self.acknowledged = next;
        self.checkpoints = vec![unsettled.checkpoint.clone()];
        self.seals = unsettled.seals.iter().map(|&seal| (seal, true)).collect();
        let settled = |lane: usize| unsettled.checkpoint.lanes.get(lane);
        for (lane, number) in self.numbers.iter_mut().enumerate() {
            let own = unsettled
                .seals
                .iter()
                .filter(|seal| usize::from(seal.batch.lane.0) == lane);
            let after = own.map(|seal| seal.batch.number + 1).max();
            *number = after
                .or(settled(lane).map(|lane| lane.next_number))
                .unwrap_or(0);
        }
        let last = unsettled.seals.iter().map(|seal| seal.batch.last + 1).max();
        self.sealed_below = last.unwrap_or(0).max(unsettled.checkpoint.offset);
    }

    /// What is held is known as a duplicate, and the log takes more.
    pub(super) fn check_use(&mut self, wal: &Wal, id: &str) {
        let first = usize::try_from(first_held(wal)).unwrap();
        let held = &self.sent[first..];
        let again = append(wal, held);
        assert_eq!(
            again.duplicates.len(),
            held.len(),
            "all that is held is known"
        );
        let more = super::events(id, 3, 3_000);
        assert!(self.append(wal, &more), "an append after a reopen");
        assert!(self.apply(wal, &Step::Barrier));
    }

    fn append(&mut self, wal: &Wal, events: &[Sent]) -> bool {
        let twice = [
            events,
            events.last().map(std::slice::from_ref).unwrap_or_default(),
        ]
        .concat();
        let commit = wal.append(to_append(wal, &twice));
        let Ok(commit) = commit else {
            return false;
        };
        self.sent.extend_from_slice(events);
        let Ok(committed) = wait(commit) else {
            return false;
        };
        let expected: Vec<u32> = (0u32..)
            .zip(&twice)
            .skip(events.len())
            .map(|(at, _)| at)
            .collect();
        assert_eq!(committed.duplicates, expected);
        self.acknowledged = self.sent.len();
        true
    }

    /// Appends repeats with new events after them.
    fn send(&mut self, wal: &Wal, all: &[Sent], new: &[Sent], repeats: usize) -> bool {
        let Ok(commit) = wal.append(to_append(wal, all)) else {
            return false;
        };
        self.sent.extend_from_slice(new);
        let Ok(committed) = wait(commit) else {
            return false;
        };
        let expected: Vec<u32> = (0u32..).take(repeats).collect();
        assert_eq!(committed.duplicates, expected);
        self.acknowledged = self.sent.len();
        true
    }

    fn newest_checkpoint(&self) -> &Checkpoint {
        self.checkpoints.last().unwrap()
    }

    /// One past the last number of a lane whose batch lies wholly below an offset.
    fn settled_number(&self, lane: usize, offset: Offset) -> u64 {
        let own = self.seals.iter().map(|(seal, _)| seal.batch);
        own.filter(|batch| usize::from(batch.lane.0) == lane && batch.last < offset)
            .map(|batch| batch.number + 1)
            .max()
            .unwrap_or(0)
    }

    fn check_seals(&self, unsettled: &Unsettled) {
        for found in &unsettled.seals {
            assert!(
                self.seals.iter().any(|(seal, _)| seal == found),
                "{found:?} was never recorded"
            );
        }
        for (seal, acknowledged) in &self.seals {
            let lane = unsettled
                .checkpoint
                .lanes
                .get(usize::from(seal.batch.lane.0));
            let settled = lane.is_some_and(|lane| seal.batch.number < lane.next_number);
            let found = unsettled.seals.contains(seal);
            assert!(!(settled && found), "{seal:?} is settled");
            assert!(
                settled || found || !acknowledged,
                "{seal:?} was recorded and is not found"
            );
        }
    }
}
