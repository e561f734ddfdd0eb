//! One `CollectBidi` stream on a connection of its own, a window of batches under way. Batches are encoded beforehand.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstDecoder;

use super::Job;
use crate::proto::v1::collect_bidi_response::Message;
use crate::proto::v1::{BatchAck, CollectBidiResponse};

const PATH: &str = "/eventkit.v1.IngestService/CollectBidi";

/// Sends messages that are encoded already.
#[derive(Debug, Default, Clone, Copy)]
struct Encoded;

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = CollectBidiResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<CollectBidiResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

/// Sends until the load ends; a stream that broke, or that had its share, is followed by another one.
pub(super) async fn run(mut job: Job) {
    while !job.ledger.is_stopped() {
        if let Err(status) = stream(&mut job).await {
            let why = || format!("{:?}: {}", status.code(), status.message());
            job.ledger.failed(1, why);
            job.pause().await;
        }
    }
}

async fn stream(job: &mut Job) -> Result<(), Status> {
    let (client, addr) = (Arc::clone(&job.client), job.addr);
    let connector = tower::service_fn(move |_: Uri| {
        let client = Arc::clone(&client);
        async move { client.connect(addr).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| Status::from_error(error.into()))?
        .connect_with_connector(connector)
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let mut grpc = Grpc::new(channel);
    if job.client.is_packed() {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    grpc.ready()
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    let (requests, receiver) = mpsc::channel(job.shape.window);
    let mut request = Request::new(ReceiverStream::new(receiver));
    *request.metadata_mut() = MetadataMap::from_headers(job.headers.clone());
    let path = PathAndQuery::from_static(PATH);
    let answers = grpc.streaming(request, path, Encoded).await?.into_inner();
    Stream {
        requests,
        answers,
        under_way: VecDeque::new(),
        last: 0,
    }
    .run(job)
    .await
}

struct Stream {
    requests: mpsc::Sender<Bytes>,
    answers: Streaming<CollectBidiResponse>,
    /// From when the latency of each batch under way counts, in order.
    under_way: VecDeque<Instant>,
    last: u64,
}

impl Stream {
    async fn run(mut self, job: &mut Job) -> Result<(), Status> {
        loop {
            let is_stopped = job.ledger.is_stopped();
            let is_over = is_stopped || Some(self.last) == job.shape.stream_batches;
            if is_over && self.under_way.is_empty() {
                return Ok(());
            }
            let is_open = !is_over && self.under_way.len() < job.shape.window;
            let (pace, ledger) = (&mut job.pace, &job.ledger);
            // Both cancel safe: an answer that was not taken stays in the stream, an appointed time stays the same. A time
            // that has come goes before the answers, so that the window is filled first.
            tokio::select! {
                biased;
                () = pace.wait(ledger), if is_open => self.send(job),
                answer = self.answers.message(), if !self.under_way.is_empty() => {
                    self.take(answer?, job)?;
                }
            }
        }
    }

    fn send(&mut self, job: &mut Job) {
        if job.ledger.is_stopped() {
            return;
        }
        let due = job.due();
        self.last += 1;
        let batch = job.source.batch(self.last, job.shape.batch);
        self.under_way.push_back(due);
        // The channel holds a whole window. Closed, the next answer says why.
        drop(self.requests.try_send(batch));
    }

    fn take(&mut self, answer: Option<CollectBidiResponse>, job: &Job) -> Result<(), Status> {
        let Some(answer) = answer else {
            return Err(Status::aborted("the stream was closed by the server"));
        };
        if let Some(Message::Ack(ack)) = answer.message
            && let Some(due) = self.under_way.pop_front()
        {
            let BatchAck {
                accepted, results, ..
            } = ack;
            let batch = job.shape.batch;
            let accepted = usize::try_from(accepted).unwrap_or(0);
            job.ledger.accepted(accepted, due);
            if accepted < batch {
                let why = || format!("not accepted: {:?}", results.first());
                job.ledger.failed(batch - accepted, why);
            }
        }
        Ok(())
    }
}
