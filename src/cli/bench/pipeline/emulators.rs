//! The emulators, and names of one's own in them.

use std::net::IpAddr;

use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use uuid::Uuid;

use crate::cli::bench::BenchError;
use crate::cli::bench::process::Setup;
use crate::cloud::credentials;
use crate::config::{Endpoint, Environment, settings};
use crate::queue::pubsub::PubSubOptions;

/// The project of everything that is made here; emulators take any.
const PROJECT: &str = "eventkit-bench";

/// How long a bucket may take to be made.
const BUCKET_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Where the emulators answer.
#[derive(Debug, Clone)]
pub(super) struct Emulators {
    pubsub: Endpoint,
    storage: String,
    /// Only the loader's memory needs it.
    pub(super) bigquery: bool,
}

/// What carries batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Queue {
    /// The process itself.
    Async,
    /// Pub/Sub.
    Pubsub,
}

impl Queue {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Pubsub => "pubsub",
        }
    }
}

/// A topic, its subscription and a bucket.
#[derive(Debug, Clone)]
pub(super) struct Names {
    unique: String,
    bucket: String,
}

impl Emulators {
    /// Where the usual variables say; which of them are missing.
    pub(super) fn find(environment: &Environment) -> Result<Self, BenchError> {
        let value = |name: &str| {
            let value = environment.vars.get(name).map(|value| value.trim());
            value.filter(|value| !value.is_empty())
        };
        let needed = [
            settings::PUBSUB_EMULATOR.env,
            settings::STORAGE_EMULATOR.env,
        ];
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|name| value(name).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(BenchError::Emulators(format!(
                "{} not set: `scripts/emulators up` starts what this machine can have, `eval \"$(scripts/emulators env)\"` names it",
                missing.join(" and ")
            )));
        }
        let bigquery = value(settings::BIGQUERY_EMULATOR.env);
        let given = needed.iter().filter_map(|&name| Some((name, value(name)?)));
        let given = given.chain(bigquery.map(|host| (settings::BIGQUERY_EMULATOR.env, host)));
        for (name, host) in given {
            if !is_here(host) {
                return Err(BenchError::Emulators(format!(
                    "{name}={host} is not on this machine: what lies between would be measured, too"
                )));
            }
        }
        let [pubsub, storage] = needed.map(|name| Endpoint::emulator(value(name).unwrap_or("")));
        Ok(Self {
            pubsub,
            storage: storage.url().unwrap_or_default().to_owned(),
            bigquery: bigquery.is_some(),
        })
    }

    /// Names that nobody uses, and the bucket; topic and subscription are made by whoever uses them first.
    pub(super) async fn fresh(&self) -> Result<Names, BenchError> {
        let unique = Uuid::new_v4().simple().to_string();
        let bucket = format!("bench-{unique}");
        let failed = |error: String| BenchError::Emulator("make a bucket", error);
        let answer = reqwest::Client::new()
            .post(format!("{}/storage/v1/b?project={PROJECT}", self.storage))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::json!({ "name": bucket }).to_string())
            .timeout(BUCKET_WITHIN)
            .send()
            .await
            .map_err(|error| failed(format!("{}: {error}", self.storage)))?;
        if !answer.status().is_success() {
            return Err(failed(format!("answered with {}", answer.status())));
        }
        Ok(Names { unique, bucket })
    }

    /// How `serve` is started on them, with the queue and the role given.
    pub(super) fn setup(&self, names: &Names, queue: Queue, role: &'static str) -> Setup {
        let mut flags = vec![
            "--event-store=gcs".to_owned(),
            format!("--queue-mode={}", queue.name()),
            format!("--role={role}"),
            format!("--gcp-project-id={PROJECT}"),
            format!("--gcp-gcs-bucket={}", names.bucket),
            format!("--pubsub-topic=topic-{}", names.unique),
            format!("--pubsub-subscription=workers-{}", names.unique),
            "--pubsub-create=true".to_owned(),
        ];
        if role == "loader" {
            flags.extend([
                "--warehouse-enabled=true".to_owned(),
                "--warehouse-loader-interval=1".to_owned(),
                format!("--gcp-bigquery-dataset=bench_{}", names.unique),
                "--gcp-bigquery-table=events".to_owned(),
            ]);
        } else {
            flags.push("--warehouse-enabled=false".to_owned());
        }
        Setup {
            name: match role {
                "all" => queue.name(),
                role => role,
            },
            command: &["serve"],
            has_doors: matches!(role, "all" | "gateway"),
            flags,
            variables: Vec::new(),
        }
    }

    /// The topic and the subscription for a client of our own.
    pub(super) fn options(&self, names: &Names) -> PubSubOptions {
        PubSubOptions {
            project: PROJECT.to_owned(),
            topic: format!("topic-{}", names.unique),
            subscription: format!("workers-{}", names.unique),
            create: true,
            retention: std::time::Duration::from_secs(86_400),
            verify_every: std::time::Duration::from_secs(30),
            endpoint: self.pubsub.clone(),
        }
    }

    /// Lets go of topic and subscription, whose messages the emulator holds in memory. The bucket stays for as long as the
    /// emulator does.
    pub(super) async fn forget(&self, names: &Names) -> Result<(), BenchError> {
        let failed = |error: &dyn std::fmt::Display| {
            BenchError::Emulator("delete topic and subscription", error.to_string())
        };
        let credentials = || credentials(&self.pubsub).map_err(|error| failed(&error));
        let url = self.pubsub.url().unwrap_or_default();
        let subscriptions = SubscriptionAdmin::builder()
            .with_credentials(credentials()?)
            .with_endpoint(url)
            .build()
            .await
            .map_err(|error| failed(&error))?;
        let topics = TopicAdmin::builder()
            .with_credentials(credentials()?)
            .with_endpoint(url)
            .build()
            .await
            .map_err(|error| failed(&error))?;
        subscriptions
            .delete_subscription()
            .set_subscription(format!(
                "projects/{PROJECT}/subscriptions/workers-{}",
                names.unique
            ))
            .send()
            .await
            .map_err(|error| failed(&error))?;
        topics
            .delete_topic()
            .set_topic(format!("projects/{PROJECT}/topics/topic-{}", names.unique))
            .send()
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }
}

/// Whether a host, as emulators' variables have it, is this machine's loopback.
fn is_here(host: &str) -> bool {
    let authority = host.split_once("://").map_or(host, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => authority,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        let vars = vars.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        Environment {
            vars: vars.collect(),
            host_name: String::new(),
        }
    }

    #[test]
    fn the_variables_that_are_missing_are_named() {
        let said = |vars: &[(&str, &str)]| match Emulators::find(&environment(vars)) {
            Err(BenchError::Emulators(text)) => text,
            other => panic!("{other:?}"),
        };
        let both = said(&[]);
        assert!(both.starts_with("PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST not set"));
        let one = said(&[
            ("PUBSUB_EMULATOR_HOST", "localhost:1"),
            ("STORAGE_EMULATOR_HOST", " "),
        ]);
        assert!(one.starts_with("STORAGE_EMULATOR_HOST not set"), "{one}");
        let far = said(&[
            ("PUBSUB_EMULATOR_HOST", "localhost:1"),
            ("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com"),
        ]);
        assert!(far.contains("not on this machine"), "{far}");
    }

    #[test]
    fn only_the_loopback_is_here() {
        for here in [
            "localhost:8085",
            "http://127.0.0.1:9023/",
            "127.8.8.8",
            "[::1]:80",
        ] {
            assert!(is_here(here), "{here}");
        }
        for far in [
            "",
            "10.0.0.1:80",
            "http://localhost.example.com",
            "pubsub.googleapis.com:443",
            "http://localhost@example.com/",
        ] {
            assert!(!is_here(far), "{far}");
        }
    }
}
