//! The one table of settings: flag, environment variable, default, kind, help.
//!
//! The command line, `--help`, `config print`, the check for unknown variables and the validation all read this table;
//! a setting that is not in it does not exist.

pub mod otel;

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Short text without control characters.
    Text,
    /// Text without control characters, of up to 16 KiB.
    Any,
    /// A path in the file system.
    Path,
    /// An IP address and a port.
    Address,
    /// IP addresses and networks, with commas between.
    Networks,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number between the two, both included.
    Count(u64, u64),
    /// A number of bytes between the two, both included.
    Bytes(u64, u64),
    /// A number of seconds between the two, both included.
    Seconds(f64, f64),
    /// A number of hours between the two, both included.
    Hours(f64, f64),
    /// A number of milliseconds between the two, both included.
    Millis(u64, u64),
}

impl Kind {
    /// How `--help` names the value.
    #[must_use]
    pub fn value_name(self) -> &'static str {
        match self {
            Self::Text | Self::Any => "TEXT",
            Self::Path => "PATH",
            Self::Address => "IP:PORT",
            Self::Networks => "NETWORKS",
            Self::Choice(_) => "WORD",
            Self::Bool => "BOOL",
            Self::Count(..) => "N",
            Self::Bytes(..) => "BYTES",
            Self::Seconds(..) => "SECONDS",
            Self::Hours(..) => "HOURS",
            Self::Millis(..) => "MILLISECONDS",
        }
    }
}

/// What applies when neither environment nor flag says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Always this.
    Is(&'static str),
    /// This for `dev`, that for `serve`.
    Per {
        /// For `eventkit dev`.
        dev: &'static str,
        /// For `eventkit serve`.
        serve: &'static str,
    },
    /// This name in the data directory.
    InDataDir(&'static str),
    /// The machine's host name.
    HostName,
    /// No value; the text says what then happens.
    Unset(&'static str),
}

/// Which commands take a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedBy {
    /// `dev`, `serve` and `config`.
    Run,
    /// These and `wal`.
    RunAndWal,
    /// These and `keys`.
    RunAndKeys,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The flag, without its dashes; empty: the environment alone sets it, as it does secrets, which do not belong on a
    /// command line that others can read.
    pub flag: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// What applies when it is not set.
    pub default: Fallback,
    /// What its value must look like.
    pub kind: Kind,
    /// What it does; one or two sentences for `--help`.
    pub help: &'static str,
    /// Under which heading `--help` lists it.
    pub heading: &'static str,
    /// Which commands take it.
    pub used_by: UsedBy,
    /// Whether its value is never shown.
    pub secret: bool,
    /// The variable to use instead, if this one is on its way out.
    pub deprecated: Option<&'static str>,
    /// Whether a value that cannot be read is warned about and not used, instead of being a problem.
    pub lenient: bool,
    /// Whether it is shown only where somebody set it.
    pub shown_only_if_set: bool,
}

impl Setting {
    /// What most settings have in common.
    const PLAIN: Self = Self {
        flag: "",
        env: "",
        default: Fallback::Unset(""),
        kind: Kind::Text,
        help: "",
        heading: "",
        used_by: UsedBy::Run,
        secret: false,
        deprecated: None,
        lenient: false,
        shown_only_if_set: false,
    };

    /// The whole help text: what it does, the choices, the variable and the default.
    #[must_use]
    pub fn long_help(&self) -> String {
        let mut text = self.help.to_owned();
        if let Kind::Choice(words) = self.kind {
            text.push_str(&format!(" [one of: {}]", words.join(", ")));
        }
        text.push_str(&format!("\n[env: {}]", self.env));
        match self.default {
            Fallback::Is(value) => text.push_str(&format!(" [default: {value}]")),
            Fallback::Per { dev, serve } => {
                text.push_str(&format!(" [default: {dev} for dev, {serve} for serve]"));
            }
            Fallback::InDataDir(name) => {
                text.push_str(&format!(" [default: {name} in the data directory]"));
            }
            Fallback::HostName => text.push_str(" [default: the host name]"),
            Fallback::Unset("") => {}
            Fallback::Unset(what) => text.push_str(&format!(" [default: {what}]")),
        }
        text
    }

    /// The value as it may be shown.
    #[must_use]
    pub fn shown<'a>(&self, value: &'a str) -> &'a str {
        if self.secret { "(hidden)" } else { value }
    }
}

macro_rules! settings {
    ($($heading:literal { $($name:ident: $flag:literal, $env:literal, $default:expr, $kind:expr, $help:literal
        $(, $part:ident: $value:expr)*;)* })*) => {
        $($(
            #[doc = $help]
            pub static $name: Setting = Setting {
                flag: $flag,
                env: $env,
                default: $default,
                kind: $kind,
                help: $help,
                heading: $heading,
                $($part: $value,)*
                ..Setting::PLAIN
            };
        )*)*

        static OWN: &[&Setting] = &[$($(&$name,)*)*];
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// The longest time that any setting takes, in seconds.
const DAY: f64 = 86_400.0;

use Fallback::{HostName, InDataDir, Is, Per, Unset};
use Kind::{Address, Bool, Bytes, Choice, Count, Hours, Networks, Path, Seconds, Text};

settings! {
    "Where things are" {
        DATA_DIR: "data-dir", "EVENTKIT_DATA_DIR", Is("./eventkit-data"), Path,
            "Directory of the log (wal/), the local event store (store/) and the SQLite warehouse (warehouse.db)",
            used_by: UsedBy::RunAndWal;
        WAL_PATH: "ring-buffer-db-path", "EVENTKIT_RING_BUFFER_DB_PATH", InDataDir("wal"), Path,
            "The log's directory; its mark, lock and ballast lie beside it",
            used_by: UsedBy::RunAndWal;
        NODE: "node", "EVENTKIT_NODE", HostName, Text,
            "This process's label in rows; never an identity";
    }
    "Ports" {
        HTTP_ADDR: "http-addr", "EVENTKIT_HTTP_ADDR",
            Per { dev: "127.0.0.1:8000", serve: "0.0.0.0:8000" }, Address,
            "The public port: HTTP/1.1, HTTP/2 cleartext, gRPC and gRPC-web together. Port 0 takes any free one";
        GRPC_ADDR: "grpc-addr", "EVENTKIT_GRPC_ADDR",
            Per { dev: "127.0.0.1:50051", serve: "0.0.0.0:50051" }, Address,
            "The port for gRPC alone. Port 0 takes any free one";
        ADMIN_ADDR: "admin-addr", "EVENTKIT_ADMIN_ADDR", Is("127.0.0.1:9090"), Address,
            "The admin port: /metrics, /health, /ready and what `eventkit wal` asks a live log. Whoever reaches it can read events: keep it private";
        ADMIN_TOKEN: "", "EVENTKIT_ADMIN_TOKEN", Unset("none: nobody is asked"), Text,
            "The bearer token that the admin port asks for, but for /health and /ready; needed unless it listens on loopback. The tools of this program take it from here, too",
            secret: true;
        HTTP_PREFIX: "http-prefix", "EVENTKIT_HTTP_PREFIX", Unset("paths are served where they are"), Text,
            "Serve every HTTP path under this prefix as well, for instance /ek: /ek/v1/batch";
        TRUSTED_PROXIES: "trusted-proxies", "EVENTKIT_TRUSTED_PROXIES", Unset("none: the connection's own address counts"), Networks,
            "Proxies whose X-Forwarded-For is believed, as in 10.0.0.0/8, ::1. It says which address context.ip of a browser's or telephone's event gets, and whose rate is counted";
        GRPC_REFLECTION: "grpc-reflection", "EVENTKIT_GRPC_REFLECTION", Is("true"), Bool,
            "Serve gRPC reflection, so that grpcurl needs no proto files";
    }
    "Who may send" {
        WRITE_KEYS_FILE: "write-keys-file", "EVENTKIT_WRITE_KEYS_FILE", Unset("no keys"), Path,
            "The file of write keys, which `eventkit keys` makes and changes; a change is in force within two seconds. Without it `serve` starts only on loopback, with an emulator, or with EVENTKIT_ALLOW_ANONYMOUS=true",
            used_by: UsedBy::RunAndKeys;
        ALLOW_ANONYMOUS: "allow-anonymous", "EVENTKIT_ALLOW_ANONYMOUS", Is("false"), Bool,
            "Take events without a write key as well; a key that is not known is refused all the same";
        KEY_EVENTS_PER_SECOND: "key-events-per-second", "EVENTKIT_KEY_EVENTS_PER_SECOND", Unset("no limit"), Count(1, 1_000_000_000),
            "How many events a second a write key may send whose entry does not say it; more is answered with 429 and the time to wait";
        KEY_BYTES_PER_SECOND: "key-bytes-per-second", "EVENTKIT_KEY_BYTES_PER_SECOND", Unset("no limit"), Bytes(1, TIB),
            "How many bytes of events a second a write key may send whose entry does not say it";
        ADDRESS_EVENTS_PER_SECOND: "address-events-per-second", "EVENTKIT_ADDRESS_EVENTS_PER_SECOND", Unset("no limit"), Count(1, 1_000_000_000),
            "How many events a second may come from one address (of the sixth version: from one /64). Behind a balancer it needs EVENTKIT_TRUSTED_PROXIES";
        ADDRESS_BYTES_PER_SECOND: "address-bytes-per-second", "EVENTKIT_ADDRESS_BYTES_PER_SECOND", Unset("no limit"), Bytes(1, TIB),
            "How many bytes of events a second may come from one address";
        RATE_BURST: "rate-burst", "EVENTKIT_RATE_BURST", Is("5"), Seconds(0.1, 3_600.0),
            "For how many seconds' worth a key or an address that was quiet may be faster than its rate";
        RATE_ADDRESSES: "rate-addresses", "EVENTKIT_RATE_ADDRESSES", Is("10000"), Count(1, 10_000_000),
            "The most addresses whose rate is counted; the one that was not seen for longest is forgotten";
        MAX_KEY_IN_FLIGHT_BYTES: "max-key-in-flight-bytes", "EVENTKIT_MAX_KEY_IN_FLIGHT_BYTES",
            Unset("half of EVENTKIT_MAX_IN_FLIGHT_BYTES, or one body"), Bytes(KIB, TIB),
            "The most bytes of request bodies under way at a time for one write key, where there are several: none can take the room of all";
    }
    "TLS" {
        TLS_CERT_FILE: "tls-cert-file", "EVENTKIT_TLS_CERT_FILE", Unset("the ports speak in clear"), Path,
            "The certificate of the public ports, and those between it and its root (PEM). With it both speak TLS alone; a change is in force within two seconds";
        TLS_KEY_FILE: "tls-key-file", "EVENTKIT_TLS_KEY_FILE", Unset("none"), Path,
            "The certificate's private key (PEM)";
        TLS_CLIENT_CA_FILE: "tls-client-ca-file", "EVENTKIT_TLS_CLIENT_CA_FILE", Unset("clients are not asked for certificates"), Path,
            "The roots of clients' certificates (PEM): clients are asked for one that leads there";
        TLS_CLIENT_AUTH: "tls-client-auth", "EVENTKIT_TLS_CLIENT_AUTH", Is("required"), Choice(&["required", "optional"]),
            "Whether a client that is asked for a certificate may do without; a wrong one is refused either way";
    }
    "Limits at the doors" {
        MAX_EVENT_BYTES: "max-event-bytes", "EVENTKIT_MAX_EVENT_BYTES", Is("256KiB"), Bytes(KIB, 8 * MIB),
            "The largest event; a larger one is rejected, its neighbours are not";
        MAX_BODY_BYTES: "max-body-bytes", "EVENTKIT_MAX_BODY_BYTES", Is("4MiB"), Bytes(KIB, 256 * MIB),
            "The largest HTTP body or gRPC message, after decompression";
        MAX_BATCH_EVENTS: "max-batch-events", "EVENTKIT_MAX_BATCH_EVENTS", Is("10000"), Count(1, 1_000_000),
            "The most events in one request";
        MAX_STREAM_EVENTS: "max-stream-events", "EVENTKIT_MAX_STREAM_EVENTS", Is("100000"), Count(1, 1_000_000_000),
            "The most events in one CollectStream";
        MAX_DEPTH: "max-depth", "EVENTKIT_MAX_DEPTH", Is("64"), Count(1, 120),
            "The deepest nesting of one event";
        MAX_KEYS: "max-keys", "EVENTKIT_MAX_KEYS", Is("10000"), Count(1, 1_000_000),
            "The most keys in one event, at all levels together";
        MAX_CONNECTIONS: "max-connections", "EVENTKIT_MAX_CONNECTIONS", Is("10000"), Count(1, 1_000_000),
            "The most connections at a time, or as many as the limit of open files leaves room for beside the files; more wait in the listen backlog";
        MAX_ADDRESS_CONNECTIONS: "max-address-connections", "EVENTKIT_MAX_ADDRESS_CONNECTIONS", Unset("half of EVENTKIT_MAX_CONNECTIONS"), Count(1, 1_000_000),
            "The most connections of one address (of the sixth version: of one /64); more are closed at once. Trusted proxies are not counted: name your balancers in EVENTKIT_TRUSTED_PROXIES, or set this to all";
        MAX_CONCURRENT_STREAMS: "max-concurrent-streams", "EVENTKIT_MAX_CONCURRENT_STREAMS", Is("200"), Count(1, 100_000),
            "The most concurrent HTTP/2 streams of one connection";
        MAX_IN_FLIGHT_BYTES: "max-in-flight-bytes", "EVENTKIT_MAX_IN_FLIGHT_BYTES", Is("64MiB"), Bytes(MIB, TIB),
            "The most bytes of request bodies, and of answers that were not taken yet, under way at a time; more is shed with 503 before it is read";
        MAX_ADDRESS_IN_FLIGHT_BYTES: "max-address-in-flight-bytes", "EVENTKIT_MAX_ADDRESS_IN_FLIGHT_BYTES",
            Unset("half of EVENTKIT_MAX_IN_FLIGHT_BYTES, or one body"), Bytes(KIB, TIB),
            "The most of them for one address's requests without a write key: none can take the room of all. Trusted proxies are not counted";
        HEADER_TIMEOUT: "header-timeout", "EVENTKIT_HEADER_TIMEOUT", Is("10"), Seconds(0.1, DAY),
            "How long a connection may take to deliver a request's headers";
        BODY_TIMEOUT: "body-timeout", "EVENTKIT_BODY_TIMEOUT", Is("30"), Seconds(0.1, DAY),
            "How long a body may pause, and a client may leave what is there for it; a gRPC stream may pause between messages";
        MIN_BODY_RATE: "min-body-rate", "EVENTKIT_MIN_BODY_RATE", Is("2KiB"), Bytes(1, GIB),
            "The least bytes per second of a body, and of an answer that is taken: all in all it has EVENTKIT_BODY_TIMEOUT, and a second more for each so many bytes of it";
        IDLE_TIMEOUT: "idle-timeout", "EVENTKIT_IDLE_TIMEOUT", Is("300"), Seconds(0.1, DAY),
            "How long a connection may stay without a request";
        KEEPALIVE_INTERVAL: "keepalive-interval", "EVENTKIT_KEEPALIVE_INTERVAL", Is("60"), Seconds(0.1, DAY),
            "How often an HTTP/2 client from which nothing comes is asked whether it is still there (PING)";
        KEEPALIVE_TIMEOUT: "keepalive-timeout", "EVENTKIT_KEEPALIVE_TIMEOUT", Is("20"), Seconds(0.1, DAY),
            "How long it may take to say so; then its connection is closed";
        MAX_STREAM_AGE: "max-stream-age", "EVENTKIT_MAX_STREAM_AGE", Is("3600"), Seconds(0.1, DAY),
            "How long a gRPC stream may be open; then what it sent is acknowledged and its client told to go on in another one";
        MAX_CONNECTION_AGE: "max-connection-age", "EVENTKIT_MAX_CONNECTION_AGE", Is("3600"), Seconds(0.1, DAY),
            "How long a connection takes new requests, give or take a tenth; then its client opens another one, which may lead to another gateway. What is under way is finished";
    }
    "The log" {
        RING_BUFFER_MODE: "ring-buffer-mode", "EVENTKIT_RING_BUFFER_MODE", Is("sled"), Choice(&["sled", "sqlite"]),
            "The log's engine. A log of the other one at the path is refused: empty it with `eventkit wal drain` and move it away";
        LANES: "lanes", "EVENTKIT_LANES", Is("16"), Count(1, 1024),
            "Ordered partitions; a new number takes effect at a start with nothing unsettled, with Pub/Sub by `eventkit wal relane` alone";
        WAL_MAX_BYTES: "wal-max-bytes", "EVENTKIT_WAL_MAX_BYTES",
            Unset("10 GiB or 80 % of the volume, whichever is less"), Bytes(64 * MIB, 1024 * TIB),
            "The most bytes that the log may take; when it is full of unpublished events new ones are shed";
        WAL_BALLAST_BYTES: "wal-ballast-bytes", "EVENTKIT_WAL_BALLAST_BYTES", Is("16MiB"), Bytes(0, 16 * GIB),
            "The size of a file that is given up when the volume is full; 0 for none";
        ALLOW_VOLATILE_LOG: "allow-volatile-log", "EVENTKIT_ALLOW_VOLATILE_LOG", Is("false"), Bool,
            "Accept a log in memory (tmpfs) although EVENTKIT_ACK=durable then promises what nothing keeps; for tests";
        RETAINED_MAX: "ring-buffer-max-size", "EVENTKIT_RING_BUFFER_MAX_SIZE", Is("100000"), Count(0, u64::MAX),
            "How many published events are kept; together with the hours this is the window of the duplicate filter";
        RETENTION_HOURS: "ring-buffer-retention-hours", "EVENTKIT_RING_BUFFER_RETENTION_HOURS", Is("24"), Hours(0.0, 87_600.0),
            "How long published events are kept";
        CLEANUP_INTERVAL: "ring-buffer-cleanup-interval", "EVENTKIT_RING_BUFFER_CLEANUP_INTERVAL", Is("3600"), Seconds(0.1, DAY),
            "The longest time between two clean-ups of published events; unpublished ones are never cleaned up";
        DEDUP_MAX_IDS: "dedup-max-ids", "EVENTKIT_DEDUP_MAX_IDS", Is("2000000"), Count(0, 1_000_000_000),
            "The most event keys that the duplicate filter remembers";
    }
    "Pipeline" {
        EVENT_STORE: "event-store", "EVENTKIT_EVENT_STORE", Per { dev: "local", serve: "gcs" },
            Choice(&["local", "gcs", "firestore"]),
            "Where events are stored: Parquet in the data directory, Parquet in Cloud Storage, or documents in Firestore";
        QUEUE_MODE: "queue-mode", "EVENTKIT_QUEUE_MODE", Is("async"), Choice(&["async", "pubsub"]),
            "What carries batches to the workers: the process itself, or Google Cloud Pub/Sub";
        ROLE: "role", "EVENTKIT_ROLE", Is("all"), Choice(&["all", "gateway", "worker", "loader"]),
            "Which part of the path this process is: doors and log, workers that store, the loader of the warehouse, or all; apart only over Pub/Sub";
        ACK: "ack", "EVENTKIT_ACK", Is("durable"), Choice(&["durable", "published"]),
            "When events are acknowledged: once they are on disk, or once Pub/Sub holds them (where the disk is not durable)";
        ASYNC_WORKERS: "async-workers", "EVENTKIT_ASYNC_WORKERS", Is("4"), Count(1, 1024),
            "How many workers write to the store at a time in async mode";
        PUBSUB_WORKERS: "pubsub-workers", "EVENTKIT_PUBSUB_WORKERS", Is("4"), Count(1, 1024),
            "The same in pubsub mode";
        BATCH_SIZE: "eventloader-batch-size", "EVENTKIT_EVENTLOADER_BATCH_SIZE",
            Unset("adapts to the load: from 1000 on with gcs and 100 with firestore, at most about one batch a second and lane"),
            Count(1, 1_000_000),
            "Events per batch, that is per object of the store";
        FLUSH_INTERVAL: "eventloader-flush-interval", "EVENTKIT_EVENTLOADER_FLUSH_INTERVAL",
            Unset("1 with the local store, 60 with gcs, 5 with firestore"), Seconds(0.01, DAY),
            "The age at which a batch is stored";
        BATCH_BYTES: "batch-bytes", "EVENTKIT_BATCH_BYTES", Is("8MiB"), Bytes(KIB, 8 * MIB),
            "The most bytes of events per batch, before compression";
        PIPELINE_BUDGET_BYTES: "pipeline-budget-bytes", "EVENTKIT_PIPELINE_BUDGET_BYTES", Is("64MiB"), Bytes(MIB, TIB),
            "The most bytes that open and unsettled batches hold together";
        PUBLISHER_BATCH_SIZE: "ring-buffer-publisher-batch-size", "EVENTKIT_RING_BUFFER_PUBLISHER_BATCH_SIZE", Is("100"),
            Count(1, 1_000_000),
            "Events per message in pubsub mode; more when there is a backlog";
        PUBLISHER_POLL_INTERVAL: "ring-buffer-publisher-poll-interval", "EVENTKIT_RING_BUFFER_PUBLISHER_POLL_INTERVAL", Is("0.1"),
            Seconds(0.001, DAY),
            "The age at which a message is sent in pubsub mode";
        DRAIN_TIMEOUT: "drain-timeout", "EVENTKIT_DRAIN_TIMEOUT", Is("25"), Seconds(0.0, DAY),
            "How long a graceful stop may take; what is then unfinished is finished after the next start";
    }
    "Warehouse" {
        WAREHOUSE_ENABLED: "warehouse-enabled", "EVENTKIT_WAREHOUSE_ENABLED", Is("true"), Bool,
            "Load stored events into the warehouse: SQLite with the local store, BigQuery with gcs, none with firestore";
        WAREHOUSE_INTERVAL: "warehouse-loader-interval", "EVENTKIT_WAREHOUSE_LOADER_INTERVAL", Is("300"), Seconds(0.1, DAY),
            "The longest time between two looks for new objects; the local store wakes the loader at once";
        WAREHOUSE_DEDUP_DAYS: "warehouse-dedup-days", "EVENTKIT_WAREHOUSE_DEDUP_DAYS", Is("3"), Count(1, 30),
            "How many days apart two copies of an event may come and still end as one row of BigQuery; SQLite recognises them for ever";
        STORE_RETENTION_DAYS: "store-retention-days", "EVENTKIT_STORE_RETENTION_DAYS",
            Unset("for ever"), Count(0, 36_500),
            "How many days stored objects are kept once they are loaded into the warehouse; at least 4, or 0 for ever";
        WAREHOUSE_RETENTION_DAYS: "warehouse-retention-days", "EVENTKIT_WAREHOUSE_RETENTION_DAYS",
            Unset("for ever"), Count(0, 36_500),
            "How many days rows are kept in the warehouse, by the day on which they were received; at least 4, or 0 for ever";
    }
    "Google Cloud" {
        PROJECT_ID: "gcp-project-id", "GCP_PROJECT_ID", Unset("required for Pub/Sub, Firestore and BigQuery"), Text,
            "The Google Cloud project";
        GCS_BUCKET: "gcp-gcs-bucket", "GCP_GCS_BUCKET", Unset("required for gcs"), Text,
            "The Cloud Storage bucket of the event store";
        BIGQUERY_DATASET: "gcp-bigquery-dataset", "GCP_BIGQUERY_DATASET", Unset("required for gcs with the warehouse"), Text,
            "The BigQuery dataset of the warehouse";
        BIGQUERY_TABLE: "gcp-bigquery-table", "GCP_BIGQUERY_TABLE", Unset("required for gcs with the warehouse"), Text,
            "The BigQuery table of events; error rows go to the table of this name and _errors";
        BIGQUERY_LOCATION: "bigquery-location", "EVENTKIT_BIGQUERY_LOCATION", Unset("BigQuery's own default"), Text,
            "Where a dataset that is missing is made; it has to be the bucket's location";
        PUBSUB_TOPIC: "pubsub-topic", "EVENTKIT_PUBSUB_TOPIC", Is("eventkit-events"), Text,
            "The Pub/Sub topic that gateways publish to";
        PUBSUB_SUBSCRIPTION: "pubsub-subscription", "EVENTKIT_PUBSUB_SUBSCRIPTION", Is("eventkit-workers"), Text,
            "The topic's subscription that workers pull from; gateways look whether it is there";
        PUBSUB_CREATE: "pubsub-create", "EVENTKIT_PUBSUB_CREATE", Unset("true with an emulator, else false"), Bool,
            "Make topic and subscription where they are missing";
        PUBSUB_RETENTION_HOURS: "pubsub-retention-hours", "EVENTKIT_PUBSUB_RETENTION_HOURS", Is("168"), Hours(1.0, 744.0),
            "For how long a subscription that is made here keeps what no worker has stored: how long workers may be away. One that is found and keeps less is used with a warning";
        PUBSUB_VERIFY_INTERVAL: "pubsub-verify-interval", "EVENTKIT_PUBSUB_VERIFY_INTERVAL", Is("30"), Seconds(1.0, 3_600.0),
            "How long what was published may wait until the subscription is looked at; until then it stays in the log";
        STORAGE_EMULATOR: "storage-emulator-host", "STORAGE_EMULATOR_HOST", Unset("Google"), Text,
            "An emulator in place of Cloud Storage, as in http://localhost:9023";
        FIRESTORE_EMULATOR: "firestore-emulator-host", "FIRESTORE_EMULATOR_HOST", Unset("Google"), Text,
            "An emulator in place of Firestore, as in localhost:8080";
        PUBSUB_EMULATOR: "pubsub-emulator-host", "PUBSUB_EMULATOR_HOST", Unset("Google"), Text,
            "An emulator in place of Pub/Sub, as in localhost:8085";
        BIGQUERY_EMULATOR: "bigquery-emulator-host", "BIGQUERY_EMULATOR_HOST", Unset("Google"), Text,
            "An emulator in place of BigQuery, as in localhost:9050";
    }
    "Log lines" {
        LOG_LEVEL: "log-level", "EVENTKIT_LOG_LEVEL", Is("INFO"), Choice(&["DEBUG", "INFO", "WARNING", "ERROR"]),
            "The least severe line that is written. PUT /admin/log-level on the admin port changes it; SIGHUP switches DEBUG on and off";
        JSON_LOGS: "json-logs", "EVENTKIT_JSON_LOGS", Is("false"), Bool,
            "One JSON object per line instead of text for people";
    }
    "Deprecated" {
        BUFFER_SIZE: "buffer-size", "EVENTKIT_BUFFER_SIZE", Unset(""), Count(1, 1_000_000),
            "Use EVENTKIT_EVENTLOADER_BATCH_SIZE",
            deprecated: Some("EVENTKIT_EVENTLOADER_BATCH_SIZE");
        BUFFER_MAX_SIZE: "buffer-max-size", "EVENTKIT_BUFFER_MAX_SIZE", Unset(""), Count(1, 1_000_000),
            "The most events per batch. Use EVENTKIT_EVENTLOADER_BATCH_SIZE",
            deprecated: Some("EVENTKIT_EVENTLOADER_BATCH_SIZE");
        BUFFER_TIMEOUT: "buffer-timeout", "EVENTKIT_BUFFER_TIMEOUT", Unset(""), Seconds(0.01, DAY),
            "Use EVENTKIT_EVENTLOADER_FLUSH_INTERVAL",
            deprecated: Some("EVENTKIT_EVENTLOADER_FLUSH_INTERVAL");
    }
}

/// Every setting there is, in the order of `--help`.
pub static ALL: &[&Setting] = &joined::<{ OWN.len() + otel::ALL.len() }>(&[OWN, &otel::ALL]);

/// Lists one after the other.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, where a wrong index is an error"
)]
const fn joined<const N: usize>(lists: &[&[&'static Setting]]) -> [&'static Setting; N] {
    let mut all = [&Setting::PLAIN; N];
    let (mut filled, mut list) = (0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            all[filled] = lists[list][at];
            (filled, at) = (filled + 1, at + 1);
        }
        list += 1;
    }
    all
}

/// The setting of an environment variable.
#[must_use]
pub fn by_env(name: &str) -> Option<&'static Setting> {
    ALL.iter().copied().find(|setting| setting.env == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_flags_follow_from_variables() {
        let names: HashSet<_> = ALL.iter().map(|setting| setting.env).collect();
        assert_eq!(names.len(), ALL.len());
        for setting in ALL {
            let flag = setting.env.trim_start_matches("EVENTKIT_");
            let flag = flag.to_lowercase().replace('_', "-");
            let environment_alone = setting.env.starts_with("OTEL_") || setting.secret;
            assert_eq!(setting.flag, if environment_alone { "" } else { &flag });
        }
    }

    #[test]
    fn every_setting_says_what_it_does() {
        for setting in ALL {
            assert!(setting.help.len() > 20, "{}", setting.env);
            assert!(!setting.help.ends_with('.'), "{}", setting.env);
            assert!(setting.long_help().contains(setting.env));
            if let Some(other) = setting.deprecated {
                assert!(by_env(other).is_some(), "{other}");
            }
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Setting {
            secret: true,
            ..Setting::PLAIN
        };
        assert_eq!(secret.shown("hunter2"), "(hidden)");
        assert_eq!(DATA_DIR.shown("x"), "x");
    }
}
