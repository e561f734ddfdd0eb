//! The SQL of a merge and of a record: one script, one transaction.
//!
//! Without a manifest's staging part its half is left out. No subquery is correlated: repeats are found by a join, the keys of
//! error rows by `IN`. `@@row_count` gives the counts, which are committed with the rows.

use std::fmt::Write as _;

use super::names::Names;
use super::schema::{columns, list};
use super::stage::{Part, Staging};
use crate::event::Day;
use crate::store::Table;

/// The first and the last day that TIMESTAMP holds: 0001-01-01 and 9999-12-31.
const DAYS: (i32, i32) = (-719_162, 2_932_896);

/// A place in a log, as one text. All parts are required columns.
fn place(of: &str) -> String {
    format!("CONCAT({of}log_id, ' ', CAST({of}`offset` AS STRING))")
}

/// The key of an event, as one text. The length tells `a` and `bc` from `ab` and `c`.
fn key(of: &str) -> String {
    format!("CONCAT(CAST(LENGTH({of}source) AS STRING), ':', {of}source, {of}message_id)")
}

/// The days around these, as ranges from a first day to the day after the last.
fn ranges(days: impl IntoIterator<Item = Day>, around: u32) -> Vec<(i32, i32)> {
    let around = i32::try_from(around).unwrap_or(i32::MAX);
    let mut days: Vec<i32> = days.into_iter().map(|day| day.0).collect();
    days.sort_unstable();
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for day in days {
        let first = day.saturating_sub(around).clamp(DAYS.0, DAYS.1);
        let end = day
            .saturating_add(around)
            .clamp(DAYS.0, DAYS.1)
            .saturating_add(1);
        match ranges.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => ranges.push((first, end)),
        }
    }
    ranges
}

/// The condition that a row was received in one of these ranges, in constants: they choose the partitions.
fn received_in(ranges: &[(i32, i32)]) -> String {
    let ranges = ranges.iter().map(|&(first, end)| {
        let first = format!("received_at >= TIMESTAMP '{} 00:00:00+00:00'", Day(first));
        if end > DAYS.1 {
            return format!("({first})");
        }
        format!(
            "({first} AND received_at < TIMESTAMP '{} 00:00:00+00:00')",
            Day(end)
        )
    });
    format!("({})", ranges.collect::<Vec<_>>().join(" OR "))
}

/// What a merge is told beside its staging; `@objects` and `@now` are parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merge<'a> {
    pub(super) names: &'a Names,
    pub(super) number: u64,
    pub(super) attempt: u32,
    pub(super) rows: u64,
    pub(super) dedup_days: u32,
}

impl Merge<'_> {
    /// Everything, or nothing if the manifest is merged.
    pub(super) fn script(&self, staging: &Staging) -> String {
        let parts = [&staging.events, &staging.errors];
        let days = parts
            .into_iter()
            .flatten()
            .flat_map(|part| part.days.clone());
        let window = received_in(&ranges(days, self.dedup_days));
        let manifests = self.names.quoted(&self.names.manifests());
        let mut sql = format!(
            "DECLARE staged_events, events_inserted, staged_errors, errors_inserted, errors_superseded, errors_removed INT64 DEFAULT 0;
BEGIN TRANSACTION;
IF NOT EXISTS (SELECT 1 FROM {manifests} WHERE number = {}) THEN
",
            self.number
        );
        if let Some(events) = &staging.events {
            sql.push_str(&self.events(events, &window));
        }
        if let Some(errors) = &staging.errors {
            sql.push_str(&self.errors(errors, &window));
        }
        write!(
            sql,
            "INSERT INTO {manifests} (number, status, attempt, created_at, merged_at, objects, `rows`,
  events_inserted, events_duplicate, errors_inserted, errors_duplicate, errors_superseded, errors_removed)
VALUES ({}, 'merged', {}, @created_at, TIMESTAMP_MICROS(@now), @objects, {},
  events_inserted, staged_events - events_inserted,
  errors_inserted, staged_errors - errors_inserted - errors_superseded, errors_superseded, errors_removed);
END IF;
COMMIT TRANSACTION;
",
            self.number, self.attempt, self.rows
        )
        .expect("a String takes any text");
        sql
    }

    fn events(&self, staged: &Part, window: &str) -> String {
        let from = self.names.quoted(&staged.table);
        let events = self.names.quoted(&self.names.rows(Table::Events));
        let errors = self.names.quoted(&self.names.rows(Table::Errors));
        let columns = columns(Table::Events);
        format!(
            "SET staged_events = (SELECT COUNT(*) FROM {from});
INSERT INTO {events} ({})
SELECT {}
FROM (
  SELECT * FROM {from} WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY source, message_id ORDER BY received_at, log_id, `offset`) = 1
) AS s
LEFT JOIN (SELECT DISTINCT source, message_id FROM {events} WHERE {window}) AS k
ON k.source = s.source AND k.message_id = s.message_id
WHERE k.message_id IS NULL;
SET events_inserted = @@row_count;
DELETE FROM {errors} WHERE {window} AND (
  {} IN (SELECT {} FROM {from})
  OR {} IN (SELECT {} FROM {from}));
SET errors_removed = @@row_count;
",
            list(columns, ""),
            list(columns, "s."),
            place(""),
            place(""),
            key(""),
            key("")
        )
    }

    /// After the events, so that an event and its error row in one manifest meet as well.
    fn errors(&self, staged: &Part, window: &str) -> String {
        let from = self.names.quoted(&staged.table);
        let events = self.names.quoted(&self.names.rows(Table::Events));
        let errors = self.names.quoted(&self.names.rows(Table::Errors));
        let columns = columns(Table::Errors);
        let superseded = format!(
            "({} IN (SELECT {} FROM {events} WHERE {window})
  OR {} IN (SELECT {} FROM {events} WHERE {window}))",
            place(""),
            place(""),
            key(""),
            key("")
        );
        format!(
            "SET staged_errors = (SELECT COUNT(*) FROM {from});
SET errors_superseded = (SELECT COUNT(*) FROM {from} WHERE {superseded});
INSERT INTO {errors} ({})
SELECT {}
FROM (
  SELECT * FROM {from} WHERE NOT {superseded}
  QUALIFY ROW_NUMBER() OVER (PARTITION BY log_id, `offset`, original_hash ORDER BY received_at) = 1
) AS s
LEFT JOIN (SELECT DISTINCT log_id, `offset`, original_hash FROM {errors} WHERE {window}) AS k
ON k.log_id = s.log_id AND k.`offset` = s.`offset` AND k.original_hash = s.original_hash
WHERE k.log_id IS NULL;
SET errors_inserted = @@row_count;
",
            list(columns, ""),
            list(columns, "s.")
        )
    }
}

/// The record of a manifest, unless it is recorded. `@status`, `@reason`, `@created_at`, `@now`, `@objects` and, for a loaded one,
/// `@names`, `@tables`, `@counts` are parameters.
pub(super) fn record(
    names: &Names,
    (number, attempt, rows): (u64, u32, u64),
    counts: [u64; 6],
    has_objects: bool,
) -> String {
    let manifests = names.quoted(&names.manifests());
    let counts = counts.map(|count| count.to_string()).join(", ");
    let mut sql = format!(
        "BEGIN TRANSACTION;
IF NOT EXISTS (SELECT 1 FROM {manifests} WHERE number = {number} AND (status <> 'merged' OR @objects NOT IN (objects, '[]'))) THEN
IF EXISTS (SELECT 1 FROM {manifests} WHERE number = {number}) THEN
UPDATE {manifests} SET status = @status, reason = NULLIF(@reason, ''), recorded_at = TIMESTAMP_MICROS(@now) WHERE number = {number};
ELSE
INSERT INTO {manifests} (number, status, reason, attempt, created_at, recorded_at, objects, `rows`,
  events_inserted, events_duplicate, errors_inserted, errors_duplicate, errors_superseded, errors_removed)
VALUES ({number}, @status, NULLIF(@reason, ''), {attempt}, @created_at, TIMESTAMP_MICROS(@now), @objects, {rows}, {counts});
END IF;
"
    );
    if has_objects {
        let objects = names.quoted(&names.objects());
        write!(
            sql,
            "INSERT INTO {objects} (object, `table`, manifest, loaded_at, `rows`)
SELECT o, @tables[OFFSET(i)], {number}, TIMESTAMP_MICROS(@now), @counts[OFFSET(i)]
FROM UNNEST(@names) AS o WITH OFFSET AS i
WHERE o NOT IN (SELECT object FROM {objects} WHERE object IN UNNEST(@names));
"
        )
        .expect("a String takes any text");
    }
    sql.push_str("END IF;\nCOMMIT TRANSACTION;\n");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::loader::Manifest;
    use crate::loader::bigquery::BigQueryOptions;

    fn names() -> Names {
        let endpoint = Endpoint::emulator("localhost:1");
        let options = BigQueryOptions::new(endpoint, "p", "d", "t", "b");
        Names::new(&options).unwrap()
    }

    fn part(table: &str, days: &[i32]) -> Part {
        Part {
            table: table.to_owned(),
            rows: 1,
            days: days.iter().map(|&day| Day(day)).collect(),
        }
    }

    fn merge(events: Option<Part>, errors: Option<Part>) -> String {
        let manifest = Manifest {
            version: 1,
            number: 7,
            attempt: 2,
            created_at: String::new(),
            objects: Vec::new(),
        };
        let mut staging = Staging::none(&manifest);
        (staging.events, staging.errors) = (events, errors);
        let names = names();
        let merge = Merge {
            names: &names,
            number: 7,
            attempt: 2,
            rows: 3,
            dedup_days: 3,
        };
        merge.script(&staging)
    }

    #[test]
    fn the_scripts_are_these() {
        let both = merge(
            Some(part("t_staging_e", &[20_484])),
            Some(part("t_staging_r", &[20_484])),
        );
        insta::assert_snapshot!("merge", both);
        let record = record(&names(), (7, 2, 3), [1, 2, 3, 4, 5, 6], true);
        insta::assert_snapshot!("record", record);
    }

    #[test]
    fn a_part_that_was_not_staged_is_not_asked_for() {
        let events = merge(Some(part("t_staging_e", &[1])), None);
        assert!(events.contains("t_staging_e") && !events.contains("SET staged_errors"));
        let errors = merge(None, Some(part("t_staging_r", &[1])));
        assert!(errors.contains("t_staging_r") && !errors.contains("SET staged_events"));
    }

    #[test]
    fn the_window_is_days_around_each_received_day_and_one_wild_clock_does_not_widen_it() {
        let days = |days: &[i32], around| ranges(days.iter().map(|&day| Day(day)), around);
        for (given, around, expected) in [
            (&[10] as &[_], 3, &[(7, 14)] as &[_]),
            (&[10, 10, 11], 3, &[(7, 15)]),
            (&[17, 10], 3, &[(7, 21)]),
            (&[10, 18], 3, &[(7, 14), (15, 22)]),
            (&[10, 9_000], 3, &[(7, 14), (8_997, 9_004)]),
            (&[10], 0, &[(10, 11)]),
            (&[-719_162], 3, &[(-719_162, -719_158)]),
            (&[2_932_896], 3, &[(2_932_893, 2_932_897)]),
        ] {
            assert_eq!(days(given, around), expected, "{given:?}");
        }
        let sql = received_in(&days(&[0, 20_484], 1));
        assert_eq!(
            sql,
            "((received_at >= TIMESTAMP '1969-12-31 00:00:00+00:00' AND received_at < TIMESTAMP '1970-01-03 00:00:00+00:00') \
             OR (received_at >= TIMESTAMP '2026-01-30 00:00:00+00:00' AND received_at < TIMESTAMP '2026-02-02 00:00:00+00:00'))"
        );
        let last = received_in(&days(&[2_932_896], 0));
        assert_eq!(
            last,
            "((received_at >= TIMESTAMP '9999-12-31 00:00:00+00:00'))"
        );
    }
}
