//! The bytes of request bodies under way, held against one limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
            bytes: AtomicUsize::new(0),
        };
        held.grow_to(bytes).then_some(held)
    }

    /// How many are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
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
        let taken = self.budget.reserve(more);
        if taken {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        taken
    }

    /// How many are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives back everything, and can be used again.
    pub fn give_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
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
}
