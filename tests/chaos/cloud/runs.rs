//! The order of an event store that workers fill from Pub/Sub.
//!
//! An object is a run there: consecutive batches of a lane under the first one's number. A run that was cut anew after a kill may
//! overlap others, so that numbers and ranges prove nothing. What counts is the order in which each lane's rows appeared:
//! whoever reads objects as they are written should see an event for the first time only behind all that came before it on its
//! lane. That rests on Pub/Sub's own order of redelivery, which its emulator does not keep when a worker dies with messages
//! on lease: there the figure is said, and nothing is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use eventkit::event::{Lane, Offset};
use eventkit::store::parquet;

/// The file's time of writing, its name, and the place of each of its rows.
type Object = (SystemTime, String, Vec<(Lane, Offset)>);

/// The rows of a local store that appeared behind a later one of their lane, each with where it was, and all rows.
pub(super) fn late(store: &Path) -> Result<(Vec<String>, usize)> {
    let (mut late, mut count) = (Vec::new(), 0);
    for table in ["events", "errors"] {
        let mut objects = objects(&store.join(table), table)?;
        objects.sort();
        let mut seen: BTreeMap<Lane, BTreeSet<Offset>> = BTreeMap::new();
        for (_, name, places) in &objects {
            for (lane, offset) in places {
                let seen = seen.entry(*lane).or_default();
                let highest = seen.last().copied();
                if !seen.insert(*offset) {
                    continue;
                }
                count += 1;
                if let Some(highest) = highest.filter(|highest| highest > offset) {
                    late.push(format!(
                        "{name}: offset {offset} of lane {lane} came after {highest}"
                    ));
                }
            }
        }
    }
    Ok((late, count))
}

fn objects(folder: &Path, table: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let Ok(days) = std::fs::read_dir(folder) else {
        return Ok(objects);
    };
    for day in days {
        for file in std::fs::read_dir(day?.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".parquet") {
                continue;
            }
            let bytes = std::fs::read(file.path())?.into();
            let places = if table == "events" {
                let rows = parquet::decode_events(bytes).with_context(|| name.clone())?;
                rows.iter().map(|row| (row.lane, row.offset)).collect()
            } else {
                let rows = parquet::decode_errors(bytes).with_context(|| name.clone())?;
                rows.iter().map(|row| (row.lane, row.offset)).collect()
            };
            objects.push((file.metadata()?.modified()?, name, places));
        }
    }
    Ok(objects)
}
