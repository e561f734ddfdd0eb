//! The spans of a manifest on its way into the warehouse.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanKind;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::warehouse::OBJECT_UNREADABLE;
use super::{Loaded, Manifest, Merged, RoundError};
use crate::telemetry::names;
use crate::telemetry::trace::{self, Contexts, Scope, Span, Tracing, count};

/// How many requests hear of a manifest in one go: a quarter of what waits for export by default (`OTEL_BSP_MAX_QUEUE_SIZE`), and
/// what leaves in one batch.
const TOLD_AT_ONCE: usize = 512;
/// And after what time the next ones do.
const TELL_AGAIN: Duration = Duration::from_millis(50);

/// One manifest, from where it is taken up to its record.
#[derive(Debug)]
pub(super) struct Way {
    tracing: Tracing,
    started: SystemTime,
    manifest: Span,
    /// The recorded requests that had events in it.
    senders: Contexts,
    merged: OnceLock<(Span, Merged)>,
    number: u64,
}

impl Way {
    pub(super) fn begin(tracing: &Tracing, manifest: &Manifest) -> Self {
        let mut senders = Contexts::new(usize::MAX);
        if tracing.is_on() {
            for traces in manifest.objects.iter().map(|object| &object.traces) {
                traces.links().for_each(|sender| senders.add(sender));
                senders.leave_out(usize::try_from(traces.left_out).unwrap_or(usize::MAX));
            }
        }
        let span = tracing.span(names::MANIFEST).linked_to(&senders).start();
        span.set(names::MANIFEST_NUMBER, count(manifest.number));
        span.set(names::MANIFEST_ATTEMPT, i64::from(manifest.attempt));
        span.set(names::MANIFEST_OBJECTS, count(manifest.objects.len()));
        Self {
            tracing: tracing.clone(),
            started: trace::now(),
            manifest: span,
            senders,
            merged: OnceLock::new(),
            number: manifest.number,
        }
    }

    pub(super) async fn load(
        &self,
        load: impl Future<Output = Result<Loaded, RoundError>>,
    ) -> Result<Loaded, RoundError> {
        let span = self.part(names::LOAD_JOB);
        let loaded = Scope::of(&span).around(load).await;
        match &loaded {
            Ok(Loaded::Staged(staged)) => {
                span.set(names::ROWS, count(staged.events + staged.errors));
            }
            Ok(Loaded::GivenUp) => self.failed(&span, OBJECT_UNREADABLE),
            Err(error) => self.failed(&span, error.kind()),
        }
        loaded
    }

    pub(super) async fn merge(
        &self,
        merge: impl Future<Output = Result<Merged, RoundError>>,
    ) -> Result<Merged, RoundError> {
        let span = self.part(names::MERGE);
        let merged = Scope::of(&span).around(merge).await;
        match &merged {
            Ok(merged) => {
                let rows = merged.events_inserted + merged.errors_inserted;
                span.set(names::ROWS_MERGED, count(rows));
                let duplicate = merged.events_duplicate + merged.errors_duplicate;
                span.set(names::ROWS_DUPLICATE, count(duplicate));
                drop(self.merged.set((span, *merged)));
            }
            Err(error) => self.failed(&span, error.kind()),
        }
        merged
    }

    /// The manifest's record: it has no span of its own, and its failure is the manifest's.
    pub(super) async fn record(
        &self,
        record: impl Future<Output = Result<(), RoundError>>,
    ) -> Result<(), RoundError> {
        let recorded = Scope::of(&self.manifest).around(record).await;
        if let Err(error) = &recorded {
            self.manifest.failed(error.kind());
        }
        recorded
    }

    /// Each request that had events in the manifest hears of it, in its own trace; where they are many, no faster than spans leave,
    /// unless there is no time left for that.
    pub(super) async fn tell_senders(self, stop: &CancellationToken) {
        let Some((merge, merged)) = self.merged.get().filter(|_| !self.senders.is_empty()) else {
            return;
        };
        let job = merge.get(names::JOB_ID);
        for (told, sender) in self.senders.kept().iter().enumerate() {
            if told > 0 && told % TOLD_AT_ONCE == 0 {
                stop.run_until_cancelled(sleep(TELL_AGAIN)).await;
            }
            let start = self.tracing.span(names::LOADED).child_of(Some(*sender));
            let span = start.linked(merge.link()).since(self.started).start();
            span.set(names::MANIFEST_NUMBER, count(self.number));
            span.set(
                names::ROWS_MERGED,
                count(merged.events_inserted + merged.errors_inserted),
            );
            if let Some(job) = &job {
                span.set(names::JOB_ID, job.clone());
            }
        }
    }

    fn part(&self, name: &'static str) -> Span {
        let start = self.tracing.span(name).kind(SpanKind::Client);
        start.child_of(self.manifest.link()).start()
    }

    fn failed(&self, part: &Span, kind: &'static str) {
        part.failed(kind);
        self.manifest.failed(kind);
    }
}

#[cfg(test)]
mod told;

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::Sampler;

    use super::*;
    use crate::loader::{LoadError, MergeError, WarehouseError, manifest};
    use crate::store::WriteError;
    use crate::telemetry::trace::kept::Kept;

    fn warehouse() -> WarehouseError {
        WarehouseError::Gone { name: "w".into() }
    }

    fn store() -> WriteError {
        WriteError::Denied {
            reason: "made up".into(),
            source: None,
        }
    }

    fn loading(source: LoadError) -> Result<Loaded, RoundError> {
        Err(RoundError::Load { number: 1, source })
    }

    fn merging(source: MergeError) -> Result<Merged, RoundError> {
        Err(RoundError::Merge { number: 1, source })
    }

    /// What is said of a manifest, and of the part of it that failed.
    async fn said(fails: impl AsyncFnOnce(&Way)) -> Vec<(String, Option<String>)> {
        let (tracing, kept) = Kept::tracing(Sampler::AlwaysOff);
        let manifest = Manifest {
            version: manifest::VERSION,
            number: 1,
            attempt: 1,
            created_at: String::new(),
            objects: Vec::new(),
        };
        let way = Way::begin(&tracing, &manifest);
        fails(&way).await;
        drop(way);
        kept.errors()
    }

    fn both(part: &str, kind: &str) -> Vec<(String, Option<String>)> {
        let names = [part, "manifest"].into_iter();
        names
            .map(|name| (name.to_owned(), Some(kind.to_owned())))
            .collect()
    }

    #[tokio::test]
    async fn the_span_of_a_step_that_failed_names_the_cause_and_not_the_step() {
        let reason = || "made up".to_owned();
        for (result, kind) in [
            (Ok(Loaded::GivenUp), "object_unreadable"),
            (loading(LoadError::Store(store())), "store_denied"),
            (loading(LoadError::Warehouse(warehouse())), "warehouse_gone"),
            (
                loading(LoadError::Attempt { reason: reason() }),
                "attempt_failed",
            ),
            (Err(RoundError::Warehouse(warehouse())), "warehouse_gone"),
            (Err(RoundError::Store(store())), "store_denied"),
        ] {
            let said = said(async |way| drop(way.load(async { result }).await)).await;
            assert_eq!(said, both("load job", kind));
        }
        for (error, kind) in [
            (MergeError::NotStaged(1), "not_staged"),
            (MergeError::Warehouse(warehouse()), "warehouse_gone"),
        ] {
            let said = said(async |way| drop(way.merge(async { merging(error) }).await)).await;
            assert_eq!(said, both("merge", kind));
        }
        let record = async { Err(RoundError::Warehouse(warehouse())) };
        let said = said(async |way| drop(way.record(record).await)).await;
        assert_eq!(said, both("manifest", "warehouse_gone")[..1]);
    }
}
