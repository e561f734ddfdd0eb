//! Where a gateway is.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;

/// What the gateway's port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, and gRPC beside it: the public port.
    Http,
    /// gRPC alone.
    Grpc,
}

/// A gateway's address: `http://host:port[/prefix]` or `grpc://host:port`, with `https://` and `grpcs://` for TLS, without a
/// trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    protocol: Protocol,
    tls: bool,
    authority: String,
    prefix: String,
}

/// Why a text is not a gateway's address.
#[derive(Debug, thiserror::Error)]
pub enum ParseTargetError {
    /// It is no URL.
    #[error("not a URL like http://127.0.0.1:8000 or grpc://127.0.0.1:50051")]
    NotAUrl(#[source] http::uri::InvalidUri),
    /// The scheme is missing or another one.
    #[error("the address must begin with http://, https://, grpc:// or grpcs://")]
    Scheme,
    /// There is no host.
    #[error("the address names no host")]
    NoHost,
    /// There is a user, a password or a query.
    #[error("the address must not hold a user, a password or a query")]
    TooMuch,
}

impl Target {
    /// What it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn has_path(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Whether connections are made by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The `http://` or `https://` URL of the whole.
    pub(super) fn url(&self) -> String {
        self.with(if self.tls { "https" } else { "http" })
    }

    /// The same as if it were in clear.
    pub(super) fn clear_url(&self) -> String {
        self.with("http")
    }

    fn with(&self, scheme: &str) -> String {
        format!("{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(match (self.protocol, self.tls) {
            (Protocol::Http, false) => "http",
            (Protocol::Http, true) => "https",
            (Protocol::Grpc, false) => "grpc",
            (Protocol::Grpc, true) => "grpcs",
        }))
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(ParseTargetError::NotAUrl)?;
        let (protocol, tls) = match uri.scheme_str() {
            Some("http") => (Protocol::Http, false),
            Some("https") => (Protocol::Http, true),
            Some("grpc") => (Protocol::Grpc, false),
            Some("grpcs") => (Protocol::Grpc, true),
            _ => return Err(ParseTargetError::Scheme),
        };
        let authority = uri.authority().ok_or(ParseTargetError::NoHost)?;
        if authority.host().is_empty() {
            return Err(ParseTargetError::NoHost);
        }
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(ParseTargetError::TooMuch);
        }
        let path = uri.path_and_query().map_or("", PathAndQuery::path);
        Ok(Self {
            protocol,
            tls,
            authority: authority.as_str().to_owned(),
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused_with_a_reason() {
        let cases = [
            ("http://127.0.0.1:8000", Ok("http://127.0.0.1:8000")),
            ("http://gateway/", Ok("http://gateway")),
            ("http://gateway/events/", Ok("http://gateway/events")),
            ("grpc://[::1]:9000", Ok("grpc://[::1]:9000")),
            ("https://gateway/", Ok("https://gateway")),
            ("grpcs://gateway:443", Ok("grpcs://gateway:443")),
            ("ftp://gateway", Err("begin with http://")),
            ("gateway:8000", Err("begin with http://")),
            ("/collect", Err("begin with http://")),
            ("http://key@gateway", Err("must not hold a user")),
            ("http://gateway?writeKey=k", Err("must not hold a user")),
            ("http://a b", Err("not a URL")),
        ];
        for (text, expected) in cases {
            let found = text.parse::<Target>();
            match (found, expected) {
                (Ok(target), Ok(expected)) => assert_eq!(target.to_string(), expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
