//! Log records from log lines. Which lines there are, and how often one may be repeated, is decided before (`telemetry::logs`).

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What carries telemetry: a record about it would be about itself for ever.
const CARRIERS: [&str; 7] = [
    "opentelemetry",
    "tonic",
    "tower",
    "h2",
    "hyper",
    "reqwest",
    "rustls",
];

/// See the module's page.
pub(super) struct Records {
    bridge: OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>,
    leaves: Targets,
}

impl Records {
    pub(super) fn to(provider: &SdkLoggerProvider) -> Self {
        let leaves = Targets::new().with_default(LevelFilter::TRACE);
        Self {
            bridge: OpenTelemetryTracingBridge::new(provider),
            leaves: leaves.with_targets(CARRIERS.map(|target| (target, LevelFilter::OFF))),
        }
    }
}

impl<S> Layer<S> for Records
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let metadata = event.metadata();
        if self
            .leaves
            .would_enable(metadata.target(), metadata.level())
        {
            self.bridge.on_event(event, ctx);
        }
    }
}
