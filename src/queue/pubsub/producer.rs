//! The publisher's end: publishes for as long as it takes, and looks whether a subscription was there to receive it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::Publisher;
use google_cloud_pubsub::error::PublishError;
use google_cloud_pubsub::model::Message;
use tokio_util::sync::CancellationToken;

use super::setup::{look, make_what_is_missing};
use super::{Found, PubSubOptions, SetUpError, TRACEPARENT, name_of, ordering_key, set_up};
use crate::backoff::Backoff;
use crate::lifecycle::Health;
use crate::queue::{Batch, Named, Producer, SendError, Verdict, batch};
use crate::telemetry::{Metrics, trace, with_causes};

/// The component's names in readiness.
const TOPIC: &str = "pubsub topic";
const SUBSCRIPTION: &str = "pubsub subscription";

/// See the module's page.
#[derive(Debug)]
pub struct PubSubProducer {
    options: PubSubOptions,
    /// The label of this process.
    node: Arc<str>,
    /// Made when it is needed, and anew after a call without an answer: its connection may lead nowhere.
    client: Mutex<Option<Publisher>>,
    known: Mutex<Known>,
    backoff: Backoff,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
}

/// Why a publish failed.
#[derive(Debug)]
struct Failure {
    /// As a word of a closed list: gRPC's name of the code, or what kept an answer from coming.
    kind: &'static str,
    text: String,
}

/// What is known of the subscription.
#[derive(Debug, Default)]
struct Known {
    found: Option<Found>,
    /// It was missing at the last look: whatever was published since it was last there is gone.
    was_missing: bool,
    told: bool,
}

impl PubSubProducer {
    /// A producer that labels its batches with `node` and gives up when `stop` fires. What is known of the subscription from
    /// the start is what every later look is compared with.
    #[must_use]
    pub fn new(
        options: PubSubOptions,
        node: Arc<str>,
        found: Option<Found>,
        (health, metrics): (Health, Metrics),
        stop: CancellationToken,
    ) -> Self {
        Self {
            options,
            node,
            client: Mutex::default(),
            known: Mutex::new(Known {
                found,
                ..Known::default()
            }),
            backoff: Backoff::default(),
            health,
            metrics,
            stop,
        }
    }

    fn made(&self) -> MutexGuard<'_, Option<Publisher>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Result<Publisher, Failure> {
        if let Some(client) = &*self.made() {
            return Ok(client.clone());
        }
        let made = self.options.publisher(&self.metrics).await;
        let made = made.map_err(|error| Failure {
            kind: "no client",
            text: with_causes(&error),
        })?;
        // Another lane may have been first.
        Ok(self.made().get_or_insert(made).clone())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pub/Sub was out at the start: nothing is published before the subscription was seen once, since nobody could tell afterwards whether
    /// it was there.
    async fn see(&self) -> Result<(), Failure> {
        if self.known().found.is_some() {
            return Ok(());
        }
        let found = set_up(&self.options).await.map_err(|error| Failure {
            kind: error.kind(),
            text: with_causes(&error),
        })?;
        // Another lane may have been first.
        self.known().found.get_or_insert(found);
        Ok(())
    }

    async fn publish(&self, key: &str, message: Message) -> Result<(), Failure> {
        self.see().await?;
        let client = self.client().await?;
        match client.publish(message).await {
            Ok(_id) => Ok(()),
            Err(error) => {
                // The key is paused until it is told to go on; the batch that failed is what comes next.
                client.resume_publish(key);
                let (kind, unanswered) = match &error {
                    PublishError::Rpc(error) => (name_of(error), error.status().is_none()),
                    PublishError::OrderingKeyPaused => ("ordering key paused", true),
                    PublishError::Shutdown => ("client shut down", true),
                    _ => ("other", true),
                };
                if unanswered {
                    *self.made() = None;
                }
                let text = match &error {
                    PublishError::Rpc(_) => kind.to_owned(),
                    other => other.to_string(),
                };
                Err(Failure { kind, text })
            }
        }
    }

    fn message(&self, batch: &Batch, key: &str) -> Message {
        let id = &batch.id;
        let attributes = [
            ("format", batch::FORMAT.to_string()),
            ("log_id", id.log_id.to_string()),
            ("node", self.node.to_string()),
            ("lane", id.lane.to_string()),
            ("number", id.number.to_string()),
            ("first_offset", id.first.to_string()),
            ("last_offset", id.last.to_string()),
            ("count", batch.records.len().to_string()),
            ("input_hash", format!("{:016x}", id.input_hash)),
            ("day", batch.day.0.to_string()),
        ];
        let traceparent = batch
            .sent_in
            .first()
            .map(|link| (TRACEPARENT, link.to_string()));
        Message::new()
            .set_data(batch::encode(batch, &self.node))
            .set_ordering_key(key)
            .set_attributes(attributes.into_iter().chain(traceparent))
    }

    /// What a look at the subscription says about what was published before it.
    fn judge(&self, looked: Result<Found, SetUpError>) -> Verdict {
        let mut known = self.known();
        match looked {
            Ok(found) => {
                // Never seen before: it may have been made after what was published.
                let before = known.found.as_ref();
                let is_another = before.is_none_or(|before| before.identity != found.identity);
                let lost = is_another || known.was_missing;
                *known = Known {
                    found: Some(found),
                    ..Known::default()
                };
                self.health.degraded(SUBSCRIPTION, None);
                if lost { Verdict::Lost } else { Verdict::Owned }
            }
            Err(error) => {
                self.metrics.queue_look_failures.add(1, &[]);
                known.was_missing |= error.is_no_place();
                let needs_a_person = !error.is_outage() && !known.told;
                known.told |= needs_a_person;
                let text = with_causes(&error);
                if needs_a_person {
                    tracing::error!(
                        error = text,
                        action = "without its subscription the topic discards what it takes; events wait in the log meanwhile",
                        "subscription_unusable"
                    );
                } else {
                    tracing::warn!(error = text, "subscription_not_seen");
                }
                self.health.degraded(SUBSCRIPTION, Some(text));
                Verdict::Unknown
            }
        }
    }
}

#[async_trait]
impl Producer for PubSubProducer {
    fn named(&self) -> Named {
        Named::pubsub(&self.options.topic, None)
    }

    async fn send(&self, batch: Arc<Batch>) -> Result<(), SendError> {
        let key = ordering_key(batch.id.log_id, batch.id.lane);
        let message = self.message(&batch, &key);
        let (mut failures, mut refused) = (0_u32, false);
        loop {
            let Failure { kind, text: error } = tokio::select! {
                // Cancel safe: at the worst the message is published again after the next start.
                () = self.stop.cancelled() => return Err(SendError::Closed),
                // Cancel safe for the same reason.
                published = self.publish(&key, message.clone()) => match published {
                    Ok(()) => break,
                    Err(error) => error,
                },
            };
            failures = failures.saturating_add(1);
            self.metrics.queue_publish_retries.add(1, &[]);
            trace::current().retried(kind, failures);
            // What was never seen was just looked for, and made if that is allowed.
            let was_seen = self.known().found.is_some();
            if was_seen {
                make_what_is_missing(&self.options).await;
            }
            tracing::warn!(lane = %batch.id.lane, attempt = failures, error, "publish_failed");
            if needs_a_person(kind) && !std::mem::replace(&mut refused, true) {
                tracing::error!(
                    lane = %batch.id.lane,
                    error,
                    action = "check topic and subscription, and the rights to publish and to look at both; events wait in the log meanwhile",
                    "publish_refused"
                );
            }
            let text = format!("publishing fails and is retried: {error}");
            self.health.degraded(TOPIC, Some(text));
            tokio::select! {
                // Cancel safe: the token stays cancelled.
                () = self.stop.cancelled() => return Err(SendError::Closed),
                // Cancel safe: a wait that is cut short is forgotten.
                () = tokio::time::sleep(self.backoff.wait(failures)) => {}
            }
        }
        self.health.degraded(TOPIC, None);
        Ok(())
    }

    fn verify_every(&self) -> Option<Duration> {
        Some(self.options.verify_every)
    }

    async fn verify(&self) -> Verdict {
        // Looks first without making anything, so that "it was missing" is never overlooked.
        let looked = look(&self.options).await;
        let is_missing = matches!(looked, Err(SetUpError::Missing { .. }));
        let verdict = self.judge(looked);
        if is_missing && self.options.create {
            return self.judge(set_up(&self.options).await);
        }
        verdict
    }
}

/// Whether a refusal stays until somebody does something about it.
fn needs_a_person(kind: &str) -> bool {
    let codes = [
        Code::NotFound,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::InvalidArgument,
        Code::FailedPrecondition,
    ];
    codes.iter().any(|code| code.name() == kind)
}

#[cfg(test)]
mod tests {
    use super::super::options;
    use super::*;

    fn found(label: Option<&str>) -> Result<Found, SetUpError> {
        Ok(Found {
            identity: label.map(str::to_owned),
            retention: None,
        })
    }

    fn missing() -> Result<Found, SetUpError> {
        let what = "projects/p/subscriptions/s".to_owned();
        Err(SetUpError::Missing { what })
    }

    fn unfit() -> Result<Found, SetUpError> {
        Err(SetUpError::Unfit {
            subscription: "projects/p/subscriptions/s".to_owned(),
            reason: "it has a filter",
        })
    }

    fn orphaned() -> Result<Found, SetUpError> {
        let subscription = "projects/p/subscriptions/s".to_owned();
        Err(SetUpError::Orphaned { subscription })
    }

    /// What each look says, by somebody who knows the first subscription from his start.
    fn judged(looks: Vec<Result<Found, SetUpError>>) -> Vec<Verdict> {
        let about = (Health::default(), Metrics::new());
        let known = found(Some("a")).ok();
        let stop = CancellationToken::new();
        let producer = PubSubProducer::new(options(), "node".into(), known, about, stop);
        looks.into_iter().map(|look| producer.judge(look)).collect()
    }

    #[test]
    fn what_was_published_counts_only_while_the_same_subscription_was_there() {
        use Verdict::{Lost, Owned, Unknown};
        let same = || found(Some("a"));
        assert_eq!(judged(vec![same(), same()]), [Owned, Owned]);
        let another = vec![found(Some("b")), found(Some("b")), found(None)];
        assert_eq!(judged(another), [Lost, Owned, Lost]);
        // Made again by hand, with the label that it had.
        // So it is where it was another's for a while, or there was no topic that led to it.
        for look in [missing, unfit, orphaned] {
            assert_eq!(judged(vec![look(), same(), same()]), [Unknown, Lost, Owned]);
        }
    }
}
