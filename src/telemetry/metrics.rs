//! Every instrument there is, in the order of an event's path.
//!
//! Counters end in `_total`, units are seconds and bytes, label values are closed enums. Events are counted once per
//! hop, so that what came in can be balanced against what went out. Instruments are made once and cached here;
//! gauges that mirror state are observed by the stage that holds the state, through [`Metrics::observe`].

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

/// All instruments, and the registry behind them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,

    /// Events that arrived at a door, whatever became of them. Label `protocol`: `http`, `grpc`.
    pub events_received: Counter<u64>,
    /// Events stored in the log.
    pub events_accepted: Counter<u64>,
    /// Events that were in the log already.
    pub events_duplicate: Counter<u64>,
    /// Events refused at the edge. Label `code`.
    pub events_rejected: Counter<u64>,
    /// Requests turned away for our own want of capacity. Label `code`.
    pub requests_shed: Counter<u64>,
    /// Seconds from a request's headers to its answer. Labels `protocol`, `status`.
    pub request_seconds: Histogram<f64>,

    /// Records made durable.
    pub wal_records_committed: Counter<u64>,
    /// Group commits.
    pub wal_commits: Counter<u64>,
    /// Records per group commit.
    pub wal_commit_records: Histogram<u64>,
    /// Seconds that the storage's sync took.
    pub wal_sync_seconds: Histogram<f64>,
    /// Records forgotten after they were published. Label `reason`: `count`, `age`, `space`.
    pub wal_records_trimmed: Counter<u64>,

    /// Batches sealed. Label `reason`: `count`, `bytes`, `age`, `day`, `budget`, `drain`.
    pub publisher_batches_sealed: Counter<u64>,
    /// Batches that their next owner holds.
    pub publisher_batches_settled: Counter<u64>,
    /// Batches that the queue took and lost, and that were sent again.
    pub publisher_batches_lost: Counter<u64>,
    /// Publishes that failed and were tried again.
    pub queue_publish_retries: Counter<u64>,
    /// Messages that were not what was sealed.
    pub queue_messages_damaged: Counter<u64>,
    /// Messages that were put aside for a newer version.
    pub queue_messages_parked: Counter<u64>,
    /// Deliveries after the first of a batch.
    pub queue_redeliveries: Counter<u64>,
    /// Batches that came before one that precedes them. Label `outcome`: `noticed`, `given_up`.
    pub queue_gaps: Counter<u64>,

    /// Events that became rows of the store.
    pub worker_events_stored: Counter<u64>,
    /// Events that became error rows. Label `code`.
    pub worker_events_dead_lettered: Counter<u64>,
    /// Seconds that one store write took. Label `kind`: `events`, `errors`.
    pub store_write_seconds: Histogram<f64>,
    /// Store writes that failed and were tried again. Label `kind`.
    pub store_write_retries: Counter<u64>,

    /// Manifests recorded as loaded.
    pub loader_manifests_recorded: Counter<u64>,
    /// Rows that became rows of the warehouse. Label `table`: `events`, `errors`.
    pub loader_rows_merged: Counter<u64>,
    /// Rows that the merge left out because their key was there. Label `table`.
    pub loader_rows_duplicate: Counter<u64>,
    /// Markers moved to `quarantine/`: they, or their objects, could not be read.
    pub loader_markers_quarantined: Counter<u64>,
    /// Loader rounds that failed and were tried again.
    pub loader_failures: Counter<u64>,

    /// Objects removed from the store because of their age.
    pub retention_objects_removed: Counter<u64>,
    /// Rows removed from the warehouse because of their age. Label `table`: `events`, `errors`.
    pub retention_rows_removed: Counter<u64>,
}

/// Bounds in seconds that suit a group commit as well as an outage.
const SECONDS: [f64; 14] = [
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0,
];
/// Bounds for counts of records.
const COUNTS: [f64; 10] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own, with every instrument in it.
    ///
    /// # Panics
    ///
    /// Never: a fresh registry takes its first exporter.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one list, one entry per instrument")]
    pub fn new() -> Self {
        let registry = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .expect("a fresh registry takes its first exporter");
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("eventkit");
        let counter = |name: &'static str, text: &'static str| {
            meter.u64_counter(name).with_description(text).build()
        };
        let seconds = |name: &'static str, text: &'static str| {
            meter
                .f64_histogram(name)
                .with_description(text)
                .with_boundaries(SECONDS.to_vec())
                .build()
        };
        let records = meter
            .u64_histogram("eventkit_wal_commit_records")
            .with_description("Records per group commit")
            .with_boundaries(COUNTS.to_vec())
            .build();
        Self {
            events_received: counter("eventkit_events_received", "Events that arrived"),
            events_accepted: counter("eventkit_ingress_events_accepted", "Events made durable"),
            events_duplicate: counter(
                "eventkit_ingress_events_duplicate",
                "Events that were in the log already",
            ),
            events_rejected: counter(
                "eventkit_ingress_events_rejected",
                "Events refused at the edge",
            ),
            requests_shed: counter(
                "eventkit_ingress_requests_shed",
                "Requests turned away for want of capacity",
            ),
            request_seconds: seconds("eventkit_ingress_request_seconds", "Request duration"),
            wal_records_committed: counter(
                "eventkit_wal_records_committed",
                "Records made durable",
            ),
            wal_commits: counter("eventkit_wal_commits", "Group commits"),
            wal_commit_records: records,
            wal_sync_seconds: seconds("eventkit_wal_sync_seconds", "Duration of a sync"),
            wal_records_trimmed: counter(
                "eventkit_wal_records_trimmed",
                "Published records forgotten",
            ),
            publisher_batches_sealed: counter(
                "eventkit_publisher_batches_sealed",
                "Batches sealed",
            ),
            publisher_batches_settled: counter(
                "eventkit_publisher_batches_settled",
                "Batches that their next owner holds",
            ),
            publisher_batches_lost: counter(
                "eventkit_publisher_batches_lost",
                "Batches that the queue lost and that were sent again",
            ),
            queue_publish_retries: counter(
                "eventkit_queue_publish_retries",
                "Publishes tried again",
            ),
            queue_messages_damaged: counter(
                "eventkit_queue_messages_damaged",
                "Messages that were not what was sealed",
            ),
            queue_messages_parked: counter(
                "eventkit_queue_messages_parked",
                "Messages put aside for a newer version",
            ),
            queue_redeliveries: counter(
                "eventkit_queue_redeliveries",
                "Deliveries after the first of a batch",
            ),
            queue_gaps: counter(
                "eventkit_queue_gaps",
                "Batches that came before one that precedes them",
            ),
            worker_events_stored: counter("eventkit_events_processed", "Events stored"),
            worker_events_dead_lettered: counter(
                "eventkit_events_failed",
                "Events that became error rows",
            ),
            store_write_seconds: seconds("eventkit_store_write_seconds", "Duration of a write"),
            store_write_retries: counter("eventkit_store_write_retries", "Writes tried again"),
            loader_manifests_recorded: counter(
                "eventkit_loader_manifests_recorded",
                "Manifests loaded",
            ),
            loader_rows_merged: counter("eventkit_loader_rows_merged", "Rows loaded"),
            loader_rows_duplicate: counter(
                "eventkit_loader_rows_duplicate",
                "Rows whose key was loaded before",
            ),
            loader_markers_quarantined: counter(
                "eventkit_loader_markers_quarantined",
                "Markers that lead to nothing loadable",
            ),
            loader_failures: counter("eventkit_loader_failures", "Loader rounds that failed"),
            retention_objects_removed: counter(
                "eventkit_retention_objects_removed",
                "Objects removed because of their age",
            ),
            retention_rows_removed: counter(
                "eventkit_retention_rows_removed",
                "Rows removed because of their age",
            ),
            registry,
            provider,
            meter,
        }
    }

    /// Registers a gauge whose value is asked for at each scrape.
    pub fn observe(
        &self,
        name: &'static str,
        description: &'static str,
        labels: Vec<KeyValue>,
        value: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.meter
            .f64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |gauge| gauge.observe(value(), &labels))
            .build();
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
            [KeyValue::new(
                "lane",
                i64::try_from(lane).unwrap_or(i64::MAX),
            )]
        };
        let labels: Vec<_> = (0..lanes).map(label).collect();
        self.meter
            .f64_observable_gauge(name)
            .with_description(description)
            .with_callback(move |gauge| {
                for (lane, labels) in labels.iter().enumerate() {
                    gauge.observe(value(lane), labels);
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
            prometheus::TextEncoder::new().encode(&self.registry.gather(), &mut text)
        {
            tracing::warn!(%error, "metrics_unreadable");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// Ends collection; instruments may still be used and do nothing.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::debug!(%error, "metrics_shutdown_failed");
        }
    }
}
