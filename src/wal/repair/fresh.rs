//! The fresh log that a repair makes.

use std::sync::Arc;

use rand::Rng as _;

use super::RepairError;
use super::salvage::Chosen;
use crate::event::Offset;
use crate::wal::frame::{self, Header};
use crate::wal::storage::Storage;
use crate::wal::{Checkpoint, LaneCheckpoint};

/// It is synced when so many bytes were written to it.
const SYNC_BYTES: usize = 1 << 20;

/// The log that is being made.
pub(super) struct Fresh {
    pub(super) header: Header,
    pub(super) next: Offset,
    /// Each group of the old log, and where it begins in the new one.
    pub(super) saved: Vec<(Chosen, Offset)>,
    pub(super) checkpoint: Checkpoint,
}

impl Fresh {
    /// How many of the records lay below an old offset: where it is now.
    fn place(&self, old: Offset) -> Offset {
        let after = self.saved.partition_point(|(group, _)| group.first < old);
        let before = after.checked_sub(1).and_then(|at| self.saved.get(at));
        before.map_or(0, |(group, new)| new + old.min(group.end()) - group.first)
    }

    /// The same checkpoint, in the new offsets.
    pub(super) fn translate(&self, settled: &Checkpoint) -> Checkpoint {
        let lanes = settled.lanes.iter().map(|lane| LaneCheckpoint {
            next_number: 0,
            settled_below: self.place(lane.settled_below),
        });
        Checkpoint {
            offset: self.place(settled.offset),
            lanes: lanes.collect(),
        }
    }
}

/// Writes the fresh log.
pub(super) struct Writer {
    storage: Option<Arc<dyn Storage>>,
    unsynced: usize,
}

impl Writer {
    /// Begins the log; without a storage it only pretends to.
    pub(super) fn new(
        storage: Option<Arc<dyn Storage>>,
        header: &Header,
    ) -> Result<Self, RepairError> {
        if let Some(storage) = &storage {
            storage.insert(&frame::HEADER_KEY, &header.encode())?;
            storage.sync()?;
        }
        Ok(Self {
            storage,
            unsynced: 0,
        })
    }

    /// Appends a group.
    pub(super) fn put(
        &mut self,
        first: Offset,
        records: u32,
        frames: &[u8],
    ) -> Result<(), RepairError> {
        let Some(storage) = &self.storage else {
            return Ok(());
        };
        let nonce = rand::rng().next_u64();
        let parts = frame::encode_group(first, records, nonce, frames);
        for (key, value) in parts.map_err(RepairError::Group)? {
            storage.insert(&key, &value)?;
            self.unsynced += value.len();
        }
        // In bounded steps: one large commit is itself a risk on sled.
        if self.unsynced >= SYNC_BYTES {
            storage.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes the checkpoint; then the log is whole.
    pub(super) fn finish(self, checkpoint: &Checkpoint) -> Result<(), RepairError> {
        if let Some(storage) = self.storage {
            let value = frame::encode_checkpoint(checkpoint);
            storage.insert(&frame::CHECKPOINT_KEY, &value)?;
            storage.sync()?;
        }
        Ok(())
    }
}
