//! The one place that looks at the process's surroundings.

use std::collections::BTreeMap;

/// The environment and the machine's name, as they were at the start.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The variables. What is not UTF-8 is kept with replacement characters, which no setting accepts.
    pub vars: BTreeMap<String, String>,
    /// The machine's name.
    pub host_name: String,
}

impl Environment {
    /// Reads both.
    #[must_use]
    pub fn read() -> Self {
        let vars = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect();
        let host_name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self { vars, host_name }
    }

    /// Whether people asked for output without colours (<https://no-color.org>).
    #[must_use]
    pub fn no_color(&self) -> bool {
        self.vars
            .get("NO_COLOR")
            .is_some_and(|value| !value.is_empty())
    }
}
