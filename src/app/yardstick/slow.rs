//! A disk that is slow: a sync returns only when as much time has passed as such a disk needs for what was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::wal::storage::{Storage, StorageError, Visit};

/// What it writes in a second. An event that `bench` makes up takes about 110 bytes in the log, so it keeps up with about 5,000
/// a second, however many of them share a sync.
const BYTES_PER_SECOND: u64 = 560_000;

/// The engine on such a disk.
pub(super) fn disk(engine: Arc<dyn Storage>) -> Arc<dyn Storage> {
    Arc::new(Slow {
        engine,
        unsynced: AtomicU64::new(0),
    })
}

#[derive(Debug)]
struct Slow {
    engine: Arc<dyn Storage>,
    /// Bytes written since the last sync.
    unsynced: AtomicU64,
}

impl Storage for Slow {
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let bytes = (key.len() + value.len()) as u64;
        self.unsynced.fetch_add(bytes, Ordering::Relaxed);
        self.engine.insert(key, value)
    }

    fn remove(&self, key: &[u8]) -> Result<(), StorageError> {
        self.engine.remove(key)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a slow disk holds up the thread that asked it to sync"
    )]
    fn sync(&self) -> Result<(), StorageError> {
        let bytes = self.unsynced.swap(0, Ordering::Relaxed);
        self.engine.sync()?;
        let seconds = bytes as f64 / BYTES_PER_SECOND as f64;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        Ok(())
    }

    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.engine.scan(from, visit)
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        self.engine.disk_bytes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::wal::storage::memory::MemoryStorage;

    #[test]
    fn a_sync_takes_the_time_of_what_was_written_since_the_last_one() {
        let slow = disk(Arc::new(MemoryStorage::default()));
        for _ in 0..56 {
            slow.insert(&[1; 8], &[2; 992]).unwrap();
        }
        let started = Instant::now();
        slow.sync().unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100));
        let mut found = 0;
        slow.scan(&[], &mut |_, value| {
            found += value.len();
            true
        })
        .unwrap();
        assert_eq!(found, 992);
        slow.remove(&[1; 8]).unwrap();
        slow.sync().unwrap();
    }
}
