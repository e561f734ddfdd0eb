//! Why a round ended early, and what that means for whoever waits.

use super::manifest;
use super::warehouse::{self, LoadError, MergeError, WarehouseError};
use crate::store::{Disposition, WriteError};

/// Why a round ended early. Every round may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The store is out, or refuses.
    #[error("store failed")]
    Store(#[from] WriteError),
    /// The warehouse is out.
    #[error(transparent)]
    Warehouse(#[from] WarehouseError),
    /// The load failed.
    #[error("load of manifest {number} failed")]
    Load {
        /// The manifest.
        number: u64,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// The merge failed.
    #[error("merge of manifest {number} failed")]
    Merge {
        /// The manifest.
        number: u64,
        /// Why.
        #[source]
        source: MergeError,
    },
    /// A later version of this program began a manifest; it must complete it.
    #[error("manifest {number} cannot be completed by this version")]
    Newer {
        /// The manifest.
        number: u64,
        /// Why.
        #[source]
        source: manifest::ParseError,
    },
    /// Markers lie in the inbox that this version cannot judge or may not read; all others are loaded.
    #[error("{count} markers stay in the inbox; {name}: {reason}")]
    Blocked {
        /// How many.
        count: usize,
        /// One of them.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no number left for a manifest.
    #[error("manifest numbers are used up")]
    Numbers,
}

impl RoundError {
    /// What failed, as a word for the metrics.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Warehouse(_) => "warehouse",
            Self::Load { .. } => "load",
            Self::Merge { .. } => "merge",
            Self::Newer { .. } | Self::Blocked { .. } | Self::Numbers => "inbox",
        }
    }

    /// What is the cause, as a word of a closed list for spans.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store(error) => warehouse::store_kind(error),
            Self::Warehouse(error) => error.kind(),
            Self::Load { source, .. } => source.kind(),
            Self::Merge { source, .. } => source.kind(),
            Self::Newer { .. } => "manifest_newer",
            Self::Blocked { .. } => "markers_blocked",
            Self::Numbers => "numbers_used_up",
        }
    }

    /// Whether it stays until a person acts, as far as one can tell from here.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        let store = |error: &WriteError| error.disposition() == Disposition::Alarm;
        let warehouse = |error: &WarehouseError| match error {
            WarehouseError::Locked { .. } | WarehouseError::Unavailable { .. } => false,
            WarehouseError::Damaged { .. }
            | WarehouseError::Gone { .. }
            | WarehouseError::Denied { .. }
            | WarehouseError::Foreign { .. }
            | WarehouseError::Newer { .. }
            | WarehouseError::Shared { .. } => true,
        };
        match self {
            Self::Store(error) => store(error),
            Self::Warehouse(error) => warehouse(error),
            Self::Load { source, .. } => match source {
                LoadError::Warehouse(error) => warehouse(error),
                LoadError::Store(error) => store(error),
                LoadError::Object { .. } | LoadError::Attempt { .. } => false,
            },
            Self::Merge { source, .. } => match source {
                MergeError::Warehouse(error) => warehouse(error),
                MergeError::NotStaged(_) => false,
            },
            Self::Newer { .. } | Self::Blocked { .. } | Self::Numbers => true,
        }
    }
}
