//! What operators see: log lines, metrics, and what of both and of traces leaves by OTLP. Nothing personal is in any.

pub mod logs;
pub mod metrics;
pub mod otlp;

pub use metrics::Metrics;
pub use otlp::Otlp;

/// An error and all its causes in one line, as `anyhow` writes them with `{:#}`.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
