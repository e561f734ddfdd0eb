//! The gRPC door: `eventkit.v1.IngestService`, health and reflection.
//!
//! The service is implemented over the server's view of the contract, in which each event is a slice of the request.
//! Limits, deadlines and the statuses of requests that never reach this module are in `grpc_layer`.

use std::sync::Arc;

use bytes::Bytes;
use prost_types::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::server::HealthReporter;

use super::accept::Via;
use super::lines::Line;
use super::outcome::RequestError;
use super::request_id::RequestId;
use super::rpc_status::status;
use super::sender::Sender;
use super::shed::Held;
use super::stream::{self, Call};
use super::{
    Caller, Deadline, Ingress, Input, Protocol, Shared, StreamOf, Submission, admit, request_id,
    results, spans,
};
use crate::event::{Client, DEFAULT_STREAM, Micros};
use crate::lifecycle::{Health, Tasks};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::server::ingest_service_server::{IngestService, IngestServiceServer};
use crate::proto::server::{CollectBidiRequest, CollectRequest, CollectStreamRequest};
use crate::proto::v1::{CollectResponse, CollectStreamResponse};
use crate::status::Code;
use crate::telemetry::Span;
use crate::telemetry::metrics::Raised;

/// The service's name in health checks.
const SERVICE: &str = "eventkit.v1.IngestService";
/// How the paths of its methods begin.
pub(crate) const SERVICE_PATH: &str = "/eventkit.v1.IngestService/";
/// The path of its one unary method.
pub(crate) const COLLECT_PATH: &str = "/eventkit.v1.IngestService/Collect";
/// The path of its client stream.
pub(crate) const STREAM_PATH: &str = "/eventkit.v1.IngestService/CollectStream";
/// The path of its stream in both directions.
pub(crate) const BIDI_PATH: &str = "/eventkit.v1.IngestService/CollectBidi";

/// The largest question about health or the contract: a name. Without a limit of their own they would be as large a message as any,
/// asked by anyone, without a key and beside every budget.
pub(super) const QUESTION_BYTES_MAX: usize = 4 * 1024;

/// Every service of the gRPC door. `tasks` keeps the health service in step with [`Health`] until `drain`.
pub(crate) fn routes(ingress: &Ingress, tasks: &Tasks, drain: &CancellationToken) -> axum::Router {
    let config = ingress.config();
    let service = Service {
        ingress: ingress.clone(),
        tasks: tasks.clone(),
        drain: drain.clone(),
    };
    let service = IngestServiceServer::new(service)
        .max_decoding_message_size(config.body_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let (reporter, health) = tonic_health::server::health_reporter();
    let follow = follow_health(ingress.health().clone(), reporter, drain.clone());
    drop(tasks.spawn("grpc health", follow));
    let health = health.max_decoding_message_size(QUESTION_BYTES_MAX);
    let mut routes = Routes::new(service).add_service(health);
    if config.reflection {
        routes = add_reflection(routes);
    }
    routes.prepare().into_axum_router()
}

/// Reflection in both versions: older tools ask for v1alpha first. Each lists only what it was given and itself.
fn add_reflection(routes: Routes) -> Routes {
    let builder = || {
        [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            // For the details of errors.
            tonic_types::pb::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .fold(
            tonic_reflection::server::Builder::configure(),
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        )
    };
    let v1 = builder()
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with this program");
    let v1alpha = builder()
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .expect("the descriptors were compiled with this program");
    routes
        .add_service(v1.max_decoding_message_size(QUESTION_BYTES_MAX))
        .add_service(v1alpha.max_decoding_message_size(QUESTION_BYTES_MAX))
}

/// Says SERVING exactly while the gateway is ready, for the whole server and for the service.
async fn follow_health(health: Health, reporter: HealthReporter, drain: CancellationToken) {
    let mut ready = health.subscribe();
    loop {
        let serving = if *ready.borrow_and_update() {
            tonic_health::ServingStatus::Serving
        } else {
            tonic_health::ServingStatus::NotServing
        };
        for name in ["", SERVICE] {
            reporter.set_service_status(name, serving).await;
        }
        // Both arms are cancel safe: the value is read again at the start of the loop.
        tokio::select! {
            changed = ready.changed() => if changed.is_err() { return },
            () = drain.cancelled() => break,
        }
    }
    for name in ["", SERVICE] {
        let status = tonic_health::ServingStatus::NotServing;
        reporter.set_service_status(name, status).await;
    }
}

#[derive(Debug)]
struct Service {
    ingress: Ingress,
    tasks: Tasks,
    drain: CancellationToken,
}

#[tonic::async_trait]
impl IngestService for Service {
    async fn collect(
        &self,
        request: Request<CollectRequest>,
    ) -> Result<Response<CollectResponse>, Status> {
        let started = Instant::now();
        let request_id = self.request_id(&request);
        let deadline = request.extensions().get::<Deadline>().cloned();
        let message = request.get_ref();
        let batch = Batch {
            number: 0,
            events: &message.events,
            stream: &message.stream,
            sent_at: message.sent_at.as_ref(),
        };
        let logged = batch.stream_name().unwrap_or("invalid");
        let line = Line::of_call(COLLECT_PATH, logged, &request_id);
        line.received();
        let span = spans::of(request.extensions());
        let sender = sender(&request);
        let answer = match caller(request.extensions()) {
            Ok(caller) => {
                let by = By {
                    request_id: &request_id,
                    caller,
                    client: sender.client(),
                    deadline: deadline.as_ref(),
                };
                let held = request.extensions().get::<Arc<Held>>();
                let room = held.map_or(Ok(()), |held| {
                    self.ingress.hold_answer(held, batch.events.len())
                });
                match room.and_then(|()| batch.submission(by, span.clone())) {
                    Ok(submission) => self.ingress.submit(submission).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        if answer.is_ok() {
            spans::rpc_ended(&span, tonic::Code::Ok);
        }
        let status_code = answer.as_ref().err().map_or(200, |error| error.code.http());
        line.completed(status_code, started.elapsed());
        answer
            .map(|outcomes| Response::new(results::response(outcomes, &request_id)))
            .map_err(|error| status(&error))
    }

    async fn collect_stream(
        &self,
        request: Request<Streaming<CollectStreamRequest>>,
    ) -> Result<Response<CollectStreamResponse>, Status> {
        let call = self.call(&request, STREAM_PATH)?;
        let span = call.span.clone();
        let run = span.around(stream::client::run(call, request.into_inner()));
        let summary = match self.tasks.spawn_isolated("client stream", run).await {
            Ok(Some(summary)) => summary,
            // It panicked: what it stored is stored, and nobody knows what that is.
            Ok(None) | Err(_) => Err(Code::OutcomeUnknown.into()),
        };
        summary.map(Response::new).map_err(|error| status(&error))
    }

    type CollectBidiStream = stream::bidi::Answers;

    async fn collect_bidi(
        &self,
        request: Request<Streaming<CollectBidiRequest>>,
    ) -> Result<Response<Self::CollectBidiStream>, Status> {
        let call = self.call(&request, BIDI_PATH)?;
        let connection = request.extensions().get::<Via>().cloned();
        let messages = request.into_inner();
        let answers = stream::bidi::open(call, messages, &self.tasks, connection);
        Ok(Response::new(answers))
    }
}

impl Service {
    fn request_id<T>(&self, request: &Request<T>) -> Arc<str> {
        match request.extensions().get::<RequestId>() {
            Some(id) => id.reach(),
            None => request_id::uuid_v7(self.ingress.now()).into(),
        }
    }

    fn call<T>(&self, request: &Request<T>, path: &'static str) -> Result<Call, Status> {
        let caller = caller(request.extensions()).map_err(|error| status(&error))?;
        Ok(Call {
            ingress: self.ingress.clone(),
            caller: caller.clone(),
            request_id: self.request_id(request),
            deadline: request.extensions().get::<Deadline>().cloned(),
            drain: self.drain.clone(),
            unread: request.extensions().get::<Arc<Held>>().cloned(),
            path,
            sender: sender(request),
            span: spans::of(request.extensions()),
            started: Instant::now(),
            _open: Raised::by(&self.ingress.metrics().ingress_streams, 1),
        })
    }
}

/// Whose key came with a call, as the layer in front found out. A call that did not pass there has no caller, and may nothing.
fn caller(extensions: &http::Extensions) -> Result<&Caller, RequestError> {
    let caller = extensions.get::<Caller>();
    caller.ok_or_else(|| Code::WriteKeyMissing.into())
}

/// The call that a batch came with.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    pub(super) request_id: &'a str,
    /// Whose key it came with.
    pub(super) caller: &'a Caller,
    /// Who calls, where that is a browser itself.
    pub(super) client: Client<'a>,
    pub(super) deadline: Option<&'a Deadline>,
}

/// Who makes a call, as the layer in front saw it.
fn sender<T>(request: &Request<T>) -> Arc<Sender> {
    let seen = request.extensions().get::<Arc<Sender>>();
    seen.cloned().unwrap_or_default()
}

/// The batch that any of the three requests carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    /// Its number in its stream.
    pub(super) number: u64,
    pub(super) events: &'a [Bytes],
    pub(super) stream: &'a str,
    pub(super) sent_at: Option<&'a Timestamp>,
}

impl<'a> Batch<'a> {
    fn stream_name(&self) -> Option<&'a str> {
        match self.stream {
            "" => Some(DEFAULT_STREAM),
            name => Some(name).filter(|name| admit::is_stream_name(name)),
        }
    }

    /// The batch as the path behind all doors takes it.
    pub(super) fn submission(
        &self,
        by: By<'a>,
        span: Span,
    ) -> Result<Submission<'a>, RequestError> {
        let stream = self
            .stream_name()
            .ok_or_else(|| RequestError::from(Code::InvalidStream).in_field("stream"))?;
        Ok(Submission {
            protocol: Protocol::Grpc,
            caller: by.caller,
            request_id: by.request_id,
            stream: StreamOf::Named(stream),
            kind: None,
            shared: Shared::default(),
            sent_at: self.sent_at.map(micros).transpose()?,
            client: by.client,
            deadline: by.deadline,
            span,
            inputs: self.events.iter().map(Input::Event).collect(),
        })
    }
}

/// A timestamp in microseconds.
fn micros(at: &Timestamp) -> Result<Micros, RequestError> {
    /// 0001-01-01 and 9999-12-31T23:59:59, in seconds since 1970.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    if !SECONDS.contains(&at.seconds) || !(0..1_000_000_000).contains(&at.nanos) {
        let text = "sent_at lies outside the years 1 to 9999 or has impossible nanos; do not retry";
        return Err(RequestError::new(Code::InvalidTimestamp, text).in_field("sent_at"));
    }
    Ok(at.seconds * 1_000_000 + i64::from(at.nanos / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_at_is_read_to_the_microsecond() {
        let at = |seconds, nanos| micros(&Timestamp { seconds, nanos });
        assert_eq!(at(1, 2_999), Ok(1_000_002));
        assert_eq!(at(-1, 999_999_999), Ok(-1));
        for (seconds, nanos) in [
            (i64::MAX, 0),
            (253_402_300_800, 0),
            (-62_135_596_801, 0),
            (0, -1),
            (0, 1_000_000_000),
        ] {
            let error = at(seconds, nanos).unwrap_err();
            assert_eq!(
                (error.code, error.field),
                (Code::InvalidTimestamp, Some("sent_at"))
            );
        }
    }
}
