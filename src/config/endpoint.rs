//! Where a cloud service answers.

/// Google, or an emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The service itself, with application default credentials.
    Google,
    /// An emulator at this URL, `http://host:port` without a slash at the end; no credentials are shown to it.
    Emulator(String),
}

impl Endpoint {
    /// An emulator as its variable names it: `host:port`, with or without a scheme.
    #[must_use]
    pub fn emulator(text: &str) -> Self {
        let text = text.trim().trim_end_matches('/');
        if text.contains("://") {
            Self::Emulator(text.to_owned())
        } else {
            Self::Emulator(format!("http://{text}"))
        }
    }

    /// The emulator's URL.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Google => None,
            Self::Emulator(url) => Some(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_may_be_named_with_and_without_a_scheme() {
        for text in [
            "localhost:8085",
            "http://localhost:8085",
            " http://localhost:8085/ ",
        ] {
            assert_eq!(
                Endpoint::emulator(text).url(),
                Some("http://localhost:8085"),
                "{text}"
            );
        }
        assert_eq!(Endpoint::Google.url(), None);
    }
}
