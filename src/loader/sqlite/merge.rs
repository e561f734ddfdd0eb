//! Staged rows into the tables, and the record of it.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::super::iso::iso;
use super::super::manifest::Manifest;
use super::super::warehouse::{Merged, Outcome};
use super::schema::{ERRORS, EVENTS, names};
use crate::event::Micros;

/// An error row of the staging whose event is a row.
const SUPERSEDED: &str = r#"(
    EXISTS (SELECT 1 FROM main.events AS e WHERE e.log_id = s.log_id AND e."offset" = s."offset")
    OR EXISTS (SELECT 1 FROM main.events AS e WHERE e.source = s.source AND e.message_id = s.message_id))"#;

/// Error rows whose event is staged. From the staged rows to the errors, each by an index.
const REMOVE_ERRORS: &str = r#"
DELETE FROM main.errors WHERE rowid IN (
    SELECT e.rowid FROM temp.staged_events AS s CROSS JOIN main.errors AS e
        ON e.log_id = s.log_id AND e."offset" = s."offset"
    UNION
    SELECT e.rowid FROM temp.staged_events AS s CROSS JOIN main.errors AS e
        ON e.source = s.source AND e.message_id = s.message_id)"#;

/// What became of a manifest so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// What its merge did.
    pub(super) merged: Merged,
    /// Whether it is recorded.
    pub(super) is_recorded: bool,
}

/// Why nothing was changed.
#[derive(Debug)]
pub(super) enum MergeFailed {
    Sqlite(rusqlite::Error),
    /// The manifest's number was taken for other objects.
    Shared(u64),
}

impl From<rusqlite::Error> for MergeFailed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Looks the manifest up.
fn known(connection: &Connection, manifest: &Manifest) -> Result<Option<Known>, MergeFailed> {
    let found = connection
        .prepare_cached(
            "SELECT events_inserted, events_duplicate, errors_inserted, errors_duplicate,
                errors_superseded, errors_removed, status <> 'merged', objects
            FROM _loaded_manifests WHERE number = ?1",
        )?
        .query_row([signed(manifest.number)], |row| {
            let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            let known = Known {
                merged: Merged {
                    events_inserted: count(0)?,
                    events_duplicate: count(1)?,
                    errors_inserted: count(2)?,
                    errors_duplicate: count(3)?,
                    errors_superseded: count(4)?,
                    errors_removed: count(5)?,
                },
                is_recorded: row.get(6)?,
            };
            Ok((known, row.get::<_, String>(7)?))
        })
        .optional()?;
    match found {
        Some((_, objects)) if !manifest.is_of(&objects) => {
            Err(MergeFailed::Shared(manifest.number))
        }
        found => Ok(found.map(|(known, _)| known)),
    }
}

/// Merges what is staged, once: the counts are committed with the rows, and are the answer to every repetition.
pub(super) fn merge(
    connection: &mut Connection,
    manifest: &Manifest,
    now: Micros,
) -> Result<Merged, MergeFailed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(known) = known(&transaction, manifest)? {
        return Ok(known.merged);
    }
    let mut merged = Merged::default();
    merge_events(&transaction, &mut merged)?;
    merge_errors(&transaction, &mut merged)?;
    insert_manifest(&transaction, manifest, "merged", &merged)?;
    transaction.execute(
        "UPDATE _loaded_manifests SET merged_at = ?2 WHERE number = ?1",
        params![signed(manifest.number), iso(now)],
    )?;
    transaction.commit()?;
    Ok(merged)
}

fn merge_events(transaction: &Transaction<'_>, merged: &mut Merged) -> rusqlite::Result<()> {
    let staged = count(transaction, "SELECT count(*) FROM temp.staged_events")?;
    if staged == 0 {
        return Ok(());
    }
    let columns = names(EVENTS);
    // The first in this order takes the key; the index of the staging gives the order.
    merged.events_inserted = changed(
        transaction,
        &format!(
            r#"INSERT INTO main.events ({columns})
            SELECT {columns} FROM temp.staged_events INDEXED BY staged_events_order
            WHERE true ORDER BY received_at, log_id, "offset"
            ON CONFLICT (source, message_id) DO NOTHING"#
        ),
    )?;
    merged.events_duplicate = staged.saturating_sub(merged.events_inserted);
    if count(transaction, "SELECT EXISTS (SELECT 1 FROM main.errors)")? > 0 {
        merged.errors_removed = changed(transaction, REMOVE_ERRORS)?;
    }
    Ok(())
}

/// After the events, so that an event and its error row in one manifest meet as well.
fn merge_errors(transaction: &Transaction<'_>, merged: &mut Merged) -> rusqlite::Result<()> {
    let staged = count(transaction, "SELECT count(*) FROM temp.staged_errors")?;
    if staged == 0 {
        return Ok(());
    }
    merged.errors_superseded = count(
        transaction,
        &format!("SELECT count(*) FROM temp.staged_errors AS s WHERE {SUPERSEDED}"),
    )?;
    let columns = names(ERRORS);
    merged.errors_inserted = changed(
        transaction,
        &format!(
            r#"INSERT INTO main.errors ({columns})
            SELECT {columns} FROM temp.staged_errors AS s WHERE NOT {SUPERSEDED}
            ORDER BY received_at, log_id, "offset"
            ON CONFLICT (log_id, "offset", original_hash) DO NOTHING"#
        ),
    )?;
    merged.errors_duplicate = staged
        .saturating_sub(merged.errors_superseded)
        .saturating_sub(merged.errors_inserted);
    Ok(())
}

/// Records how the manifest ended, unless that is recorded.
pub(super) fn record(
    connection: &mut Connection,
    manifest: &Manifest,
    outcome: &Outcome,
    now: Micros,
) -> Result<(), MergeFailed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if known(&transaction, manifest)?.is_some_and(|known| known.is_recorded) {
        return Ok(());
    }
    let (merged, reason) = match outcome {
        Outcome::Loaded(merged) => (*merged, None),
        Outcome::Quarantined { reason }
        | Outcome::Superseded { reason }
        | Outcome::Discarded { reason } => (Merged::default(), Some(reason)),
    };
    insert_manifest(&transaction, manifest, outcome.as_str(), &merged)?;
    transaction.execute(
        "UPDATE _loaded_manifests SET status = ?2, reason = ?3, recorded_at = ?4 WHERE number = ?1",
        params![signed(manifest.number), outcome.as_str(), reason, iso(now)],
    )?;
    if matches!(outcome, Outcome::Loaded(_)) {
        let mut statement = transaction.prepare_cached(
            r#"INSERT INTO _loaded_objects (object, "table", manifest, loaded_at, "rows")
            VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (object) DO NOTHING"#,
        )?;
        for object in &manifest.objects {
            statement.execute(params![
                object.object,
                object.table.as_str(),
                signed(manifest.number),
                iso(now),
                signed(object.rows),
            ])?;
        }
    }
    Ok(transaction.commit()?)
}

/// Adds the manifest's row; one that is there stays, with the counts of its merge.
fn insert_manifest(
    transaction: &Transaction<'_>,
    manifest: &Manifest,
    status: &str,
    merged: &Merged,
) -> rusqlite::Result<()> {
    transaction.execute(
        r#"INSERT INTO _loaded_manifests (number, status, attempt, created_at, objects, "rows",
            events_inserted, events_duplicate, errors_inserted, errors_duplicate, errors_superseded, errors_removed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT (number) DO NOTHING"#,
        params![
            signed(manifest.number),
            status,
            manifest.attempt,
            manifest.created_at,
            manifest.object_list(),
            signed(manifest.rows()),
            signed(merged.events_inserted),
            signed(merged.events_duplicate),
            signed(merged.errors_inserted),
            signed(merged.errors_duplicate),
            signed(merged.errors_superseded),
            signed(merged.errors_removed),
        ],
    )?;
    Ok(())
}

fn count(transaction: &Transaction<'_>, sql: &str) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached(sql)?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

fn changed(transaction: &Transaction<'_>, sql: &str) -> rusqlite::Result<u64> {
    let changed = transaction.prepare_cached(sql)?.execute([])?;
    Ok(changed as u64)
}

/// SQLite's integers are signed; counts and manifest numbers stay far below the limit.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
