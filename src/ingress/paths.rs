//! Every path of the HTTP door, and what answers there: the one table from which the router, the names of paths in logs and
//! spans, and the contract (`/openapi.json`) are made.

use super::segment::endpoints::{self, Endpoint};

/// What answers at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// Takes events for the stream `default`.
    Collect,
    /// Takes events for the stream that the path names.
    CollectStream,
    /// Says that the process lives.
    Health,
    /// Says whether new work is taken.
    Ready,
    /// Says what all of this is, to machines.
    Contract,
    /// What Segment's clients, and those like them, ask for.
    Segment(Endpoint),
}

impl Serves {
    /// How it is asked.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Collect | Self::CollectStream => "POST",
            Self::Health | Self::Ready | Self::Contract => "GET",
            Self::Segment(endpoint) => endpoint.takes.method(),
        }
    }
}

/// The paths that are our own, each exactly as it stands here.
static OWN: [(&str, Serves); 6] = [
    ("/collect", Serves::Collect),
    ("/collect/", Serves::Collect),
    (COLLECT_STREAM, Serves::CollectStream),
    ("/health", Serves::Health),
    ("/ready", Serves::Ready),
    (CONTRACT, Serves::Contract),
];

const COLLECT_STREAM: &str = "/collect/{stream}";

/// Where the contract is.
pub(super) const CONTRACT: &str = "/openapi.json";

/// Every path in every spelling, without the configured prefix. Those of Segment's clients are there with and without `/v1`,
/// with and without a slash at the end.
pub(super) fn all() -> impl Iterator<Item = (String, Serves)> {
    let own = OWN
        .iter()
        .map(|(path, serves)| ((*path).to_owned(), *serves));
    let segment = endpoints::all().flat_map(|endpoint| {
        let spellings = [("", ""), ("", "/"), ("/v1", ""), ("/v1", "/")];
        spellings.map(|(before, after)| {
            let path = format!("{before}{}{after}", endpoint.path);
            (path, Serves::Segment(endpoint))
        })
    });
    own.chain(segment)
}

/// What the path that takes a request is called in logs and spans; `None`: none does.
pub(super) fn label(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let named = OWN.iter().find(|(known, _)| *known == path);
    let in_stream = |path: &str| {
        path.strip_prefix("/collect/")
            .is_some_and(|stream| !stream.contains('/'))
    };
    match named {
        Some((known, _)) => Some(known),
        None if in_stream(path) => Some(COLLECT_STREAM),
        None => endpoints::label(path),
    }
}
