//! Every counter and every timer there is, in the order of an event's path.
//!
//! Counters end in `_total` (the exporter adds it), units are seconds and bytes. Events are counted once per hop, so that
//! what came in can be balanced against what went out.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use super::labels;
use crate::status::Code;

/// A counter.
pub type Count = Counter<u64>;
/// Durations.
pub type Seconds = Histogram<f64>;
/// Numbers of records.
pub type Records = Histogram<u64>;
/// What goes up and down.
pub type Level = UpDownCounter<i64>;

/// Bounds in seconds that suit a group commit as well as an outage.
const SECONDS: [f64; 14] = [
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0,
];
/// Bounds for counts of records.
const COUNTS: [f64; 10] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4];

/// The unit that a metric's name says, as UCUM writes it.
pub(super) fn unit(name: &str) -> &'static str {
    let is = |word: &str| name.split('_').any(|part| part == word);
    if is("seconds") {
        "s"
    } else if is("bytes") {
        "By"
    } else {
        "1"
    }
}

/// The values of one label that are known beforehand.
type Values = Vec<&'static str>;

/// How an instrument comes into being.
trait Made: Sized {
    fn make(meter: &Meter, name: &'static str, text: &'static str) -> Self;

    /// Is shown from now on, with these labels.
    fn begin(&self, _labels: &[KeyValue]) {}
}

impl Made for Count {
    fn make(meter: &Meter, name: &'static str, text: &'static str) -> Self {
        let counter = meter.u64_counter(name).with_description(text);
        counter.with_unit(unit(name)).build()
    }

    fn begin(&self, labels: &[KeyValue]) {
        self.add(0, labels);
    }
}

impl Made for Seconds {
    fn make(meter: &Meter, name: &'static str, text: &'static str) -> Self {
        let histogram = meter.f64_histogram(name).with_description(text);
        let histogram = histogram.with_unit(unit(name));
        histogram.with_boundaries(SECONDS.to_vec()).build()
    }
}

impl Made for Records {
    fn make(meter: &Meter, name: &'static str, text: &'static str) -> Self {
        let histogram = meter.u64_histogram(name).with_description(text);
        let histogram = histogram.with_unit(unit(name));
        histogram.with_boundaries(COUNTS.to_vec()).build()
    }
}

impl Made for Level {
    fn make(meter: &Meter, name: &'static str, text: &'static str) -> Self {
        let counter = meter.i64_up_down_counter(name).with_description(text);
        counter.with_unit(unit(name)).build()
    }

    fn begin(&self, labels: &[KeyValue]) {
        self.add(0, labels);
    }
}

/// A level that is higher for as long as this lives.
#[derive(Debug)]
pub struct Raised {
    level: Level,
    by: i64,
}

impl Raised {
    /// Raises a level.
    #[must_use]
    pub fn by(level: &Level, by: usize) -> Self {
        let by = i64::try_from(by).unwrap_or(i64::MAX);
        level.add(by, &[]);
        Self {
            level: level.clone(),
            by,
        }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.level.add(-self.by, &[]);
    }
}

macro_rules! instruments {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $name:literal, $text:literal $(, $label:literal of $values:expr)?;)*) => {
        /// All of them.
        #[derive(Debug)]
        pub struct Instruments { $($(#[$doc])* pub $field: $kind,)* }

        impl Instruments {
            pub(super) fn new(meter: &Meter) -> Self {
                $(
                    let $field = <$kind as Made>::make(meter, $name, $text);
                    begin(&$field, None $(.or(Some(($label, $values))))?);
                )*
                Self { $($field,)* }
            }
        }
    };
}

fn begin(instrument: &impl Made, label: Option<(&'static str, Values)>) {
    match label {
        None => instrument.begin(&[]),
        Some((label, values)) => {
            for value in values {
                instrument.begin(&[KeyValue::new(label, value)]);
            }
        }
    }
}

/// The codes between two, both included: the list has them in groups.
fn codes(first: Code, last: Code) -> Values {
    let codes = Code::ALL
        .iter()
        .filter(|code| (first..=last).contains(*code));
    codes.map(|code| code.as_str()).collect()
}

fn protocols() -> Values {
    vec!["http", "grpc"]
}

fn tables() -> Values {
    vec!["events", "errors"]
}

instruments! {
    /// Events that arrived at a door, whatever became of them. Label `protocol`: `http`, `grpc`.
    events_received: Count = "eventkit_events_received", "Events that arrived", "protocol" of protocols();
    /// Events stored in the log.
    events_accepted: Count = "eventkit_ingress_events_accepted", "Events made durable";
    /// Events that were in the log already.
    events_duplicate: Count = "eventkit_ingress_events_duplicate", "Events that were in the log already";
    /// Events refused at the edge. Label `code`.
    events_rejected: Count = "eventkit_ingress_events_rejected", "Events refused at the edge",
        "code" of codes(Code::NotAnObject, Code::InvalidStream);
    /// Requests turned away for our own want of capacity. Label `code`.
    requests_shed: Count = "eventkit_ingress_requests_shed", "Requests turned away for want of capacity",
        "code" of codes(Code::LogFull, Code::LogFailed);
    /// Requests that their sender may not send, or not now. Label `code`.
    requests_refused: Count = "eventkit_ingress_requests_refused", "Requests that their sender may not send, or not now",
        "code" of codes(Code::WriteKeyMissing, Code::StreamNotAllowed).into_iter().chain([Code::RateLimited.as_str()]).collect();
    /// Changed files of keys that were taken in, and that could not be. Label `outcome`: `taken`, `refused`.
    keys_reloads: Count = "eventkit_ingress_keys_reloads", "Changes of the file of write keys",
        "outcome" of vec!["taken", "refused"];
    /// Changed certificates that were taken in, and that could not be. Label `outcome`: `taken`, `refused`.
    tls_reloads: Count = "eventkit_ingress_tls_reloads", "Changes of the certificate's files",
        "outcome" of vec!["taken", "refused"];
    /// Connections closed before their first request. Label `reason`: `address_limit`, `not_tls`, `tls`, `handshake`.
    connections_refused: Count = "eventkit_ingress_connections_refused", "Connections closed before their first request",
        "reason" of vec!["address_limit", "not_tls", "tls", "handshake"];
    /// Streaming calls under way.
    ingress_streams: Level = "eventkit_ingress_streams", "Streaming calls under way";
    /// Seconds from a request's headers to its answer. Labels `protocol`, `status`.
    request_seconds: Seconds = "eventkit_ingress_request_seconds", "Request duration";

    /// Records made durable.
    wal_records_committed: Count = "eventkit_wal_records_committed", "Records made durable";
    /// Group commits.
    wal_commits: Count = "eventkit_wal_commits", "Group commits";
    /// Records per group commit.
    wal_commit_records: Records = "eventkit_wal_commit_records", "Records per group commit";
    /// Seconds from a group commit's begin to its answers, its sync included.
    wal_commit_seconds: Seconds = "eventkit_wal_commit_seconds", "Duration of a group commit";
    /// Seconds that the storage's sync took.
    wal_sync_seconds: Seconds = "eventkit_wal_sync_seconds", "Duration of a sync";
    /// Records forgotten after they were published. Label `reason`: `count`, `age`, `space`.
    wal_records_trimmed: Count = "eventkit_wal_records_trimmed", "Published records forgotten",
        "reason" of vec!["count", "age", "space"];

    /// Batches sealed. Label `reason`: `count`, `bytes`, `age`, `day`, `drain`.
    publisher_batches_sealed: Count = "eventkit_publisher_batches_sealed", "Batches sealed",
        "reason" of vec!["count", "bytes", "age", "day", "drain"];
    /// Batches that their next owner holds.
    publisher_batches_settled: Count = "eventkit_publisher_batches_settled", "Batches that their next owner holds";
    /// Batches that the queue took and lost, and that were sent again.
    publisher_batches_lost: Count = "eventkit_publisher_batches_lost", "Batches that the queue lost and that were sent again";
    /// Seconds from a batch's seal until the queue took it.
    publisher_send_seconds: Seconds = "eventkit_publisher_send_seconds", "Time from a batch's seal until the queue took it";
    /// Publishes that failed and were tried again.
    queue_publish_retries: Count = "eventkit_queue_publish_retries", "Publishes tried again";
    /// Messages that were not what was sealed.
    queue_messages_damaged: Count = "eventkit_queue_messages_damaged", "Messages that were not what was sealed";
    /// Messages that were put aside for a newer version.
    queue_messages_parked: Count = "eventkit_queue_messages_parked", "Messages put aside for a newer version";
    /// Deliveries after the first of a batch.
    queue_redeliveries: Count = "eventkit_queue_redeliveries", "Deliveries after the first of a batch";
    /// Batches that came before one that precedes them. Label `outcome`: `noticed`, `given_up`.
    queue_gaps: Count = "eventkit_queue_gaps", "Batches that came before one that precedes them",
        "outcome" of vec!["noticed", "given_up"];
    /// Lanes that wait for a batch that is missing.
    queue_lanes_waiting: Level = "eventkit_queue_lanes_waiting", "Lanes that wait for a batch that is missing";
    /// Bytes of batches that a worker gathers or stores.
    queue_held_bytes: Level = "eventkit_queue_held_bytes", "Bytes of batches that are gathered or being stored";
    /// Messages (in the process: batches) that were delivered and are not acknowledged.
    queue_held_messages: Level = "eventkit_queue_held_messages", "Messages that are held and not acknowledged";
    /// Pulls that failed and were begun anew.
    queue_pull_failures: Count = "eventkit_queue_pull_failures", "Pulls that failed and were begun anew";
    /// Looks at the subscription, by who publishes, that failed or found none that is fit.
    queue_look_failures: Count = "eventkit_queue_look_failures", "Looks at the subscription that failed or found it unfit";

    /// Workers that have a batch in hand.
    workers_busy: Level = "eventkit_workers_busy", "Workers that have a batch in hand";
    /// Events that became rows of the store.
    worker_events_stored: Count = "eventkit_events_processed", "Events stored";
    /// Events that became error rows. Label `code`.
    worker_events_dead_lettered: Count = "eventkit_events_failed", "Events that became error rows",
        "code" of codes(Code::InvalidPayload, Code::RowRefused).into_iter().chain([labels::OTHER]).collect();
    /// Seconds from a delivery to its acknowledgement, retries of the store included.
    worker_process_seconds: Seconds = "eventkit_worker_process_seconds", "Time from a delivery to its end";
    /// Seconds from the arrival of a batch's oldest event until the batch was stored.
    worker_batch_age_seconds: Seconds = "eventkit_worker_batch_age_seconds", "Age of a batch's oldest event when it was stored";
    /// Seconds that one store write took. Label `kind`: `events`, `errors`.
    store_write_seconds: Seconds = "eventkit_store_write_seconds", "Duration of a write";
    /// Store writes that failed. Label `reason`: `unavailable`, `denied`.
    store_write_failures: Count = "eventkit_store_write_failures", "Writes that failed",
        "reason" of vec!["unavailable", "denied"];
    /// Store writes that failed and were tried again. Label `kind`.
    store_write_retries: Count = "eventkit_store_write_retries", "Writes tried again", "kind" of tables();
    /// Reads, lists and removals of objects that failed and were tried again. Label `operation`: `get`, `list`, `delete`.
    store_call_retries: Count = "eventkit_store_call_retries", "Reads, lists and removals tried again",
        "operation" of vec!["get", "list", "delete"];
    /// Bytes of objects that were written. Label `kind`.
    store_bytes_written: Count = "eventkit_store_bytes_written", "Bytes written", "kind" of tables();

    /// Manifests recorded as loaded.
    loader_manifests_recorded: Count = "eventkit_loader_manifests_recorded", "Manifests loaded";
    /// Manifests of which nothing was loaded. Label `outcome`: `superseded` (others hold its objects), `quarantined`, `discarded`.
    loader_manifests_given_up: Count = "eventkit_loader_manifests_given_up", "Manifests recorded without a load",
        "outcome" of vec!["superseded", "quarantined", "discarded"];
    /// Rows that became rows of the warehouse. Label `table`: `events`, `errors`.
    loader_rows_merged: Count = "eventkit_loader_rows_merged", "Rows loaded", "table" of tables();
    /// Rows that the merge left out because their key was there. Label `table`.
    loader_rows_duplicate: Count = "eventkit_loader_rows_duplicate", "Rows whose key was loaded before", "table" of tables();
    /// Markers moved to `quarantine/`: they, or their objects, could not be read.
    loader_markers_quarantined: Count = "eventkit_loader_markers_quarantined", "Markers that lead to nothing loadable";
    /// Loader rounds that failed and were tried again.
    loader_failures: Count = "eventkit_loader_failures", "Loader rounds that failed";
    /// The same by what failed. Label `step`: `store`, `warehouse`, `load`, `merge`, `inbox`.
    loader_step_failures: Count = "eventkit_loader_step_failures", "Loader rounds that failed, by step",
        "step" of vec!["store", "warehouse", "load", "merge", "inbox"];
    /// Seconds that a step of a manifest took. Label `step`: `load`, `merge`.
    loader_step_seconds: Seconds = "eventkit_loader_step_seconds", "Duration of a load or a merge";

    /// Objects removed from the store because of their age.
    retention_objects_removed: Count = "eventkit_retention_objects_removed", "Objects removed because of their age";
    /// Rows removed from the warehouse because of their age. Label `table`: `events`, `errors`.
    retention_rows_removed: Count = "eventkit_retention_rows_removed", "Rows removed because of their age", "table" of tables();
}
