//! The loader: objects become rows of the warehouse, each event once.
//!
//! ```text
//!  inbox/ ─▶ manifest N ─▶ load (staging) ─▶ merge ─▶ record ─▶ markers removed
//!            create if absent                         └─ from here on N and its objects are done
//! ```
//!
//! What the loader promises:
//!
//! 1. It finds objects by their markers in `inbox/` alone: a late object of an old day is found like any other.
//! 2. A marker is removed only once the warehouse's own record of its object is durable, or a copy of the marker is in
//!    `quarantine/`. Nothing is ever lost silently.
//! 3. Manifests are numbered from the last recorded one on and are created if absent. Who loses the race starts over. Open
//!    manifests are completed first, the lowest first, by whoever comes: manifest N+1 is merged only after N is done.
//! 4. Every step may be repeated by anyone, also at the same time; so a crash between any two steps, or an answer that was
//!    lost, costs time and nothing else.
//! 5. An object that cannot be loaded is isolated by parting its manifest until it is alone. Only that one is quarantined:
//!    the object stays where it is, its marker moves.
//! 6. Nothing is removed for its age unless a retention is set; then see [`retention`](Loader::retain).
//! 7. A warehouse that was deleted, or is older than what was loaded, is filled again from the store; see `rebuild`.
//! 8. Bounded: a manifest holds at most [`Limits`]; objects are read one at a time.
//!
//! Two loaders never share an object in two manifests: one takes a number above the last recorded one, then lists; the
//! number is free only if nothing was recorded meanwhile, and what is recorded is left out.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use self::retention::Retention;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::lifecycle::Health;
use crate::store::Objects;
use crate::telemetry::{Metrics, with_causes};

#[cfg(feature = "cloud")]
pub mod bigquery;
mod error;
pub mod fake;
mod given_up;
mod inbox;
mod iso;
pub mod manifest;
mod open;
mod pages;
mod progress;
mod rebuild;
mod retention;
mod spans;
pub mod sqlite;
pub mod warehouse;

#[cfg(feature = "cloud")]
pub use bigquery::{BigQueryOptions, BigQueryWarehouse};
pub use error::RoundError;
pub use inbox::Limits;
pub use manifest::{Manifest, ManifestObject};
pub use retention::Keep;
pub use sqlite::SqliteWarehouse;
pub use warehouse::{
    Expired, LoadError, MergeError, Merged, Outcome, Staged, Warehouse, WarehouseError,
};

/// The component's name in [`Health`].
const COMPONENT: &str = "warehouse";

/// How long after a wake the loader waits for more markers.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// After so many failures in a row, attempts that leave a manifest and its record behind come so long after one another.
const ATTEMPTS_SOON: u32 = 16;
const ATTEMPTS_APART: Duration = Duration::from_secs(120);

/// The newest recorded manifests whose files are kept.
const MANIFESTS_KEPT: u64 = 100;

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// A manifest was completed, or given up for others; there may be more to do.
    Worked,
    /// The inbox is empty.
    Idle,
    /// A stop was asked for between two steps.
    Stopped,
}

/// What a load led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The rows are staged: merge them.
    Staged(Staged),
    /// The manifest is recorded without a merge: its objects are in later ones, or its one object is in quarantine.
    GivenUp,
}

/// What a loader needs of the rest of the program.
#[derive(Debug, Clone)]
pub struct Context {
    /// Tells when a manifest was made.
    pub clock: Arc<dyn Clock>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where an outage shows.
    pub health: Health,
}

/// Brings what lies in the inbox into the warehouse.
#[derive(Debug)]
pub struct Loader {
    objects: Arc<dyn Objects>,
    warehouse: Box<dyn Warehouse>,
    context: Context,
    /// The longest time between two looks at the inbox.
    interval: Duration,
    limits: Limits,
    backoff: Backoff,
    retention: Option<Retention>,
    progress: Progress,
    is_prepared: bool,
    /// Whether the last manifest took all that lay in the inbox when it was made, but for what is blocked.
    took_all: bool,
    /// What the last look at the inbox found that this version cannot judge.
    blocked: Option<RoundError>,
    /// What tells senders of what was loaded; see [`Loader::tell_senders`].
    telling: Option<JoinHandle<()>>,
}

impl Loader {
    /// A loader between a store and a warehouse, which looks at the inbox at least once an interval.
    #[must_use]
    pub fn new(
        objects: Arc<dyn Objects>,
        warehouse: Box<dyn Warehouse>,
        context: Context,
        interval: Duration,
    ) -> Self {
        Self {
            progress: Progress::register(&context),
            objects,
            warehouse,
            context,
            interval,
            limits: Limits::default(),
            backoff: Backoff::default(),
            retention: None,
            is_prepared: false,
            took_all: false,
            blocked: None,
            telling: None,
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with other waits after failures.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The same, and it also looks at the age of what is kept, shows it, and removes what is to be kept no longer.
    #[must_use]
    pub fn with_retention(mut self, keep: Keep) -> Self {
        self.retention = Some(Retention::new(keep, &self.context));
        self
    }

    /// Works until asked to stop: whenever woken (a little later, so that markers gather), and at least once an interval.
    /// A stop lets the current step finish and starts nothing new. Hands itself back, for a last [`Loader::drain`].
    pub async fn run(mut self, wake: Arc<Notify>, shutdown: CancellationToken) -> Self {
        let mut failures = 0_u32;
        while !shutdown.is_cancelled() {
            let worked = match self.pass(&shutdown).await {
                Ok(()) => self.retain(&shutdown).await,
                failed => failed,
            };
            let (wait, heeds_wakes) = match worked {
                Ok(()) => {
                    failures = 0;
                    self.context.health.degraded(COMPONENT, None);
                    (self.interval, true)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // Beside what is blocked all is loaded: a pass like any other.
                    let is_pass = matches!(error, RoundError::Blocked { .. });
                    (self.failed(&error, failures), is_pass)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(wait) => continue,
                () = wake.notified(), if heeds_wakes => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(DEBOUNCE) => {}
            }
        }
        self.told().await;
        self
    }

    /// Rounds until the inbox is empty.
    ///
    /// # Errors
    ///
    /// The first [`RoundError`]; nothing is lost, and the next call goes on where this one ended.
    pub async fn drain(&mut self) -> Result<(), RoundError> {
        let stop = CancellationToken::new();
        while self.round(&stop).await? == Round::Worked {}
        stop.cancel();
        self.told().await;
        Ok(())
    }

    /// Tells the senders of a manifest's events, one manifest after the other, while the loader goes on: it waits for no telemetry.
    #[expect(
        clippy::disallowed_methods,
        reason = "telemetry is all that it can lose, and nobody has to be called for that"
    )]
    fn tell_senders(&mut self, way: spans::Way, stop: &CancellationToken) {
        let (before, stop) = (self.telling.take(), stop.clone());
        self.telling = Some(tokio::spawn(async move {
            if let Some(before) = before {
                drop(before.await);
            }
            way.tell_senders(&stop).await;
        }));
    }

    /// All that were to be told are.
    async fn told(&mut self) {
        if let Some(telling) = self.telling.take() {
            drop(telling.await);
        }
    }

    /// Rounds until what lay in the inbox is done. What comes meanwhile waits for the next pass: where events never cease, one would
    /// have no end, and where a round costs money or a quota, the interval is what bounds it.
    async fn pass(&mut self, stop: &CancellationToken) -> Result<(), RoundError> {
        while self.round(stop).await? == Round::Worked {
            if self.took_all {
                // Only now: the others must not wait for a person.
                if let Some(blocked) = self.blocked.take() {
                    return Err(blocked);
                }
                self.progress.caught_up();
                break;
            }
        }
        Ok(())
    }

    /// Takes one manifest from wherever it stands to its end. Between two steps it heeds the stop.
    ///
    /// # Errors
    ///
    /// [`RoundError`]; the next round goes on where this one ended.
    pub async fn round(&mut self, stop: &CancellationToken) -> Result<Round, RoundError> {
        if stop.is_cancelled() {
            return Ok(Round::Stopped);
        }
        self.prepare().await?;
        let Some(manifest) = self.next().await? else {
            self.progress.caught_up();
            return Ok(Round::Idle);
        };
        let objects = manifest.objects.len();
        self.progress.behind(self.context.clock.now(), objects);
        if stop.is_cancelled() {
            return Ok(Round::Stopped);
        }
        let tracing = self.context.metrics.tracing().clone();
        let span = spans::Way::begin(&tracing, &manifest);
        if span.load(self.load(&manifest)).await? == Loaded::GivenUp {
            // Its parts are manifests of their own by now.
            self.took_all = false;
            return Ok(Round::Worked);
        }
        if stop.is_cancelled() {
            return Ok(Round::Stopped);
        }
        let merged = span.merge(self.merge(&manifest)).await?;
        // The record and the removal only shorten what the next start repeats, so a stop need not come between.
        span.record(self.record(&manifest, merged)).await?;
        self.remove_markers(&manifest).await?;
        self.tell_senders(span, stop);
        Ok(Round::Worked)
    }

    /// Step 0, once: the warehouse has its tables, what it lacks of earlier loads is in the inbox again (see
    /// [`rebuild`](Loader::rebuild_inbox)), and the files of old manifests are gone.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn prepare(&mut self) -> Result<(), RoundError> {
        if !self.is_prepared {
            self.warehouse.prepare().await?;
            self.rebuild_inbox().await?;
            self.clean_up().await?;
            self.is_prepared = true;
        }
        Ok(())
    }

    /// Step 2: the manifest's objects become staged rows. One that cannot be loaded as it stands is given up here.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn load(&mut self, manifest: &Manifest) -> Result<Loaded, RoundError> {
        let began = Instant::now();
        let loaded = self.warehouse.load(manifest, &*self.objects).await;
        self.took("load", began);
        match loaded {
            Ok(staged) => Ok(Loaded::Staged(staged)),
            Err(error) => self.after_failed_load(manifest, error).await,
        }
    }

    /// Step 3: staged rows become rows of the tables.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, RoundError> {
        let number = manifest.number;
        let began = Instant::now();
        let merged = self.warehouse.merge(manifest).await;
        self.took("merge", began);
        merged.map_err(|source| RoundError::Merge { number, source })
    }

    fn took(&self, step: &'static str, began: Instant) {
        let seconds = &self.context.metrics.loader_step_seconds;
        let labels = [KeyValue::new("step", step)];
        seconds.record(began.elapsed().as_secs_f64(), &labels);
    }

    /// Step 4: the manifest and its objects are done.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn record(&mut self, manifest: &Manifest, merged: Merged) -> Result<(), RoundError> {
        self.warehouse
            .record(manifest, &Outcome::Loaded(merged))
            .await?;
        let metrics = &self.context.metrics;
        metrics.loader_manifests_recorded.add(1, &[]);
        for (table, inserted, duplicate) in [
            ("events", merged.events_inserted, merged.events_duplicate),
            ("errors", merged.errors_inserted, merged.errors_duplicate),
        ] {
            let labels = [KeyValue::new("table", table)];
            metrics.loader_rows_merged.add(inserted, &labels);
            metrics.loader_rows_duplicate.add(duplicate, &labels);
        }
        tracing::info!(
            manifest.number = manifest.number,
            manifest.objects = manifest.objects.len(),
            events.inserted = merged.events_inserted,
            events.duplicate = merged.events_duplicate,
            errors.inserted = merged.errors_inserted,
            errors.duplicate = merged.errors_duplicate,
            errors.superseded = merged
                .errors_superseded
                .saturating_add(merged.errors_removed),
            "manifest_recorded"
        );
        Ok(())
    }

    /// Step 5: the markers of a recorded manifest go, and with them the file of the manifest that is now too old to keep.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn remove_markers(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let markers = manifest.objects.iter().map(|o| o.marker.as_str());
        inbox::remove(&*self.objects, markers).await?;
        self.remove_old_file(manifest.number).await
    }

    /// Says what failed, once; answers how long to wait.
    fn failed(&self, error: &RoundError, failures: u32) -> Duration {
        let wait = match error {
            RoundError::Blocked { .. } => self.interval,
            RoundError::Load {
                source: LoadError::Attempt { .. },
                ..
            } if failures > ATTEMPTS_SOON => ATTEMPTS_APART,
            _ => self.backoff.wait(failures),
        };
        let metrics = &self.context.metrics;
        metrics.loader_failures.add(1, &[]);
        let step = [KeyValue::new("step", error.step())];
        metrics.loader_step_failures.add(1, &step);
        self.progress.behind(self.context.clock.now(), 0);
        let text = with_causes(error);
        if error.needs_a_person() {
            tracing::error!(error = %text, failures, ?wait, "loader_round_failed");
        } else {
            tracing::warn!(error = %text, failures, ?wait, "loader_round_failed");
        }
        self.context.health.degraded(COMPONENT, Some(text));
        wait
    }
}
