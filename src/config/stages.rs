//! Validated configuration, one struct per stage. Only these can build a part of the program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::batch::BatchRules;
use super::endpoint::Endpoint;
use super::guard::GuardConfig;
use super::otlp::OtlpConfig;

/// The doors: addresses and limits.
#[derive(Debug, Clone)]
pub struct IngressConfig {
    /// The public port: HTTP/1.1, HTTP/2 cleartext, gRPC and gRPC-web. Port 0 takes any free one.
    pub http_addr: SocketAddr,
    /// The port for gRPC alone. Port 0 takes any free one.
    pub grpc_addr: SocketAddr,
    /// The largest event in bytes.
    pub event_bytes_max: usize,
    /// The largest HTTP body or gRPC message in bytes, after decompression.
    pub body_bytes_max: usize,
    /// The most events in one request.
    pub batch_events_max: usize,
    /// The most events in one `CollectStream`.
    pub stream_events_max: usize,
    /// Under which every HTTP path is served as well, `/first/party`; empty: only where it is.
    pub http_prefix: String,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The deepest nesting of one event.
    pub depth_max: usize,
    /// The most keys in one event, at all levels together.
    pub keys_max: usize,
    /// The most connections at a time; more wait in the listen backlog.
    pub connections_max: usize,
    /// The most concurrent HTTP/2 streams of one connection.
    pub concurrent_streams_max: u32,
    /// How long a connection may take to deliver a request's headers, its first request included.
    pub header_timeout: Duration,
    /// How long a body may pause.
    pub body_timeout: Duration,
    /// The least bytes per second of a body in the long run.
    pub body_rate_min: u64,
    /// How long a connection may stay without a request.
    pub idle_timeout: Duration,
    /// The most bytes of request bodies under way at a time; more is shed before it is read.
    pub in_flight_bytes_max: usize,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// Who may come in.
    pub guard: GuardConfig,
}

/// What the log lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// sled 0.34.
    Sled,
    /// SQLite in write-ahead mode.
    Sqlite,
}

impl Engine {
    /// The word in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Sqlite => "sqlite",
        }
    }
}

/// The write-ahead log.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// What it lies in.
    pub engine: Engine,
    /// The log's directory. Its mark, lock and ballast lie beside it, under its name with a suffix.
    pub path: PathBuf,
    /// The number of lanes for a log that is created now, or that has nothing unsettled.
    pub lanes: u16,
    /// Whether it stays as it is even then: batches of the log's lanes may wait behind it.
    pub keeps_lanes: bool,
    /// The most stored bytes; `None`: 10 GiB or 80 % of the volume, whichever is less.
    pub bytes_max: Option<u64>,
    /// How many published events are kept.
    pub retained_events_max: u64,
    /// How long published events are kept.
    pub retention: Duration,
    /// The longest time between two clean-ups by age.
    pub cleanup_interval: Duration,
    /// The most event keys that the duplicate filter remembers.
    pub dedup_ids_max: usize,
    /// The size of the file that is given up when the volume is full, in bytes; 0: none.
    pub ballast_bytes: u64,
    /// Whether it may lie in memory although it is to be durable.
    pub may_be_volatile: bool,
}

/// The publisher.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// When a batch is sealed.
    pub batch: BatchRules,
    /// The most bytes that open and unsettled batches may hold together.
    pub budget_bytes: usize,
}

/// What carries batches to the workers.
#[derive(Debug, Clone)]
pub enum QueueConfig {
    /// The process itself.
    InProcess,
    /// Google Cloud Pub/Sub.
    PubSub(PubSubConfig),
}

/// Pub/Sub, and what is gathered from it.
#[derive(Debug, Clone)]
pub struct PubSubConfig {
    /// Which topic and subscription, and where.
    pub options: PubSubOptions,
    /// When a run of batches is stored.
    pub run: BatchRules,
}

/// Which topic and subscription, and where.
#[derive(Debug, Clone)]
pub struct PubSubOptions {
    /// The Google Cloud project.
    pub project: String,
    /// The topic's name within the project.
    pub topic: String,
    /// The subscription's name within the project.
    pub subscription: String,
    /// Whether both are made where they are missing.
    pub create: bool,
    /// For how long a subscription that is made here keeps messages.
    pub retention: Duration,
    /// How long what was published may wait until the subscription is looked at.
    pub verify_every: Duration,
    /// Where Pub/Sub answers.
    pub endpoint: Endpoint,
}

impl PubSubOptions {
    /// The subscription's name within all of Pub/Sub.
    #[must_use]
    pub fn subscription_path(&self) -> String {
        format!(
            "projects/{}/subscriptions/{}",
            self.project, self.subscription
        )
    }
}

/// The event store.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// Parquet files in this directory, laid out as a bucket.
    Local(PathBuf),
    /// Parquet objects in Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Where it answers.
        endpoint: Endpoint,
    },
    /// Documents in Firestore.
    Firestore {
        /// The project.
        project: String,
        /// Where it answers.
        endpoint: Endpoint,
    },
}

/// Where rows are loaded into.
#[derive(Debug, Clone)]
pub enum WarehouseConfig {
    /// The SQLite file.
    Sqlite(PathBuf),
    /// BigQuery, from Cloud Storage.
    BigQuery {
        /// The project.
        project: String,
        /// The dataset.
        dataset: String,
        /// The table of events.
        table: String,
        /// The bucket that holds the objects.
        bucket: String,
        /// Where it answers; `None`: an emulator stands in for another service, and there is none for this one.
        endpoint: Option<Endpoint>,
        /// How many days apart two copies of an event may come.
        dedup_days: u32,
        /// Where a dataset that is missing is made.
        location: Option<String>,
    },
}

/// The warehouse loader.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// What it loads into; `None`: it does not run.
    pub warehouse: Option<WarehouseConfig>,
    /// The longest time between two polls of the inbox.
    pub interval: Duration,
    /// How many days loaded objects are kept in the store; `None` for ever.
    pub store_retention_days: Option<u32>,
    /// How many days rows are kept in the warehouse; `None` for ever.
    pub warehouse_retention_days: Option<u32>,
}

/// Which part of an event's path the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All of it.
    All,
    /// Doors, log and publisher.
    Gateway,
    /// Workers.
    Worker,
    /// The loader.
    Loader,
}

impl Role {
    /// Whether events come in here.
    #[must_use]
    pub fn takes_in(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }

    /// Whether events are stored here.
    #[must_use]
    pub fn stores(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }

    /// Whether objects are loaded here.
    #[must_use]
    pub fn loads(self) -> bool {
        matches!(self, Self::All | Self::Loader)
    }

    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Loader => "loader",
        }
    }
}

/// When events are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When they are on disk.
    Durable,
    /// When the broker holds them, too.
    Published,
}

/// Log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Adaptation and routing.
    Debug,
    /// Requests, flushes, store writes.
    Info,
    /// Validation failures, retries.
    Warning,
    /// A person must act.
    Error,
}

impl LogLevel {
    /// All of them, from the one that writes most.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    /// The word in log lines and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// The level of a word, in whatever case.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let is_named = |level: &Self| level.as_str().eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(is_named)
    }
}

/// Logs and metrics.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The least severe line that is written.
    pub level: LogLevel,
    /// One JSON object per line instead of text for people.
    pub json: bool,
    /// What leaves the process by OTLP.
    pub otlp: OtlpConfig,
}

/// The admin port.
#[derive(Clone)]
pub struct AdminConfig {
    /// Carries `/metrics` and the admin service. Port 0 takes any free one.
    pub addr: SocketAddr,
    /// The bearer token that every question but those for health needs; `None`: nobody is asked.
    pub token: Option<String>,
}

/// Without the token.
impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminConfig")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// Everything that builds the program.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything lies that is not placed elsewhere.
    pub data_dir: PathBuf,
    /// This process's label in rows; never an identity.
    pub node: String,
    /// Which part of an event's path it is.
    pub role: Role,
    /// When events are acknowledged.
    pub ack: Ack,
    /// The doors.
    pub ingress: IngressConfig,
    /// The log.
    pub wal: WalConfig,
    /// The publisher.
    pub publisher: PublisherConfig,
    /// What carries batches to the workers.
    pub queue: QueueConfig,
    /// How many workers write to the store at a time.
    pub workers: usize,
    /// The store.
    pub store: StoreConfig,
    /// The loader.
    pub loader: LoaderConfig,
    /// Logs and metrics.
    pub telemetry: TelemetryConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// How long a graceful stop may take.
    pub drain_timeout: Duration,
}
