//! The spans of a manifest on its way into the warehouse.

use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::SpanKind;

use super::{Loaded, Manifest, Merged, RoundError};
use crate::telemetry::names;
use crate::telemetry::trace::{self, Contexts, Scope, Span, Tracing, count};

/// One manifest, from where it is taken up to its record.
#[derive(Debug)]
pub(super) struct Way {
    tracing: Tracing,
    started: SystemTime,
    manifest: Span,
    merged: OnceLock<(Span, Merged)>,
}

impl Way {
    pub(super) fn begin(tracing: &Tracing, manifest: &Manifest) -> Self {
        let mut contexts = Contexts::default();
        for context in manifest.objects.iter().flat_map(|one| one.traces.links()) {
            contexts.add(context);
        }
        let span = tracing.span(names::MANIFEST).linked_to(&contexts).start();
        span.set(names::MANIFEST_NUMBER, count(manifest.number));
        span.set(names::MANIFEST_ATTEMPT, i64::from(manifest.attempt));
        span.set(names::MANIFEST_OBJECTS, count(manifest.objects.len()));
        Self {
            tracing: tracing.clone(),
            started: trace::now(),
            manifest: span,
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

    /// Each request that had events in the manifest hears of it, in its own trace.
    pub(super) fn tell_senders(&self, manifest: &Manifest) {
        let Some((merge, merged)) = self.merged.get().filter(|_| self.tracing.is_on()) else {
            return;
        };
        let mut senders = Contexts::new(usize::MAX);
        for sender in manifest.objects.iter().flat_map(|one| one.traces.links()) {
            senders.add(sender);
        }
        let job = merge.get(names::JOB_ID);
        for sender in senders.kept() {
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
