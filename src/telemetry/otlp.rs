//! What leaves the process by OTLP: spans, metrics, and log records where they are asked for.
//!
//! It never hurts. Handing over never waits: what finds no room in a queue is dropped and counted. Exports run on threads
//! of their own, each within its time. A collector that is away is one log line, and one when it is back. The end has a
//! deadline; what was not exported by then is counted, and the process goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{self, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::reader::MetricReader as _;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, PeriodicReader};
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{self, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use opentelemetry_semantic_conventions::attribute::{
    HOST_NAME, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION,
};
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::Metrics;
use super::logs::Further;
use super::trace::Ids;
use crate::config::{Collector, Instance, OtlpConfig, Protocol, QueueLimits, Sampling};

mod driver;
mod exporters;
mod ledger;
mod reach;
mod records;
mod watched;

use driver::Driver;
use ledger::Ledger;
use reach::Reach;
use watched::{Counted, Reader, Watch, Watched};

/// Whose name everything is reported under.
const SCOPE: &str = "eventkit";

/// Why telemetry cannot be exported at all. A collector that does not answer is no reason.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A file with certificates or a key cannot be read.
    #[error("read {}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// Certificates or a key cannot be used over HTTP.
    #[error("use the certificates for the collector")]
    Client(#[source] reqwest::Error),
    /// An exporter cannot be made.
    #[error(
        "make an exporter (where the system trusts no authority, OTEL_EXPORTER_OTLP_CERTIFICATE names one)"
    )]
    Exporter(#[source] ExporterBuildError),
    /// There is no thread for it.
    #[error("start a thread for exports")]
    Thread(#[source] std::io::Error),
}

/// What leaves the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Otlp(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tracer: Option<SdkTracerProvider>,
    logger: Option<SdkLoggerProvider>,
    reader: Option<Reader<Watched<opentelemetry_otlp::MetricExporter>>>,
    spans: Arc<Ledger>,
    records: Arc<Ledger>,
    resource: Resource,
    sampler: Sampler,
    takes_trace_context: bool,
    ended: AtomicBool,
}

impl Otlp {
    /// As configured. It makes no connection yet.
    ///
    /// # Errors
    ///
    /// What keeps exporters from being made: files that cannot be read, above all.
    pub fn start(config: &OtlpConfig) -> Result<Self, OtlpError> {
        let resource = resource(&config.instance);
        let mut parts = Parts::default();
        let spans = Arc::new(Ledger::new(config.spans.queue_max));
        let records = Arc::new(Ledger::new(config.records.queue_max));
        let tracer = match &config.traces {
            Some(to) => Some(parts.tracer(to, config.spans, &spans, &resource)?),
            None => None,
        };
        let logger = match &config.logs {
            Some(to) => Some(parts.logger(to, config.records, &records, &resource)?),
            None => None,
        };
        let reader = match &config.metrics {
            Some(to) => Some(parts.reader(to, config.metric_interval)?),
            None => None,
        };
        Ok(Self(Arc::new(Inner {
            tracer,
            logger,
            reader,
            spans,
            records,
            resource,
            sampler: sampler(config.sampling),
            takes_trace_context: config.takes_trace_context,
            ended: AtomicBool::new(false),
        })))
    }

    /// Nothing leaves.
    #[must_use]
    pub fn off() -> Self {
        Self(Arc::new(Inner {
            tracer: None,
            logger: None,
            reader: None,
            spans: Arc::default(),
            records: Arc::default(),
            resource: Resource::builder_empty().build(),
            sampler: Sampler::AlwaysOff,
            takes_trace_context: true,
            ended: AtomicBool::new(false),
        }))
    }

    /// What makes spans, where traces leave. It takes every span: [`Otlp::sampler`] is asked before one is made.
    #[must_use]
    pub fn tracer(&self) -> Option<SdkTracer> {
        let provider = self.0.tracer.as_ref()?;
        let scope = InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL);
        Some(provider.tracer_with_scope(scope.build()))
    }

    /// Which traces are sampled.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.0.sampler
    }

    /// Whether a client's `traceparent` is followed.
    #[must_use]
    pub fn takes_trace_context(&self) -> bool {
        self.0.takes_trace_context
    }

    /// Adds the resource, and the reader that exports, to what will be the one provider of metrics.
    #[must_use]
    pub fn extend(&self, builder: MeterProviderBuilder) -> MeterProviderBuilder {
        let builder = builder.with_resource(self.0.resource.clone());
        match &self.0.reader {
            Some(reader) => builder.with_reader(reader.clone()),
            None => builder,
        }
    }

    /// What makes log records of log lines, where these leave: of all that it is given but what carries telemetry itself.
    #[must_use]
    pub fn log_layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let provider = self.0.logger.as_ref()?;
        Some(records::Records::to(provider))
    }

    /// What makes log records of the lines that say how many others were left out.
    #[must_use]
    pub fn left_out(&self) -> Option<Box<dyn Further>> {
        let provider = self.0.logger.as_ref()?;
        Some(Box::new(records::LeftOut::to(provider)))
    }

    /// Spans that were ended and not exported: no room in the queue, or no collector that took them.
    #[must_use]
    pub fn spans_dropped(&self) -> u64 {
        self.0.spans.dropped()
    }

    /// Spans that a collector took.
    #[must_use]
    pub fn spans_exported(&self) -> u64 {
        self.0.spans.exported()
    }

    /// Log records that were not exported.
    #[must_use]
    pub fn records_dropped(&self) -> u64 {
        self.0.records.dropped()
    }

    /// Shows what becomes of spans and log records among the metrics.
    pub fn observe(&self, metrics: &Metrics) {
        type Read = fn(&Ledger) -> u64;
        let (spans, records) = (&self.0.spans, &self.0.records);
        let counters: [(&'static str, &'static str, &Arc<Ledger>, Read); 4] = [
            (
                "eventkit_telemetry_spans_exported",
                "Spans that a collector took",
                spans,
                Ledger::exported,
            ),
            (
                "eventkit_telemetry_spans_dropped",
                "Spans that were not exported",
                spans,
                Ledger::dropped,
            ),
            (
                "eventkit_telemetry_log_records_exported",
                "Log records that a collector took",
                records,
                Ledger::exported,
            ),
            (
                "eventkit_telemetry_log_records_dropped",
                "Log records that were not exported",
                records,
                Ledger::dropped,
            ),
        ];
        for (name, description, ledger, read) in counters {
            let ledger = Arc::clone(ledger);
            metrics.observe_counts(name, description, vec![vec![]], move |_only| read(&ledger));
        }
        let spans = Arc::clone(spans);
        metrics.observe(
            "eventkit_telemetry_spans_waiting",
            "Spans that wait for an export",
            vec![],
            #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
            move || spans.waiting() as f64,
        );
    }

    /// Exports what is there, as far as that goes within the deadline, and ends. What is left is dropped and counted.
    pub async fn shutdown(&self, deadline: Duration) {
        if self.0.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let ends = self.0.end(deadline);
        let all = futures::future::join_all(ends);
        let in_time = tokio::time::timeout(deadline, all).await.is_ok();
        let (spans, records) = (self.0.spans.close(), self.0.records.close());
        if !in_time || spans + records > 0 {
            tracing::warn!(spans, records, in_time, "telemetry_given_up");
        }
    }
}

impl Inner {
    /// Ends every part on a thread of its own; each may wait for a collector.
    fn end(&self, deadline: Duration) -> Vec<oneshot::Receiver<()>> {
        let mut ends = Vec::new();
        if let Some(tracer) = self.tracer.clone() {
            ends.push(aside(move || tracer.shutdown_with_timeout(deadline)));
        }
        if let Some(logger) = self.logger.clone() {
            ends.push(aside(move || logger.shutdown_with_timeout(deadline)));
        }
        if let Some(reader) = self.reader.clone() {
            ends.push(aside(move || reader.0.shutdown_with_timeout(deadline)));
        }
        ends
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            // Whoever lets go of it must not wait for a collector.
            drop(self.end(Duration::ZERO));
        }
    }
}

/// Runs something that may take long where nobody waits for it; the process's end does not either.
fn aside<T: 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<()> {
    let (done, waits) = oneshot::channel();
    let thread = std::thread::Builder::new().name("telemetry end".into());
    let started = thread.spawn(move || {
        // What went wrong was said when the collector went away.
        drop(work());
        done.send(()).unwrap_or_default();
    });
    if let Err(error) = started {
        tracing::warn!(%error, "telemetry_not_ended");
    }
    waits
}

/// What several signals share while they are set up.
#[derive(Debug, Default)]
struct Parts {
    driver: Option<Arc<Driver>>,
    reaches: Vec<Arc<Reach>>,
}

impl Parts {
    fn tracer(
        &mut self,
        to: &Collector,
        limits: QueueLimits,
        ledger: &Arc<Ledger>,
        resource: &Resource,
    ) -> Result<SdkTracerProvider, OtlpError> {
        let exporter = self.watched("traces", to, ledger, exporters::spans)?;
        let config = trace::BatchConfigBuilder::default()
            .with_max_queue_size(limits.queue_max)
            .with_max_export_batch_size(limits.batch_max)
            .with_scheduled_delay(limits.delay);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config.build());
        let counted = Counted {
            processor: processor.build(),
            ledger: Arc::clone(ledger),
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_sampler(Sampler::AlwaysOn)
            .with_id_generator(Ids::default())
            .with_span_processor(counted);
        Ok(provider.build())
    }

    fn logger(
        &mut self,
        to: &Collector,
        limits: QueueLimits,
        ledger: &Arc<Ledger>,
        resource: &Resource,
    ) -> Result<SdkLoggerProvider, OtlpError> {
        let exporter = self.watched("logs", to, ledger, exporters::records)?;
        let config = logs::BatchConfigBuilder::default()
            .with_max_queue_size(limits.queue_max)
            .with_max_export_batch_size(limits.batch_max)
            .with_scheduled_delay(limits.delay);
        let processor = BatchLogProcessor::builder(exporter).with_batch_config(config.build());
        let counted = Counted {
            processor: processor.build(),
            ledger: Arc::clone(ledger),
        };
        let provider = SdkLoggerProvider::builder()
            .with_resource(resource.clone())
            .with_log_processor(counted);
        Ok(provider.build())
    }

    fn reader(
        &mut self,
        to: &Collector,
        every: Duration,
    ) -> Result<Reader<Watched<opentelemetry_otlp::MetricExporter>>, OtlpError> {
        let exporter = self.watched("metrics", to, &Arc::default(), exporters::metrics)?;
        let reader = PeriodicReader::builder(exporter).with_interval(every);
        Ok(Reader(reader.build()))
    }

    fn watched<E>(
        &mut self,
        signal: &'static str,
        to: &Collector,
        ledger: &Arc<Ledger>,
        make: impl FnOnce(&Collector) -> Result<E, OtlpError>,
    ) -> Result<Watched<E>, OtlpError> {
        let driver = match to.protocol {
            Protocol::Grpc => Some(self.driver()?),
            Protocol::Http => None,
        };
        let exporter = match &driver {
            Some(driver) => driver.within(|| make(to)),
            None => make(to),
        }?;
        let watch = Watch {
            signal,
            ledger: Arc::clone(ledger),
            reach: self.reach(to.host()),
            limit: to.timeout,
            driver,
        };
        Ok(Watched { exporter, watch })
    }

    fn driver(&mut self) -> Result<Arc<Driver>, OtlpError> {
        if let Some(driver) = &self.driver {
            return Ok(Arc::clone(driver));
        }
        let driver = Arc::new(Driver::start().map_err(OtlpError::Thread)?);
        self.driver = Some(Arc::clone(&driver));
        Ok(driver)
    }

    fn reach(&mut self, host: &str) -> Arc<Reach> {
        let known = self.reaches.iter().find(|reach| reach.host() == host);
        let reach = known.map_or_else(|| Arc::new(Reach::new(host.to_owned())), Arc::clone);
        self.reaches.push(Arc::clone(&reach));
        reach
    }
}

fn sampler(sampling: Sampling) -> Sampler {
    let root = match sampling.ratio {
        ratio if ratio >= 1.0 => Sampler::AlwaysOn,
        ratio if ratio <= 0.0 => Sampler::AlwaysOff,
        ratio => Sampler::TraceIdRatioBased(ratio),
    };
    if sampling.parent_based {
        Sampler::ParentBased(Box::new(root))
    } else {
        root
    }
}

/// Who reports. What a person says about it wins, and `OTEL_SERVICE_NAME` over `OTEL_RESOURCE_ATTRIBUTES`, as the specification has it.
fn resource(instance: &Instance) -> Resource {
    let id = match instance.is_named {
        true => instance.node.clone(),
        false => uuid::Uuid::new_v4().to_string(),
    };
    let ours = [
        KeyValue::new(SERVICE_NAME, "eventkit"),
        KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
        KeyValue::new(SERVICE_INSTANCE_ID, id),
        KeyValue::new(HOST_NAME, instance.node.clone()),
        KeyValue::new("eventkit.role", instance.role.as_str()),
    ];
    let given = instance.attributes.iter().cloned();
    let given = given.map(|(key, value)| KeyValue::new(key, value));
    let service = instance.service.clone();
    let service = service.map(|service| KeyValue::new(SERVICE_NAME, service));
    // The last of a key counts.
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(ours)
        .with_attributes(given)
        .with_attributes(service)
        .build()
}

#[cfg(test)]
mod tests;
