//! Collectors with a mood of their own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a collector does with what it gets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mood {
    Takes,
    /// `UNAVAILABLE`, 503.
    Refuses,
    /// Takes it after a while.
    Slow(Duration),
}

#[derive(Debug)]
struct Seen {
    mood: Mood,
    requests: AtomicU64,
    spans: AtomicU64,
    headers: Mutex<Vec<HeaderMap>>,
}

/// A collector of traces over gRPC and HTTP at one port; other signals it answers alike.
#[derive(Debug)]
pub(crate) struct Collector {
    address: SocketAddr,
    seen: Arc<Seen>,
    _server: JoinSet<()>,
}

impl Collector {
    pub(crate) async fn start(mood: Mood) -> Self {
        let seen = Arc::new(Seen {
            mood,
            requests: AtomicU64::new(0),
            spans: AtomicU64::new(0),
            headers: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            seen,
            _server: server,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// The spans that it took.
    pub(crate) fn spans(&self) -> u64 {
        self.seen.spans.load(Ordering::SeqCst)
    }

    /// The headers of each request, traces or not.
    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.seen.headers.lock().unwrap().clone()
    }
}

async fn answer(State(seen): State<Arc<Seen>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    seen.requests.fetch_add(1, Ordering::SeqCst);
    seen.headers.lock().unwrap().push(head.headers.clone());
    let is_grpc = head.headers[http::header::CONTENT_TYPE] == "application/grpc";
    let body = body.collect().await.unwrap().to_bytes();
    match seen.mood {
        Mood::Takes => {}
        Mood::Refuses => return refusal(is_grpc),
        Mood::Slow(pause) => tokio::time::sleep(pause).await,
    }
    let path = head.uri.path();
    if path == "/v1/traces" || path.ends_with("TraceService/Export") {
        seen.spans
            .fetch_add(spans(&body, is_grpc), Ordering::SeqCst);
    }
    taken(is_grpc)
}

/// The number of spans in a request; none in one that is compressed.
fn spans(body: &Bytes, is_grpc: bool) -> u64 {
    // gRPC puts a flag and a length before the message.
    let message = body.slice(if is_grpc { 5.. } else { 0.. });
    let Ok(request) = ExportTraceServiceRequest::decode(message) else {
        return 0;
    };
    let scopes = request.resource_spans.iter().flat_map(|r| &r.scope_spans);
    let count: usize = scopes.map(|scope| scope.spans.len()).sum();
    count.try_into().unwrap()
}

fn refusal(is_grpc: bool) -> Response {
    if is_grpc {
        grpc(Body::empty(), Some("14"))
    } else {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        refusal
    }
}

fn taken(is_grpc: bool) -> Response {
    if !is_grpc {
        return Response::new(Body::empty());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0; 5]))),
        Ok(Frame::trailers(trailers)),
    ];
    grpc(
        Body::new(StreamBody::new(futures::stream::iter(frames))),
        None,
    )
}

fn grpc(body: Body, status: Option<&'static str>) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(status) = status {
        headers.insert("grpc-status", HeaderValue::from_static(status));
    }
    response
}

/// Where connections come about and nothing is ever answered, for as long as the listener is kept.
pub(crate) fn hung_port() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Where connections never come about: the backlog is full. For as long as both are kept.
pub(crate) async fn unreachable_port() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap().into_std().unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let at_once = Duration::from_millis(500);
    while let Ok(connected) = timeout(at_once, TcpStream::connect(address)).await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "the backlog is never full");
    }
    (listener, waiting, address)
}
