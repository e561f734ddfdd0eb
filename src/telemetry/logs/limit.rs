//! Repeated warnings and errors: of one place in the program the first ones of a window are written, the rest are counted.
//! Pure: time comes in as an argument.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::Metadata;
use tracing::callsite::Identifier;

use crate::event::Micros;

/// So many lines of one place are written in a window.
pub const LINES_MAX: u32 = 10;
/// How long a window is; it begins with the first line.
pub const WINDOW: Micros = 10_000_000;
/// So many places are watched at a time, far more than the program has. The lines of any further one are all written.
const SITES_MAX: usize = 512;

/// Watches each place that warns.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<HashMap<Identifier, Site>>);

/// One place, within its window.
#[derive(Debug)]
struct Site {
    metadata: &'static Metadata<'static>,
    /// The name of its lines.
    name: String,
    since: Micros,
    lines: u32,
}

/// What was not written of one place in a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) metadata: &'static Metadata<'static>,
    pub(super) name: String,
    pub(super) lines: u32,
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it, after what has to be said about the window before.
    Write(Option<Suppressed>),
    /// It is counted.
    Suppress,
}

impl Limiter {
    /// Judges a line by the place where it is written.
    pub(super) fn judge(
        &self,
        metadata: &'static Metadata<'static>,
        name: &str,
        now: Micros,
    ) -> Verdict {
        let mut sites = self.sites();
        if let Some(site) = sites.get_mut(&metadata.callsite()) {
            if !site.is_over(now) {
                site.lines = site.lines.saturating_add(1);
                return if site.lines <= LINES_MAX {
                    Verdict::Write(None)
                } else {
                    Verdict::Suppress
                };
            }
            let suppressed = site.suppressed();
            *site = Site::begin(metadata, name, now);
            return Verdict::Write(suppressed);
        }
        if sites.len() < SITES_MAX {
            sites.insert(metadata.callsite(), Site::begin(metadata, name, now));
        }
        Verdict::Write(None)
    }

    /// What windows that are over have to say; they are forgotten.
    pub(super) fn over(&self, now: Micros) -> Vec<Suppressed> {
        self.take(|site| site.is_over(now))
    }

    /// What all windows have to say, over or not; they are forgotten.
    pub(super) fn all(&self) -> Vec<Suppressed> {
        self.take(|_any| true)
    }

    fn take(&self, mut is_taken: impl FnMut(&Site) -> bool) -> Vec<Suppressed> {
        let mut sites = self.sites();
        let taken = sites.extract_if(|_id, site| is_taken(site));
        taken.filter_map(|(_id, site)| site.suppressed()).collect()
    }

    fn sites(&self) -> MutexGuard<'_, HashMap<Identifier, Site>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    fn begin(metadata: &'static Metadata<'static>, name: &str, since: Micros) -> Self {
        Self {
            metadata,
            name: name.to_owned(),
            since,
            lines: 1,
        }
    }

    /// A clock that was put back ends a window, too.
    fn is_over(&self, now: Micros) -> bool {
        now < self.since || now - self.since >= WINDOW
    }

    fn suppressed(&self) -> Option<Suppressed> {
        let lines = self.lines.saturating_sub(LINES_MAX);
        (lines > 0).then(|| Suppressed {
            metadata: self.metadata,
            name: self.name.clone(),
            lines,
        })
    }
}
