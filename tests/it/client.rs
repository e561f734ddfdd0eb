//! The client over real sockets, against a gateway over a log in memory, with and without something in between that
//! loses answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventkit::client::{Client, Delivery, Event, Options, Outcome, RetryPolicy, Rpc};
use eventkit::clock::SystemClock;
use eventkit::config::IngressConfig;
use eventkit::ingress::{Door, Ingress, Server, Stop};
use eventkit::lifecycle::{Health, Tasks};
use eventkit::telemetry::Metrics;
use eventkit::wal::testing::memory_wal;
use eventkit::wal::{Wal, record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod batcher;
mod guarded;
mod late;
mod traces;

const RPCS: [Rpc; 4] = [Rpc::Http, Rpc::Unary, Rpc::Stream, Rpc::Bidi];

struct Gateway {
    addr: SocketAddr,
    wal: Wal,
    metrics: Metrics,
    tasks: Tasks,
}

async fn gateway() -> Gateway {
    gateway_over(memory_wal(4)).await
}

/// The limits of the doors' own tests: 100 events and 64 KiB per request.
async fn gateway_over(wal: Wal) -> Gateway {
    gateway_within(crate::doors::config(), wal).await
}

async fn gateway_within(config: IngressConfig, wal: Wal) -> Gateway {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gateway = Gateway {
        addr: listener.local_addr().unwrap(),
        wal,
        metrics: Metrics::new(),
        tasks: Tasks::default(),
    };
    let ingress = Ingress::new(
        gateway.wal.clone(),
        Arc::new(SystemClock),
        gateway.metrics.clone(),
        config,
        Health::default(),
    );
    let stop = Stop {
        drain: CancellationToken::new(),
        grace: Duration::from_secs(2),
    };
    let server = Server::new(ingress, gateway.tasks.clone(), stop);
    drop(gateway.tasks.spawn("server", async move {
        server.serve(listener, Door::Public).await;
    }));
    gateway
}

/// The message ids in the log, in order.
fn stored(wal: &Wal) -> Vec<String> {
    let groups = wal.read(0, usize::MAX).unwrap();
    let records = groups.iter().flat_map(|group| &group.records);
    records
        .map(|bytes| record::decode(bytes).unwrap().message_id.to_owned())
        .collect()
}

/// What happens to a connection on its way.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Nothing.
    Pass,
    /// It breaks instead of bringing the first answer after so many events were stored.
    LoseAnswer { stored: usize },
    /// The first request is refused with a `Retry-After` of a second.
    Refuse,
    /// It breaks at once.
    Break,
}

/// A port that leads to the gateway; each connection takes the next act, and passes when none is left.
async fn in_between(gateway: &Gateway, acts: &[Act]) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acts = Arc::new(Mutex::new(VecDeque::from(acts.to_vec())));
    let (upstream, wal, tasks) = (gateway.addr, gateway.wal.clone(), gateway.tasks.clone());
    drop(gateway.tasks.spawn("in between", async move {
        while let Ok((client, _)) = listener.accept().await {
            let act = acts.lock().unwrap().pop_front().unwrap_or(Act::Pass);
            let wal = wal.clone();
            drop(tasks.spawn("connection", async move {
                match act {
                    Act::Pass => relay(client, upstream, wal, usize::MAX).await,
                    Act::LoseAnswer { stored } => relay(client, upstream, wal, stored).await,
                    Act::Refuse => refuse(client).await,
                    Act::Break => drop(client),
                }
            }));
        }
    }));
    addr
}

/// Bytes both ways until an end. What comes back once so much was stored may be the answer, and is lost with the connection.
async fn relay(mut client: TcpStream, upstream: SocketAddr, wal: Wal, lose_at: usize) {
    let mut gateway = TcpStream::connect(upstream).await.unwrap();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let there = tokio::io::copy(&mut from_client, &mut to_gateway);
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from_gateway.read(&mut buffer).await {
            if stored(&wal).len() >= lose_at {
                return;
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        // Neither is polled again.
        _ = there => {}
        () = back => {}
    }
}

async fn refuse(mut client: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let read = client.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"POST /collect"));
    let body = r#"{"success":false,"code":"log_full","message":"the log is full"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await.unwrap();
}

fn options(addr: SocketAddr, rpc: Rpc) -> Options {
    Options {
        rpc,
        message_events: 40,
        ..Options::new(format!("http://{addr}").parse().unwrap())
    }
}

fn events(prefix: &str, count: usize) -> Vec<Event> {
    (0..count)
        .map(|n| {
            Event::builder("track")
                .message_id(format!("{prefix}-{n}"))
                .user_id("u1")
                .event("Signed up")
                .field("filler", "x".repeat(600).into())
                .build()
                .unwrap()
        })
        .collect()
}

fn ids(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.message_id().to_owned())
        .collect()
}

async fn send(client: &Client, events: &[Event]) -> Delivery {
    tokio::time::timeout(Duration::from_secs(30), client.send(events))
        .await
        .expect("it takes far less than 30 s")
}

#[tokio::test]
async fn every_transport_stores_a_batch_of_any_size_once_and_in_order() {
    for rpc in RPCS {
        for gzip in [false, true] {
            let gateway = gateway().await;
            let client = Client::new(Options {
                gzip,
                stream: Some("imports".into()),
                ..options(gateway.addr, rpc)
            })
            .unwrap();
            // Both more events and more bytes than one request takes.
            let events = events("m", 250);
            let delivery = send(&client, &events).await;
            assert_eq!(delivery.outcomes, vec![Outcome::Accepted; 250], "{rpc:?}");
            assert!(delivery.error.is_none() && delivery.retries == 0, "{rpc:?}");
            assert_eq!(stored(&gateway.wal), ids(&events), "{rpc:?}");
            let again = send(&client, &events).await;
            assert_eq!(again.outcomes, vec![Outcome::Duplicate; 250], "{rpc:?}");
            assert_eq!(stored(&gateway.wal).len(), 250, "{rpc:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_of_any_bytes_is_cut_until_the_gateway_has_judged_each_event() {
    for rpc in [Rpc::Unary, Rpc::Stream] {
        let gateway = gateway().await;
        let client = Client::new(Options {
            message_events: usize::MAX,
            ..options(gateway.addr, rpc)
        })
        .unwrap();
        // Together more than any message of gRPC usually holds, and each more than this gateway takes.
        let filler = "x".repeat(33 << 20);
        let large = |n| {
            let event = Event::builder("track").message_id(format!("m-{n}"));
            event.field("filler", filler.as_str().into()).build()
        };
        let events: Vec<Event> = (0..2).map(|n| large(n).unwrap()).collect();
        let delivery = send(&client, &events).await;
        for outcome in &delivery.outcomes {
            assert!(
                matches!(outcome, Outcome::Rejected { code, .. } if code == "body_too_large"),
                "{rpc:?}: {outcome:?}"
            );
        }
        assert_eq!(stored(&gateway.wal), [""; 0], "{rpc:?}");
    }
}

#[tokio::test]
async fn a_rejected_event_is_named_and_costs_its_neighbours_nothing() {
    for rpc in RPCS {
        let gateway = gateway().await;
        let client = Client::new(options(gateway.addr, rpc)).unwrap();
        let mut batch = events("m", 90);
        let nested = serde_json::from_str(&format!("{}{}", "[".repeat(40), "]".repeat(40)));
        batch[50] = Event::builder("track")
            .field("properties", nested.unwrap())
            .build()
            .unwrap();
        let delivery = send(&client, &batch).await;
        for (at, outcome) in delivery.outcomes.iter().enumerate() {
            match outcome {
                Outcome::Rejected { code, reason } if at == 50 => {
                    assert_eq!(code, "too_deep", "{rpc:?}");
                    assert!(reason.contains("deep"), "{rpc:?}: {reason}");
                }
                outcome => assert_eq!(*outcome, Outcome::Accepted, "{rpc:?}: {at}"),
            }
        }
        assert_eq!(stored(&gateway.wal).len(), 89);
    }
}

#[tokio::test]
async fn answers_that_got_lost_end_as_duplicates_under_the_same_ids() {
    for rpc in RPCS {
        let gateway = gateway().await;
        let acts = [Act::Break, Act::LoseAnswer { stored: 1 }];
        let addr = in_between(&gateway, &acts).await;
        let client = Client::new(options(addr, rpc)).unwrap();
        let events = events("m", 20);
        let delivery = send(&client, &events).await;
        assert_eq!(
            delivery.outcomes,
            vec![Outcome::Duplicate; 20],
            "{rpc:?}: {:?}",
            delivery.error
        );
        assert!(delivery.retries >= 1, "{rpc:?}: {delivery:?}");
        assert_eq!(stored(&gateway.wal), ids(&events), "{rpc:?}");
    }
}

#[tokio::test]
async fn sends_at_the_same_time_survive_a_broken_stream() {
    let gateway = gateway().await;
    let addr = in_between(&gateway, &[Act::LoseAnswer { stored: 30 }]).await;
    let client = Client::new(options(addr, Rpc::Bidi)).unwrap();
    let batches: Vec<_> = (0..20).map(|n| events(&format!("b{n}"), 10)).collect();
    let deliveries =
        futures::future::join_all(batches.iter().map(|batch| send(&client, batch))).await;
    for delivery in &deliveries {
        assert!(
            delivery
                .outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Accepted | Outcome::Duplicate)),
            "{delivery:?}"
        );
    }
    assert!(deliveries.iter().any(|delivery| delivery.retries > 0));
    let (mut found, mut expected) = (stored(&gateway.wal), ids(&batches.concat()));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_retry_comes_no_sooner_than_asked_for() {
    let gateway = gateway().await;
    let addr = in_between(&gateway, &[Act::Refuse]).await;
    let client = Client::new(options(addr, Rpc::Http)).unwrap();
    let started = Instant::now();
    let delivery = send(&client, &events("m", 3)).await;
    assert_eq!(delivery.outcomes, vec![Outcome::Accepted; 3]);
    assert_eq!((delivery.requests, delivery.retries), (2, 1));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn who_is_too_fast_comes_again_once_and_in_time_over_every_transport() {
    for rpc in RPCS {
        let mut config = crate::doors::config();
        config.guard.address_rates.events = Some(5);
        config.guard.burst = Duration::from_secs(1);
        let gateway = gateway_within(config, memory_wal(4)).await;
        let client = Client::new(options(gateway.addr, rpc)).unwrap();
        // Twenty more than there are: it takes four seconds until the next may come, which a busy machine does not let pass.
        let delivery = send(&client, &events("first", 25)).await;
        assert_eq!(delivery.outcomes, vec![Outcome::Accepted; 25], "{rpc:?}");
        let delivery = send(&client, &events("second", 3)).await;
        assert_eq!(delivery.outcomes, vec![Outcome::Accepted; 3], "{rpc:?}");
        let requests = (delivery.requests, delivery.retries);
        assert_eq!(requests, (2, 1), "{rpc:?}: {delivery:?}");
    }
}

#[tokio::test]
async fn a_wait_beyond_the_limit_is_not_begun() {
    for rpc in RPCS {
        let gateway = gateway().await;
        // It refuses everything as draining from now on, and asks for a second or more.
        gateway.wal.close().await;
        let client = Client::new(Options {
            retry: RetryPolicy {
                elapsed_max: Duration::from_millis(900),
                ..RetryPolicy::default()
            },
            ..options(gateway.addr, rpc)
        })
        .unwrap();
        let delivery = send(&client, &events("m", 2)).await;
        assert_eq!(delivery.requests, 1, "{rpc:?}: {delivery:?}");
        for outcome in &delivery.outcomes {
            let Outcome::Unacknowledged { reason } = outcome else {
                panic!("{rpc:?}: {outcome:?}");
            };
            assert!(reason.contains("draining"), "{rpc:?}: {reason}");
        }
        let asked = delivery.error.unwrap().retry_after();
        assert!(asked >= Some(Duration::from_secs(1)), "{rpc:?}: {asked:?}");
    }
}

#[tokio::test]
async fn attempts_are_limited_and_nothing_is_lost_track_of() {
    let (_held, addr) = crate::support::ports::held();
    for rpc in RPCS {
        let client = Client::new(Options {
            retry: RetryPolicy {
                attempts_max: 3,
                ..RetryPolicy::default()
            },
            ..options(addr, rpc)
        })
        .unwrap();
        let delivery = send(&client, &events("m", 5)).await;
        assert_eq!((delivery.requests, delivery.retries), (3, 2), "{rpc:?}");
        assert_eq!(delivery.outcomes.len(), 5);
        for outcome in delivery.outcomes {
            let Outcome::Unacknowledged { reason } = outcome else {
                panic!("{rpc:?}: {outcome:?}");
            };
            assert!(reason.contains("connection failed"), "{rpc:?}: {reason}");
        }
    }
}

#[tokio::test]
async fn contradictions_are_refused_before_anything_is_sent() {
    let cases = [
        ("grpc://localhost:1", Rpc::Http, None, "no HTTP"),
        ("http://localhost:1/x", Rpc::Unary, None, "without a path"),
        ("http://localhost:1", Rpc::Http, Some(".x"), "stream name"),
    ];
    for (target, rpc, stream, part) in cases {
        let options = Options {
            rpc,
            stream: stream.map(str::to_owned),
            ..Options::new(target.parse().unwrap())
        };
        let error = Client::new(options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
