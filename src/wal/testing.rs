//! A log in memory, for tests of the stages around it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::storage::memory::MemoryStorage;
use super::{OpenError, Options, Unsettled, Wal};
use crate::clock::SystemClock;
use crate::config::{Engine, WalConfig};
use crate::event::{Client, DEFAULT_SOURCE, DEFAULT_STREAM, Event, Lane, PayloadFormat};
use crate::telemetry::Metrics;

/// The defaults of `eventkit dev`, with the log's path given.
#[must_use]
pub fn config(path: PathBuf, lanes: u16) -> WalConfig {
    WalConfig {
        engine: Engine::Sled,
        path,
        lanes,
        keeps_lanes: false,
        bytes_max: None,
        retained_events_max: 100_000,
        retention: Duration::from_secs(24 * 3600),
        cleanup_interval: Duration::from_secs(3600),
        dedup_ids_max: 2_000_000,
        ballast_bytes: 0,
        may_be_volatile: true,
    }
}

/// Options around a configuration: the machine's clock, metrics of its own.
#[must_use]
pub fn options(config: WalConfig) -> Options {
    Options {
        config,
        clock: Arc::new(SystemClock),
        metrics: Metrics::new(),
    }
}

/// A log in fresh memory.
///
/// # Panics
///
/// Never: fresh memory opens.
#[must_use]
pub fn memory_wal(lanes: u16) -> Wal {
    let (wal, _) = open(&MemoryStorage::default(), lanes).expect("fresh memory opens");
    wal
}

/// A log in the given memory.
///
/// # Errors
///
/// [`OpenError`].
pub fn open(storage: &MemoryStorage, lanes: u16) -> Result<(Wal, Unsettled), OpenError> {
    Wal::open_in(
        Arc::new(storage.clone()),
        options(config(PathBuf::from("memory"), lanes)),
    )
}

/// A plain event of the first lane, for a test to change what matters to it.
#[must_use]
pub fn event<'a>(message_id: &'a str, payload: &'a [u8]) -> Event<'a> {
    Event {
        format: PayloadFormat::Json,
        payload,
        source: DEFAULT_SOURCE,
        message_id,
        message_id_assigned: false,
        stream: DEFAULT_STREAM,
        kind: None,
        lane: Lane(0),
        received_at: 1_700_000_000_000_000,
        sent_at: None,
        trace: None,
        batch_context: &[],
        batch_integrations: &[],
        client: Client::default(),
    }
}
