//! The client before a gateway that asks for keys and speaks TLS, and the trace that its requests belong to.

use std::time::Duration;

use eventkit::client::{Client, Options, Outcome, TlsOptions, WriteKey};
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::{RPCS, events, options, send};
use crate::keys::keyed_gateway;
use crate::tls::{Authority, Files};

#[tokio::test]
async fn a_key_lets_every_transport_in_and_a_wrong_one_is_not_tried_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, endpoints, key) = keyed_gateway(dir.path(), &[]).await;
    let addr = endpoints.http.parse().unwrap();
    for rpc in RPCS {
        for (key, refused) in [
            (Some(key.as_str()), None),
            (None, Some("write_key_missing")),
            (Some("ek_somebody_elses"), Some("write_key_unknown")),
        ] {
            let client = Client::new(Options {
                write_key: key.map(|key| WriteKey::new(key).unwrap()),
                ..options(addr, rpc)
            });
            let delivery = send(&client.unwrap(), &events(&format!("{rpc:?}"), 3)).await;
            assert_eq!(delivery.requests, 1, "{rpc:?} {key:?}");
            for outcome in &delivery.outcomes {
                match (outcome, refused) {
                    (Outcome::Accepted, None) => {}
                    (Outcome::Unacknowledged { reason }, Some(word)) => {
                        assert!(reason.contains(word), "{rpc:?}: {reason}");
                    }
                    (other, _) => panic!("{rpc:?} {key:?}: {other:?}"),
                }
            }
        }
    }
    gateway.kill().await.unwrap();
}

#[tokio::test]
async fn every_transport_speaks_tls_to_whom_it_trusts() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let files = Files::new(&authority.sign());
    files.write("roots", &authority.pem());
    let roots = files.path("roots");
    let asked = [("EVENTKIT_TLS_CLIENT_CA_FILE", &*roots)];
    let (gateway, endpoints) = files.start(&asked).await;
    let port = endpoints.http.rsplit(':').next().unwrap();
    for rpc in RPCS {
        let own = authority.sign();
        let of = |authority: &Authority, own: Option<&(String, String)>| TlsOptions {
            roots: Some(authority.pem().into_bytes()),
            identity: own
                .map(|(certificate, key)| (certificate.clone().into(), key.clone().into())),
        };
        for (tls, is_taken) in [
            (of(&authority, Some(&own)), true),
            (of(&authority, None), false),
            (of(&stranger, Some(&own)), false),
        ] {
            let target = format!("https://localhost:{port}").parse().unwrap();
            let mut options = Options {
                rpc,
                tls,
                ..Options::new(target)
            };
            options.retry.attempts_max = 2;
            let client = Client::new(options).unwrap();
            let delivery = send(&client, &events(&format!("{rpc:?}"), 3)).await;
            for outcome in &delivery.outcomes {
                match outcome {
                    Outcome::Accepted => assert!(is_taken, "{rpc:?}"),
                    Outcome::Unacknowledged { reason } => {
                        assert!(!is_taken && reason.contains("failed"), "{rpc:?}: {reason}");
                    }
                    other => panic!("{rpc:?}: {other:?}"),
                }
            }
        }
    }
    gateway.kill().await.unwrap();
}

#[tokio::test]
async fn a_request_belongs_to_the_trace_of_whoever_sends() {
    let span = SpanContext::new(
        TraceId::from_bytes([0xab; 16]),
        SpanId::from_bytes([0xcd; 8]),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = Client::new(Options {
        write_key: Some(WriteKey::new("ek_key").unwrap()),
        answer_timeout: Duration::from_secs(30),
        ..Options::new(
            format!("http://{}", listener.local_addr().unwrap())
                .parse()
                .unwrap(),
        )
    });
    let (client, batch) = (client.unwrap(), events("m", 1));
    let sends = client
        .send(&batch)
        .with_context(Context::new().with_remote_span_context(span));
    let hears = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = String::new();
        while !head.contains("\r\n\r\n") {
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap();
            head.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        head
    };
    let head = tokio::select! {
        delivery = sends => panic!("nobody answered: {delivery:?}"),
        head = hears => head,
    };
    let traceparent = format!(
        "traceparent: 00-{}-{}-01\r\n",
        "ab".repeat(16),
        "cd".repeat(8)
    );
    assert!(head.contains(&traceparent), "{head}");
    assert!(head.contains("x-write-key: ek_key\r\n"), "{head}");
}
