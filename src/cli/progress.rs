//! The progress of what takes long, on a terminal: a bar where the end is known, else a count of events.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str = "{bar:32} {human_pos}/{human_len} events, {per_sec}, {eta} left {msg}";
const COUNT: &str = "{spinner} {human_pos} events, {per_sec} {msg}";

/// Draws on standard error, or nothing at all.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A progress towards so many events, if that is known.
    pub(super) fn new(total: Option<u64>, draw: bool) -> Self {
        let target = if draw {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(total, target);
        let template = if total.is_some() { BAR } else { COUNT };
        let style = ProgressStyle::with_template(template).expect("the template is a good one");
        bar.set_style(style);
        Self(bar)
    }

    /// Shows how far it is, and a remark.
    pub(super) fn show(&self, position: u64, remark: String) {
        self.0.set_position(position);
        self.0.set_message(remark);
        self.0.tick();
    }

    /// The end has moved.
    pub(super) fn set_total(&self, total: u64) {
        self.0.set_length(total);
    }

    /// Does something with the bar out of the way.
    pub(super) fn suspend<T>(&self, act: impl FnOnce() -> T) -> T {
        self.0.suspend(act)
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
