//! The progress on a terminal: a bar where the end is known, else a count.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::summary::Tally;

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

    /// Shows how things stand.
    pub(super) fn draw(&self, tally: &Tally, submitted: u64) {
        let known = tally.known();
        self.0.set_position(known);
        let under_way = submitted.saturating_sub(known);
        self.0.set_message(tally.trouble().map_or_else(
            || format!("({under_way} under way)"),
            |trouble| format!("({under_way} under way; {trouble})"),
        ));
        self.0.tick();
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
