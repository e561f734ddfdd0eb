//! What operators see: log lines and metrics. Nothing personal is in either.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;
