use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::{BatchOptions, Client, EnqueueError, Event, Options, WhenFull};
use super::*;
use crate::clock::SystemClock;
use crate::config::{Inputs, Profile, validate};
use crate::ingress::{Door, Ingress, Server, Stop};
use crate::lifecycle::{Health, Tasks};
use crate::telemetry::Metrics;
use crate::wal::testing::memory_wal;

/// Far more than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);

/// Counts, and what a meter provider of their own makes of them.
struct Measured {
    counts: Arc<Counts>,
    registry: prometheus::Registry,
    _provider: SdkMeterProvider,
}

impl Measured {
    fn new() -> Self {
        let registry = prometheus::Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info();
        let provider = SdkMeterProvider::builder().with_reader(exporter.build().unwrap());
        let provider = provider.build();
        Self {
            counts: Arc::new(Counts::with(&provider.meter("eventkit.client"))),
            registry,
            _provider: provider,
        }
    }

    /// Every series and its value.
    fn lines(&self) -> Vec<String> {
        let mut text = Vec::new();
        let encoder = prometheus::TextEncoder::new();
        prometheus::Encoder::encode(&encoder, &self.registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }
}

#[test]
fn the_instruments_say_what_the_numbers_say() {
    let measured = Measured::new();
    let counts = &measured.counts;
    counts.queued(5);
    counts.refused();
    let reason = String::from("why");
    let rejected = Outcome::Rejected {
        code: "too_deep".into(),
        reason: reason.clone(),
    };
    counts.delivered(&Delivery {
        outcomes: vec![
            Outcome::Accepted,
            Outcome::Accepted,
            Outcome::Duplicate,
            rejected,
        ],
        requests: 3,
        retries: 2,
        error: None,
    });
    counts.queued(-4);
    counts.ended(&[Outcome::Unacknowledged { reason }]);

    let expected = Stats {
        accepted: 2,
        duplicate: 1,
        rejected: 1,
        unacknowledged: 1,
        requests: 3,
        retries: 2,
        refused: 1,
    };
    assert_eq!(counts.now(), expected);
    let expected = [
        r#"eventkit_client_events_total{outcome="accepted"} 2"#,
        r#"eventkit_client_events_total{outcome="duplicate"} 1"#,
        r#"eventkit_client_events_total{outcome="rejected"} 1"#,
        r#"eventkit_client_events_total{outcome="unacknowledged"} 1"#,
        "eventkit_client_queue_events 1",
        "eventkit_client_queue_refused_total 1",
        "eventkit_client_requests_total 3",
        "eventkit_client_retries_total 2",
    ];
    assert_eq!(measured.lines(), expected);
}

/// A gateway as `dev` has it, over a log in memory. It ends with the runtime.
async fn gateway() -> SocketAddr {
    let inputs = Inputs {
        profile: Profile::Dev,
        env: [].into(),
        flags: [].into(),
        host_name: "a-host".into(),
    };
    let config = validate(&inputs).unwrap().config.ingress;
    let (log, clock, tasks) = (memory_wal(4), Arc::new(SystemClock), Tasks::default());
    let ingress = Ingress::new(log, clock, Metrics::new(), config, Health::default());
    let stop = Stop {
        drain: CancellationToken::new(),
        grace: Duration::from_secs(1),
    };
    let server = Server::new(ingress, tasks.clone(), stop);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(tasks.spawn("server", async move {
        server.serve(listener, Door::Public).await;
    }));
    addr
}

/// A way to the gateway that refuses the first request and ends with what is returned beside its address.
async fn refusing_once(gateway: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        assert!(first.read(&mut [0; 16 * 1024]).await.unwrap() > 0);
        let body = r#"{"success":false,"code":"overloaded","message":"too much"}"#;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 503 x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        first.write_all(answer.as_bytes()).await.unwrap();
        drop(first);
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut gateway = TcpStream::connect(gateway).await.unwrap();
                // Either side may end it as it likes.
                drop(copy_bidirectional(&mut client, &mut gateway).await);
            });
        }
    });
    (addr, serving)
}

fn event(id: &str) -> Event {
    let event = Event::builder("track").message_id(id).user_id("u");
    event.event("e").build().unwrap()
}

#[tokio::test]
async fn a_clients_whole_life_is_in_its_instruments() {
    let (addr, mut way) = refusing_once(gateway().await).await;
    let mut options = Options::new(format!("http://{addr}").parse().unwrap());
    options.retry.attempts_max = 2;
    let measured = Measured::new();
    let client = Client {
        counts: Arc::clone(&measured.counts),
        ..Client::new(options).unwrap()
    };

    // Two requests: one is refused.
    client.send(&[event("a"), event("b")]).await;
    let nested = format!(r#"{{"deep":{}{}}}"#, "[".repeat(80), "]".repeat(80));
    let nested = Event::from_json(nested).unwrap();
    client.send(&[event("a"), nested]).await;

    let queue = client.clone().batching(BatchOptions {
        queue_events: 2,
        age_max: Duration::from_secs(3_600),
        when_full: WhenFull::Refuse,
        ..BatchOptions::default()
    });
    for id in ["c", "d"] {
        queue.enqueue(event(id)).await.unwrap();
    }
    let full = queue.enqueue(event("e")).await;
    assert_eq!(full, Err(EnqueueError::Full(event("e"))));
    let waiting = "eventkit_client_queue_events 2".to_owned();
    assert!(measured.lines().contains(&waiting));
    queue.flush(WITHIN).await.unwrap();

    // Two more: nobody is there any longer.
    way.shutdown().await;
    client.send(&[event("f")]).await;

    let expected = [
        r#"eventkit_client_events_total{outcome="accepted"} 4"#,
        r#"eventkit_client_events_total{outcome="duplicate"} 1"#,
        r#"eventkit_client_events_total{outcome="rejected"} 1"#,
        r#"eventkit_client_events_total{outcome="unacknowledged"} 1"#,
        "eventkit_client_queue_events 0",
        "eventkit_client_queue_refused_total 1",
        "eventkit_client_requests_total 6",
        "eventkit_client_retries_total 2",
    ];
    assert_eq!(measured.lines(), expected);

    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/client.md");
    let page = std::fs::read_to_string(page).unwrap();
    let named = page.split('`').filter(|word| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'.';
        word.starts_with("eventkit.client.") && word.bytes().all(plain)
    });
    let named: BTreeSet<String> = named.map(|name| name.replace('.', "_")).collect();
    let shown = expected.iter().map(|line| {
        let name = line.split(['{', ' ']).next().unwrap();
        name.strip_suffix("_total").unwrap_or(name).to_owned()
    });
    assert_eq!(named, shown.collect());
}
