//! What the doors need of a log: the seam at which `eventkit bench` puts something cheaper behind the same doors.
//!
//! Architecture invariant: in the product there is one implementation, the write-ahead log. The others are yardsticks
//! (nothing at all, a plain file) that show what doors and log cost apart; they live with `bench`.

use std::fmt::Debug;

use crate::event::EventKey;
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
