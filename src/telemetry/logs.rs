//! Log lines: text for people, or one JSON object per line.
//!
//! A line is its name (`event`, a constant word), `level`, `timestamp` (UTC, microseconds), `logger` (the module), then
//! the fields of the spans it was written in, from the outermost, then its own; of two fields with one name the
//! inner one stands. A line is written with one call, so that lines of several threads never mix.

use std::any::Any;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{Clock, SystemClock};
use crate::config::{LogLevel, TelemetryConfig};
use crate::event::Micros;
use crate::telemetry::Otlp;

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
) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
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
) -> Result<(), tracing::subscriber::SetGlobalDefaultError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let form = match (config.json, colour) {
        (true, _) => Form::Json,
        (false, true) => Form::Colour,
        (false, false) => Form::Text,
    };
    let lines = Lines::new(form, out, Arc::new(SystemClock));
    let subscriber = subscriber(config.level, lines).with(otlp.log_layer());
    tracing::subscriber::set_global_default(subscriber)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let text = constant_text(panic.payload());
        tracing::error!(place, text, "panicked");
    }));
    Ok(())
}

/// A panic's text if it is a constant. One that was put together may quote what a client sent: a bad string index
/// does; then the place must do.
fn constant_text(payload: &(dyn Any + Send)) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}

/// Lines of our own from a level on; of other crates only what is at least a warning.
pub fn subscriber<W>(
    level: LogLevel,
    lines: Lines<W>,
) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let ours = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let filter = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        // It says each failed request as an error of its own; the store that repeats it says all there is to say.
        .with_target("gcloud_sdk", LevelFilter::OFF)
        // It says each failed export; `telemetry::otlp` says when a collector goes away and when it is back.
        .with_target("opentelemetry", LevelFilter::OFF)
        .with_target(env!("CARGO_CRATE_NAME"), ours);
    tracing_subscriber::registry().with(lines.with_filter(filter))
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

/// Writes each line.
#[derive(Debug)]
pub struct Lines<W> {
    form: Form,
    writer: W,
    clock: Arc<dyn Clock>,
}

impl<W> Lines<W> {
    /// Lines of this form, to this writer.
    #[must_use]
    pub fn new(form: Form, writer: W, clock: Arc<dyn Clock>) -> Self {
        Self {
            form,
            writer,
            clock,
        }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in ctx.event_scope(event).into_iter().flatten() {
            // From the innermost: what it says stands, what an outer one adds comes before it.
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.put_before(outer);
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        own.put_before(&fields);

        let line = Line {
            name: &own.name,
            level: *event.metadata().level(),
            at: self.clock.now(),
            logger: event.metadata().target(),
            fields: &own.fields,
        };
        let mut text = match self.form {
            Form::Json => line.json(),
            Form::Text => line.text(false),
            Form::Colour => line.text(true),
        };
        text.push('\n');
        // A reader that went away must not take the program with it; there is nobody left to tell.
        self.writer
            .make_writer_for(event.metadata())
            .write_all(text.as_bytes())
            .unwrap_or_default();
    }
}

/// The fields of a line or a span, and the line's name.
#[derive(Debug, Default)]
struct Fields {
    name: String,
    fields: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name().trim_start_matches("r#") {
            "message" => {
                self.name = match value {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
            }
            name => match self.fields.iter_mut().find(|(other, _)| *other == name) {
                Some((_, old)) => *old = value,
                None => self.fields.push((name, value)),
            },
        }
    }

    fn put_before(&mut self, outer: &Self) {
        let mut fields: Vec<_> = outer
            .fields
            .iter()
            .filter(|(name, _)| self.fields.iter().all(|(own, _)| own != name))
            .cloned()
            .collect();
        fields.append(&mut self.fields);
        self.fields = fields;
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities.
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, super::with_causes(value).into());
    }
}

/// One line before it is written.
struct Line<'a> {
    name: &'a str,
    level: Level,
    at: Micros,
    logger: &'a str,
    fields: &'a [(&'static str, Value)],
}

/// The keys that every line has; a field of such a name gets an underscore behind it.
const OWN_KEYS: [&str; 4] = ["event", "level", "timestamp", "logger"];

impl Line<'_> {
    fn level(&self) -> &'static str {
        match self.level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        }
    }

    fn timestamp(&self) -> String {
        DateTime::from_timestamp_micros(self.at)
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    fn json(&self) -> String {
        let string = |text: &str| Value::from(text).to_string();
        let mut line = format!(
            r#"{{"event":{},"level":"{}","timestamp":"{}","logger":{}"#,
            string(self.name),
            self.level(),
            self.timestamp(),
            string(self.logger)
        );
        for (name, value) in self.fields {
            let mark = if OWN_KEYS.contains(name) { "_" } else { "" };
            write!(line, r#","{name}{mark}":{value}"#).expect("a string takes all that is written");
        }
        line.push('}');
        line
    }

    fn text(&self, colour: bool) -> String {
        let paint = |code: &'static str| if colour { code } else { "" };
        let (dim, bold, cyan, plain) = (
            paint("\x1b[2m"),
            paint("\x1b[1m"),
            paint("\x1b[36m"),
            paint("\x1b[0m"),
        );
        let level = match self.level {
            Level::ERROR => paint("\x1b[31m"),
            Level::WARN => paint("\x1b[33m"),
            Level::INFO => paint("\x1b[32m"),
            _ => paint("\x1b[34m"),
        };
        let mut line = format!(
            "{dim}{}{plain} [{level}{:<7}{plain}] {bold}{:<24}{plain} {dim}{}{plain}",
            self.timestamp(),
            self.level(),
            printable(self.name),
            self.logger,
        );
        for (name, value) in self.fields {
            let value = match value {
                Value::String(text) => printable(text),
                other => other.to_string(),
            };
            write!(line, " {cyan}{name}{plain}={value}")
                .expect("a string takes all that is written");
        }
        line
    }
}

/// A text as it is when it is one plain word, else quoted: no field can look like another, like a second line or steer
/// the terminal.
fn printable(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("{text:?}")
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
