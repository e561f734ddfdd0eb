//! Queue, store and warehouse as they belong together, and where each of them answers.
//!
//! Store and warehouse pair up: gcs → BigQuery, local → SQLite, firestore → none. With an emulator variable set for one service,
//! no other service ever calls the real Google.

use std::path::Path;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::raw::Source;
use super::reader::Reader;
use super::settings::{self, Setting};
use super::stages::{
    Ack, BatchRules, PubSubConfig, PublisherConfig, QueueConfig, Role, StoreConfig, WarehouseConfig,
};

/// The most bytes of a message, before compression, when there is a backlog; one event more may come on top.
const MESSAGE_BYTES: usize = 1 << 20;

/// A busy lane stores about one batch in this time, unless the size of batches is set.
const BUSY_AGE: Duration = Duration::from_secs(1);

/// Every service that an emulator can stand in for.
const EMULATORS: [&Setting; 4] = [
    &settings::STORAGE_EMULATOR,
    &settings::FIRESTORE_EMULATOR,
    &settings::PUBSUB_EMULATOR,
    &settings::BIGQUERY_EMULATOR,
];

pub(super) fn role(reader: &mut Reader<'_>) -> Role {
    match reader.choice(&settings::ROLE) {
        "gateway" => Role::Gateway,
        "worker" => Role::Worker,
        "loader" => Role::Loader,
        _ => Role::All,
    }
}

pub(super) fn ack(reader: &mut Reader<'_>) -> Ack {
    match reader.choice(&settings::ACK) {
        "published" => Ack::Published,
        _ => Ack::Durable,
    }
}

pub(super) fn queue(reader: &mut Reader<'_>) -> QueueConfig {
    // Read in any case, so that a bad value is found.
    let (topic, subscription) = (
        reader.text(&settings::PUBSUB_TOPIC),
        reader.text(&settings::PUBSUB_SUBSCRIPTION),
    );
    let create = reader.bool_if_set(&settings::PUBSUB_CREATE);
    let retention = reader.time(&settings::PUBSUB_RETENTION_HOURS);
    let verify_every = reader.time(&settings::PUBSUB_VERIFY_INTERVAL);
    if reader.choice(&settings::QUEUE_MODE) != "pubsub" {
        return QueueConfig::InProcess;
    }
    let endpoint = endpoint(reader, &settings::PUBSUB_EMULATOR);
    QueueConfig::PubSub(PubSubConfig {
        project: reader.required(&settings::PROJECT_ID, "for Pub/Sub"),
        topic,
        subscription,
        create: create.unwrap_or(endpoint != Endpoint::Google),
        retention,
        verify_every,
        endpoint,
        run: store_rules(reader),
    })
}

pub(super) fn publisher(reader: &mut Reader<'_>) -> PublisherConfig {
    let message = BatchRules {
        events: reader.count(&settings::PUBLISHER_BATCH_SIZE),
        events_age: Duration::ZERO,
        events_max: usize::MAX,
        bytes: MESSAGE_BYTES,
        age: reader.time(&settings::PUBLISHER_POLL_INTERVAL),
    };
    let stored = store_rules(reader);
    PublisherConfig {
        batch: match reader.choice(&settings::QUEUE_MODE) {
            "pubsub" => message,
            _ => stored,
        },
        budget_bytes: reader.count(&settings::PIPELINE_BUDGET_BYTES),
    }
}

/// When what one object or one write of the store holds is worth it.
fn store_rules(reader: &mut Reader<'_>) -> BatchRules {
    let (adapted, age) = match reader.choice(&settings::EVENT_STORE) {
        "gcs" => (1_000, Duration::from_secs(60)),
        "firestore" => (100, Duration::from_secs(5)),
        _ => (usize::MAX, Duration::from_secs(1)),
    };
    let size = batch_events(reader);
    BatchRules {
        events: size.unwrap_or(adapted),
        events_age: size.map_or(BUSY_AGE, |_| Duration::ZERO),
        events_max: size.unwrap_or(usize::MAX),
        bytes: reader.count(&settings::BATCH_BYTES),
        age: flush_interval(reader).unwrap_or(age),
    }
}

/// The new name wins over its deprecated alias; the deprecated hard limit caps both.
fn batch_events(reader: &mut Reader<'_>) -> Option<usize> {
    let size: Option<usize> = reader.count_if_set(&settings::BATCH_SIZE);
    let alias = reader.count_if_set(&settings::BUFFER_SIZE);
    let cap = reader.count_if_set(&settings::BUFFER_MAX_SIZE);
    size.or(alias).or(cap)
}

fn flush_interval(reader: &mut Reader<'_>) -> Option<Duration> {
    let interval = reader.time_if_set(&settings::FLUSH_INTERVAL);
    let alias = reader.time_if_set(&settings::BUFFER_TIMEOUT);
    interval.or(alias)
}

pub(super) fn store(reader: &mut Reader<'_>, data_dir: &Path) -> StoreConfig {
    match reader.choice(&settings::EVENT_STORE) {
        "gcs" => StoreConfig::Gcs {
            bucket: reader.required(&settings::GCS_BUCKET, "for EVENTKIT_EVENT_STORE=gcs (EVENTKIT_EVENT_STORE=local stores in the data directory)"),
            endpoint: endpoint(reader, &settings::STORAGE_EMULATOR),
        },
        "firestore" => StoreConfig::Firestore {
            project: reader.required(&settings::PROJECT_ID, "for EVENTKIT_EVENT_STORE=firestore"),
            endpoint: endpoint(reader, &settings::FIRESTORE_EMULATOR),
        },
        _ => StoreConfig::Local(data_dir.join("store")),
    }
}

/// The store's warehouse, if this process is to load it.
pub(super) fn warehouse(
    reader: &mut Reader<'_>,
    role: Role,
    store: &StoreConfig,
    data_dir: &Path,
) -> Option<WarehouseConfig> {
    let dedup_days = reader.count(&settings::WAREHOUSE_DEDUP_DAYS);
    if !reader.bool(&settings::WAREHOUSE_ENABLED) || !role.loads() {
        return None;
    }
    match store {
        StoreConfig::Local(_) => Some(WarehouseConfig::Sqlite(data_dir.join("warehouse.db"))),
        StoreConfig::Firestore { .. } => None,
        StoreConfig::Gcs { bucket, .. } => {
            let why = "for EVENTKIT_EVENT_STORE=gcs with the warehouse (or set EVENTKIT_WAREHOUSE_ENABLED=false)";
            let emulator = reader.text_if_set(&settings::BIGQUERY_EMULATOR);
            Some(WarehouseConfig::BigQuery {
                project: reader.required(&settings::PROJECT_ID, why),
                dataset: reader.required(&settings::BIGQUERY_DATASET, why),
                table: reader.required(&settings::BIGQUERY_TABLE, why),
                bucket: bucket.clone(),
                endpoint: match emulator {
                    Some(host) => Some(Endpoint::emulator(&host)),
                    None => another(reader, &settings::BIGQUERY_EMULATOR)
                        .is_none()
                        .then_some(Endpoint::Google),
                },
                dedup_days,
            })
        }
    }
}

/// Where a service answers. With an emulator for another service there must be one for this one, too.
fn endpoint(reader: &mut Reader<'_>, setting: &'static Setting) -> Endpoint {
    if let Some(host) = reader.text_if_set(setting) {
        return Endpoint::emulator(&host);
    }
    if let Some(other) = another(reader, setting) {
        reader.problem(
            setting.env.to_owned(),
            format!(
                "is required where {} is set, so that no emulator is mixed with the real Google",
                other.env
            ),
        );
    }
    Endpoint::Google
}

/// An emulator that is set for another service.
fn another(reader: &Reader<'_>, setting: &'static Setting) -> Option<&'static Setting> {
    EMULATORS
        .into_iter()
        .filter(|other| other.env != setting.env)
        .find(|other| reader.source(other) != Source::Default)
}
