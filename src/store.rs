//! The event store and the error store: where a batch's rows become durable outside the log.
//!
//! What every store promises:
//!
//! 1. `Ok` means durable: the rows, and (where a loader follows) the marker by which it finds them.
//! 2. A name is written once. *Exists under this name = success*, whatever the bytes: the name stands for the batch's
//!    identity and the hash of its input, and another version may have encoded or judged it differently.
//! 3. Therefore a write can be repeated at will, by anyone, at the same time.
//! 4. An error says whether the store is out (retried for ever) or refuses (`disposition`); a store that answers per row
//!    names the rows it refused instead of failing the batch.

use std::sync::Arc;

use async_trait::async_trait;

use crate::event::{BatchId, Day};

pub mod row;
pub mod parquet;
pub mod objects;
pub mod object_store;
pub mod local;
#[cfg(feature = "cloud")]
pub mod gcs;
#[cfg(feature = "cloud")]
pub mod firestore;
pub mod retry;
pub mod fake;

#[cfg(feature = "cloud")]
pub use self::firestore::FirestoreStore;
#[cfg(feature = "cloud")]
pub use gcs::{GcsObjects, GcsOptions};
pub use local::LocalObjects;
pub use object_store::ObjectEventStore;
pub use objects::{Marker, Objects, Table, Traces};
pub use retry::Retrying;
pub use row::{ErrorRow, Row};

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// False when the name was there before.
    pub created: bool,
    /// The object's name; empty for stores without objects.
    pub object: String,
    /// Bytes written.
    pub bytes: u64,
    /// Rows that the store will never take, by their place in the batch, with a reason without payload.
    pub refused: Vec<(usize, String)>,
}

/// What to do about a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The store is out, slow or full: try again, for ever.
    Retry,
    /// The store says no to everyone (permission, missing bucket): try again too, but call a person.
    Alarm,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The store cannot be reached, is full or answers with a passing error.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// What happened, without payload.
        reason: String,
        /// What caused it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The store refuses us.
    #[error("store refuses: {reason}")]
    Denied {
        /// What it said.
        reason: String,
        /// What caused it.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl WriteError {
    /// The word for it in a span.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Denied { .. } => "denied",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Unavailable { .. } => Disposition::Retry,
            Self::Denied { .. } => Disposition::Alarm,
        }
    }
}

/// Takes the good rows of a batch.
#[async_trait]
pub trait EventStore: std::fmt::Debug + Send + Sync + 'static {
    /// Writes rows under the batch's name; see the promises above.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing is promised about the rows then, and the same call may be repeated.
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError>;
}

/// Takes the rows that could not become events.
#[async_trait]
pub trait ErrorStore: std::fmt::Debug + Send + Sync + 'static {
    /// Writes error rows under the batch's name; see the promises above. There is no further place for one that is refused:
    /// [`Retrying`] takes that for a failure.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing is promised about the rows then, and the same call may be repeated.
    async fn write_errors(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError>;
}
