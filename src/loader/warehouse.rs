//! The warehouse's contract: what every implementation promises, so that the driver may repeat any step at any time.
//!
//! ```text
//!  load(N)  ─▶ staging of N      objects become staged rows; nothing that analysts see changes
//!  merge(N) ─▶ events, errors    staged rows become rows, each event once; the outcome is kept with the change
//!  record(N) ─▶ the record       N and its objects are done; only now may markers go
//! ```

use std::collections::HashSet;

use async_trait::async_trait;

use super::manifest::Manifest;
use crate::event::Micros;
use crate::store::{Objects, WriteError};

/// What a load staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staged {
    /// Rows for the table `events`.
    pub events: u64,
    /// Rows for the table `errors`.
    pub errors: u64,
}

/// What a merge did with what was staged:
/// `events_inserted + events_duplicate` and `errors_inserted + errors_duplicate + errors_superseded` are all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Events that became rows.
    pub events_inserted: u64,
    /// Events left out, because their key was a row before or another staged event won.
    pub events_duplicate: u64,
    /// Error rows that became rows.
    pub errors_inserted: u64,
    /// Error rows left out, because their key was there before.
    pub errors_duplicate: u64,
    /// Error rows left out, because their event is a row: judged twice, the row wins.
    pub errors_superseded: u64,
    /// Error rows of earlier manifests that were removed for the same reason.
    pub errors_removed: u64,
}

/// What an expiry removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Events.
    pub events: u64,
    /// Error rows.
    pub errors: u64,
}

/// How a manifest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its rows are in the warehouse.
    Loaded(Merged),
    /// Its one object can never be loaded; it stays where it is, and its marker moves to `quarantine/`.
    Quarantined {
        /// Why, without payload.
        reason: String,
    },
    /// Later manifests hold its objects; nothing of it was loaded.
    Superseded {
        /// Why, without payload.
        reason: String,
    },
    /// It was not readable; nothing of it was loaded, and its objects still have their markers.
    Discarded {
        /// Why, without payload.
        reason: String,
    },
}

impl Outcome {
    /// The word in `_loaded_manifests.status`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Loaded(_) => "loaded",
            Self::Quarantined { .. } => "quarantined",
            Self::Superseded { .. } => "superseded",
            Self::Discarded { .. } => "discarded",
        }
    }
}

/// Why a warehouse did not do as asked. All of these are outages: the same call is repeated until it succeeds.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// Another program holds it for longer than we wait.
    #[error("warehouse {name} is locked by another program")]
    Locked {
        /// Which warehouse.
        name: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is damaged, or is no database: a person must set it aside; it is then filled again from the store.
    #[error(
        "warehouse {name} is damaged or is not a database. Nothing is lost: events wait in the store. Stop eventkit, move the \
         file away with its -wal and -shm, and start: the warehouse is made again and filled from the store (or put a good \
         copy in its place: what that lacks is loaded)"
    )]
    Damaged {
        /// Which warehouse.
        name: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was there and is gone, or is another one now: a person must put it back, or restart with a new one.
    #[error(
        "warehouse {name} was moved, replaced or deleted while in use. Nothing is lost: events wait in the store. Put the \
         same one back, or restart eventkit: a missing warehouse is made again and filled from the store"
    )]
    Gone {
        /// Which warehouse.
        name: String,
    },
    /// It does not let us in: a person must give the account what it lacks.
    #[error("warehouse {name} refuses us")]
    Denied {
        /// Which warehouse.
        name: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else than our warehouse lies there.
    #[error("{name} is not an eventkit warehouse: {reason}")]
    Foreign {
        /// What lies there.
        name: String,
        /// How that shows.
        reason: String,
    },
    /// A later version of this program made it, and its tables cannot be written by this one.
    #[error("warehouse {name} has schema version {version}, which is not known here")]
    Newer {
        /// Which warehouse.
        name: String,
        /// Its version.
        version: i64,
    },
    /// The number was taken for other objects: the loader of another store writes here as well. What is ours goes under a later number.
    #[error(
        "manifest {number} of warehouse {name} holds objects of another store, whose loader writes to the same tables. Nothing is lost: ours \
         are loaded under a later number when that loader has recorded its own (if it is gone for good, delete the row of this number \
         with status 'merged' among the loaded manifests). Give each store tables of its own"
    )]
    Shared {
        /// Which warehouse.
        name: String,
        /// Which manifest.
        number: u64,
    },
    /// It cannot be reached, is full, is read-only, or fails in another way.
    #[error("warehouse {name} is unavailable")]
    Unavailable {
        /// Which warehouse.
        name: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl WarehouseError {
    /// The word for it in a span.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "warehouse_locked",
            Self::Damaged { .. } => "warehouse_damaged",
            Self::Gone { .. } => "warehouse_gone",
            Self::Denied { .. } => "warehouse_denied",
            Self::Foreign { .. } => "warehouse_foreign",
            Self::Newer { .. } => "warehouse_newer",
            Self::Shared { .. } => "warehouse_shared",
            Self::Unavailable { .. } => "warehouse_unavailable",
        }
    }
}

/// Why a load staged nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The warehouse is out: load again later.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
    /// The store is out: load again later.
    #[error("objects cannot be read")]
    Store(#[from] WriteError),
    /// An object of the manifest is missing or is not readable, and never will be: isolate it.
    #[error("object {object:?} cannot be loaded: {reason}")]
    Object {
        /// Which one, where the warehouse can tell.
        object: Option<String>,
        /// What is wrong with it, without payload.
        reason: String,
    },
    /// This attempt failed for good, though another may succeed (a job's id can be used only once): load the same objects
    /// under the next manifest.
    #[error("the load failed and cannot be repeated under this manifest: {reason}")]
    Attempt {
        /// What the warehouse said, without payload.
        reason: String,
    },
}

impl LoadError {
    /// The word for it in a span.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Warehouse(error) => error.kind(),
            Self::Store(error) => store_kind(error),
            Self::Object { .. } => OBJECT_UNREADABLE,
            Self::Attempt { .. } => "attempt_failed",
        }
    }
}

/// The word in a span for an object that can never be loaded.
pub(super) const OBJECT_UNREADABLE: &str = "object_unreadable";

/// The word in a span for a store that failed, beside a warehouse that may do so.
pub(super) const fn store_kind(error: &WriteError) -> &'static str {
    match error {
        WriteError::Unavailable { .. } => "store_unavailable",
        WriteError::Denied { .. } => "store_denied",
    }
}

/// Why a merge changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The warehouse is out: merge again later.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
    /// The manifest's rows are not staged (any more): load it again first.
    #[error("manifest {0} is not staged")]
    NotStaged(u64),
}

impl MergeError {
    /// The word for it in a span.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Warehouse(error) => error.kind(),
            Self::NotStaged(_) => "not_staged",
        }
    }
}

/// Holds the rows that analysts query. What every implementation promises:
///
/// 1. *Repeatable*: every step may be repeated, by this or another instance, whatever became of the call before. A manifest
///    is loaded before it is merged and merged before it is recorded; a new instance begins with `load`.
/// 2. *Atomic*: a step has all of its effect or none, and its effect is durable when it returns.
/// 3. *One row per event*: `merge` only inserts. Of several staged rows with one (source, message id) the first by
///    (`received_at`, `log_id`, `offset`) wins; a row that is there wins over all staged ones. A warehouse that pays for what
///    it reads may look for such rows in some days around those on which the staged ones were received; so for promise 4.
/// 4. *Judged twice, a row wins*: an error row goes, or never comes, where its event is a row: the same (log id, offset) or
///    the same (source, message id). Apart from that an error row's key is (log id, offset, hash of the original).
/// 5. *Exact counts*: a repeated `merge` answers what the first one did.
/// 6. `record` is the one step by which a manifest and its objects count as done; the first outcome stays. Only objects
///    of manifests with [`Outcome::Loaded`] are `recorded`.
/// 7. Nothing is ever deleted or rewritten but what promise 4 and a call of `expire` say; a warehouse that is damaged or
///    gone is an error.
/// 8. `expire` removes rows only, never the record of a manifest or an object: a marker that comes back for an object that
///    was loaded long ago is known to be one, also when object and rows are gone.
#[async_trait]
pub trait Warehouse: std::fmt::Debug + Send + 'static {
    /// Makes the tables where they are missing, and adds the nullable columns that a later version brought.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`].
    async fn prepare(&mut self) -> Result<(), WarehouseError>;

    /// The highest recorded number.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`].
    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError>;

    /// Which of these objects are recorded as loaded.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`].
    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError>;

    /// Stages the rows of the manifest's objects, instead of whatever was staged before.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing is staged then.
    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError>;

    /// Makes the staged rows of the manifest rows of the tables.
    ///
    /// # Errors
    ///
    /// [`MergeError`].
    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError>;

    /// Records how the manifest ended.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`].
    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError>;

    /// Removes rows that were received before a moment, in one transaction for each table. Fewer than `limit` of both tables means
    /// that none are left. A warehouse whose readers or writers wait for a removal removes no more than `limit` of each table at a
    /// time; one that lets whole days go at once removes all, and says how many.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`]; an outage, or a lost answer, is repeated with the same moment.
    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError>;

    /// When the oldest row was received; `None` when there are no rows.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`].
    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError>;
}
