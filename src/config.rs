//! Configuration: every setting is a flag and an environment variable; all problems are reported at once.

mod stages;

pub use stages::{
    AdminConfig, Config, IngressConfig, LoaderConfig, LogLevel, PublisherConfig, StoreConfig,
    StoreKind, TelemetryConfig, WalConfig,
};
