//! Log records from log lines. Which lines there are, and how often one may be repeated, is decided before (`telemetry::logs`).

use opentelemetry::Context as Within;
use opentelemetry::logs::{LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::logs::Further;

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
        Self {
            bridge: OpenTelemetryTracingBridge::new(provider),
            leaves: leaves(),
        }
    }
}

/// All but what carries telemetry.
fn leaves() -> Targets {
    let all = Targets::new().with_default(LevelFilter::TRACE);
    all.with_targets(CARRIERS.map(|target| (target, LevelFilter::OFF)))
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

/// Makes a record of each line that says how many were left out.
#[derive(Debug)]
pub(super) struct LeftOut {
    logger: SdkLogger,
    leaves: Targets,
}

impl LeftOut {
    pub(super) fn to(provider: &SdkLoggerProvider) -> Self {
        Self {
            // The scope of the lines themselves.
            logger: provider.logger(""),
            leaves: leaves(),
        }
    }
}

impl Further for LeftOut {
    fn left_out(&self, place: &'static Metadata<'static>, name: &str, lines: u32) {
        if !self.leaves.would_enable(place.target(), place.level()) {
            return;
        }
        // They were of many requests, and not of the one whose line comes next.
        let _nobody = Within::new().attach();
        let mut record = self.logger.create_log_record();
        record.set_target(place.target());
        record.set_event_name(place.name());
        record.set_severity_number(match *place.level() {
            Level::ERROR => Severity::Error,
            _ => Severity::Warn,
        });
        record.set_severity_text(place.level().as_str());
        record.set_body(name.to_owned().into());
        record.add_attribute("suppressed", i64::from(lines));
        self.logger.emit(record);
    }
}
