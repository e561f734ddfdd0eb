//! How far the loader is behind, as its gauges show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::Context;
use crate::event::Micros;

/// Stands for "nothing waits".
const NOTHING: Micros = Micros::MIN;

/// Written by the loader, read at each scrape.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// Since when something is known to wait.
    since: Arc<AtomicI64>,
    objects: Arc<AtomicU64>,
}

impl Progress {
    /// Registers its gauges.
    pub(super) fn register(context: &Context) -> Self {
        let progress = Self {
            since: Arc::new(AtomicI64::new(NOTHING)),
            objects: Arc::default(),
        };
        let (since, clock) = (Arc::clone(&progress.since), Arc::clone(&context.clock));
        context.metrics.observe(
            "eventkit_loader_behind_seconds",
            "For how long the inbox has not been empty",
            vec![],
            move || match since.load(Ordering::Relaxed) {
                NOTHING => 0.0,
                since => {
                    let micros = clock.now().saturating_sub(since);
                    Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
                }
            },
        );
        let objects = Arc::clone(&progress.objects);
        context.metrics.observe(
            "eventkit_loader_objects_under_way",
            "Objects of the manifest that is being loaded",
            vec![],
            move || {
                let objects = u32::try_from(objects.load(Ordering::Relaxed));
                objects.map_or(f64::from(u32::MAX), f64::from)
            },
        );
        progress
    }

    /// Something waits: a manifest of so many objects, or what could not be looked at.
    pub(super) fn behind(&self, now: Micros, objects: usize) {
        self.objects.store(objects as u64, Ordering::Relaxed);
        // Whoever waited before waits since then. There is one writer.
        if self.since.load(Ordering::Relaxed) == NOTHING {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// The inbox is empty.
    pub(super) fn caught_up(&self) {
        self.objects.store(0, Ordering::Relaxed);
        self.since.store(NOTHING, Ordering::Relaxed);
    }
}
