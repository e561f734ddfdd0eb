//! Objects in a directory: the embedded store, laid out as the bucket would be.
//!
//! How a name comes to be, so that a power cut at any instant leaves either the whole object or none:
//!
//! ```text
//!  tmp/<random> ─ write ─ fsync ─▶ link() to its name ─▶ fsync the folder ─▶ unlink tmp/<random>
//!                                   └─ the name exists: success, after the same fsync (another process may have linked
//!                                      it and not have come to its own yet)
//! ```
//!
//! A folder counts as durable once this process has synced it and its parents; a folder that was made by another
//! process, or by one that died, is therefore synced again before anything in it is relied upon.
//!
//! An object's folder that becomes empty is removed. A write that loses its folder to that fails, and is repeated like any
//! other.
//!
//! Temporary files are locked while they are written. What a dead process left is removed at the next open.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::objects::{INBOX, is_plain_name};
use super::{Objects, WriteError};

/// Where objects are written before they have a name.
const TMP: &str = "tmp";

/// The objects of one directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalObjects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Folders that were synced, with all their parents, since this process opened the store.
    durable: Mutex<HashSet<PathBuf>>,
    inbox_changed: Arc<Notify>,
}

/// Why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path} as a store: {operation} failed")]
pub struct OpenError {
    /// The directory.
    path: String,
    operation: &'static str,
    #[source]
    source: io::Error,
}

impl LocalObjects {
    /// Opens the directory, creates it where needed, and removes what a dead process left in `tmp/`.
    ///
    /// Does I/O on the calling thread: meant for the start of the program.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the directory and what failed.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        let failed = |operation| {
            let path = root.display().to_string();
            move |source| OpenError {
                path,
                operation,
                source,
            }
        };
        let absolute = std::path::absolute(&root).map_err(failed("finding the directory"))?;
        create_durably(&absolute).map_err(failed("creating the directory"))?;
        let inner = Inner {
            root: absolute,
            durable: Mutex::default(),
            inbox_changed: Arc::default(),
        };
        inner
            .ensure_folder(&inner.root.join(TMP))
            .map_err(failed("creating tmp/"))?;
        remove_left_overs(&inner.root.join(TMP)).map_err(failed("cleaning tmp/"))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Is notified whenever something was put under `inbox/`; a notice that nobody waits for is kept.
    #[must_use]
    pub fn inbox_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.inbox_changed)
    }

    /// Runs file system work where it may block.
    async fn run<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> Result<T, WriteError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|ended| {
                Err(WriteError::Unavailable {
                    reason: "the file system task ended early".to_owned(),
                    source: Some(Box::new(ended)),
                })
            })
    }
}

// === impl Objects ===

#[async_trait]
impl Objects for LocalObjects {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        let path = checked(name)?;
        let what = name.to_owned();
        let created = self
            .run(move |inner| inner.put(&path, &bytes).map_err(write_error("put", &what)))
            .await?;
        if name.starts_with(INBOX) {
            self.inner.inbox_changed.notify_one();
        }
        Ok(created)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        let path = checked(name)?;
        let what = name.to_owned();
        self.run(move |inner| match fs::read(inner.root.join(&path)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(write_error("get", &what)(error)),
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        let Some(folder) = prefix.strip_suffix('/') else {
            return Err(refused("a prefix is a folder and ends in a slash"));
        };
        checked(folder)?;
        let (folder, after) = (folder.to_owned(), after.map(str::to_owned));
        self.run(move |inner| {
            let mut names = Vec::new();
            inner
                .walk(&folder, after.as_deref(), limit, &mut names)
                .map_err(write_error("list", &folder))?;
            Ok(names)
        })
        .await
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        let path = checked(name)?;
        let what = name.to_owned();
        self.run(move |inner| inner.remove(&path).map_err(write_error("delete", &what)))
            .await
    }
}

// === impl Inner ===

impl Inner {
    fn put(&self, name: &Path, bytes: &[u8]) -> io::Result<bool> {
        let target = self.root.join(name);
        let folder = target.parent().unwrap_or(&self.root);
        self.ensure_folder(folder)?;
        if !target.try_exists()? {
            let temporary = Temporary::write(&self.root.join(TMP), bytes)?;
            match fs::hard_link(&temporary.path, &target) {
                Ok(()) => {
                    sync_folder(folder)?;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        File::open(&target)?.sync_all()?;
        sync_folder(folder)?;
        Ok(false)
    }

    fn remove(&self, name: &Path) -> io::Result<()> {
        let target = self.root.join(name);
        match fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // Also when it was gone: whoever removed it may not have synced the folder yet.
            Ok(()) | Err(_) => {}
        }
        let folder = target.parent().unwrap_or(&self.root);
        match sync_folder(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.remove_if_empty(folder);
        Ok(())
    }

    /// Removes the folder of an object if nothing is left in it; the store's own folders (`inbox/`, `events/`, …) stay.
    fn remove_if_empty(&self, folder: &Path) {
        if folder == self.root || folder.parent() == Some(&self.root) {
            return;
        }
        // Under the lock, so that nobody takes the folder for durable that somebody else is just making anew.
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_dir(folder) {
            Ok(()) => {
                durable.remove(folder);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound
                ) => {}
            // Harmless: an empty folder holds nothing.
            Err(error) => tracing::debug!(%error, "empty_folder_left"),
        }
    }

    /// Collects the names of objects in a folder and its subfolders that come after `after`, ascending, until there are
    /// `limit`. Subfolders that cannot hold any are not read.
    fn walk(
        &self,
        folder: &str,
        after: Option<&str>,
        limit: usize,
        names: &mut Vec<String>,
    ) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else {
                // No object has such a name; somebody else's file is none of ours.
                continue;
            };
            // With its slash a folder sorts where the names in it do.
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            let name = format!("{folder}/{file_name}{slash}");
            let comes_after = |after: &str| {
                name.as_str() > after || (!slash.is_empty() && after.starts_with(&name))
            };
            if after.is_none_or(comes_after) {
                found.push(name);
            }
        }
        found.sort_unstable();
        for name in found {
            if names.len() >= limit {
                break;
            }
            match name.strip_suffix('/') {
                Some(folder) => self.walk(folder, after, limit, names)?,
                None => names.push(name),
            }
        }
        Ok(())
    }

    /// Makes sure that a folder below the root exists and that it, and all between, survive a power cut.
    ///
    /// The lock is held for all of it: a folder may be removed when it is empty, and must not count as durable if it was
    /// made anew meanwhile. Folders are made rarely; all other callers only look.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        self.ensure(folder, &mut durable)
    }

    fn ensure(&self, folder: &Path, durable: &mut HashSet<PathBuf>) -> io::Result<()> {
        if folder == self.root || (durable.contains(folder) && folder.is_dir()) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.ensure(parent, durable)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        sync_folder(folder)?;
        sync_folder(parent)?;
        durable.insert(folder.to_owned());
        Ok(())
    }
}

/// A synced file without a name of its own; removed when dropped.
struct Temporary {
    path: PathBuf,
    /// Holds the lock that tells other processes that the file is in use.
    file: File,
}

impl Temporary {
    fn write(folder: &Path, bytes: &[u8]) -> io::Result<Self> {
        let path = folder.join(uuid::Uuid::new_v4().simple().to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let mut temporary = Self { path, file };
        if let Err(error) = temporary.file.lock() {
            // A file system without locks: at worst another process's open removes the file, and the write is repeated.
            tracing::debug!(%error, "temporary_file_not_locked");
        }
        temporary.file.write_all(bytes)?;
        temporary.file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            // Harmless: the next open removes it.
            tracing::debug!(%error, "temporary_file_left");
        }
    }
}

fn remove_left_overs(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let in_use = match File::open(&path) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !in_use {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Creates a directory and its parents, each durable in its own parent.
fn create_durably(folder: &Path) -> io::Result<()> {
    let existed = folder.is_dir();
    if let Some(parent) = folder.parent() {
        if !existed {
            create_durably(parent)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        match sync_folder(parent) {
            // A parent that was there before us may be closed to us: then it is its owner's affair.
            Err(error) if existed && error.kind() == ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// An object's name as a path: only plain components, none of them reserved.
fn checked(name: &str) -> Result<PathBuf, WriteError> {
    let plain = is_plain_name(name)
        && Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
    if !plain {
        return Err(refused(
            "an object's name is a relative path without . and ..",
        ));
    }
    if name.split('/').next() == Some(TMP) {
        return Err(refused("tmp/ is reserved"));
    }
    Ok(PathBuf::from(name))
}

fn refused(reason: &str) -> WriteError {
    WriteError::Denied {
        reason: reason.to_owned(),
        source: None,
    }
}

fn write_error<'a>(operation: &'a str, name: &'a str) -> impl Fn(io::Error) -> WriteError + 'a {
    move |error| {
        let reason = format!("{operation} {name}: {}", error.kind());
        let denied = matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::Unsupported
        );
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = Some(Box::new(error));
        if denied {
            WriteError::Denied { reason, source }
        } else {
            WriteError::Unavailable { reason, source }
        }
    }
}

#[cfg(test)]
mod tests;
