//! What stands in a line: fields as they are collected, and the line's two forms.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use tracing::Level;
use tracing::field::{Field, Visit};

use super::Form;
use crate::event::Micros;
use crate::telemetry::with_causes;

/// The fields of a line or a span, and the line's name.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) name: String,
    pub(super) fields: Vec<(&'static str, Value)>,
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

    pub(super) fn put_before(&mut self, outer: &Self) {
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
        self.put(field, with_causes(value).into());
    }
}

/// One line before it is written.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) level: Level,
    pub(super) at: Micros,
    pub(super) logger: &'a str,
    pub(super) fields: &'a [(&'static str, Value)],
}

/// The keys that every line has; a field of such a name gets an underscore behind it.
const OWN_KEYS: [&str; 4] = ["event", "level", "timestamp", "logger"];

impl Line<'_> {
    /// As it is written, its end included.
    pub(super) fn written(&self, form: Form) -> String {
        let mut text = match form {
            Form::Json => self.json(),
            Form::Text => self.text(false),
            Form::Colour => self.text(true),
        };
        text.push('\n');
        text
    }

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
