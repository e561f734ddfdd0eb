//! What became of the records of a signal, counted exactly.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use opentelemetry_sdk::error::OTelSdkResult;

/// Records are handed over, wait, are taken by an export, and end as exported or dropped.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    limit: usize,
    waiting: AtomicUsize,
    under_way: AtomicUsize,
    exported: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicBool,
}

impl Ledger {
    /// A queue that takes so many.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Whether one more may wait; if not, it is counted as dropped. It never waits itself.
    pub(super) fn admit(&self) -> bool {
        let more = |waiting| (waiting < self.limit).then_some(waiting + 1);
        let admitted = !self.closed.load(Ordering::Acquire)
            && self
                .waiting
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
                .is_ok();
        if !admitted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// An export took so many out of the queue.
    pub(super) fn taken(&self, count: usize) {
        // After the end they are counted already.
        if take(&self.waiting, count) {
            self.under_way.fetch_add(count, Ordering::AcqRel);
        }
    }

    /// The export of so many ended.
    pub(super) fn ended(&self, count: usize, result: &OTelSdkResult) {
        if take(&self.under_way, count) {
            let as_what = match result {
                Ok(()) => &self.exported,
                Err(_) => &self.dropped,
            };
            as_what.fetch_add(widened(count), Ordering::Relaxed);
        }
    }

    /// Nothing will be exported any more: what is still here is dropped. Says how many these were.
    pub(super) fn close(&self) -> u64 {
        self.closed.store(true, Ordering::Release);
        let left =
            self.waiting.swap(0, Ordering::AcqRel) + self.under_way.swap(0, Ordering::AcqRel);
        self.dropped.fetch_add(widened(left), Ordering::Relaxed);
        widened(left)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn widened(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Takes so many away if so many are there.
fn take(from: &AtomicUsize, count: usize) -> bool {
    let less = |there: usize| there.checked_sub(count);
    from.fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    fn counts(ledger: &Ledger) -> (usize, u64, u64) {
        (ledger.waiting(), ledger.exported(), ledger.dropped())
    }

    #[test]
    fn every_record_ends_as_exported_or_dropped() {
        let ledger = Ledger::new(3);
        let admitted = (0..5).filter(|_| ledger.admit()).count();
        assert_eq!((admitted, counts(&ledger)), (3, (3, 0, 2)));
        ledger.taken(2);
        // An export under way leaves room behind it.
        assert!(ledger.admit());
        ledger.ended(2, &Ok(()));
        assert_eq!(counts(&ledger), (2, 2, 2));
        ledger.taken(1);
        ledger.ended(1, &Err(OTelSdkError::AlreadyShutdown));
        assert_eq!(counts(&ledger), (1, 2, 3));
        ledger.taken(1);
        assert!(ledger.admit());
        assert_eq!(ledger.close(), 2, "one waited, one was under way");
        // What goes on all the same is not counted twice.
        ledger.ended(1, &Ok(()));
        ledger.taken(1);
        ledger.ended(1, &Ok(()));
        assert!(!ledger.admit());
        assert_eq!(counts(&ledger), (0, 2, 6));
    }
}
