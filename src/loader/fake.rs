//! Warehouses for tests: rows in memory, and a wrapper that makes any warehouse fail as planned.
//!
//! The memory keeps the promises of [`Warehouse`] (the conformance suite runs on it too); nothing in it survives the process.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::manifest::Manifest;
use super::warehouse::{
    Expired, LoadError, MergeError, Merged, Outcome, Staged, Warehouse, WarehouseError,
};
use crate::event::{LogId, Micros, Offset};
use crate::store::fake::Fault;
use crate::store::parquet::{DecodeError, decode_errors, decode_events};
use crate::store::{ErrorRow, Objects, Row, Table};

type EventId = (String, String);
type ErrorId = (LogId, Offset, String);

/// A warehouse in memory. Clones are further instances of the same warehouse, each with a staging of its own.
#[derive(Debug, Default)]
pub struct MemoryWarehouse {
    state: Arc<Mutex<State>>,
    staged: Option<(u64, Vec<Row>, Vec<ErrorRow>)>,
    is_anonymous: bool,
}

#[derive(Debug, Default)]
struct State {
    events: BTreeMap<EventId, Row>,
    errors: BTreeMap<ErrorId, ErrorRow>,
    merged: BTreeMap<u64, Merged>,
    recorded: BTreeMap<u64, Outcome>,
    /// Which objects a number was taken for.
    taken: BTreeMap<u64, String>,
    objects: HashSet<String>,
}

impl Clone for MemoryWarehouse {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            staged: None,
            is_anonymous: self.is_anonymous,
        }
    }
}

impl MemoryWarehouse {
    /// The same, but a failed load does not say which object is at fault, as a warehouse's job may not.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.is_anonymous = true;
        self
    }

    /// All events, by key.
    #[must_use]
    pub fn events(&self) -> Vec<Row> {
        self.lock().events.values().cloned().collect()
    }

    /// All error rows, by key.
    #[must_use]
    pub fn errors(&self) -> Vec<ErrorRow> {
        self.lock().errors.values().cloned().collect()
    }

    /// How manifests ended, by number.
    #[must_use]
    pub fn outcomes(&self) -> Vec<(u64, Outcome)> {
        let state = self.lock();
        let outcomes = state.recorded.iter();
        outcomes.map(|(n, outcome)| (*n, outcome.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, object: &str, reason: String) -> LoadError {
        LoadError::Object {
            object: (!self.is_anonymous).then(|| object.to_owned()),
            reason,
        }
    }
}

#[async_trait]
impl Warehouse for MemoryWarehouse {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        Ok(())
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        Ok(self.lock().recorded.keys().next_back().copied())
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        let asked: HashSet<String> = objects.iter().cloned().collect();
        Ok(asked.intersection(&self.lock().objects).cloned().collect())
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        self.staged = None;
        let (mut events, mut errors) = (Vec::new(), Vec::new());
        for object in &manifest.objects {
            let name = &object.object;
            let file = objects.get(name).await?;
            let file = file.ok_or_else(|| self.unreadable(name, "no such object".to_owned()))?;
            let unreadable = |error: DecodeError| self.unreadable(name, error.to_string());
            match object.table {
                Table::Events => events.extend(decode_events(file).map_err(unreadable)?),
                Table::Errors => errors.extend(decode_errors(file).map_err(unreadable)?),
            }
        }
        let staged = Staged {
            events: events.len() as u64,
            errors: errors.len() as u64,
        };
        self.staged = Some((manifest.number, events, errors));
        Ok(staged)
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        let number = manifest.number;
        let (events, errors) = match &self.staged {
            Some((staged, events, errors)) if *staged == number => (events.clone(), errors.clone()),
            _ => return Err(MergeError::NotStaged(number)),
        };
        let mut state = self.lock();
        state.take(manifest)?;
        if let Some(merged) = state.merged.get(&number) {
            return Ok(*merged);
        }
        let merged = state.merge(events, errors);
        state.merged.insert(number, merged);
        Ok(merged)
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        let mut state = self.lock();
        state.take(manifest)?;
        if state.recorded.contains_key(&manifest.number) {
            return Ok(());
        }
        state.recorded.insert(manifest.number, outcome.clone());
        if matches!(outcome, Outcome::Loaded(_)) {
            state.objects.extend(manifest.object_names());
        }
        Ok(())
    }

    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError> {
        let mut state = self.lock();
        let limit = u64::from(limit);
        let mut expired = Expired::default();
        state.events.retain(|_, row| {
            let goes = row.received_at < before && expired.events < limit;
            expired.events += u64::from(goes);
            !goes
        });
        state.errors.retain(|_, row| {
            let goes = row.received_at < before && expired.errors < limit;
            expired.errors += u64::from(goes);
            !goes
        });
        Ok(expired)
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        let state = self.lock();
        let events = state.events.values().map(|row| row.received_at);
        let errors = state.errors.values().map(|row| row.received_at);
        Ok(events.chain(errors).min())
    }
}

impl State {
    fn take(&mut self, manifest: &Manifest) -> Result<(), WarehouseError> {
        let number = manifest.number;
        let taken = self.taken.entry(number);
        if manifest.is_of(taken.or_insert_with(|| manifest.object_list())) {
            return Ok(());
        }
        Err(WarehouseError::Shared {
            name: "memory".to_owned(),
            number,
        })
    }

    fn merge(&mut self, mut events: Vec<Row>, mut errors: Vec<ErrorRow>) -> Merged {
        let mut merged = Merged::default();
        events.sort_by_key(|row| (row.received_at, row.log_id, row.offset));
        for row in events {
            let before = self.errors.len();
            self.errors.retain(|_, error| !is_of(error, &row));
            merged.errors_removed += (before - self.errors.len()) as u64;
            let key = (row.source.clone(), row.message_id.clone());
            if let std::collections::btree_map::Entry::Vacant(free) = self.events.entry(key) {
                free.insert(row);
                merged.events_inserted += 1;
            } else {
                merged.events_duplicate += 1;
            }
        }
        errors.sort_by_key(|row| (row.received_at, row.log_id, row.offset));
        for error in errors {
            let key = (error.log_id, error.offset, error.original_hash.clone());
            if self.events.values().any(|row| is_of(&error, row)) {
                merged.errors_superseded += 1;
            } else if let std::collections::btree_map::Entry::Vacant(free) = self.errors.entry(key)
            {
                free.insert(error);
                merged.errors_inserted += 1;
            } else {
                merged.errors_duplicate += 1;
            }
        }
        merged
    }
}

/// Whether both are judgements of one event.
fn is_of(error: &ErrorRow, row: &Row) -> bool {
    (error.log_id == row.log_id && error.offset == row.offset)
        || (error.source == row.source && error.message_id == row.message_id)
}

/// A warehouse that fails as planned: each call takes the next entry of the plan, and succeeds when none is left.
#[derive(Debug, Default)]
pub struct Faulty<W> {
    inner: W,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<Option<Fault>>,
    calls: usize,
}

/// Tells how often a [`Faulty`] warehouse was called, when that belongs to a loader.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Mutex<Plan>>);

impl Calls {
    /// The calls so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).calls
    }
}

impl<W> Faulty<W> {
    /// A warehouse whose calls fail by the plan, in order; `None` lets a call through.
    pub fn new(inner: W, plan: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let faults = plan.into_iter().collect();
        Self {
            inner,
            plan: Arc::new(Mutex::new(Plan { faults, calls: 0 })),
        }
    }

    /// The count of calls.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls(Arc::clone(&self.plan))
    }

    fn fault(&self) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.calls += 1;
        plan.faults.pop_front().flatten()
    }
}

fn outage() -> WarehouseError {
    WarehouseError::Unavailable {
        name: "faulty".to_owned(),
        source: "planned fault".into(),
    }
}

async fn call<T, E: From<WarehouseError>>(
    fault: Option<Fault>,
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, E> {
    match fault {
        None => work.await,
        Some(Fault::Unavailable | Fault::Denied) => Err(outage().into()),
        Some(Fault::AnswerLost) => {
            // Whatever the answer was, a refusal included: nobody hears it.
            drop(work.await);
            Err(outage().into())
        }
    }
}

#[async_trait]
impl<W: Warehouse> Warehouse for Faulty<W> {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        call(self.fault(), self.inner.prepare()).await
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        call(self.fault(), self.inner.last_recorded()).await
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        call(self.fault(), self.inner.recorded(objects)).await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        call(self.fault(), self.inner.load(manifest, objects)).await
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        call(self.fault(), self.inner.merge(manifest)).await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        call(self.fault(), self.inner.record(manifest, outcome)).await
    }

    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError> {
        call(self.fault(), self.inner.expire(before, limit)).await
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        call(self.fault(), self.inner.oldest()).await
    }
}
