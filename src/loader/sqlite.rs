//! The embedded warehouse: one SQLite file, `warehouse.db`.
//!
//! - WAL journal: readers (the `sqlite3` shell, a notebook) are never blocked by the loader, nor it by them.
//! - `synchronous=FULL`: a commit is on disk when it returns, so a marker may go.
//! - One transaction per step. Staging is in temporary tables, which no other connection sees; they spill to SQLite's
//!   temporary directory (`SQLITE_TMPDIR`, else `/var/tmp` or `/tmp`).
//! - The connection has one owner. It works where it may block and is handed back; after any error it is opened anew.
//! - The file is made by [`Warehouse::prepare`] alone. Once this process has used it, a file that is missing or another
//!   one is an error and never quietly made again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::manifest::Manifest;
use super::warehouse::{
    Expired, LoadError, MergeError, Merged, Outcome, Staged, Warehouse, WarehouseError,
};
use crate::clock::Clock;
use crate::event::Micros;
use crate::store::{Objects, Table};

mod expire;
mod merge;
mod schema;
mod stage;

use merge::MergeFailed;
use schema::SchemaError;
use stage::StageError;

/// How long another program may hold the file before a step fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages that the connection keeps in memory, in KiB.
const CACHE_KIB: i64 = 32 * 1024;

/// The journal is cut back to this size after large transactions.
const JOURNAL_BYTES: i64 = 64 << 20;

/// `warehouse.db`.
#[derive(Debug)]
pub struct SqliteWarehouse {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    busy_timeout: Duration,
    open: Option<Open>,
    /// The file that this process prepared, by device and inode.
    prepared: Option<Identity>,
}

type Identity = (u64, u64);

#[derive(Debug)]
struct Open {
    connection: Connection,
    /// The manifest whose rows are staged.
    staged: Option<u64>,
}

impl SqliteWarehouse {
    /// The warehouse in this file. Touches nothing before it is prepared.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            path: path.into(),
            clock,
            busy_timeout: BUSY_TIMEOUT,
            open: None,
            prepared: None,
        }
    }

    /// The same, but it waits so long for another program that holds the file.
    #[must_use]
    pub fn with_busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    fn file(&self) -> Database {
        Database {
            path: self.path.clone(),
            busy_timeout: self.busy_timeout,
            prepared: self.prepared,
        }
    }

    /// Lends the connection to work that may block. Whatever fails, or is dropped half way, is opened anew next time.
    async fn with<T, E, F>(&mut self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WarehouseError> + Send + 'static,
        F: FnOnce(&mut Open) -> Result<T, E> + Send + 'static,
    {
        let (open, file) = (self.open.take(), self.file());
        let done = tokio::task::spawn_blocking(move || {
            let mut open = file.still_there(open)?;
            let value = work(&mut open)?;
            Ok((value, open))
        })
        .await
        .map_err(|ended| unavailable(&self.path, ended))?;
        let (value, open) = match done {
            Ok(done) => done,
            Err(error) => return Err(error),
        };
        self.open = Some(open);
        Ok(value)
    }

    /// Like [`Self::with`], for work whose errors are all SQLite's own.
    async fn with_sqlite<T, F>(&mut self, work: F) -> Result<T, WarehouseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Open) -> rusqlite::Result<T> + Send + 'static,
    {
        let path = self.path.clone();
        self.with(move |open| work(open).map_err(|error| sqlite_error(&path, error)))
            .await
    }
}

// === impl Warehouse ===

#[async_trait]
impl Warehouse for SqliteWarehouse {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        self.open = None;
        let file = self.file();
        let (open, identity) = tokio::task::spawn_blocking(move || file.create())
            .await
            .map_err(|ended| unavailable(&self.path, ended))??;
        self.open = Some(open);
        self.prepared = Some(identity);
        Ok(())
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        let last = self
            .with_sqlite(|open| {
                open.connection
                    .prepare_cached(
                        "SELECT number FROM _loaded_manifests WHERE status <> 'merged'
                        ORDER BY number DESC LIMIT 1",
                    )?
                    .query_row([], |row| row.get::<_, i64>(0))
                    .optional()
            })
            .await?;
        Ok(last.map(i64::unsigned_abs))
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        let objects = objects.to_vec();
        self.with_sqlite(move |open| {
            let mut statement = open
                .connection
                .prepare_cached("SELECT 1 FROM _loaded_objects WHERE object = ?1")?;
            let mut found = HashSet::new();
            for object in objects {
                if statement.exists([&object])? {
                    found.insert(object);
                }
            }
            Ok(found)
        })
        .await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        self.with_sqlite(|open| {
            open.staged = None;
            stage::clear(&open.connection)
        })
        .await?;
        let mut staged = Staged::default();
        for object in &manifest.objects {
            let unreadable = |reason: String| LoadError::Object {
                object: Some(object.object.clone()),
                reason,
            };
            let file = objects
                .get(&object.object)
                .await?
                .ok_or_else(|| unreadable("there is no such object".to_owned()))?;
            let (path, table) = (self.path.clone(), object.table);
            let rows = self
                .with(
                    move |open| match stage::object(&mut open.connection, table, file) {
                        Ok(rows) => Ok(Ok(rows)),
                        Err(StageError::Object(reason)) => Ok(Err(reason)),
                        Err(StageError::Sqlite(error)) => Err(sqlite_error(&path, error)),
                    },
                )
                .await?
                .map_err(unreadable)?;
            match table {
                Table::Events => staged.events += rows,
                Table::Errors => staged.errors += rows,
            }
        }
        let number = manifest.number;
        self.with_sqlite(move |open| {
            open.staged = Some(number);
            Ok(())
        })
        .await?;
        Ok(staged)
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        let (path, now, manifest) = (self.path.clone(), self.clock.now(), manifest.clone());
        self.with(move |open| {
            if open.staged != Some(manifest.number) {
                return Err(MergeError::NotStaged(manifest.number));
            }
            merge::merge(&mut open.connection, &manifest, now)
                .map_err(|failed| merge_error(&path, failed).into())
        })
        .await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        let (path, now) = (self.path.clone(), self.clock.now());
        let (manifest, outcome) = (manifest.clone(), outcome.clone());
        self.with(move |open| {
            merge::record(&mut open.connection, &manifest, &outcome, now)
                .map_err(|failed| merge_error(&path, failed))
        })
        .await
    }

    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError> {
        self.with_sqlite(move |open| expire::expire(&mut open.connection, before, limit))
            .await
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        self.with_sqlite(|open| expire::oldest(&open.connection))
            .await
    }
}

// === the file ===

/// The file as the connection's work sees it.
struct Database {
    path: PathBuf,
    busy_timeout: Duration,
    prepared: Option<Identity>,
}

impl Database {
    /// Makes or opens the file, with everything in it.
    fn create(&self) -> Result<(Open, Identity), WarehouseError> {
        let failed = |error| unavailable(&self.path, error);
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut open = if self.prepared.is_some() {
            self.still_there(None)?
        } else {
            fs::create_dir_all(folder).map_err(failed)?;
            self.connect(OpenFlags::SQLITE_OPEN_CREATE)?
        };
        schema::prepare(&mut open.connection).map_err(|error| schema_error(&self.path, error))?;
        // SQLite syncs the folder for its journal; the name of the file itself must not depend on that.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        let identity = identity(&self.path).map_err(failed)?;
        Ok((open, identity))
    }

    /// The connection, unless the file under it was moved away: SQLite would go on writing to a file without a name.
    fn still_there(&self, open: Option<Open>) -> Result<Open, WarehouseError> {
        match identity(&self.path) {
            Ok(now) if self.prepared.is_none_or(|prepared| prepared == now) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unavailable(&self.path, error));
            }
            Ok(_) | Err(_) => {
                return Err(WarehouseError::Gone {
                    name: self.path.display().to_string(),
                });
            }
        }
        match open {
            Some(open) => Ok(open),
            None => self.connect(OpenFlags::empty()),
        }
    }

    fn connect(&self, flags: OpenFlags) -> Result<Open, WarehouseError> {
        let flags = flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        self.set_up(flags)
            .map_err(|error| schema_error(&self.path, error))
    }

    fn set_up(&self, flags: OpenFlags) -> Result<Open, SchemaError> {
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        // Before anything is set that stays in the file: it may be somebody else's.
        schema::check(&connection)?;
        connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_BYTES, |row| {
            row.get::<_, i64>(0)
        })?;
        connection.execute_batch(&schema::staging())?;
        Ok(Open {
            connection,
            staged: None,
        })
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

// === errors ===

fn unavailable(
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> WarehouseError {
    WarehouseError::Unavailable {
        name: path.display().to_string(),
        source: Box::new(error),
    }
}

fn sqlite_error(path: &Path, error: rusqlite::Error) -> WarehouseError {
    let name = path.display().to_string();
    let code = error.sqlite_error_code();
    let source = Box::new(error);
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            WarehouseError::Locked { name, source }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            WarehouseError::Damaged { name, source }
        }
        _ => WarehouseError::Unavailable { name, source },
    }
}

fn merge_error(path: &Path, failed: MergeFailed) -> WarehouseError {
    match failed {
        MergeFailed::Sqlite(error) => sqlite_error(path, error),
        MergeFailed::Shared(number) => WarehouseError::Shared {
            name: path.display().to_string(),
            number,
        },
    }
}

fn schema_error(path: &Path, error: SchemaError) -> WarehouseError {
    let name = path.display().to_string();
    match error {
        SchemaError::Sqlite(error) => sqlite_error(path, error),
        SchemaError::Foreign(reason) => WarehouseError::Foreign { name, reason },
        SchemaError::Newer(version) => WarehouseError::Newer { name, version },
    }
}
