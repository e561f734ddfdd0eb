//! What can be asked and told about the log lines while the program runs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

use crate::config::LogLevel;
use crate::lifecycle::Tasks;

/// How often it is looked whether a burst of warnings is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The log lines of this process: their level, and what became of them. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    /// Makes a level apply.
    apply: Box<dyn Fn(LogLevel) + Send + Sync>,
    lines: Arc<dyn Sweep>,
    levels: Mutex<Levels>,
}

#[derive(Debug)]
struct Levels {
    now: LogLevel,
    /// What a switch back from DEBUG leads to.
    usual: LogLevel,
}

/// The writing side, as far as this one needs it.
pub(super) trait Sweep: Send + Sync {
    /// Says what was suppressed in bursts that are over, or in all.
    fn sweep(&self, all: bool);

    fn tally(&self) -> &Tally;
}

/// How many lines there were.
#[derive(Debug, Default)]
pub(super) struct Tally {
    written: [AtomicU64; LEVELS.len()],
    suppressed: [AtomicU64; LEVELS.len()],
}

/// The levels that are counted, by the words of their lines.
pub const LEVELS: [&str; 4] = ["error", "warning", "info", "debug"];

impl Tally {
    pub(super) fn written(&self, level: Level) {
        add(&self.written, level);
    }

    pub(super) fn suppressed(&self, level: Level) {
        add(&self.suppressed, level);
    }
}

fn add(counts: &[AtomicU64; LEVELS.len()], level: Level) {
    let at = match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        _ => 3,
    };
    if let Some(count) = counts.get(at) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Logs").field(&*self.levels()).finish()
    }
}

impl Logs {
    pub(super) fn new(
        level: LogLevel,
        apply: Box<dyn Fn(LogLevel) + Send + Sync>,
        lines: Arc<dyn Sweep>,
    ) -> Self {
        let usual = match level {
            LogLevel::Debug => LogLevel::Info,
            usual => usual,
        };
        let levels = Mutex::new(Levels { now: level, usual });
        Self(Arc::new(Inner {
            apply,
            lines,
            levels,
        }))
    }

    /// The least severe level that is written.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        self.levels().now
    }

    /// Writes from now on what is at least as severe; `by` is who asked for it.
    pub fn set_level(&self, level: LogLevel, by: &'static str) {
        self.change(by, |_levels| level);
    }

    /// Writes everything from now on, or, where it does already, what it wrote before.
    pub fn toggle_debug(&self, by: &'static str) {
        self.change(by, |levels| match levels.now {
            LogLevel::Debug => levels.usual,
            LogLevel::Info | LogLevel::Warning | LogLevel::Error => LogLevel::Debug,
        });
    }

    fn change(&self, by: &'static str, choose: impl FnOnce(&Levels) -> LogLevel) {
        // Held until the level applies, so that two changes cannot apply in the wrong order.
        let mut levels = self.levels();
        let (from, to) = (levels.now, choose(&levels));
        levels.now = to;
        if to != LogLevel::Debug {
            levels.usual = to;
        }
        let tell = || {
            tracing::warn!(
                from = from.as_str(),
                to = to.as_str(),
                by,
                "log_level_changed"
            )
        };
        // Where it is seen: under the level before, if the new one leaves warnings out.
        if to == LogLevel::Error {
            tell();
            (self.0.apply)(to);
        } else {
            (self.0.apply)(to);
            tell();
        }
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.0.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines of each of [`LEVELS`] were written, by its place.
    #[must_use]
    pub fn written(&self, at: usize) -> u64 {
        shown(&self.0.lines.tally().written, at)
    }

    /// How many were not, because there were too many of their kind.
    #[must_use]
    pub fn suppressed(&self, at: usize) -> u64 {
        shown(&self.0.lines.tally().suppressed, at)
    }

    /// Says what was not written so far.
    pub fn flush(&self) {
        self.0.lines.sweep(true);
    }

    /// Says, for as long as it is polled, soon after each burst of warnings what was not written of it.
    pub async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            self.0.lines.sweep(false);
        }
    }

    /// From now on SIGHUP switches DEBUG on, and off again. Must be called within the runtime.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a handler.
    pub fn on_hangup(&self) -> io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        let logs = self.clone();
        // Tasks of its own: nobody may wait for a listener that ends only with the process.
        drop(Tasks::default().spawn("hangups", async move {
            while hangups.recv().await.is_some() {
                logs.toggle_debug("SIGHUP");
            }
        }));
        Ok(())
    }
}

fn shown(counts: &[AtomicU64], at: usize) -> u64 {
    counts
        .get(at)
        .map_or(0, |count| count.load(Ordering::Relaxed))
}
