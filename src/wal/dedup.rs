//! The duplicate filter: which event keys are complete in the log.
//!
//! It belongs to the committer and remembers what the log remembers: a key is learned when its group is synced, rebuilt at
//! open, and forgotten when its group is trimmed, or when more than the configured number are known (the oldest first).

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU128;

use super::Fingerprint;
use crate::event::Offset;

/// Fingerprints are keyed and uniform already: their own bits are the hash.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some((low, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_le_bytes(*low);
        }
    }
}

/// Known fingerprints, in offset order.
#[derive(Debug)]
pub(crate) struct Dedup {
    known: HashSet<NonZeroU128, BuildHasherDefault<Identity>>,
    /// One entry per offset from `first` on; `None` where the key was known under a lower offset.
    order: VecDeque<Option<NonZeroU128>>,
    first: Offset,
    ids_max: usize,
}

impl Dedup {
    /// An empty filter that remembers at most `ids_max` keys.
    #[must_use]
    pub(crate) fn new(ids_max: usize) -> Self {
        Self {
            known: HashSet::default(),
            order: VecDeque::new(),
            first: 0,
            ids_max,
        }
    }

    /// Whether the key is known.
    #[must_use]
    pub(crate) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.known.contains(&key(fingerprint))
    }

    /// Learns the key of the record at an offset; offsets come in order, and may jump only when nothing is known.
    pub(crate) fn learn(&mut self, offset: Offset, fingerprint: Fingerprint) {
        self.learn_or_skip(offset, Some(fingerprint));
    }

    /// As [`Dedup::learn`] for a record whose key may be unreadable.
    pub(crate) fn learn_or_skip(&mut self, offset: Offset, fingerprint: Option<Fingerprint>) {
        if self.order.is_empty() {
            self.first = offset;
        }
        debug_assert_eq!(
            self.first + self.order.len() as u64,
            offset,
            "offsets are dense"
        );
        let new = fingerprint.map(key).filter(|&key| self.known.insert(key));
        self.order.push_back(new);
        while self.order.len() > self.ids_max {
            self.forget_first();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
    }

    /// Forgets every key below an offset.
    pub(crate) fn forget_below(&mut self, offset: Offset) {
        while self.first < offset && !self.order.is_empty() {
            self.forget_first();
        }
    }

    /// The lowest offset whose key is known.
    #[must_use]
    pub(crate) fn first(&self) -> Option<Offset> {
        (!self.order.is_empty()).then_some(self.first)
    }

    /// How many keys are known.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn forget_first(&mut self) {
        if let Some(Some(fingerprint)) = self.order.pop_front() {
            self.known.remove(&fingerprint);
        }
        self.first += 1;
    }
}

/// A fingerprint as it is kept: without zero, which makes the absence of one cost no space. Of 2^128 fingerprints two then
/// count as one.
fn key(fingerprint: Fingerprint) -> NonZeroU128 {
    NonZeroU128::new(fingerprint.0).unwrap_or(NonZeroU128::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u128) -> Fingerprint {
        Fingerprint(n)
    }

    #[test]
    fn a_key_is_known_until_its_offset_is_forgotten() {
        let mut dedup = Dedup::new(10);
        for offset in 0..4 {
            dedup.learn(offset, key(u128::from(offset)));
        }
        dedup.forget_below(2);
        let known: Vec<bool> = (0..5).map(|n| dedup.contains(key(n))).collect();
        assert_eq!(known, [false, false, true, true, false]);
        assert_eq!(dedup.first(), Some(2));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut dedup = Dedup::new(2);
        for offset in 0..5 {
            dedup.learn(offset, key(u128::from(offset)));
        }
        assert!(!dedup.contains(key(2)) && dedup.contains(key(3)) && dedup.contains(key(4)));
    }

    #[test]
    fn a_key_that_stands_twice_is_forgotten_with_its_first_place() {
        let mut dedup = Dedup::new(10);
        dedup.learn(0, key(7));
        dedup.learn(1, key(7));
        dedup.forget_below(1);
        assert!(!dedup.contains(key(7)));
        dedup.forget_below(2);
        dedup.learn(9, key(7));
        assert_eq!(dedup.first(), Some(9));
        assert!(dedup.contains(key(7)));
    }
}
