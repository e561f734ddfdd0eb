//! Keeps a stream of messages open.
//!
//! The client library opens one anew that breaks. What it does not notice is noticed here: a stream that leads nowhere, over a
//! connection that looks open. The library shows nothing of the server's signs of life, so a stream by which nothing came
//! for a while is exchanged for one over a new connection, whatever is held of the old one: its leases are extended and its messages
//! acknowledged as before, as far as its connection allows, and what was on its way by it comes again when its lease is over.

use std::time::Duration;

use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownToken};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::LEASE;
use crate::backoff::Backoff;
use crate::lifecycle::Health;
use crate::queue::gather;
use crate::queue::pubsub::setup::{self, make_what_is_missing};
use crate::queue::pubsub::{PubSubOptions, SetUpError, name_of};
use crate::telemetry::{Metrics, with_causes};

/// The component's name in readiness; the one who publishes looks at the subscription under another, as both may be one process.
const COMPONENT: &str = "pubsub pull";

/// The longest that a lease is extended: a store may be out for days.
const LEASE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A stream that is silent for so long is opened anew.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// How long whoever looks whether the subscription is there waits for an answer.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// What the stream's own task says.
pub(super) enum Pulled {
    Opened(ShutdownToken),
    /// Pub/Sub is out of reach.
    CutOff,
    /// It is within reach again, as far as can be told without a message.
    Reached,
    Message(Box<(Message, Handler)>),
}

/// Why a stream is not read any more.
enum Ended {
    /// It failed.
    Failed(Failure),
    /// Nothing came by it: nobody can say whether it still leads anywhere.
    Silent,
    /// Told to stop.
    Stopped,
}

/// What went wrong, and whether it passes by itself.
struct Failure {
    text: String,
    passes: bool,
}

/// Keeps a stream open until told to stop. What the client library gives up on is begun anew here.
pub(super) async fn pull(
    options: PubSubOptions,
    rules: gather::Rules,
    out: mpsc::Sender<Pulled>,
    (health, metrics): (Health, Metrics),
    stop: CancellationToken,
) {
    let backoff = Backoff::default();
    let mut failures = 0_u32;
    while !stop.is_cancelled() && !out.is_closed() {
        let ended = match open(&options, rules).await {
            Ok(stream) => forward(stream, &out, &stop, &mut failures, &health).await,
            Err(failure) => Ended::Failed(failure),
        };
        let failure = match ended {
            Ended::Stopped => return,
            Ended::Failed(failure) => Some(failure),
            Ended::Silent => look(&options, &stop).await,
        };
        let Some(failure) = failure else {
            if std::mem::take(&mut failures) > 0 {
                health.degraded(COMPONENT, None);
                if out.send(Pulled::Reached).await.is_err() {
                    return;
                }
            }
            continue;
        };
        if out.send(Pulled::CutOff).await.is_err() {
            return;
        }
        tokio::select! {
            // Cancel safe: what it made is there, and what it did not make is made by whoever looks next.
            () = stop.cancelled() => return,
            () = make_what_is_missing(&options) => {}
        }
        failures = failures.saturating_add(1);
        metrics.queue_pull_failures.add(1, &[]);
        let Failure { text, passes } = failure;
        let needs_a_person = failures == 1 && !passes;
        if needs_a_person {
            tracing::error!(error = text, "subscription_unusable");
        } else {
            tracing::warn!(error = text, attempt = failures, "pull_failed");
        }
        health.degraded(COMPONENT, Some(format!("pulling fails: {text}")));
        tokio::select! {
            // Cancel safe: the token stays cancelled.
            () = stop.cancelled() => return,
            // Cancel safe: a wait that is cut short is forgotten.
            () = tokio::time::sleep(backoff.wait(failures)) => {}
        }
    }
}

/// Asks over a connection of its own whether the subscription is there, when nothing says so: it may be quiet, or out of reach.
async fn look(options: &PubSubOptions, stop: &CancellationToken) -> Option<Failure> {
    tracing::debug!("silent_stream_opened_anew");
    let looked = tokio::select! {
        // Cancel safe: looking changes nothing.
        () = stop.cancelled() => return None,
        looked = timeout(LOOK, setup::look(options)) => looked,
    };
    let Ok(looked) = looked else {
        return Some(Failure {
            text: "Pub/Sub does not answer".to_owned(),
            passes: true,
        });
    };
    let error = looked.err()?;
    let passes = error.is_outage();
    // Whoever may pull may perhaps not look: then the stream itself says what is wrong.
    let is_told = passes || matches!(error, SetUpError::Missing { .. });
    is_told.then(|| Failure {
        text: with_causes(&error),
        passes,
    })
}

async fn open(options: &PubSubOptions, rules: gather::Rules) -> Result<MessageStream, Failure> {
    let subscriber = options.subscriber().await.map_err(|error| Failure {
        text: with_causes(&error),
        passes: false,
    })?;
    let limit = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(subscriber
        .subscribe(options.subscription_path())
        .set_max_outstanding_messages(limit(rules.budget_messages))
        .set_max_outstanding_bytes(limit(rules.budget_bytes))
        .set_max_lease_extension(LEASE)
        .set_max_lease(LEASE_MAX)
        .build())
}

/// Whether somebody has to do something about it. What else a stream ends with, passes.
fn needs_a_person(error: &Error) -> bool {
    error.status().is_some_and(|status| {
        matches!(
            status.code,
            Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::InvalidArgument
                | Code::FailedPrecondition
        )
    })
}

/// Passes messages on until the stream ends, is silent, or is to be stopped.
async fn forward(
    mut stream: MessageStream,
    out: &mpsc::Sender<Pulled>,
    stop: &CancellationToken,
    failures: &mut u32,
    health: &Health,
) -> Ended {
    let opened = Pulled::Opened(stream.shutdown_token());
    if out.send(opened).await.is_err() {
        return Ended::Stopped;
    }
    loop {
        let next = tokio::select! {
            // The stream is not asked again after it.
            () = stop.cancelled() => return Ended::Stopped,
            // Not cancel safe to the point of losing a message: the stream is asked again or dropped with all that it has.
            next = timeout(SILENCE, stream.next()) => next,
        };
        match next {
            Ok(Some(Ok(message))) => {
                if std::mem::take(failures) > 0 {
                    health.degraded(COMPONENT, None);
                }
                let message = Pulled::Message(Box::new(message));
                if out.send(message).await.is_err() {
                    return Ended::Stopped;
                }
            }
            Ok(Some(Err(error))) => {
                return Ended::Failed(Failure {
                    text: name_of(&error).to_owned(),
                    passes: !needs_a_person(&error),
                });
            }
            // Nobody asked it to end.
            Ok(None) => {
                return Ended::Failed(Failure {
                    text: "the stream ended".to_owned(),
                    passes: true,
                });
            }
            Err(_elapsed) => return Ended::Silent,
        }
    }
}
