//! The order of an event store that workers fill from Pub/Sub.
//!
//! An object is a run there: consecutive batches of a lane under the first one's number. A run that was cut anew after a kill may
//! overlap others, so that numbers and ranges prove nothing. What counts is the order in which each lane's rows appeared:
//! whoever reads objects as they are written should see an event for the first time only behind all that came before it on its
//! lane.
//!
//! A worker keeps that order from the first batch of a lane on that it is given. That this is the earliest which nobody has stored
//! rests on Pub/Sub: it gives no batch of an ordering key to another client while an earlier one is on lease. Its emulator does
//! (`tests/it/queue/emulator.rs`). So a row that came too late is held against the worker whose object overtook it when that worker
//! had a row in front of it before it had one behind it; one that entered the lane behind it could not know. How many these were is
//! said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use eventkit::event::{Lane, LogId, Offset};
use eventkit::store::parquet;

/// A lane of a log, and an offset in it.
type Place = ((LogId, Lane), Offset);

/// An object that a process says it wrote, and whether it was the one that made it.
pub(super) type Wrote = (String, bool);

#[derive(Debug)]
struct Object {
    written: SystemTime,
    name: String,
    places: Vec<Place>,
    /// Offsets that a damaged batch accounts for: they may be other lanes' as well, and have no order.
    accounted: Vec<Place>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Rows and error rows, each once.
    pub(super) rows: usize,
    /// Rows that appeared behind a later one of their lane.
    pub(super) late: usize,
    /// Those of them that were overtaken by an object whose writer was killed before it said so.
    pub(super) unclaimed: usize,
    /// Those of them whose overtaker had a row in front of them, each with where it was.
    pub(super) violations: Vec<String>,
}

/// Judges a local store; `processes` is what each worker said that it wrote, in its order.
pub(super) fn judge(store: &Path, processes: &[Vec<Wrote>]) -> Result<Order> {
    let mut order = Order::default();
    let events = objects(store, "events")?;
    let errors = objects(store, "errors")?;
    let writers = Writers::new(events.iter().chain(&errors), processes);
    order.table(&events, &errors, &writers);
    order.table(&errors, &events, &writers);
    Ok(order)
}

impl Order {
    /// The rows of one table. One that was in the other one before (a batch that was damaged first and came whole) is no late one.
    fn table(&mut self, table: &[Object], other: &[Object], writers: &Writers<'_>) {
        let mut elsewhere: HashMap<Place, SystemTime> = HashMap::new();
        for object in other {
            for place in object.places.iter().chain(&object.accounted) {
                elsewhere.entry(*place).or_insert(object.written);
            }
        }
        let mut seen: BTreeSet<Place> = BTreeSet::new();
        // For each lane the objects that went beyond all before them, and how far.
        let mut heights: BTreeMap<(LogId, Lane), Vec<(Offset, usize)>> = BTreeMap::new();
        for (at, object) in table.iter().enumerate() {
            for &(lane, offset) in &object.places {
                if !seen.insert((lane, offset)) {
                    continue;
                }
                self.rows += 1;
                let heights = heights.entry(lane).or_default();
                let beyond = heights.partition_point(|(height, _)| *height < offset);
                let Some(&(height, overtaker)) = heights.get(beyond) else {
                    heights.push((offset, at));
                    continue;
                };
                let before = elsewhere.get(&(lane, offset));
                if before.is_some_and(|before| *before <= object.written) {
                    continue;
                }
                self.late += 1;
                let overtaker = table.get(overtaker).map_or("?", |object| &object.name);
                let knew = writers.entered_before(overtaker, (lane, offset));
                self.unclaimed += usize::from(knew.is_none());
                if knew == Some(true) {
                    let (log, lane) = lane;
                    self.violations.push(format!(
                        "{}: offset {offset} of lane {lane} of log {log} came after {height} in {overtaker}",
                        object.name,
                    ));
                }
            }
        }
    }
}

/// Who wrote what, as the processes said themselves.
struct Writers<'a> {
    by_name: HashMap<&'a str, &'a Object>,
    processes: &'a [Vec<Wrote>],
    /// The process that made an object.
    made: HashMap<&'a str, usize>,
}

impl<'a> Writers<'a> {
    fn new(objects: impl Iterator<Item = &'a Object>, processes: &'a [Vec<Wrote>]) -> Self {
        let mut made = HashMap::new();
        for (process, wrote) in processes.iter().enumerate() {
            let created = wrote.iter().filter(|(_, created)| *created);
            made.extend(created.map(|(name, _)| (name.as_str(), process)));
        }
        Self {
            by_name: objects
                .map(|object| (object.name.as_str(), object))
                .collect(),
            processes,
            made,
        }
    }

    /// Whether who made this object had a row in front of this place, of either table, by when it first had one behind it; `None` when
    /// nobody says that it made it.
    fn entered_before(&self, object: &str, (lane, offset): Place) -> Option<bool> {
        let wrote = self.processes.get(*self.made.get(object)?)?;
        let mut is_in_front = false;
        for (name, _) in wrote {
            let object = self.by_name.get(name.as_str());
            let places = object.map_or(&[][..], |object| &object.places);
            let mut of_lane = places.iter().filter(|place| place.0 == lane);
            is_in_front |= of_lane.clone().any(|place| place.1 < offset);
            if of_lane.any(|place| place.1 > offset) {
                break;
            }
        }
        Some(is_in_front)
    }
}

fn objects(store: &Path, table: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let Ok(days) = std::fs::read_dir(store.join(table)) else {
        return Ok(objects);
    };
    for day in days {
        let day = day?;
        for file in std::fs::read_dir(day.path())? {
            let file = file?;
            let (folder, name) = (day.file_name(), file.file_name());
            let (folder, name) = (folder.to_string_lossy(), name.to_string_lossy());
            if !name.ends_with(".parquet") {
                continue;
            }
            let name = format!("{table}/{folder}/{name}");
            let bytes = std::fs::read(file.path())?.into();
            let (mut places, mut accounted) = (Vec::new(), Vec::new());
            if table == "events" {
                for row in parquet::decode_events(bytes).with_context(|| name.clone())? {
                    places.push(((row.log_id, row.lane), row.offset));
                }
            } else {
                for row in parquet::decode_errors(bytes).with_context(|| name.clone())? {
                    let is_named = !row.message_id.is_empty();
                    let places = if is_named {
                        &mut places
                    } else {
                        &mut accounted
                    };
                    places.push(((row.log_id, row.lane), row.offset));
                }
            }
            objects.push(Object {
                written: file.metadata()?.modified()?,
                name,
                places,
                accounted,
            });
        }
    }
    // Clocks of file systems tick every few milliseconds.
    objects.sort_by(|one, other| {
        let of = |object: &Object| (object.written, object.places.first().copied());
        of(one).cmp(&of(other))
    });
    Ok(objects)
}
