//! Bodies that are not what their content encoding says, or say what nobody reads.

use std::io::Write as _;

use super::wire::post;
use super::*;

/// Packs as clients do.
pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A few thousand bytes that become 64 MiB.
pub(crate) fn bomb() -> Vec<u8> {
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    bomb
}

fn encoded(name: &'static str, encoding: &str, body: &[u8], expected: Expected) -> Case {
    let headers = format!("Content-Encoding: {encoding}\r\n");
    (name, post("/collect", &headers, body), vec![expected])
}

fn cases() -> Vec<Case> {
    let packed = gzip(br#"{"type":"x","messageId":"packed"}"#);
    let flipped = |at: usize| {
        let mut flipped = packed.clone();
        flipped[at] ^= 0xff;
        flipped
    };
    let cut = |bytes: usize| &packed[..packed.len() - bytes];
    let more = [packed.as_slice(), b"rest"].concat();
    let invalid = || Refused(400, "invalid_encoding");
    let no_json = || Refused(400, "malformed_request");
    let unknown = || Refused(415, "unsupported_encoding");
    let two_lines = "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n";
    vec![
        encoded("gzip", "gzip", &packed, Judged(202, vec![Row("packed")])),
        encoded(
            "64 MiB in 64 kB",
            "gzip",
            &bomb(),
            Refused(413, "body_too_large"),
        ),
        encoded("gzip that is none", "gzip", b"{\"type\":\"x\"}", invalid()),
        encoded("nothing instead of gzip", "gzip", b"", invalid()),
        encoded("gzip with a flipped byte", "gzip", &flipped(20), invalid()),
        encoded(
            "gzip with a wrong checksum",
            "gzip",
            &flipped(packed.len() - 8),
            invalid(),
        ),
        encoded("gzip that is cut off", "gzip", cut(12), invalid()),
        // Everything can be unpacked, but nothing says that it is everything.
        encoded("gzip without its checksum", "gzip", cut(8), invalid()),
        encoded("gzip without its last byte", "gzip", cut(1), invalid()),
        encoded("gzip and something after it", "gzip", &more, invalid()),
        encoded("gzip of nothing", "gzip", &gzip(b""), no_json()),
        encoded("gzip of gzip", "gzip", &gzip(&packed), no_json()),
        encoded("gzip that nobody announced", "identity", &packed, no_json()),
        encoded("brotli that is gzip", "br", &packed, invalid()),
        encoded("deflate that is gzip", "deflate", &packed, invalid()),
        encoded("zstd that is gzip", "zstd", &packed, invalid()),
        encoded("a word that is none", "rot13", &packed, unknown()),
        encoded("two encodings", "gzip, gzip", &gzip(&packed), unknown()),
        encoded("two other encodings", "br, gzip", &packed, unknown()),
        (
            "two encodings on two lines",
            post("/collect", two_lines, &packed),
            vec![unknown()],
        ),
    ]
}

pub(crate) type Pack = fn(&[u8]) -> Vec<u8>;

/// What else clients pack with, by its name.
pub(crate) const OTHERS: [(&str, Pack); 4] = [
    ("deflate", zlib),
    ("deflate", deflate),
    ("br", brotli),
    ("zstd", zstd),
];

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn brotli(data: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut packed, 4_096, 5, 22);
    encoder.write_all(data).unwrap();
    drop(encoder);
    packed
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 3).unwrap()
}

/// Each of these, whole, cut off, with something behind it, and as a bomb.
fn others() -> Vec<Case> {
    let cases = OTHERS.into_iter().zip(0..).flat_map(|((name, pack), n)| {
        let id: &'static str = format!("packed-{n}").leak();
        let packed = pack(format!(r#"{{"type":"x","messageId":"{id}"}}"#).as_bytes());
        let cut = &packed[..packed.len() - 1];
        let more = [packed.as_slice(), b"rest"].concat();
        let bomb = pack(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100_000, "{name}");
        let invalid = || Refused(400, "invalid_encoding");
        [
            encoded(name, name, &packed, Judged(202, vec![Row(id)])),
            encoded("it is cut off", name, cut, invalid()),
            encoded("something is behind it", name, &more, invalid()),
            encoded("nothing in its place", name, b"", invalid()),
            encoded(
                "64 MiB in less",
                name,
                &bomb,
                Refused(413, "body_too_large"),
            ),
        ]
    });
    cases.collect()
}

#[tokio::test]
async fn a_body_that_is_wrongly_packed_is_refused_and_the_next_good_event_is_a_row() {
    let subject = Subject::start(&[]).await;
    subject.walk(cases()).await;
    subject.walk(others()).await;
    subject.finish().await;
}
