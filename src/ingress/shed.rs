//! The bytes of request bodies under way, held against one limit, and what one sender may have of all that waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::wal::QUEUED_APPENDS_MAX;

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
        self.reserve(bytes).then(|| Held {
            budget: self.clone(),
            share: Mutex::new(None),
            bytes: AtomicUsize::new(bytes),
        })
    }

    /// How many there are in all.
    #[must_use]
    pub fn max(&self) -> usize {
        self.0.max
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

/// What one sender may have: so many bytes under way, and so many places in the log's queue. Cheap to clone; the clones are one
/// sender's.
#[derive(Debug, Clone)]
pub struct Share {
    pub(super) bytes: Budget,
    pub(super) queue: Arc<Semaphore>,
}

impl Share {
    /// So many bytes, and half of the queue: whoever sends the most requests, however small, must not fill it for all others.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes: Budget::new(bytes_max),
            queue: Arc::new(Semaphore::new(QUEUED_APPENDS_MAX / 2)),
        }
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    /// What they are taken from as well: the share of one sender.
    share: Mutex<Option<Budget>>,
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
        // Who asks for nothing more needs no room.
        if more == 0 {
            return true;
        }
        if !self.budget.reserve(more) {
            return false;
        }
        let share = self.shared();
        if share.as_ref().is_some_and(|share| !share.reserve(more)) {
            self.budget.give_back(more);
            return false;
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        true
    }

    /// From now on its bytes are taken from this share as well, and from no other one; false, and nothing changes, when it has not
    /// so many left.
    #[must_use]
    pub fn share(&self, share: Option<&Share>) -> bool {
        let share = share.map(|share| &share.bytes);
        let mut mine = self.shared();
        let bytes = self.bytes();
        if share.is_some_and(|share| !share.reserve(bytes)) {
            return false;
        }
        if let Some(before) = std::mem::replace(&mut *mine, share.cloned()) {
            before.give_back(bytes);
        }
        true
    }

    fn shared(&self) -> MutexGuard<'_, Option<Budget>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives back everything, and can be used again.
    pub fn give_back(&self) {
        let share = self.shared();
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.budget.give_back(bytes);
        if let Some(share) = &*share {
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
        assert!(b.grow_to(4));
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
        let (budget, share) = (Budget::new(10), Share::new(5));
        let (a, b) = (budget.take(3).unwrap(), budget.take(3).unwrap());
        assert!(a.share(Some(&share)));
        assert!(!b.share(Some(&share)));
        assert!(a.grow_by(2) && !a.grow_by(1));
        assert_eq!((budget.used(), share.bytes.used()), (8, 5));
        a.give_back();
        assert_eq!((budget.used(), share.bytes.used()), (3, 0));
        assert!(b.share(Some(&share)));
        drop(b);
        drop(a);
        assert_eq!((budget.used(), share.bytes.used()), (0, 0));
    }

    #[test]
    fn a_sender_has_half_of_the_places_and_gets_them_back() {
        let (share, other) = (Share::new(5), Share::new(5));
        let take = |share: &Share| Arc::clone(&share.queue).try_acquire_owned().ok();
        let mut places: Vec<_> = (0..QUEUED_APPENDS_MAX / 2).map(|_| take(&share)).collect();
        assert!(places.iter().all(Option::is_some) && share.clone().queue.available_permits() == 0);
        assert!(take(&share).is_none());
        assert!(other.queue.available_permits() > 0 && take(&other).is_some());
        places.pop();
        assert!(share.queue.available_permits() > 0 && take(&share).is_some());
    }

    #[test]
    fn what_is_held_moves_from_one_share_to_another() {
        let (budget, address, key) = (Budget::new(10), Share::new(5), Share::new(2));
        let used = || (budget.used(), address.bytes.used(), key.bytes.used());
        let held = budget.take(3).unwrap();
        assert!(held.share(Some(&address)));
        assert!(!held.share(Some(&key)), "it is too small");
        assert_eq!(used(), (3, 3, 0));
        let other = budget.take(1).unwrap();
        assert!(other.share(Some(&address)) && other.share(Some(&key)));
        assert_eq!(used(), (4, 3, 1));
        assert!(held.share(None));
        assert_eq!(used(), (4, 0, 1));
        drop((held, other));
        assert_eq!(used(), (0, 0, 0));
    }
}
