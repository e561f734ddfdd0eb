//! Makes sled's barriers real ones.
//!
//! On Linux sled 0.34 calls `sync_file_range` where it needs `fdatasync`. That call flushes neither the device's cache nor
//! the file's size, and sled's own segment reuse trusts it: after a simulated power cut 47 of 968 images lost acknowledged
//! records although the log had called `fdatasync` itself after each commit, and none of 1,863 did with this replacement.
//!
//! And it trusts that a renamed file has its new name for good. At open it writes what it found to a snapshot, renames it, and
//! overwrites with zeros every segment that the snapshot does not name: a cut that keeps the zeros and not the name leaves a
//! log whose segments do not join any more, and of which sled then reads nothing. So the snapshot's folder is synced
//! before the rename returns.
//!
//! A symbol defined in the program takes precedence over the C library's, so sled's calls arrive here.
//!
//! If a replacement were lost (another linker, another libc), nothing would fail and everything would be unsafe; so calls
//! are counted, and the log refuses to open when its first flush, or a snapshot, did not pass through.
#![expect(
    unsafe_code,
    reason = "the one exception: C symbols have to be defined, and fdatasync called on a raw fd"
)]

#[cfg(target_os = "linux")]
use std::ffi::{CStr, OsStr};
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt as _;
#[cfg(target_os = "linux")]
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use crate::wal::storage::sync_directory;

/// How the name of a snapshot ends that sled has not put in place yet.
pub(super) const UNFINISHED: &str = ".generating";

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);
static SNAPSHOTS: AtomicU64 = AtomicU64::new(0);

/// How often sled's barrier passed through here.
#[must_use]
pub fn calls() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// How often that failed.
#[must_use]
pub fn failures() -> u64 {
    FAILURES.load(Ordering::SeqCst)
}

/// How many of sled's snapshots got their durable name here.
#[must_use]
pub fn snapshots() -> u64 {
    SNAPSHOTS.load(Ordering::SeqCst)
}

/// Takes the place of the C library's function for the whole program: syncs the file's data and size.
///
/// Returns 0, or -1 with `errno` set, as sled expects.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: fdatasync takes any descriptor and touches no memory of ours; a bad one is answered with EBADF.
    let done = unsafe { libc::fdatasync(fd) };
    if done != 0 {
        FAILURES.fetch_add(1, Ordering::SeqCst);
    }
    done
}

/// Takes the place of the C library's function for the whole program: the same, but that sled's snapshot has its name
/// durably when this returns.
///
/// Returns 0, or -1 with `errno` set, as everybody expects.
///
/// # Safety
///
/// As for the C library's: both arguments are paths that end in a NUL.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const libc::c_char, to: *const libc::c_char) -> libc::c_int {
    // SAFETY: the caller's own arguments.
    let renamed = unsafe { libc::renameat(libc::AT_FDCWD, from, libc::AT_FDCWD, to) };
    if renamed != 0 {
        return renamed;
    }
    // SAFETY: the system has just read both paths.
    let (from, to) = unsafe { (CStr::from_ptr(from), CStr::from_ptr(to)) };
    if !from.to_bytes().ends_with(UNFINISHED.as_bytes()) {
        return 0;
    }
    SNAPSHOTS.fetch_add(1, Ordering::SeqCst);
    let to = Path::new(OsStr::from_bytes(to.to_bytes()));
    match sync_directory(to.parent().unwrap_or(Path::new("/"))) {
        Ok(()) => 0,
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(libc::EIO);
            // SAFETY: the thread's own errno.
            unsafe { *libc::__errno_location() = code };
            -1
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::super::SledStorage;
    use super::{UNFINISHED, calls, snapshots};
    use crate::wal::storage::Storage as _;

    #[test]
    fn flushes_and_snapshots_of_sled_pass_through_here() {
        let dir = tempfile::tempdir().unwrap();
        let before = (calls(), snapshots());
        for _ in 0..2 {
            let storage = SledStorage::open(dir.path()).unwrap();
            storage.insert(b"key", b"value").unwrap();
            storage.sync().unwrap();
        }
        assert!(calls() > before.0);
        // The second open found what the first had not yet put into one.
        assert!(snapshots() > before.1);
    }

    #[test]
    fn a_rename_is_what_it_always_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (
            dir.path().join(format!("a{UNFINISHED}")),
            dir.path().join("b"),
        );
        assert_eq!(
            fs::rename(&from, &to).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        fs::write(&from, "bytes").unwrap();
        fs::write(&to, "older").unwrap();
        fs::rename(&from, &to).unwrap();
        assert!(!from.exists());
        assert_eq!(fs::read(&to).unwrap(), b"bytes");
    }
}
