//! Both doors with real sockets, over a log in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use eventkit::clock::SystemClock;
use eventkit::config::{GuardConfig, IngressConfig};
use eventkit::ingress::{Door, Ingress, Keys, Server, Stop};
use eventkit::lifecycle::{Health, Tasks};
use eventkit::telemetry::Metrics;
use eventkit::wal::Wal;
use eventkit::wal::record;
use eventkit::wal::testing::memory_wal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

mod connections;
mod conventions;
mod drop_in;
pub(crate) mod grpc;
mod gzip;
mod http;
mod keys;
mod largest;
mod logs;
mod segment;
mod services;
mod shares;
pub(crate) mod streams;

/// A gateway's doors on ports of their own.
struct Gateway {
    http: SocketAddr,
    grpc: SocketAddr,
    wal: Wal,
    health: Health,
    metrics: Metrics,
    tasks: Tasks,
    drain: CancellationToken,
}

/// Limits that tests can reach.
pub(crate) fn config() -> IngressConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    IngressConfig {
        http_addr: any,
        grpc_addr: any,
        event_bytes_max: 4_096,
        body_bytes_max: 64 * 1024,
        batch_events_max: 100,
        stream_events_max: 1_000,
        http_prefix: String::new(),
        trusted_proxies: Vec::new(),
        depth_max: 16,
        keys_max: 100,
        connections_max: 64,
        concurrent_streams_max: 100,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
        body_rate_min: 1_024,
        idle_timeout: Duration::from_secs(60),
        in_flight_bytes_max: 1024 * 1024,
        reflection: true,
        guard: GuardConfig::default(),
    }
}

async fn gateway() -> Gateway {
    gateway_with(config()).await
}

async fn gateway_with(config: IngressConfig) -> Gateway {
    gateway_over(memory_wal(16), config).await
}

async fn gateway_over(wal: Wal, config: IngressConfig) -> Gateway {
    guarded_gateway(wal, config, Keys::open()).await
}

async fn guarded_gateway(wal: Wal, config: IngressConfig, keys: Keys) -> Gateway {
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let (public, grpc_only) = (bind().await.unwrap(), bind().await.unwrap());
    let gateway = Gateway {
        http: public.local_addr().unwrap(),
        grpc: grpc_only.local_addr().unwrap(),
        wal,
        health: Health::default(),
        metrics: Metrics::new(),
        tasks: Tasks::default(),
        drain: CancellationToken::new(),
    };
    let ingress = Ingress::new(
        gateway.wal.clone(),
        Arc::new(SystemClock),
        gateway.metrics.clone(),
        config,
        gateway.health.clone(),
    )
    .guarded(keys);
    let stop = Stop {
        drain: gateway.drain.clone(),
        grace: Duration::from_secs(2),
    };
    let server = Server::new(ingress, gateway.tasks.clone(), stop);
    for (listener, door) in [(public, Door::Public), (grpc_only, Door::GrpcOnly)] {
        let server = server.clone();
        drop(gateway.tasks.spawn("server", async move {
            server.serve(listener, door).await;
        }));
    }
    gateway
}

impl Gateway {
    /// Sends bytes to the public port and returns the answer: everything up to the connection's end.
    async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        send_to(self.http, request.as_ref()).await
    }

    /// `POST` with a body and more header lines.
    async fn post(&self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.send([head.as_bytes(), body].concat()).await
    }

    async fn get(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.send(request).await
    }

    /// The message id and stream of every event in the log, in order.
    fn stored(&self) -> Vec<(String, String)> {
        let groups = self.wal.read(0, usize::MAX).unwrap();
        let records = groups.iter().flat_map(|group| &group.records);
        records
            .map(|bytes| {
                let event = record::decode(bytes).unwrap();
                (event.message_id.to_owned(), event.stream.to_owned())
            })
            .collect()
    }
}

pub(crate) async fn send_to(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The answer may come, and the connection go, before everything was sent.
    drop(stream.write_all(request).await);
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut TcpStream) -> Answer {
    let bytes = read_to_end(stream).await;
    Answer::read(&bytes)
        .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)))
}

/// Everything that the server says until it closes the connection.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(within(stream.read_to_end(&mut bytes)).await);
    bytes
}

/// What waits for ever fails instead of hanging.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it takes far less than 20 s")
}

/// An HTTP/1.1 answer.
#[derive(Debug)]
pub(crate) struct Answer {
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// `None`: these bytes are no answer.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        Some(Self {
            head: String::from_utf8(bytes[..split].to_vec()).unwrap(),
            body: bytes[split + 4..].to_vec(),
        })
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Status and code of an error body, after a look at what every error body holds.
    pub(crate) fn error(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!(json["success"], false, "{json}");
        for field in ["message", "error", "request_id"] {
            assert!(json[field].as_str().is_some_and(|text| !text.is_empty()));
        }
        assert_eq!(json["request_id"].as_str(), self.header("x-request-id"));
        (self.status(), json["code"].as_str().unwrap().to_owned())
    }
}
