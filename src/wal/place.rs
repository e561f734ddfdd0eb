//! What lies at a log's path: nothing, the log of one engine or the other, or somebody else's files.
//!
//! Decided by names alone, before anything is opened, created or changed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use super::open::OpenError;
use super::storage::sled::SledStorage;
use super::storage::sqlite::{self, SqliteStorage};
use super::storage::{Storage, StorageError};
use crate::config::Engine;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// A log, as far as names can tell.
    Log(Engine),
    /// A file, or a directory with files that no engine of ours writes.
    Foreign,
}

/// Looks at the path.
///
/// # Errors
///
/// The system's.
pub(crate) fn look(path: &Path) -> io::Result<Found> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Found::Foreign),
        entries => entries?,
    };
    let mut found = Found::Nothing;
    for entry in entries {
        let name = entry?.file_name();
        let engine = name.to_str().and_then(engine_of);
        found = match (found, engine) {
            (Found::Nothing, Some(engine)) => Found::Log(engine),
            (Found::Log(before), Some(engine)) if before == engine => found,
            _ => return Ok(Found::Foreign),
        };
    }
    Ok(found)
}

/// Which engine's log lies at a path; `None` when nothing does.
///
/// # Errors
///
/// [`OpenError::Foreign`], [`OpenError::Io`].
pub fn engine_at(path: &Path) -> Result<Option<Engine>, OpenError> {
    let path = path.to_owned();
    match look(&path) {
        Err(source) => Err(OpenError::Io { path, source }),
        Ok(Found::Foreign) => Err(OpenError::Foreign(path)),
        Ok(Found::Log(engine)) => Ok(Some(engine)),
        Ok(Found::Nothing) => Ok(None),
    }
}

/// Which engine writes files of a name.
fn engine_of(name: &str) -> Option<Engine> {
    if matches!(name, "db" | "conf" | "blobs") || name.starts_with("snap.") {
        Some(Engine::Sled)
    } else if sqlite::is_ours(name) {
        Some(Engine::Sqlite)
    } else {
        None
    }
}

/// Refuses what is not for the engine to open.
///
/// # Errors
///
/// [`OpenError::Foreign`], [`OpenError::OtherEngine`], [`OpenError::Io`].
pub(crate) fn refuse(files: &Files, wanted: Engine) -> Result<(), OpenError> {
    match engine_at(&files.log)? {
        Some(found) if found != wanted => Err(OpenError::OtherEngine {
            path: files.log.clone(),
            found,
            wanted,
        }),
        _ => Ok(()),
    }
}

/// Opens or creates the engine's files.
///
/// # Errors
///
/// [`StorageError`].
pub(crate) fn open(path: &Path, engine: Engine) -> Result<Arc<dyn Storage>, StorageError> {
    Ok(match engine {
        Engine::Sled => Arc::new(SledStorage::open(path)?),
        Engine::Sqlite => Arc::new(SqliteStorage::open(path)?),
    })
}

/// A way to open an engine's files.
pub(crate) type Opening = fn(&Path) -> Result<Arc<dyn Storage>, StorageError>;

/// Ways to open a copy of damaged files that believe less of what the files say of themselves, one after the other. What
/// is read then has to be checked by itself.
pub(crate) fn lenient(engine: Engine) -> &'static [Opening] {
    match engine {
        Engine::Sled => &[
            |path| Ok(Arc::new(SledStorage::open_without_snapshots(path)?)),
            |path| Ok(Arc::new(SledStorage::open_data_alone(path)?)),
        ],
        Engine::Sqlite => &[
            |path| Ok(Arc::new(SqliteStorage::open_unchecked(path)?)),
            |path| Ok(Arc::new(SqliteStorage::open_replayed(path)?)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_a_directory_is() {
        let cases: [(&[&str], Found); 11] = [
            (&[], Found::Nothing),
            (&["db", "conf", "blobs"], Found::Log(Engine::Sled)),
            (
                &["snap.0000.generating", "db", "conf"],
                Found::Log(Engine::Sled),
            ),
            (&["log.db"], Found::Log(Engine::Sqlite)),
            (
                &["log.db", "log.db-wal", "log.db-shm"],
                Found::Log(Engine::Sqlite),
            ),
            (
                &["log.creating", "log.creating-journal"],
                Found::Log(Engine::Sqlite),
            ),
            (&["log.db", "db"], Found::Foreign),
            (&["eventkit_ring_buffer.db"], Found::Foreign),
            (&["log.db", "log.db.bak"], Found::Foreign),
            (&["db", "notes"], Found::Foreign),
            (&["log"], Found::Foreign),
        ];
        for (names, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                std::fs::write(dir.path().join(name), b"").unwrap();
            }
            assert_eq!(look(dir.path()).unwrap(), expected, "{names:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("eventkit_ring_buffer.db");
        assert_eq!(look(&file).unwrap(), Found::Nothing);
        std::fs::write(&file, b"SQLite format 3\0").unwrap();
        assert_eq!(look(&file).unwrap(), Found::Foreign);
    }
}
