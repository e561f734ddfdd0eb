//! The bytes on disk: what is written is read back, and what is not what was written is noticed.

use proptest::prelude::*;

use super::group::{CODEC_LZ4, CODEC_NONE, COMPRESS_BYTES_MIN};
use super::*;

fn put_together(first: Offset, parts: &[([u8; 11], Vec<u8>)]) -> Result<Vec<u8>, FrameError> {
    let mut stored = Vec::new();
    let mut group = None;
    for ((key, value), expected) in parts.iter().zip(0u16..) {
        let (header, chunk) = decode_part(key, value)?;
        assert_eq!(parse_key(key), Key::Part(first, expected));
        assert_eq!(header.part, expected);
        assert_eq!(usize::from(header.parts), parts.len());
        group = Some(header);
        stored.extend_from_slice(chunk);
    }
    decode_group(&group.ok_or(FrameError::Length)?, stored)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

#[test]
fn groups_of_every_size_around_a_part_come_back() {
    let chunk = PART_BYTES_MAX - PART_HEADER_BYTES;
    for (bytes, parts) in [
        (1, 1),
        (511, 1),
        (512, 1),
        (chunk - 1, 1),
        (chunk, 1),
        (chunk + 1, 2),
        (3 * chunk, 3),
        (3 * chunk + 1, 4),
    ] {
        let frames = noise(bytes);
        let encoded = encode_group(9, 3, 77, &frames).unwrap();
        assert_eq!(encoded.len(), parts, "{bytes} bytes");
        assert!(
            encoded
                .iter()
                .all(|(_, value)| value.len() <= PART_BYTES_MAX)
        );
        assert_eq!(put_together(9, &encoded), Ok(frames));
    }
}

#[test]
fn what_compresses_is_compressed_and_what_does_not_is_not() {
    let compressible = vec![b'a'; 100_000];
    let encoded = encode_group(0, 1, 1, &compressible).unwrap();
    assert_eq!(encoded.len(), 1);
    assert_eq!(encoded[0].1[1], CODEC_LZ4);
    assert_eq!(put_together(0, &encoded), Ok(compressible));
    assert_eq!(
        encode_group(0, 1, 1, &noise(5_000)).unwrap()[0].1[1],
        CODEC_NONE
    );
    let short = vec![b'a'; COMPRESS_BYTES_MIN - 1];
    assert_eq!(encode_group(0, 1, 1, &short).unwrap()[0].1[1], CODEC_NONE);
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_part_is_noticed() {
    let (key, value) = encode_group(5, 2, 3, &noise(200)).unwrap().remove(0);
    assert!(decode_part(&key, &value).is_ok());
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut flipped = value.clone();
            flipped[at] ^= 1 << bit;
            assert!(
                decode_part(&key, &flipped).is_err(),
                "bit {bit} of byte {at}"
            );
        }
        assert!(decode_part(&key, &value[..at]).is_err(), "cut at {at}");
    }
    let longer = [value.as_slice(), &[0]].concat();
    assert_eq!(decode_part(&key, &longer), Err(FrameError::Checksum));
    for other in [part_key(5, 1), part_key(6, 0), seal_key(Lane(5), 0)] {
        assert_eq!(
            decode_part(&other, &value),
            Err(FrameError::Checksum),
            "another key"
        );
    }
}

#[test]
fn a_group_whose_parts_do_not_add_up_is_noticed() {
    for frames in [noise(20_000), vec![b'x'; 3_000_000]] {
        let encoded = encode_group(0, 1, 1, &frames).unwrap();
        assert!(encoded.len() > 1);
        let (header, _) = decode_part(&encoded[0].0, &encoded[0].1).unwrap();
        let chunks: Vec<Vec<u8>> = encoded
            .iter()
            .map(|(key, value)| decode_part(key, value).unwrap().1.to_vec())
            .collect();
        let without = |gone: usize| -> Vec<u8> {
            let left = chunks.iter().enumerate().filter(|(at, _)| *at != gone);
            left.flat_map(|(_, chunk)| chunk.clone()).collect()
        };
        for gone in 0..chunks.len() {
            assert!(
                decode_group(&header, without(gone)).is_err(),
                "without {gone}"
            );
        }
        let mut swapped = chunks.clone();
        swapped.swap(0, 1);
        assert!(
            decode_group(&header, swapped.concat()).is_err(),
            "in another order"
        );
        assert_eq!(decode_group(&header, chunks.concat()), Ok(frames));
    }
}

#[test]
fn another_format_or_codec_is_named() {
    let (key, value) = encode_group(0, 1, 1, b"frames").unwrap().remove(0);
    let mut newer = value.clone();
    newer[0] = 2;
    assert_eq!(decode_part(&key, &newer), Err(FrameError::Format(2)));
    let (header, chunk) = decode_part(&key, &value).unwrap();
    let header = PartHeader { codec: 7, ..header };
    assert_eq!(
        decode_group(&header, chunk.to_vec()),
        Err(FrameError::Codec(7))
    );

    let header = Header {
        log_id: LogId(1),
        secret: [2; 16],
        lanes: 3,
        created_at: 4,
    };
    let mut value = header.encode();
    value[0] = 9;
    assert_eq!(Header::decode(&value), Err(FrameError::Format(9)));
}

#[test]
fn a_size_that_no_block_has_is_not_believed() {
    let frames = vec![b'x'; 1_000_000];
    let (key, value) = encode_group(0, 1, 1, &frames).unwrap().remove(0);
    let (header, chunk) = decode_part(&key, &value).unwrap();
    assert!(
        header.plain_bytes as usize / chunk.len() > 200,
        "near the most there is"
    );
    let header = PartHeader {
        plain_bytes: u32::MAX,
        ..header
    };
    assert_eq!(
        decode_group(&header, chunk.to_vec()),
        Err(FrameError::Length)
    );
}

#[test]
fn frames_that_do_not_add_up_to_their_records_are_refused() {
    let mut frames = Vec::new();
    for record in [&b"one"[..], b"", b"three"] {
        frames.extend(u32::try_from(record.len()).unwrap().to_le_bytes());
        frames.extend(record);
    }
    let ranges = split_frames(&frames, 3).unwrap();
    let records: Vec<&[u8]> = ranges.into_iter().map(|range| &frames[range]).collect();
    assert_eq!(records, [&b"one"[..], b"", b"three"]);
    for records in [0, 2, 4, u32::MAX] {
        assert_eq!(split_frames(&frames, records), Err(FrameError::Length));
    }
    for cut in 1..frames.len() {
        assert_eq!(
            split_frames(&frames[..cut], 3),
            Err(FrameError::Length),
            "cut at {cut}"
        );
    }
    assert_eq!(
        split_frames(&[0xff; 4], 1),
        Err(FrameError::Length),
        "a length beyond the end"
    );
    assert_eq!(split_frames(&[], 0), Ok(Vec::new()));
}

#[test]
fn small_values_come_back_and_every_flipped_bit_is_noticed() {
    let header = Header {
        log_id: LogId(u128::MAX - 5),
        secret: *b"sixteen bytes !!",
        lanes: 16,
        created_at: -1,
    };
    let checkpoint = Checkpoint {
        offset: u64::MAX,
        lanes: vec![
            LaneCheckpoint {
                next_number: 1,
                settled_below: 2,
            },
            LaneCheckpoint::default(),
        ],
    };
    let seal = Seal {
        batch: BatchId {
            log_id: header.log_id,
            lane: Lane(3),
            number: 1 << 40,
            first: 5,
            last: 7,
            input_hash: 11,
        },
        count: 2,
        day: Day(-3),
    };
    let (seal_key, seal_value) = encode_seal(&seal);
    assert_eq!(parse_key(&seal_key), Key::Seal(Lane(3), 1 << 40));
    let read_seal = |value: &[u8]| decode_seal(header.log_id, Lane(3), 1 << 40, value);
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    assert_eq!(
        decode_checkpoint(&encode_checkpoint(&checkpoint)),
        Ok(checkpoint.clone())
    );
    assert_eq!(read_seal(&seal_value), Ok(seal));
    assert!(
        decode_seal(header.log_id, Lane(2), 1 << 40, &seal_value).is_err(),
        "another key"
    );

    type Reads<'a> = &'a dyn Fn(&[u8]) -> bool;
    let readers: [(Vec<u8>, Reads<'_>); 3] = [
        (header.encode(), &|value| Header::decode(value).is_ok()),
        (encode_checkpoint(&checkpoint), &|value| {
            decode_checkpoint(value).is_ok()
        }),
        (seal_value, &|value| read_seal(value).is_ok()),
    ];
    for (value, reads) in readers {
        assert!(reads(&value));
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut flipped = value.clone();
                flipped[at] ^= 1 << bit;
                assert!(!reads(&flipped), "bit {bit} of byte {at}");
            }
            assert!(!reads(&value[..at]), "cut at {at}");
        }
    }
}

proptest! {
    #[test]
    fn keys_sort_as_their_numbers_do(a: (u64, u16), b: (u64, u16)) {
        prop_assert_eq!(part_key(a.0, a.1).cmp(&part_key(b.0, b.1)), a.cmp(&b));
        prop_assert_eq!(parse_key(&part_key(a.0, a.1)), Key::Part(a.0, a.1));
        let (seal_a, seal_b) = (seal_key(Lane(a.1), a.0), seal_key(Lane(b.1), b.0));
        prop_assert_eq!(seal_a.cmp(&seal_b), (a.1, a.0).cmp(&(b.1, b.0)));
        prop_assert!(HEADER_KEY[..] < CHECKPOINT_KEY[..] && CHECKPOINT_KEY[..] < seal_a[..]);
        prop_assert!(seal_a[..] < part_key(b.0, b.1)[..] && part_key(a.0, a.1)[..] < OPENED_KEY[..]);
    }

    #[test]
    fn any_frames_come_back(
        first: u64,
        nonce: u64,
        frames in prop::collection::vec(any::<u8>(), 1..20_000),
        repeat in 1..4usize,
    ) {
        let frames = frames.repeat(repeat);
        let encoded = encode_group(first, 1, nonce, &frames).unwrap();
        prop_assert_eq!(put_together(first, &encoded), Ok(frames));
    }

    #[test]
    fn bytes_from_elsewhere_are_an_error_and_never_a_panic(
        key in prop::collection::vec(any::<u8>(), 0..13),
        value in prop::collection::vec(any::<u8>(), 0..200),
        records: u32,
    ) {
        prop_assert!(matches!(key.len(), 1 | 11) || parse_key(&key) == Key::Unknown);
        prop_assert!(decode_part(&key, &value).is_err());
        prop_assert!(Header::decode(&value).is_err() && decode_checkpoint(&value).is_err());
        drop(split_frames(&value, records));
    }
}
