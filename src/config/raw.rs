//! Where each value comes from: default < environment < flag. Nothing is read or judged here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::settings::{self, Fallback, Setting};

/// Which command the configuration is for; some defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// `eventkit dev`: everything embedded, loopback only.
    Dev,
    /// `eventkit serve`: production.
    Serve,
}

/// Everything that a configuration is made of, as text.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Which command it is for.
    pub profile: Profile,
    /// The environment: all of it.
    pub env: BTreeMap<String, String>,
    /// The flags that were given, by the setting's variable.
    pub flags: BTreeMap<&'static str, String>,
    /// The machine's name.
    pub host_name: String,
}

/// Who gave a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nobody: the default applies.
    Default,
    /// The environment.
    Env,
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Env => "env",
            Self::Flag => "flag",
        })
    }
}

/// A setting's value as text, and who gave it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The setting.
    pub setting: &'static Setting,
    /// The text; `None` when it is not set and its default is not to be.
    pub text: Option<String>,
    /// Who gave it.
    pub source: Source,
}

impl Resolved {
    /// The setting and its value as an error message names them.
    #[must_use]
    pub fn subject(&self) -> String {
        let value = self.setting.shown(self.text.as_deref().unwrap_or_default());
        match self.source {
            Source::Flag => format!("--{}={value}", self.setting.flag),
            Source::Env => format!("{}={value}", self.setting.env),
            Source::Default => format!("{}={value} (the default)", self.setting.env),
        }
    }
}

impl Inputs {
    /// One setting's value.
    #[must_use]
    pub fn resolve(&self, setting: &'static Setting) -> Resolved {
        if let Some(text) = self.flags.get(setting.env) {
            return Resolved {
                setting,
                text: Some(text.clone()),
                source: Source::Flag,
            };
        }
        // An empty variable counts as not set: that is how compose files and charts leave one out.
        let env = self.env.get(setting.env);
        if let Some(text) = env.filter(|text| !text.trim().is_empty()) {
            return Resolved {
                setting,
                text: Some(text.clone()),
                source: Source::Env,
            };
        }
        Resolved {
            setting,
            text: self.default(setting),
            source: Source::Default,
        }
    }

    /// All settings' values, in the table's order.
    #[must_use]
    pub fn resolve_all(&self) -> Vec<Resolved> {
        settings::ALL
            .iter()
            .map(|setting| self.resolve(setting))
            .collect()
    }

    pub(super) fn default(&self, setting: &Setting) -> Option<String> {
        Some(match setting.default {
            Fallback::Is(value) => value.to_owned(),
            Fallback::Per { dev, serve } => match self.profile {
                Profile::Dev => dev.to_owned(),
                Profile::Serve => serve.to_owned(),
            },
            Fallback::InDataDir(name) => {
                let dir = self
                    .resolve(&settings::DATA_DIR)
                    .text
                    .unwrap_or_else(|| ".".to_owned());
                Path::new(dir.trim()).join(name).display().to_string()
            }
            Fallback::HostName => self.host_name.clone(),
            Fallback::Unset(_) => return None,
        })
    }
}
