//! How connections are made: in clear, or by TLS with the system's authorities or those that the options name.

use std::fmt;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

use super::{NewError, Options};

/// Whom to trust, and as whom to come. All of it PEM.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// The authorities that are trusted instead of the system's.
    pub roots: Option<Vec<u8>>,
    /// For a gateway that asks for certificates: one's own, with those between it and its root, and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Nothing of a private key.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text has nothing in it that is meant.
    #[error("read {0}")]
    Pem(&'static str, #[source] pem::Error),
    /// There is no certificate where some are meant to be.
    #[error("no {0} in the PEM text")]
    Nothing(&'static str),
    /// The system trusts nobody.
    #[error("find the system's authorities")]
    System(#[source] rustls_native_certs::Error),
    /// A certificate is of no kind that is known, or does not go with its key.
    #[error("use {0}")]
    Certificate(&'static str, #[source] rustls::Error),
}

/// The versions of HTTP that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// What makes connections to the options' target.
pub(super) fn connector(
    options: &Options,
    version: Version,
) -> Result<HttpsConnector<HttpConnector>, NewError> {
    let mut tcp = HttpConnector::new();
    // It is asked for https, too: TLS goes around it.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout));
    let roots = if options.target.is_tls() {
        roots(&options.tls)?
    } else {
        RootCertStore::empty()
    };
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(config(roots, &options.tls)?)
        .https_or_http();
    Ok(match version {
        Version::Http1 => builder.enable_http1().wrap_connector(tcp),
        Version::Http2 => builder.enable_http2().wrap_connector(tcp),
    })
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &options.roots {
        for root in certificates("authorities", pem)? {
            let added = roots.add(root);
            added.map_err(|error| TlsError::Certificate("an authority", error))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // Some of a system's are always odd; the rest will do.
    let (_added, _odd) = roots.add_parsable_certificates(found.certs);
    match found.errors.into_iter().next() {
        Some(error) if roots.is_empty() => Err(TlsError::System(error)),
        Some(_) | None => Ok(roots),
    }
}

fn config(roots: RootCertStore, options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let wrong = |what| move |error| TlsError::Certificate(what, error);
    // Named, and not the process's own: that is the application's to choose.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong("the versions of TLS"))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &options.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let own = certificates("certificates of one's own", certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| TlsError::Pem("the private key", error))?;
    builder
        .with_client_auth_cert(own, key)
        .map_err(wrong("one's own certificate with its key"))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem(what, error))?;
    if all.is_empty() {
        return Err(TlsError::Nothing(what));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(roots: Option<&str>, identity: Option<(&str, &str)>) -> Options {
        Options {
            tls: TlsOptions {
                roots: roots.map(|pem| pem.as_bytes().to_vec()),
                identity: identity.map(|(own, key)| (own.into(), key.into())),
            },
            ..Options::new("https://gateway".parse().unwrap())
        }
    }

    #[test]
    fn certificates_are_read_or_refused_with_a_reason() {
        let pair = || rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let (one, other) = (pair(), pair());
        let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let cases = [
            (options(Some(&cert), None), None),
            (options(Some(&cert), Some((&cert, &key))), None),
            (options(Some("words"), None), Some("no authorities")),
            (options(Some(&key), None), Some("no authorities")),
            (
                options(Some(&cert), Some((&cert, &cert))),
                Some("the private key"),
            ),
            (
                options(Some(&cert), Some((&other.cert.pem(), &key))),
                Some("with its key"),
            ),
        ];
        for (options, wrong) in cases {
            for version in [Version::Http1, Version::Http2] {
                let made = connector(&options, version).map(drop);
                let said = made.map_err(|error| crate::telemetry::with_causes(&error));
                match wrong {
                    None => assert_eq!(said, Ok(())),
                    Some(word) => assert!(said.as_ref().unwrap_err().contains(word), "{said:?}"),
                }
            }
            assert!(!format!("{options:?}").contains("PRIVATE"), "{options:?}");
        }
    }
}
