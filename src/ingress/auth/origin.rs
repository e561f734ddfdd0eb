//! Origins of pages: `https://shop.example`, or `https://*.shop.example` for all below.

/// An origin, or all below a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// This one.
    One(String),
    /// Those that begin and end so, with the names of hosts between.
    Below { scheme: String, domain: String },
}

impl Origin {
    /// Reads one as it stands in the file.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const RIGHT: &str = "an origin is scheme://host or scheme://host:port, as in https://shop.example or https://*.shop.example";
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self::One(text));
        }
        let (scheme, host) = text.split_once("://").ok_or(RIGHT)?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(is_of_scheme);
        let (domain, is_below) = match host.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (host, false),
        };
        let is_host = !domain.is_empty() && domain.bytes().all(is_of_host);
        match (is_scheme && is_host, is_below) {
            (false, _) => Err(RIGHT),
            (true, false) => Ok(Self::One(text)),
            (true, true) => Ok(Self::Below {
                scheme: format!("{scheme}://"),
                domain: format!(".{domain}"),
            }),
        }
    }

    /// Whether an `Origin` header says this.
    pub(super) fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::One(one) => one.as_bytes().eq_ignore_ascii_case(origin),
            Self::Below { scheme, domain } => {
                let Some((start, rest)) = origin.split_at_checked(scheme.len()) else {
                    return false;
                };
                let Some((names, end)) = rest
                    .len()
                    .checked_sub(domain.len())
                    .and_then(|length| rest.split_at_checked(length))
                else {
                    return false;
                };
                start.eq_ignore_ascii_case(scheme.as_bytes())
                    && end.eq_ignore_ascii_case(domain.as_bytes())
                    && !names.is_empty()
                    && names
                        .iter()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
            }
        }
    }
}

fn is_of_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_itself_or_below_a_domain() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "https://shop.example",
                &["https://shop.example", "HTTPS://Shop.Example"],
                &[
                    "http://shop.example",
                    "https://shop.example:8443",
                    "https://a.shop.example",
                    "https://shop.example.evil",
                    "",
                ],
            ),
            (
                "https://*.shop.example",
                &["https://a.shop.example", "https://a.b.shop.example"],
                &[
                    "https://shop.example",
                    "https://.shop.example",
                    "https://evilshop.example",
                    "https://evil/.shop.example",
                    "https://x@a.shop.example",
                    "http://a.shop.example",
                    "https",
                ],
            ),
            (
                "http://localhost:3000",
                &["http://localhost:3000"],
                &["http://localhost"],
            ),
            ("http://[::1]:3000", &["http://[::1]:3000"], &[]),
            ("capacitor://localhost", &["capacitor://localhost"], &[]),
            ("null", &["null"], &["https://null"]),
        ];
        for (text, are, are_not) in cases {
            let origin = Origin::parse(text).unwrap();
            for is in *are {
                assert!(origin.is(is.as_bytes()), "{text}: {is}");
            }
            for is_not in *are_not {
                assert!(!origin.is(is_not.as_bytes()), "{text}: {is_not}");
            }
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "*",
            "shop.example",
            "https://",
            "https://*",
            "https://*.",
            "https://a/",
            "https://a b",
            "://a",
            "https://a.*.b",
            "https://u@a",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
