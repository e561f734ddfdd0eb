//! The disk under the data: what it is, and how long its own `fdatasync` takes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use tokio::time::Instant;

/// How much is written before each sync.
const WRITE_BYTES: usize = 4_096;
/// How many syncs one look takes.
const SYNCS: usize = 30;

/// The disk's syncs between the rounds.
#[derive(Debug, Default)]
pub(super) struct Disk {
    millis: Vec<f64>,
}

/// What they came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Syncs {
    pub(super) count: usize,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) max_ms: f64,
}

impl Disk {
    /// Appends to a file in the directory and syncs it, several times.
    pub(super) fn look(&mut self, dir: &Path) -> io::Result<()> {
        let mut file = File::create(dir.join("fdatasync"))?;
        for _ in 0..SYNCS {
            let started = Instant::now();
            file.write_all(&[7; WRITE_BYTES])?;
            file.sync_data()?;
            self.millis.push(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }

    pub(super) fn syncs(&self) -> Syncs {
        let mut sorted = self.millis.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |of: usize, in_: usize| sorted.get(sorted.len() * of / in_).copied();
        Syncs {
            count: sorted.len(),
            p50_ms: at(1, 2).unwrap_or_default(),
            p90_ms: at(9, 10).unwrap_or_default(),
            max_ms: sorted.last().copied().unwrap_or_default(),
        }
    }
}

/// The file system that a directory lies on, as the kernel's list of mounts has it: `ext4 on /dev/sda1`.
pub(super) fn file_system(dir: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    std::path::absolute(dir)
        .and_then(std::fs::canonicalize)
        .ok()
        .and_then(|dir| mounted(&mounts, &dir))
        .unwrap_or_else(|| "an unknown file system".into())
}

/// The mount with the longest mount point above the directory; of equal ones the last, which lies on top.
fn mounted(mounts: &str, dir: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = Path::new(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next()?);
        let depth = point.components().count();
        dir.starts_with(point)
            .then(|| (depth, format!("{kind} on {source}")))
    });
    mounts
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, mount)| mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_nearest_to_the_directory_counts() {
        let mounts = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw,size=1g
31 22 0:26 / /tmpfoo rw - xfs /dev/vdb rw
";
        let found = |dir: &str| mounted(mounts, Path::new(dir)).unwrap();
        assert_eq!(found("/home"), "ext4 on /dev/vda");
        assert_eq!(found("/tmp/x"), "tmpfs on tmpfs");
        assert_eq!(mounted("", Path::new("/")), None);
    }

    #[test]
    fn syncs_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::default();
        disk.look(dir.path()).unwrap();
        let syncs = disk.syncs();
        assert_eq!(syncs.count, SYNCS);
        assert!(0.0 < syncs.p50_ms && syncs.p50_ms <= syncs.p90_ms && syncs.p90_ms <= syncs.max_ms);
    }
}
