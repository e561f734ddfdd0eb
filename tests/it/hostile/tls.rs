//! Those who do not get through the handshake: bytes that are none, hellos that were tampered with, certificates that are garbage,
//! names that are nobody's; and garbage inside of TLS. Good clients come by a way of their own that speaks TLS for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto};

use super::*;
use crate::bad_input::Running;
use crate::doors::{read_to_end, within};
use crate::support::gateway::{Endpoints, Gateway};
use crate::tls::{Authority, connect};

/// A gateway behind TLS that wants certificates of its clients, and the way to it.
struct Stage {
    authority: Authority,
    /// A client's certificate and key.
    identity: (String, String),
    /// They speak TLS for those who do not.
    _tasks: JoinSet<()>,
}

/// Lets clients that speak in clear come in; where.
async fn way_in(to: &str, connector: TlsConnector, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (to, here) = (to.to_owned(), listener.local_addr().unwrap().to_string());
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut clear, _)) = listener.accept().await {
            let (to, connector) = (to.clone(), connector.clone());
            open.spawn(async move {
                let mut tls = connect(&to, &connector).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut clear, &mut tls).await);
            });
        }
    });
    here
}

async fn start() -> (Stage, Subject) {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = authority.sign();
    let files = [
        ("EVENTKIT_TLS_CERT_FILE", write("certificate", &certificate)),
        ("EVENTKIT_TLS_KEY_FILE", write("key", &key)),
        (
            "EVENTKIT_TLS_CLIENT_CA_FILE",
            write("roots", &authority.root.pem()),
        ),
    ];
    let files = files.map(|(name, path)| (name, path.display().to_string()));
    let mut settings: Vec<(&str, &str)> = IMPATIENT.to_vec();
    settings.extend(files.iter().map(|(name, path)| (*name, path.as_str())));
    let data = dir.path().join("data");
    let mut gateway = Gateway::spawn(&data, &settings).unwrap();
    let endpoints = gateway.listening(Duration::from_secs(30)).await.unwrap();
    let identity = authority.sign();
    let mut tasks = JoinSet::new();
    let http = authority.client(Some(&identity), "http/1.1");
    let grpc = authority.client(Some(&identity), "h2");
    let entrance = Endpoints {
        http: way_in(&endpoints.http, http, &mut tasks).await,
        grpc: way_in(&endpoints.grpc, grpc, &mut tasks).await,
        admin: endpoints.admin.clone(),
    };
    let subject = Subject::of(Running {
        dir,
        data,
        gateway,
        endpoints,
        entrance,
        key: None,
    })
    .await;
    let stage = Stage {
        authority,
        identity,
        _tasks: tasks,
    };
    (stage, subject)
}

/// A hello as it should be.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends bytes, and waits for the end of the connection. Not one byte of an application is said.
async fn refused(addr: SocketAddr, bytes: &[u8], ends: bool) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    drop(stream.write_all(bytes).await);
    if ends {
        drop(stream.shutdown().await);
    }
    let said = read_to_end(&mut stream).await;
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("HTTP/1.1 2"), "{said}");
}

/// What no TLS library says, of clients that then wait.
async fn no_handshakes(subject: &Subject) {
    let hello = hello("localhost");
    let record = |kind: u8, length: u16, rest: &[u8]| {
        [&[kind, 3, 1], &length.to_be_bytes()[..], rest].concat()
    };
    let cases = [
        vec![0x16],
        record(0x16, 0xffff, &[0; 4_000]),
        record(0x16, 0x4000, &[0xff; 100]),
        record(0x16, 4, &[1, 0xff, 0xff, 0xff]),
        record(0x16, 0, b"").repeat(1_000),
        record(0x14, 1, &[1]).repeat(1_000),
        record(0x15, 2, &[1, 0]).repeat(1_000),
        record(0x17, 100, &[0; 100]).repeat(100),
        record(0x18, 3, &[1, 0xff, 0xff]),
        b"\x80\x2e\x01\x00\x02".to_vec(),
        hello[..hello.len() / 2].to_vec(),
        hello.clone(),
        hello.repeat(10),
        [&hello[..], &[0xff; 10_000]].concat(),
        [&hello[..], b"GET / HTTP/1.1\r\n\r\n"].concat(),
        vec![0x16; 100_000],
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    let addrs = [subject.http_addr(), subject.grpc_addr()];
    let sent = cases
        .iter()
        .flat_map(|case| addrs.map(|addr| refused(addr, case, false)));
    join_all(sent).await;
}

/// Hellos with one byte that is another, and half hellos of 300 clients that wait.
async fn tampered_hellos(subject: &Subject) {
    let hello = &hello("localhost");
    let addr = subject.http_addr();
    let flipped = (0..hello.len()).step_by(3).map(|at| async move {
        let mut hello = hello.clone();
        hello[at] ^= 0xff;
        refused(addr, &hello, true).await;
    });
    let waiting = (0..300).map(|n| refused(addr, &hello[..1 + n % (hello.len() - 1)], false));
    futures::join!(join_all(flipped), join_all(waiting));
}

/// What a client shows in the place of a certificate.
async fn certificates(subject: &Subject, stage: &Stage) {
    let (other, ours) = (Authority::new(), &stage.authority);
    let strangers = other.sign();
    let key = PrivateKeyDer::from_pem_slice(stage.identity.1.as_bytes()).unwrap();
    let key = crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let chains = [
        vec![],
        vec![CertificateDer::from(b"garbage".to_vec())],
        vec![CertificateDer::from(vec![0x30; 60_000])],
        vec![CertificateDer::from(Vec::new())],
        vec![der(&strangers.0)],
        // Somebody else's certificate, and a key that does not go with it.
        vec![der(&ours.sign().0)],
        vec![der(&ours.root.pem())],
        [vec![der(&strangers.0)], vec![der(&other.root.pem()); 200]].concat(),
    ];
    for (n, chain) in chains.into_iter().enumerate() {
        let shown = CertifiedKey::new(chain, Arc::clone(&key));
        let mut config = config_of(ours);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(shown));
        let connector = TlsConnector::from(Arc::new(config));
        for addr in [&subject.endpoints.http, &subject.endpoints.grpc] {
            assert!(!gets_in(addr, &connector).await, "certificate {n}");
        }
    }
    assert!(!gets_in(&subject.endpoints.http, &ours.client(None, "http/1.1")).await);
    assert!(
        gets_in(
            &subject.endpoints.http,
            &ours.client(Some(&stage.identity), "http/1.1")
        )
        .await
    );
}

fn config_of(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.der().clone()).unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Whether anything is answered.
async fn gets_in(addr: &str, connector: &TlsConnector) -> bool {
    let Ok(mut stream) = connect(addr, connector).await else {
        return false;
    };
    let asks = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    drop(stream.write_all(asks).await);
    let mut said = Vec::new();
    drop(within(stream.read_to_end(&mut said)).await);
    !said.is_empty()
}

/// Another name than the server's, no name, a protocol that nobody speaks, and garbage inside.
async fn names(subject: &Subject, stage: &Stage) {
    let addr: SocketAddr = subject.endpoints.http.parse().unwrap();
    let ours = |alpn: &str| stage.authority.client(Some(&stage.identity), alpn);
    for name in ["elsewhere.example", "127.0.0.1", "xn--80ak6aa92e.example"] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        // The client refuses what it is shown, and the connection is over.
        let shown = within(ours("http/1.1").connect(name, stream)).await;
        assert!(shown.is_err());
    }
    // No name of more than 255 bytes is one; the hello is made longer by hand, and wrong with it.
    let mut long = hello("localhost");
    let at = long
        .windows(9)
        .position(|bytes| bytes == b"localhost")
        .unwrap();
    long.splice(at..at + 9, vec![b'a'; 60_000]);
    refused(addr, &long, true).await;
    assert!(!gets_in(&subject.endpoints.http, &ours("spdy/3")).await);

    let inside: [(&str, &[u8]); 5] = [
        ("http/1.1", &[0xff; 50_000][..]),
        (
            "http/1.1",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ),
        ("h2", b"GET /health HTTP/9.9\r\n\r\n"),
        ("h2", &[0x16; 50_000]),
        ("http/1.1", b""),
    ];
    for (alpn, garbage) in inside {
        let mut stream = connect(&subject.endpoints.http, &ours(alpn)).await.unwrap();
        drop(stream.write_all(garbage).await);
        let mut said = Vec::new();
        drop(within(stream.read_to_end(&mut said)).await);
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{alpn}");
    }
}

#[tokio::test]
async fn who_does_not_get_through_the_handshake_is_in_nobodys_way() {
    let (stage, subject) = start().await;
    let attacks = [
        Attack::new("no handshakes", |subject| Box::pin(no_handshakes(subject))),
        Attack::new("hellos that were tampered with", |subject| {
            Box::pin(tampered_hellos(subject))
        }),
    ];
    withstand(&subject, &attacks).await;
    certificates(&subject, &stage).await;
    subject.good("certificates that are none").await;
    names(&subject, &stage).await;
    subject.good("names that are nobody's").await;
    subject.finish().await;
}
