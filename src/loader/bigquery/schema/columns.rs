//! The columns of each table, of a type of ours that is one of BigQuery's.

use gcp_bigquery_client::model::field_type::FieldType;

use crate::store::Table;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::loader::bigquery) struct Column {
    pub(in crate::loader::bigquery) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bytes,
    Integer,
    Time,
}

impl Kind {
    /// As in DDL.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Text => "STRING",
            Self::Bytes => "BYTES",
            Self::Integer => "INT64",
            Self::Time => "TIMESTAMP",
        }
    }

    pub(super) fn field(self) -> FieldType {
        match self {
            Self::Text => FieldType::String,
            Self::Bytes => FieldType::Bytes,
            Self::Integer => FieldType::Integer,
            Self::Time => FieldType::Timestamp,
        }
    }

    pub(super) fn is(self, field: &FieldType) -> bool {
        matches!(
            (self, field),
            (Self::Text, FieldType::String)
                | (Self::Bytes, FieldType::Bytes)
                | (Self::Integer, FieldType::Integer | FieldType::Int64)
                | (Self::Time, FieldType::Timestamp)
        )
    }
}

const fn required(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        required: true,
    }
}

pub(super) const fn nullable(name: &'static str, kind: Kind) -> Column {
    Column {
        name,
        kind,
        required: false,
    }
}

/// The columns of the table of events.
const EVENTS: &[Column] = &[
    required("message_id", Kind::Text),
    required("source", Kind::Text),
    required("type", Kind::Text),
    required("stream", Kind::Text),
    nullable("user_id", Kind::Text),
    nullable("anonymous_id", Kind::Text),
    nullable("event", Kind::Text),
    nullable("name", Kind::Text),
    nullable("category", Kind::Text),
    nullable("group_id", Kind::Text),
    nullable("previous_id", Kind::Text),
    nullable("properties", Kind::Text),
    nullable("traits", Kind::Text),
    nullable("context", Kind::Text),
    nullable("integrations", Kind::Text),
    nullable("extra", Kind::Text),
    required("timestamp", Kind::Time),
    nullable("original_timestamp", Kind::Time),
    nullable("sent_at", Kind::Time),
    required("received_at", Kind::Time),
    required("node", Kind::Text),
    required("log_id", Kind::Text),
    required("lane", Kind::Integer),
    required("offset", Kind::Integer),
    nullable("trace_id", Kind::Text),
];

/// The columns of the table of error rows.
const ERRORS: &[Column] = &[
    required("log_id", Kind::Text),
    required("offset", Kind::Integer),
    required("original_hash", Kind::Text),
    required("original", Kind::Bytes),
    required("original_format", Kind::Text),
    required("stage", Kind::Text),
    required("code", Kind::Text),
    required("reason", Kind::Text),
    required("source", Kind::Text),
    required("message_id", Kind::Text),
    required("stream", Kind::Text),
    required("received_at", Kind::Time),
    required("node", Kind::Text),
    required("lane", Kind::Integer),
    nullable("trace_id", Kind::Text),
];

/// What the loader remembers of manifests. One is `merged` until it is recorded; its counts are those of the merge.
pub(super) const MANIFESTS: &[Column] = &[
    required("number", Kind::Integer),
    required("status", Kind::Text),
    nullable("reason", Kind::Text),
    required("attempt", Kind::Integer),
    required("created_at", Kind::Text),
    nullable("merged_at", Kind::Time),
    nullable("recorded_at", Kind::Time),
    required("objects", Kind::Text),
    required("rows", Kind::Integer),
    required("events_inserted", Kind::Integer),
    required("events_duplicate", Kind::Integer),
    required("errors_inserted", Kind::Integer),
    required("errors_duplicate", Kind::Integer),
    required("errors_superseded", Kind::Integer),
    required("errors_removed", Kind::Integer),
];

/// What the loader remembers of objects.
pub(super) const OBJECTS: &[Column] = &[
    required("object", Kind::Text),
    required("table", Kind::Text),
    required("manifest", Kind::Integer),
    required("loaded_at", Kind::Time),
    required("rows", Kind::Integer),
];

/// The columns of rows of a table.
pub(in crate::loader::bigquery) const fn columns(table: Table) -> &'static [Column] {
    match table {
        Table::Events => EVENTS,
        Table::Errors => ERRORS,
    }
}

/// The quoted names of the columns, as a list, each after `before`.
pub(in crate::loader::bigquery) fn list(columns: &[Column], before: &str) -> String {
    let names = columns.iter().map(|c| format!("{before}`{}`", c.name));
    names.collect::<Vec<_>>().join(", ")
}
