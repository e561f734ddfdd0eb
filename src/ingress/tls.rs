//! TLS at the doors: certificates from files that may change, HTTP/2 and HTTP/1.1 on one port, clients' certificates where they are
//! asked for.
//!
//! A change of the files holds for connections that begin after it; files that cannot be used leave the old certificate in force.
//! Who speaks in clear to a port of TLS, or TLS to one in clear, is told so in words that his program can show.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::auth::reload::Watched;
use crate::config::TlsConfig;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::labels;

/// The first byte of every TLS connection: a record with a handshake in it. No method of HTTP begins with it.
pub(super) const HANDSHAKE: u8 = 0x16;

/// A fatal alert, "handshake failure": what every TLS library has words for.
const ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 40];

/// How long and how much of what nobody wants is read, so that the words before it arrive.
const GOODBYE: Duration = Duration::from_secs(1);
const GOODBYE_BYTES_MAX: usize = 64 * 1024;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has nothing in it that is meant.
    #[error("read {what} from {}", path.display())]
    File {
        /// What is looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file of certificates has none.
    #[error("{} holds no certificate (PEM)", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not go together, or are of no kind that is known.
    #[error("use the certificate with its key")]
    Certificate(#[source] rustls::Error),
    /// The roots of clients' certificates cannot be used.
    #[error("use the roots of clients' certificates")]
    Roots(#[source] VerifierBuilderError),
    /// One of them cannot be read.
    #[error("use a root of clients' certificates")]
    Root(#[source] rustls::Error),
}

/// The certificate in force. Cheap to clone; every clone sees a change.
#[derive(Debug, Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// The files that it comes from.
#[derive(Debug)]
pub struct TlsFiles {
    config: TlsConfig,
    watched: Watched,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`]
    pub fn load(config: &TlsConfig) -> Result<(Self, TlsFiles), TlsError> {
        let files = [
            Some(&config.certificates),
            Some(&config.key),
            config.client_roots.as_ref(),
        ];
        let watched = Watched::new(files.into_iter().flatten().cloned().collect());
        let server = Arc::new(server(config)?);
        let files = TlsFiles {
            config: config.clone(),
            watched,
        };
        Ok((Self(Arc::new(RwLock::new(server))), files))
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let server = {
            let server = self.0.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&server)
        };
        TlsAcceptor::from(server).accept(stream).await
    }
}

impl TlsFiles {
    /// Takes changes of the files in until `stop`. Files that cannot be used are said once, and change nothing.
    pub async fn follow(self, tls: Tls, metrics: Metrics, stop: CancellationToken) {
        let Self { config, watched } = self;
        let take = move || {
            let outcome = match server(&config) {
                Ok(server) => {
                    *tls.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(server);
                    tracing::info!("tls_certificate_reloaded");
                    &*labels::RELOAD_TAKEN
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "tls_certificate_not_reloaded"
                    );
                    &*labels::RELOAD_REFUSED
                }
            };
            metrics.tls_reloads.add(1, outcome);
        };
        watched.follow(take, stop).await;
    }
}

fn server(config: &TlsConfig) -> Result<ServerConfig, TlsError> {
    // Named, and not the process's own: a build without the cloud chooses none.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = certificates(&config.certificates)?;
    let key =
        PrivateKeyDer::from_pem_file(&config.key).map_err(unread("a private key", &config.key))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?;
    let builder = match &config.client_roots {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in self::certificates(path)? {
                roots.add(root).map_err(TlsError::Root)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if config.clients_optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Roots)?)
        }
    };
    let mut server = builder
        .with_single_cert(certificates, key)
        .map_err(TlsError::Certificate)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unread("certificates", path))?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(all)
}

fn unread(what: &'static str, path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::File { what, path, source }
}

/// Answers someone who speaks in clear to a port of TLS.
pub(super) async fn say_that_it_is_tls(stream: TcpStream) {
    const TEXT: &str = "this port speaks TLS: use https:// (or a gRPC channel with TLS); nothing was stored; do not retry in clear\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{TEXT}",
        TEXT.len()
    );
    part(stream, answer.as_bytes()).await;
}

/// Answers someone who speaks TLS to a port in clear.
pub(super) async fn say_that_it_is_not(stream: TcpStream) {
    part(stream, &ALERT).await;
}

/// Says a last word, and reads on for a moment: closed with something unread, the word might not arrive.
async fn part(mut stream: TcpStream, word: &[u8]) {
    let said = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        let (mut unwanted, mut left) = ([0; 4096], GOODBYE_BYTES_MAX);
        while left > 0 {
            match stream.read(&mut unwanted).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // Whether it was heard is all the same by now.
    drop(tokio::time::timeout(GOODBYE, said).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, certificate: &str, key: &str) -> TlsConfig {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsConfig {
            certificates: write("certificate", certificate),
            key: write("key", key),
            client_roots: None,
            clients_optional: false,
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let dir = tempfile::tempdir().unwrap();
        let ((certificate, key), (other, _)) = (pair(), pair());
        let good = files(dir.path(), &certificate, &key);
        assert!(server(&good).is_ok());
        let roots = TlsConfig {
            client_roots: Some(good.certificates.clone()),
            ..good
        };
        assert!(server(&roots).is_ok());
        for (certificate, key, word) in [
            (&other, &key, "use the certificate"),
            (&key, &key, "no certificate"),
            (&certificate, &certificate, "a private key"),
            (&String::new(), &key, "no certificate"),
        ] {
            let error = server(&files(dir.path(), certificate, key)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let nowhere = TlsConfig {
            certificates: dir.path().join("nowhere"),
            ..roots
        };
        assert!(matches!(server(&nowhere), Err(TlsError::File { .. })));
    }
}
