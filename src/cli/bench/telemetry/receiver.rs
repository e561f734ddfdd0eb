//! Where the servers' telemetry goes: counted and dropped, refused, or never answered.
//!
//! Spans are counted without being read: what a collector does with them is not what is measured, and it would use the processors
//! that the server needs. So their bytes are told apart and left as they are.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::lifecycle::Tasks;

/// What a message is preceded by: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The answer to every export: an empty message.
const EMPTY: &[u8] = &[0; PREFIX_BYTES];

/// What the receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Takes everything.
    Takes,
    /// Does not listen.
    Refuses,
    /// Takes connections and says nothing.
    Hangs,
}

/// What came.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    spans: AtomicU64,
}

/// See the module's page. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Receiver {
    addr: SocketAddr,
    counts: Arc<Counts>,
    accepting: Option<JoinHandle<Option<()>>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Its connections end with the server that holds their other end.
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

impl Receiver {
    /// On any free port of the loopback.
    pub(super) async fn start(behaviour: Behaviour) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let accepting = match behaviour {
            // The port was free a moment ago, and nobody listens there.
            Behaviour::Refuses => None,
            Behaviour::Takes => Some(accept(listener, Some(Arc::clone(&counts)))),
            Behaviour::Hangs => Some(accept(listener, None)),
        };
        Ok(Self {
            addr,
            counts,
            accepting,
        })
    }

    /// Where it is, as exporters have it.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many exports and how many spans came.
    pub(super) fn counted(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.requests), read(&self.counts.spans))
    }
}

/// Accepts connections and answers on them, or holds them without a word.
fn accept(listener: TcpListener, counts: Option<Arc<Counts>>) -> JoinHandle<Option<()>> {
    let tasks = Tasks::default();
    let each = tasks.clone();
    tasks.spawn_isolated("receiver", async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            match &counts {
                Some(counts) => {
                    let serving = serve(stream, Arc::clone(counts));
                    drop(each.spawn_isolated("receiver's connection", serving));
                }
                None => held.push(stream),
            }
        }
    })
}

async fn serve(stream: TcpStream, counts: Arc<Counts>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&counts)));
    let ended = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // The server was stopped in the middle of an export.
    drop(ended);
}

type Answer = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// Takes an export, whatever it is of.
async fn answer(
    request: Request<Incoming>,
    counts: Arc<Counts>,
) -> hyper::Result<Response<Answer>> {
    let is_traces = request.uri().path().ends_with("TraceService/Export");
    let body = request.into_body().collect().await?.to_bytes();
    counts.requests.fetch_add(1, Ordering::Relaxed);
    if is_traces {
        counts.spans.fetch_add(spans(body), Ordering::Relaxed);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![
        Ok(Frame::data(Bytes::from_static(EMPTY))),
        Ok(Frame::trailers(trailers)),
    ];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    Ok(response)
}

/// How many spans an export holds; none if it cannot be read, a compressed one for instance.
fn spans(mut body: Bytes) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::time::timeout;

    use super::*;

    fn provider(receiver: &Receiver) -> SdkTracerProvider {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(receiver.endpoint())
            .with_timeout(Duration::from_millis(500))
            .build()
            .unwrap();
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .build()
    }

    /// Makes spans, and says whether their export went well.
    async fn export(receiver: &Receiver, spans: usize) -> bool {
        let provider = provider(receiver);
        let tracer = provider.tracer("test");
        for _ in 0..spans {
            drop(tracer.start("a span"));
        }
        let flushing = tokio::task::spawn_blocking(move || provider.force_flush().is_ok());
        timeout(Duration::from_secs(30), flushing)
            .await
            .expect("an export ends")
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_exporters_spans_are_counted() {
        let receiver = Receiver::start(Behaviour::Takes).await.unwrap();
        assert!(export(&receiver, 700).await);
        let (requests, spans) = receiver.counted();
        assert_eq!(spans, 700);
        assert!(requests >= 2, "{requests}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_refuses_or_hangs_takes_nothing() {
        for behaviour in [Behaviour::Refuses, Behaviour::Hangs] {
            let receiver = Receiver::start(behaviour).await.unwrap();
            assert!(!export(&receiver, 3).await, "{behaviour:?}");
            assert_eq!(receiver.counted(), (0, 0));
        }
    }
}
