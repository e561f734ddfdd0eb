//! What stands before and behind every gRPC call: shedding before the body is read, the client's deadline, statuses in our
//! own words, and the lines in the log of a call that never reaches its handler.
//!
//! tonic honours `grpc-timeout` only in its own server, and only until the response's headers; so the deadline is kept
//! here. It ends with the append (see [`Deadline`]).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt as _;
use tower_service::Service;

use super::answer::X_REQUEST_ID;
use super::grpc::{BIDI_PATH, COLLECT_PATH, QUESTION_BYTES_MAX, SERVICE_PATH, STREAM_PATH};
use super::grpc_body::MeteredBody;
use super::lines::{self, Line};
use super::outcome::RequestError;
use super::request_id::{self, RequestId};
use super::rpc_status::{self, status, translate};
use super::sender::{Party, Sender};
use super::shed::Held;
use super::stream::told_to_end;
use super::{Deadline, Ingress};
use crate::status::Code;
use crate::telemetry::metrics::labels;

/// What stands before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The services behind the layer.
#[derive(Debug, Clone)]
pub(crate) struct GrpcLayer {
    pub(crate) routes: axum::Router,
    pub(crate) ingress: Ingress,
    pub(crate) drain: CancellationToken,
}

impl Service<Request<Body>> for GrpcLayer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let layer = self.clone();
        Box::pin(async move { Ok(layer.handle(request).await) })
    }
}

impl GrpcLayer {
    async fn handle(self, mut request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let is_ours = request.uri().path().starts_with(SERVICE_PATH);
        let path = known_path(request.uri().path());
        let id = RequestId::new(request_id::of(request.headers(), self.ingress.now()));
        request.extensions_mut().insert(id.clone());
        let deadline = Deadline::of(request.headers());
        if let Some(deadline) = &deadline {
            request.extensions_mut().insert(deadline.clone());
        }
        let max = if is_ours {
            self.ingress.config().body_bytes_max
        } else {
            QUESTION_BYTES_MAX
        };
        let mut response = match self.admit(request, is_ours) {
            Ok(request) => {
                let held = request.extensions().get::<Arc<Held>>().cloned();
                let call = self.routes.clone().oneshot(request);
                let call = in_time(call, deadline.as_ref());
                let mut response = if is_ours {
                    call.await
                } else {
                    // No budget holds the question and no pace its bytes: its time is all that there is to limit.
                    let patience = self.ingress.config().body_timeout;
                    let answer = tokio::time::timeout(patience, call).await;
                    answer
                        .unwrap_or_else(|_elapsed| status(&Code::RequestTimeout.into()).into_http())
                };
                // An answer keeps its place in the budget until the client has taken it; a stream's have places of their own.
                if let Some(held) = held.filter(|_| path == COLLECT_PATH) {
                    response.extensions_mut().insert(held);
                }
                if is_ours || response.headers().contains_key("grpc-status") {
                    translate(&mut response, max);
                }
                response
            }
            Err(error) => status(&error).into_http(),
        };
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        // Its handler would have written the lines.
        if !id.is_reached()
            && let Some(code) = rpc_status::code_of(response.headers())
        {
            let line = Line::of_call(path, "any", id.as_str());
            line.received();
            line.completed(code.http(), started.elapsed());
        }
        // A stream of answers has only begun here, and ends by itself in its own words.
        if path == BIDI_PATH && !response.headers().contains_key("grpc-status") {
            return response;
        }
        if is_ours {
            self.record(&response, started.elapsed());
        }
        // The streams of our own service look after their age themselves.
        let age_max = self.ingress.config().guard.stream_age_max;
        let age_max = age_max.filter(|_age| !is_ours);
        let ends = Ends {
            deadline: deadline.map(|deadline| deadline.at()),
            began: started,
            age_max,
            drain: self.drain,
        };
        response.map(|inner| Body::new(EndingBody::new(inner, ends)))
    }

    /// Everything that can be known to fail is asked before the body is read.
    fn admit(&self, request: Request<Body>, is_ours: bool) -> Result<Request<Body>, RequestError> {
        if !is_protobuf(request.headers().get(CONTENT_TYPE)) {
            let text = "send protobuf: content-type application/grpc or application/grpc+proto; do not retry";
            return Err(RequestError::new(Code::UnsupportedEncoding, text));
        }
        if !is_ours {
            return Ok(request);
        }
        let caller = self.ingress.enter_call(&request)?;
        let is_unary = request.uri().path() == COLLECT_PATH;
        // A stream may be as long as it likes: its messages count one by one, when they come.
        let announced = if is_unary { announced(&request) } else { 0 };
        let max = self.ingress.config().body_bytes_max;
        // What can never be read is not called too much for now.
        if announced > max.saturating_add(PREFIX_BYTES) {
            return Err(RequestError::body_too_large(max));
        }
        let held = Arc::new(self.ingress.gate(announced.min(max), &caller)?);
        let metered = if is_unary {
            MeteredBody::unary
        } else {
            MeteredBody::stream
        };
        let mut request =
            request.map(|inner| Body::new(metered(inner, self.ingress.clone(), Arc::clone(&held))));
        let trusted = &self.ingress.config().trusted_proxies;
        let (headers, extensions) = (request.headers(), request.extensions());
        let sender = Sender::of(headers, extensions, Party::Anyone, trusted);
        request.extensions_mut().insert(Arc::new(sender));
        // Held until the handler is done with the message.
        request.extensions_mut().insert(held);
        request.extensions_mut().insert(caller);
        Ok(request)
    }

    fn record<B>(&self, response: &Response<B>, took: Duration) {
        // Without a status among the headers it comes in the trailers of a body that is there already: OK.
        let status = Status::from_header_map(response.headers());
        let code = status.map_or(tonic::Code::Ok, |status| status.code());
        let seconds = &self.ingress.metrics().request_seconds;
        seconds.record(took.as_secs_f64(), labels::grpc_request(code));
    }
}

/// How many bytes a request says that it has; 0 where it says nothing that can be read.
fn announced<B>(request: &Request<B>) -> usize {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// A call's path as the log may have it.
fn known_path(path: &str) -> &'static str {
    match path {
        COLLECT_PATH => COLLECT_PATH,
        STREAM_PATH => STREAM_PATH,
        BIDI_PATH => BIDI_PATH,
        _ => lines::OTHER,
    }
}

/// A content type without its parameters.
pub(super) fn essence(content_type: Option<&HeaderValue>) -> &[u8] {
    let value = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let mut parts = value.split(|byte| matches!(byte, b';' | b' '));
    parts.next().unwrap_or_default()
}

/// Whether the content type is gRPC's with protobuf in it.
fn is_protobuf(content_type: Option<&HeaderValue>) -> bool {
    let essence = essence(content_type);
    essence.eq_ignore_ascii_case(b"application/grpc")
        || essence.eq_ignore_ascii_case(b"application/grpc+proto")
}

/// The call's response, unless its deadline passes before the append.
async fn in_time<F, B>(call: F, deadline: Option<&Deadline>) -> Response<Body>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_late = async {
        match deadline {
            None => std::future::pending().await,
            Some(deadline) => {
                tokio::time::sleep_until(deadline.at()).await;
                if deadline.is_past_append() {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    // Dropping the call is what a deadline is for: nothing was appended.
    tokio::select! {
        biased;
        response = call => match response {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        },
        () = too_late => status(&Code::DeadlineExceeded.into()).into_http(),
    }
}

/// A response body that ends with a status when the client's deadline passes, when it is too old, or when the server drains, while
/// it waits for more. What is ready goes out first, so that a unary answer is never touched.
struct EndingBody {
    inner: Option<Body>,
    ends: Ends,
    waiting: Option<Pin<Box<dyn Future<Output = RequestError> + Send>>>,
}

/// What ends a response that has nothing to say.
#[derive(Clone)]
struct Ends {
    deadline: Option<Instant>,
    began: Instant,
    /// How old it may be; `None`: as old as it likes.
    age_max: Option<Duration>,
    drain: CancellationToken,
}

impl Ends {
    async fn first(self) -> RequestError {
        told_to_end(&self.drain, self.deadline, self.began, self.age_max).await
    }
}

impl EndingBody {
    fn new(inner: Body, ends: Ends) -> Self {
        Self {
            inner: Some(inner),
            ends,
            waiting: None,
        }
    }
}

impl HttpBody for EndingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let waiting = this
            .waiting
            .get_or_insert_with(|| Box::pin(this.ends.clone().first()));
        let error = std::task::ready!(waiting.as_mut().poll(cx));
        this.inner = None;
        let mut trailers = http::HeaderMap::new();
        status(&error).add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn only_protobuf_is_read() {
        let cases = [
            ("application/grpc", true),
            ("Application/GRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpc+thrift", false),
            ("application/grpcx", false),
        ];
        for (value, expected) in cases {
            let header = HeaderValue::from_static(value);
            assert_eq!(is_protobuf(Some(&header)), expected, "{value}");
        }
    }

    fn endless() -> Body {
        let frames = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
        Body::new(http_body_util::StreamBody::new(frames))
    }

    async fn ends_with(body: EndingBody) -> Status {
        let trailers = Body::new(body).collect().await.unwrap().trailers().cloned();
        Status::from_header_map(&trailers.unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_a_status_at_its_deadline_its_age_and_the_drain() {
        let drain = CancellationToken::new();
        let ends = |deadline: Option<u64>, age: Option<u64>| {
            let after = |seconds| Instant::now() + Duration::from_secs(seconds);
            Ends {
                deadline: deadline.map(after),
                began: Instant::now(),
                age_max: age.map(Duration::from_secs),
                drain: drain.clone(),
            }
        };
        let late = EndingBody::new(endless(), ends(Some(1), Some(2)));
        assert_eq!(ends_with(late).await.code(), tonic::Code::DeadlineExceeded);
        let old = EndingBody::new(endless(), ends(Some(3), Some(2)));
        let status = ends_with(old).await;
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("is 2 s old"), "{status:?}");

        let drained = EndingBody::new(endless(), ends(None, None));
        let cancel = async { drain.cancel() };
        let (status, ()) = tokio::join!(ends_with(drained), cancel);
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_drops_the_call_before_the_append_and_never_after_it() {
        let slow = |deadline: Deadline, append: bool| async move {
            assert!(!append || deadline.begin_append());
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        };
        for (append, expected) in [(false, Some(tonic::Code::DeadlineExceeded)), (true, None)] {
            let deadline = Deadline::new(Instant::now() + Duration::from_secs(1));
            let call = slow(deadline.clone(), append);
            let response = in_time(call, Some(&deadline)).await;
            let code = Status::from_header_map(response.headers()).map(|status| status.code());
            assert_eq!(code, expected);
        }
    }
}
