//! A collector behind TLS: whom we trust, and what we show.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::collectors::{Collector, Mood};
use super::{LONG, PROTOCOLS, spans, start, until};

/// An authority of the test's own, and what it signed: files and all.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            dir,
        }
    }

    fn signed(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Files of a client certificate and of its key.
    fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.signed("client");
        let at = |name: &str| self.dir.path().join(name);
        std::fs::write(at("client.pem"), certificate.pem()).unwrap();
        std::fs::write(at("client.key"), key.serialize_pem()).unwrap();
        (at("client.pem"), at("client.key"))
    }

    /// What a server shows, and whether it wants to be shown something.
    fn server(&self, wants_client: bool) -> ServerConfig {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let (certificate, key) = self.signed("localhost");
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// A collector behind TLS.
struct Encrypted {
    collector: Collector,
    url: String,
    _proxy: JoinSet<()>,
}

impl Encrypted {
    async fn start(config: ServerConfig) -> Self {
        let collector = Collector::start(Mood::Takes).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let mut proxy = JoinSet::new();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        proxy.spawn(forward(listener, acceptor, collector.address()));
        Self {
            collector,
            url,
            _proxy: proxy,
        }
    }
}

async fn forward(listener: TcpListener, acceptor: TlsAcceptor, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _from) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // A handshake that fails is what some tests are about.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut plain = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut stream, &mut plain)
                    .await
                    .unwrap_or_default();
            }
        });
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_trusted_whose_authority_is_given_and_no_other() {
    let (ours, another) = (Authority::new(), Authority::new());
    let (ours_path, another_path) = (ours.path(), another.path());
    for protocol in PROTOCOLS {
        let server = Encrypted::start(ours.server(false)).await;
        let to = |path| {
            let further = [
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", text(path)),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "20000"),
            ];
            start(protocol, &server.url, &further)
        };
        let otlp = to(&ours_path);
        spans(&otlp, 3);
        otlp.shutdown(LONG).await;
        assert_eq!((otlp.spans_exported(), server.collector.spans()), (3, 3));
        let otlp = to(&another_path);
        spans(&otlp, 3);
        until("the spans are given up", || otlp.spans_dropped() == 3).await;
        otlp.shutdown(LONG).await;
        assert_eq!(server.collector.spans(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_wants_a_certificate_is_shown_ours() {
    let authority = Authority::new();
    let (path, (certificate, key)) = (authority.path(), authority.client());
    for protocol in PROTOCOLS {
        let server = Encrypted::start(authority.server(true)).await;
        let further = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", text(&path)),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "20000"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", text(&certificate)),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", text(&key)),
        ];
        let without = start(protocol, &server.url, &further[..2]);
        spans(&without, 3);
        until("the spans are given up", || without.spans_dropped() == 3).await;
        without.shutdown(LONG).await;
        assert_eq!(server.collector.spans(), 0);
        let otlp = start(protocol, &server.url, &further);
        spans(&otlp, 3);
        otlp.shutdown(LONG).await;
        assert_eq!((otlp.spans_exported(), server.collector.spans()), (3, 3));
    }
}

#[test]
fn a_file_that_is_not_there_is_said_by_name() {
    for protocol in PROTOCOLS {
        let config = super::config(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ]);
        let error = eventkit::telemetry::Otlp::start(&config).unwrap_err();
        assert_eq!(error.to_string(), "read /nowhere/ca.pem");
    }
}
