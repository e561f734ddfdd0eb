//! Cloud Storage in memory behind a real socket, failing as planned: what the real client meets when the service is ill, or the way to it.
//!
//! It speaks as much of the JSON API as the client uses, and judges as the service does: a precondition, a checksum that does not fit, a
//! bucket that is not there. Each request takes the next entry of the plan; when that is used up, all goes well.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use eventkit::config::Endpoint;
use eventkit::lifecycle::Tasks;
use eventkit::store::{GcsObjects, GcsOptions};
use eventkit::telemetry::Metrics;
use futures::stream;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The one bucket that there is.
pub(super) const BUCKET: &str = "a-bucket";

type Body = BoxBody<Bytes, io::Error>;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing.
    Pass,
    /// The service answers with this status and does nothing else.
    Status(u16),
    /// 429, with so many seconds in `Retry-After`.
    TooMany(u64),
    /// It is read, and never answered.
    Hang,
    /// The connection is reset before anything is done.
    Reset,
    /// The connection is reset while the body is on its way up.
    ResetMidUpload,
    /// It is done, and the connection is reset instead of an answer.
    AnswerLost,
    /// The connection ends in the middle of the answer's body.
    CutShort,
    /// The object arrives damaged; the service notices and stores nothing.
    DamagedUpload,
    /// The object is stored damaged, and the service says under which checksum.
    DamagedInStore,
    /// The answer's body arrives damaged.
    DamagedAnswer,
    /// The answer does not say under which checksum the object is kept.
    NoChecksum,
}

/// The service. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct FakeGcs {
    url: String,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, (i64, Bytes)>,
    generations: i64,
    plan: VecDeque<Trouble>,
    calls: Vec<(Method, Trouble)>,
}

impl FakeGcs {
    /// Starts it on a free port.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        let stop = CancellationToken::new();
        let (tasks, served, stopped) = (Tasks::default(), Arc::clone(&state), stop.clone());
        drop(tasks.clone().spawn("storage", async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    accepted = listener.accept() => {
                        let (socket, _) = accepted.unwrap();
                        let connection = serve(socket, Arc::clone(&served));
                        let stopped = stopped.clone();
                        drop(tasks.spawn("connection", async move {
                            let _ended: Option<()> = stopped.run_until_cancelled(connection).await;
                        }));
                    }
                }
            }
        }));
        Self {
            url,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// A client of its bucket, whose attempts may take this long.
    pub(super) async fn objects(&self, request_timeout: Duration) -> GcsObjects {
        self.bucket(BUCKET, request_timeout).await
    }

    /// The same, whose metrics somebody reads.
    pub(super) async fn counted(&self, request_timeout: Duration, metrics: &Metrics) -> GcsObjects {
        self.open(BUCKET, request_timeout, metrics.clone()).await
    }

    /// A client of any bucket.
    pub(super) async fn bucket(&self, bucket: &str, request_timeout: Duration) -> GcsObjects {
        self.open(bucket, request_timeout, Metrics::new()).await
    }

    async fn open(&self, bucket: &str, request_timeout: Duration, metrics: Metrics) -> GcsObjects {
        let options = GcsOptions {
            bucket: bucket.to_owned(),
            endpoint: Endpoint::emulator(&self.url),
            request_timeout,
        };
        GcsObjects::open(options, metrics).await.unwrap()
    }

    /// Plans what happens to the next requests.
    pub(super) fn plan(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.lock().plan.extend(troubles);
    }

    /// What is stored.
    pub(super) fn stored(&self) -> BTreeMap<String, Bytes> {
        let objects = self.lock().objects.clone();
        let bytes = objects.into_iter().map(|(name, (_, bytes))| (name, bytes));
        bytes.collect()
    }

    /// Stores something behind the client's back.
    pub(super) fn store(&self, name: &str, bytes: &'static [u8]) {
        let bytes = Bytes::from_static(bytes);
        self.lock().put(name.to_owned(), bytes);
    }

    /// The requests so far, each with what happened to it, since this was asked last.
    pub(super) fn take_calls(&self) -> Vec<(Method, Trouble)> {
        std::mem::take(&mut self.lock().calls)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>) {
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request: http::Request<Incoming>| {
        let (state, cut) = (Arc::clone(&state), Arc::clone(&cut));
        async move { Ok::<_, Infallible>(answer(request, state, cut).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        // The client went, or its request was none: its affair.
        _ended = &mut connection => {}
        () = cut.notified() => {
            let socket = connection.into_parts().io.into_inner();
            socket.set_zero_linger().unwrap();
        }
    }
}

async fn answer(
    request: http::Request<Incoming>,
    state: Arc<Mutex<State>>,
    cut: Arc<Notify>,
) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let trouble = {
        let mut state = lock();
        let trouble = state.plan.pop_front().unwrap_or(Trouble::Pass);
        state.calls.push((parts.method.clone(), trouble));
        trouble
    };
    if trouble == Trouble::ResetMidUpload {
        drop(body.frame().await);
        return reset(&cut).await;
    }
    let Ok(body) = body.collect().await else {
        return reset(&cut).await;
    };
    match trouble {
        Trouble::Hang => std::future::pending().await,
        Trouble::Reset => reset(&cut).await,
        Trouble::Status(status) => error(status, "planned", "planned"),
        Trouble::TooMany(seconds) => {
            let mut response = error(429, "rateLimitExceeded", "planned");
            response.headers_mut().insert("retry-after", seconds.into());
            response
        }
        Trouble::AnswerLost => {
            drop(lock().judge(&parts, body.to_bytes(), trouble));
            reset(&cut).await
        }
        _ => lock().judge(&parts, body.to_bytes(), trouble),
    }
}

async fn reset(cut: &Notify) -> Response<Body> {
    cut.notify_one();
    std::future::pending().await
}

// === impl State ===

impl State {
    fn put(&mut self, name: String, bytes: Bytes) -> i64 {
        self.generations += 1;
        self.objects.insert(name, (self.generations, bytes));
        self.generations
    }

    fn judge(&mut self, parts: &Parts, body: Bytes, trouble: Trouble) -> Response<Body> {
        let url = Url::parse(&format!("http://storage{}", parts.uri)).unwrap();
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let path: Vec<String> = url.path_segments().unwrap().map(decoded).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let (bucket, object) = match path[..] {
            ["upload", "storage", "v1", "b", bucket, "o"] | ["storage", "v1", "b", bucket, "o"] => {
                (bucket, None)
            }
            ["storage", "v1", "b", bucket, "o", object] => (bucket, Some(object)),
            _ => return error(501, "notImplemented", "not in this fake"),
        };
        if bucket != BUCKET {
            return error(404, "notFound", "The specified bucket does not exist.");
        }
        match (&parts.method, object) {
            (&Method::POST, None) => self.upload(parts, &query, &body, trouble),
            (&Method::GET, None) => self.list(&query),
            (&Method::GET, Some(name)) => self.download(name, trouble),
            (&Method::DELETE, Some(name)) => self.delete(name, &query),
            _ => error(501, "notImplemented", "not in this fake"),
        }
    }

    fn upload(
        &mut self,
        parts: &Parts,
        query: &BTreeMap<String, String>,
        body: &Bytes,
        trouble: Trouble,
    ) -> Response<Body> {
        let content_type = parts.headers["content-type"].to_str().unwrap();
        let (metadata, mut bytes) = multipart(content_type, body);
        let name = query["name"].clone();
        let present = self.objects.get(&name).map_or(0, |(present, _)| *present);
        let wanted = query.get("ifGenerationMatch");
        if wanted.is_some_and(|wanted| *wanted != present.to_string()) {
            return error(412, "conditionNotMet", "a condition does not hold");
        }
        if matches!(trouble, Trouble::DamagedUpload | Trouble::DamagedInStore) {
            bytes = damaged(&bytes);
        }
        let crc = checksum(&bytes);
        let said = metadata.get("crc32c").and_then(Value::as_str);
        // Without a checksum nobody notices.
        if trouble != Trouble::DamagedInStore && said.is_some_and(|said| said != crc) {
            let text = format!("Provided CRC32C \"{said:?}\" doesn't match calculated CRC32C");
            return error(400, "invalid", &text);
        }
        let size = bytes.len();
        let generation = self.put(name.clone(), bytes);
        respond(
            200,
            &json!({
                "kind": "storage#object", "name": name, "bucket": BUCKET, "generation": generation.to_string(),
                "size": size.to_string(), "crc32c": crc,
            }),
        )
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response<Body> {
        let prefix = query.get("prefix").map_or("", String::as_str);
        let start = query.get("startOffset").map_or("", String::as_str);
        let token = query.get("pageToken");
        let size: usize = query["maxResults"].parse().unwrap();
        let names = self.objects.keys().filter(|name| {
            name.starts_with(prefix)
                && name.as_str() >= start
                && token.is_none_or(|token| *name > token)
        });
        let mut names: Vec<&String> = names.take(size.min(1_000) + 1).collect();
        let mut answer = json!({ "kind": "storage#objects" });
        if names.len() > size.min(1_000) {
            names.pop();
            answer["nextPageToken"] = json!(names.last());
        }
        if !names.is_empty() {
            answer["items"] = names.iter().map(|name| json!({ "name": name })).collect();
        }
        respond(200, &answer)
    }

    fn download(&self, name: &str, trouble: Trouble) -> Response<Body> {
        let Some((generation, bytes)) = self.objects.get(name) else {
            return error(404, "notFound", "No such object");
        };
        let sent = match trouble {
            Trouble::DamagedAnswer => damaged(bytes),
            _ => bytes.clone(),
        };
        let answer = Response::builder()
            .header("content-length", bytes.len())
            .header("x-goog-generation", *generation)
            .header("x-goog-metageneration", 1)
            .header("x-goog-stored-content-length", bytes.len());
        let answer = match trouble {
            Trouble::NoChecksum => answer,
            _ => answer.header("x-goog-hash", format!("crc32c={}", checksum(bytes))),
        };
        let body = if trouble == Trouble::CutShort {
            let half = Frame::data(sent.slice(..sent.len() / 2));
            let gone = io::Error::from(io::ErrorKind::ConnectionReset);
            StreamBody::new(stream::iter([Ok(half), Err(gone)])).boxed()
        } else {
            full(sent)
        };
        answer.body(body).unwrap()
    }

    fn delete(&mut self, name: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let Some((present, _)) = self.objects.get(name) else {
            return error(404, "notFound", "No such object");
        };
        let wanted = query.get("ifGenerationMatch");
        if wanted.is_some_and(|wanted| *wanted != present.to_string()) {
            return error(412, "conditionNotMet", "a condition does not hold");
        }
        self.objects.remove(name);
        let mut response = Response::new(full(Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }
}

/// The two parts of an upload: what is said about the object, and the object.
fn multipart(content_type: &str, body: &Bytes) -> (Value, Bytes) {
    let (_, boundary) = content_type.split_once("boundary=").unwrap();
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let mut parts = Vec::new();
    let mut at = find(body, boundary.as_bytes(), 0).unwrap() + boundary.len();
    while let Some(end) = find(body, format!("\r\n{boundary}").as_bytes(), at) {
        let begin = find(body, b"\r\n\r\n", at).unwrap() + 4;
        parts.push(body.slice(begin..end));
        at = end + 2 + boundary.len();
    }
    assert_eq!(parts.len(), 2, "an upload is what is said and the bytes");
    (serde_json::from_slice(&parts[0]).unwrap(), parts[1].clone())
}

fn find(bytes: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    let mut windows = bytes[from..].windows(wanted.len());
    windows
        .position(|window| window == wanted)
        .map(|at| from + at)
}

/// As percent-encoded in a path, where a plus is a plus.
fn decoded(segment: &str) -> String {
    let url = format!("http://x/?n={}", segment.replace('+', "%2B"));
    let url = Url::parse(&url).unwrap();
    url.query_pairs().next().unwrap().1.into_owned()
}

/// One bit is another; nothing becomes something.
fn damaged(bytes: &Bytes) -> Bytes {
    let mut damaged = BytesMut::from(&bytes[..]);
    match damaged.first_mut() {
        Some(byte) => *byte ^= 1,
        None => damaged.extend_from_slice(b"x"),
    }
    damaged.freeze()
}

/// The CRC-32C as the API writes it: four bytes, big end first, in base 64.
pub(super) fn checksum(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u64::from(crc32c::crc32c(bytes)) << 4;
    let digit = |place: u32| {
        let index = usize::try_from(bits >> (6 * place) & 63).unwrap();
        char::from(DIGITS[index])
    };
    (0..6).rev().map(digit).chain("==".chars()).collect()
}

fn error(status: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({
        "error": {
            "code": status, "message": message,
            "errors": [{ "domain": "global", "reason": reason, "message": message }],
        },
    });
    respond(status, &body)
}

fn respond(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string().into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let json = http::HeaderValue::from_static("application/json; charset=UTF-8");
    response.headers_mut().insert("content-type", json);
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}
