//! Opening a log: lock, engine, examination, repair, self-check; only then is anything taken or published.

use std::io::ErrorKind::StorageFull;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::advice::{Concerned, repair_command};
use super::committer::Committer;
use super::files::{Files, Lock};
use super::filling;
use super::frame::{self, Header};
use super::mark::MarkFile;
use super::place;
use super::recovery::{Damage, Found, Seen, concerned, examine};
use super::repair;
use super::room;
use super::storage::{Storage, StorageError, sled};
use super::{COMMANDS_MAX, LogState, Shared, Unsettled, Wal};
use crate::clock::Clock;
use crate::config::{Engine, WalConfig};
use crate::event::LogId;
use crate::telemetry::Metrics;

/// Why a log does not open. Nothing of it was changed then.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the log at {0} is in use by another process; give this one another EVENTKIT_DATA_DIR")]
    InUse(PathBuf),
    /// Something else lies at its place.
    #[error(
        "{0} is not a log of this program: it is left untouched. If a predecessor wrote it, drain it with the predecessor, \
         then move it away"
    )]
    Foreign(PathBuf),
    /// The log of the other engine lies at its place. Nothing decides by itself that it is not needed any more: it may hold
    /// undelivered events, and holds the keys of the delivered ones.
    #[error(
        "the log at {path} was written by the engine {found}, and EVENTKIT_RING_BUFFER_MODE is {wanted}: it is left \
         untouched. Set EVENTKIT_RING_BUFFER_MODE={found}; or deliver what it holds with `eventkit wal drain {path}` \
         (`--for dev` if `eventkit dev` wrote it) and then \
         move it away, with its mark: `mv {path} {path}.{found} && mv {path}.mark {path}.{found}.mark`",
        found = found.name(),
        wanted = wanted.name()
    )]
    OtherEngine {
        /// Where.
        path: PathBuf,
        /// Who wrote it.
        found: Engine,
        /// Who was to open it.
        wanted: Engine,
    },
    /// It is damaged: opening it would hide a loss.
    #[error(
        "the log at {path} is damaged: {damage}; {concerned}. `{repair}` saves what can be read and sets \
         the old files aside; it deletes nothing (`--dry-run` only says what it would do)",
        repair = repair_command(path)
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
        /// Which offsets may be lost.
        concerned: Concerned,
    },
    /// Its engine cannot read its own files.
    #[error(
        "the files of the log at {path} are damaged: {reason}; {concerned}. `{repair}` saves what \
         can be read and sets the old files aside; it deletes nothing (`--dry-run` only says what it would do)",
        repair = repair_command(path)
    )]
    Engine {
        /// Where.
        path: PathBuf,
        /// What the engine says.
        reason: String,
        /// Which offsets may be lost.
        concerned: Concerned,
    },
    /// A repair of it was cut short between its last steps.
    #[error("a repair of the log at {path} was cut short: `{repair}` finishes it", repair = repair_command(path))]
    RepairUnfinished {
        /// Where.
        path: PathBuf,
    },
    /// The engine failed.
    #[error("open the log's storage at {path}")]
    Storage {
        /// Where.
        path: PathBuf,
        /// What happened.
        #[source]
        source: StorageError,
    },
    /// A file beside the log could not be read or written.
    #[error("prepare the files of the log at {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
}

/// What a log needs to know beside its storage.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration; its path is used for messages only where the storage is given.
    pub config: WalConfig,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where it counts.
    pub metrics: Metrics,
}

impl Wal {
    /// Opens or creates the log at the configured path, in the configured engine. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(options: Options) -> Result<(Self, Unsettled), OpenError> {
        Self::open_through(options, |engine| engine)
    }

    /// The same with the engine seen through something that is put around it once its files are open.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_through(
        options: Options,
        through: fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
    ) -> Result<(Self, Unsettled), OpenError> {
        let path = options.config.path.clone();
        let io = |source| OpenError::Io {
            path: path.clone(),
            source,
        };
        let engine = options.config.engine;
        let files = Files::new(&path);
        // Before anything is created, and once more when nobody else can change it.
        place::refuse(&files, engine)?;
        std::fs::create_dir_all(files.parent()).map_err(io)?;
        let lock = files
            .lock()
            .map_err(io)?
            .ok_or_else(|| OpenError::InUse(path.clone()))?;
        lock.announce(None).map_err(io)?;
        place::refuse(&files, engine)?;
        if repair::is_unfinished(&files) {
            return Err(OpenError::RepairUnfinished { path });
        }
        if files.is_poisoned() {
            tracing::warn!("log_copied_after_failed_sync");
            match files.refresh() {
                Err(error) if error.kind() == StorageFull && files.drop_ballast() => {
                    tracing::warn!(%error, "ballast_dropped");
                    files.refresh()
                }
                refreshed => refreshed,
            }
            .map_err(io)?;
        }
        if engine == Engine::Sled {
            files.keep_evidence(sled::DATA_FILE);
        }
        let examined = || {
            let storage = place::open(&path, engine)
                .map(through)
                .map_err(|source| storage_error(&path, source, Some(&files)))?;
            let found = found(&*storage, &options, Some(&files))?;
            Ok((storage, found))
        };
        let examined = match examined() {
            Err(OpenError::Storage {
                source: StorageError::Full(error),
                ..
            }) if files.drop_ballast() => {
                tracing::warn!(%error, "ballast_dropped");
                examined()
            }
            examined => examined,
        };
        let (storage, found) = examined.inspect_err(|error| poison_if_unsynced(&files, error))?;
        started(storage, options, found, Some((files, lock)))
    }

    /// Opens or creates the log in a storage that is already open, without files beside it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_in(
        storage: Arc<dyn Storage>,
        options: Options,
    ) -> Result<(Self, Unsettled), OpenError> {
        let found = found(&*storage, &options, None)?;
        started(storage, options, found, None)
    }
}

/// Examines what the storage holds, and repairs what a crash left in it, or makes a new log.
fn found(
    storage: &dyn Storage,
    options: &Options,
    files: Option<&Files>,
) -> Result<Found, OpenError> {
    let path = &options.config.path;
    let engine = |source| storage_error(path, source, files);
    let mark = files.map(|files| MarkFile::read(&files.beside(".mark")));
    let seen = match mark.transpose().map_err(|source| OpenError::Io {
        path: path.clone(),
        source,
    })? {
        None => Seen::NotKept,
        Some(None) => Seen::Missing,
        Some(Some(mark)) => Seen::Is(mark),
    };
    let judged = examine(storage, seen, options.config.dedup_ids_max).map_err(engine)?;
    let found = judged.map_err(|damage| {
        if let Some(files) = files {
            files.sync_evidence();
        }
        OpenError::Damaged {
            path: path.clone(),
            damage,
            concerned: concerned(Some(storage), seen),
        }
    })?;
    let found = match found {
        Some(found) => repair(storage, found, &options.config),
        None => create(storage, options),
    };
    found.map_err(engine)
}

/// The rest, once the log is known to be whole.
fn started(
    storage: Arc<dyn Storage>,
    options: Options,
    found: Found,
    files: Option<(Files, Lock)>,
) -> Result<(Wal, Unsettled), OpenError> {
    let path = options.config.path.clone();
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let mark = files
        .as_ref()
        .map(|(files, _)| MarkFile::open(&files.beside(".mark"), found.header.log_id, found.next))
        .transpose()
        .map_err(io)?;
    if let Some((files, _)) = &files {
        files.drop_evidence();
        files.load_ballast(options.config.ballast_bytes);
    }
    start(storage, options, Opened { found, files, mark }).map_err(io)
}

/// A sync that fails at open is as final as any other: the system reports it once, and from then on the page cache claims
/// what the disk may not hold. What the next open finds there must not pass for durable. A write that found no room
/// ([`StorageError::Full`]) is no such thing: it left nothing that a later sync would not report.
fn poison_if_unsynced(files: &Files, error: &OpenError) {
    use std::io::ErrorKind::{AlreadyExists, NotFound, PermissionDenied, WouldBlock};

    if let OpenError::Storage {
        source: StorageError::Io(error),
        ..
    } = error
        && !matches!(
            error.kind(),
            AlreadyExists | NotFound | PermissionDenied | WouldBlock
        )
    {
        files.poison();
    }
}

/// What an engine that does not open, or does not read, means for whoever wants the log.
fn storage_error(path: &Path, source: StorageError, files: Option<&Files>) -> OpenError {
    let path = path.to_owned();
    let StorageError::Damaged(reason) = source else {
        return OpenError::Storage { path, source };
    };
    if let Some(files) = files {
        files.sync_evidence();
    }
    let mark = files.and_then(|files| MarkFile::read(&files.beside(".mark")).ok().flatten());
    OpenError::Engine {
        path,
        reason,
        concerned: concerned(None, mark.map_or(Seen::Missing, Seen::Is)),
    }
}

/// Bytes of the groups that are not settled.
fn unsettled_bytes(found: &Found) -> u64 {
    let settled = found.checkpoint.offset;
    let unsettled = found.groups.iter().filter(|group| group.end() > settled);
    unsettled.map(|group| group.stored_bytes).sum()
}

/// A new log: its identity is durable before it takes anything.
fn create(storage: &dyn Storage, options: &Options) -> Result<Found, StorageError> {
    let header = Header {
        log_id: LogId::random(),
        secret: uuid::Uuid::new_v4().into_bytes(),
        lanes: options.config.lanes,
        created_at: options.clock.now(),
    };
    storage.insert(&frame::HEADER_KEY, &header.encode())?;
    storage.sync()?;
    Ok(Found::empty(header, options.config.dedup_ids_max))
}

/// Finishes what a crash left, and proves that a sync passes through our barrier before anything is acknowledged.
fn repair(
    storage: &dyn Storage,
    mut found: Found,
    config: &WalConfig,
) -> Result<Found, StorageError> {
    if let Some(offset) = found.torn {
        tracing::warn!(offset, "torn_group_removed");
    }
    // In bounded steps: one large commit of removes is itself a risk on sled.
    for keys in found.repairs.chunks(256) {
        for key in keys {
            storage.remove(key)?;
        }
        storage.sync()?;
    }
    found.repairs.clear();
    let WalConfig {
        lanes, keeps_lanes, ..
    } = *config;
    if found.header.lanes != lanes {
        let is_settled = found.checkpoint.offset == found.next && found.seals.is_empty();
        if is_settled && !keeps_lanes {
            found.header.lanes = lanes;
            storage.insert(&frame::HEADER_KEY, &found.header.encode())?;
        } else {
            let action = match keeps_lanes {
                true => {
                    "order is kept per lane, and batches of these may wait in Pub/Sub: see `eventkit wal relane --help`"
                }
                false => "they change at a start with nothing unsettled",
            };
            let kept = found.header.lanes;
            tracing::warn!(wanted = lanes, kept, action, "lanes_kept");
        }
    }
    storage.insert(&frame::OPENED_KEY, &found.opened())?;
    storage.sync()?;
    Ok(found)
}

struct Opened {
    found: Found,
    files: Option<(Files, Lock)>,
    mark: Option<MarkFile>,
}

fn start(
    storage: Arc<dyn Storage>,
    options: Options,
    opened: Opened,
) -> Result<(Wal, Unsettled), std::io::Error> {
    let Opened { found, files, mark } = opened;
    let volume = files
        .as_ref()
        .map(|(files, _)| files.volume())
        .transpose()?;
    let (commands, receiver) = std::sync::mpsc::sync_channel(COMMANDS_MAX);
    let shared = Arc::new(Shared {
        header: found.header,
        storage,
        state: watch::Sender::new(LogState::Open),
        durable: watch::Sender::new(found.next),
        stored_bytes: AtomicU64::new(found.groups.iter().map(|group| group.stored_bytes).sum()),
        unsettled_bytes: AtomicU64::new(unsettled_bytes(&found)),
        full_seconds: AtomicU64::new(filling::NEVER.as_secs()),
        volume_free_bytes: AtomicU64::new(0),
        dedup_ids: AtomicU64::new(found.dedup.len() as u64),
        groups: Mutex::new(found.groups),
        queued_appends: AtomicUsize::new(0),
        queued_bytes: AtomicUsize::new(0),
        checkpoint: AtomicU64::new(found.checkpoint.offset),
        dedup_first: AtomicU64::new(found.dedup.first().unwrap_or(found.next)),
        files,
        limit_bytes: room::limit(options.config.bytes_max, volume),
    });
    let unsettled = Unsettled {
        checkpoint: found.checkpoint.clone(),
        seals: found.seals.clone(),
    };
    let mut committer = Committer::new(Arc::clone(&shared), options, mark);
    committer.resume(found.dedup, found.next, &unsettled);
    let thread = std::thread::Builder::new()
        .name("wal-committer".into())
        .spawn(move || committer.run(receiver))?;
    let wal = Wal {
        shared,
        commands,
        committer: Arc::new(Mutex::new(Some(thread))),
    };
    Ok((wal, unsettled))
}
