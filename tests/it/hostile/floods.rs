//! HTTP/2 in floods: frames that cost their sender nothing and the receiver work or memory; and frames that are none.

use futures::future::join_all;

use super::frames::*;
use super::*;

const EVENT: &[u8] = br#"{"type":"x"}"#;

/// Of many connections at a time.
const CONNECTIONS: usize = 4;

/// Each connection does the same.
async fn all<F: Future>(count: usize, one: impl Fn(usize) -> F) -> Vec<F::Output> {
    join_all((0..count).map(one)).await
}

fn odd(number: usize) -> u32 {
    u32::try_from(2 * number + 1).unwrap()
}

/// Streams that are opened and taken back in one breath (CVE-2023-44487).
async fn rapid_reset(subject: &Subject) {
    let block = head("POST", "/collect", &[]);
    let reasons = all(CONNECTIONS, async |_| {
        let peer = Peer::open(subject.http_addr(), &opening(&[])).await;
        let mut number = 0;
        let more = || {
            let streams = number..number + 100;
            number += 100;
            let each = |n| [frame(HEADERS, END_HEADERS, odd(n), &block), reset(odd(n))].concat();
            (number <= 100_000).then(|| streams.flat_map(each).collect())
        };
        peer.flood(more, true).await
    })
    .await;
    assert_eq!(reasons, [Some(ENHANCE_YOUR_CALM); CONNECTIONS]);
}

/// The same with requests that are all there, one after the other: the work is begun before it is taken back. Whoever does so is
/// served like anyone who leaves early, or calmed when too many come at once.
async fn steady_reset(subject: &Subject) {
    all(CONNECTIONS, async |connection| {
        let mut peer = Peer::open(subject.http_addr(), &opening(&[])).await;
        for n in 0..200 {
            let id = format!("reset-{connection}-{n}");
            subject.never_answered(&id);
            let body = format!(r#"{{"type":"x","messageId":"{id}"}}"#);
            let whole = request(odd(n), "/collect", &[], body.as_bytes());
            if !(peer.send(&whole).await && peer.send(&reset(odd(n))).await) {
                break;
            }
        }
        let after = request(odd(200), "/collect", &[], b"[]");
        let said = |frame: &Frame| frame.stream == odd(200) || frame.kind == GOAWAY;
        let asked = peer.send(&after).await;
        let last = peer
            .find(|frame| said(frame) && frame.kind != WINDOW_UPDATE)
            .await;
        let calm = |frame: &Frame| frame.reason() == Some(ENHANCE_YOUR_CALM);
        // A closed connection has said why, unless the reset that follows it was faster.
        let answered = |frame: Frame| asked && frame.kind == HEADERS || calm(&frame);
        assert!(last.is_none_or(answered));
    })
    .await;
}

/// More streams than there may be: those beyond are refused, the others have their time.
async fn too_many_streams(subject: &Subject) {
    let block = head("POST", "/collect", &[]);
    let streams: Vec<u8> = (0..1_000)
        .flat_map(|n| frame(HEADERS, END_HEADERS, odd(n), &block))
        .collect();
    let mut peer = Peer::open(subject.http_addr(), &opening(&[])).await;
    assert!(peer.send(&streams).await);
    let (mut refused, mut answered, mut calmed) = (0, 0, false);
    while let Some(frame) = peer.next().await {
        match (frame.kind, frame.reason()) {
            (RST_STREAM, Some(REFUSED_STREAM)) => refused += 1,
            (HEADERS, _) => answered += 1,
            (GOAWAY, Some(ENHANCE_YOUR_CALM)) => calmed = true,
            _ => {}
        }
        if refused + answered == 1_000 {
            break;
        }
    }
    assert!(
        calmed || (refused, answered) == (800, 200),
        "{refused} refused, {answered} answered"
    );
}

/// Headers that never end, with something in each piece, and with nothing (CVE-2024-27316).
async fn continuations(subject: &Subject) {
    let begun = [
        opening(&[]),
        frame(HEADERS, 0, 1, &head("POST", "/collect", &[])),
    ]
    .concat();
    let pieces = [header(0, "x", &"y".repeat(16_000)), Vec::new()];
    join_all(pieces.iter().map(async |piece| {
        let peer = Peer::open(subject.http_addr(), &begun).await;
        let more = frame(CONTINUATION, 0, 1, piece).repeat(if piece.is_empty() { 100 } else { 1 });
        let reason = peer.flood(|| Some(more.clone()), true).await;
        assert!(reason.is_none_or(|reason| reason != 0), "{reason:?}");
    }))
    .await;
}

/// Frames that ask for an answer each, by a client that reads them and by one that does not; of a connection that asked for nothing
/// yet and of one that did. All of it ends with the time that such a connection has.
async fn control_frames(subject: &Subject) {
    let asked = request(1, "/collect", &[], b"[]");
    let floods = [
        ("settings", settings(&[(INITIAL_WINDOW_SIZE, 65_535)])),
        ("pings", frame(PING, 0, 0, b"12345678")),
        ("pings that are answers", frame(PING, ACK, 0, b"12345678")),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 0])),
        ("priorities", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16])),
        ("what nobody knows", frame(0xee, 0xff, 5, &[7; 100])),
        ("nothing on a stream", frame(DATA, 0, 1, b"")),
    ];
    let cases = floods
        .iter()
        .flat_map(|flood| [(flood, false), (flood, true)]);
    let sent = cases.map(async |((name, bytes), reads)| {
        let first = match *name {
            // A stream whose body comes in pieces of nothing.
            "nothing on a stream" => frame(HEADERS, END_HEADERS, 1, &head("POST", "/collect", &[])),
            _ if reads => asked.clone(),
            _ => Vec::new(),
        };
        let peer = Peer::open(subject.http_addr(), &[opening(&[]), first].concat()).await;
        let more = bytes.repeat(64);
        // How it was put is no matter: it is over.
        let over = timeout(OVER_WITHIN / 2, peer.flood(|| Some(more.clone()), reads)).await;
        assert!(over.is_ok(), "{name} go on, read: {reads}");
    });
    join_all(sent).await;
}

/// A few bytes that stand for a great many: an entry of the table, named again and again.
async fn header_bomb(subject: &Subject) {
    let entry = header(0x40, "x", &"y".repeat(4_000));
    let mut peer = Peer::open(subject.http_addr(), &opening(&[])).await;
    for n in 0..50 {
        let mut block = head("POST", "/collect", &[]);
        if n == 0 {
            block.extend(&entry);
        }
        // The entry that was remembered last: 62.
        block.resize(16_000, 0x80 | 62);
        let ended = |frame: &Frame| frame.stream == odd(n) || frame.kind == GOAWAY;
        let block = frame(HEADERS, END_HEADERS | END_STREAM, odd(n), &block);
        if !peer.send(&block).await {
            return;
        }
        match peer
            .find(|frame| ended(frame) && frame.kind != WINDOW_UPDATE)
            .await
        {
            Some(frame) if frame.kind == HEADERS => {}
            Some(frame) => assert!(frame.reason().is_some_and(|reason| reason != 0)),
            None => return,
        }
    }
}

/// Frames that are none, or that come when they must not.
fn wrong_frames() -> Vec<(&'static str, Vec<u8>)> {
    let block = head("POST", "/collect", &[]);
    let open = |flags, stream| frame(HEADERS, flags, stream, &block);
    let over = [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1], &[0; 100][..]].concat();
    let beyond = [0x7f, 0xff, 0xff, 0xff];
    let two = |one: Vec<u8>, other: Vec<u8>| [one, other].concat();
    let back = two(open(END_HEADERS, 5), open(END_HEADERS, 3));
    let within = two(open(0, 1), frame(PING, 0, 0, &[0; 8]));
    let ended = request(1, "/collect", &[], b"[]");
    vec![
        ("a frame of 16 MiB", over),
        ("data before headers", frame(DATA, 0, 1, EVENT)),
        ("data on no stream", frame(DATA, 0, 0, EVENT)),
        ("headers on no stream", open(END_HEADERS, 0)),
        ("a stream of the server's", open(END_HEADERS, 2)),
        ("headers that go back", back),
        (
            "padding longer than its frame",
            frame(DATA, 8, 1, &[255, 1]),
        ),
        (
            "a continuation of nothing",
            frame(CONTINUATION, 4, 1, &block),
        ),
        ("another frame within headers", within),
        ("settings of seven bytes", frame(SETTINGS, 0, 0, &[0; 7])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "a window beyond all",
            settings(&[(INITIAL_WINDOW_SIZE, u32::MAX)]),
        ),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &beyond),
        ),
        ("a ping of nine bytes", frame(PING, 0, 0, &[0; 9])),
        (
            "a reset of what never was",
            frame(RST_STREAM, 0, 7, &[0; 4]),
        ),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("words", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "a dependency on itself",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
        ),
        (AFTER_THE_END, two(ended, frame(DATA, 0, 1, EVENT))),
        ("an open stream that is left", open(END_HEADERS, 1)),
    ]
}

/// Heads that are none.
fn wrong_heads() -> Vec<(&'static str, Vec<u8>)> {
    let whole = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    let with = |name, value| whole(&head("POST", "/collect", &[(name, value)]));
    let long = head("POST", "/collect", &[("content-length", "99")]);
    let long = frame(HEADERS, END_HEADERS, 1, &long);
    let shorter = [long, frame(DATA, END_STREAM, 1, EVENT)].concat();
    let tunnel = [
        header(0, ":method", "CONNECT"),
        header(0, ":authority", "x:80"),
    ]
    .concat();
    vec![
        ("no headers", whole(&[0xff; 64])),
        ("an entry that is not there", whole(&[0xfe])),
        (
            "a table of 4 GiB",
            whole(&[0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ),
        ("a body that is shorter than it says", shorter),
        ("a header with a capital", with("X-Y", "z")),
        ("a header of one hop", with("connection", "x")),
        ("a line break in a header", with("x", "a\r\nb: c")),
        ("two paths", with(":path", "/health")),
        ("no path", whole(&header(0, ":method", "POST"))),
        (
            "a path with a space",
            whole(&head("POST", "/collect /x", &[])),
        ),
        ("a tunnel", frame(HEADERS, END_HEADERS, 1, &tunnel)),
    ]
}

/// What comes after this was a request, and may be answered.
const AFTER_THE_END: &str = "data after the end";

/// Bytes that are no HTTP/2, on a connection each.
async fn no_frames(subject: &Subject) {
    let cases = [wrong_frames(), wrong_heads()].concat();
    for addr in [subject.http_addr(), subject.grpc_addr()] {
        join_all(cases.iter().map(async |(name, bytes)| {
            let said = [&opening(&[])[..], bytes].concat();
            let mut peer = Peer::open(addr, &said).await;
            // Whatever it is: the stream is answered or reset, the connection ends, and nothing of it is a success.
            while let Some(frame) = peer.next().await {
                // `:status: 200` from the table, and `202` as it is packed.
                let successes: [&[u8]; 2] = [&[0x88], &[0x48, 0x82, 0x10, 0x05]];
                let is_success = frame.kind == HEADERS
                    && successes
                        .iter()
                        .any(|status| frame.payload.starts_with(status));
                assert!(!is_success || *name == AFTER_THE_END, "{name}");
            }
        }))
        .await;
    }
}

#[tokio::test]
async fn a_flood_of_frames_ends_and_good_events_are_rows_meanwhile_and_afterwards() {
    let subject = Subject::start(IMPATIENT).await;
    let attacks = [
        Attack::new("rapid reset", |subject| Box::pin(rapid_reset(subject))),
        Attack::new("steady reset", |subject| Box::pin(steady_reset(subject))),
        Attack::new("too many streams", |subject| {
            Box::pin(too_many_streams(subject))
        }),
        Attack::new("continuations", |subject| Box::pin(continuations(subject))),
        Attack::new("control frames", |subject| {
            Box::pin(control_frames(subject))
        }),
        Attack::new("a bomb of headers", |subject| {
            Box::pin(header_bomb(subject))
        }),
        Attack::new("frames that are none", |subject| {
            Box::pin(no_frames(subject))
        }),
    ];
    withstand(&subject, &attacks).await;
    subject.finish().await;
}
