//! What all Google Cloud clients share: who we are, and which TLS is spoken.
//!
//! No client library reads an emulator's variable here: each is told its [`Endpoint`](crate::config::Endpoint), and towards an emulator it
//! has no credentials at all. So a process that is pointed at an emulator never shows a real key to anyone.

use std::sync::OnceLock;

use google_cloud_auth::credentials::{self, AccessTokenCredentials, Credentials, anonymous};

use crate::config::Endpoint;

use lasting::{LIMIT, Lasting, PAUSE};

mod lasting;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error(
    "no Google Cloud credentials: set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, or run where a \
     service account is attached"
)]
pub struct NoCredentials(#[source] google_cloud_auth::build_errors::Error);

/// Chooses the one TLS implementation of the process: the clients bring more than one along, and rustls then refuses to choose.
pub fn choose_tls() {
    let chosen = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if chosen.is_err() {
        tracing::debug!("tls_chosen_before");
    }
}

/// Application default credentials, or none towards an emulator.
///
/// # Errors
///
/// [`NoCredentials`].
pub fn credentials(endpoint: &Endpoint) -> Result<Credentials, NoCredentials> {
    Ok(match access_tokens(endpoint)? {
        Some(tokens) => tokens.into(),
        None => anonymous::Builder::new().build(),
    })
}

/// The same as access tokens, for clients that want to see one; `None` towards an emulator.
///
/// # Errors
///
/// [`NoCredentials`].
pub fn access_tokens(endpoint: &Endpoint) -> Result<Option<AccessTokenCredentials>, NoCredentials> {
    // One for the process, as its environment is: the library keeps a task for each that it makes, for an hour after it was dropped.
    static OURS: OnceLock<AccessTokenCredentials> = OnceLock::new();
    if *endpoint != Endpoint::Google {
        return Ok(None);
    }
    if let Some(ours) = OURS.get() {
        return Ok(Some(ours.clone()));
    }
    let make = || credentials::Builder::default().build_access_token_credentials();
    let made = Lasting::new(Box::new(make), PAUSE, LIMIT).map_err(NoCredentials)?;
    Ok(Some(OURS.get_or_init(|| made.into()).clone()))
}
