//! What stands between an SDK and the gateway: it passes requests on, remembers them, and does what a network, a proxy or a busy
//! server may do to the next of them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is done to a request that carries events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered with this status and "come again in a second", and goes nowhere.
    Status(u16),
    /// It is passed on and stored, and the connection ends without the answer.
    DropAnswer,
    /// The same, and nothing is passed on from then on until [`Front::lead_to`].
    DropAnswerAndHold,
}

/// A request with events that arrived here.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// The answer that the client got, if it got one.
    pub(crate) answer: Option<Response<Bytes>>,
}

impl Seen {
    pub(crate) fn status(&self) -> Option<u16> {
        let answer = self.answer.as_ref()?;
        Some(answer.status().as_u16())
    }

    /// The body of the answer.
    pub(crate) fn told(&self) -> serde_json::Value {
        let answer = self.answer.as_ref().expect("it was answered");
        serde_json::from_slice(answer.body()).expect("answers are JSON")
    }
}

/// A port of its own in front of a gateway. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    inner: Arc<Inner>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    client: Client<HttpConnector, Full<Bytes>>,
    /// `None`: every connection ends without an answer.
    gateway: Mutex<Option<String>>,
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
    /// The paths that a browser asked for before it sent.
    asked: Mutex<Vec<String>>,
    /// How many faults were done.
    done: watch::Sender<usize>,
}

/// The connection ends.
#[derive(Debug)]
struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("gone")
    }
}

impl std::error::Error for Gone {}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Front {
    pub(crate) async fn to(gateway: &str, faults: &[Fault]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .pool_max_idle_per_host(0)
            .build_http();
        let inner = Arc::new(Inner {
            client,
            gateway: Mutex::new(Some(gateway.to_owned())),
            faults: Mutex::new(faults.iter().copied().collect()),
            seen: Mutex::default(),
            asked: Mutex::default(),
            done: watch::Sender::new(0),
        });
        let mut accepting = JoinSet::new();
        let serving = Arc::clone(&inner);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inner = Arc::clone(&serving);
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let inner = Arc::clone(&inner);
                        async move {
                            inner
                                .answer(request)
                                .await
                                .map(|answer| answer.map(Full::new))
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A connection that was cut off on purpose ends with an error.
                    drop(connection.await);
                });
            }
        });
        Self {
            addr,
            inner,
            _accepting: accepting,
        }
    }

    /// Passes everything on to another gateway from now on.
    pub(crate) fn lead_to(&self, gateway: &str) {
        *locked(&self.inner.gateway) = Some(gateway.to_owned());
    }

    /// Waits until so many faults were done.
    pub(crate) async fn faults_done(&self, faults: usize) {
        let mut done = self.inner.done.subscribe();
        done.wait_for(|done| *done >= faults).await.unwrap();
    }

    /// The paths that a browser asked for before it sent: preflights.
    pub(crate) fn asked(&self) -> Vec<String> {
        locked(&self.inner.asked).clone()
    }

    /// Every request with events so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        locked(&self.inner.seen).clone()
    }
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Bytes>, Gone> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_cut_off| Gone)?.to_bytes();
        let has_events = head.method == Method::POST && !head.uri.path().ends_with("/m");
        let fault = if has_events {
            locked(&self.faults).pop_front()
        } else {
            None
        };
        let origin = head.headers.get(ORIGIN).cloned();
        let (path, headers) = (head.uri.path().to_owned(), head.headers.clone());
        if head.method == Method::OPTIONS {
            locked(&self.asked).push(path.clone());
        }
        let answer = match fault {
            Some(Fault::Status(status)) => Ok(refusal(status, origin)),
            _ => self.pass_on(Request::from_parts(head, body)).await,
        };
        let answer = match fault {
            Some(Fault::DropAnswer | Fault::DropAnswerAndHold) => {
                assert!(answer.is_ok_and(|answer| answer.status().is_success()));
                Err(Gone)
            }
            Some(Fault::Status(_)) | None => answer,
        };
        if has_events {
            locked(&self.seen).push(Seen {
                path,
                headers,
                answer: answer.as_ref().ok().cloned(),
            });
        }
        if fault == Some(Fault::DropAnswerAndHold) {
            *locked(&self.gateway) = None;
        }
        if fault.is_some() {
            self.done.send_modify(|done| *done += 1);
        }
        answer
    }

    async fn pass_on(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Gone> {
        let gateway = locked(&self.gateway).clone().ok_or(Gone)?;
        let (mut head, body) = request.into_parts();
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        head.uri = format!("http://{gateway}{target}")
            .parse()
            .map_err(|_none| Gone)?;
        for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        let request = Request::from_parts(head, Full::new(body));
        let response = self.client.request(request).await.map_err(|_down| Gone)?;
        let (mut head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_down| Gone)?.to_bytes();
        head.headers.remove(CONNECTION);
        Ok(Response::from_parts(head, body))
    }
}

/// What the gateway says when it is full, and what one with rate limits says.
fn refusal(status: u16, origin: Option<HeaderValue>) -> Response<Bytes> {
    let code = if status == 429 {
        "rate_limited"
    } else {
        "overloaded"
    };
    let body = serde_json::json!({
        "success": false, "code": code, "message": code, "error": code, "request_id": "r",
    });
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("retry-after", "1");
    if let Some(origin) = origin {
        response = response
            .header("access-control-allow-origin", origin)
            .header("access-control-allow-credentials", "true")
            .header(
                "access-control-expose-headers",
                "Retry-After, X-RateLimit-Reset",
            );
    }
    response.body(body.to_string().into()).unwrap()
}
