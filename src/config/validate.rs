//! Text → [`Config`], or every problem at once. Pure: no environment, no files, no sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::cloud;
use super::guard;
use super::otlp;
use super::raw::Inputs;
use super::reader::Reader;
use super::rules;
use super::settings;
use super::stages::{
    AdminConfig, Config, Engine, IngressConfig, LoaderConfig, LogLevel, QueueConfig, Role,
    StoreConfig, TelemetryConfig, WalConfig,
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
    check(inputs, true)
}

/// The same for what opens no port: who could reach one does not matter then.
///
/// # Errors
///
/// Every problem there is.
pub fn validate_without_ports(inputs: &Inputs) -> Result<Checked, Problems> {
    check(inputs, false)
}

fn check(inputs: &Inputs, ports: bool) -> Result<Checked, Problems> {
    let mut reader = Reader::new(inputs);
    rules::unknown_variables(&mut reader);
    let config = config(&mut reader);
    rules::engines(&mut reader);
    rules::contradictions(&mut reader, &config);
    if ports {
        guard::doors(&mut reader, &config);
        guard::admin(&mut reader, &config);
    }
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

/// Where the write keys are: all that `eventkit keys` needs to know.
///
/// # Errors
///
/// When the setting cannot be read.
pub fn write_keys_file(inputs: &Inputs) -> Result<Option<PathBuf>, Problems> {
    let mut reader = Reader::new(inputs);
    let file = reader.path_if_set(&settings::WRITE_KEYS_FILE);
    Ok(reader.done(file)?.0)
}

/// What the admin port asks for: all that a tool needs to know besides where it is.
///
/// # Errors
///
/// When the setting cannot be read.
pub fn admin_token(inputs: &Inputs) -> Result<Option<String>, Problems> {
    let mut reader = Reader::new(inputs);
    let token = reader.text_if_set(&settings::ADMIN_TOKEN);
    Ok(reader.done(token)?.0)
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
    let async_workers = reader.count(&settings::ASYNC_WORKERS);
    let pubsub_workers = reader.count(&settings::PUBSUB_WORKERS);
    let role = cloud::role(reader);
    let queue = cloud::queue(reader);
    let store = cloud::store(reader, &data_dir);
    Config {
        node: reader.text(&settings::NODE),
        role,
        ack: cloud::ack(reader),
        ingress: ingress(reader),
        wal: wal(reader),
        publisher: cloud::publisher(reader),
        workers: match queue {
            QueueConfig::InProcess => async_workers,
            QueueConfig::PubSub(_) => pubsub_workers,
        },
        loader: loader(reader, role, &store, &data_dir),
        queue,
        store,
        telemetry: telemetry(reader, role),
        admin: AdminConfig {
            addr: reader.address(&settings::ADMIN_ADDR),
            token: reader.text_if_set(&settings::ADMIN_TOKEN),
        },
        drain_timeout: reader.time(&settings::DRAIN_TIMEOUT),
        data_dir,
    }
}

fn loader(
    reader: &mut Reader<'_>,
    role: Role,
    store: &StoreConfig,
    data_dir: &Path,
) -> LoaderConfig {
    let warehouse = cloud::warehouse(reader, role, store, data_dir);
    LoaderConfig {
        interval: cloud::loader_interval(reader, warehouse.as_ref()),
        warehouse,
        store_retention_days: reader.days_if_set(&settings::STORE_RETENTION_DAYS),
        warehouse_retention_days: reader.days_if_set(&settings::WAREHOUSE_RETENTION_DAYS),
    }
}

fn telemetry(reader: &mut Reader<'_>, role: Role) -> TelemetryConfig {
    let level = LogLevel::named(reader.choice(&settings::LOG_LEVEL)).unwrap_or(LogLevel::Info);
    TelemetryConfig {
        level,
        json: reader.bool(&settings::JSON_LOGS),
        otlp: otlp::otlp(reader, role),
    }
}

fn ingress(reader: &mut Reader<'_>) -> IngressConfig {
    let body_bytes_max = reader.count(&settings::MAX_BODY_BYTES);
    let in_flight_bytes_max = reader.count(&settings::MAX_IN_FLIGHT_BYTES);
    IngressConfig {
        http_addr: reader.address(&settings::HTTP_ADDR),
        grpc_addr: reader.address(&settings::GRPC_ADDR),
        event_bytes_max: reader.count(&settings::MAX_EVENT_BYTES),
        body_bytes_max,
        batch_events_max: reader.count(&settings::MAX_BATCH_EVENTS),
        stream_events_max: reader.count(&settings::MAX_STREAM_EVENTS),
        http_prefix: rules::http_prefix(reader),
        trusted_proxies: reader.networks(&settings::TRUSTED_PROXIES),
        depth_max: reader.count(&settings::MAX_DEPTH),
        keys_max: reader.count(&settings::MAX_KEYS),
        connections_max: reader.count(&settings::MAX_CONNECTIONS),
        concurrent_streams_max: reader.count(&settings::MAX_CONCURRENT_STREAMS),
        header_timeout: reader.time(&settings::HEADER_TIMEOUT),
        body_timeout: reader.time(&settings::BODY_TIMEOUT),
        body_rate_min: reader.count(&settings::MIN_BODY_RATE),
        idle_timeout: reader.time(&settings::IDLE_TIMEOUT),
        in_flight_bytes_max,
        guard: guard::guard(reader, in_flight_bytes_max, body_bytes_max),
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
        keeps_lanes: reader.choice(&settings::QUEUE_MODE) == "pubsub",
        bytes_max: reader.count_if_set(&settings::WAL_MAX_BYTES),
        retained_events_max: reader.count(&settings::RETAINED_MAX),
        retention: reader.time(&settings::RETENTION_HOURS),
        cleanup_interval: reader.time(&settings::CLEANUP_INTERVAL),
        dedup_ids_max: reader.count(&settings::DEDUP_MAX_IDS),
        ballast_bytes: reader.count(&settings::WAL_BALLAST_BYTES),
        may_be_volatile: reader.bool(&settings::ALLOW_VOLATILE_LOG),
    }
}
