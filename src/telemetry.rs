//! What operators see: log lines, metrics and traces, and what of them leaves by OTLP. Nothing personal is in any of them.

pub mod logs;
pub mod metrics;
pub mod names;
pub mod otlp;
pub mod trace;

pub use metrics::Metrics;
pub use otlp::Otlp;
pub use trace::{Span, Tracing};

/// What the process tells of itself, beside its metrics.
#[derive(Debug)]
pub struct Telemetry {
    /// The hold on its log lines.
    pub logs: logs::Logs,
    /// What leaves it.
    pub otlp: Otlp,
}

/// An error and all its causes in one line, as `anyhow` writes them with `{:#}`.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
