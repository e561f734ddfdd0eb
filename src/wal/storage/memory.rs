//! The in-memory model of an engine: what tests crash at every single write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Storage, StorageError, VALUE_BYTES_MAX, Visit};

type Pair = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is on "stable storage".
    synced: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Writes since the last sync, in order; `None` is a remove.
    pending: Vec<Pair>,
    /// How many more writes and syncs succeed; `None`: all.
    operations_left: Option<u64>,
    /// Writes and syncs so far.
    operations: u64,
}

/// An engine in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage(Arc<Mutex<State>>);

impl MemoryStorage {
    /// What is left after a power cut that keeps the first `kept` of the writes since the last sync.
    #[must_use]
    pub fn crash(&self, kept: usize) -> Self {
        let state = self.state();
        let mut map = state.synced.clone();
        for (key, value) in state.pending.iter().take(kept) {
            match value {
                Some(value) => drop(map.insert(key.clone(), value.clone())),
                None => drop(map.remove(key)),
            }
        }
        Self(Arc::new(Mutex::new(State {
            live: map.clone(),
            synced: map,
            ..State::default()
        })))
    }

    /// How many writes are not synced yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// How many writes and syncs there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets so many more writes and syncs succeed, and fails every one after them.
    pub fn fail_after(&self, operations: u64) {
        self.state().operations_left = Some(operations);
    }

    /// Changes a stored value behind the log's back: damage.
    pub fn damage(&self, key: &[u8], value: Option<&[u8]>) {
        let mut state = self.state();
        for map in [0, 1] {
            let map = if map == 0 {
                &mut state.live
            } else {
                &mut state.synced
            };
            match value {
                Some(value) => drop(map.insert(key.to_vec(), value.to_vec())),
                None => drop(map.remove(key)),
            }
        }
    }

    /// Every key and value that a reader sees.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state().live.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operate(state: &mut State) -> Result<(), StorageError> {
        match &mut state.operations_left {
            Some(0) => Err(StorageError::Io(std::io::Error::other("planned failure"))),
            left => {
                if let Some(left) = left {
                    *left -= 1;
                }
                state.operations += 1;
                Ok(())
            }
        }
    }
}

impl Storage for MemoryStorage {
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StorageError::TooLarge(value.len()));
        }
        let mut state = self.state();
        Self::operate(&mut state)?;
        state.live.insert(key.to_vec(), value.to_vec());
        state.pending.push((key.to_vec(), Some(value.to_vec())));
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state();
        Self::operate(&mut state)?;
        state.live.remove(key);
        state.pending.push((key.to_vec(), None));
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut state = self.state();
        Self::operate(&mut state)?;
        for (key, value) in std::mem::take(&mut state.pending) {
            match value {
                Some(value) => drop(state.synced.insert(key, value)),
                None => drop(state.synced.remove(&key)),
            }
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let state = self.state();
        for (key, value) in state.live.range(from.to_vec()..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        let bytes: usize = self
            .state()
            .live
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        Ok(bytes as u64)
    }
}
