//! Is the log's place one that keeps what it is given?

use std::path::{Path, PathBuf};

use crate::config::{Ack, Config, QueueConfig};
use crate::wal::beside;

/// The log would lie in memory.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log's directory {path} lies in memory ({kind}): what is acknowledged as durable would be gone with the machine. Put it on a \
     disk (EVENTKIT_RING_BUFFER_DB_PATH), or acknowledge what Pub/Sub holds (EVENTKIT_ACK=published), or say that it may be lost \
     (EVENTKIT_ALLOW_VOLATILE_LOG=true)"
)]
pub(super) struct Volatile {
    path: PathBuf,
    kind: &'static str,
}

/// File systems that do not outlive the machine, by the number that `statfs` gives (linux/magic.h).
const IN_MEMORY: [(u64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// The one that a container's own files lie in, unless a volume is mounted there.
const OVERLAY: u64 = 0x794c_7630;

/// Refuses a log in memory that is to be durable, and says when batches may wait where nobody fetches them.
pub(super) fn check(config: &Config) -> Result<(), Volatile> {
    let path = &config.wal.path;
    if config.ack == Ack::Durable
        && let Some(number) = file_system(path)
    {
        let in_memory = IN_MEMORY.iter().find(|(memory, _)| *memory == number);
        if let Some(&(_, kind)) = in_memory {
            if !config.wal.may_be_volatile {
                let path = path.clone();
                return Err(Volatile { path, kind });
            }
            tracing::warn!(path = %path.display(), kind, "log_in_memory");
        } else if number == OVERLAY {
            let action = "mount a volume there: what lies in a container's own layer ends with the container";
            tracing::warn!(path = %path.display(), action, "log_in_container_layer");
        }
    }
    remember_queue(config);
    Ok(())
}

/// The number of the file system that the path lies in, or its nearest parent that exists.
fn file_system(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let found = path
        .ancestors()
        .find_map(|place| rustix::fs::statfs(place).ok())?;
    #[expect(clippy::cast_sign_loss, reason = "its type differs between platforms")]
    let number = (found.f_type as u64) & 0xffff_ffff;
    Some(number)
}

/// A log that was published to Pub/Sub says so in a file beside it. Batches that were handed on are not in the log any more, so
/// that a process which does not pull from there would leave them where they are.
fn remember_queue(config: &Config) {
    let note = beside(&config.wal.path, ".queue");
    let written = match &config.queue {
        QueueConfig::PubSub(pubsub) => {
            let subscription = pubsub.options.subscription_path();
            if let Ok(before) = std::fs::read_to_string(&note)
                && before != subscription
            {
                tracing::warn!(
                    subscription = before,
                    action =
                        "run `eventkit serve --role worker` on that subscription until it is empty",
                    "batches_may_wait_in_pubsub"
                );
            }
            let folder = note.parent().map_or(Ok(()), std::fs::create_dir_all);
            folder.and_then(|()| std::fs::write(&note, subscription))
        }
        QueueConfig::InProcess => {
            if let Ok(subscription) = std::fs::read_to_string(&note) {
                tracing::warn!(
                    subscription,
                    action = format!(
                        "run `eventkit serve --role worker` with EVENTKIT_QUEUE_MODE=pubsub until the subscription is empty, then delete {}",
                        note.display()
                    ),
                    "batches_may_wait_in_pubsub"
                );
            }
            Ok(())
        }
    };
    if let Err(error) = written {
        tracing::warn!(%error, path = %note.display(), "queue_not_remembered");
    }
}
