//! The tables of `warehouse.db`.
//!
//! Columns have the names of the one wide row. Times are TEXT, ISO 8601 in UTC with microseconds and `Z`
//! (`2026-01-31T23:59:59.000001Z`): pleasant in the `sqlite3` shell, and text sorts as time does. The JSON columns are
//! TEXT, byte for byte as the client wrote them, for `json_extract` and `->>`.
//!
//! `user_version` counts changes that an older program could not live with. New columns are nullable and do not change
//! it, so that one step back is possible.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// `PRAGMA application_id`: says that a file is ours. "evkt" in ASCII.
const APPLICATION_ID: i64 = 0x6576_6b74;

/// `PRAGMA user_version`.
const VERSION: i64 = 1;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// Its name, the same in every warehouse.
    pub(super) name: &'static str,
    affinity: &'static str,
    required: bool,
}

const fn required(name: &'static str, affinity: &'static str) -> Column {
    Column {
        name,
        affinity,
        required: true,
    }
}

const fn nullable(name: &'static str, affinity: &'static str) -> Column {
    Column {
        name,
        affinity,
        required: false,
    }
}

/// The columns of `events`, in the order in which [`super::stage`] binds them.
pub(super) const EVENTS: &[Column] = &[
    required("message_id", "TEXT"),
    required("source", "TEXT"),
    required("type", "TEXT"),
    required("stream", "TEXT"),
    nullable("user_id", "TEXT"),
    nullable("anonymous_id", "TEXT"),
    nullable("event", "TEXT"),
    nullable("name", "TEXT"),
    nullable("category", "TEXT"),
    nullable("group_id", "TEXT"),
    nullable("previous_id", "TEXT"),
    nullable("properties", "TEXT"),
    nullable("traits", "TEXT"),
    nullable("context", "TEXT"),
    nullable("integrations", "TEXT"),
    nullable("extra", "TEXT"),
    required("timestamp", "TEXT"),
    nullable("original_timestamp", "TEXT"),
    nullable("sent_at", "TEXT"),
    required("received_at", "TEXT"),
    required("node", "TEXT"),
    required("log_id", "TEXT"),
    required("lane", "INTEGER"),
    required("offset", "INTEGER"),
    nullable("trace_id", "TEXT"),
];

/// The columns of `errors`, in the order in which [`super::stage`] binds them.
pub(super) const ERRORS: &[Column] = &[
    required("log_id", "TEXT"),
    required("offset", "INTEGER"),
    required("original_hash", "TEXT"),
    required("original", "BLOB"),
    required("original_format", "TEXT"),
    required("stage", "TEXT"),
    required("code", "TEXT"),
    required("reason", "TEXT"),
    required("source", "TEXT"),
    required("message_id", "TEXT"),
    required("stream", "TEXT"),
    required("received_at", "TEXT"),
    required("node", "TEXT"),
    required("lane", "INTEGER"),
    nullable("trace_id", "TEXT"),
];

/// Keys first, then what makes "this user's last events" quick. Each statement may be repeated.
const INDEXES: &str = r#"
CREATE UNIQUE INDEX IF NOT EXISTS events_key ON events (source, message_id);
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_id, received_at) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_anonymous ON events (anonymous_id, received_at) WHERE anonymous_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_stream ON events (stream, received_at);
CREATE INDEX IF NOT EXISTS events_by_time ON events (received_at);
CREATE INDEX IF NOT EXISTS events_by_offset ON events (log_id, "offset");
CREATE UNIQUE INDEX IF NOT EXISTS errors_key ON errors (log_id, "offset", original_hash);
CREATE INDEX IF NOT EXISTS errors_by_event ON errors (source, message_id);
CREATE INDEX IF NOT EXISTS errors_by_time ON errors (received_at);
"#;

/// What the loader itself remembers. A manifest is `merged` until it is recorded; its counts are those of the merge.
const RECORDS: &str = r#"
CREATE TABLE IF NOT EXISTS _loaded_manifests (
    number INTEGER PRIMARY KEY,
    status TEXT NOT NULL,
    reason TEXT,
    attempt INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    merged_at TEXT,
    recorded_at TEXT,
    objects TEXT NOT NULL,
    "rows" INTEGER NOT NULL,
    events_inserted INTEGER NOT NULL DEFAULT 0,
    events_duplicate INTEGER NOT NULL DEFAULT 0,
    errors_inserted INTEGER NOT NULL DEFAULT 0,
    errors_duplicate INTEGER NOT NULL DEFAULT 0,
    errors_superseded INTEGER NOT NULL DEFAULT 0,
    errors_removed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS _loaded_objects (
    object TEXT PRIMARY KEY,
    "table" TEXT NOT NULL,
    manifest INTEGER NOT NULL,
    loaded_at TEXT NOT NULL,
    "rows" INTEGER NOT NULL
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS _loaded_files AS
    SELECT object, "table", manifest, loaded_at, "rows" FROM _loaded_objects;
"#;

/// Why a file is not used as the warehouse.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Foreign(String),
    #[error("schema version {0}")]
    Newer(i64),
}

/// Makes what is missing, in one transaction.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), SchemaError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if check(&transaction)? == Found::Nothing {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    table(&transaction, "events", EVENTS)?;
    table(&transaction, "errors", ERRORS)?;
    transaction.execute_batch(INDEXES)?;
    transaction.execute_batch(RECORDS)?;
    transaction.commit()?;
    Ok(())
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No tables at all.
    Nothing,
    /// Our tables.
    Warehouse,
}

/// Refuses files that are not ours, or that a later version made. Changes nothing.
pub(super) fn check(connection: &Connection) -> Result<Found, SchemaError> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    match (number("application_id")?, number("user_version")?, tables) {
        (0, 0, 0) => Ok(Found::Nothing),
        (APPLICATION_ID, VERSION, _) => Ok(Found::Warehouse),
        (APPLICATION_ID, newer, _) if newer > VERSION => Err(SchemaError::Newer(newer)),
        (APPLICATION_ID, unknown, _) => Err(SchemaError::Foreign(format!(
            "no version of this program writes schema version {unknown}"
        ))),
        _ => Err(SchemaError::Foreign(
            "another program's tables are in it".to_owned(),
        )),
    }
}

fn table(transaction: &Transaction<'_>, name: &str, columns: &[Column]) -> Result<(), SchemaError> {
    transaction.execute_batch(&create("TABLE IF NOT EXISTS", name, columns))?;
    for column in columns {
        let exists: bool = transaction.query_row(
            "SELECT count(*) > 0 FROM pragma_table_info(?1) WHERE name = ?2",
            params![name, column.name],
            |row| row.get(0),
        )?;
        match (exists, column.required) {
            (true, _) => {}
            (false, false) => transaction.execute_batch(&format!(
                "ALTER TABLE {name} ADD COLUMN \"{}\" {}",
                column.name, column.affinity
            ))?,
            (false, true) => {
                return Err(SchemaError::Foreign(format!(
                    "table {name} has no column {}",
                    column.name
                )));
            }
        }
    }
    Ok(())
}

/// Where a load leaves its rows: temporary tables, so that they are this connection's alone and vanish with it.
///
/// The index gives the merge its order without sorting whole rows.
pub(super) fn staging() -> String {
    format!(
        r#"{};
{};
CREATE INDEX IF NOT EXISTS temp.staged_events_order ON staged_events (received_at, log_id, "offset");"#,
        create("TEMP TABLE IF NOT EXISTS", "staged_events", EVENTS),
        create("TEMP TABLE IF NOT EXISTS", "staged_errors", ERRORS),
    )
}

fn create(what: &str, name: &str, columns: &[Column]) -> String {
    let definitions: Vec<String> = columns
        .iter()
        .map(|column| {
            let null = if column.required { " NOT NULL" } else { "" };
            format!("\"{}\" {}{null}", column.name, column.affinity)
        })
        .collect();
    format!("CREATE {what} {name} ({})", definitions.join(", "))
}

/// The quoted names of the columns, as a list.
pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<String> = columns
        .iter()
        .map(|column| format!("\"{}\"", column.name))
        .collect();
    names.join(", ")
}

/// One placeholder per column, as a list.
pub(super) fn placeholders(columns: &[Column]) -> String {
    vec!["?"; columns.len()].join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::parquet::{errors_schema, events_schema};

    #[test]
    fn the_columns_are_those_of_the_files() {
        for (columns, schema) in [
            (EVENTS, events_schema().unwrap()),
            (ERRORS, errors_schema().unwrap()),
        ] {
            let files: Vec<_> = schema
                .fields()
                .iter()
                .map(|field| (field.name().as_str(), !field.is_nullable()))
                .collect();
            let ours: Vec<_> = columns.iter().map(|c| (c.name, c.required)).collect();
            assert_eq!(ours, files);
        }
    }
}
