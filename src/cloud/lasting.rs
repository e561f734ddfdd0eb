//! Credentials that outlive a refusal.
//!
//! The client library asks for tokens in the background, and ends that for good with the first answer that it takes for final: a status of
//! 4xx from a metadata server or a token endpoint, or a body that it cannot read (google-cloud-auth 1.18, `token_cache.rs`). All that
//! hold such credentials are then refused for ever, whatever becomes of the cause. And an endpoint that takes a request and never answers is
//! waited for without a limit. Here a right may come back, and the same process goes on: what has ended is made anew when it
//! is asked for.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use google_cloud_auth::build_errors::Error as BuildError;
use google_cloud_auth::credentials::{
    AccessToken, AccessTokenCredentials, AccessTokenCredentialsProvider, CacheableResource,
    CredentialsProvider,
};
use google_cloud_gax::error::CredentialsError;
use http::{Extensions, HeaderMap};
use tokio::time::Instant;

/// Credentials are not made anew more often: those who wait for a token ask as often as they like.
pub(super) const PAUSE: Duration = Duration::from_secs(30);

/// While requests for a token hang, the pause doubles so often at most: each stays behind, with its connection.
const DOUBLINGS_MAX: u32 = 5;

/// How long a token is waited for, less than any call that needs one.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

type Make = Box<dyn Fn() -> Result<AccessTokenCredentials, BuildError> + Send + Sync>;

/// Credentials, and how to make them.
pub(super) struct Lasting {
    make: Make,
    pause: Duration,
    limit: Duration,
    current: Mutex<Current>,
}

struct Current {
    credentials: AccessTokenCredentials,
    made: Instant,
    /// How many before them waited in vain.
    hung: u32,
}

impl fmt::Debug for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lasting").finish_non_exhaustive()
    }
}

impl Lasting {
    pub(super) fn new(make: Make, pause: Duration, limit: Duration) -> Result<Self, BuildError> {
        let current = Current {
            credentials: make()?,
            made: Instant::now(),
            hung: 0,
        };
        Ok(Self {
            make,
            pause,
            limit,
            current: Mutex::new(current),
        })
    }

    fn current(&self) -> AccessTokenCredentials {
        self.lock().credentials.clone()
    }

    /// Passes an answer on. After one that the library takes for final, or none, the next will be of new credentials.
    async fn heed<T>(
        &self,
        answer: impl Future<Output = Result<T, CredentialsError>> + Send,
    ) -> Result<T, CredentialsError> {
        let Ok(answer) = tokio::time::timeout(self.limit, answer).await else {
            self.make_anew(true);
            return Err(CredentialsError::from_msg(true, "no token came in time"));
        };
        match &answer {
            Ok(_) => self.lock().hung = 0,
            Err(error) if error.is_transient() => {}
            Err(_) => self.make_anew(false),
        }
        answer
    }

    fn make_anew(&self, has_hung: bool) {
        let mut current = self.lock();
        let doublings = if has_hung { current.hung } else { 0 };
        if current.made.elapsed() < self.pause * (1 << doublings.min(DOUBLINGS_MAX)) {
            return;
        }
        current.hung = if has_hung {
            doublings.saturating_add(1)
        } else {
            0
        };
        current.made = Instant::now();
        match (self.make)() {
            Ok(credentials) => {
                current.credentials = credentials;
                tracing::info!("credentials_made_anew");
            }
            // A file that is being exchanged, say: what was there stays, and is asked next time.
            Err(error) => tracing::warn!(%error, "credentials_not_made_anew"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialsProvider for Lasting {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let current = self.current();
        self.heed(current.headers(extensions)).await
    }

    async fn universe_domain(&self) -> Option<String> {
        self.current().universe_domain().await
    }
}

impl AccessTokenCredentialsProvider for Lasting {
    async fn access_token(&self) -> Result<AccessToken, CredentialsError> {
        let current = self.current();
        self.heed(current.access_token()).await
    }
}

#[cfg(test)]
mod tests;
