//! The sled engine (0.34), with the measures that make it safe against power loss.
//!
//! sled on Linux does not sync by itself where it says so; `barrier` replaces the call it makes, and after each flush the
//! data file is synced once more through a handle of our own, whose error we see. At open it relies on the name of a file
//! that it has just renamed; `barrier` makes that durable in time. Values stay small, so that sled never
//! moves them to `blobs/`, which it does not sync at all (asserted after each sync). sled's periodic flusher is off: it
//! swallows errors.

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::beside;
use super::{Storage, StorageError, VALUE_BYTES_MAX, Visit, sync_directory};

pub mod barrier;

/// The name of the file that holds everything.
pub(crate) const DATA_FILE: &str = "db";

/// sled's page cache, in bytes: the log is read once, front to back, so little is enough.
const CACHE_BYTES: u64 = 64 << 20;

/// How often the database's lock is tried, every two milliseconds, before it counts as held.
const LOCK_ATTEMPTS: u32 = 500;

/// A sled database as an engine.
#[derive(Debug)]
pub struct SledStorage {
    db: sled::Db,
    /// Our own handle on the data file: its `sync_data` is what an acknowledgement waits for.
    data: File,
    path: PathBuf,
}

impl SledStorage {
    /// Opens or creates the database in a directory.
    ///
    /// A left-over half-written snapshot is removed, and a damaged one set aside beside the directory (`<path>.snapshots/`).
    /// A snapshot mostly just shortens the open. But right after an open that overwrote unused segments the log does not join
    /// up without it: then a damaged snapshot costs the log, which the mark notices.
    ///
    /// # Errors
    ///
    /// [`StorageError`]. Nothing was changed then, apart from snapshots that were set aside.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        if is_empty(path)? {
            create(path)?;
        }
        let mut before = snapshots(path)?;
        for name in before.extract_if(.., |name| name.ends_with(barrier::UNFINISHED)) {
            tracing::warn!(file = %name, "unfinished_snapshot_removed");
            fs::remove_file(path.join(name))?;
        }
        let db = match open_db(path) {
            Err(StorageError::Damaged(reason)) if !before.is_empty() => {
                tracing::warn!(reason, "snapshot_set_aside");
                set_snapshots_aside(path)?;
                open_db(path)?
            }
            opened => opened?,
        };
        let is_new = |name| !before.contains(name);
        if cfg!(target_os = "linux")
            && barrier::snapshots() == 0
            && snapshots(path)?.iter().any(is_new)
        {
            return Err(StorageError::Untrusted(
                "sled's snapshot did not pass through the replaced rename",
            ));
        }
        let data = File::options()
            .read(true)
            .write(true)
            .open(path.join("db"))?;
        // Whatever the page cache holds is made durable before anyone acts on it. sled never syncs `conf` nor any name, and
        // without them the database does not open after a power cut. At every open, since whoever made them may have died.
        data.sync_data()?;
        File::open(path.join("conf"))?.sync_all()?;
        sync_directory(path)?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok(Self {
            db,
            data,
            path: path.to_owned(),
        })
    }

    /// Opens a copy of a damaged database by its log alone.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub(crate) fn open_without_snapshots(path: &Path) -> Result<Self, StorageError> {
        set_snapshots_aside(path)?;
        Self::open(path)
    }

    /// Opens a copy of a damaged database by its log alone, with a configuration made anew: we always use sled's own.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub(crate) fn open_data_alone(path: &Path) -> Result<Self, StorageError> {
        match fs::remove_file(path.join("conf")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Self::open_without_snapshots(path)
    }

    fn flush(&self) -> Result<(), StorageError> {
        caught(|| self.db.flush().map(drop).map_err(storage_error))?;
        self.data.sync_data()?;
        Ok(())
    }
}

impl Storage for SledStorage {
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StorageError::TooLarge(value.len()));
        }
        caught(|| self.db.insert(key, value).map(drop).map_err(storage_error))
    }

    fn remove(&self, key: &[u8]) -> Result<(), StorageError> {
        caught(|| self.db.remove(key).map(drop).map_err(storage_error))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.flush()?;
        if cfg!(target_os = "linux") && barrier::calls() == 0 {
            return Err(StorageError::Untrusted(
                "sled's flush did not pass through the replaced sync_file_range",
            ));
        }
        if fs::read_dir(self.path.join("blobs"))?.next().is_some() {
            return Err(StorageError::Untrusted(
                "sled moved a value to blobs/, which it does not sync",
            ));
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        caught(|| {
            for pair in self.db.range(from.to_vec()..) {
                let (key, value) = pair.map_err(storage_error)?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.data.metadata()?.len())
    }
}

/// Nothing is there, or a directory with nothing in it.
fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        entries => Ok(entries?.next().is_none()),
    }
}

/// Makes an empty database under another name and puts it in place when it is whole and durable: a database that a cut left
/// half made would not open, and nobody could tell that nothing was ever in it.
fn create(path: &Path) -> Result<(), StorageError> {
    let creating = beside(path, ".creating");
    if creating.exists() {
        fs::remove_dir_all(&creating)?;
    }
    drop(open_db(&creating)?);
    // sled's threads may still be at it.
    wait_for_lock(&creating)?;
    for file in ["db", "conf"] {
        File::open(creating.join(file))?.sync_all()?;
    }
    sync_directory(&creating)?;
    fs::rename(&creating, path)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))?;
    Ok(())
}

fn open_db(path: &Path) -> Result<sled::Db, StorageError> {
    wait_for_lock(path)?;
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .use_compression(false);
    caught(|| config.open().map_err(storage_error))
}

/// sled's threads let go of its lock a little after a database is dropped, or after it failed to open; sled itself does not
/// wait for that. Counted and not timed, since a test may hold the time still.
#[expect(
    clippy::disallowed_methods,
    reason = "an open blocks anyway, and nothing tells when the lock is free"
)]
fn wait_for_lock(path: &Path) -> Result<(), StorageError> {
    let file = match File::open(path.join("db")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            // Closing is not enough: a process that is being started has a copy of the descriptor until it runs its own program.
            Ok(()) => return Ok(file.unlock()?),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(StorageError::Io(io::ErrorKind::WouldBlock.into()))
}

/// sled panics on some kinds of damage; a panic in it is an error of ours.
fn caught<T>(operation: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    std::panic::catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no text");
        Err(StorageError::Damaged(format!("sled panicked: {text}")))
    })
}

fn storage_error(error: sled::Error) -> StorageError {
    match error {
        // sled does not tell which call failed; the barrier does.
        sled::Error::Io(error)
            if error.kind() == io::ErrorKind::StorageFull && barrier::failures() == 0 =>
        {
            StorageError::Full(error)
        }
        sled::Error::Io(error) => StorageError::Io(error),
        other => StorageError::Damaged(other.to_string()),
    }
}

fn snapshots(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with("snap.")
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn set_snapshots_aside(path: &Path) -> io::Result<()> {
    let aside = beside(path, ".snapshots");
    fs::create_dir_all(&aside)?;
    for name in snapshots(path)? {
        fs::rename(path.join(&name), aside.join(&name))?;
    }
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_was_only_half_made_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        let creating = dir.path().join("wal.creating");
        fs::create_dir_all(creating.join("blobs")).unwrap();
        fs::write(creating.join("conf"), "").unwrap();
        let storage = SledStorage::open(&path).unwrap();
        storage.insert(b"key", b"value").unwrap();
        storage.sync().unwrap();
        assert!(!creating.exists());
    }
}
