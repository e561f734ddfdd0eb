//! The file of keys on disk: read whole, replaced whole.
//!
//! A change is written beside the file and put in its place by a rename, so that a gateway that reads it at any moment reads
//! the old one or the new one. Two tools that change it at a time wait for each other.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::file::{FileError, KeyFile};

/// The largest file that is read: some ten thousand keys.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why the file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk said no.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It is far too large.
    #[error("{} has more than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// What stands in it is not good.
    #[error("{}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FileError,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { what, path, source }
}

/// Reads a file of keys.
///
/// # Errors
///
/// [`DiskError`]
pub fn read(path: &Path) -> Result<KeyFile, DiskError> {
    let size = std::fs::metadata(path)
        .map_err(io_error("look at", path))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(DiskError::TooLarge(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(io_error("read", path))?;
    KeyFile::parse(&bytes).map_err(|source| DiskError::Content {
        path: path.to_owned(),
        source,
    })
}

/// Changes a file of keys; one that is not there is made. Where `change` has nothing to change, nothing is written.
///
/// # Errors
///
/// [`DiskError`]; the file is then as it was.
pub fn update<T>(
    path: &Path,
    change: impl FnOnce(&mut KeyFile) -> Option<T>,
) -> Result<Option<T>, DiskError> {
    // A link stays one: what it leads to is replaced.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let turn = File::open(dir).map_err(io_error("open", dir))?;
    turn.lock().map_err(io_error("lock", dir))?;
    let (mut file, mode) = match std::fs::metadata(path) {
        Ok(found) => (read(path)?, found.permissions().mode() & 0o777),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (KeyFile::default(), 0o600),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    let Some(changed) = change(&mut file) else {
        return Ok(None);
    };
    file.check().map_err(|source| DiskError::Content {
        path: path.clone(),
        source,
    })?;
    replace(path, dir, &file.to_bytes(), mode).map_err(io_error("write", path))?;
    Ok(Some(changed))
}

fn replace(path: &Path, dir: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut fresh = tempfile::NamedTempFile::new_in(dir)?;
    fresh.write_all(bytes)?;
    fresh
        .as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    fresh.as_file().sync_all()?;
    fresh.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::KeyHash;
    use super::super::file::Entry;
    use super::*;

    fn add(path: &Path, id: &str) -> Result<Option<()>, DiskError> {
        update(path, |file| {
            file.keys.push(Entry {
                id: id.to_owned(),
                source: "shop".to_owned(),
                sha256: KeyHash::of(id.as_bytes())?,
                streams: None,
                origins: None,
                events_per_second: None,
                bytes_per_second: None,
                created: None,
                revoked: None,
            });
            Some(())
        })
    }

    #[test]
    fn a_change_replaces_the_file_or_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        assert!(matches!(read(&path), Err(DiskError::Io { .. })));
        add(&path, "one").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        add(&path, "two").unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(read(&path).unwrap().keys.len(), 2);

        let before = std::fs::read(&path).unwrap();
        assert!(matches!(add(&path, "two"), Err(DiskError::Content { .. })));
        assert!(update(&path, |_file| None::<()>).unwrap().is_none());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // Nothing else is left behind.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("link"), dir.path().join("real"));
        add(&real, "one").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        add(&link, "two").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&real).unwrap().keys.len(), 2);
    }
}
