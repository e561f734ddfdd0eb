//! What is read from the log's disk: keys, parts, groups, seals, checkpoint, header, records; as they come, and with checksums
//! that hold, so that what lies behind them is reached.
#![no_main]

use crc32c::{crc32c, crc32c_append};
use eventkit::event::{Lane, LogId};
use eventkit::wal::{frame, record};
use eventkit_fuzz::place;
use libfuzzer_sys::fuzz_target;

const LOG: LogId = LogId(7);

fuzz_target!(|data: &[u8]| {
    let key_bytes = data.len().min(11);
    let (key, value) = data.split_at(key_bytes);
    let _key = frame::parse_key(key);
    for value in [value.to_vec(), checked(key, value)] {
        entry(key, &value);
    }
    part(key, value);
    group(data);
    one_record(data);
});

fn entry(key: &[u8], value: &[u8]) {
    match frame::parse_key(key) {
        frame::Key::Header => {
            // What a longer value has beyond the fields is passed over.
            frame::Header::decode(value).ok();
        }
        frame::Key::Checkpoint => {
            if let Ok(checkpoint) = frame::decode_checkpoint(value) {
                assert_eq!(frame::encode_checkpoint(&checkpoint), value);
            }
        }
        frame::Key::Seal(lane, number) => seal(lane, number, value),
        frame::Key::Part(..) => {
            frame::decode_part(key, value).ok();
        }
        frame::Key::Opened | frame::Key::Unknown => {}
    }
}

fn seal(lane: Lane, number: u64, value: &[u8]) {
    let Ok(seal) = frame::decode_seal(LOG, lane, number, value) else {
        return;
    };
    let (key, again) = frame::encode_seal(&seal);
    assert_eq!(frame::decode_seal(LOG, lane, number, &again), Ok(seal));
    assert_eq!(frame::parse_key(&key), frame::Key::Seal(lane, number));
}

/// A part whose checksum holds, and the group that it says it is.
fn part(key: &[u8], value: &[u8]) {
    let Some((head, chunk)) = value.split_at_checked(frame::PART_HEADER_BYTES - 4) else {
        return;
    };
    let crc = crc32c_append(crc32c_append(crc32c(key), head), chunk);
    let value = [head, &crc.to_le_bytes(), chunk].concat();
    let Ok((header, stored)) = frame::decode_part(key, &value) else {
        assert_ne!(head.first(), Some(&frame::FORMAT));
        return;
    };
    if let Ok(frames) = frame::decode_group(&header, stored.to_vec()) {
        records(&frames, header.records);
    }
}

/// What is written as a group is read back.
fn group(frames: &[u8]) {
    let parts = frame::encode_group(5, 1, 9, frames).unwrap();
    let mut stored = Vec::new();
    let mut header = None;
    for (key, value) in &parts {
        let (read, chunk) = frame::decode_part(key, value).unwrap();
        stored.extend_from_slice(chunk);
        header.get_or_insert(read);
    }
    match header {
        Some(header) => assert_eq!(frame::decode_group(&header, stored).as_deref(), Ok(frames)),
        None => assert!(frames.is_empty()),
    }
    let count = u32::from(frames.first().copied().unwrap_or_default());
    records(frames, count);
}

fn records(frames: &[u8], count: u32) {
    for range in frame::split_frames(frames, count).unwrap_or_default() {
        one_record(&frames[range]);
    }
}

fn one_record(bytes: &[u8]) {
    let _place = record::place(bytes);
    let _link = record::trace_link(bytes);
    if let Ok(event) = record::decode(bytes) {
        let mut again = Vec::new();
        record::encode(&event, &mut again);
        assert_eq!(record::decode(&again).as_ref(), Ok(&event));
        assert_eq!(record::trace_link(&again), event.trace);
        assert_eq!(record::place(&again), (event.lane, event.received_at));
    }
    eventkit::worker::judge(bytes, &place()).ok();
}

/// A value of the format that is written, with the checksum that goes with its key.
fn checked(key: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut value = vec![frame::FORMAT];
    value.extend_from_slice(fields);
    let crc = crc32c_append(crc32c(key), &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}
