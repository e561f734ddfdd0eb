//! Objects in a Cloud Storage bucket.
//!
//! - A name is created with `ifGenerationMatch=0`: whoever comes second hears 412, and so does a repeat whose first answer was lost.
//!   Both mean *it is there*.
//! - Each upload is one request that says the CRC-32C of what we hold: the service stores nothing else under the name. What is read
//!   is compared with the checksum that the service keeps.
//! - Lists and removals go through the JSON API ([`json`]); the client library has them over gRPC alone, which no emulator speaks.
//! - A write is one attempt, so that whoever repeats it ([`Retrying`](super::Retrying)) counts every failure. Reads, lists and removals
//!   are tried a few times, because a round of the loader is thousands of them. What the service said about waiting (`Retry-After`)
//!   holds for every call that follows, also for another lane's.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use google_cloud_gax::error::Error as ClientError;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::read_resume_policy::NeverResume;
use opentelemetry::KeyValue;
use tokio::time::Instant;

use super::objects::is_plain_name;
use super::{Objects, WriteError};
use crate::backoff::Backoff;
use crate::cloud;
use crate::config::Endpoint;
use crate::telemetry::Metrics;
use failure::Failure;
use json::JsonApi;

mod check;
mod failure;
mod json;

pub use check::CheckError;

/// The largest object: it is held in memory and sent in one request, from which nothing can be resumed. Batches are a few MiB.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;

/// How often a call that changes nothing is tried before its failure is somebody else's affair.
const ATTEMPTS: u32 = 3;

/// The waits between those attempts.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(2),
};

/// Names in one answer to a list: the service's own limit.
const PAGE: usize = 1_000;

/// Which bucket, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcsOptions {
    /// The bucket's name, without `gs://`.
    pub bucket: String,
    /// The service or an emulator.
    pub endpoint: Endpoint,
    /// How long one attempt may take, the upload of a whole object included.
    pub request_timeout: Duration,
}

/// Why there is no client for a bucket. None of them is an outage: nothing was sent yet.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No bucket can have this name.
    #[error("{0:?} is not the name of a bucket: 3 to 222 small letters, digits, - _ and .")]
    Bucket(String),
    /// Nobody to be.
    #[error(transparent)]
    Credentials(#[from] cloud::NoCredentials),
    /// The client library refuses its options.
    #[error("the Cloud Storage client cannot be built")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The objects of one bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GcsObjects {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bucket: String,
    /// The bucket as the client library names it.
    resource: String,
    storage: Storage,
    json: JsonApi,
    metrics: Metrics,
    request_timeout: Duration,
    /// Until when the service asked to be left alone.
    not_before: Mutex<Option<Instant>>,
    /// What was stored under a checksum that is not ours and is not removed yet, by name: its generation.
    damaged: Mutex<HashMap<String, i64>>,
}

impl GcsObjects {
    /// Builds the clients; sends nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the bucket itself is looked at by [`check`](Self::check).
    pub async fn open(options: GcsOptions, metrics: Metrics) -> Result<Self, OpenError> {
        let GcsOptions {
            bucket,
            endpoint,
            request_timeout,
        } = options;
        if !is_bucket_name(&bucket) {
            return Err(OpenError::Bucket(bucket));
        }
        let credentials = cloud::credentials(&endpoint)?;
        let mut storage = Storage::builder()
            .with_credentials(credentials.clone())
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume)
            .with_resumable_upload_threshold(OBJECT_BYTES_MAX + 1);
        if let Some(url) = endpoint.url() {
            storage = storage.with_endpoint(url);
        }
        let storage = storage
            .build()
            .await
            .map_err(|error| OpenError::Client(error.into()))?;
        let json = JsonApi::new(&endpoint, &bucket, credentials).map_err(OpenError::Client)?;
        Ok(Self {
            inner: Arc::new(Inner {
                resource: format!("projects/_/buckets/{bucket}"),
                bucket,
                storage,
                json,
                metrics,
                request_timeout,
                not_before: Mutex::default(),
                damaged: Mutex::default(),
            }),
        })
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.inner.bucket
    }
}

// === impl Objects ===

#[async_trait]
impl Objects for GcsObjects {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        let inner = &self.inner;
        checked(name)?;
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(refused(format!(
                "put {name}: {} bytes, and an object has at most {OBJECT_BYTES_MAX}",
                bytes.len()
            )));
        }
        // An earlier attempt may have failed to: what lies there would be taken for the object.
        inner.discard_damaged(name).await?;
        match inner.once(inner.create(name, bytes)).await {
            Ok(created) => Ok(created),
            Err(failure) => {
                if let Some(generation) = failure.damaged_generation() {
                    inner.damaged().insert(name.to_owned(), generation);
                    inner.discard_damaged(name).await?;
                }
                Err(inner.error("put", name, failure))
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        let inner = &self.inner;
        checked(name)?;
        let found = inner.repeat("get", name, || inner.read(name)).await?;
        if found.is_none() {
            // A bucket that is gone answers like an object that is gone.
            inner
                .repeat("get", name, || inner.json.list(name, None, None, 1))
                .await?;
        }
        Ok(found)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        let inner = &self.inner;
        if !prefix.ends_with('/') {
            return Err(refused(
                "a prefix is a folder and ends in a slash".to_owned(),
            ));
        }
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        while names.len() < limit {
            // One more than is missing: the service begins with `after` itself.
            let size = (limit - names.len()).saturating_add(1).min(PAGE);
            let page = inner
                .repeat("list", prefix, || {
                    inner.json.list(prefix, after, token.as_deref(), size)
                })
                .await?;
            let ours = page.names.into_iter().filter(|name| {
                // A name that ends in a slash is what a console shows as an empty folder.
                after.is_none_or(|after| name.as_str() > after) && !name.ends_with('/')
            });
            names.extend(ours.take(limit - names.len()));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        Ok(names)
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        let inner = &self.inner;
        checked(name)?;
        inner
            .repeat("delete", name, || inner.json.delete(name, None))
            .await
    }
}

// === impl Inner ===

impl Inner {
    /// One upload; `false` when the name was there before.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, Failure> {
        let crc = crc32c::crc32c(&bytes);
        let upload = self
            .storage
            .write_object(&self.resource, name, bytes)
            .set_if_generation_match(0)
            .set_content_type(content_type(name))
            .with_known_crc32c(crc)
            .send_unbuffered();
        match Box::pin(upload).await {
            Ok(_created) => Ok(true),
            Err(error) if error.http_status_code() == Some(412) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One download; `None` when the service knows nothing of that name.
    async fn read(&self, name: &str) -> Result<Option<Bytes>, Failure> {
        let request = self.storage.read_object(&self.resource, name).send();
        let mut answer = match Box::pin(request).await {
            Ok(answer) => answer,
            Err(error) if error.http_status_code() == Some(404) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let object = answer.object();
        let size = usize::try_from(object.size).unwrap_or(0);
        let mut bytes = BytesMut::with_capacity(size.min(OBJECT_BYTES_MAX));
        while let Some(chunk) = answer.next().await.transpose().map_err(as_failure)? {
            if bytes.len() + chunk.len() > OBJECT_BYTES_MAX {
                return Err(Failure::refusal("it is larger than any object of ours"));
            }
            bytes.extend_from_slice(&chunk);
        }
        let expected = object.checksums.and_then(|checksums| checksums.crc32c);
        if expected != Some(crc32c::crc32c(&bytes)) {
            return Err(Failure::passing("the checksum does not match"));
        }
        Ok(Some(bytes.freeze()))
    }

    /// Removes what was just stored under a checksum that is not ours, so that a repeat does not take it for the object.
    async fn discard_damaged(&self, name: &str) -> Result<(), WriteError> {
        let damaged = self.damaged().get(name).copied();
        let Some(generation) = damaged else {
            return Ok(());
        };
        self.repeat("delete", name, || self.json.delete(name, Some(generation)))
            .await?;
        self.damaged().remove(name);
        tracing::warn!(object = name, generation, "damaged_object_removed");
        Ok(())
    }

    /// One attempt.
    async fn once<T>(
        &self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let not_before = *self.not_before();
        if let Some(not_before) = not_before {
            tokio::time::sleep_until(not_before).await;
        }
        let outcome = within(self.request_timeout, attempt).await;
        if let Err(failure) = &outcome
            && let Some(wait) = failure.retry_after()
        {
            let until = Some(Instant::now() + wait);
            let mut not_before = self.not_before();
            *not_before = until.max(*not_before);
        }
        outcome
    }

    /// Some attempts, for calls that change nothing when they are repeated.
    async fn repeat<T, F>(
        &self,
        operation: &'static str,
        name: &str,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, WriteError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let mut failures = 0;
        loop {
            let failure = match self.once(attempt()).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            failures += 1;
            if failures == ATTEMPTS || !failure.is_worth_another_attempt() {
                return Err(self.error(operation, name, failure));
            }
            let labels = [KeyValue::new("operation", operation)];
            self.metrics.store_call_retries.add(1, &labels);
            tracing::debug!(operation, attempt = failures, %failure, "object_call_failed");
            tokio::time::sleep(BACKOFF.wait(failures)).await;
        }
    }

    fn error(&self, operation: &str, name: &str, failure: Failure) -> WriteError {
        failure.into_write_error(operation, name, &self.bucket)
    }

    fn damaged(&self) -> std::sync::MutexGuard<'_, HashMap<String, i64>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_before(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn within<T>(
    timeout: Duration,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(timeout, attempt)
        .await
        .unwrap_or_else(|_elapsed| Err(Failure::timed_out(timeout)))
}

fn as_failure(error: ClientError) -> Failure {
    error.into()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((_, "parquet")) => "application/vnd.apache.parquet",
        Some((_, "json")) => "application/json",
        _ => "application/octet-stream",
    }
}

/// As the service restricts them, so that a bucket's name can stand in a path.
fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=222).contains(&name.len())
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'_' | b'.'))
        && !name.contains("..")
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

fn checked(name: &str) -> Result<(), WriteError> {
    if is_plain_name(name) && name.len() <= 1_024 && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(refused(
        "an object's name is a relative path without . and .., of at most 1,024 bytes".to_owned(),
    ))
}

fn refused(reason: String) -> WriteError {
    WriteError::Denied {
        reason,
        source: None,
    }
}

#[cfg(test)]
mod tests;
