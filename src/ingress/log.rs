//! What the doors need of a log: the seam at which `eventkit bench` puts something cheaper behind the same doors.
//!
//! Architecture invariant: in the product there is one implementation, the write-ahead log, and [`Published`] around it. The others are yardsticks
//! (nothing at all, a plain file) that show what doors and log cost apart; they live with `bench`.

use std::fmt::Debug;

use tokio::sync::watch;

use crate::event::{EventKey, Offset};
use crate::wal::{Append, AppendError, Commit, Fingerprint, Wal};

/// Takes appends. See [`Wal`] for what the answers promise.
pub trait Log: Debug + Send + Sync + 'static {
    /// Whether an append would be taken now: asked before a request's body is read.
    ///
    /// # Errors
    ///
    /// Why it would not.
    fn admit(&self) -> Result<(), AppendError>;

    /// Takes the events; never blocks. The [`Commit`] resolves when they are as durable as this log makes them.
    ///
    /// # Errors
    ///
    /// [`AppendError`]: nothing was stored.
    fn append(&self, append: Append) -> Result<Commit, AppendError>;

    /// The number of lanes that the log has.
    fn lanes(&self) -> u16;

    /// The fingerprint of an event's key.
    fn fingerprint(&self, key: EventKey<'_>) -> Fingerprint;

    /// Beyond the commit, what an answer has to wait for: everything below the offset must be with the queue.
    fn sent(&self) -> Option<(watch::Receiver<Offset>, Offset)> {
        None
    }
}

impl Log for Wal {
    fn admit(&self) -> Result<(), AppendError> {
        Self::admit(self)
    }

    fn append(&self, append: Append) -> Result<Commit, AppendError> {
        Self::append(self, append)
    }

    fn lanes(&self) -> u16 {
        Self::lanes(self)
    }

    fn fingerprint(&self, key: EventKey<'_>) -> Fingerprint {
        Self::fingerprint(self, key)
    }
}

/// The log where the disk is not durable: an event counts as accepted once the queue holds it, too. A duplicate waits for
/// the event that it repeats, so all that is in the log by then is waited for.
#[derive(Debug)]
pub struct Published {
    wal: Wal,
    sent: watch::Receiver<Offset>,
}

impl Published {
    /// The log, and how far everything is with the queue.
    #[must_use]
    pub fn new(wal: Wal, sent: watch::Receiver<Offset>) -> Self {
        Self { wal, sent }
    }
}

impl Log for Published {
    fn admit(&self) -> Result<(), AppendError> {
        self.wal.admit()
    }

    fn append(&self, append: Append) -> Result<Commit, AppendError> {
        self.wal.append(append)
    }

    fn lanes(&self) -> u16 {
        self.wal.lanes()
    }

    fn fingerprint(&self, key: EventKey<'_>) -> Fingerprint {
        self.wal.fingerprint(key)
    }

    fn sent(&self) -> Option<(watch::Receiver<Offset>, Offset)> {
        Some((self.sent.clone(), *self.wal.durable().borrow()))
    }
}
