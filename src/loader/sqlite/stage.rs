//! An object's rows into the staging tables.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rusqlite::{Connection, Statement, params};

use super::super::iso::iso;
use super::schema::{ERRORS, EVENTS, names, placeholders};
use crate::store::parquet::{DecodeError, RowReader, read_errors, read_events};
use crate::store::{ErrorRow, Row, Table};

/// Why an object was not staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// The database failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The object cannot be read; the text holds nothing of its rows.
    #[error("{0}")]
    Object(String),
}

/// Empties the staging tables.
pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DELETE FROM temp.staged_events; DELETE FROM temp.staged_errors;")
}

/// Stages one object, in one transaction, a bounded number of rows at a time; answers how many.
pub(super) fn object(
    connection: &mut Connection,
    table: Table,
    file: Bytes,
) -> Result<u64, StageError> {
    let transaction = connection.transaction()?;
    let rows = match table {
        Table::Events => {
            let sql = insert("staged_events", &names(EVENTS), &placeholders(EVENTS));
            let mut statement = transaction.prepare_cached(&sql)?;
            copy(|| read_events(file), |row| event(&mut statement, row))?
        }
        Table::Errors => {
            let sql = insert("staged_errors", &names(ERRORS), &placeholders(ERRORS));
            let mut statement = transaction.prepare_cached(&sql)?;
            copy(|| read_errors(file), |row| error(&mut statement, row))?
        }
    };
    transaction.commit()?;
    Ok(rows)
}

fn insert(table: &str, names: &str, placeholders: &str) -> String {
    format!("INSERT INTO temp.{table} ({names}) VALUES ({placeholders})")
}

fn copy<R>(
    open: impl FnOnce() -> Result<RowReader<R>, DecodeError>,
    mut put: impl FnMut(&R) -> Result<(), StageError>,
) -> Result<u64, StageError> {
    let mut reader = guarded(open)?;
    let mut count = 0;
    while let Some(rows) = guarded(|| reader.next().transpose())? {
        for row in &rows {
            put(row)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Decoding damaged bytes may panic deep inside; that is the object's fault, never an outage.
fn guarded<T>(decode: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, StageError> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StageError::Object(error.to_string())),
        Err(_panic) => Err(StageError::Object("decoding it panicked".to_owned())),
    }
}

fn event(statement: &mut Statement<'_>, row: &Row) -> Result<(), StageError> {
    statement.execute(params![
        row.message_id,
        row.source,
        row.kind,
        row.stream,
        row.user_id,
        row.anonymous_id,
        row.event,
        row.name,
        row.category,
        row.group_id,
        row.previous_id,
        row.properties,
        row.traits,
        row.context,
        row.integrations,
        row.extra,
        iso(row.timestamp),
        row.original_timestamp.map(iso),
        row.sent_at.map(iso),
        iso(row.received_at),
        row.node,
        row.log_id.to_string(),
        row.lane.0,
        signed(row.offset)?,
        row.trace_id,
    ])?;
    Ok(())
}

fn error(statement: &mut Statement<'_>, row: &ErrorRow) -> Result<(), StageError> {
    statement.execute(params![
        row.log_id.to_string(),
        signed(row.offset)?,
        row.original_hash,
        row.original,
        row.original_format.as_ref(),
        row.stage.as_ref(),
        row.code.as_ref(),
        row.reason,
        row.source,
        row.message_id,
        row.stream,
        iso(row.received_at),
        row.node,
        row.lane.0,
        row.trace_id,
    ])?;
    Ok(())
}

fn signed(offset: u64) -> Result<i64, StageError> {
    i64::try_from(offset)
        .map_err(|_over| StageError::Object("an offset is beyond the column's range".to_owned()))
}
