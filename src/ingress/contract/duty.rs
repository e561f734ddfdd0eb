//! What each endpoint takes and may answer. A new one has to be described here before anything compiles.

use serde_json::{Value, json};

use super::super::paths::Serves;
use super::super::segment::endpoints::{Endpoint, Takes};
use super::super::sender::Party;
use crate::status::Code;

/// What an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    Collect,
    CollectStream,
    /// One event of this type.
    One(&'static str),
    /// An envelope around many.
    Many,
    /// One event of this type in the query.
    Pixel(&'static str),
    Figures,
    Settings,
    SourceConfig,
    Health,
    Ready,
    Contract,
}

/// Whether an endpoint asks for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    Nothing,
    /// None is needed, and one that is not known is refused.
    NoWrongKey,
    /// One is needed where strangers are refused.
    Key,
}

/// Who a request comes from.
const KEY: &[Code] = &[
    Code::WriteKeyMissing,
    Code::WriteKeyUnknown,
    Code::OriginNotAllowed,
];
/// Whether there is room for it now.
const ROOM: &[Code] = &[
    Code::RateLimited,
    Code::LogFull,
    Code::Overloaded,
    Code::Draining,
    Code::LogFailed,
];
/// Its body as such.
const BODY: &[Code] = &[
    Code::MalformedRequest,
    Code::UnsupportedEncoding,
    Code::InvalidEncoding,
    Code::BodyTooLarge,
    Code::RequestTimeout,
];
/// One event, where none of the request was accepted.
pub(super) const EVENT: &[Code] = &[
    Code::NotAnObject,
    Code::InvalidJson,
    Code::InvalidUtf8,
    Code::EventTooLarge,
    Code::TooDeep,
    Code::TooManyKeys,
    Code::MessageIdTooLong,
];

impl Duty {
    pub(super) fn of(serves: Serves) -> Self {
        match serves {
            Serves::Collect => Self::Collect,
            Serves::CollectStream => Self::CollectStream,
            Serves::Health => Self::Health,
            Serves::Ready => Self::Ready,
            Serves::Contract => Self::Contract,
            Serves::Segment(endpoint) => match endpoint.takes {
                Takes::One(kind) => Self::One(kind),
                Takes::Many => Self::Many,
                Takes::Pixel(kind) => Self::Pixel(kind),
                Takes::Figures => Self::Figures,
                Takes::Settings => Self::Settings,
                Takes::SourceConfig => Self::SourceConfig,
            },
        }
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Collect | Self::CollectStream => "events",
            Self::One(_) | Self::Many => "segment",
            Self::Pixel(_) => "pixels",
            Self::Figures | Self::Settings | Self::SourceConfig => "sdks",
            Self::Health | Self::Ready | Self::Contract => "service",
        }
    }

    pub(super) fn summary(self) -> String {
        match self {
            Self::Collect => "Store events under the stream `default`".into(),
            Self::CollectStream => "Store events under a stream".into(),
            Self::One(kind) => format!("Store one event of the type `{kind}`"),
            Self::Many => "Store the events of a batch".into(),
            Self::Pixel(kind) => {
                format!("Store one event of the type `{kind}` by loading a picture")
            }
            Self::Figures => "Take an SDK's figures about itself".into(),
            Self::Settings => "What Segment's SDKs load before they start".into(),
            Self::SourceConfig => "What RudderStack's SDKs load before they start".into(),
            Self::Health => "Whether the process lives".into(),
            Self::Ready => "Whether new work is taken".into(),
            Self::Contract => "This document".into(),
        }
    }

    pub(super) fn description(self, serves: Serves) -> Option<String> {
        let of_party = |party| match party {
            Party::Anyone => {
                "`context.ip` and `context.userAgent` are filled from a request with an `Origin`, where the event does not say them."
            }
            Party::Client => {
                "For browsers and telephones: `context.ip` and `context.userAgent` are filled from the request, where the event does not say them."
            }
            Party::Server => "For servers: nothing is filled in from the request.",
        };
        match (self, serves) {
            (Self::Collect | Self::CollectStream, _) => Some(
                "202 when anything was accepted or was there already, or nothing was sent; else the error of the events, with the same list of results.".into(),
            ),
            (Self::One(_) | Self::Many, Serves::Segment(endpoint)) => Some(format!(
                "200 whatever became of single events: what was rejected stands in `results`. {}",
                of_party(endpoint.party)
            )),
            (Self::Pixel(_), Serves::Segment(endpoint)) => Some(format!(
                "The picture whatever became of the event. {}",
                of_party(endpoint.party)
            )),
            (Self::Figures, _) => Some("They are counted and not stored.".into()),
            (Self::Ready, _) => Some("Stores and queues that are out show as `degraded`, with 200: what comes meanwhile is kept.".into()),
            _ => None,
        }
    }

    pub(super) fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Collect => &["ContentEncoding", "RequestId", "Traceparent"],
            Self::CollectStream => &["Stream", "ContentEncoding", "RequestId", "Traceparent"],
            Self::One(_) | Self::Many => &["ContentEncoding", "SentAt", "RequestId", "Traceparent"],
            Self::Pixel(_) => &["EventInQuery", "RequestId", "Traceparent"],
            Self::Figures => &["ContentEncoding", "RequestId"],
            Self::Settings => &["Key", "RequestId"],
            Self::SourceConfig | Self::Health | Self::Ready | Self::Contract => &["RequestId"],
        }
    }

    pub(super) fn request_body(self) -> Option<&'static str> {
        match self {
            Self::Collect | Self::CollectStream => Some("Events"),
            Self::One(kind) => Some(kind),
            Self::Many => Some("Batch"),
            Self::Figures => Some("Figures"),
            Self::Pixel(_)
            | Self::Settings
            | Self::SourceConfig
            | Self::Health
            | Self::Ready
            | Self::Contract => None,
        }
    }

    pub(super) fn asks(self) -> Asks {
        match self {
            Self::Collect | Self::CollectStream | Self::One(_) | Self::Many | Self::Pixel(_) => {
                Asks::Key
            }
            Self::SourceConfig => Asks::NoWrongKey,
            // Of the settings the path has the key.
            Self::Settings | Self::Figures | Self::Health | Self::Ready | Self::Contract => {
                Asks::Nothing
            }
        }
    }

    /// The positive answer: its status and its name among the components.
    pub(super) fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Collect | Self::CollectStream => (202, "Accepted"),
            Self::One(_) | Self::Many | Self::Figures => (200, "Success"),
            Self::Pixel(_) => (200, "Picture"),
            Self::Settings => (200, "Settings"),
            Self::SourceConfig => (200, "SourceConfig"),
            Self::Health => (200, "Alive"),
            Self::Ready => (200, "Ready"),
            Self::Contract => (200, "Contract"),
        }
    }

    /// Every other answer to a request that is HTTP.
    pub(super) fn codes(self) -> Vec<Code> {
        use Code as C;
        match self {
            Self::Collect => [
                KEY,
                ROOM,
                BODY,
                EVENT,
                &[C::TooManyEvents, C::StreamNotAllowed],
            ]
            .concat(),
            Self::CollectStream => {
                let own = [C::InvalidStream, C::TooManyEvents, C::StreamNotAllowed];
                [KEY, ROOM, BODY, EVENT, &own].concat()
            }
            // The one event is the body.
            Self::One(_) => {
                let own = [C::InvalidJson, C::InvalidUtf8, C::StreamNotAllowed];
                [KEY, ROOM, BODY, &own].concat()
            }
            Self::Many => [KEY, ROOM, BODY, &[C::TooManyEvents]].concat(),
            Self::Pixel(_) => {
                let own = [
                    C::MalformedRequest,
                    C::InvalidJson,
                    C::InvalidUtf8,
                    C::StreamNotAllowed,
                ];
                [KEY, ROOM, &own].concat()
            }
            Self::Figures => [ROOM, BODY].concat(),
            Self::Settings => vec![C::WriteKeyUnknown, C::NotFound],
            Self::SourceConfig => vec![C::WriteKeyUnknown, C::OriginNotAllowed],
            Self::Health | Self::Ready | Self::Contract => vec![],
        }
    }
}

/// What an endpoint is called where its spellings share what is said of them.
pub(super) fn name(endpoint: Endpoint) -> String {
    let party = match endpoint.party {
        Party::Anyone => "",
        Party::Client => "FromClient",
        Party::Server => "FromServer",
    };
    match endpoint.takes {
        Takes::One(kind) => format!("{kind}{party}"),
        Takes::Many => format!("batch{party}"),
        Takes::Pixel(kind) => format!("{kind}Pixel"),
        Takes::Figures => "figures".into(),
        Takes::Settings => "settings".into(),
        Takes::SourceConfig => "sourceConfig".into(),
    }
}

/// The groups of endpoints.
pub(super) fn tags() -> Value {
    let tags = [
        ("events", "Events as they are, with one outcome each."),
        (
            "segment",
            "The paths of Segment's SDKs, and of those that speak like them. Each is served with and without `/v1`, and with and without a slash at its end.",
        ),
        ("pixels", "Events as the address of a picture."),
        ("sdks", "What SDKs ask for beside that."),
        ("service", "About the service itself."),
    ];
    let tags = tags.map(|(name, text)| json!({ "name": name, "description": text }));
    Value::from(tags.to_vec())
}
