//! Who may send: whose key a request came with, and what that key allows.
//!
//! ```text
//!   keys file ──▶ file (pure) ──▶ Table ──▶ Keys: the table in force; `reload` changes it
//!   request ──▶ presented (pure) ──▶ entrance ──▶ Caller: source, streams, origins, rates
//! ```
//!
//! - A key is looked up by its SHA-256, and only hashes are in the file and in memory. Keys are random, 128 bits or more,
//!   so there is nothing to guess and a fast hash is right: a slow one would tax our requests and no attacker. The time of a
//!   look-up says nothing about a key: nobody can choose digests.
//! - A key's *source* is half of each event's identity: the same message id under two sources is two events.
//! - A change of the file holds for requests that begin after it, and for the next batch of an open stream. Rates that did not
//!   change keep what they counted.
//! - Deliberately absent: accounts, roles, expiry. Who manages the file manages the keys.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::outcome::RequestError;
use super::quota::Buckets;
use super::shed::Share;
use crate::config::{GuardConfig, Rates};
use crate::event::DEFAULT_SOURCE;
use crate::status::Code;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::labels;

pub mod disk;
pub mod file;
pub mod secret;

mod origin;
pub(super) mod presented;
pub(super) mod reload;

pub use secret::KeyHash;

use disk::DiskError;
use file::KeyFile;
use origin::Origin;
use reload::Watched;

/// Who may send without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// Everyone: there are no keys.
    Open,
    /// Everyone; a key gives its events another source, and one that is not known is refused.
    Welcome,
    /// Nobody.
    Refused,
}

/// What holds for keys whose entry says nothing of it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// How fast a key may send.
    pub rates: Rates,
    /// For how long it may be faster.
    pub burst: Duration,
    /// The most bytes of bodies under way for one key, where there are several.
    pub in_flight_bytes_max: usize,
}

/// What one key allows.
#[derive(Debug)]
pub(crate) struct Key {
    source: String,
    /// `None`: every stream.
    streams: Option<Vec<String>>,
    /// `None`: pages of every origin.
    origins: Option<Vec<Origin>>,
    rates: Rates,
    buckets: Arc<Buckets>,
    /// What it may have under way; `None` where it is the only key.
    share: Option<Share>,
}

/// The keys of one state of the file.
#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: HashMap<KeyHash, Arc<Key>>,
}

impl Table {
    /// The table of a file. What `before` counted for a key goes on, unless its rates are others.
    fn new(file: &KeyFile, defaults: &Defaults, before: &Self) -> Self {
        let usable = || file.keys.iter().filter(|entry| entry.revoked.is_none());
        let several = usable().nth(1).is_some();
        let keys = usable().map(|entry| {
            let rates = Rates {
                events: entry.events_per_second.or(defaults.rates.events),
                bytes: entry.bytes_per_second.or(defaults.rates.bytes),
            };
            let same = before.keys.get(&entry.sha256);
            let counted = same.filter(|key| key.rates == rates);
            let buckets = counted.map_or_else(
                || Arc::new(Buckets::new(rates, defaults.burst)),
                |key| Arc::clone(&key.buckets),
            );
            let share = several.then(|| {
                same.and_then(|key| key.share.clone())
                    .unwrap_or_else(|| Share::new(defaults.in_flight_bytes_max))
            });
            let key = Key {
                source: entry.source.clone(),
                streams: entry.streams.clone(),
                origins: entry.origins.as_ref().map(|origins| {
                    let read = origins.iter().map(|origin| Origin::parse(origin));
                    // The file was checked when it was read.
                    read.filter_map(Result::ok).collect()
                }),
                rates,
                buckets,
                share,
            };
            (entry.sha256, Arc::new(key))
        });
        Self {
            keys: keys.collect(),
        }
    }
}

/// The keys in force. Cheap to clone; every clone sees a change.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    strangers: Strangers,
    defaults: Option<Defaults>,
    table: RwLock<Arc<Table>>,
    /// How often the table was changed.
    changes: AtomicU64,
}

impl Keys {
    /// No keys: everyone may send.
    #[must_use]
    pub fn open() -> Self {
        Self::with(Strangers::Open, None, Table::default())
    }

    /// The keys of a file.
    #[must_use]
    pub fn of(file: &KeyFile, defaults: Defaults, strangers: Strangers) -> Self {
        let table = Table::new(file, &defaults, &Table::default());
        Self::with(strangers, Some(defaults), table)
    }

    fn with(strangers: Strangers, defaults: Option<Defaults>, table: Table) -> Self {
        Self(Arc::new(Inner {
            strangers,
            defaults,
            table: RwLock::new(Arc::new(table)),
            changes: AtomicU64::new(0),
        }))
    }

    /// Puts another state of the file in force.
    pub fn change(&self, file: &KeyFile) {
        let Some(defaults) = &self.0.defaults else {
            return;
        };
        let table = Arc::new(Table::new(file, defaults, &self.table()));
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    /// How many keys are in force.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table().keys.len()
    }

    /// Who may send without a key.
    #[must_use]
    pub fn strangers(&self) -> Strangers {
        self.0.strangers
    }

    fn table(&self) -> Arc<Table> {
        let table = self.0.table.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&table)
    }

    /// The holder of a key; `None`: there is no such key.
    pub(crate) fn holder(&self, key: &[u8]) -> Option<Caller> {
        // Read first: a change between the two is looked up again rather than missed.
        let changes = self.0.changes.load(Ordering::Acquire);
        let hash = KeyHash::of(key)?;
        let key = self.table().keys.get(&hash).cloned()?;
        Some(Caller {
            held: Some(HeldKey { hash, key, changes }),
            ..Caller::default()
        })
    }

    /// The caller as the keys are now.
    ///
    /// # Errors
    ///
    /// Its key has been revoked.
    pub(crate) fn renewed(&self, caller: &Caller) -> Result<Option<Caller>, RequestError> {
        let Some(held) = &caller.held else {
            return Ok(None);
        };
        let changes = self.0.changes.load(Ordering::Acquire);
        if changes == held.changes {
            return Ok(None);
        }
        let table = self.table();
        let key = table.keys.get(&held.hash).cloned();
        let key = key.ok_or(Code::WriteKeyUnknown)?;
        let hash = held.hash;
        Ok(Some(Caller {
            held: Some(HeldKey { hash, key, changes }),
            ..caller.clone()
        }))
    }
}

/// Who sends: whose key a request came with, and from which address.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    held: Option<HeldKey>,
    /// What its address may; `None`: addresses have no limit.
    pub(super) address: Option<Arc<Buckets>>,
    /// What his address may have under way, as long as he has no key.
    share: Option<Share>,
}

#[derive(Debug, Clone)]
struct HeldKey {
    hash: KeyHash,
    key: Arc<Key>,
    /// How often the table had been changed when it was looked up.
    changes: u64,
}

impl Caller {
    /// Someone without a key.
    pub(super) fn stranger(address: Option<Arc<Buckets>>, share: Option<Share>) -> Self {
        Self {
            held: None,
            address,
            share,
        }
    }

    /// The same with what its address may.
    pub(super) fn at(mut self, address: Option<Arc<Buckets>>) -> Self {
        self.address = address;
        self
    }

    fn key(&self) -> Option<&Key> {
        self.held.as_ref().map(|held| &*held.key)
    }

    /// Whose events these are.
    #[must_use]
    pub fn source(&self) -> &str {
        self.key().map_or(DEFAULT_SOURCE, |key| &key.source)
    }

    /// Whether it may write to a stream.
    #[must_use]
    pub fn may_write(&self, stream: &str) -> bool {
        let streams = self.key().and_then(|key| key.streams.as_ref());
        streams.is_none_or(|streams| streams.iter().any(|allowed| allowed == stream))
    }

    /// Whether pages of an origin may use its key.
    pub(super) fn may_come_from(&self, origin: &[u8]) -> bool {
        let origins = self.key().and_then(|key| key.origins.as_ref());
        origins.is_none_or(|origins| origins.iter().any(|allowed| allowed.is(origin)))
    }

    /// What it may have under way: its key's share, or, without a key, its address's; `None`: as much as there is.
    pub(super) fn share(&self) -> Option<&Share> {
        match self.key() {
            Some(key) => key.share.as_ref(),
            None => self.share.as_ref(),
        }
    }

    /// Its rate limits, and what each is of.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (&'static str, &Buckets)> {
        let key = self.key().map(|key| ("write key", &*key.buckets));
        let address = self.address.as_deref().map(|address| ("address", address));
        key.into_iter().chain(address)
    }
}

/// A file of keys that may change.
#[derive(Debug)]
pub struct KeysFile {
    path: PathBuf,
    watched: Watched,
}

/// The keys of the configuration, and the file that they stand in.
///
/// # Errors
///
/// The file cannot be used.
pub fn load(config: &GuardConfig) -> Result<(Keys, Option<KeysFile>), DiskError> {
    let Some(path) = config.keys_file.clone() else {
        return Ok((Keys::open(), None));
    };
    let watched = Watched::new(vec![path.clone()]);
    let file = disk::read(&path)?;
    let defaults = Defaults {
        rates: config.key_rates,
        burst: config.burst,
        in_flight_bytes_max: config.key_in_flight_bytes_max,
    };
    let strangers = if config.anonymous {
        Strangers::Welcome
    } else {
        Strangers::Refused
    };
    let keys = Keys::of(&file, defaults, strangers);
    tracing::info!(keys = keys.count(), "write_keys_loaded");
    Ok((keys, Some(KeysFile { path, watched })))
}

impl KeysFile {
    /// Takes changes of the file in until `stop`. One that cannot be used is said once, and changes nothing.
    pub async fn follow(self, keys: Keys, metrics: Metrics, stop: CancellationToken) {
        let Self { path, watched } = self;
        let take = move || {
            let outcome = match disk::read(&path) {
                Ok(file) => {
                    keys.change(&file);
                    tracing::info!(keys = keys.count(), "write_keys_reloaded");
                    &*labels::RELOAD_TAKEN
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "write_keys_not_reloaded"
                    );
                    &*labels::RELOAD_REFUSED
                }
            };
            metrics.keys_reloads.add(1, outcome);
        };
        watched.follow(take, stop).await;
    }
}

#[cfg(test)]
mod tests;
