//! Looking into a log without changing it: what `eventkit wal stat|verify|dump` shows.

use std::path::Path;

use serde::Serialize;

use crate::event::Offset;

/// A log in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Stat {
    /// The log's identity.
    pub log_id: String,
    /// On-disk format version.
    pub format: u8,
    /// Number of lanes.
    pub lanes: u16,
    /// Lowest offset still held.
    pub first_offset: Offset,
    /// One past the highest offset.
    pub next_offset: Offset,
    /// Everything below is settled.
    pub checkpoint: Offset,
    /// One past the highest acknowledged offset, as the mark beside the log says; absent when there is no mark.
    pub mark_next_offset: Option<Offset>,
    /// Records held.
    pub records: u64,
    /// Records not yet settled in every lane.
    pub unsettled_records: u64,
    /// Group commits held.
    pub groups: u64,
    /// Bytes as stored (compressed).
    pub stored_bytes: u64,
    /// Bytes of records.
    pub plain_bytes: u64,
    /// Seals of batches that are not settled.
    pub open_seals: u64,
    /// When the oldest record held was received, microseconds since 1970.
    pub oldest_received_at_us: Option<i64>,
}

/// What a full read of the log found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// Groups read.
    pub groups: u64,
    /// Records read and checked.
    pub records: u64,
    /// What is wrong, each with offsets; empty: the log is whole.
    pub problems: Vec<String>,
}

/// One record, as `wal dump` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Its offset.
    pub offset: Offset,
    /// Its lane.
    pub lane: u16,
    /// Its source.
    pub source: String,
    /// Its message id.
    pub message_id: String,
    /// Its stream.
    pub stream: String,
    /// Microseconds since 1970.
    pub received_at_us: i64,
    /// `json` or `event`.
    pub format: &'static str,
    /// Bytes of the payload.
    pub payload_bytes: usize,
    /// The payload as text (JSON as it is, protobuf in base64 style hexadecimal); only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// Why a log could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no log at the path.
    #[error("no log at {0}")]
    Missing(std::path::PathBuf),
    /// The files could not be copied or read.
    #[error("read the log")]
    Io(#[from] std::io::Error),
    /// The copy does not open.
    #[error("the log does not open: {0}")]
    Damaged(String),
}

/// A log that can be looked into: a live one through its owner, or a temporary copy; never the original.
#[derive(Debug)]
pub struct Inspector {}

impl Inspector {
    /// Copies the log's files to a temporary directory and opens the copy.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn open_copy(_path: &Path) -> Result<Self, InspectError> {
        Err(InspectError::Damaged("not built".into()))
    }

    /// Looks into the log that this process owns.
    #[must_use]
    pub fn live(_wal: &super::Wal) -> Self {
        Self {}
    }

    /// The log in figures.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn stat(&self) -> Result<Stat, InspectError> {
        Err(InspectError::Damaged("not built".into()))
    }

    /// Reads and checks every record.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn verify(&self) -> Result<Verification, InspectError> {
        Err(InspectError::Damaged("not built".into()))
    }

    /// At most `limit` records from an offset on.
    ///
    /// # Errors
    ///
    /// [`InspectError`].
    pub fn dump(
        &self,
        _from: Offset,
        _limit: usize,
        _payload: bool,
    ) -> Result<Vec<Line>, InspectError> {
        Err(InspectError::Damaged("not built".into()))
    }
}
