//! One registry for all metrics: `/metrics` and an OTLP exporter show the same.
//!
//! [`Instruments`] is the list of what the stages count and time, [`labels`] are the label sets, made once. Gauges mirror
//! state and are observed by the stage that holds the state, through [`Metrics::observe`] and its kin. Counters begin at
//! zero with every label value that is known beforehand, so that a first increment is seen as one.

use std::ops::Deref;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};

use super::Tracing;

mod instruments;
pub mod labels;

pub use instruments::{Count, Instruments, Level, Raised, Records, Seconds};

/// All instruments, and the registry behind them. Cheap to clone; its instruments are its fields.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
    tracing: Tracing,
}

#[derive(Debug)]
struct Inner {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,
    instruments: Instruments,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Metrics {
    type Target = Instruments;

    fn deref(&self) -> &Instruments {
        &self.inner.instruments
    }
}

impl Metrics {
    /// A registry of its own, with every instrument in it.
    #[must_use]
    pub fn new() -> Self {
        Self::extended(|builder| builder)
    }

    /// The same with what `extend` adds to it: further readers, a resource.
    ///
    /// # Panics
    ///
    /// Never: a fresh registry takes its first exporter.
    #[must_use]
    pub fn extended(extend: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder) -> Self {
        let registry = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // They are in the names already.
            .without_units()
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .expect("a fresh registry takes its first exporter");
        let provider = extend(SdkMeterProvider::builder().with_reader(exporter)).build();
        let meter = provider.meter("eventkit");
        let inner = Arc::new(Inner {
            instruments: Instruments::new(&meter),
            registry,
            provider,
            meter,
        });
        Self {
            inner,
            tracing: Tracing::off(),
        }
    }

    /// The same, and spans: every stage that counts has some.
    #[must_use]
    pub fn with_tracing(mut self, tracing: Tracing) -> Self {
        self.tracing = tracing;
        self
    }

    /// What makes spans.
    #[must_use]
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }

    /// What the instruments belong to.
    #[must_use]
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.inner.provider
    }

    /// Registers a gauge whose value is asked for at each scrape.
    pub fn observe(
        &self,
        name: &'static str,
        description: &'static str,
        labels: Vec<KeyValue>,
        value: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.observe_all(name, description, vec![labels], move |_only| value());
    }

    /// Registers a gauge with a value for each of a fixed number of lanes.
    pub fn observe_lanes(
        &self,
        name: &'static str,
        description: &'static str,
        lanes: usize,
        value: impl Fn(usize) -> f64 + Send + Sync + 'static,
    ) {
        let label = |lane: usize| {
            vec![KeyValue::new(
                "lane",
                i64::try_from(lane).unwrap_or(i64::MAX),
            )]
        };
        self.observe_all(name, description, (0..lanes).map(label).collect(), value);
    }

    /// Registers a gauge with a value for each of these label sets, asked for by their place in the list.
    pub fn observe_all(
        &self,
        name: &'static str,
        description: &'static str,
        labels: Vec<Vec<KeyValue>>,
        value: impl Fn(usize) -> f64 + Send + Sync + 'static,
    ) {
        let meter = &self.inner.meter;
        meter
            .f64_observable_gauge(name)
            .with_description(description)
            .with_unit(instruments::unit(name))
            .with_callback(move |gauge| {
                for (at, labels) in labels.iter().enumerate() {
                    gauge.observe(value(at), labels);
                }
            })
            .build();
    }

    /// Registers a counter that is kept elsewhere, with a value for each of these label sets.
    pub fn observe_counts(
        &self,
        name: &'static str,
        description: &'static str,
        labels: Vec<Vec<KeyValue>>,
        value: impl Fn(usize) -> u64 + Send + Sync + 'static,
    ) {
        let meter = &self.inner.meter;
        meter
            .u64_observable_counter(name)
            .with_description(description)
            .with_unit(instruments::unit(name))
            .with_callback(move |counter| {
                for (at, labels) in labels.iter().enumerate() {
                    counter.observe(value(at), labels);
                }
            })
            .build();
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        use prometheus::Encoder as _;

        let mut text = Vec::new();
        if let Err(error) =
            prometheus::TextEncoder::new().encode(&self.inner.registry.gather(), &mut text)
        {
            tracing::warn!(%error, "metrics_unreadable");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// Ends collection; instruments may still be used and do nothing.
    pub fn shutdown(&self) {
        if let Err(error) = self.inner.provider.shutdown() {
            tracing::debug!(%error, "metrics_shutdown_failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    #[test]
    fn counters_begin_at_zero_with_every_value_of_their_labels() {
        let text = Metrics::new().render();
        for line in [
            r#"eventkit_events_received_total{protocol="http"} 0"#,
            r#"eventkit_events_received_total{protocol="grpc"} 0"#,
            r#"eventkit_ingress_requests_shed_total{code="log_full"} 0"#,
            r#"eventkit_ingress_events_rejected_total{code="too_deep"} 0"#,
            r#"eventkit_events_failed_total{code="missing_field"} 0"#,
            r#"eventkit_events_failed_total{code="other"} 0"#,
            r#"eventkit_loader_rows_merged_total{table="errors"} 0"#,
            "eventkit_events_processed_total 0",
            "eventkit_queue_redeliveries_total 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_further_reader_sees_what_a_scrape_shows() {
        let further = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(further.clone());
        let reader = exporter
            .without_units()
            .without_target_info()
            .build()
            .unwrap();
        let metrics = Metrics::extended(|builder| builder.with_reader(reader));
        metrics.wal_commits.add(3, &[]);
        metrics.observe("eventkit_wal_bytes", "bytes", vec![], || 7.0);
        let names = |registry: &prometheus::Registry| -> Vec<String> {
            let families = registry.gather().into_iter();
            families.map(|family| family.name().to_owned()).collect()
        };
        let shown = names(&metrics.inner.registry);
        assert_eq!(names(&further), shown);
        for name in ["eventkit_wal_commits_total", "eventkit_wal_bytes"] {
            assert!(shown.contains(&name.to_owned()), "{name} in {shown:?}");
        }
    }

    #[test]
    fn label_sets_are_made_once_and_say_what_they_should() {
        let twice = [labels::http_request(202), labels::http_request(202)];
        assert!(std::ptr::eq(twice[0], twice[1]));
        assert_eq!(
            labels::http_request(202),
            [
                KeyValue::new("protocol", "http"),
                KeyValue::new("status", 202)
            ]
        );
        assert_eq!(
            labels::grpc_request(tonic::Code::Unavailable),
            [
                KeyValue::new("protocol", "grpc"),
                KeyValue::new("status", 14)
            ]
        );
        for &code in Code::ALL {
            let expected = [KeyValue::new("code", code.as_str())];
            assert_eq!(labels::code(code), expected);
            assert_eq!(labels::code_word(code.as_str()), expected);
        }
        let unknown = labels::code_word("what a later version calls something");
        assert_eq!(unknown, [KeyValue::new("code", "other")]);
    }
}
