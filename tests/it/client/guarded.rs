//! The client before a gateway that asks for keys and speaks TLS, and the trace that its requests belong to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use eventkit::client::{Client, Options, Outcome, Rpc, TlsOptions, WriteKey};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt as _, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

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

/// A server that remembers the heads of what comes and takes none of it.
async fn deaf(heard: &Arc<Mutex<Vec<HeaderMap>>>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (addr, heard) = (listener.local_addr().unwrap(), Arc::clone(heard));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let heard = Arc::clone(&heard);
            connections.spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    heard.lock().unwrap().push(request.headers().clone());
                    let mut answer = Response::new(Empty::<Bytes>::new());
                    *answer.status_mut() = StatusCode::UNAUTHORIZED;
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                // How a connection ends is the client's affair.
                drop(
                    Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    (addr, serving)
}

#[tokio::test]
async fn a_request_belongs_to_the_trace_of_whoever_sends_and_has_the_key() {
    let span = SpanContext::new(
        TraceId::from_bytes([0xab; 16]),
        SpanId::from_bytes([0xcd; 8]),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let traceparent = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
    let heard = Arc::default();
    let (addr, _serving) = deaf(&heard).await;
    for rpc in RPCS {
        let client = Client::new(Options {
            write_key: Some(WriteKey::new("ek_key").unwrap()),
            ..options(addr, rpc)
        });
        let (client, batch) = (client.unwrap(), events("m", 1));
        let context = Context::new().with_remote_span_context(span.clone());
        let delivery = client.send(&batch).with_context(context).await;
        assert!(
            matches!(delivery.outcomes[..], [Outcome::Unacknowledged { .. }]),
            "{rpc:?}: {delivery:?}"
        );
        let heads = std::mem::take(&mut *heard.lock().unwrap());
        assert!(!heads.is_empty(), "{rpc:?}");
        for head in heads {
            assert_eq!(head["x-write-key"], "ek_key", "{rpc:?}");
            // All batches share a stream there, whoever sends them.
            let expected = (rpc != Rpc::Bidi).then_some(traceparent.as_str());
            let found = head.get("traceparent").map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{rpc:?}");
        }
    }
}
