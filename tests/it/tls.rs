//! TLS at the doors of the real binary: both protocols on one port, certificates that change, clients' certificates, and what happens to who
//! comes to the wrong port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::doors::{Answer, read_to_end, within};
use crate::support::gateway::{DEBUG, Endpoints, Gateway};

/// A root and what it signs.
pub(crate) struct Authority {
    pub(crate) root: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        Self {
            root,
            issuer: Issuer::new(params, key),
        }
    }

    /// The root itself.
    pub(crate) fn pem(&self) -> String {
        self.root.pem()
    }

    /// A certificate and its key, as PEM.
    pub(crate) fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn client(&self, identity: Option<&(String, String)>, alpn: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

pub(crate) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new((certificate, key): &(String, String)) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write("certificate", certificate);
        files.write("key", key);
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) async fn start(&self, more: &[(&str, &Path)]) -> (Gateway, Endpoints) {
        let paths = [
            ("EVENTKIT_TLS_CERT_FILE", &*self.path("certificate")),
            ("EVENTKIT_TLS_KEY_FILE", &*self.path("key")),
        ];
        let paths: Vec<_> = paths
            .iter()
            .chain(more)
            .map(|(name, path)| (*name, path.display().to_string()))
            .collect();
        let mut settings: Vec<(&str, &str)> = paths
            .iter()
            .map(|(name, path)| (*name, path.as_str()))
            .collect();
        settings.push(DEBUG);
        let data = self.path("data");
        let mut gateway = Gateway::spawn(&data, &settings).unwrap();
        let endpoints = gateway.listening(Duration::from_secs(30)).await.unwrap();
        (gateway, endpoints)
    }
}

pub(crate) async fn connect(
    addr: &str,
    connector: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr.parse::<SocketAddr>().unwrap()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    within(connector.connect(name, stream)).await
}

/// `POST /collect` over TLS and HTTP/1.1; the status.
async fn collect(addr: &str, connector: &TlsConnector) -> std::io::Result<u16> {
    let mut stream = connect(addr, connector).await?;
    let body = r#"{"type":"track","userId":"u","event":"e"}"#;
    let request = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await?;
    let answer = Answer::read(&bytes);
    Ok(answer.ok_or(std::io::ErrorKind::UnexpectedEof)?.status())
}

#[tokio::test]
async fn one_port_speaks_both_protocols_over_tls_and_says_so_to_others() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign());
    let (gateway, endpoints) = files.start(&[]).await;
    let http1 = authority.client(None, "http/1.1");
    assert_eq!(collect(&endpoints.http, &http1).await.unwrap(), 202);
    for addr in [&endpoints.http, &endpoints.grpc] {
        let h2 = connect(addr, &authority.client(None, "h2")).await.unwrap();
        assert_eq!(h2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let root = authority.root.pem();
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(root))
            .domain_name("localhost");
        let channel = tonic::transport::Endpoint::from_shared(format!("https://{addr}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client =
            eventkit::proto::v1::ingest_service_client::IngestServiceClient::new(channel);
        let request = eventkit::proto::v1::CollectRequest {
            events: vec![crate::doors::grpc::event("m")],
            ..Default::default()
        };
        client.collect(request).await.unwrap();
    }
    // Whoever does not trust the certificate hears nothing else, and costs nothing.
    let stranger = Authority::new().client(None, "http/1.1");
    assert!(collect(&endpoints.http, &stranger).await.is_err());

    let mut clear = TcpStream::connect(&endpoints.http).await.unwrap();
    clear
        .write_all(b"POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        .await
        .unwrap();
    let bytes = read_to_end(&mut clear).await;
    let answer = Answer::read(&bytes).unwrap();
    assert_eq!(answer.status(), 400);
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("https://"), "{text}");
    assert_eq!(collect(&endpoints.http, &http1).await.unwrap(), 202);
    gateway.kill().await.unwrap();
}

#[tokio::test]
async fn tls_at_a_port_in_clear_ends_cleanly_and_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints) = Gateway::start(dir.path(), &[DEBUG]).await.unwrap();
    let client = Authority::new().client(None, "h2");
    for addr in [&endpoints.http, &endpoints.grpc] {
        let error = connect(addr, &client).await.unwrap_err().to_string();
        assert!(error.contains("HandshakeFailure"), "{error}");
    }
    let said = || {
        let heard = gateway.heard();
        let lines = heard.iter();
        lines
            .filter(|line| line.contains("tls_on_clear_text_port"))
            .count()
    };
    // The lines come by a pipe.
    let since = Instant::now();
    while said() < 2 {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", said());
        sleep(Duration::from_millis(20)).await;
    }
    let http = crate::support::clients::Http::new(&endpoints);
    assert_eq!(http.post("/collect", "{}").await.unwrap().0, 202);
    gateway.kill().await.unwrap();
}

#[tokio::test]
async fn a_changed_certificate_is_in_force_and_a_bad_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old.sign());
    let (gateway, endpoints) = files.start(&[]).await;
    let (trusts_old, trusts_new) = (old.client(None, "http/1.1"), new.client(None, "http/1.1"));
    assert_eq!(collect(&endpoints.http, &trusts_old).await.unwrap(), 202);
    let said = async |word: &str| {
        let since = Instant::now();
        while !gateway.heard().iter().any(|line| line.contains(word)) {
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "{word} is not said"
            );
            sleep(Duration::from_millis(50)).await;
        }
    };
    let (certificate, key) = new.sign();
    // Half of a change is no change.
    files.write("certificate", &certificate);
    said("tls_certificate_not_reloaded").await;
    assert_eq!(collect(&endpoints.http, &trusts_old).await.unwrap(), 202);
    files.write("key", &key);
    said("tls_certificate_reloaded").await;
    assert_eq!(collect(&endpoints.http, &trusts_new).await.unwrap(), 202);
    assert!(collect(&endpoints.http, &trusts_old).await.is_err());
    gateway.kill().await.unwrap();
}

#[tokio::test]
async fn clients_are_asked_for_certificates_where_that_is_set() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::new(&authority.sign());
    files.write("roots", &authority.root.pem());
    let roots = files.path("roots");
    let ours = authority.client(Some(&authority.sign()), "http/1.1");
    let theirs = authority.client(Some(&other.sign()), "http/1.1");
    let none = authority.client(None, "http/1.1");
    for (auth, of_none) in [("required", None), ("optional", Some(202))] {
        let more = [
            ("EVENTKIT_TLS_CLIENT_CA_FILE", &*roots),
            ("EVENTKIT_TLS_CLIENT_AUTH", Path::new(auth)),
        ];
        let (gateway, endpoints) = files.start(&more).await;
        assert_eq!(
            collect(&endpoints.http, &ours).await.ok(),
            Some(202),
            "{auth}"
        );
        assert_eq!(collect(&endpoints.http, &theirs).await.ok(), None, "{auth}");
        assert_eq!(
            collect(&endpoints.http, &none).await.ok(),
            of_none,
            "{auth}"
        );
        gateway.kill().await.unwrap();
    }
}
