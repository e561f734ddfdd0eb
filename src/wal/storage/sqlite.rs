//! The SQLite engine: one table in write-ahead mode, each commit synced before it returns (`synchronous=FULL`).
//!
//! What SQLite would do for convenience is done here where its error is seen, or not at all:
//!
//! - Checkpoints (moving pages from `log.db-wal` into `log.db`) run inside [`Storage::sync`], never by themselves: SQLite
//!   would swallow a failed sync in them. They also bound the file: `log.db-wal` is begun anew after each whole one.
//! - A close checkpoints nothing and deletes nothing, so that a log that is refused as damaged stays as it is. Every open
//!   is thus like one after a crash.
//! - A database is made under another name and renamed when it is whole: a `log.db` without our table is never one that a
//!   crash left behind.
//! - SQLite recovers from a damaged `log.db-wal` by ignoring it from the damage on, without a word. The log's own dense
//!   offsets, checksums and mark notice, exactly as they do for sled.
//!
//! Readers have a connection of their own and see what was committed. They read in pages and hold no snapshot between
//! them, so that a slow reader cannot keep `log.db-wal` from being begun anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::{Storage, StorageError, VALUE_BYTES_MAX, Visit, sync_directory};

mod replay;

/// The database's name in the log's directory; SQLite adds `-wal` and `-shm`.
pub const FILE: &str = "log.db";
/// What a database is called until it is whole.
const CREATING: &str = "log.creating";
/// What SQLite adds to a name.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];
/// `EKWL`: says in the file's header whose it is.
const APPLICATION_ID: u32 = 0x454b_574c;
/// The layout's version.
const USER_VERSION: i64 = 1;

/// A checkpoint is due when so many bytes were written since the last one.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// A `log.db-wal` that readers kept from being begun anew is waited for and cut from this size on.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// How long a checkpoint waits for readers, and anything for a tool that looks at the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pairs that a scan reads at a time: few at first, since most scans want one group.
const PAGE_FIRST: i64 = 32;
const PAGE_MAX: i64 = 512;

const INSERT: &str = "INSERT INTO kv (key, value) VALUES (?1, ?2)
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const REMOVE: &str = "DELETE FROM kv WHERE key = ?1";
const PAGE: &str = "SELECT key, value FROM kv WHERE key >= ?1 ORDER BY key LIMIT ?2";

/// Whether the engine writes files of this name.
#[must_use]
pub(crate) fn is_ours(name: &str) -> bool {
    [FILE, CREATING]
        .iter()
        .filter_map(|file| name.strip_prefix(file))
        .any(|suffix| SUFFIXES.contains(&suffix))
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// An SQLite database as an engine.
#[derive(Debug)]
pub struct SqliteStorage {
    writer: Mutex<Writer>,
    reader: Mutex<Connection>,
    file: PathBuf,
}

#[derive(Debug)]
struct Writer {
    connection: Connection,
    /// A transaction is open.
    writing: bool,
    /// Bytes written since the last checkpoint, roughly.
    unchecked_bytes: u64,
    /// An operation failed: the engine is not asked again.
    failed: bool,
}

impl SqliteStorage {
    /// Opens or creates the database in a directory.
    ///
    /// # Errors
    ///
    /// [`StorageError`]. No existing database was changed then.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let file = directory.join(FILE);
        if !file.try_exists()? {
            refuse_orphan(&file)?;
            create(directory)?;
        }
        refuse_unknown(&file)?;
        // Whatever the page cache holds is made durable before anyone acts on it. This and all else that opens the files by
        // itself comes before SQLite's own handles: closing any handle on them gives SQLite's locks up.
        for path in [file.clone(), beside(&file, "-wal")] {
            if path.try_exists()? {
                File::open(path)?.sync_data()?;
            }
        }
        let writer = connect(&file)?;
        check(&writer)?;
        let reader = connect(&file)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(storage_error)?;
        Ok(Self {
            writer: Mutex::new(Writer {
                connection: writer,
                writing: false,
                // What an earlier process left in the file counts.
                unchecked_bytes: length(&beside(&file, "-wal"))?,
                failed: false,
            }),
            reader: Mutex::new(reader),
            file,
        })
    }

    /// Opens a copy of a damaged database for reading, whatever its own checks say.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub(crate) fn open_unchecked(directory: &Path) -> Result<Self, StorageError> {
        let file = directory.join(FILE);
        // SQLite would take an empty one for new and forget the commits beside it.
        refuse_unknown(&file)?;
        let (writer, reader) = (connect(&file)?, connect(&file)?);
        Ok(Self {
            writer: Mutex::new(Writer {
                connection: writer,
                writing: false,
                unchecked_bytes: 0,
                // Never written to.
                failed: true,
            }),
            reader: Mutex::new(reader),
            file,
        })
    }

    /// Opens a copy of a damaged database after what can be put right in it was.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub(crate) fn open_replayed(directory: &Path) -> Result<Self, StorageError> {
        replay::replay(directory)?;
        Self::open_unchecked(directory)
    }

    /// Runs an operation of the writer; its first failure is its last.
    fn write<T>(
        &self,
        operation: impl FnOnce(&mut Writer) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.failed {
            return Err(StorageError::Io(io::Error::other(
                "an earlier write failed, and what it left is unknown",
            )));
        }
        let done = operation(&mut writer);
        writer.failed = done.is_err();
        done
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `limit` pairs from a key on.
    fn page(&self, from: &[u8], limit: i64) -> Result<Vec<Pair>, StorageError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(PAGE).map_err(storage_error)?;
        let pairs = statement
            .query_map(params![from, limit], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(storage_error)?;
        pairs.collect::<Result<_, _>>().map_err(storage_error)
    }
}

impl Storage for SqliteStorage {
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StorageError::TooLarge(value.len()));
        }
        self.write(|writer| writer.execute(INSERT, params![key, value], value.len()))
    }

    fn remove(&self, key: &[u8]) -> Result<(), StorageError> {
        self.write(|writer| writer.execute(REMOVE, params![key], 0))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.write(|writer| {
            if std::mem::take(&mut writer.writing) {
                writer
                    .connection
                    .execute_batch("COMMIT")
                    .map_err(storage_error)?;
            }
            writer.checkpoint_if_due(&self.file)
        })
    }

    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let mut from = from.to_vec();
        let mut limit = PAGE_FIRST;
        loop {
            let pairs = self.page(&from, limit)?;
            let more = i64::try_from(pairs.len()).is_ok_and(|read| read == limit);
            for (key, value) in &pairs {
                if !visit(key, value) {
                    return Ok(());
                }
            }
            let Some((mut last, _)) = pairs.into_iter().next_back().filter(|_| more) else {
                return Ok(());
            };
            // The next key there can be.
            last.push(0);
            from = last;
            limit = (limit * 2).min(PAGE_MAX);
        }
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        Ok(length(&self.file)? + length(&beside(&self.file, "-wal"))?)
    }
}

impl Writer {
    fn execute(
        &mut self,
        sql: &str,
        parameters: impl rusqlite::Params,
        bytes: usize,
    ) -> Result<(), StorageError> {
        if !self.writing {
            self.connection
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(storage_error)?;
            self.writing = true;
            // The pages that any commit touches.
            self.unchecked_bytes += 3 * 4_096;
        }
        let mut statement = self.connection.prepare_cached(sql).map_err(storage_error)?;
        statement.execute(parameters).map_err(storage_error)?;
        self.unchecked_bytes += bytes as u64;
        Ok(())
    }

    /// Moves what is committed into the database, so that `log.db-wal` is begun anew.
    fn checkpoint_if_due(&mut self, file: &Path) -> Result<(), StorageError> {
        if self.unchecked_bytes < CHECKPOINT_BYTES {
            return Ok(());
        }
        self.unchecked_bytes = 0;
        // Passive waits for nobody; whoever reads at the wrong moment only makes the file grow until the next time.
        let large = length(&beside(file, "-wal"))? > WAL_BYTES_MAX;
        let mode = if large { "TRUNCATE" } else { "PASSIVE" };
        let busy: i64 = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                row.get(0)
            })
            .map_err(storage_error)?;
        if large && busy != 0 {
            tracing::warn!("log_checkpoint_kept_waiting_by_a_reader");
        }
        Ok(())
    }
}

/// A connection that does nothing of its own accord.
fn connect(file: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(storage_error)?;
    let set = || -> rusqlite::Result<()> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Only Apple's systems need it: there a plain fsync does not reach the disk.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // In KiB: the log is read once, front to back, so little is enough.
        connection.pragma_update(None, "cache_size", -16_384)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)
    };
    set().map_err(storage_error)?;
    Ok(connection)
}

/// What has to hold before the log is read: the promises are in force, and the pages join up.
fn check(connection: &Connection) -> Result<(), StorageError> {
    let ask = |pragma: &str| -> Result<String, StorageError> {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .map(|value| match value {
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Integer(number) => number.to_string(),
                _ => String::new(),
            })
            .map_err(storage_error)
    };
    if ask("journal_mode")? != "wal" || ask("synchronous")? != "2" {
        return Err(StorageError::Untrusted(
            "SQLite does not keep a write-ahead log with full syncs",
        ));
    }
    if ask("user_version")? != USER_VERSION.to_string() {
        return Err(StorageError::Damaged(
            "the database's layout is none that this version writes".into(),
        ));
    }
    // A page that belongs to two owners, or to none, would be overwritten later.
    match ask("quick_check(1)")? {
        fine if fine == "ok" => Ok(()),
        problem => Err(StorageError::Damaged(problem)),
    }
}

/// Makes an empty database under another name and puts it in place, durably.
fn create(directory: &Path) -> Result<(), StorageError> {
    fs::create_dir_all(directory)?;
    let creating = directory.join(CREATING);
    for suffix in SUFFIXES {
        match fs::remove_file(beside(&creating, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let connection = Connection::open(&creating).map_err(storage_error)?;
    let make = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", USER_VERSION)?;
        connection.execute_batch(
            "CREATE TABLE kv (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
        )?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
    };
    make().map_err(storage_error)?;
    connection
        .close()
        .map_err(|(_, error)| storage_error(error))?;
    File::open(&creating)?.sync_all()?;
    fs::rename(&creating, directory.join(FILE))?;
    sync_directory(directory)?;
    sync_directory(directory.parent().unwrap_or(Path::new("/")))?;
    Ok(())
}

/// Commits without the database that they belong to: SQLite would delete them.
fn refuse_orphan(file: &Path) -> Result<(), StorageError> {
    if length(&beside(file, "-wal"))? > 0 {
        return Err(StorageError::Damaged(format!(
            "{FILE} is missing and {FILE}-wal is not"
        )));
    }
    Ok(())
}

/// Judges the header before SQLite does, which takes an empty file for a new database and deletes its `-wal`.
fn refuse_unknown(file: &Path) -> Result<(), StorageError> {
    let mut header = [0; 100];
    let read = io::Read::read_exact(&mut File::open(file)?, &mut header);
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        read => read?,
    }
    let magic = header.starts_with(b"SQLite format 3\0");
    let id = header.get(68..72) == Some(&APPLICATION_ID.to_be_bytes()[..]);
    if magic && id {
        Ok(())
    } else {
        Err(StorageError::Damaged(format!(
            "the header of {FILE} is not that of a log"
        )))
    }
}

/// A file's length; 0 when there is none.
fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        metadata => Ok(metadata?.len()),
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn storage_error(error: rusqlite::Error) -> StorageError {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            return StorageError::Full(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return StorageError::Damaged(error.to_string());
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => io::ErrorKind::WouldBlock,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            io::ErrorKind::PermissionDenied
        }
        Some(ErrorCode::SystemIoFailure) => io::ErrorKind::Other,
        Some(ErrorCode::OutOfMemory) => io::ErrorKind::OutOfMemory,
        // A table or column that is not there, a value of another type: not what this engine writes.
        _ => return StorageError::Damaged(error.to_string()),
    };
    StorageError::Io(io::Error::new(kind, error))
}

#[cfg(test)]
mod tests;
