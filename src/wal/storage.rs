//! The narrow seam below the log: an ordered map of small values with a durability barrier.
//!
//! What every engine promises:
//!
//! 1. When `sync` returns `Ok`, every insert and remove before it is on stable storage: it survives a power cut.
//! 2. After a crash the map holds what was synced and a prefix of what was written since (an engine may also keep all or
//!    none of a commit).
//! 3. A failed `sync` is final: the engine is not asked again.
//! 4. `scan` sees what was synced before it began, in ascending order of keys; of what was written since, it may see any
//!    part or nothing, and the same of what is synced while it runs. The log asks for no more: recovery scans before the
//!    first write, and readers stay below the durable tail.
//! 5. One process, and in it one writer; readers may run beside it.
//!
//! Values are at most [`VALUE_BYTES_MAX`]: larger ones would leave sled's log for files that it never syncs.

use std::fs::File;
use std::io;
use std::path::Path;

pub mod memory;
pub mod sled;
pub mod sqlite;

/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 6_000;

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A write found no room on the volume. A sync that fails for that reason is [`StorageError::Io`]: it may have lost what
    /// was written before, and a write that fails has not.
    #[error("the volume is full")]
    Full(#[source] io::Error),
    /// The system said no.
    #[error("storage input or output failed")]
    Io(#[from] io::Error),
    /// The engine's own files are damaged.
    #[error("the storage engine's files are damaged: {0}")]
    Damaged(String),
    /// A promise of the engine cannot be kept in this build.
    #[error("the storage engine cannot be trusted here: {0}")]
    Untrusted(&'static str),
    /// A value is larger than [`VALUE_BYTES_MAX`].
    #[error("a value of {0} bytes is too large for the engine")]
    TooLarge(usize),
}

/// Called for each pair; `false` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// An engine; see the promises above.
pub trait Storage: std::fmt::Debug + Send + Sync + 'static {
    /// Sets a key.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; the engine is then not asked again.
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Removes a key; a key that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; the engine is then not asked again.
    fn remove(&self, key: &[u8]) -> Result<(), StorageError>;

    /// Returns when everything before it is on stable storage.
    ///
    /// # Errors
    ///
    /// [`StorageError`]; the engine is then not asked again.
    fn sync(&self) -> Result<(), StorageError>;

    /// Visits the pairs from a key on (inclusive), ascending.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// Bytes on disk, live or not.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    fn disk_bytes(&self) -> Result<u64, StorageError>;
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}
