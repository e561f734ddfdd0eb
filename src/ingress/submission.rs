//! What a door hands to the path behind all doors.

use bytes::Bytes;

use super::admit::Shared;
use super::decode::scan::Item;
use super::{Deadline, Outcome};
use crate::event::{DEFAULT_STREAM, Micros};
use crate::telemetry::Span;
use crate::wal::Commit;

/// Which protocol an event came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON over HTTP.
    Http,
    /// gRPC or gRPC-web.
    Grpc,
}

/// One event of a request, not judged yet.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// An item of a JSON body.
    Json(Item<'a>),
    /// An encoded `eventkit.v1.Event`.
    Event(&'a Bytes),
}

impl Input<'_> {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Json(item) => item.bytes.len(),
            Self::Event(bytes) => bytes.len(),
        }
    }
}

/// Where events are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOf<'a> {
    /// All in this one; its name was judged by the door ([`admit::is_stream_name`]).
    Named(&'a str),
    /// Each where its type belongs.
    ItsType,
}

impl<'a> StreamOf<'a> {
    /// The stream of an event of this type.
    pub(super) fn of(self, kind: &str) -> &'a str {
        match (self, kind) {
            (Self::Named(name), _) => name,
            (Self::ItsType, "identify") => "users",
            (Self::ItsType, "track") => "events",
            (Self::ItsType, "page") => "pages",
            (Self::ItsType, "screen") => "screens",
            (Self::ItsType, "group") => "groups",
            (Self::ItsType, "alias") => "aliases",
            (Self::ItsType, _) => DEFAULT_STREAM,
        }
    }
}

/// Events that were handed to the log; [`super::Ingress::settle`] says what became of them.
#[derive(Debug)]
#[must_use = "what became of the events is known only after `settle`"]
pub struct Pending<'a> {
    /// They say "accepted" already, and are not shown to anyone before the commit.
    pub(super) outcomes: Vec<Outcome<'a>>,
    /// `None`: there was nothing to append.
    pub(super) commit: Option<Commit>,
    pub(super) span: Span,
}

impl Pending<'_> {
    /// The same without what it borrows from the request.
    pub fn into_owned(self) -> Pending<'static> {
        Pending {
            outcomes: self.outcomes.into_iter().map(Outcome::into_owned).collect(),
            commit: self.commit,
            span: self.span,
        }
    }
}

/// One request's events, and what is known about all of them.
#[derive(Debug)]
pub struct Submission<'a> {
    /// How they came.
    pub protocol: Protocol,
    /// Identifies the request in the logs.
    pub request_id: &'a str,
    /// Where the events are stored.
    pub stream: StreamOf<'a>,
    /// The type of every event, where the path gives it; else each says itself.
    pub kind: Option<&'static str>,
    /// What the events have in common.
    pub shared: Shared<'a>,
    /// When the client says it sent the request.
    pub sent_at: Option<Micros>,
    /// Until when the events may be appended.
    pub deadline: Option<&'a Deadline>,
    /// The span of the request, or of the message, that carries the events.
    pub span: Span,
    /// The events.
    pub inputs: Vec<Input<'a>>,
}
