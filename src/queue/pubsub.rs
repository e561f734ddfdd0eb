//! Google Cloud Pub/Sub as the queue: one message per sealed batch, its log and lane as the ordering key.
//!
//! ```text
//!  gateway: send ─▶ topic ─▶ subscription ─▶ gather ─▶ run ─▶ worker ─▶ store ─▶ ack of every message in the run
//!               └─ verify: is the subscription still the one that everything was published to?
//! ```
//!
//! What it promises beyond the queue's page:
//!
//! 1. A topic without a subscription takes and discards. So what was published counts as owned only after a look that began
//!    later found our subscription; if it was missing, or is another one than before, everything since the last good look
//!    is published again. A subscription that this program made carries a label by which another one is told.
//! 2. Pub/Sub keeps what is not acknowledged for the subscription's retention: that is how long workers may be away.
//! 3. In order per ordering key, at least once. Order is not kept across a subscription that was deleted.
//! 4. Bytes and messages under way are bounded here, because the client library has no flow control for publishing: the
//!    publisher sends one batch per lane at a time, and the consumer holds at most one budget.

use std::time::Duration;

use google_cloud_gax::error::Error;
use google_cloud_gax::retry_policy::RetryPolicyExt as _;
use google_cloud_pubsub::client::{Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::retry_policy::RetryableErrors;

use crate::cloud::{NoCredentials, credentials};
use crate::event::{Lane, LogId};
use crate::telemetry::Metrics;

pub use crate::config::PubSubOptions;

mod consumer;
mod producer;
mod retries;
mod setup;

pub use consumer::{PubSubConsumer, Puller, consumers};
pub use producer::PubSubProducer;
use retries::CountedRetries;
pub use setup::{Found, SetUpError, set_up};

/// How long one call may take, its repetitions included; then it is begun anew over a new connection.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The attribute that carries the trace which a batch belongs to.
const TRACEPARENT: &str = "traceparent";

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There are no credentials.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    /// The library refused.
    #[error("make a Pub/Sub client")]
    Build(#[from] google_cloud_gax::client_builder::Error),
}

impl PubSubOptions {
    fn topic_path(&self) -> String {
        format!("projects/{}/topics/{}", self.project, self.topic)
    }

    pub(crate) async fn publisher(&self, metrics: &Metrics) -> Result<Publisher, ClientError> {
        let mut builder = Publisher::builder(self.topic_path())
            .with_credentials(credentials(&self.endpoint)?)
            .with_retry_policy(CountedRetries {
                inner: RetryableErrors.with_time_limit(CALL_TIMEOUT),
                metrics: metrics.clone(),
            })
            // A message is a whole batch: it waits for no other.
            .set_message_count_threshold(1);
        if let Some(url) = self.endpoint.url() {
            builder = builder.with_endpoint(url);
        }
        Ok(builder.build().await?)
    }

    pub(crate) async fn subscriber(&self) -> Result<Subscriber, ClientError> {
        let mut builder = Subscriber::builder().with_credentials(credentials(&self.endpoint)?);
        if let Some(url) = self.endpoint.url() {
            builder = builder.with_endpoint(url);
        }
        Ok(builder.build().await?)
    }

    async fn topic_admin(&self) -> Result<TopicAdmin, ClientError> {
        let mut builder = TopicAdmin::builder()
            .with_credentials(credentials(&self.endpoint)?)
            .with_retry_policy(RetryableErrors.with_time_limit(CALL_TIMEOUT));
        if let Some(url) = self.endpoint.url() {
            builder = builder.with_endpoint(url);
        }
        Ok(builder.build().await?)
    }

    async fn subscription_admin(&self) -> Result<SubscriptionAdmin, ClientError> {
        let mut builder = SubscriptionAdmin::builder()
            .with_credentials(credentials(&self.endpoint)?)
            .with_retry_policy(RetryableErrors.with_time_limit(CALL_TIMEOUT));
        if let Some(url) = self.endpoint.url() {
            builder = builder.with_endpoint(url);
        }
        Ok(builder.build().await?)
    }
}

/// Options for tests that call nobody.
#[cfg(test)]
fn options() -> PubSubOptions {
    PubSubOptions {
        project: "p".into(),
        topic: "t".into(),
        subscription: "s".into(),
        create: true,
        retention: Duration::from_secs(86_400),
        verify_every: Duration::from_secs(10),
        endpoint: crate::config::Endpoint::emulator("127.0.0.1:1"),
    }
}

/// The ordering key: whose order is kept.
fn ordering_key(log_id: LogId, lane: Lane) -> String {
    format!("{log_id}-{lane}")
}

/// What a call's error is, in a word or two and without anything that the service quotes.
fn name_of(error: &Error) -> &'static str {
    match error.status() {
        Some(status) => status.code.name(),
        None if error.is_timeout() => "timed out",
        None => "no answer",
    }
}
