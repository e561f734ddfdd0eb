//! Text → [`Config`], or every problem at once. Pure: no environment, no files, no sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::{Inputs, Source};
use super::reader::Reader;
use super::rules;
use super::settings;
use super::stages::{
    AdminConfig, Config, Engine, IngressConfig, LoaderConfig, LogLevel, PublisherConfig,
    StoreConfig, StoreKind, TelemetryConfig, WalConfig,
};

/// What keeps a configuration from being used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting and its value, or the variable.
    pub subject: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}

/// All problems of a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 problem in the configuration")?,
            count => write!(f, "{count} problems in the configuration")?,
        }
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// What a person should know about a configuration that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The setting's variable.
    pub setting: &'static str,
    /// What is odd about it.
    pub text: String,
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What to tell its author.
    pub warnings: Vec<Warning>,
}

/// Checks everything.
///
/// # Errors
///
/// Every problem there is.
pub fn validate(inputs: &Inputs) -> Result<Checked, Problems> {
    let mut reader = Reader::new(inputs);
    rules::unknown_variables(&mut reader);
    let config = config(&mut reader);
    rules::engines(&mut reader);
    rules::contradictions(&mut reader, &config);
    rules::warnings(&mut reader);
    let (config, warnings) = reader.done(config)?;
    Ok(Checked { config, warnings })
}

/// Where the log lies: all that `eventkit wal` needs to know.
///
/// # Errors
///
/// Every problem of the settings it depends on, and every unknown variable.
pub fn log_path(inputs: &Inputs) -> Result<PathBuf, Problems> {
    let mut reader = Reader::new(inputs);
    rules::unknown_variables(&mut reader);
    reader.path(&settings::DATA_DIR);
    let path = reader.path(&settings::WAL_PATH);
    Ok(reader.done(path)?.0)
}

/// Where the admin port is: all that `eventkit health` needs to know. It says nothing about the other settings, since it asks a
/// process that has taken them.
///
/// # Errors
///
/// When the setting cannot be read.
pub fn admin_addr(inputs: &Inputs) -> Result<SocketAddr, Problems> {
    let mut reader = Reader::new(inputs);
    let addr = reader.address(&settings::ADMIN_ADDR);
    Ok(reader.done(addr)?.0)
}

/// The log's settings alone: what `eventkit wal repair` needs to know where the log itself does not say it.
///
/// # Errors
///
/// Every problem of these settings, and every unknown variable.
pub fn log_config(inputs: &Inputs) -> Result<WalConfig, Problems> {
    let mut reader = Reader::new(inputs);
    rules::unknown_variables(&mut reader);
    reader.path(&settings::DATA_DIR);
    let config = wal(&mut reader);
    Ok(reader.done(config)?.0)
}

fn config(reader: &mut Reader<'_>) -> Config {
    let data_dir = reader.path(&settings::DATA_DIR);
    let queue_mode = reader.choice(&settings::QUEUE_MODE);
    let async_workers = reader.count(&settings::ASYNC_WORKERS);
    let pubsub_workers = reader.count(&settings::PUBSUB_WORKERS);
    Config {
        node: reader.text(&settings::NODE),
        ingress: ingress(reader),
        wal: wal(reader),
        publisher: publisher(reader),
        workers: if queue_mode == "pubsub" {
            pubsub_workers
        } else {
            async_workers
        },
        store: StoreConfig {
            kind: StoreKind::Local,
            dir: data_dir.join("store"),
        },
        loader: LoaderConfig {
            enabled: reader.bool(&settings::WAREHOUSE_ENABLED),
            interval: reader.time(&settings::WAREHOUSE_INTERVAL),
            sqlite_path: data_dir.join("warehouse.db"),
            store_retention_days: reader.days_if_set(&settings::STORE_RETENTION_DAYS),
            warehouse_retention_days: reader.days_if_set(&settings::WAREHOUSE_RETENTION_DAYS),
        },
        telemetry: TelemetryConfig {
            level: match reader.choice(&settings::LOG_LEVEL) {
                "DEBUG" => LogLevel::Debug,
                "WARNING" => LogLevel::Warning,
                "ERROR" => LogLevel::Error,
                _ => LogLevel::Info,
            },
            json: reader.bool(&settings::JSON_LOGS),
        },
        admin: AdminConfig {
            addr: reader.address(&settings::ADMIN_ADDR),
        },
        drain_timeout: reader.time(&settings::DRAIN_TIMEOUT),
        data_dir,
    }
}

fn ingress(reader: &mut Reader<'_>) -> IngressConfig {
    IngressConfig {
        http_addr: reader.address(&settings::HTTP_ADDR),
        grpc_addr: reader.address(&settings::GRPC_ADDR),
        event_bytes_max: reader.count(&settings::MAX_EVENT_BYTES),
        body_bytes_max: reader.count(&settings::MAX_BODY_BYTES),
        batch_events_max: reader.count(&settings::MAX_BATCH_EVENTS),
        stream_events_max: reader.count(&settings::MAX_STREAM_EVENTS),
        http_prefix: rules::http_prefix(reader),
        depth_max: reader.count(&settings::MAX_DEPTH),
        keys_max: reader.count(&settings::MAX_KEYS),
        connections_max: reader.count(&settings::MAX_CONNECTIONS),
        concurrent_streams_max: reader.count(&settings::MAX_CONCURRENT_STREAMS),
        header_timeout: reader.time(&settings::HEADER_TIMEOUT),
        body_timeout: reader.time(&settings::BODY_TIMEOUT),
        body_rate_min: reader.count(&settings::MIN_BODY_RATE),
        idle_timeout: reader.time(&settings::IDLE_TIMEOUT),
        in_flight_bytes_max: reader.count(&settings::MAX_IN_FLIGHT_BYTES),
        reflection: reader.bool(&settings::GRPC_REFLECTION),
    }
}

fn wal(reader: &mut Reader<'_>) -> WalConfig {
    WalConfig {
        engine: match reader.choice(&settings::RING_BUFFER_MODE) {
            "sqlite" => Engine::Sqlite,
            _ => Engine::Sled,
        },
        path: reader.path(&settings::WAL_PATH),
        lanes: reader.count(&settings::LANES),
        bytes_max: reader.count_if_set(&settings::WAL_MAX_BYTES),
        retained_events_max: reader.count(&settings::RETAINED_MAX),
        retention: reader.time(&settings::RETENTION_HOURS),
        cleanup_interval: reader.time(&settings::CLEANUP_INTERVAL),
        dedup_ids_max: reader.count(&settings::DEDUP_MAX_IDS),
        ballast_bytes: reader.count(&settings::WAL_BALLAST_BYTES),
    }
}

fn publisher(reader: &mut Reader<'_>) -> PublisherConfig {
    // Only read, so that a bad value is found: they matter in pubsub mode.
    let _: (usize, Duration) = (
        reader.count(&settings::PUBLISHER_BATCH_SIZE),
        reader.time(&settings::PUBLISHER_POLL_INTERVAL),
    );
    PublisherConfig {
        batch_events: batch_events(reader),
        batch_bytes: reader.count(&settings::BATCH_BYTES),
        flush_interval: flush_interval(reader),
        budget_bytes: reader.count(&settings::PIPELINE_BUDGET_BYTES),
    }
}

/// The new name wins over its deprecated alias; the deprecated hard limit caps both.
fn batch_events(reader: &mut Reader<'_>) -> Option<usize> {
    let size: Option<usize> = reader.count_if_set(&settings::BATCH_SIZE);
    let alias = reader.count_if_set(&settings::BUFFER_SIZE);
    let cap = reader.count_if_set(&settings::BUFFER_MAX_SIZE);
    let (setting, events) = match size {
        Some(_) => (&settings::BATCH_SIZE, size),
        None => (&settings::BUFFER_SIZE, alias),
    };
    if let (Some(events), Some(cap)) = (events, cap) {
        reader.rule(
            &[setting, &settings::BUFFER_MAX_SIZE],
            events <= cap,
            "a batch cannot hold more events than the most per batch",
        );
    }
    events.or(cap)
}

fn flush_interval(reader: &mut Reader<'_>) -> Duration {
    let interval = reader.time(&settings::FLUSH_INTERVAL);
    let alias = reader.time_if_set(&settings::BUFFER_TIMEOUT);
    let given = reader.source(&settings::FLUSH_INTERVAL) != Source::Default;
    alias.filter(|_| !given).unwrap_or(interval)
}
