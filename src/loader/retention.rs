//! Retention: what is old enough is removed, from the store and from the warehouse, each by a setting of its own.
//!
//! What it promises:
//!
//! 1. Without a setting nothing is removed; only the ages are looked at, for their gauges.
//! 2. It runs when what lay in the inbox is loaded, so never while something older waits; after a start, then at most once an hour.
//! 3. Whole UTC days are removed: what was received N days ago, or on a later day, is kept.
//! 4. An object goes only if the warehouse records it as loaded and no marker of it lies in `inbox/` or `quarantine/`. A
//!    file with a name that is not an object's is never touched.
//! 5. Every step may be repeated, and is bounded; a stop is heeded between two steps.
//!
//! The record of an object outlives the object and its rows. It is what makes a marker harmless that comes back (a log that
//! was away for a year settles its last batch again): without it the object would be loaded as a new one, long after the
//! window in which the merge removes repeats. A record takes about 200 bytes, so that is cheap.
//!
//! The price of a retention: the age is the gateway's own clock's. An event that reaches the store after more days than the
//! retention has is loaded and then removed with its day.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pages::Pages;
use super::{Context, Loader, RoundError, inbox};
use crate::clock::Clock;
use crate::event::{DAY_MICROS, Day, Micros};
use crate::store::{Objects, Table};

/// The shortest time between two passes.
const EVERY: Duration = Duration::from_secs(3600);

/// Objects that are removed between two looks at the stop.
const STEP: usize = 100;

/// Rows of each table that one transaction removes, so that nobody waits long for it.
const ROWS: u32 = 10_000;

/// Stands for "nothing is there" where an oldest moment is kept.
const NOTHING: Micros = Micros::MIN;

/// How many days things are kept; `None` is for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Loaded objects of the store.
    pub store_days: Option<u32>,
    /// Rows of the warehouse.
    pub warehouse_days: Option<u32>,
}

/// What a loader knows about retention.
#[derive(Debug)]
pub(super) struct Retention {
    keep: Keep,
    /// When the next pass may be; `None` before the first.
    due: Option<Instant>,
    store_oldest: Arc<AtomicI64>,
    warehouse_oldest: Arc<AtomicI64>,
}

impl Retention {
    pub(super) fn new(keep: Keep, context: &Context) -> Self {
        let gauge = |name, description| {
            let oldest = Arc::new(AtomicI64::new(NOTHING));
            let (clock, shown) = (Arc::clone(&context.clock), Arc::clone(&oldest));
            context.metrics.observe(name, description, vec![], move || {
                age(&*clock, shown.load(Ordering::Relaxed))
            });
            oldest
        };
        Self {
            keep,
            due: None,
            store_oldest: gauge(
                "eventkit_store_oldest_seconds",
                "Age of the oldest day in the store",
            ),
            warehouse_oldest: gauge(
                "eventkit_warehouse_oldest_seconds",
                "Age of the oldest row in the warehouse",
            ),
        }
    }
}

fn age(clock: &dyn Clock, oldest: Micros) -> f64 {
    if oldest == NOTHING {
        return 0.0;
    }
    let micros = clock.now().saturating_sub(oldest);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
}

impl Loader {
    /// Removes what is to be kept no longer and looks at the age of the rest, if that is due. Meant for when what lay in the inbox is loaded.
    ///
    /// # Errors
    ///
    /// [`RoundError`]; the next call begins anew.
    pub async fn retain(&mut self, stop: &CancellationToken) -> Result<(), RoundError> {
        let Some(Retention { keep, due, .. }) = self.retention else {
            return Ok(());
        };
        if due.is_some_and(|due| Instant::now() < due) || stop.is_cancelled() {
            return Ok(());
        }
        let today = Day::of(self.context.clock.now()).0;
        let first_kept = |days| Day(today.saturating_sub_unsigned(days));
        if let Some(days) = keep.store_days {
            for table in [Table::Events, Table::Errors] {
                self.expire_objects(table, first_kept(days), stop).await?;
            }
        }
        if let Some(days) = keep.warehouse_days {
            self.expire_rows(first_kept(days), stop).await?;
        }
        let store_oldest = store_oldest(&*self.objects).await?;
        let warehouse_oldest = self.warehouse.oldest().await?;
        if let Some(retention) = &mut self.retention {
            let keep = |at: &AtomicI64, oldest: Option<Micros>| {
                at.store(oldest.unwrap_or(NOTHING), Ordering::Relaxed);
            };
            keep(&retention.store_oldest, store_oldest);
            keep(&retention.warehouse_oldest, warehouse_oldest);
            retention.due = Some(Instant::now() + EVERY);
        }
        Ok(())
    }

    /// Removes the table's loaded objects of all days before the first one that is kept.
    async fn expire_objects(
        &mut self,
        table: Table,
        first_kept: Day,
        stop: &CancellationToken,
    ) -> Result<(), RoundError> {
        let first_kept = first_kept.to_string();
        let folder = format!("{}/", table.as_str());
        let (mut pages, mut removed) = (Pages::of(&folder), 0_usize);
        let mut is_done = false;
        while !is_done
            && !stop.is_cancelled()
            && let Some(names) = pages.next(&*self.objects).await?
        {
            let mut old = BTreeMap::new();
            for name in names {
                match parts(&name) {
                    Some((day, _)) if day >= first_kept.as_str() => is_done = true,
                    Some((day, stem)) => {
                        old.insert(format!("{}.dt={day}.{stem}", table.as_str()), name);
                    }
                    None => {}
                }
            }
            let old = self.loaded_without_markers(old).await?;
            for step in old.chunks(STEP) {
                if stop.is_cancelled() {
                    break;
                }
                inbox::remove(&*self.objects, step.iter().map(String::as_str)).await?;
                removed = removed.saturating_add(step.len());
                let metrics = &self.context.metrics;
                metrics
                    .retention_objects_removed
                    .add(step.len() as u64, &[]);
            }
        }
        if removed > 0 {
            tracing::info!(table = table.as_str(), objects = removed, before = %first_kept, "objects_expired");
        }
        Ok(())
    }

    /// Of objects, by the stem of their markers' names, those that may go.
    async fn loaded_without_markers(
        &mut self,
        mut old: BTreeMap<String, String>,
    ) -> Result<Vec<String>, RoundError> {
        let names: Vec<String> = old.values().cloned().collect();
        let recorded = self.warehouse.recorded(&names).await?;
        old.retain(|_, name| recorded.contains(name));
        for folder in [inbox::FOLDER, inbox::QUARANTINE] {
            let (Some(first), Some(last)) = (
                old.first_key_value().map(|(stem, _)| stem.clone()),
                old.last_key_value().map(|(stem, _)| stem.clone()),
            ) else {
                break;
            };
            let mut pages = Pages::after(folder, format!("{folder}{first}"));
            let end_of_last = format!("{folder}{last}.json~");
            while let Some(markers) = pages.next(&*self.objects).await? {
                // A marker that was set aside twice has something after its `.json`.
                let stems = markers
                    .iter()
                    .filter_map(|marker| marker.strip_prefix(folder)?.split(".json").next());
                for stem in stems {
                    old.remove(stem);
                }
                if markers.last().is_some_and(|last| *last > end_of_last) {
                    break;
                }
            }
        }
        Ok(old.into_values().collect())
    }

    /// Removes the warehouse's rows of all days before the first one that is kept.
    async fn expire_rows(
        &mut self,
        first_kept: Day,
        stop: &CancellationToken,
    ) -> Result<(), RoundError> {
        let before = Micros::from(first_kept.0).saturating_mul(DAY_MICROS);
        let (mut events, mut errors) = (0_u64, 0_u64);
        while !stop.is_cancelled() {
            let expired = self.warehouse.expire(before, ROWS).await?;
            for (table, rows) in [("events", expired.events), ("errors", expired.errors)] {
                if rows > 0 {
                    let labels = [KeyValue::new("table", table)];
                    let metrics = &self.context.metrics;
                    metrics.retention_rows_removed.add(rows, &labels);
                }
            }
            events = events.saturating_add(expired.events);
            errors = errors.saturating_add(expired.errors);
            if expired.events.max(expired.errors) < u64::from(ROWS) {
                break;
            }
        }
        if events > 0 || errors > 0 {
            tracing::info!(events, errors, before = %first_kept, "rows_expired");
        }
        Ok(())
    }
}

/// The first moment of the oldest day that has an object.
async fn store_oldest(objects: &dyn Objects) -> Result<Option<Micros>, RoundError> {
    let mut oldest: Option<Micros> = None;
    for table in [Table::Events, Table::Errors] {
        let folder = format!("{}/", table.as_str());
        let names = Pages::of(&folder).next(objects).await?.unwrap_or_default();
        let day = names.iter().find_map(|name| parts(name));
        let first = day.and_then(|(day, _)| start(day));
        oldest = oldest.into_iter().chain(first).min();
    }
    Ok(oldest)
}

/// Day and stem of an object's name, `<table>/dt=<day>/<stem>.parquet`; `None` for any other name.
pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    let (_, rest) = name.split_once("/dt=")?;
    let (day, file) = rest.split_once('/')?;
    let stem = file.strip_suffix(".parquet")?;
    (start(day).is_some() && !stem.is_empty() && !stem.contains('/')).then_some((day, stem))
}

/// The first moment of a day that is written `YYYY-MM-DD`.
fn start(day: &str) -> Option<Micros> {
    // Days are compared as texts, so each needs all of its digits.
    let date = (day.len() == 10).then(|| day.parse::<chrono::NaiveDate>().ok())??;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}
