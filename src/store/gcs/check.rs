//! Whether a bucket can be used, asked once at the start.

use std::time::Duration;

use super::{GcsObjects, within};
use crate::store::WriteError;
use crate::store::objects::INBOX;

/// How long the check at the start waits for an answer, at most: an outage must not hold the start up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// What is wrong with a bucket.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is none of this name.
    #[error("there is no bucket gs://{bucket}: create it, or correct the setting")]
    NotFound {
        /// The bucket.
        bucket: String,
        /// What was answered.
        #[source]
        source: WriteError,
    },
    /// We may not use it.
    #[error(
        "the bucket gs://{bucket} refuses us: the account needs the role Storage Object User (roles/storage.objectUser) on it"
    )]
    Denied {
        /// The bucket.
        bucket: String,
        /// What was answered.
        #[source]
        source: WriteError,
    },
    /// Nobody knows: an outage.
    #[error("the bucket gs://{bucket} cannot be reached")]
    Unreachable {
        /// The bucket.
        bucket: String,
        /// What happened.
        #[source]
        source: WriteError,
    },
}

impl CheckError {
    /// Whether a program that needs the bucket should not start: an outage passes by itself, the others need a person.
    #[must_use]
    pub const fn prevents_start(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

impl GcsObjects {
    /// Asks once whether the bucket is there and may be listed. It needs no permission beyond those of every day.
    ///
    /// # Errors
    ///
    /// [`CheckError`] tells what a person must mend from an outage.
    pub async fn check(&self) -> Result<(), CheckError> {
        let timeout = self.inner.request_timeout.min(CHECK_TIMEOUT);
        let page = self.inner.json.list(INBOX, None, None, 1);
        let Err(failure) = within(timeout, page).await else {
            return Ok(());
        };
        let bucket = self.inner.bucket.clone();
        let (refused, status) = (!failure.is_passing(), failure.status());
        let source = self.inner.error("look for", "the bucket", failure);
        Err(match status {
            Some(404) => CheckError::NotFound { bucket, source },
            _ if refused => CheckError::Denied { bucket, source },
            _ => CheckError::Unreachable { bucket, source },
        })
    }
}
