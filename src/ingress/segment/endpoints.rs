//! Which paths there are, what each takes, and who uses it. Each is served as it stands here and below `/v1`, with and
//! without a slash at its end.

use super::super::sender::Party;

/// A path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingress) struct Endpoint {
    /// Without `/v1`.
    pub(in crate::ingress) path: &'static str,
    /// What it is called in log lines and spans, however it was spelled.
    pub(in crate::ingress) label: &'static str,
    pub(in crate::ingress) takes: Takes,
    pub(in crate::ingress) party: Party,
}

/// What a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingress) enum Takes {
    /// `POST` with one event of this type.
    One(&'static str),
    /// `POST` with an envelope around many.
    Many,
    /// `GET` with one event of this type in the query.
    Pixel(&'static str),
    /// `POST` with an SDK's figures about itself.
    Figures,
    /// `GET` of what Segment's SDKs load before they start.
    Settings,
    /// The same of RudderStack's.
    SourceConfig,
}

impl Takes {
    /// The type of the events, where the path gives it.
    pub(super) fn kind(self) -> Option<&'static str> {
        match self {
            Self::One(kind) | Self::Pixel(kind) => Some(kind),
            Self::Many | Self::Figures | Self::Settings | Self::SourceConfig => None,
        }
    }

    pub(in crate::ingress) fn method(self) -> &'static str {
        match self {
            Self::One(_) | Self::Many | Self::Figures => "POST",
            Self::Pixel(_) | Self::Settings | Self::SourceConfig => "GET",
        }
    }
}

const fn endpoint(path: &'static str, label: &'static str, takes: Takes, party: Party) -> Endpoint {
    Endpoint {
        path,
        label,
        takes,
        party,
    }
}

/// The paths of one type. The short ones are those of browsers and telephones.
macro_rules! of_type {
    ($kind:literal, $short:literal) => {
        [
            endpoint(
                concat!("/", $kind),
                concat!("/v1/", $kind),
                Takes::One($kind),
                Party::Anyone,
            ),
            endpoint(
                concat!("/", $short),
                concat!("/v1/", $kind),
                Takes::One($kind),
                Party::Client,
            ),
            endpoint(
                concat!("/api/s/", $kind),
                "/api/s/{type}",
                Takes::One($kind),
                Party::Client,
            ),
            endpoint(
                concat!("/api/s/s2s/", $kind),
                "/api/s/s2s/{type}",
                Takes::One($kind),
                Party::Server,
            ),
            endpoint(
                concat!("/pixel/v1/", $kind),
                "/pixel/v1/{type}",
                Takes::Pixel($kind),
                Party::Client,
            ),
            endpoint(
                concat!("/pixel/", $kind),
                "/pixel/v1/{type}",
                Takes::Pixel($kind),
                Party::Client,
            ),
        ]
    };
}

static OF_TYPES: [[Endpoint; 6]; 6] = [
    of_type!("identify", "i"),
    of_type!("track", "t"),
    of_type!("page", "p"),
    of_type!("screen", "s"),
    of_type!("group", "g"),
    of_type!("alias", "a"),
];

static OTHERS: [Endpoint; 10] = [
    endpoint("/batch", "/v1/batch", Takes::Many, Party::Anyone),
    endpoint("/b", "/v1/batch", Takes::Many, Party::Client),
    endpoint("/import", "/v1/import", Takes::Many, Party::Anyone),
    endpoint("/api/s/batch", "/api/s/{type}", Takes::Many, Party::Client),
    endpoint(
        "/api/s/s2s/batch",
        "/api/s/s2s/{type}",
        Takes::Many,
        Party::Server,
    ),
    endpoint(
        "/beacon/v1/batch",
        "/beacon/v1/batch",
        Takes::Many,
        Party::Client,
    ),
    endpoint(
        "/beacon/batch",
        "/beacon/v1/batch",
        Takes::Many,
        Party::Client,
    ),
    endpoint("/m", "/v1/m", Takes::Figures, Party::Client),
    endpoint(
        SETTINGS,
        "/v1/projects/{key}/settings",
        Takes::Settings,
        Party::Client,
    ),
    endpoint(
        "/sourceConfig",
        "/sourceConfig",
        Takes::SourceConfig,
        Party::Client,
    ),
];

/// The one path with a part that clients choose.
const SETTINGS: &str = "/projects/{key}/settings";

/// Every path.
pub(in crate::ingress) fn all() -> impl Iterator<Item = Endpoint> {
    OF_TYPES.iter().flatten().chain(&OTHERS).copied()
}

/// The label of the path that takes a request, without a slash at its end; `None`: none does.
pub(in crate::ingress) fn label(path: &str) -> Option<&'static str> {
    [Some(path), path.strip_prefix("/v1")]
        .into_iter()
        .flatten()
        .find_map(|path| all().find(|known| is(known.path, path)))
        .map(|endpoint| endpoint.label)
}

fn is(known: &str, path: &str) -> bool {
    if known != SETTINGS {
        return known == path;
    }
    path.strip_prefix("/projects/")
        .and_then(|rest| rest.strip_suffix("/settings"))
        .is_some_and(|key| !key.is_empty() && !key.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_label_and_nothing_else_has() {
        for endpoint in all() {
            for before in ["", "/v1"] {
                let path = format!("{before}{}", endpoint.path.replace("{key}", "abc"));
                assert_eq!(label(&path), Some(endpoint.label), "{path}");
            }
        }
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/v1/track",
            "/x",
            "/v1/tracks",
            "/v2/track",
            "/projects//settings",
            "/projects/a/b/settings",
            "/projects/settings",
            "/pixel",
            "/pixel/v1",
            "/api/s",
            "/api/s/other",
        ] {
            assert_eq!(label(path), None, "{path}");
        }
    }

    #[test]
    fn no_path_stands_twice() {
        let paths: std::collections::BTreeSet<_> = all().map(|endpoint| endpoint.path).collect();
        assert_eq!(paths.len(), all().count());
    }
}
