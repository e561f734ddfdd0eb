//! Reads settings one by one and remembers everything that was wrong.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::parse::{self, Value};
use super::raw::{Inputs, Source};
use super::settings::Setting;
use super::validate::{Problem, Problems, Warning};

/// A value that cannot be read becomes a problem and an empty stand-in, so that the reading can go on; what was built
/// from stand-ins is never handed out ([`Reader::done`]).
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) inputs: &'a Inputs,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Settings whose value could not be read: no rule about them is checked, since it would judge a stand-in.
    unread: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self {
            inputs,
            problems: Vec::new(),
            warnings: Vec::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Hands out what was built if nothing was wrong.
    pub(super) fn done<T>(self, built: T) -> Result<(T, Vec<Warning>), Problems> {
        if self.problems.is_empty() {
            Ok((built, self.warnings))
        } else {
            Err(Problems(self.problems))
        }
    }

    pub(super) fn problem(&mut self, subject: String, text: impl Into<String>) {
        let problem = Problem {
            subject,
            text: text.into(),
        };
        // What several settings depend on is said once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    pub(super) fn warn(&mut self, setting: &'static Setting, text: impl Into<String>) {
        let warning = Warning {
            setting: setting.env,
            text: text.into(),
        };
        // A setting may be read more than once; it is said once.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// A rule about several settings; not judged when one of them could not be read.
    pub(super) fn rule(&mut self, settings: &[&'static Setting], kept: bool, text: &str) {
        if kept || settings.iter().any(|s| self.unread.contains(s.env)) {
            return;
        }
        let subjects: Vec<_> = settings
            .iter()
            .map(|setting| self.inputs.resolve(setting).subject())
            .collect();
        self.problem(subjects.join(" and "), text);
    }

    pub(super) fn source(&self, setting: &'static Setting) -> Source {
        self.inputs.resolve(setting).source
    }

    pub(super) fn text(&mut self, setting: &'static Setting) -> String {
        match self.value(setting) {
            Some(Value::Text(text)) => text,
            other => stand_in(setting, other),
        }
    }

    /// A path that may be left out.
    pub(super) fn path_if_set(&mut self, setting: &'static Setting) -> Option<PathBuf> {
        match self.value(setting) {
            Some(Value::Path(path)) => Some(path),
            other => stand_in(setting, other),
        }
    }

    pub(super) fn path(&mut self, setting: &'static Setting) -> PathBuf {
        match self.value(setting) {
            Some(Value::Path(path)) => path,
            other => stand_in(setting, other),
        }
    }

    pub(super) fn choice(&mut self, setting: &'static Setting) -> &'static str {
        match self.value(setting) {
            Some(Value::Choice(word)) => word,
            other => stand_in(setting, other),
        }
    }

    /// A text that may be left out.
    pub(super) fn text_if_set(&mut self, setting: &'static Setting) -> Option<String> {
        match self.value(setting) {
            Some(Value::Text(text)) => Some(text),
            other => stand_in(setting, other),
        }
    }

    /// A text that may not be left out, for the reason given.
    pub(super) fn required(&mut self, setting: &'static Setting, why: &str) -> String {
        let text = self.text_if_set(setting);
        if text.is_none() && !self.unread.contains(setting.env) {
            self.problem(setting.env.to_owned(), format!("is required {why}"));
        }
        text.unwrap_or_default()
    }

    pub(super) fn bool(&mut self, setting: &'static Setting) -> bool {
        self.bool_if_set(setting).unwrap_or_default()
    }

    pub(super) fn bool_if_set(&mut self, setting: &'static Setting) -> Option<bool> {
        match self.value(setting) {
            Some(Value::Bool(bool)) => Some(bool),
            other => stand_in(setting, other),
        }
    }

    pub(super) fn time(&mut self, setting: &'static Setting) -> Duration {
        self.time_if_set(setting).unwrap_or_default()
    }

    pub(super) fn time_if_set(&mut self, setting: &'static Setting) -> Option<Duration> {
        match self.value(setting) {
            Some(Value::Time(time)) => Some(time),
            other => stand_in(setting, other),
        }
    }

    pub(super) fn address(&mut self, setting: &'static Setting) -> SocketAddr {
        match self.value(setting) {
            Some(Value::Address(address)) => address,
            other => {
                let () = stand_in(setting, other);
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
            }
        }
    }

    pub(super) fn count<T: TryFrom<u64> + Default>(&mut self, setting: &'static Setting) -> T {
        self.count_if_set(setting).unwrap_or_default()
    }

    pub(super) fn count_if_set<T: TryFrom<u64>>(&mut self, setting: &'static Setting) -> Option<T> {
        match self.value(setting) {
            Some(Value::Whole(whole)) => match T::try_from(whole) {
                Ok(count) => Some(count),
                Err(_) => {
                    self.unreadable(setting, "is too large for this machine");
                    None
                }
            },
            other => stand_in(setting, other),
        }
    }

    /// A number of days; 0 is the same as not set.
    pub(super) fn days_if_set(&mut self, setting: &'static Setting) -> Option<u32> {
        self.count_if_set(setting).filter(|days| *days > 0)
    }

    fn value(&mut self, setting: &'static Setting) -> Option<Value> {
        let text = self.inputs.resolve(setting).text?;
        match parse::value(setting.kind, &text) {
            Ok(value) => Some(value),
            Err(text) if setting.lenient => {
                self.warn(setting, format!("{text}; it is not used"));
                let default = self.inputs.default(setting)?;
                parse::value(setting.kind, &default).ok()
            }
            Err(text) => {
                self.unreadable(setting, text);
                None
            }
        }
    }

    fn unreadable(&mut self, setting: &'static Setting, text: impl Into<String>) {
        // A setting may be read twice; it is reported once.
        if self.unread.insert(setting.env) {
            self.problem(self.inputs.resolve(setting).subject(), text);
        }
    }
}

/// What stands in for a value that is not there.
fn stand_in<T: Default>(setting: &Setting, other: Option<Value>) -> T {
    assert!(
        other.is_none(),
        "{} is not read as the kind that the table says",
        setting.env
    );
    T::default()
}
