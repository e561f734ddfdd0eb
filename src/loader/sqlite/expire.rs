//! Old rows out of the tables.
//!
//! The file does not shrink: SQLite reuses the pages that become free.

use rusqlite::{Connection, TransactionBehavior, params};

use super::super::iso::iso;
use super::super::warehouse::Expired;
use crate::event::Micros;

/// A time beyond year 9999 is written with a sign and would sort as the oldest of all; none reaches a row, and should one
/// do, it is not old.
const FIRST: &str = "0";

/// Removes rows that were received before a moment, at most `limit` of each table.
pub(super) fn expire(
    connection: &mut Connection,
    before: Micros,
    limit: u32,
) -> rusqlite::Result<Expired> {
    let before = iso(before);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let remove = |sql| -> rusqlite::Result<u64> {
        let removed = transaction
            .prepare_cached(sql)?
            .execute(params![FIRST, before, limit])?;
        Ok(removed as u64)
    };
    let expired = Expired {
        events: remove(
            "DELETE FROM main.events WHERE rowid IN (
                SELECT rowid FROM main.events WHERE received_at >= ?1 AND received_at < ?2
                ORDER BY received_at LIMIT ?3)",
        )?,
        errors: remove(
            "DELETE FROM main.errors WHERE rowid IN (
                SELECT rowid FROM main.errors WHERE received_at >= ?1 AND received_at < ?2
                ORDER BY received_at LIMIT ?3)",
        )?,
    };
    transaction.commit()?;
    Ok(expired)
}

/// When the oldest row was received.
pub(super) fn oldest(connection: &Connection) -> rusqlite::Result<Option<Micros>> {
    let oldest = |sql| -> rusqlite::Result<Option<String>> {
        connection
            .prepare_cached(sql)?
            .query_row([FIRST], |row| row.get(0))
    };
    let times = [
        oldest("SELECT min(received_at) FROM main.events WHERE received_at >= ?1")?,
        oldest("SELECT min(received_at) FROM main.errors WHERE received_at >= ?1")?,
    ];
    let times = times.iter().flatten();
    Ok(times
        .filter_map(|time| chrono::DateTime::parse_from_rfc3339(time).ok())
        .map(|time| time.timestamp_micros())
        .min())
}
