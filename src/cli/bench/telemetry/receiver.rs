//! Where the servers' telemetry goes: counted and dropped, or one of the things that a collector does when it does not do its part.
//!
//! Spans are counted without being read: what a collector does with them is not what is measured, and it would use the processors
//! that the server needs. So their bytes are told apart and left as they are.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::bench::process::bound;
use crate::lifecycle::Tasks;

mod spans;

/// What a message is preceded by: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The answer to an export that is taken: an empty message.
const EMPTY: &[u8] = &[0; PREFIX_BYTES];

/// How long one that is slow takes for an answer: less than exporters wait by default.
const SLOW: Duration = Duration::from_secs(3);
/// How long one that restarts is there.
const UP: Duration = Duration::from_secs(1);
/// And how long it is not.
const DOWN: Duration = Duration::from_millis(500);

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// What the receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Takes everything.
    Takes,
    /// Does not listen.
    Refuses,
    /// Takes connections and says nothing.
    Hangs,
    /// Answers every export with `UNAVAILABLE`.
    Fails,
    /// Takes everything, and says so only after [`SLOW`].
    Slow,
    /// Takes everything; but again and again its port is closed and its connections end.
    Restarts,
}

/// What came.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    spans: AtomicU64,
}

/// See the module's page. Dropped, it is gone with its connections.
#[derive(Debug)]
pub(super) struct Receiver {
    addr: SocketAddr,
    /// Bound and not listening: so the port is nobody else's while it is closed.
    _held: TcpSocket,
    counts: Arc<Counts>,
    serving: Option<JoinHandle<Option<()>>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

impl Receiver {
    /// On any free port of the loopback.
    pub(super) fn start(behaviour: Behaviour) -> io::Result<Self> {
        let held = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = held.local_addr()?;
        let counts = Arc::<Counts>::default();
        let serving = match behaviour {
            Behaviour::Refuses => None,
            Behaviour::Restarts => {
                let restarting = restart(listen(addr)?, addr, Arc::clone(&counts));
                Some(Tasks::default().spawn_isolated("receiver", restarting))
            }
            Behaviour::Takes | Behaviour::Hangs | Behaviour::Fails | Behaviour::Slow => {
                let serving = serve(listen(addr)?, behaviour, Arc::clone(&counts));
                Some(Tasks::default().spawn_isolated("receiver", serving))
            }
        };
        Ok(Self {
            addr,
            _held: held,
            counts,
            serving,
        })
    }

    /// Where it is, as exporters have it.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many exports came, and how many spans it took.
    pub(super) fn counted(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.requests), read(&self.counts.spans))
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    bound(addr)?.listen(BACKLOG)
}

/// Serves for a while, is away for a while, and so on.
async fn restart(first: TcpListener, addr: SocketAddr, counts: Arc<Counts>) {
    let mut listener = Some(first);
    loop {
        if let Some(listener) = listener.take() {
            // Cut off in the middle of whatever it did.
            drop(timeout(UP, serve(listener, Behaviour::Takes, Arc::clone(&counts))).await);
        }
        sleep(DOWN).await;
        // The port is kept; what may lack is a descriptor, and that only for a while.
        listener = listen(addr).ok();
    }
}

/// Serves whoever connects. All connections are in this one future, so that they end with it.
async fn serve(listener: TcpListener, behaviour: Behaviour, counts: Arc<Counts>) {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Cancel safe: a connection that was not accepted waits.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.push(talk(stream, behaviour, Arc::clone(&counts))),
                Err(_) => return,
            },
            // Cancel safe: it only says which of them have ended.
            Some(()) = connections.next() => {}
        }
    }
}

async fn talk(stream: TcpStream, behaviour: Behaviour, counts: Arc<Counts>) {
    if behaviour == Behaviour::Hangs {
        return pending().await;
    }
    let service = service_fn(move |request| answer(request, behaviour, Arc::clone(&counts)));
    let ended = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // The server was stopped in the middle of an export.
    drop(ended);
}

type Answer = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// Answers an export, whatever it is of.
async fn answer(
    request: Request<Incoming>,
    behaviour: Behaviour,
    counts: Arc<Counts>,
) -> hyper::Result<Response<Answer>> {
    let is_traces = request.uri().path().ends_with("TraceService/Export");
    let body = request.into_body().collect().await?.to_bytes();
    counts.requests.fetch_add(1, Ordering::Relaxed);
    if behaviour == Behaviour::Fails {
        return Ok(answered("14", None));
    }
    if behaviour == Behaviour::Slow {
        sleep(SLOW).await;
    }
    if is_traces {
        counts
            .spans
            .fetch_add(spans::spans(body), Ordering::Relaxed);
    }
    Ok(answered("0", Some(EMPTY)))
}

/// An answer of gRPC: perhaps a message, then the status.
fn answered(status: &'static str, message: Option<&'static [u8]>) -> Response<Answer> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let message = message.map(|message| Ok(Frame::data(Bytes::from_static(message))));
    let frames: Vec<_> = message
        .into_iter()
        .chain([Ok(Frame::trailers(trailers))])
        .collect();
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Longer than anything here takes, on a busy machine.
    const LONG: Duration = Duration::from_secs(30);

    fn provider(receiver: &Receiver, limit: Duration) -> SdkTracerProvider {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(receiver.endpoint())
            .with_timeout(limit)
            .build()
            .unwrap();
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .build()
    }

    /// Makes spans, and says whether their export went well within the limit.
    async fn export(receiver: &Receiver, spans: usize, limit: Duration) -> bool {
        let provider = provider(receiver, limit);
        let tracer = provider.tracer("test");
        for _ in 0..spans {
            drop(tracer.start("a span"));
        }
        let flushing = tokio::task::spawn_blocking(move || provider.force_flush().is_ok());
        timeout(LONG, flushing)
            .await
            .expect("an export ends")
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_exporters_spans_are_counted() {
        let receiver = Receiver::start(Behaviour::Takes).unwrap();
        assert!(export(&receiver, 700, LONG).await);
        let (requests, spans) = receiver.counted();
        assert_eq!(spans, 700);
        assert!(requests >= 2, "{requests}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_refuses_hangs_or_fails_takes_nothing() {
        let short = Duration::from_millis(500);
        for (behaviour, hears, limit) in [
            (Behaviour::Refuses, false, short),
            (Behaviour::Hangs, false, short),
            // More than once: the exporter tries again. It must have been heard before its time is over.
            (Behaviour::Fails, true, Duration::from_secs(10)),
        ] {
            let receiver = Receiver::start(behaviour).unwrap();
            assert!(!export(&receiver, 3, limit).await, "{behaviour:?}");
            let (requests, spans) = receiver.counted();
            assert_eq!((requests > 0, spans), (hears, 0), "{behaviour:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_is_slow_takes_them_in_its_time() {
        let receiver = Receiver::start(Behaviour::Slow).unwrap();
        let began = tokio::time::Instant::now();
        assert!(export(&receiver, 3, LONG).await);
        assert!(began.elapsed() >= SLOW);
        assert_eq!(receiver.counted(), (1, 3));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_restarts_ends_its_connections_and_comes_back() {
        let receiver = Receiver::start(Behaviour::Restarts).unwrap();
        let mut held = TcpStream::connect(receiver.addr).await.unwrap();
        let mut greeting = Vec::new();
        timeout(LONG, held.read_to_end(&mut greeting))
            .await
            .expect("the connection ends")
            .unwrap();
        let back = async {
            // As long as it is away, an export ends at once.
            while !export(&receiver, 3, LONG).await {}
        };
        timeout(LONG, back).await.expect("it is back");
        assert_eq!(receiver.counted().1, 3);
    }
}
