//! The gRPC door: `eventkit.v1.IngestService`, health and reflection.
//!
//! The service is implemented over the server's view of the contract, in which each event is a slice of the request.
//! Limits, deadlines and the statuses of requests that never reach this module are in `grpc_layer`.

use std::borrow::Cow;
use std::sync::Arc;

use prost_types::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::server::HealthReporter;

use super::outcome::{Counts, Outcome, RequestError};
use super::request_id::RequestId;
use super::rpc_status::status;
use super::{Deadline, Ingress, Input, Protocol, Submission, admit, request_id};
use crate::event::{DEFAULT_STREAM, Micros};
use crate::lifecycle::{Health, Tasks};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::server::ingest_service_server::{IngestService, IngestServiceServer};
use crate::proto::server::{CollectBidiRequest, CollectRequest, CollectStreamRequest};
use crate::proto::v1::{
    CollectBidiResponse, CollectResponse, CollectStreamResponse, EventResult, EventStatus,
};
use crate::status::Code;

/// The service's name in health checks.
const SERVICE: &str = "eventkit.v1.IngestService";
/// How the paths of its methods begin.
pub(crate) const SERVICE_PATH: &str = "/eventkit.v1.IngestService/";
/// The path of its one unary method.
pub(crate) const COLLECT_PATH: &str = "/eventkit.v1.IngestService/Collect";

/// Every service of the gRPC door. `tasks` keeps the health service in step with [`Health`] until `drain`.
pub(crate) fn routes(ingress: &Ingress, tasks: &Tasks, drain: &CancellationToken) -> axum::Router {
    let config = ingress.config();
    let service = IngestServiceServer::new(Service(ingress.clone()))
        .max_decoding_message_size(config.body_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd);
    let (reporter, health) = tonic_health::server::health_reporter();
    let follow = follow_health(ingress.health().clone(), reporter, drain.clone());
    drop(tasks.spawn("grpc health", follow));
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
    routes.add_service(v1).add_service(v1alpha)
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
struct Service(Ingress);

#[tonic::async_trait]
impl IngestService for Service {
    async fn collect(
        &self,
        request: Request<CollectRequest>,
    ) -> Result<Response<CollectResponse>, Status> {
        let started = tokio::time::Instant::now();
        let request_id = match request.extensions().get::<RequestId>() {
            Some(RequestId(id)) => Arc::clone(id),
            None => request_id::uuid_v7(self.0.now()).into(),
        };
        let deadline = request.extensions().get::<Deadline>().cloned();
        let message = request.get_ref();
        let stream = match message.stream.as_str() {
            "" => Ok(DEFAULT_STREAM),
            stream if admit::is_stream_name(stream) => Ok(stream),
            _ => Err(Code::InvalidStream),
        };
        let logged = stream.unwrap_or("invalid");
        tracing::info!(
            method = "POST",
            path = COLLECT_PATH,
            event_type = "any",
            request_id = &*request_id,
            stream = logged,
            "request_received"
        );
        let answer = self
            .store(message, stream, &request_id, deadline.as_ref())
            .await;
        tracing::info!(
            status_code = answer.as_ref().err().map_or(200, |error| error.code.http()),
            duration_ms = started.elapsed().as_secs_f64() * 1e3,
            request_id = &*request_id,
            stream = logged,
            "request_completed"
        );
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn collect_stream(
        &self,
        _request: Request<Streaming<CollectStreamRequest>>,
    ) -> Result<Response<CollectStreamResponse>, Status> {
        Err(status(&Code::Unimplemented.into()))
    }

    type CollectBidiStream = futures::stream::Empty<Result<CollectBidiResponse, Status>>;

    async fn collect_bidi(
        &self,
        _request: Request<Streaming<CollectBidiRequest>>,
    ) -> Result<Response<Self::CollectBidiStream>, Status> {
        Err(status(&Code::Unimplemented.into()))
    }
}

impl Service {
    async fn store(
        &self,
        message: &CollectRequest,
        stream: Result<&str, Code>,
        request_id: &str,
        deadline: Option<&Deadline>,
    ) -> Result<CollectResponse, RequestError> {
        let stream = stream.map_err(|code| RequestError::from(code).in_field("stream"))?;
        let sent_at = message.sent_at.as_ref().map(micros).transpose()?;
        let outcomes = self
            .0
            .submit(Submission {
                protocol: Protocol::Grpc,
                request_id,
                stream,
                sent_at,
                deadline,
                inputs: message.events.iter().map(Input::Event).collect(),
            })
            .await?;
        Ok(response(outcomes, request_id))
    }
}

fn response(outcomes: Vec<Outcome<'_>>, request_id: &str) -> CollectResponse {
    let counts = Counts::of(&outcomes);
    let results = (0u32..).zip(outcomes).map(|(index, outcome)| {
        let (status, message_id, code, reason) = match outcome {
            Outcome::Accepted { message_id, .. } => {
                (EventStatus::Accepted, message_id, "", Cow::Borrowed(""))
            }
            Outcome::Duplicate { message_id } => {
                (EventStatus::Duplicate, message_id, "", Cow::Borrowed(""))
            }
            Outcome::Rejected {
                message_id,
                code,
                reason,
            } => (
                EventStatus::Rejected,
                message_id.unwrap_or_default(),
                code.as_str(),
                reason,
            ),
        };
        EventResult {
            index,
            status: status.into(),
            message_id: message_id.into_owned(),
            code: code.to_owned(),
            reason: reason.into_owned(),
        }
    });
    CollectResponse {
        results: results.collect(),
        accepted: counts.accepted,
        duplicate: counts.duplicate,
        rejected: counts.rejected,
        request_id: request_id.to_owned(),
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

    #[test]
    fn every_outcome_has_its_result() {
        let outcomes = vec![
            Outcome::Accepted {
                message_id: "a".into(),
                assigned: true,
            },
            Outcome::Duplicate {
                message_id: "b".into(),
            },
            Outcome::Rejected {
                message_id: None,
                code: Code::TooDeep,
                reason: "why".into(),
            },
        ];
        let response = response(outcomes, "r");
        let counts = (response.accepted, response.duplicate, response.rejected);
        assert_eq!((counts, response.request_id.as_str()), ((1, 1, 1), "r"));
        let lines: Vec<_> = response
            .results
            .iter()
            .map(|result| {
                let ids = (result.index, result.status(), result.message_id.as_str());
                (ids, result.code.as_str(), result.reason.as_str())
            })
            .collect();
        assert_eq!(
            lines,
            [
                ((0, EventStatus::Accepted, "a"), "", ""),
                ((1, EventStatus::Duplicate, "b"), "", ""),
                ((2, EventStatus::Rejected, ""), "too_deep", "why"),
            ]
        );
    }
}
