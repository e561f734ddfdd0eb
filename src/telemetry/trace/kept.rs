//! For tests: spans that are kept instead of being sent.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};

use super::{Ids, Tracing};

/// Keeps what it is given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Kept {
    /// What makes spans, and where they are kept.
    pub(crate) fn tracing(sampler: Sampler) -> (Tracing, Self) {
        let exporter = Self::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(Sampler::AlwaysOn)
            .with_id_generator(Ids::default())
            .build();
        let tracing = Tracing::new(provider.tracer("test"), sampler, true);
        (tracing, exporter)
    }

    /// All that have ended, in that order.
    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    /// The name of each of them, and its `error.type`.
    pub(crate) fn errors(&self) -> Vec<(String, Option<String>)> {
        let spans = self.spans().into_iter().map(|span| {
            let error = span
                .attributes
                .iter()
                .find(|one| one.key.as_str() == super::names::ERROR_TYPE);
            (
                span.name.to_string(),
                error.map(|error| error.value.to_string()),
            )
        });
        spans.collect()
    }
}
