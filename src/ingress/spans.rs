//! The span of a request, and what is read of the traces that clients name.
//!
//! A request's span begins with its headers and ends with its answer; of a stream, with its last word. It hangs on the request
//! as an extension, so that handlers find it. Health checks have none: they would bury the rest.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::{Request, Response, StatusCode, Version};
use memchr::memmem::Finder;
use opentelemetry::KeyValue;
use prost::Message as _;

use super::grpc::{BIDI_PATH, COLLECT_PATH, SERVICE_PATH, STREAM_PATH};
use super::route::Kind;
use super::{Counts, Ingress, http as door, lines};
use crate::event::{PayloadFormat, TraceLink};
use crate::proto::v1;
use crate::telemetry::names;
use crate::telemetry::trace::{Span, Tracing, count};

/// Begins a request's span, if it is to be recorded, and hangs it on the request.
pub(super) fn begin<B>(ingress: &Ingress, kind: Kind, request: &mut Request<B>) -> Span {
    let tracing = ingress.tracing();
    if !tracing.is_on() {
        return Span::none();
    }
    let path = request.uri().path();
    let span = match kind {
        Kind::Http => match door::route(&ingress.config().http_prefix, path) {
            Some("/health" | "/ready") => Span::none(),
            route => {
                let is_secure = ingress.config().guard.tls.is_some();
                let scheme = if is_secure { "https" } else { "http" };
                tracing.request(request.headers(), || of_http(request, route, scheme))
            }
        },
        Kind::Grpc | Kind::GrpcWeb => match path.strip_prefix('/') {
            Some(method) if path.starts_with(SERVICE_PATH) => {
                tracing.request(request.headers(), || of_rpc(known_method(method)))
            }
            _ => Span::none(),
        },
    };
    if span.link().is_some() {
        request.extensions_mut().insert(span.clone());
    }
    span
}

fn of_http<B>(
    request: &Request<B>,
    route: Option<&'static str>,
    scheme: &'static str,
) -> (Cow<'static, str>, Vec<KeyValue>) {
    let method = lines::known_method(request.method());
    let version = match request.version() {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    // Room for what the answer adds.
    let mut attributes = Vec::with_capacity(8);
    attributes.extend([
        KeyValue::new(names::HTTP_REQUEST_METHOD, method.unwrap_or(names::OTHER)),
        KeyValue::new(names::URL_SCHEME, scheme),
        KeyValue::new(names::NETWORK_PROTOCOL_VERSION, version),
    ]);
    // As the conventions name a span whose method they do not know.
    let method = method.unwrap_or("HTTP");
    match route {
        None => (method.into(), attributes),
        Some(route) => {
            attributes.push(KeyValue::new(names::HTTP_ROUTE, route));
            (format!("{method} {route}").into(), attributes)
        }
    }
}

fn of_rpc(method: &'static str) -> (Cow<'static, str>, Vec<KeyValue>) {
    let attributes = vec![
        KeyValue::new(names::RPC_SYSTEM_NAME, "grpc"),
        KeyValue::new(names::RPC_METHOD, method),
    ];
    (method.into(), attributes)
}

/// A method as a word of a closed list.
fn known_method(method: &str) -> &'static str {
    [COLLECT_PATH, STREAM_PATH, BIDI_PATH]
        .into_iter()
        .filter_map(|path| path.strip_prefix('/'))
        .find(|known| *known == method)
        .unwrap_or(names::OTHER)
}

/// Says in a request's span how it was answered. A stream says so itself.
pub(super) fn answered<B>(span: &Span, kind: Kind, response: &Response<B>) {
    if span.link().is_none() {
        return;
    }
    match kind {
        Kind::Http => {
            let status = response.status();
            span.set(names::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
            if status.is_server_error() {
                span.failed(server_error(status));
            }
        }
        Kind::Grpc | Kind::GrpcWeb => {
            // Without a status among the headers it comes behind the answer, and then it is OK.
            if let Some(status) = tonic::Status::from_header_map(response.headers()) {
                rpc_ended(span, status.code());
            }
        }
    }
}

/// A status as a word of a closed list; the number itself is an attribute of its own.
fn server_error(status: StatusCode) -> &'static str {
    match status.as_u16() {
        500 => "500",
        501 => "501",
        503 => "503",
        504 => "504",
        _ => names::OTHER,
    }
}

/// Says in a call's span how it ended.
pub(super) fn rpc_ended(span: &Span, code: tonic::Code) {
    let name = code_name(code);
    span.set(names::RPC_RESPONSE_STATUS_CODE, name);
    // The ones that are the server's doing, as the conventions for RPC servers list them.
    let is_error = matches!(
        code,
        tonic::Code::Unknown
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::Unavailable
            | tonic::Code::DataLoss
    );
    if is_error {
        span.failed(name);
    }
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The span that hangs on a request.
pub(super) fn of(extensions: &http::Extensions) -> Span {
    extensions.get::<Span>().cloned().unwrap_or_default()
}

/// Says in a span what became of its events.
pub(super) fn outcome(span: &Span, counts: Counts) {
    if span.link().is_some() {
        span.set(names::ACCEPTED, i64::from(counts.accepted));
        span.set(names::DUPLICATE, i64::from(counts.duplicate));
        span.set(names::REJECTED, i64::from(counts.rejected));
    }
}

/// The span of one message of a stream: a part of the stream's, recorded when that is.
pub(super) fn of_message(tracing: &Tracing, stream: &Span, events: usize) -> Span {
    match stream.link() {
        None => Span::none(),
        parent => {
            let span = tracing.span(names::BATCH_MESSAGE).child_of(parent).start();
            span.set(names::EVENT_COUNT, count(events));
            span
        }
    }
}

/// The context that an event carries itself, in its `context.traceparent`.
pub(super) fn own_context(format: PayloadFormat, payload: &[u8]) -> Option<TraceLink> {
    #[derive(serde::Deserialize)]
    struct Carrier<'a> {
        #[serde(borrow)]
        context: Named<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        traceparent: Cow<'a, str>,
    }
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("traceparent"));
    // Most events name none, and this is all that they pay.
    NAME.find(payload)?;
    let in_json = |json: &[u8]| {
        serde_json::from_slice::<Named<'_>>(json)
            .ok()?
            .traceparent
            .parse()
            .ok()
    };
    match format {
        PayloadFormat::Json => {
            let carrier: Carrier<'_> = serde_json::from_slice(payload).ok()?;
            carrier.context.traceparent.parse().ok()
        }
        PayloadFormat::Event => {
            let event = v1::Event::decode(payload).ok()?;
            match event.context {
                None => in_json(&event.context_json),
                Some(context) => match context.fields.get("traceparent")?.kind.as_ref()? {
                    prost_types::value::Kind::StringValue(text) => text.parse().ok(),
                    _ => None,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
