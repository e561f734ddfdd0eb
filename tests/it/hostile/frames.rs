//! HTTP/2 frame by frame, as no library would send them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::doors::within;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The setting of how much may be sent on a stream before its client asks for more.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entries = entries
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &entries.collect::<Vec<_>>())
}

/// What a client says first.
pub(super) fn opening(entries: &[(u16, u32)]) -> Vec<u8> {
    [PREFACE, &settings(entries)].concat()
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A number with so many bits of its first byte (RFC 7541, 5.1).
fn number(bits: u8, value: usize) -> Vec<u8> {
    let max = (1 << bits) - 1;
    if value < max {
        return vec![u8::try_from(value).unwrap()];
    }
    let (mut bytes, mut left) = (vec![u8::try_from(max).unwrap()], value - max);
    while left >= 128 {
        bytes.push(u8::try_from(left % 128).unwrap() | 0x80);
        left /= 128;
    }
    bytes.push(u8::try_from(left).unwrap());
    bytes
}

/// A header that is spelled out; `how`: 0 to be forgotten, 0x40 to be remembered in the table.
pub(super) fn header(how: u8, name: &str, value: &str) -> Vec<u8> {
    [
        vec![how],
        number(7, name.len()),
        name.into(),
        number(7, value.len()),
        value.into(),
    ]
    .concat()
}

/// The headers of a request.
pub(super) fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let known = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
    ];
    let all = known.iter().chain(more);
    all.flat_map(|(name, value)| header(0, name, value))
        .collect()
}

/// A whole request with a body.
pub(super) fn request(stream: u32, path: &str, more: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let head = head("POST", path, more);
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
    let mut pieces = body.chunks(16_384).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() {
            END_STREAM
        } else {
            0
        };
        bytes.extend(frame(DATA, flags, stream, piece));
    }
    bytes
}

/// A frame that the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The reason of a `GOAWAY` or of a `RST_STREAM`.
    pub(super) fn reason(&self) -> Option<u32> {
        let reason = match self.kind {
            GOAWAY => self.payload.get(4..8),
            RST_STREAM => self.payload.get(..4),
            _ => None,
        };
        Some(u32::from_be_bytes(reason?.try_into().unwrap()))
    }
}

/// The next frame of what was read, if it is all there.
fn take(heard: &mut Vec<u8>) -> Option<Frame> {
    let header: [u8; 9] = heard.get(..9)?.try_into().unwrap();
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let end = 9 + usize::try_from(length).unwrap();
    let payload = heard.get(9..end)?.to_vec();
    heard.drain(..end);
    Some(Frame {
        kind: header[3],
        flags: header[4],
        stream: u32::from_be_bytes(header[5..9].try_into().unwrap()) & 0x7fff_ffff,
        payload,
    })
}

/// A connection whose client keeps to nothing.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Peer {
    pub(super) async fn open(addr: SocketAddr, opening: &[u8]) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self {
            stream,
            heard: Vec::new(),
        };
        assert!(peer.send(opening).await, "a fresh connection takes bytes");
        peer
    }

    /// False: the connection is closed.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None`: the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take(&mut self.heard) {
                return Some(frame);
            }
            let read = within(self.stream.read_buf(&mut self.heard)).await;
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }

    /// The next frame that fits.
    pub(super) async fn find(&mut self, mut fits: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }

    /// Waits for the connection's end; the reason that was given for it, if one was.
    pub(super) async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                reason = frame.reason();
            }
        }
        reason
    }

    /// Says something over and over until the connection is closed, or there is no more to say; reads what comes, or nothing.
    /// The reason that was given for the end.
    pub(super) async fn flood(
        mut self,
        mut more: impl FnMut() -> Option<Vec<u8>>,
        reads: bool,
    ) -> Option<u32> {
        let (mut from, mut to) = self.stream.split();
        let heard = &mut self.heard;
        let writing = async {
            while let Some(bytes) = more() {
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        let mut reason = None;
        let mut listen = async || {
            while let Ok(1..) = from.read_buf(heard).await {
                while let Some(frame) = take(heard) {
                    reason = reason.or(frame.reason().filter(|_| frame.kind == GOAWAY));
                }
            }
        };
        if reads {
            futures::join!(writing, listen());
        } else {
            writing.await;
            listen().await;
        }
        reason
    }
}
