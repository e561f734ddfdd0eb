//! Compressed bodies at the HTTP door.

use super::*;

/// `{"messageId":"zip"}`, gzipped.
const GZIPPED: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3,
    // One stored block: its length, its complement, the bytes.
    1, 19, 0, 0xec, 0xff, b'{', b'"', b'm', b'e', b's', b's', b'a', b'g', b'e', b'I', b'd', b'"',
    b':', b'"', b'z', b'i', b'p', b'"', b'}',
];

/// CRC-32 (IEEE) and length, as gzip ends.
fn gzip_trailer(data: &[u8]) -> [u8; 8] {
    let mut crc = u32::MAX;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = u32::try_from(data.len()).unwrap();
    let [a, b, c, d] = (!crc).to_le_bytes();
    let [e, f, g, h] = length.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

fn gzipped() -> Vec<u8> {
    [GZIPPED, &gzip_trailer(br#"{"messageId":"zip"}"#)].concat()
}

#[tokio::test]
async fn gzipped_bodies_are_read_and_limited_after_decompression() {
    let gateway = gateway().await;
    let gzip = "Content-Encoding: GZip\r\n";
    let answer = gateway.post("/collect", gzip, gzipped()).await;
    assert_eq!(answer.status(), 202, "{answer:?}");
    assert_eq!(gateway.stored(), [("zip".into(), "default".into())]);

    let whole = gzipped();
    let answer = gateway
        .post("/collect", gzip, &whole[..whole.len() - 12])
        .await;
    assert_eq!(answer.error(), (400, "invalid_encoding".into()));

    let bomb = gzip_bomb();
    assert!(bomb.len() < 10_000);
    let answer = gateway.post("/collect", gzip, bomb).await;
    assert_eq!(answer.error(), (413, "body_too_large".into()));
}

/// A megabyte of zeros: one literal, then matches of 258 bytes at distance 1, in fixed Huffman codes.
fn gzip_bomb() -> Vec<u8> {
    let (mut bits, mut out) = (Vec::new(), GZIPPED[..10].to_vec());
    bits.extend([1, 1, 0]);
    // The literal 0 is 00110000, length 258 is 11000101, distance 1 is 00000; the end is 0000000.
    bits.extend([0, 0, 1, 1, 0, 0, 0, 0]);
    for _ in 0..4_000 {
        bits.extend([1, 1, 0, 0, 0, 1, 0, 1]);
        bits.extend([0; 5]);
    }
    bits.extend([0; 7]);
    out.extend(bits.chunks(8).map(|byte| {
        byte.iter()
            .enumerate()
            .fold(0u8, |sum, (place, bit)| sum | (bit << place))
    }));
    out.extend(gzip_trailer(&vec![0; 1 + 4_000 * 258]));
    out
}
