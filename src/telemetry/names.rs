//! The names of spans, their events and their attributes: one list, so that what an operator searches for is found here.
//!
//! Where OpenTelemetry's semantic conventions (1.42) have a word it is taken from them; all others begin with `eventkit.`.

pub use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
    MESSAGING_BATCH_MESSAGE_COUNT, MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_SUBSCRIPTION_NAME, MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM, NETWORK_PROTOCOL_VERSION, RPC_METHOD, RPC_RESPONSE_STATUS_CODE,
    RPC_SYSTEM_NAME, URL_SCHEME,
};

/// One message of a stream, from its arrival to its answer: a part of the stream's span.
pub const BATCH_MESSAGE: &str = "batch message";
/// The group commit that made events durable: a root, linked to the requests whose events it holds.
pub const WAL_APPEND: &str = "wal append";
/// The decision which events form a batch: the root of the batch's trace, linked to its requests.
pub const SEAL: &str = "seal";
/// A batch on its way to the queue, until the queue has taken it.
pub const SEND: &str = "send";
/// A batch on its way from the queue to a worker.
pub const RECEIVE: &str = "receive";
/// One run at its worker, from the first look to the settlement; linked to further batches of the run and to its requests.
pub const PROCESS: &str = "process";
/// One write to the event store or the error store, all its attempts.
pub const STORE_WRITE: &str = "store write";
/// The worker's word to the queue: forget it, or deliver it again.
pub const SETTLE: &str = "settle";
/// In the sender's own trace: its events are in the store.
pub const STORED: &str = "stored";
/// One list of objects on its way into the warehouse: a root, linked to the requests whose events they hold.
pub const MANIFEST: &str = "manifest";
/// The objects' rows become staged ones.
pub const LOAD_JOB: &str = "load job";
/// Staged rows become rows of the tables.
pub const MERGE: &str = "merge";
/// In the sender's own trace: its events are in the warehouse.
pub const LOADED: &str = "loaded";

/// A span event: an attempt failed and is made again.
pub const RETRY: &str = "retry";
/// A span event: it failed for good.
pub const FAILURE: &str = "failure";

/// What the conventions have for a word that is not on a list.
pub const OTHER: &str = "_OTHER";

/// Which attempt it is, from 1; of a whole that has several, the last one.
pub const ATTEMPT: &str = "eventkit.attempt";
/// Distinct requests that a span or an object could not name, because it names only so many.
pub const LINKS_LEFT_OUT: &str = "eventkit.links_left_out";
/// How many events.
pub const EVENT_COUNT: &str = "eventkit.event.count";
/// How many of them were accepted.
pub const ACCEPTED: &str = "eventkit.event.accepted";
/// How many of them were there before.
pub const DUPLICATE: &str = "eventkit.event.duplicate";
/// How many of them were rejected.
pub const REJECTED: &str = "eventkit.event.rejected";
/// How many appends share a group commit.
pub const APPENDS: &str = "eventkit.wal.appends";
/// Seconds that the oldest append of a group waited before the group was begun.
pub const WAIT_SECONDS: &str = "eventkit.wal.wait";
/// Seconds that the sync took.
pub const SYNC_SECONDS: &str = "eventkit.wal.sync";
/// The id of a log.
pub const LOG_ID: &str = "eventkit.log.id";
/// A batch's lane.
pub const LANE: &str = "eventkit.lane";
/// A batch's number in its lane.
pub const BATCH_NUMBER: &str = "eventkit.batch.number";
/// The offset of a batch's first event.
pub const FIRST_OFFSET: &str = "eventkit.batch.first_offset";
/// The offset of a batch's last event.
pub const LAST_OFFSET: &str = "eventkit.batch.last_offset";
/// Whether a batch is sent again: after a restart, or because the queue lost it.
pub const SENT_AGAIN: &str = "eventkit.batch.sent_again";
/// What a write holds: `events` or `errors`.
pub const KIND: &str = "eventkit.store.kind";
/// An object's name.
pub const OBJECT: &str = "eventkit.object.name";
/// An object's bytes.
pub const OBJECT_BYTES: &str = "eventkit.object.size";
/// Whether the object was there before.
pub const EXISTED: &str = "eventkit.object.existed";
/// What a worker said of a batch: `acknowledged` or `given_back`.
pub const SETTLEMENT: &str = "eventkit.settlement";
/// A manifest's number.
pub const MANIFEST_NUMBER: &str = "eventkit.manifest.number";
/// A manifest's attempt.
pub const MANIFEST_ATTEMPT: &str = "eventkit.manifest.attempt";
/// How many objects a manifest lists.
pub const MANIFEST_OBJECTS: &str = "eventkit.manifest.objects";
/// A warehouse's id of a job.
pub const JOB_ID: &str = "eventkit.job.id";
/// The same of the job that loads errors, beside the one that loads events.
pub const ERRORS_JOB_ID: &str = "eventkit.job.errors_id";
/// Rows.
pub const ROWS: &str = "eventkit.rows";
/// Rows that the merge inserted.
pub const ROWS_MERGED: &str = "eventkit.rows.merged";
/// Rows that the merge left out because their key was there.
pub const ROWS_DUPLICATE: &str = "eventkit.rows.duplicate";
