//! What lies beside the log: its lock, its ballast, and the sign of a poisoned exit.
//!
//! All names are the log's own with a suffix: `wal`, `wal.lock`, `wal.mark`, `wal.ballast`, `wal.poisoned`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::storage::sync_directory;

/// A log's name with a suffix. A slash at its end must not put what lies beside the log into its own directory.
#[must_use]
pub(crate) fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.components().as_path().as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A log's path and the names that derive from it.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The log's own directory.
    pub(crate) log: PathBuf,
}

impl Files {
    /// The names for a log.
    #[must_use]
    pub(crate) fn new(log: &Path) -> Self {
        Self {
            log: log.components().collect(),
        }
    }

    /// The log's name with a suffix.
    #[must_use]
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.log, suffix)
    }

    /// The directory that holds them all.
    #[must_use]
    pub(crate) fn parent(&self) -> &Path {
        match self.log.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Takes the lock that keeps a second process out, or `None` when another process holds it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.beside(".lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether the last owner exited after a failed sync.
    #[must_use]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.beside(".poisoned").exists()
    }

    /// Leaves the sign of a poisoned exit, as well as a failing disk lets us.
    pub(crate) fn poison(&self) {
        let left = File::create(self.beside(".poisoned"))
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(self.parent()));
        if let Err(error) = left {
            tracing::error!(%error, "poison_sign_not_written");
        }
    }

    /// After a poisoned exit: copies the log's files to fresh ones, syncs them and puts them in place of the old, since the page
    /// cache may claim what the disk does not hold.
    ///
    /// # Errors
    ///
    /// The system's; the old files are untouched then, or the copy is complete and in place.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        let copy = self.beside(".copy");
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_directory(&self.log, &copy)?;
        sync_directory(self.parent())?;
        exchange(&self.log, &copy)?;
        sync_directory(self.parent())?;
        fs::remove_file(self.beside(".poisoned"))?;
        sync_directory(self.parent())?;
        fs::remove_dir_all(&copy)
    }

    /// Puts the ballast there: bytes to give up when the volume is full. Leaves it out when there is no room.
    pub(crate) fn load_ballast(&self, bytes: u64) {
        let path = self.beside(".ballast");
        if bytes == 0 || fs::metadata(&path).is_ok_and(|ballast| ballast.len() == bytes) {
            return;
        }
        let laid = File::create(&path).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
            file.sync_all()
        });
        if let Err(error) = laid {
            tracing::warn!(%error, "ballast_not_laid");
            self.drop_ballast();
        }
    }

    /// Gives the ballast up; `false` when there was none.
    pub(crate) fn drop_ballast(&self) -> bool {
        let dropped = fs::remove_file(self.beside(".ballast"));
        dropped.and_then(|()| sync_directory(self.parent())).is_ok()
    }

    /// The volume's size and what is free of it for us, in bytes.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn volume(&self) -> io::Result<Volume> {
        let stat = rustix::fs::statvfs(self.parent())?;
        Ok(Volume {
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Up to this size a file is copied before an engine that may overwrite it opens it; a larger one only where the file system
/// shares the blocks.
const EVIDENCE_BYTES_MAX: u64 = 256 << 20;

impl Files {
    /// Keeps a file of the log as it is before an engine opens it, unless an earlier open that did not end well has: sled, where
    /// it finds its log torn, overwrites everything behind that place, also what is still whole.
    pub(crate) fn keep_evidence(&self, name: &str) {
        let (file, evidence) = (self.log.join(name), self.evidence());
        let Ok(length) = fs::metadata(&file).map(|metadata| metadata.len()) else {
            return;
        };
        if evidence.exists() {
            return;
        }
        let copying = self.beside(".before-open.copying");
        let kept = share_blocks(&file, &copying).or_else(|error| {
            let room = self.volume()?.free_bytes > length.saturating_mul(2);
            if length > EVIDENCE_BYTES_MAX || !room {
                return Err(error);
            }
            // Not synced: it matters only if this open refuses, and costs nothing if it is gone again at once.
            fs::copy(&file, &copying).map(drop)
        });
        let kept = kept.and_then(|()| fs::rename(&copying, &evidence));
        if let Err(error) = kept {
            tracing::debug!(%error, "evidence_not_kept");
            fs::remove_file(&copying).unwrap_or_default();
        }
    }

    /// The file as it was before an open that did not end well.
    #[must_use]
    pub(crate) fn evidence(&self) -> PathBuf {
        self.beside(".before-open")
    }

    /// The log is whole: nothing needs to be kept.
    pub(crate) fn drop_evidence(&self) {
        match fs::remove_file(self.evidence()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "evidence_not_removed");
            }
            _ => {}
        }
    }

    /// The log is refused: what was kept has to last.
    pub(crate) fn sync_evidence(&self) {
        let synced = File::open(self.evidence())
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(self.parent()));
        if let Err(error) = synced {
            tracing::debug!(%error, "evidence_not_synced");
        }
    }
}

fn share_blocks(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create(to)?);
    Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
}

/// A volume in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its size.
    pub(crate) bytes: u64,
    /// What is free of it.
    pub(crate) free_bytes: u64,
}

/// Held as long as the log is open; released by the system when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started has a copy of the descriptor until it runs its own program. What
        // cannot be unlocked is closed all the same.
        drop(self.file.unlock());
    }
}

impl Lock {
    /// Tells others who holds the log and where to ask about it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn announce(&self, admin: Option<std::net::SocketAddr>) -> io::Result<()> {
        let text = serde_json::json!({ "pid": std::process::id(), "admin": admin }).to_string();
        let mut file = &self.file;
        io::Seek::rewind(&mut file)?;
        // In this order the file keeps the block that it has: on a full disk it would not get another.
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)
    }
}

/// Copies a directory and makes the copy durable.
pub(crate) fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            copy_file(&entry.path(), &target)?;
        }
    }
    sync_directory(to)
}

/// Byte by byte: the system's own copy may share the blocks, and with them what is wrong with them.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create(to)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = io::Read::read(&mut source, &mut buffer)?;
        match buffer.get(..read) {
            Some([]) | None => return target.sync_all(),
            Some(bytes) => target.write_all(bytes)?,
        }
    }
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("wal"));
        let first = files.lock().unwrap().unwrap();
        first.announce(None).unwrap();
        assert!(files.lock().unwrap().is_none());
        // Also while a process is being started, which has one of these.
        let _copy = first.file.try_clone().unwrap();
        drop(first);
        assert!(files.lock().unwrap().is_some());
    }

    #[test]
    fn a_poisoned_log_is_replaced_by_a_fresh_copy_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("wal"));
        fs::create_dir_all(files.log.join("blobs")).unwrap();
        fs::write(files.log.join("db"), b"bytes").unwrap();
        files.poison();
        assert!(files.is_poisoned());
        files.refresh().unwrap();
        assert!(!files.is_poisoned() && !files.beside(".copy").exists());
        assert_eq!(fs::read(files.log.join("db")).unwrap(), b"bytes");
        assert!(files.log.join("blobs").is_dir());
    }

    #[test]
    fn the_ballast_has_its_size_and_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("wal"));
        files.load_ballast(1 << 20);
        assert_eq!(
            fs::metadata(files.beside(".ballast")).unwrap().len(),
            1 << 20
        );
        assert!(files.drop_ballast());
        assert!(!files.drop_ballast());
    }
}
