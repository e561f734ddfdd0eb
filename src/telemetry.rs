//! What operators see: log lines and metrics. Nothing personal is in either.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;

/// An error and all its causes in one line, as `anyhow` writes them with `{:#}`.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
