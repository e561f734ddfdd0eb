//! Does the store know more of the log than the log itself?
//!
//! Then the log was restored from an older copy, its mark with it: nothing inside the log can notice that. It would give
//! offsets a second time, and in the warehouse an event and the error row of another one would meet under one offset, where the row
//! wins: a silent loss. So the log is refused until it has an id of its own.
//!
//! A store that is out cannot tell, and must not prevent the start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::event::{BatchId, DAY_MICROS, Day, LogId, Offset};
use crate::store::objects::Table;
use crate::store::{Disposition, Objects, WriteError};
use crate::wal::Wal;
use crate::wal::advice::repair_command;

/// How long the store may take to tell.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Lists under way at a time.
const CONCURRENCY: usize = 16;

/// The log is an older copy of itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum AheadError {
    /// Its offsets would be given twice.
    #[error(
        "the log at {log} was restored from an older copy: the store at {store} holds events of it up to offset {highest}, and the log \
         ends before offset {next}. Offsets {next} to {highest} were acknowledged after the copy was made; those that are in the \
         store are not lost, those that only the newer log held are. `{repair} --new-id` gives the log an id of its own, so that no \
         offset stands for two events; it deletes nothing",
        repair = repair_command(log)
    )]
    Restored {
        /// The log.
        log: PathBuf,
        /// The store.
        store: String,
        /// The first offset that the log would give again.
        next: Offset,
        /// The highest offset of it that the store holds.
        highest: Offset,
    },
    /// The store refuses to tell.
    #[error("look for the log's objects in the store at {store}")]
    Store {
        /// The store.
        store: String,
        /// Why.
        #[source]
        source: WriteError,
    },
}

/// Where the log's objects are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its objects.
    pub(super) objects: &'a dyn Objects,
    /// What a person calls it.
    pub(super) name: &'a str,
    /// How its names are asked for.
    pub(super) asked: Asked,
}

/// How names are asked for: a directory is read whole each time, a bucket answers a thousand at a time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// Few lists, each of many names.
    Whole,
    /// Several lists at the same time, each of a page.
    #[cfg_attr(
        not(any(test, feature = "cloud")),
        expect(dead_code, reason = "what a bucket is asked")
    )]
    InParts,
}

/// Compares the log with the names of the store's objects, from the day before the log's newest record on: an object that
/// was written after a copy of the log was made lies there.
pub(super) async fn check(wal: &Wal, log: &Path, place: Place<'_>) -> Result<(), AheadError> {
    let next = *wal.durable().borrow();
    let since = Day::of(wal.newest_received_at().saturating_sub(DAY_MICROS));
    let search = tokio::time::timeout(TIME_LIMIT, highest(place, wal.log_id(), since));
    let action = "a log that was restored from an older copy would not be noticed at this start";
    let highest = match search.await {
        Ok(Ok(highest)) => highest,
        Ok(Err(error)) if error.disposition() == Disposition::Retry => {
            tracing::warn!(store = place.name, %error, action, "log_not_compared_with_store");
            None
        }
        Ok(Err(source)) => {
            let store = place.name.to_owned();
            return Err(AheadError::Store { store, source });
        }
        Err(elapsed) => {
            tracing::warn!(store = place.name, error = %elapsed, action, "log_not_compared_with_store");
            None
        }
    };
    match highest {
        Some(highest) if highest >= next => Err(AheadError::Restored {
            log: log.to_owned(),
            store: place.name.to_owned(),
            next,
            highest,
        }),
        _ => Ok(()),
    }
}

async fn highest(
    place: Place<'_>,
    log_id: LogId,
    since: Day,
) -> Result<Option<Offset>, WriteError> {
    // Names of a log begin with its id and the lane, of which there may have been more than there are now.
    let (stems, page) = match place.asked {
        Asked::Whole => (vec![format!("{log_id}-")], 100_000),
        Asked::InParts => {
            let stems = (0..10).map(|digit| format!("{log_id}-{digit}"));
            (stems.collect(), 1_000)
        }
    };
    let mut lists = Vec::new();
    for table in [Table::Events, Table::Errors] {
        for day in days(place.objects, table, since).await? {
            let lists_of_day = stems.iter().map(|stem| (day.clone(), stem));
            lists.extend(lists_of_day);
        }
    }
    let lists: Vec<_> = lists
        .into_iter()
        .map(|(day, stem)| highest_in(place.objects, day, stem, page))
        .collect();
    stream::iter(lists)
        .buffer_unordered(CONCURRENCY)
        .try_fold(None, async |highest, found| Ok(found.max(highest)))
        .await
}

/// The folders of a table's days from one day on, by the first name of each.
async fn days(objects: &dyn Objects, table: Table, since: Day) -> Result<Vec<String>, WriteError> {
    let folder = format!("{}/", table.as_str());
    let mut days = Vec::new();
    let mut after = format!("{folder}dt={since}");
    while let Some(name) = objects.list(&folder, Some(&after), 1).await?.pop() {
        let day = name
            .strip_prefix(&folder)
            .and_then(|rest| rest.split_once('/'));
        after = match day {
            // In the order of names `0` follows the slash, and so what begins with it follows all of the day's objects.
            Some((day, _)) => {
                days.push(format!("{folder}{day}/"));
                format!("{folder}{day}0")
            }
            None => name,
        };
    }
    Ok(days)
}

/// The highest offset among the names in a folder that begin with the stem.
async fn highest_in(
    objects: &dyn Objects,
    folder: String,
    stem: &str,
    page: usize,
) -> Result<Option<Offset>, WriteError> {
    let first = format!("{folder}{stem}");
    let mut after = first.clone();
    let mut highest = None;
    loop {
        let names = objects.list(&folder, Some(&after), page).await?;
        for name in &names {
            if !name.starts_with(&first) {
                return Ok(highest);
            }
            let batch = name
                .strip_prefix(&folder)
                .and_then(|name| name.strip_suffix(".parquet"))
                .and_then(BatchId::parse);
            highest = highest.max(batch.map(|batch| batch.last));
        }
        match names.into_iter().last() {
            Some(last) => after = last,
            None => return Ok(highest),
        }
    }
}

#[cfg(test)]
mod tests;
