//! `Collect` and `CollectStream`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request, Response, Status};
use tower::ServiceExt as _;

use super::deliver::{Attempt, Outcome};
use super::failure::AttemptError;
use super::key::{TRACEPARENT, X_WRITE_KEY};
use super::tls::{Version, connector};
use super::{ANSWER_BYTES_MAX, NewError, Options, WriteKey};
use crate::proto::v1;
use crate::proto::v1::EventStatus;
use crate::proto::v1::ingest_service_client::IngestServiceClient;

#[derive(Debug, Clone)]
pub(super) struct Grpc {
    pub(super) client: IngestServiceClient<Channel>,
    pub(super) stream: String,
    pub(super) answer_timeout: Duration,
    message_events: usize,
    write_key: Option<WriteKey>,
}

impl Grpc {
    pub(super) fn new(options: Options) -> Result<Self, NewError> {
        let address = |text: String| Uri::try_from(text).map_err(NewError::Address);
        let (url, clear_url) = (options.target.url(), options.target.clear_url());
        let origin = address(url)?;
        let to = origin.clone();
        // tonic refuses https to a connector that is not its own: so that it is told of http, and the connector of what is meant.
        let connector = connector(&options, Version::Http2)?.map_request(move |_clear| to.clone());
        let channel = Endpoint::from(address(clear_url)?)
            .origin(origin)
            .connect_timeout(options.connect_timeout)
            .connect_with_connector_lazy(connector);
        // What is sent has no limit here: the gateway says what is too large, and then the batch is cut.
        let mut client =
            IngestServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        if options.gzip {
            client = client
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self {
            client,
            stream: options.stream.unwrap_or_default(),
            answer_timeout: options.answer_timeout,
            message_events: options.message_events.max(1),
            write_key: options.write_key,
        })
    }

    /// One `Collect` with these events.
    pub(super) async fn unary(
        &self,
        events: Vec<v1::Event>,
        trace: Option<&HeaderValue>,
    ) -> Attempt {
        let count = events.len();
        let request = v1::CollectRequest {
            events,
            stream: self.stream.clone(),
            sent_at: None,
        };
        let request = self.request(request, trace);
        let mut client = self.client.clone();
        match self.answer(client.collect(request)).await {
            Ok(answer) => read_results(count, answer.results),
            Err(error) => Attempt::failed(count, error),
        }
    }

    /// One `CollectStream` with these events.
    pub(super) async fn stream(
        &self,
        events: Vec<v1::Event>,
        trace: Option<&HeaderValue>,
    ) -> Attempt {
        let count = events.len();
        let mut messages = Vec::with_capacity(count.div_ceil(self.message_events));
        let mut events = events.into_iter();
        loop {
            let events: Vec<v1::Event> = events.by_ref().take(self.message_events).collect();
            if events.is_empty() {
                break;
            }
            messages.push(v1::CollectStreamRequest {
                events,
                stream: self.stream.clone(),
                sent_at: None,
            });
        }
        let request = self.request(tokio_stream::iter(messages), trace);
        let mut client = self.client.clone();
        match self.answer(client.collect_stream(request)).await {
            Ok(summary) => read_summary(count, self.message_events, summary),
            Err(error) => Attempt::failed(count, error),
        }
    }

    /// The deadline goes to the gateway too: what passed it is not stored needlessly.
    fn request<T>(&self, message: T, trace: Option<&HeaderValue>) -> Request<T> {
        let mut request = self.keyed(message, trace);
        request.set_timeout(self.answer_timeout);
        request
    }

    /// Without a deadline: a stream has none.
    pub(super) fn keyed<T>(&self, message: T, trace: Option<&HeaderValue>) -> Request<T> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.write_key {
            headers.insert(X_WRITE_KEY, key.header().clone());
        }
        if let Some(trace) = trace {
            headers.insert(TRACEPARENT, trace.clone());
        }
        Request::from_parts(
            MetadataMap::from_headers(headers),
            Extensions::default(),
            message,
        )
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, AttemptError> {
        tokio::time::timeout(self.answer_timeout, call)
            .await
            .map_err(|_elapsed| AttemptError::Timeout(self.answer_timeout))?
            .map(Response::into_inner)
            .map_err(|status| AttemptError::from_status(&status))
    }
}

/// An outcome off the wire; `None` for one that no gateway says.
pub(super) fn outcome(result: v1::EventResult) -> Option<Outcome> {
    match result.status() {
        EventStatus::Accepted => Some(Outcome::Accepted),
        EventStatus::Duplicate => Some(Outcome::Duplicate),
        EventStatus::Rejected => Some(Outcome::Rejected {
            code: result.code,
            reason: result.reason,
        }),
        EventStatus::Unspecified => None,
    }
}

fn read_results(events: usize, results: Vec<v1::EventResult>) -> Attempt {
    let mut attempt = Attempt::of(events);
    for result in results {
        let index = usize::try_from(result.index).unwrap_or(usize::MAX);
        let noted = outcome(result).is_some_and(|outcome| attempt.set(index, outcome));
        if !noted {
            return attempt.fail(format!("result {index} is not one that was asked for"));
        }
    }
    attempt
}

/// What is not listed was accepted; of a cut list that holds up to its last line, and the rest has to be asked again.
fn read_summary(
    events: usize,
    message_events: usize,
    summary: v1::CollectStreamResponse,
) -> Attempt {
    let mut attempt = Attempt::of(events);
    let listed = u64::try_from(summary.results.len()).unwrap_or(u64::MAX);
    let mut known = 0;
    for line in summary.results {
        let Some(result) = line.result else { continue };
        let at = usize::try_from(line.message_index)
            .ok()
            .and_then(|message| message.checked_mul(message_events))
            .and_then(|first| first.checked_add(usize::try_from(result.index).ok()?))
            .unwrap_or(usize::MAX);
        let noted = outcome(result).is_some_and(|outcome| attempt.set(at, outcome));
        if !noted {
            return attempt.fail("the summary lists an event that was not sent");
        }
        known = known.max(at.saturating_add(1));
    }
    if !summary.results_truncated {
        known = events;
        let total = u64::try_from(events).unwrap_or(u64::MAX);
        if summary.accepted != total.saturating_sub(listed)
            || summary.duplicate.saturating_add(summary.rejected) != listed
        {
            return attempt.fail("the summary does not count what was sent");
        }
    }
    for outcome in attempt.outcomes.iter_mut().take(known) {
        outcome.get_or_insert(Outcome::Accepted);
    }
    attempt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message_index: u64, index: u32, status: EventStatus) -> v1::StreamEventResult {
        v1::StreamEventResult {
            message_index,
            result: Some(v1::EventResult {
                index,
                status: status.into(),
                ..v1::EventResult::default()
            }),
        }
    }

    #[test]
    fn what_a_summary_does_not_list_was_accepted() {
        let summary = v1::CollectStreamResponse {
            accepted: 3,
            duplicate: 2,
            results: vec![
                line(0, 1, EventStatus::Duplicate),
                line(1, 1, EventStatus::Duplicate),
            ],
            ..v1::CollectStreamResponse::default()
        };
        let (yes, dup) = (Some(Outcome::Accepted), Some(Outcome::Duplicate));
        let expected = [&yes, &dup, &yes, &dup, &yes].map(Clone::clone);
        let found = read_summary(5, 2, summary.clone());
        assert_eq!(found.outcomes, expected);
        assert!(found.failure.is_none());

        let cut = v1::CollectStreamResponse {
            results_truncated: true,
            ..summary.clone()
        };
        let found = read_summary(6, 2, cut);
        assert_eq!(found.outcomes.get(..4), expected.get(..4));
        assert_eq!(found.outcomes.get(4..), Some(&[None, None][..]));

        let miscounted = read_summary(6, 2, summary);
        assert!(miscounted.failure.is_some());
    }
}
