//! The spans of a manifest on its way into the warehouse.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanKind;

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
            Ok(Loaded::GivenUp) => self.failed(&span, "given_up"),
            Err(error) => self.failed(&span, error.step()),
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
            Err(error) => self.failed(&span, error.step()),
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
            self.manifest.failed(error.step());
        }
        recorded
    }

    /// Each request that had events in the manifest hears of it, in its own trace; where they are many, no faster than spans leave.
    pub(super) async fn tell_senders(&self, manifest: &Manifest) {
        let Some((merge, merged)) = self.merged.get().filter(|_| !self.senders.is_empty()) else {
            return;
        };
        let job = merge.get(names::JOB_ID);
        for (told, sender) in self.senders.kept().iter().enumerate() {
            if told > 0 && told % TOLD_AT_ONCE == 0 {
                tokio::time::sleep(TELL_AGAIN).await;
            }
            let start = self.tracing.span(names::LOADED).child_of(Some(*sender));
            let span = start.linked(merge.link()).since(self.started).start();
            span.set(names::MANIFEST_NUMBER, count(manifest.number));
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
