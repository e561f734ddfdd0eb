//! Does the store know more of the log than the log itself?
//!
//! Then the log was restored from an older copy, its mark with it: nothing inside the log can notice that. It would give
//! offsets a second time, and in the warehouse an event and the error row of another one would meet under one offset, where the row
//! wins: a silent loss. So the log is refused until it has an id of its own.

use std::io;
use std::path::{Path, PathBuf};

use crate::event::{BatchId, DAY_MICROS, Day, LogId, Offset};
use crate::store::objects::Table;
use crate::wal::Wal;
use crate::wal::advice::repair_command;

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
        store: PathBuf,
        /// The first offset that the log would give again.
        next: Offset,
        /// The highest offset of it that the store holds.
        highest: Offset,
    },
    /// The store's folders cannot be read.
    #[error("look for the log's objects in the store at {store}")]
    Store {
        /// The store.
        store: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Compares the log with the names of the store's objects, from the day before the log's newest record on: an object that
/// was written after a copy of the log was made lies there.
pub(super) fn check(wal: &Wal, log: &Path, store: &Path) -> Result<(), AheadError> {
    let next = *wal.durable().borrow();
    let since = Day::of(wal.newest_received_at().saturating_sub(DAY_MICROS));
    let highest = highest(store, wal.log_id(), since).map_err(|source| AheadError::Store {
        store: store.to_owned(),
        source,
    })?;
    match highest {
        Some(highest) if highest >= next => Err(AheadError::Restored {
            log: log.to_owned(),
            store: store.to_owned(),
            next,
            highest,
        }),
        _ => Ok(()),
    }
}

fn highest(store: &Path, log_id: LogId, since: Day) -> io::Result<Option<Offset>> {
    let since = format!("dt={since}");
    let mut highest = None;
    for table in [Table::Events, Table::Errors] {
        for day in names(&store.join(table.as_str()))? {
            // Days of four digits sort as text; any other year is looked at, too.
            if day.len() == since.len() && day < since {
                continue;
            }
            for object in names(&store.join(table.as_str()).join(day))? {
                let batch = object.strip_suffix(".parquet").and_then(BatchId::parse);
                let last = batch.filter(|batch| batch.log_id == log_id);
                highest = highest.max(last.map(|batch| batch.last));
            }
        }
    }
    Ok(highest)
}

/// The names in a folder; none when there is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Lane;
    use crate::store::objects::object_name;

    #[test]
    fn the_highest_offset_of_this_log_since_the_day_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (LogId(7), LogId(8));
        let none = highest(dir.path(), ours, Day(20_000)).unwrap();
        assert_eq!(none, None, "no store yet");
        let objects = [
            (Table::Events, Day(20_000), ours, 50),
            (Table::Errors, Day(20_001), ours, 60),
            (Table::Events, Day(19_999), ours, 900),
            (Table::Events, Day(20_001), other, 1_000),
        ];
        for (table, day, log_id, last) in objects {
            let batch = BatchId {
                log_id,
                lane: Lane(3),
                number: 1,
                first: 0,
                last,
                input_hash: 9,
            };
            let path = dir.path().join(object_name(table, day, &batch));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"").unwrap();
            std::fs::write(path.with_file_name("notes.parquet"), b"").unwrap();
        }
        let since = |day| highest(dir.path(), ours, Day(day)).unwrap();
        assert_eq!(since(20_001), Some(60));
        assert_eq!(since(20_000), Some(60));
        assert_eq!(since(19_999), Some(900));
    }
}
