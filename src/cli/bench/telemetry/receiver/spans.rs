//! How many spans an export holds, as far as it must be read for that.

use bytes::Bytes;
use prost::Message;

use super::PREFIX_BYTES;

/// How many spans an export holds; none if it cannot be read, a compressed one for instance.
pub(super) fn spans(mut body: Bytes) -> u64 {
    if body.len() < PREFIX_BYTES || body.first() != Some(&0) {
        return 0;
    }
    let message = body.split_off(PREFIX_BYTES);
    let Ok(traces) = Traces::decode(message) else {
        return 0;
    };
    let scopes = traces
        .resources
        .iter()
        .flat_map(|resource| &resource.scopes);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

/// `ExportTraceServiceRequest`, as far as it must be read.
#[derive(Clone, PartialEq, Message)]
struct Traces {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

/// `ResourceSpans`.
#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

/// `ScopeSpans`, whose spans are bytes: the wire form is the same.
#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    spans: Vec<Bytes>,
}
