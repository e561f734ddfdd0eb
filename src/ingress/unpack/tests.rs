use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

const ALL: [Packing; 5] = [
    ("gzip", Encoding::Gzip, gzip),
    ("zlib", Encoding::Deflate, zlib),
    ("bare deflate", Encoding::Deflate, deflate),
    ("brotli", Encoding::Brotli, brotli),
    ("zstd", Encoding::Zstd, zstd),
];

type Packing = (&'static str, Encoding, fn(&[u8]) -> Vec<u8>);

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn brotli(data: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = ::brotli::CompressorWriter::new(&mut packed, 4_096, 5, 22);
    encoder.write_all(data).unwrap();
    drop(encoder);
    packed
}

/// With a checksum at its end.
fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Unpacked from pieces of this size.
fn unpack(encoding: Encoding, packed: &[u8], size: usize, max: usize) -> Result<Bytes, Code> {
    let mut unpack = Unpack::new(encoding, max).map_err(|error| error.code)?;
    for piece in packed.chunks(size) {
        unpack.add(piece).map_err(|error| error.code)?;
    }
    unpack.finish().map_err(|error| error.code)
}

#[test]
fn every_cut_and_whatever_follows_the_end_is_noticed_however_it_comes() {
    let text = b"{\"type\":\"x\"}";
    for (name, encoding, pack) in ALL {
        let packed = pack(text);
        for size in [1, 7, 1_000] {
            let whole = unpack(encoding, &packed, size, 100);
            assert_eq!(whole.unwrap(), text.as_slice(), "{name}");
            for length in 0..packed.len() {
                let cut = unpack(encoding, &packed[..length], size, 100);
                assert_eq!(cut, Err(Code::InvalidEncoding), "{name} cut to {length}");
            }
            let more = [packed.as_slice(), b"rest"].concat();
            let more = unpack(encoding, &more, size, 100);
            assert_eq!(more, Err(Code::InvalidEncoding), "{name}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_noticed() {
    for (name, encoding, pack) in ALL {
        let checksum = match name {
            "gzip" => 8,
            "zlib" | "zstd" => 4,
            _ => continue,
        };
        let packed = pack(b"{\"type\":\"x\"}");
        for at in packed.len() - checksum..packed.len() {
            let mut flipped = packed.clone();
            flipped[at] ^= 1;
            let broken = unpack(encoding, &flipped, 5, 100);
            assert_eq!(broken, Err(Code::InvalidEncoding), "{name} at {at}");
        }
    }
}

#[test]
fn members_and_frames_in_a_row_are_one_body() {
    let packings: [Packing; 2] = [
        ("gzip", Encoding::Gzip, gzip),
        ("zstd", Encoding::Zstd, zstd),
    ];
    for (name, encoding, pack) in packings {
        let twice = [pack(b"[{}"), pack(b",{}]")].concat();
        for size in [1, 1_000] {
            let whole = unpack(encoding, &twice, size, 100);
            assert_eq!(whole.unwrap(), "[{},{}]", "{name}");
        }
    }
}

#[test]
fn nothing_is_unpacked_beyond_the_limit() {
    for (name, encoding, pack) in ALL {
        // Around the chunk's size, where a coder has more to give than there is room.
        for bytes in [100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES * 3] {
            let packed = pack(&vec![b' '; bytes]);
            let whole = unpack(encoding, &packed, 1_000, bytes);
            assert_eq!(whole.map(|whole| whole.len()), Ok(bytes), "{name}");
            let over = unpack(encoding, &packed, 1_000, bytes - 1);
            assert_eq!(over, Err(Code::BodyTooLarge), "{name} {bytes}");
        }
        let bomb = pack(&vec![b' '; 50_000_000]);
        assert!(bomb.len() < 100_000, "{name}");
        let mut unpack = Unpack::new(encoding, 100).unwrap();
        let error = unpack.add(&bomb).unwrap_err();
        assert_eq!(error.code, Code::BodyTooLarge, "{name}");
    }
}

#[test]
fn noise_is_unpacked_as_it_was() {
    let noise: Vec<u8> = (0u32..100_000)
        .map(|n| u8::try_from(xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()) & 0xff).unwrap())
        .collect();
    for (name, encoding, pack) in ALL {
        let whole = unpack(encoding, &pack(&noise), 977, noise.len()).unwrap();
        assert!(whole == noise, "{name}");
    }
}

#[test]
fn a_window_larger_than_a_browser_may_use_is_refused() {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(b"{}").unwrap();
    let packed = encoder.finish().unwrap();
    assert_eq!(
        unpack(Encoding::Zstd, &packed, 1_000, 100),
        Err(Code::InvalidEncoding)
    );
}

#[test]
fn encodings_are_known_or_refused() {
    let cases: &[(&[&str], Option<Option<Encoding>>)] = &[
        (&[], Some(None)),
        (&[""], Some(None)),
        (&["identity"], Some(None)),
        (&["gzip"], Some(Some(Encoding::Gzip))),
        (&[" GZIP "], Some(Some(Encoding::Gzip))),
        (&["x-gzip"], Some(Some(Encoding::Gzip))),
        (&["deflate"], Some(Some(Encoding::Deflate))),
        (&["br"], Some(Some(Encoding::Brotli))),
        (&["Zstd"], Some(Some(Encoding::Zstd))),
        (&["rot13"], None),
        (&["compress"], None),
        (&["gzip, gzip"], None),
        (&["br, gzip"], None),
        (&["gzip", "gzip"], None),
    ];
    for (values, expected) in cases {
        let mut headers = HeaderMap::new();
        for value in *values {
            headers.append(CONTENT_ENCODING, value.parse().unwrap());
        }
        assert_eq!(Encoding::of(&headers).ok(), *expected, "{values:?}");
    }
}
