//! Configuration: every setting is a flag and an environment variable; all problems are reported at once.
//!
//! ```text
//!  settings (the one table) ─┬─▶ command line ─▶ flags ┐
//!                            └─▶ --help                ├─▶ raw (default < environment < flag) ─▶ validate ─▶ Config
//!                              environment (read once) ┘                                            └─▶ every problem
//! ```
//!
//! Architecture invariant: nothing outside `environment` reads the process's environment, and only a validated
//! [`Config`] can build a part of the program. One exception: OpenTelemetry's crates read some of the `OTEL_*` variables
//! themselves, as its specification demands of them (headers, compression, service name and resource attributes, a span's
//! limits; see [`settings::otel`]).

mod batch;
mod cloud;
mod endpoint;
mod environment;
mod otlp;
pub mod parse;
mod raw;
mod reader;
mod rules;
pub mod settings;
mod stages;
mod validate;

pub use batch::BatchRules;
pub use endpoint::Endpoint;
pub use environment::Environment;
pub use otlp::{Collector, Instance, OtlpConfig, Protocol, QueueLimits, Roots, Sampling};
pub use raw::{Inputs, Profile, Resolved, Source};
pub use stages::{
    Ack, AdminConfig, Config, Engine, IngressConfig, LoaderConfig, LogLevel, PubSubConfig,
    PubSubOptions, PublisherConfig, QueueConfig, Role, StoreConfig, TelemetryConfig, WalConfig,
    WarehouseConfig,
};
pub use validate::{
    Checked, Problem, Problems, Warning, admin_addr, log_config, log_path, validate,
};
