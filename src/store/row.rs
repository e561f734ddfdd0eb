//! One wide row: the same columns in Parquet, SQLite and every other warehouse.

use std::borrow::Cow;

use crate::event::{Lane, LogId, Micros, Offset};

/// An event as analysts see it. Times are UTC in microseconds; the five JSON columns hold text, byte for byte as the
/// client wrote it (a protobuf `Struct` becomes canonical JSON).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the columns of `store::parquet`")]
pub struct Row {
    pub message_id: String,
    pub source: String,
    pub kind: String,
    pub stream: String,
    pub user_id: Option<String>,
    pub anonymous_id: Option<String>,
    pub event: Option<String>,
    pub name: Option<String>,
    pub category: Option<String>,
    pub group_id: Option<String>,
    pub previous_id: Option<String>,
    pub properties: Option<String>,
    pub traits: Option<String>,
    pub context: Option<String>,
    pub integrations: Option<String>,
    pub extra: Option<String>,
    pub timestamp: Micros,
    pub original_timestamp: Option<Micros>,
    pub sent_at: Option<Micros>,
    pub received_at: Micros,
    pub node: String,
    pub log_id: LogId,
    pub lane: Lane,
    pub offset: Offset,
    /// 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

/// An accepted event that could not become a [`Row`]. Its key is (log id, offset, hash of the original bytes).
///
/// The three words are borrowed where they are written and owned where they are read: a file of a newer version may hold
/// a word that this one does not know.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the columns of `store::parquet`")]
pub struct ErrorRow {
    pub log_id: LogId,
    pub offset: Offset,
    /// xxh3-64 of `original`, 16 hexadecimal digits.
    pub original_hash: String,
    /// The bytes of the event as the client sent them.
    pub original: Vec<u8>,
    /// `json` or `event` (an encoded `eventkit.v1.Event`) or `record` (a log record that could not be read).
    pub original_format: Cow<'static, str>,
    /// Where it failed: `adapt`, `validate` or `store`.
    pub stage: Cow<'static, str>,
    /// One word of the closed list of codes.
    pub code: Cow<'static, str>,
    /// The same for people; never holds values of the event.
    pub reason: String,
    pub source: String,
    pub message_id: String,
    pub stream: String,
    pub received_at: Micros,
    pub node: String,
    pub lane: Lane,
    pub trace_id: Option<String>,
}
