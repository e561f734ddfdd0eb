//! What one sender may have in the committer's queue: half of its places. Without it whoever sends the most requests, however small,
//! would fill the queue, and everybody else would hear that the log is overloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::handle::QUEUED_APPENDS_MAX;

/// The places of one sender. Cheap to clone; the clones are one sender's.
#[derive(Debug, Clone)]
pub struct QueueShare(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    taken: AtomicUsize,
    max: usize,
}

impl Default for QueueShare {
    fn default() -> Self {
        Self::of(QUEUED_APPENDS_MAX / 2)
    }
}

impl QueueShare {
    fn of(max: usize) -> Self {
        Self(Arc::new(Shared {
            taken: AtomicUsize::new(0),
            max,
        }))
    }

    /// Whether all are taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.taken.load(Ordering::Relaxed) >= self.0.max
    }

    /// A place for one append, kept until the committer has taken that; `None`: all are taken.
    #[must_use]
    pub fn take(&self) -> Option<QueuePlace> {
        let free = |taken: usize| (taken < self.0.max).then_some(taken + 1);
        let taken = self
            .0
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        taken.is_ok().then(|| QueuePlace(self.clone()))
    }
}

/// A place in the queue; free again when dropped.
#[derive(Debug)]
pub struct QueuePlace(QueueShare);

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_has_so_many_places_and_gets_them_back() {
        let (share, other) = (QueueShare::of(2), QueueShare::of(2));
        let (one, two) = (share.take(), share.clone().take());
        assert!(one.is_some() && two.is_some() && share.is_full());
        assert!(share.take().is_none());
        assert!(!other.is_full() && other.take().is_some());
        drop(one);
        assert!(!share.is_full() && share.take().is_some());
    }
}
