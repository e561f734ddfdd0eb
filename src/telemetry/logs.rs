//! Log lines: text for people, or one JSON object per line.
//!
//! A line is its name (`event`, a constant word), `level`, `timestamp` (UTC, microseconds), `logger` (the module), then
//! `trace_id` and `span_id` where it was written within a recorded span, then its own fields. A line is written with one
//! call, so that lines of several threads never mix.
//!
//! A place in the program that warns again and again is cut short: of each window of 10 seconds its first 10 lines are
//! written, and when the window is over one more, with `suppressed`: how many were not. The level can be changed while
//! the program runs, through [`Logs`]. What leaves by OTLP are the same lines, those with `suppressed` too.

use std::any::Any;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Identity, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::{Layer, Registry};

use crate::clock::{Clock, SystemClock};
use crate::config::{LogLevel, TelemetryConfig};
use crate::telemetry::{Otlp, trace};

mod control;
mod limit;
mod line;

pub use control::{LEVELS, Logs};
pub use limit::{LINES_MAX, WINDOW};

use control::{Sweep, Tally};
use limit::{Limiter, Suppressed, Verdict};
use line::{Fields, Line};

/// Makes the log lines of the whole process go to standard output, panics included, and out by OTLP where that is asked
/// for. `colour`: whether people may get colours.
///
/// # Errors
///
/// When log lines go somewhere already.
pub fn init(
    config: &TelemetryConfig,
    colour: bool,
    otlp: &Otlp,
) -> Result<Logs, tracing::subscriber::SetGlobalDefaultError> {
    init_on(config, colour, otlp, std::io::stdout)
}

/// The same, to a place of the caller's choice.
///
/// # Errors
///
/// When log lines go somewhere already.
pub fn init_on<W>(
    config: &TelemetryConfig,
    colour: bool,
    otlp: &Otlp,
    out: W,
) -> Result<Logs, tracing::subscriber::SetGlobalDefaultError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let form = match (config.json, colour) {
        (true, _) => Form::Json,
        (false, true) => Form::Colour,
        (false, false) => Form::Text,
    };
    let lines = Lines::new(form, out, Arc::new(SystemClock))
        .telling(otlp.left_out())
        .and(otlp.log_layer());
    let (subscriber, logs) = subscriber(config.level, lines);
    tracing::subscriber::set_global_default(subscriber)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let text = constant_text(panic.payload());
        tracing::error!(place, text, "panicked");
    }));
    Ok(logs)
}

/// A panic's text if it is a constant. One that was put together may quote what a client sent: a bad string index
/// does; then the place must do.
fn constant_text(payload: &(dyn Any + Send)) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}

/// Lines of our own from a level on; of other crates only what is at least a warning. And the hold on both.
pub fn subscriber<W, R>(
    level: LogLevel,
    lines: Lines<W, R>,
) -> (impl Subscriber + Send + Sync, Logs)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    R: Layer<Registry> + Send + Sync,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let apply = move |level| {
        // Fails only when nobody writes lines any more.
        handle.reload(self::filter(level)).unwrap_or_default();
    };
    let out: Arc<dyn Sweep> = Arc::<Out<W>>::clone(&lines.out);
    let logs = Logs::new(level, Box::new(apply), out);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    (subscriber, logs)
}

fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), ours)
        // It says each failed request as an error of its own; the store that repeats it says all there is to say.
        .with_target("gcloud_sdk", LevelFilter::OFF)
        // It says each failed export; `telemetry::otlp` says when a collector goes away and when it is back.
        .with_target("opentelemetry", LevelFilter::OFF)
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For people at a terminal.
    Colour,
    /// For machines.
    Json,
}

/// Hears of the lines that were left out: `tracing` has no event for that.
pub trait Further: std::fmt::Debug + Send + Sync {
    /// So many lines of one name and one place were.
    fn left_out(&self, place: &'static Metadata<'static>, name: &str, lines: u32);
}

/// Writes each line, and hands it on.
#[derive(Debug)]
pub struct Lines<W, R = Identity> {
    out: Arc<Out<W>>,
    records: R,
}

/// Where lines go, and what is known about those before.
#[derive(Debug)]
struct Out<W> {
    form: Form,
    writer: W,
    clock: Arc<dyn Clock>,
    limiter: Limiter,
    tally: Tally,
    further: OnceLock<Box<dyn Further>>,
}

impl<W> Lines<W> {
    /// Lines of this form, to this writer.
    #[must_use]
    pub fn new(form: Form, writer: W, clock: Arc<dyn Clock>) -> Self {
        let out = Out {
            form,
            writer,
            clock,
            limiter: Limiter::default(),
            tally: Tally::default(),
            further: OnceLock::new(),
        };
        Self {
            out: Arc::new(out),
            records: Identity::new(),
        }
    }

    /// And this hears of those that are left out.
    #[must_use]
    pub fn telling(self, further: Option<Box<dyn Further>>) -> Self {
        if let Some(further) = further {
            self.out.further.get_or_init(|| further);
        }
        self
    }

    /// The same lines to these as well.
    pub fn and<R>(self, records: R) -> Lines<W, R> {
        Lines {
            out: self.out,
            records,
        }
    }
}

impl<W> Out<W>
where
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn write(&self, metadata: &Metadata<'_>, line: &Line<'_>) {
        let text = line.written(self.form);
        // A reader that went away must not take the program with it; there is nobody left to tell.
        let mut writer = self.writer.make_writer_for(metadata);
        writer.write_all(text.as_bytes()).unwrap_or_default();
        self.tally.written(line.level);
    }

    /// Whether the line is one too many. Says first what has to be said about those before.
    fn is_suppressed(&self, line: &Line<'_>, metadata: &'static Metadata<'static>) -> bool {
        if line.level > Level::WARN {
            return false;
        }
        match self.limiter.judge(metadata, line.name, line.at) {
            Verdict::Write(suppressed) => {
                self.tell(suppressed);
                false
            }
            Verdict::Suppress => {
                self.tally.suppressed(line.level);
                true
            }
        }
    }

    fn tell(&self, suppressed: impl IntoIterator<Item = Suppressed>) {
        for Suppressed {
            metadata,
            name,
            lines,
        } in suppressed
        {
            let line = Line {
                name: &name,
                level: *metadata.level(),
                at: self.clock.now(),
                logger: metadata.target(),
                fields: &[("suppressed", lines.into())],
            };
            self.write(metadata, &line);
            if let Some(further) = self.further.get() {
                further.left_out(metadata, &name, lines);
            }
        }
    }
}

impl<W> Sweep for Out<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fn sweep(&self, all: bool) {
        let suppressed = if all {
            self.limiter.all()
        } else {
            self.limiter.over(self.clock.now())
        };
        self.tell(suppressed);
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl<S, W, R> Layer<S> for Lines<W, R>
where
    S: Subscriber,
    W: for<'a> MakeWriter<'a> + 'static,
    R: Layer<S>,
{
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut own = Fields::of(trace::current_link());
        event.record(&mut own);

        let (out, metadata) = (&self.out, event.metadata());
        let line = Line {
            name: &own.name,
            level: *metadata.level(),
            at: out.clock.now(),
            logger: metadata.target(),
            fields: &own.fields,
        };
        if !out.is_suppressed(&line, metadata) {
            out.write(metadata, &line);
            self.records.on_event(event, ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_quotes_nothing_that_came_from_outside() {
        let constant: Box<dyn Any + Send> = Box::new("a lane has no queue");
        let built: Box<dyn Any + Send> = Box::new(format!("no char at 1 of {}", "alice"));
        assert_eq!(constant_text(&*constant), Some("a lane has no queue"));
        assert_eq!(constant_text(&*built), None);
    }
}
