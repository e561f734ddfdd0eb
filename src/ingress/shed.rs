//! The bytes of request bodies under way, held against one limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// A number of bytes that all requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shared {
            used: AtomicUsize::new(0),
            max,
        }))
    }

    /// Takes bytes until the answer is dropped; `None` when there are not so many left.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Held> {
        let held = Held {
            budget: self.clone(),
            share: OnceLock::new(),
            bytes: AtomicUsize::new(0),
        };
        held.grow_to(bytes).then_some(held)
    }

    /// How many are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn reserve(&self, more: usize) -> bool {
        let taken = self
            .0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|used| *used <= self.0.max)
            });
        // With nothing left, even a request of unknown size is too much.
        taken.is_ok_and(|before| more > 0 || before < self.0.max)
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    /// What they are taken from as well: the share of one sender.
    share: OnceLock<Budget>,
    bytes: AtomicUsize,
}

impl Held {
    /// Holds at least so many bytes; false, and nothing changes, when there are not so many left. For one caller at a time.
    #[must_use]
    pub fn grow_to(&self, bytes: usize) -> bool {
        self.grow_by(bytes.saturating_sub(self.bytes()))
    }

    /// Holds so many more bytes; false, and nothing changes, when there are not so many left.
    #[must_use]
    pub fn grow_by(&self, more: usize) -> bool {
        if !self.budget.reserve(more) {
            return false;
        }
        if self.share.get().is_some_and(|share| !share.reserve(more)) {
            self.budget.give_back(more);
            return false;
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        true
    }

    /// From now on its bytes are a sender's, and taken from his share as well; false, and nothing changes, when that has not so
    /// many left. Once.
    #[must_use]
    pub fn share(&self, share: &Budget) -> bool {
        let bytes = self.bytes();
        if !share.reserve(bytes) {
            return false;
        }
        if self.share.set(share.clone()).is_err() {
            share.give_back(bytes);
        }
        true
    }

    /// How many are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives back everything, and can be used again.
    pub fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.budget.give_back(bytes);
        if let Some(share) = self.share.get() {
            share.give_back(bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back() {
        let budget = Budget::new(10);
        let a = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let b = budget.take(0).unwrap();
        assert!(b.grow_to(4));
        assert!(!b.grow_to(5));
        assert_eq!(budget.used(), 10);
        assert!(budget.take(0).is_none());
        drop(a);
        assert!(b.grow_to(5));
        b.give_back();
        assert_eq!(budget.used(), 0);
        assert!(b.grow_by(3) && b.grow_by(2) && !b.grow_by(6));
        assert!(b.grow_to(1));
        assert_eq!(budget.used(), 5);
        drop(b);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_sender_takes_no_more_than_his_share() {
        let (budget, share) = (Budget::new(10), Budget::new(5));
        let (a, b) = (budget.take(3).unwrap(), budget.take(3).unwrap());
        assert!(a.share(&share));
        assert!(!b.share(&share));
        assert!(a.grow_by(2) && !a.grow_by(1));
        assert_eq!((budget.used(), share.used()), (8, 5));
        a.give_back();
        assert_eq!((budget.used(), share.used()), (3, 0));
        assert!(b.share(&share));
        drop(b);
        drop(a);
        assert_eq!((budget.used(), share.used()), (0, 0));
    }
}
