//! Queue, store and warehouse as they belong together, and where each of them answers.
//!
//! Store and warehouse pair up: gcs → BigQuery, local → SQLite, firestore → none. With an emulator variable set for one service,
//! no other service ever calls the real Google.

use std::path::Path;
use std::time::Duration;

use super::batch;
use super::endpoint::Endpoint;
use super::raw::Source;
use super::reader::Reader;
use super::settings::{self, Setting};
use super::stages::{
    Ack, PubSubConfig, PubSubOptions, PublisherConfig, QueueConfig, Role, StoreConfig,
    WarehouseConfig,
};

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
    let options = PubSubOptions {
        project: reader.required(&settings::PROJECT_ID, "for Pub/Sub"),
        topic,
        subscription,
        create: create.unwrap_or(endpoint != Endpoint::Google),
        retention,
        verify_every,
        endpoint,
    };
    QueueConfig::PubSub(PubSubConfig {
        options,
        run: batch::stored(reader),
    })
}

pub(super) fn publisher(reader: &mut Reader<'_>) -> PublisherConfig {
    // Both are read in any case, so that a bad value is found.
    let (message, stored) = (batch::message(reader), batch::stored(reader));
    PublisherConfig {
        batch: match reader.choice(&settings::QUEUE_MODE) {
            "pubsub" => message,
            _ => stored,
        },
        budget_bytes: reader.count(&settings::PIPELINE_BUDGET_BYTES),
    }
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

/// The least time between two rounds of BigQuery's loader: a round takes two load jobs, of which a project has 100,000 a day
/// (<https://cloud.google.com/bigquery/quotas#load_jobs>).
const BIGQUERY_INTERVAL_MIN: Duration = Duration::from_secs(2);

/// The longest time between two looks at the inbox.
pub(super) fn loader_interval(
    reader: &mut Reader<'_>,
    warehouse: Option<&WarehouseConfig>,
) -> Duration {
    let interval = reader.time(&settings::WAREHOUSE_INTERVAL);
    let is_google = matches!(
        warehouse,
        Some(WarehouseConfig::BigQuery {
            endpoint: Some(Endpoint::Google),
            ..
        })
    );
    if is_google && interval < BIGQUERY_INTERVAL_MIN {
        reader.warn(
            &settings::WAREHOUSE_INTERVAL,
            "BigQuery's quota of load jobs would not last a day: it is 2 seconds",
        );
        return BIGQUERY_INTERVAL_MIN;
    }
    interval
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
                location: reader.text_if_set(&settings::BIGQUERY_LOCATION),
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
