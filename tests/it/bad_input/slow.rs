//! What never ends: heads and bodies that stall or drip. All at once, since each takes its time.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{LocalBoxFuture, join_all};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code as Grpc;

use super::wire::{answers, call, http2, pieces};
use super::*;
use crate::doors::grpc::error;
use crate::doors::{read_to_end, within};

/// Short limits, and long enough for a machine that is busy with other things.
const IMPATIENT: &[(&str, &str)] = &[
    ("EVENTKIT_HEADER_TIMEOUT", "2"),
    ("EVENTKIT_BODY_TIMEOUT", "2"),
];
/// A pause that alone is never too long.
const DRIP: Duration = Duration::from_millis(100);

/// Sends the start, then the same few bytes over and over until the server ends the connection. What it answered.
async fn drip(addr: SocketAddr, start: &[u8], drop: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(start).await.unwrap();
    let (mut from, mut to) = stream.split();
    let mut said = Vec::new();
    let dripping = async {
        while !drop.is_empty() && to.write_all(drop).await.is_ok() {
            sleep(DRIP).await;
        }
        std::future::pending().await
    };
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut said);
    // A reset after the answer is an end too.
    tokio::select! {
        _ended = within(reading) => {}
        () = dripping => {}
    }
    said
}

const LENGTH: &[u8] = b"POST /collect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
const CHUNKS: &[u8] = b"POST /collect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const GZIP: &[u8] = b"POST /collect HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\x03";
const SEGMENT: &[u8] = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";

/// Bodies at the HTTP door, and the one thing that is said to all of them.
async fn http_bodies(subject: &Subject) {
    let cases: [(&str, &[u8], &[u8]); 8] = [
        ("a body that stalls", LENGTH, b""),
        ("a body that drips", LENGTH, b" "),
        ("a body that never begins", &LENGTH[..LENGTH.len() - 1], b""),
        ("chunks that stall", CHUNKS, b""),
        ("chunks that drip", CHUNKS, b"1\r\n \r\n"),
        // The name of the packed file never ends, so that nothing ever comes out.
        ("gzip that drips", GZIP, b"x"),
        ("an envelope that stalls", SEGMENT, b""),
        ("an envelope that drips", SEGMENT, b" "),
    ];
    let sent = cases.map(|(name, start, drops)| async move {
        let said = drip(subject.http_addr(), start, drops).await;
        let answers = answers(&said);
        assert_eq!(answers.len(), 1, "{name}");
        subject.answered(name, &answers[0], &Refused(408, "request_timeout"));
    });
    join_all(sent).await;
}

/// Heads that never end: closed without a word, since nothing was asked for; a large one is told.
async fn heads(subject: &Subject) {
    let start = b"POST /collect HTTP/1.1\r\nHost: x\r\n";
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("nothing", b"", b""),
        ("half a line", b"POST /coll", b""),
        ("a head that stalls", start, b""),
        ("a head that drips", start, b"X: y\r\n"),
        ("half an HTTP/2 preface", b"PRI * HTTP/2.0\r\n", b""),
    ];
    let sent = cases.map(|(name, start, drops)| async move {
        for addr in [subject.http_addr(), subject.grpc_addr()] {
            let said = drip(addr, start, drops).await;
            assert!(!said.starts_with(b"HTTP/1.1 2"), "{name}");
        }
    });
    join_all(sent).await;
    let mut stream = TcpStream::connect(subject.http_addr()).await.unwrap();
    let endless = b"X: y\r\n".repeat(10_000);
    drop(stream.write_all(start).await);
    while stream.write_all(&endless).await.is_ok() {}
    // The answer may be lost in the reset that follows it.
    let said = read_to_end(&mut stream).await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431"));
}

/// First these bytes; then the same few over and over, or nothing more.
fn endless(start: Vec<u8>, drops: &'static [u8]) -> impl futures::Stream<Item = Bytes> + Send {
    let rest = futures::stream::unfold((), move |()| async move {
        sleep(DRIP).await;
        if drops.is_empty() {
            std::future::pending::<()>().await;
        }
        Some((Bytes::from_static(drops), ()))
    });
    futures::stream::iter([Bytes::from(start)]).chain(rest)
}

async fn over_http2(subject: &Subject) {
    const SERVICE: &str = "/eventkit.v1.IngestService";
    // A message of 1,000 bytes that does not come.
    let begun = vec![0, 0, 0, 3, 232, 10];
    let cases: [(&str, &str, Vec<u8>, &'static [u8]); 8] = [
        ("a message that stalls", "Collect", begun.clone(), b""),
        ("a message that drips", "Collect", begun.clone(), b"\0"),
        ("a call without a message", "Collect", vec![], b""),
        ("half a header", "Collect", vec![0, 0], b""),
        (
            "a client stream's message that stalls",
            "CollectStream",
            begun.clone(),
            b"",
        ),
        (
            "a client stream's message that drips",
            "CollectStream",
            begun.clone(),
            b"\0",
        ),
        (
            "a bidi stream's message that stalls",
            "CollectBidi",
            begun.clone(),
            b"",
        ),
        (
            "a bidi stream's message that drips",
            "CollectBidi",
            begun,
            b"\0",
        ),
    ];
    let sent = cases.map(|(name, method, start, drops)| async move {
        let path = format!("{SERVICE}/{method}");
        let body = pieces(endless(start, drops));
        let (status, _) = call(subject.grpc_addr(), &path, &[], body).await;
        let found = error(&status);
        let expected = (Grpc::DeadlineExceeded, "REQUEST_TIMEOUT".to_owned(), false);
        assert_eq!(found, expected, "{name}: {status:?}");
        assert_clear(name, None, "request_timeout", status.message());
    });
    join_all(sent).await;
    let (mut sender, _connection) = http2(subject.http_addr()).await;
    let request = http::Request::post(format!("http://{}/collect", subject.endpoints.http));
    let body = pieces(endless(b"{".to_vec(), b" "));
    let response = within(sender.send_request(request.body(body).unwrap()))
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 408);
}

/// A stream may say nothing for longer than any body may pause, before and between its messages.
async fn quiet_streams(subject: &Subject) {
    let pause = || async { sleep(Duration::from_secs(3)).await };
    let batches = futures::stream::iter(1..=2u64).then(move |batch_number| async move {
        pause().await;
        eventkit::proto::v1::CollectBidiRequest {
            batch_number,
            events: vec![good_event(&format!("quiet-bidi-{batch_number}"))],
            ..Default::default()
        }
    });
    let messages = futures::stream::iter(1..=2u64).then(move |number| async move {
        pause().await;
        eventkit::proto::v1::CollectStreamRequest {
            events: vec![good_event(&format!("quiet-stream-{number}"))],
            ..Default::default()
        }
    });
    let bidi = async {
        let mut client = subject.grpc.clone();
        let mut answers = client.collect_bidi(batches).await.unwrap().into_inner();
        while within(answers.message()).await.unwrap().is_some() {}
    };
    let stream = async {
        let mut client = subject.grpc.clone();
        let summary = within(client.collect_stream(messages)).await.unwrap();
        assert_eq!(summary.into_inner().accepted, 2);
    };
    futures::join!(bidi, stream);
    for number in 1..=2 {
        subject.stored(&format!("quiet-bidi-{number}"));
        subject.stored(&format!("quiet-stream-{number}"));
    }
}

#[tokio::test]
async fn what_never_ends_is_ended_and_good_events_are_rows_meanwhile_and_afterwards() {
    let subject = Subject::start(IMPATIENT).await;
    let slow: [LocalBoxFuture<'_, ()>; 4] = [
        Box::pin(http_bodies(&subject)),
        Box::pin(heads(&subject)),
        Box::pin(over_http2(&subject)),
        Box::pin(quiet_streams(&subject)),
    ];
    let mut slow = join_all(slow);
    while futures::poll!(&mut slow).is_pending() {
        subject.good("what has not ended yet").await;
        sleep(DRIP).await;
    }
    drop(slow);
    subject.good("what never ended").await;
    subject.finish().await;
}
