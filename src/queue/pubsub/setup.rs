//! Topic and subscription: made where they may be, looked at otherwise.

use std::time::Duration;

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{ExpirationPolicy, PushConfig, Subscription};

use super::{ClientError, PubSubOptions, name_of};
use crate::telemetry::with_causes;

/// For those who pull by other means; our workers name a shorter one and extend it while a run waits.
const ACK_DEADLINE_SECONDS: i32 = 60;

/// The label by which a subscription that was deleted and made again is told from the one before.
const IDENTITY: &str = "eventkit-identity";

/// The topic that Pub/Sub names when a subscription's own was deleted.
const DELETED_TOPIC: &str = "_deleted-topic_";

/// A subscription as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its label, if this program made it.
    pub identity: Option<String>,
    /// For how long it keeps what nobody acknowledged; `None`: it does not say.
    pub retention: Option<Duration>,
}

impl Found {
    /// For how long it keeps what nobody acknowledged, if that is less than this.
    #[must_use]
    pub fn keeps_less_than(&self, expected: Duration) -> Option<Duration> {
        self.retention.filter(|retention| *retention < expected)
    }
}

/// Why topic and subscription cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// No client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no such thing, and it may not be made.
    #[error(
        "there is no {what}: create it, or set EVENTKIT_PUBSUB_CREATE=true (a subscription needs message ordering, no filter, and \
         an expiration of never)"
    )]
    Missing {
        /// Which topic or subscription.
        what: String,
    },
    /// Its topic was deleted: nothing comes in any more, and what it holds can still be received.
    #[error(
        "the topic of {subscription} was deleted. What it still holds can be received: let workers of their own (EVENTKIT_ROLE=worker) \
         empty it, then delete it"
    )]
    Orphaned {
        /// The subscription.
        subscription: String,
    },
    /// It is there, but cannot do what is needed of it.
    #[error("{subscription} cannot be used: {reason}")]
    Unfit {
        /// The subscription.
        subscription: String,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// We may not.
    #[error("{operation} {what} is denied")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// On which topic or subscription.
        what: String,
        /// What Pub/Sub said.
        #[source]
        source: Box<Error>,
    },
    /// Pub/Sub cannot be reached, or is out.
    #[error("{operation} {what}: {}", name_of(source))]
    Unreachable {
        /// What was tried.
        operation: &'static str,
        /// On which topic or subscription.
        what: String,
        /// What happened.
        #[source]
        source: Box<Error>,
    },
}

impl SetUpError {
    /// Whether it passes by itself: an outage never prevents a start.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What it is, as a word of a closed list: gRPC's name of the code, or what kept an answer from coming.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Client(_) => "no client",
            Self::Missing { .. } => Code::NotFound.name(),
            Self::Orphaned { .. } | Self::Unfit { .. } => Code::FailedPrecondition.name(),
            Self::Denied { source, .. } | Self::Unreachable { source, .. } => name_of(source),
        }
    }

    /// Whether the topic discards what it takes, or what it takes goes elsewhere.
    pub(super) fn is_no_place(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Orphaned { .. } | Self::Unfit { .. }
        )
    }
}

/// Looks for topic and subscription, and makes what is missing if that is allowed.
///
/// # Errors
///
/// [`SetUpError`].
pub async fn set_up(options: &PubSubOptions) -> Result<Found, SetUpError> {
    let subscriptions = options.subscription_admin().await?;
    match find(options, &subscriptions).await {
        Err(SetUpError::Missing { .. }) if options.create => {
            create_topic(options, &options.topic_admin().await?).await?;
            create_subscription(options, &subscriptions).await?;
            find(options, &subscriptions).await
        }
        found => found,
    }
}

/// Looks for the subscription without making anything.
///
/// # Errors
///
/// [`SetUpError`].
pub(super) async fn look(options: &PubSubOptions) -> Result<Found, SetUpError> {
    find(options, &options.subscription_admin().await?).await
}

/// Topic and subscription may have been deleted while they were in use: makes what is missing, if that is allowed. Whoever publishes or pulls says
/// what fails.
///
/// A topic that was deleted alone left its subscription behind, which says so and has to be deleted, too, by somebody who knows what it still
/// holds.
pub(super) async fn make_what_is_missing(options: &PubSubOptions) {
    if options.create
        && let Err(error) = set_up(options).await
    {
        tracing::debug!(error = with_causes(&error), "set_up_failed");
    }
}

async fn find(
    options: &PubSubOptions,
    subscriptions: &SubscriptionAdmin,
) -> Result<Found, SetUpError> {
    let path = options.subscription_path();
    let found = subscriptions
        .get_subscription()
        .set_subscription(path.clone())
        .send()
        .await
        .map_err(failed("get", &path))?;
    if found.topic == DELETED_TOPIC {
        return Err(SetUpError::Orphaned { subscription: path });
    }
    if let Some(reason) = unfit(&found, &options.topic_path()) {
        return Err(SetUpError::Unfit {
            subscription: path,
            reason,
        });
    }
    Ok(found_as(&found))
}

fn found_as(found: &Subscription) -> Found {
    let retention = found.message_retention_duration;
    Found {
        identity: found.labels.get(IDENTITY).cloned(),
        retention: retention.and_then(|retention| retention.try_into().ok()),
    }
}

/// Why a subscription would not keep what the topic takes for as long as it takes, in order, for workers that pull it.
fn unfit(found: &Subscription, topic: &str) -> Option<&'static str> {
    let expires = |policy: &ExpirationPolicy| policy.ttl.is_some();
    let pushes = |push: &PushConfig| !push.push_endpoint.is_empty();
    if found.detached {
        return Some(
            "it is detached from its topic, keeps nothing, and cannot be attached again: delete it",
        );
    }
    if found.topic != topic {
        return Some("it belongs to another topic");
    }
    if !found.enable_message_ordering {
        return Some(
            "it does not keep message order, which can only be chosen when a subscription is made",
        );
    }
    if !found.filter.is_empty() {
        return Some("it has a filter, which discards what does not match");
    }
    if !found.message_transforms.is_empty() {
        return Some("it transforms messages, which may change or discard a batch: remove that");
    }
    if found.dead_letter_policy.is_some() {
        return Some(
            "it has a dead letter policy, which would move good batches away while a store is out: remove it",
        );
    }
    if found.expiration_policy.as_ref().is_some_and(expires) {
        return Some(
            "it expires when no worker comes for a time, and its messages go with it: gcloud pubsub subscriptions update NAME \
             --expiration-period=never",
        );
    }
    let exports = found.bigquery_config.is_some() || found.cloud_storage_config.is_some();
    if exports || found.push_config.as_ref().is_some_and(pushes) {
        return Some("it delivers to somebody else (push or export), and workers have to pull it");
    }
    None
}

async fn create_topic(options: &PubSubOptions, topics: &TopicAdmin) -> Result<(), SetUpError> {
    let path = options.topic_path();
    let created = topics.create_topic().set_name(path.clone()).send().await;
    match created {
        Ok(_) => {
            tracing::info!(topic = path, "topic_created");
            Ok(())
        }
        Err(error) if is(&error, Code::AlreadyExists) => Ok(()),
        Err(error) => Err(failed("create", &path)(error)),
    }
}

async fn create_subscription(
    options: &PubSubOptions,
    subscriptions: &SubscriptionAdmin,
) -> Result<(), SetUpError> {
    let path = options.subscription_path();
    let created = subscriptions
        .create_subscription()
        .with_request(subscription(options, &path))
        .send()
        .await;
    match created {
        Ok(_) => {
            tracing::info!(subscription = path, "subscription_created");
            Ok(())
        }
        Err(error) if is(&error, Code::AlreadyExists) => Ok(()),
        Err(error) => Err(failed("create", &path)(error)),
    }
}

fn subscription(options: &PubSubOptions, path: &str) -> Subscription {
    let retention = wkt_duration(options.retention);
    Subscription::new()
        .set_name(path)
        .set_topic(options.topic_path())
        .set_ack_deadline_seconds(ACK_DEADLINE_SECONDS)
        .set_enable_message_ordering(true)
        .set_message_retention_duration(retention)
        // Without a time to live: by default a subscription expires after 31 days without a worker, and takes its messages along.
        .set_expiration_policy(ExpirationPolicy::new())
        .set_labels([(IDENTITY, uuid::Uuid::new_v4().simple().to_string())])
}

fn wkt_duration(duration: Duration) -> google_cloud_wkt::Duration {
    google_cloud_wkt::Duration::clamp(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), 0)
}

fn is(error: &Error, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

fn failed<'a>(operation: &'static str, path: &'a str) -> impl Fn(Error) -> SetUpError + 'a {
    move |error| {
        let what = path.to_owned();
        match error.status().map(|status| status.code) {
            Some(Code::NotFound) => SetUpError::Missing { what },
            Some(Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument) => {
                SetUpError::Denied {
                    operation,
                    what,
                    source: Box::new(error),
                }
            }
            _ => SetUpError::Unreachable {
                operation,
                what,
                source: Box::new(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_pubsub::model::{
        BigQueryConfig, CloudStorageConfig, DeadLetterPolicy, MessageTransform,
    };

    use super::super::options;
    use super::*;

    const TOPIC: &str = "projects/p/topics/t";

    fn good() -> Subscription {
        Subscription::new()
            .set_topic(TOPIC)
            .set_enable_message_ordering(true)
            .set_expiration_policy(ExpirationPolicy::new())
            // Pub/Sub says this of subscriptions that are pulled.
            .set_push_config(PushConfig::new())
    }

    #[test]
    fn what_is_made_keeps_everything_in_order_and_does_not_expire() {
        let options = options();
        let made = subscription(&options, &options.subscription_path());
        assert_eq!(unfit(&made, TOPIC), None);
        let retention = made.message_retention_duration.as_ref();
        assert_eq!(
            retention.map(google_cloud_wkt::Duration::seconds),
            Some(86_400)
        );
        let expires = made.expiration_policy.as_ref();
        assert!(expires.is_some_and(|policy| policy.ttl.is_none()));
        assert!(made.enable_message_ordering);
        assert_eq!(made.ack_deadline_seconds, ACK_DEADLINE_SECONDS);
        assert!(made.labels.contains_key(IDENTITY));
    }

    #[test]
    fn a_subscription_that_keeps_less_than_is_meant_is_noticed() {
        let day = Duration::from_secs(86_400);
        let keeps = |subscription: Subscription| found_as(&subscription).keeps_less_than(day);
        let for_as_long = |seconds: u64| {
            let retention = wkt_duration(Duration::from_secs(seconds));
            good().set_message_retention_duration(retention)
        };
        assert_eq!(keeps(for_as_long(600)), Some(Duration::from_secs(600)));
        assert_eq!(keeps(for_as_long(86_400)), None);
        assert_eq!(keeps(for_as_long(604_800)), None);
        assert_eq!(keeps(good()), None);
    }

    #[test]
    fn a_subscription_that_would_not_keep_everything_for_our_workers_is_refused() {
        assert_eq!(unfit(&good(), TOPIC), None);
        let month = ExpirationPolicy::new().set_ttl(wkt_duration(Duration::from_secs(2_678_400)));
        let cases = [
            ("detached", good().set_detached(true)),
            ("another topic", good().set_topic("projects/p/topics/u")),
            ("order", good().set_enable_message_ordering(false)),
            ("filter", good().set_filter("attributes:x")),
            (
                "transforms",
                good().set_message_transforms([MessageTransform::new()]),
            ),
            (
                "dead letter",
                good().set_dead_letter_policy(DeadLetterPolicy::new()),
            ),
            ("expires", good().set_expiration_policy(month)),
            (
                "push",
                good().set_push_config(PushConfig::new().set_push_endpoint("https://x.example")),
            ),
            ("export", good().set_bigquery_config(BigQueryConfig::new())),
            (
                "export",
                good().set_cloud_storage_config(CloudStorageConfig::new()),
            ),
        ];
        for (word, subscription) in cases {
            let reason = unfit(&subscription, TOPIC);
            assert!(
                reason.is_some_and(|reason| reason.contains(word)),
                "{word}: {reason:?}"
            );
        }
    }
}
