//! Bombs, many at a time: a little that becomes a lot, in every coding and through both doors.

use futures::future::join_all;
use tonic::Code as Grpc;

use super::*;
use crate::bad_input::encodings::{self, OTHERS};
use crate::bad_input::grpc::{TOO_LARGE, assert_ended, lying};
use crate::bad_input::wire::{call, exchange, post, whole};
use crate::bad_input::{Expected, Refused};

const COLLECT: &str = "/eventkit.v1.IngestService/Collect";
/// How many bombs go off at a time, of each kind.
const AT_ONCE: usize = 8;
/// What a bomb becomes.
const BOMB_BYTES: usize = 64 << 20;

/// The same body many times at once, in this coding.
async fn all_at_once(subject: &Subject, coding: &str, body: &[u8], expected: &Expected) {
    let request = post("/collect", &format!("Content-Encoding: {coding}\r\n"), body);
    join_all((0..AT_ONCE).map(async |_| {
        let answers = exchange(subject.http_addr(), &request).await;
        assert_eq!(answers.len(), 1, "{coding}");
        subject.answered(coding, &answers[0], expected);
    }))
    .await;
}

async fn bombs(subject: &Subject) {
    let too_large = Refused(413, "body_too_large");
    let spaces = vec![b' '; BOMB_BYTES];
    all_at_once(subject, "gzip", &encodings::gzip(&spaces), &too_large).await;
    for (coding, pack) in OTHERS {
        all_at_once(subject, coding, &pack(&spaces), &too_large).await;
    }
}

/// Work instead of memory: members and frames of nothing, as many as a body may have, and ratios that never come to the limit.
async fn busywork(subject: &Subject) {
    let no_json = Refused(400, "malformed_request");
    let invalid = Refused(400, "invalid_encoding");
    let members = encodings::gzip(b"").repeat(30_000);
    all_at_once(subject, "gzip", &members, &no_json).await;
    // zstd's frames that are to be skipped, of no bytes each.
    let skipped = b"\x50\x2a\x4d\x18\0\0\0\0".repeat(30_000);
    all_at_once(subject, "zstd", &skipped, &no_json).await;
    // A window of 2 GiB, announced by a frame of a few bytes.
    let huge = b"\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00x";
    all_at_once(subject, "zstd", huge, &invalid).await;
    // The large window of brotli, which HTTP does not have.
    let large_window = b"\x11\x1e\x00\x00";
    all_at_once(subject, "br", large_window, &invalid).await;
    // Each is inside the other: the first is taken out, and what is left is no JSON.
    let nested = (0..10).fold(vec![b' '; 1 << 20], |inner, _| encodings::gzip(&inner));
    all_at_once(subject, "gzip", &nested, &no_json).await;
    let unknown = Refused(415, "unsupported_encoding");
    for codings in ["gzip, gzip, gzip, gzip", "br, zstd", "gzip, identity"] {
        all_at_once(subject, codings, &nested, &unknown).await;
    }
}

async fn grpc_bombs(subject: &Subject) {
    let spaces = vec![b' '; BOMB_BYTES];
    let zstd = OTHERS
        .iter()
        .find(|(coding, _)| *coding == "zstd")
        .unwrap()
        .1;
    for (coding, bomb) in [("gzip", encodings::gzip(&spaces)), ("zstd", zstd(&spaces))] {
        let length = u32::try_from(bomb.len()).unwrap();
        let message = lying(1, length, &bomb);
        join_all((0..AT_ONCE).map(async |n| {
            let headers = [("grpc-encoding", coding)];
            let addr = [subject.http_addr(), subject.grpc_addr()][n % 2];
            let (status, _) = call(addr, COLLECT, &headers, whole(message.clone())).await;
            assert_ended(coding, &status, TOO_LARGE);
            assert_eq!(status.code(), Grpc::ResourceExhausted);
        }))
        .await;
    }
}

#[tokio::test]
async fn bombs_do_not_go_off_and_good_events_are_rows_meanwhile_and_afterwards() {
    let subject = Subject::start(&[]).await;
    let attacks = [
        Attack::new("bombs in every coding", |subject| Box::pin(bombs(subject))),
        Attack::new("codings that are nothing but work", |subject| {
            Box::pin(busywork(subject))
        }),
        Attack::new("bombs through the gRPC door", |subject| {
            Box::pin(grpc_bombs(subject))
        }),
    ];
    withstand(&subject, &attacks).await;
    subject.finish().await;
}
