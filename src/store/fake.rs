//! Stores for tests: objects in memory, and a wrapper that makes any store fail as planned.
//!
//! The memory keeps the promises of [`Objects`] (the conformance suite runs on it too); nothing in it survives the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ErrorRow, ErrorStore, EventStore, Objects, Row, WriteError, Written};
use crate::event::{BatchId, Day};

/// Objects in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryObjects {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryObjects {
    /// The names of all objects, ascending.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        let mut objects = self.lock();
        if objects.contains_key(name) {
            return Ok(false);
        }
        objects.insert(name.to_owned(), bytes);
        Ok(true)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        Ok(self.lock().get(name).cloned())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        let objects = self.lock();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        Ok(names
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .take(limit)
            .cloned()
            .collect())
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        self.lock().remove(name);
        Ok(())
    }
}

/// How one call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store is out; nothing was done.
    Unavailable,
    /// The store refuses; nothing was done.
    Denied,
    /// It was done, but the answer was lost.
    AnswerLost,
}

/// A store that fails as planned: each call takes the next entry of the plan; when the plan is used up, calls go through.
/// Clones share the plan.
#[derive(Debug, Clone, Default)]
pub struct Faulty<S> {
    inner: S,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    faults: VecDeque<Option<Fault>>,
    calls: u64,
}

impl<S> Faulty<S> {
    /// A store whose calls fail by the plan, in order; `None` lets a call through.
    pub fn new(inner: S, plan: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let plan = Plan {
            faults: plan.into_iter().collect(),
            calls: 0,
        };
        Self {
            inner,
            plan: Arc::new(Mutex::new(plan)),
        }
    }

    /// Plans more faults.
    pub fn then(&self, plan: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().faults.extend(plan);
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, WriteError>> + Send,
    ) -> Result<T, WriteError> {
        let fault = {
            let mut plan = self.lock();
            plan.calls += 1;
            plan.faults.pop_front().flatten()
        };
        let reason = "planned fault".to_owned();
        let source = None;
        match fault {
            None => work.await,
            Some(Fault::Unavailable) => Err(WriteError::Unavailable { reason, source }),
            Some(Fault::Denied) => Err(WriteError::Denied { reason, source }),
            Some(Fault::AnswerLost) => {
                work.await?;
                Err(WriteError::Unavailable { reason, source })
            }
        }
    }
}

#[async_trait]
impl<S: Objects> Objects for Faulty<S> {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        self.call(self.inner.put_if_absent(name, bytes)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        self.call(self.inner.get(name)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        self.call(self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        self.call(self.inner.delete(name)).await
    }
}

#[async_trait]
impl<S: EventStore> EventStore for Faulty<S> {
    async fn write_events(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[Row]>,
    ) -> Result<Written, WriteError> {
        self.call(self.inner.write_events(batch, day, rows)).await
    }
}

#[async_trait]
impl<S: ErrorStore> ErrorStore for Faulty<S> {
    async fn write_errors(
        &self,
        batch: &BatchId,
        day: Day,
        rows: Arc<[ErrorRow]>,
    ) -> Result<Written, WriteError> {
        self.call(self.inner.write_errors(batch, day, rows)).await
    }
}
