//! What stands between the store and Firestore: a server that speaks `BatchWrite` and `ListDocuments`, and fails as planned.
//!
//! Behind it is the emulator, or a memory with Firestore's own rules for what the store relies on: a document is created
//! once, a request names a document once, 500 writes, 4 MiB (the emulator's limit), 1 MiB a document.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use eventkit::lifecycle::Tasks;
use firestore::gcloud_sdk::google::firestore::v1::firestore_client::FirestoreClient;
use firestore::gcloud_sdk::google::firestore::v1::precondition::ConditionType;
use firestore::gcloud_sdk::google::firestore::v1::write::Operation;
use firestore::gcloud_sdk::google::firestore::v1::{
    BatchWriteRequest, BatchWriteResponse, Document, ListDocumentsRequest, ListDocumentsResponse,
    Write, WriteResult,
};
use firestore::gcloud_sdk::google::rpc;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// More than any request or list of the tests.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How one request fails.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nothing is done; the answer is this.
    Status(Code),
    /// Nothing is done, and no answer comes.
    Hang,
    /// Nothing is done; the connection is cut.
    Reset,
    /// It is done; the connection is cut before the answer.
    AnswerLost,
    /// The first half of the writes is done; the answer is `UNAVAILABLE`.
    Half,
    /// All writes but this one are done; this one is answered so.
    Write(usize, Code),
}

/// Where documents are kept.
#[derive(Debug)]
enum Back {
    Memory(Mutex<BTreeMap<String, Document>>),
    Emulator(FirestoreClient<Channel>),
}

/// What the store is pointed at. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Front {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    back: Back,
    writes: Mutex<VecDeque<Option<Fault>>>,
    lists: Mutex<VecDeque<Code>>,
    /// How the names of documents end that no request may hold.
    spoiling: Mutex<Vec<&'static str>>,
    /// The number of writes of each request that came.
    seen: Mutex<Vec<usize>>,
    connections: Mutex<usize>,
    tasks: Tasks,
}

impl Front {
    /// Before nothing but a memory.
    pub(super) async fn memory() -> Self {
        Self::start(Back::Memory(Mutex::default())).await
    }

    /// Before the emulator at this URL.
    pub(super) async fn emulator(url: &str) -> Self {
        Self::start(Back::Emulator(client(url))).await
    }

    async fn start(back: Back) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner {
            address: listener.local_addr().unwrap(),
            back,
            writes: Mutex::default(),
            lists: Mutex::default(),
            spoiling: Mutex::default(),
            seen: Mutex::default(),
            connections: Mutex::default(),
            tasks: Tasks::default(),
        };
        let front = Self {
            inner: Arc::new(inner),
        };
        let accepting = front.clone();
        drop(front.inner.tasks.spawn("front", async move {
            while let Ok((stream, _)) = listener.accept().await {
                *accepting.inner.connections.lock().unwrap() += 1;
                let connection = accepting.clone().serve(stream);
                drop(accepting.inner.tasks.spawn("connection", connection));
            }
        }));
        front
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.inner.address)
    }

    /// How the next requests to write fail, in order; `None` lets one through.
    pub(super) fn plan(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.inner.writes.lock().unwrap().extend(faults);
    }

    /// From now on a document whose name ends so spoils its whole request.
    pub(super) fn spoil(&self, end: &'static str) {
        self.inner.spoiling.lock().unwrap().push(end);
    }

    /// What the next lists are answered instead.
    pub(super) fn plan_lists(&self, codes: impl IntoIterator<Item = Code>) {
        self.inner.lists.lock().unwrap().extend(codes);
    }

    /// The number of writes of each request so far.
    pub(super) fn seen(&self) -> Vec<usize> {
        self.inner.seen.lock().unwrap().clone()
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> usize {
        *self.inner.connections.lock().unwrap()
    }

    /// All documents of a collection, past any fault. With those that only have children, if asked for.
    pub(super) async fn documents(&self, parent: &str, collection: &str) -> Vec<Document> {
        let mut documents = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListDocumentsRequest {
                parent: parent.to_owned(),
                collection_id: collection.to_owned(),
                page_size: 300,
                page_token,
                show_missing: true,
                ..ListDocumentsRequest::default()
            };
            let page = self.list(request).await.unwrap();
            documents.extend(page.documents);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return documents;
            }
        }
    }

    async fn serve(self, stream: TcpStream) {
        let cut = CancellationToken::new();
        let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(
            TokioIo::new(stream),
            service_fn(|request| self.clone().route(cut.clone(), request)),
        );
        // Cut: the connection is dropped with all that is under way on it.
        tokio::select! {
            () = cut.cancelled() => {}
            _ended = connection => {}
        }
    }

    async fn route(
        self,
        cut: CancellationToken,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<tonic::body::Body>, Infallible> {
        let path = request.uri().path().to_owned();
        Ok(match path.rsplit('/').next() {
            Some("BatchWrite") => {
                let write = tower::service_fn(move |request: Request<BatchWriteRequest>| {
                    let (front, cut) = (self.clone(), cut.clone());
                    async move {
                        admin(&request)?;
                        let answer = front.write(request.into_inner(), &cut).await;
                        answer.map(Response::new)
                    }
                });
                tonic::server::Grpc::new(ProstCodec::default())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .unary(write, request)
                    .await
            }
            _ => {
                let list = tower::service_fn(move |request: Request<ListDocumentsRequest>| {
                    let front = self.clone();
                    async move {
                        let planned = front.inner.lists.lock().unwrap().pop_front();
                        match planned {
                            Some(code) => Err(Status::new(code, "planned")),
                            None => front.list(request.into_inner()).await.map(Response::new),
                        }
                    }
                });
                tonic::server::Grpc::new(ProstCodec::default())
                    .unary(list, request)
                    .await
            }
        })
    }

    async fn write(
        &self,
        mut request: BatchWriteRequest,
        cut: &CancellationToken,
    ) -> Result<BatchWriteResponse, Status> {
        self.inner.seen.lock().unwrap().push(request.writes.len());
        let spoiling = self.inner.spoiling.lock().unwrap().clone();
        let mut names = request.writes.iter().map(|write| &document(write).name);
        if names.any(|name| spoiling.iter().any(|end| name.ends_with(end))) {
            return Err(Status::invalid_argument("planned"));
        }
        let fault = self.inner.writes.lock().unwrap().pop_front().flatten();
        match fault {
            None => self.carry_out(request).await,
            Some(Fault::Status(code)) => Err(Status::new(code, "planned")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Reset) => {
                cut.cancel();
                std::future::pending().await
            }
            Some(Fault::AnswerLost) => {
                self.carry_out(request).await.unwrap();
                cut.cancel();
                std::future::pending().await
            }
            Some(Fault::Half) => {
                request.writes.truncate(request.writes.len() / 2);
                self.carry_out(request).await.unwrap();
                Err(Status::unavailable("planned"))
            }
            Some(Fault::Write(at, code)) => {
                request.writes.remove(at);
                let mut response = self.carry_out(request).await?;
                response.status.insert(at, status(code));
                response.write_results.insert(at, WriteResult::default());
                Ok(response)
            }
        }
    }

    async fn carry_out(&self, request: BatchWriteRequest) -> Result<BatchWriteResponse, Status> {
        match &self.inner.back {
            Back::Emulator(client) => {
                let response = client.clone().batch_write(as_admin(request)).await?;
                Ok(response.into_inner())
            }
            Back::Memory(documents) => in_memory(&mut documents.lock().unwrap(), request),
        }
    }

    async fn list(&self, request: ListDocumentsRequest) -> Result<ListDocumentsResponse, Status> {
        let documents = match &self.inner.back {
            Back::Emulator(client) => {
                let response = client.clone().list_documents(as_admin(request)).await?;
                return Ok(response.into_inner());
            }
            Back::Memory(documents) => documents.lock().unwrap(),
        };
        let folder = format!("{}/{}/", request.parent, request.collection_id);
        let below = documents.iter().filter_map(|(name, document)| {
            let rest = name.strip_prefix(&folder)?;
            Some((rest, document))
        });
        let mut listed: BTreeMap<String, Document> = BTreeMap::new();
        for (rest, document) in below {
            let own = match rest.split_once('/') {
                None => document.clone(),
                Some((parent, _)) => Document {
                    name: format!("{folder}{parent}"),
                    ..Document::default()
                },
            };
            let entry = listed
                .entry(own.name.clone())
                .or_insert_with(|| own.clone());
            if entry.fields.is_empty() {
                *entry = own;
            }
        }
        Ok(ListDocumentsResponse {
            documents: listed.into_values().collect(),
            next_page_token: String::new(),
        })
    }
}

/// The emulator takes a `BatchWrite` from its admin only; so does the front.
const ADMIN: &str = "Bearer owner";

fn admin<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("authorization") {
        Some(token) if token == ADMIN => Ok(()),
        _ => Err(Status::permission_denied("not the admin")),
    }
}

fn as_admin<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = MetadataValue::from_static(ADMIN);
    request.metadata_mut().insert("authorization", token);
    request
}

/// A client of Firestore's own.
pub(super) fn client(url: &str) -> FirestoreClient<Channel> {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect_lazy();
    FirestoreClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn in_memory(
    documents: &mut BTreeMap<String, Document>,
    request: BatchWriteRequest,
) -> Result<BatchWriteResponse, Status> {
    let names: BTreeSet<_> = request
        .writes
        .iter()
        .map(|write| &document(write).name)
        .collect();
    let spoilt = names.len() < request.writes.len()
        || request.writes.len() > 500
        || request
            .writes
            .iter()
            .any(|write| document(write).encoded_len() > 1 << 20);
    if spoilt {
        return Err(Status::invalid_argument(
            "not a request that Firestore takes",
        ));
    }
    if request.encoded_len() > 4 << 20 {
        return Err(Status::resource_exhausted("as the emulator says"));
    }
    let mut response = BatchWriteResponse::default();
    for write in request.writes {
        let absent = write
            .current_document
            .and_then(|condition| condition.condition_type)
            == Some(ConditionType::Exists(false));
        let Some(Operation::Update(document)) = write.operation else {
            return Err(Status::unimplemented("the store only creates"));
        };
        let code = if absent && documents.contains_key(&document.name) {
            Code::AlreadyExists
        } else {
            documents.insert(document.name.clone(), document);
            Code::Ok
        };
        response.status.push(status(code));
        response.write_results.push(WriteResult::default());
    }
    Ok(response)
}

fn document(write: &Write) -> &Document {
    match &write.operation {
        Some(Operation::Update(document)) => document,
        other => panic!("the store only creates: {other:?}"),
    }
}

fn status(code: Code) -> rpc::Status {
    rpc::Status {
        code: code as i32,
        ..rpc::Status::default()
    }
}
