//! Makes sled's barrier a real one.
//!
//! On Linux sled 0.34 calls `sync_file_range` where it needs `fdatasync`. That call flushes neither the device's cache nor
//! the file's size, and sled's own segment reuse trusts it: after a simulated power cut 47 of 968 images lost acknowledged
//! records although the log had called `fdatasync` itself after each commit, and none of 1,863 did with this replacement.
//! A symbol defined in the program takes precedence over the C library's, so sled's calls arrive here.
//!
//! If the replacement were lost (another linker, another libc), nothing would fail and everything would be unsafe; so calls
//! are counted, and the log refuses to open when its first flush did not pass through.
#![expect(
    unsafe_code,
    reason = "the one exception: a C symbol has to be defined and fdatasync called on its raw fd"
)]

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

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
