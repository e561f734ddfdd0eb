//! A plain file behind the doors: what a log costs at least on this disk.
//!
//! One thread takes all appends that wait, as the log's committer does and within the same bounds, writes their frames as they
//! are with one write at the end of the file, calls `fdatasync` and answers. No checksums, no compression, no duplicate
//! filter, nothing that could be read back.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use crate::event::EventKey;
use crate::ingress::Log;
use crate::wal::{Append, AppendError, Commit, CommitError, Committed, Fingerprint};

/// One write takes so many bytes, about; as in the log.
const GROUP_BYTES: usize = 4 << 20;
/// So many appends wait at most, and one write takes; as in the log.
const APPENDS_MAX: usize = 4_096;

type Waiting = (Append, oneshot::Sender<Result<Committed, CommitError>>);

/// Appends to a file.
#[derive(Debug)]
pub(super) struct Raw {
    appends: SyncSender<Waiting>,
    lanes: u16,
}

impl Raw {
    /// Creates the file and starts the thread that writes to it.
    pub(super) fn create(path: &Path, lanes: u16) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut file = File::create(path)?;
        let (appends, waiting) = sync_channel(APPENDS_MAX);
        std::thread::Builder::new()
            .name("raw".into())
            .spawn(move || {
                if let Err(error) = write_all(&mut file, &waiting) {
                    // Whoever waits is told by the drop of what he waits on.
                    tracing::error!(%error, "raw_failed");
                }
            })?;
        Ok(Self { appends, lanes })
    }
}

impl Log for Raw {
    fn admit(&self) -> Result<(), AppendError> {
        Ok(())
    }

    fn append(&self, append: Append) -> Result<Commit, AppendError> {
        let (reply, committed) = oneshot::channel();
        self.appends
            .try_send((append, reply))
            .map_err(|refused| match refused {
                TrySendError::Full(_) => AppendError::Overloaded,
                TrySendError::Disconnected(_) => AppendError::Failed,
            })?;
        Ok(Commit(committed))
    }

    fn lanes(&self) -> u16 {
        self.lanes
    }

    /// There is no duplicate filter that would ask.
    fn fingerprint(&self, _key: EventKey<'_>) -> Fingerprint {
        Fingerprint(0)
    }
}

fn write_all(file: &mut File, waiting: &Receiver<Waiting>) -> io::Result<()> {
    let mut frames = Vec::new();
    let mut replies = Vec::new();
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        while let Some((append, reply)) = next {
            frames.extend_from_slice(&append.frames);
            replies.push(reply);
            let room = frames.len() < GROUP_BYTES && replies.len() < APPENDS_MAX;
            next = room.then(|| waiting.try_recv().ok()).flatten();
        }
        file.write_all(&frames)?;
        file.sync_data()?;
        frames.clear();
        for reply in replies.drain(..) {
            drop(reply.send(Ok(Committed::default())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_answered_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/raw");
        let raw = Raw::create(&path, 1).unwrap();
        let append = |text: &[u8]| Append {
            frames: text.to_vec(),
            events: Vec::new(),
            ..Append::default()
        };
        let first = raw.append(append(b"one ")).unwrap();
        let second = raw.append(append(b"two")).unwrap();
        assert_eq!(second.await, Ok(Committed::default()));
        assert_eq!(first.await, Ok(Committed::default()));
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
    }
}
