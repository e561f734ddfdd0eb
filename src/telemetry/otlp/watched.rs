//! OpenTelemetry's exporters and processors with a limit and a count around each: nothing that is handed over ever waits,
//! and nothing is lost without being counted.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{
    BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord,
};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, PeriodicReader, Pipeline, Temporality};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use super::driver::Driver;
use super::ledger::Ledger;
use super::reach::Reach;

/// How an exporter is watched.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) signal: &'static str,
    pub(super) ledger: Arc<Ledger>,
    pub(super) reach: Arc<Reach>,
    /// How long one export may take.
    pub(super) limit: Duration,
    /// What drives the exporter, if it does not do so itself.
    pub(super) driver: Option<Arc<Driver>>,
}

impl Watch {
    /// Runs one export, within its time.
    async fn over(
        &self,
        count: usize,
        export: impl Future<Output = OTelSdkResult> + Send,
    ) -> OTelSdkResult {
        self.ledger.taken(count);
        let result = self.in_time(export).await;
        self.ledger.ended(count, &result);
        self.reach.seen(self.signal, &result);
        result
    }

    /// gRPC's own limit begins when the connection is there; a connection that never comes about needs one, too. HTTP's
    /// client has a limit over all of it.
    async fn in_time(&self, export: impl Future<Output = OTelSdkResult> + Send) -> OTelSdkResult {
        let Some(driver) = &self.driver else {
            return export.await;
        };
        let late = driver.within(|| tokio::time::sleep(self.limit));
        match select(pin!(export), pin!(late)).await {
            Either::Left((result, _)) => result,
            Either::Right(((), _)) => Err(OTelSdkError::Timeout(self.limit)),
        }
    }
}

/// An exporter under watch.
#[derive(Debug)]
pub(super) struct Watched<E> {
    pub(super) exporter: E,
    pub(super) watch: Watch,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.watch.over(count, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        self.watch.over(count, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        // Sums go on: what one export misses the next one has.
        self.watch.over(0, self.exporter.export(metrics)).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

/// A processor before which what does not fit is refused and counted; its own queue is as long and so never full.
#[derive(Debug)]
pub(super) struct Counted<P> {
    pub(super) processor: P,
    pub(super) ledger: Arc<Ledger>,
}

impl SpanProcessor for Counted<BatchSpanProcessor> {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.ledger.admit() {
            self.processor.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

impl LogProcessor for Counted<BatchLogProcessor> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.ledger.admit() {
            self.processor.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// The periodic reader, which the end of the meter provider leaves alone: whoever drops the last instrument must not wait
/// for a collector. [`super::Otlp::shutdown`] ends it.
#[derive(Debug)]
pub(super) struct Reader<E: PushMetricExporter>(pub(super) PeriodicReader<E>);

impl<E: PushMetricExporter> Clone for Reader<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: PushMetricExporter + Debug> MetricReader for Reader<E> {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
