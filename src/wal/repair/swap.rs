//! The last steps of a repair: the fresh log takes the place of the damaged one, which is set aside.
//!
//! ```text
//!  wal.repairing/wal, wal.mark   complete and synced
//!  wal.repairing/ready           from here on the repair is only ever finished: no log is opened or created meanwhile
//!  wal, wal.mark, …           ─▶ wal.damaged-<time>, wal.damaged-<time>.mark, …
//!  wal.repairing/wal, wal.mark ─▶ wal, wal.mark
//!  wal.repairing/ready           removed, then the directory
//! ```
//!
//! Each step is a rename, and each can be told from what lies there: cut short anywhere, the next repair does what is left.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::wal::files::Files;
use crate::wal::storage::sync_directory;

const STAGING: &str = ".repairing";
const READY: &str = "ready";
/// What belongs to a log beside its directory and its mark, and says nothing about the next one.
const COMPANIONS: [&str; 4] = [".mark", ".poisoned", ".snapshots", ".before-open"];

/// Where a fresh log is made.
#[derive(Debug)]
pub(super) struct Staging {
    files: Files,
    directory: PathBuf,
}

/// Whether a repair was cut short after the fresh log was complete.
pub(crate) fn is_unfinished(files: &Files) -> bool {
    files.beside(STAGING).join(READY).exists()
}

impl Staging {
    pub(super) fn new(files: &Files) -> Self {
        Self {
            files: files.clone(),
            directory: files.beside(STAGING),
        }
    }

    /// An empty place; what an earlier try left there is a copy, and goes.
    pub(super) fn clear(&self) -> io::Result<()> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir(&self.directory)?;
        sync_directory(self.files.parent())
    }

    /// Forgets everything in it.
    pub(super) fn discard(&self) -> io::Result<()> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The fresh log's directory.
    pub(super) fn log(&self) -> PathBuf {
        self.path("wal")
    }

    /// The fresh log's mark.
    pub(super) fn mark(&self) -> PathBuf {
        self.path("wal.mark")
    }

    /// From here on the fresh log is the one that counts.
    pub(super) fn set_ready(&self, damaged: &Path) -> io::Result<()> {
        sync_directory(&self.directory)?;
        let temporary = self.path("ready.writing");
        let mut file = File::create(&temporary)?;
        let name = damaged.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        file.write_all(name.as_bytes())?;
        file.sync_all()?;
        fs::rename(temporary, self.path(READY))?;
        sync_directory(&self.directory)?;
        sync_directory(self.files.parent())
    }

    /// Does what is left to do, and says where the damaged log lies now.
    pub(super) fn finish(&self) -> io::Result<PathBuf> {
        let damaged = PathBuf::from(fs::read_to_string(self.path(READY))?);
        let parent = self.files.parent();
        if self.log().exists() && self.files.log.exists() {
            fs::rename(&self.files.log, &damaged)?;
            sync_directory(parent)?;
        }
        let aside = Files::new(&damaged);
        for suffix in COMPANIONS {
            let replaced = suffix == ".mark" && !self.mark().exists();
            let companion = self.files.beside(suffix);
            if companion.exists() && !replaced {
                fs::rename(companion, aside.beside(suffix))?;
            }
        }
        sync_directory(parent)?;
        if self.log().exists() {
            fs::rename(self.log(), &self.files.log)?;
            sync_directory(parent)?;
        }
        if self.mark().exists() {
            fs::rename(self.mark(), self.files.beside(".mark"))?;
            sync_directory(parent)?;
        }
        fs::remove_file(self.path(READY))?;
        fs::remove_dir_all(&self.directory)?;
        sync_directory(parent)?;
        Ok(damaged)
    }
}

/// A name for the damaged log that nothing has yet.
pub(super) fn aside(files: &Files, time: &str) -> PathBuf {
    let names = std::iter::once(format!(".damaged-{time}"))
        .chain((2..).map(|n| format!(".damaged-{time}-{n}")));
    let free = |path: &PathBuf| {
        let beside = Files::new(path);
        !path.exists()
            && COMPANIONS
                .iter()
                .all(|suffix| !beside.beside(suffix).exists())
    };
    names
        .map(|name| files.beside(&name))
        .find(free)
        .unwrap_or_else(|| files.beside(".damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    /// Every state that the steps pass through, made by hand.
    #[test]
    fn a_swap_that_is_cut_short_anywhere_is_finished_by_the_next_one() {
        for done in 0..=5 {
            let dir = tempfile::tempdir().unwrap();
            let files = Files::new(&dir.path().join("wal"));
            write(&files.log.join("db"), "old");
            write(&files.beside(".mark"), "old mark");
            write(&files.beside(".poisoned"), "");
            let staging = Staging::new(&files);
            staging.clear().unwrap();
            write(&staging.log().join("db"), "new");
            write(&staging.mark(), "new mark");
            let damaged = aside(&files, "T");
            staging.set_ready(&damaged).unwrap();
            assert!(is_unfinished(&files));
            let beside = Files::new(&damaged);
            let steps = [
                (files.log.clone(), damaged.clone()),
                (files.beside(".mark"), beside.beside(".mark")),
                (files.beside(".poisoned"), beside.beside(".poisoned")),
                (staging.log(), files.log.clone()),
                (staging.mark(), files.beside(".mark")),
            ];
            for (from, to) in &steps[..done] {
                fs::rename(from, to).unwrap();
            }
            assert_eq!(staging.finish().unwrap(), damaged, "after {done} steps");
            assert!(!is_unfinished(&files) && !files.beside(".repairing").exists());
            for (path, text) in [
                (files.log.join("db"), "new"),
                (files.beside(".mark"), "new mark"),
                (damaged.join("db"), "old"),
                (beside.beside(".mark"), "old mark"),
                (beside.beside(".poisoned"), ""),
            ] {
                assert_eq!(read(&path).as_deref(), Some(text), "{path:?}, {done}");
            }
            assert!(!files.is_poisoned());
        }
    }

    #[test]
    fn no_name_is_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("wal"));
        let first = aside(&files, "T");
        fs::create_dir(&first).unwrap();
        let second = aside(&files, "T");
        assert_ne!(first, second);
        fs::write(Files::new(&second).beside(".mark"), "").unwrap();
        assert!(aside(&files, "T").ends_with("wal.damaged-T-3"));
    }
}
