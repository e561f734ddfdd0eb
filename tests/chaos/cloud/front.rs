//! What stands before a service that speaks HTTP/1.1: it can be ill, and it can hold one request of a kind, so that a process
//! is killed at a step that has a name.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What every request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing.
    None,
    /// This status instead of an answer; nothing is done.
    Status(u16),
    /// No answer at all; nothing is done.
    Hang,
    /// It is done, and the connection breaks off instead of an answer.
    Lost,
    /// It is done so much later.
    Late(Duration),
    /// A job of BigQuery's whose id holds this is taken, and has failed whenever it is asked for, now and later. All else is done.
    JobsFail(&'static str),
}

/// Which request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) method: &'static str,
    /// What stands in its path and query, or in its body.
    pub(super) with: &'static str,
    /// Whether it is carried out; its answer never comes.
    pub(super) done: bool,
}

impl Step {
    fn is(&self, method: &Method, uri: &str, body: &[u8]) -> bool {
        let with = self.with.as_bytes();
        *method == self.method
            && (uri.contains(self.with) || body.windows(with.len()).any(|part| part == with))
    }
}

#[derive(Debug)]
struct State {
    trouble: Trouble,
    /// The jobs that failed, and what is said of them.
    failed: HashMap<String, Bytes>,
    waiting: Option<(Step, oneshot::Sender<()>)>,
}

#[derive(Debug)]
struct Shared {
    to: String,
    state: Mutex<State>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The front. Its connections end when it is dropped.
#[derive(Debug)]
pub(super) struct Front {
    address: String,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl Front {
    /// Before the service at this URL.
    pub(super) async fn before(url: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            to: url.to_owned(),
            state: Mutex::new(State {
                trouble: Trouble::None,
                failed: HashMap::new(),
                waiting: None,
            }),
            client: Client::builder(TokioExecutor::new()).build_http(),
        });
        let mut accepting = JoinSet::new();
        let served = Arc::clone(&shared);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
                    // How a connection ends is its client's affair.
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            shared,
            _accepting: accepting,
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every request meets this.
    pub(super) fn set(&self, trouble: Trouble) {
        self.shared.state().trouble = trouble;
    }

    /// Holds the next request of this kind; resolves when it is there. All others go on.
    pub(super) fn hold(&self, step: Step) -> oneshot::Receiver<()> {
        let (reached, reaches) = oneshot::channel();
        self.shared.state().waiting = Some((step, reached));
        reaches
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the request that is waited for.
    fn held(
        &self,
        request: &Request<Full<Bytes>>,
        body: &[u8],
    ) -> Option<(Step, oneshot::Sender<()>)> {
        let uri = request.uri().to_string();
        let mut state = self.state();
        let (step, _) = state.waiting.as_ref()?;
        let is_it = step.is(request.method(), &uri, body);
        is_it.then(|| state.waiting.take()).flatten()
    }

    /// What is said of a job that failed, or that is inserted and fails now.
    fn failed(
        &self,
        request: &Request<Full<Bytes>>,
        body: &[u8],
        trouble: Trouble,
    ) -> Option<Bytes> {
        let path = request.uri().path();
        let mut state = self.state();
        if *request.method() == Method::GET {
            let id = path.rsplit('/').next()?;
            return state.failed.get(id).cloned();
        }
        let Trouble::JobsFail(kind) = trouble else {
            return None;
        };
        if !path.ends_with("/jobs") {
            return None;
        }
        let mut job: Value = serde_json::from_slice(body).ok()?;
        let id = job.pointer("/jobReference/jobId")?.as_str()?.to_owned();
        if !id.contains(kind) {
            return None;
        }
        let error = json!({ "reason": "backendError", "message": "it failed; come again" });
        let status = json!({ "state": "DONE", "errorResult": error, "errors": [error] });
        job.as_object_mut()?.insert("status".to_owned(), status);
        let said = Bytes::from(job.to_string());
        state.failed.insert(id, said.clone());
        Some(said)
    }

    async fn forward(&self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

/// The error ends the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let trouble = shared.state().trouble;
    let answer = answered(request, trouble, &shared).await;
    if trouble == Trouble::Lost {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(answer.unwrap_or_else(|_lost| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    }))
}

async fn answered(
    request: Request<Incoming>,
    trouble: Trouble,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().context("a request has a path")?;
    head.uri = format!("{}{path}", shared.to).parse()?;
    let request = Request::from_parts(head, Full::new(body.clone()));
    match trouble {
        Trouble::None | Trouble::Lost | Trouble::JobsFail(_) => {}
        Trouble::Late(by) => sleep(by).await,
        Trouble::Hang => std::future::pending().await,
        Trouble::Status(status) => {
            return Ok(Response::builder().status(status).body(Full::default())?);
        }
    }
    if let Some(said) = shared.failed(&request, &body, trouble) {
        let response = Response::builder().header("content-type", "application/json");
        return Ok(response.body(Full::new(said))?);
    }
    let Some((step, reached)) = shared.held(&request, &body) else {
        return shared.forward(request).await;
    };
    if step.done {
        drop(shared.forward(request).await?);
    }
    // Whoever waited for it may be gone.
    reached.send(()).unwrap_or(());
    std::future::pending().await
}
