//! Clients that ask and do not take what they asked for: nothing of it, or a little now and then.

use std::sync::Arc;

use eventkit::proto::server::CollectRequest;
use futures::future::join_all;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::frames::*;
use super::*;
use crate::doors::grpc::frame as message;
use crate::doors::within;

/// How many outcomes a request asks for: they are far larger than what asks.
const OUTCOMES: usize = 10_000;
/// How many such answers there is room for (64 MiB), with some left for good clients.
const ANSWERS: usize = 30;

/// 20 kB, of which nothing is stored.
fn numbers() -> Vec<u8> {
    format!("[{}]", vec!["7"; OUTCOMES].join(",")).into_bytes()
}

/// The same for gRPC: events that are none.
fn no_events() -> Vec<u8> {
    let request = CollectRequest {
        events: vec![b"\xff".as_slice().into(); OUTCOMES],
        ..Default::default()
    };
    message(&request.encode_to_vec())
}

/// Asks on so many streams, and never opens the window for the answers: it answers pings, so that it looks alive.
async fn hoard(subject: &Subject, window: u32, streams: usize) {
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let in_json = request(1, "/collect", &[], &numbers());
    let calls = request(1, "/eventkit.v1.IngestService/Collect", &grpc, &no_events());
    join_all([in_json, calls].iter().map(async |asks| {
        let mut peer = Peer::open(
            subject.http_addr(),
            &opening(&[(INITIAL_WINDOW_SIZE, window)]),
        )
        .await;
        // From now on the window is what it says.
        let in_force = |frame: &Frame| frame.kind == SETTINGS && frame.flags & ACK != 0;
        assert!(peer.find(in_force).await.is_some());
        for n in 0..streams {
            let stream = u32::try_from(2 * n + 1).unwrap();
            if !peer.send(&on_stream(asks, stream)).await {
                break;
            }
        }
        while let Some(frame) = peer.next().await {
            if frame.kind == PING && frame.flags & ACK == 0 {
                peer.send(&self::frame(PING, ACK, 0, &frame.payload)).await;
            }
        }
    }))
    .await;
}

/// The same frames on another stream.
fn on_stream(frames: &[u8], stream: u32) -> Vec<u8> {
    let (mut rest, mut moved) = (frames, Vec::with_capacity(frames.len()));
    while let Some((header, more)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let (payload, more) = more.split_at(usize::try_from(length).unwrap());
        moved.extend(frame(header[3], header[4], stream, payload));
        rest = more;
    }
    moved
}

async fn shut_windows(subject: &Subject) {
    hoard(subject, 0, ANSWERS / 2).await;
}

async fn narrow_windows(subject: &Subject) {
    hoard(subject, 1, ANSWERS / 2).await;
}

/// More than there is room for: the rest is told to come again, and so is everyone until the answers are given up.
async fn many_shut_windows(subject: &Subject) {
    join_all((0..3).map(|_| hoard(subject, 0, ANSWERS))).await;
}

/// A client whose system takes next to nothing for it.
async fn deaf(addr: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(addr).await.unwrap()
}

/// Requests one after the other over HTTP/1.1, of which no answer is read.
async fn deaf_clients(subject: &Subject, path: &str, body: &[u8], count: usize) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let requests: Arc<[u8]> = [head.as_bytes(), body].concat().repeat(20).into();
    let asking = (0..count).map(|_| {
        let requests = Arc::clone(&requests);
        async move {
            let mut stream = deaf(subject.http_addr()).await;
            while stream.write_all(&requests).await.is_ok() {}
        }
    });
    join_all(asking).await;
}

async fn large_answers(subject: &Subject) {
    deaf_clients(subject, "/collect", &numbers(), ANSWERS / 2).await;
}

async fn small_answers(subject: &Subject) {
    deaf_clients(subject, "/collect", b"[]", 8).await;
}

/// It reads, and far less than what a line of any kind carries.
async fn dripping_reader(subject: &Subject) {
    let body = numbers();
    let head = format!(
        "POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body].concat();
    let reading = (0..4).map(|_| async {
        let mut stream = deaf(subject.http_addr()).await;
        // A few of them, so that the answers do not fit into what the system holds.
        for _ in 0..4 {
            stream.write_all(&request).await.unwrap();
        }
        let (mut few, mut heard) = ([0; 64], 0);
        while let Ok(read @ 1..) = within(stream.read(&mut few)).await {
            heard += read;
            sleep(BREATH).await;
        }
        heard
    });
    for heard in join_all(reading).await {
        assert!(heard < OUTCOMES * 100, "it was waited for");
    }
}

/// Opens streams in both directions and a watch of the health, and reads nothing of what they say first.
async fn unread_streams(subject: &Subject) {
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let opening = opening(&[(INITIAL_WINDOW_SIZE, 0)]);
    let mut peer = Peer::open(subject.grpc_addr(), &opening).await;
    for n in 0..100 {
        let path = match n % 2 {
            0 => "/eventkit.v1.IngestService/CollectBidi",
            _ => "/grpc.health.v1.Health/Watch",
        };
        let head = head("POST", path, &grpc);
        let open = frame(HEADERS, END_HEADERS, 2 * n + 1, &head);
        let asks = frame(DATA, 0, 2 * n + 1, &message(b""));
        assert!(peer.send(&[open, asks].concat()).await);
    }
    peer.end().await;
}

/// Asks for what needs no key, on as many streams as there may be: half of a question, and one that says it is as long as any.
async fn endless_questions(subject: &Subject) {
    const STREAMS: u32 = 200;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let paths = [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];
    join_all(paths.map(async |path| {
        let mut peer = Peer::open(subject.grpc_addr(), &opening(&[])).await;
        let head = head("POST", path, &grpc);
        // A stream of questions may be quiet between two of them for as long as it may be open: here none of them is half.
        let halves = if path.contains("health") { 2 } else { 1 };
        for n in 0..STREAMS {
            let (announced, sent) = if n % halves == 0 {
                (4u32 << 20, 16)
            } else {
                (4_000, 300)
            };
            let question = [&[0], &announced.to_be_bytes()[..], &vec![b'q'; sent]].concat();
            let open = frame(HEADERS, END_HEADERS, 2 * n + 1, &head);
            let asks = frame(DATA, 0, 2 * n + 1, &question);
            assert!(peer.send(&[open, asks].concat()).await);
        }
        let mut ended = 0;
        while ended < STREAMS {
            let is_end = |frame: &Frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0;
            let end = peer.find(is_end).await;
            assert!(end.is_some(), "{path}: {ended} of {STREAMS} had an end");
            ended += 1;
        }
    }))
    .await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_given_up_and_good_events_are_rows_meanwhile_and_afterwards()
{
    let subject = Subject::start(IMPATIENT).await;
    let attacks = [
        Attack::new("windows that stay shut", |subject| {
            Box::pin(shut_windows(subject))
        }),
        Attack::new("windows of one byte", |subject| {
            Box::pin(narrow_windows(subject))
        }),
        Attack::new("more answers than there is room for", |subject| {
            Box::pin(many_shut_windows(subject))
        })
        .that_sheds(),
        Attack::new("large answers that are not read", |subject| {
            Box::pin(large_answers(subject))
        }),
        Attack::new("small answers that are not read", |subject| {
            Box::pin(small_answers(subject))
        }),
        Attack::new("answers that are read by the byte", |subject| {
            Box::pin(dripping_reader(subject))
        }),
        Attack::new("streams that are not read", |subject| {
            Box::pin(unread_streams(subject))
        }),
        Attack::new("questions that do not end", |subject| {
            Box::pin(endless_questions(subject))
        }),
    ];
    withstand(&subject, &attacks).await;
    subject.finish().await;
}
