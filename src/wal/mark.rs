//! The mark: the highest acknowledged offset, in a file of its own beside the log.
//!
//! sled cuts a damaged tail off without a word; the mark is what notices. It is written after each group's sync and before
//! its answers, and synced at most once a second and when the log is idle: damage after a killed process is always
//! detected at the next open, after a power cut all but the last second's.
//!
//! It counts records alone. A cut that takes only the newest seal or checkpoint goes unnoticed, and costs nothing: the batch
//! is sealed anew under another name, and the merge keeps one row of each event.
//!
//! Two slots of 64 bytes are written in turn, so that a torn write leaves the other one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use crc32c::crc32c;
use tokio::time::Instant;

use super::storage::sync_directory;
use crate::event::{LogId, Offset};

const SLOT_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"EKM1";
/// How old an unsynced mark may become.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The log that it belongs to.
    pub(crate) log_id: LogId,
    /// One past the highest acknowledged offset.
    pub(crate) next: Offset,
    sequence: u64,
}

/// The mark's file.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    last: Mark,
    dirty_since: Option<Instant>,
}

impl MarkFile {
    /// Reads the mark; `None` when there is no file or no slot of it is whole.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Mark>> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        Ok(bytes
            .chunks_exact(SLOT_BYTES)
            .filter_map(decode)
            .max_by_key(|mark| mark.sequence))
    }

    /// Opens or creates the file and writes a first mark durably.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn open(path: &Path, log_id: LogId, next: Offset) -> io::Result<Self> {
        let sequence = Self::read(path)?.map_or(0, |mark| mark.sequence);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut mark = Self {
            file,
            last: Mark {
                log_id,
                next,
                sequence,
            },
            dirty_since: None,
        };
        mark.write(next)?;
        mark.sync()?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok(mark)
    }

    /// Writes the mark; synced when the last sync is long enough ago.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn write(&mut self, next: Offset) -> io::Result<()> {
        let mark = Mark {
            log_id: self.last.log_id,
            next,
            sequence: self.last.sequence + 1,
        };
        let slot = (mark.sequence % 2) * SLOT_BYTES as u64;
        self.file.write_all_at(&encode(&mark), slot)?;
        self.last = mark;
        self.dirty_since.get_or_insert_with(Instant::now);
        self.sync_if_old()
    }

    /// Makes the last written mark durable when it has waited long enough.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn sync_if_old(&mut self) -> io::Result<()> {
        match self.dirty_since {
            Some(since) if since.elapsed() >= SYNC_EVERY => self.sync(),
            _ => Ok(()),
        }
    }

    /// Makes the last written mark durable, if it is not.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.dirty_since.take().is_some() {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn encode(mark: &Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(mark.log_id.0.to_le_bytes());
    bytes.extend(mark.sequence.to_le_bytes());
    bytes.extend(mark.next.to_le_bytes());
    bytes.resize(SLOT_BYTES - 4, 0);
    let crc = crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes.try_into().expect("a slot is as long as it is")
}

fn decode(slot: &[u8]) -> Option<Mark> {
    let (covered, crc) = slot.split_last_chunk::<4>()?;
    let (magic, rest) = covered.split_first_chunk::<4>()?;
    if *magic != MAGIC || crc32c(covered) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (log_id, rest) = rest.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (next, _) = rest.split_first_chunk()?;
    Some(Mark {
        log_id: LogId(u128::from_le_bytes(*log_id)),
        sequence: u64::from_le_bytes(*sequence),
        next: u64::from_le_bytes(*next),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal.mark");
        assert_eq!(MarkFile::read(&path).unwrap(), None);
        let id = LogId::random();
        let mut file = MarkFile::open(&path, id, 0).unwrap();
        for next in [3, 10, 11] {
            file.write(next).unwrap();
        }
        let read = |path: &Path| {
            MarkFile::read(path)
                .unwrap()
                .map(|mark| (mark.log_id, mark.next))
        };
        assert_eq!(read(&path), Some((id, 11)));

        // A torn write of the newest slot leaves the one before it.
        let mut bytes = std::fs::read(&path).unwrap();
        let newest = if decode(&bytes[..SLOT_BYTES]).unwrap().next == 11 {
            0
        } else {
            SLOT_BYTES
        };
        bytes[newest + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), Some((id, 10)));

        // Reopened, it goes on counting.
        MarkFile::open(&path, id, 12).unwrap();
        assert_eq!(read(&path), Some((id, 12)));

        std::fs::write(&path, [0; 128]).unwrap();
        assert_eq!(read(&path), None);
    }
}
