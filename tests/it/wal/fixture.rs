//! A log of format 1, as keys and values, that must open for ever; and today's writer still writes the same.

use std::collections::BTreeMap;
use std::path::Path;

use eventkit::event::{Client, Event, Lane, LogId, Offset, PayloadFormat, TraceLink};
use eventkit::wal::frame::{self, Header, Key, PartHeader};
use eventkit::wal::storage::Storage as _;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{Append, Checkpoint, LaneCheckpoint, Seal, Wal, record};

use super::{
    Place, Sent, append, assert_holds, close, durable, events, first_held, noise, read_from, seal,
    settle_lanes, wait,
};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

const LOG_ID: &str = "70157cc8303d463da5b300658a9354bb";

fn fixture() -> Pairs {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wal/v1/log.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let pairs = text.lines().filter(|line| !line.starts_with('#'));
    pairs
        .map(|line| {
            let (key, value) = line.split_once(' ').unwrap();
            (unhex(key), unhex(value))
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A log with these pairs in it.
fn place_of(pairs: &Pairs) -> (Place, MemoryStorage) {
    let storage = MemoryStorage::default();
    for (key, value) in pairs {
        storage.insert(key, value).unwrap();
    }
    storage.sync().unwrap();
    (Place::Memory(storage.clone()), storage)
}

/// An event with every field that there was then.
fn full_event() -> Event<'static> {
    Event {
        format: PayloadFormat::Event,
        payload: b"\x0a\x03abc",
        source: "mobile",
        message_id: "every-field",
        message_id_assigned: true,
        stream: "orders",
        kind: Some("page"),
        lane: Lane(3),
        received_at: 1_700_000_000_123_456,
        sent_at: Some(-1),
        trace: Some(TraceLink {
            trace_id: *b"0123456789abcdef",
            span_id: *b"01234567",
            flags: 1,
        }),
        batch_context: b"{\"app\":{\"name\":\"shop\"}}",
        batch_integrations: b"{\"All\":true}",
        client: Client::default(),
    }
}

/// What stands in the fixture from offset 4 on: a group that compresses, one of several parts, one with every field.
fn kept() -> [Vec<Sent>; 2] {
    let page = |n| format!("{{\"type\":\"track\",\"event\":\"viewed\",\"n\":{n}}}");
    let compressible = (0..20)
        .map(|n| Sent::new(format!("json-{n}"), page(n)))
        .collect();
    let parts = vec![Sent::new("parts", noise("parts", 13_000))];
    [compressible, parts]
}

fn settled() -> Checkpoint {
    let lane = |next_number, settled_below| LaneCheckpoint {
        next_number,
        settled_below,
    };
    Checkpoint {
        offset: 4,
        lanes: vec![lane(1, 10), lane(0, 4), lane(0, 4), lane(2, 9)],
    }
}

fn seals(wal: &Wal) -> [Seal; 2] {
    [seal(wal, 0, 1, 10, 20), seal(wal, 3, 2, 9, 24)]
}

/// Writes the fixture's content with today's code.
fn written() -> Pairs {
    let storage = MemoryStorage::default();
    let (wal, _) = Place::Memory(storage.clone()).open();
    append(&wal, &events("trimmed", 4, 30));
    for group in kept() {
        append(&wal, &group);
    }
    let mut full = Append::default();
    let event = full_event();
    full.push(&event, wal.fingerprint(event.key()));
    wait(wal.append(full).unwrap()).unwrap();
    assert!(wait(wal.seal(seals(&wal).to_vec())));
    settle_lanes(&wal, settled());
    close(wal);
    let (wal, _) = Place::Memory(storage.clone()).open();
    close(wal);
    storage.contents()
}

/// Each group's part headers and frames, by its first offset.
fn groups(pairs: &Pairs) -> BTreeMap<Offset, (PartHeader, Vec<u8>)> {
    let mut stored: BTreeMap<Offset, (PartHeader, Vec<u8>)> = BTreeMap::new();
    for (key, value) in pairs {
        if let Key::Part(first, part) = frame::parse_key(key) {
            let (header, chunk) = frame::decode_part(key, value).unwrap();
            assert_eq!(header.part, part);
            let group = stored.entry(first).or_insert((header, Vec::new()));
            group.1.extend_from_slice(chunk);
        }
    }
    let frames = stored.into_iter().map(|(first, (header, stored))| {
        (
            first,
            (header, frame::decode_group(&header, stored).unwrap()),
        )
    });
    frames.collect()
}

#[test]
fn a_log_of_format_1_opens_with_all_that_it_holds() {
    let (place, _) = place_of(&fixture());
    let (wal, unsettled) = place.open();
    assert_eq!(wal.log_id(), LOG_ID.parse::<LogId>().unwrap());
    assert_eq!((wal.lanes(), first_held(&wal), durable(&wal)), (4, 4, 26));
    assert_eq!(unsettled.checkpoint, settled());
    assert_eq!(unsettled.seals, seals(&wal));
    let found = read_from(&wal, 4);
    let [compressible, parts] = kept();
    let plain = [compressible, parts].concat();
    for ((_, bytes), sent) in found.iter().zip(&plain) {
        assert_eq!(record::decode(bytes), Ok(sent.event()));
    }
    assert_eq!(record::decode(&found[21].1), Ok(full_event()));

    // It is used, not only read.
    assert_eq!(append(&wal, &plain).duplicates.len(), plain.len());
    let more = events("more", 2, 10);
    append(&wal, &more);
    let (wal, _) = place.reopen(wal);
    assert_holds(&wal, 26, &more);
    close(wal);
}

#[test]
fn todays_writer_writes_what_the_fixture_holds() {
    let (old, new) = (fixture(), written());
    let keys = |pairs: &Pairs| pairs.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&new), keys(&old));
    // The log's identity and the groups' nonces are random; all else is the same.
    let (old_groups, new_groups) = (groups(&old), groups(&new));
    assert_eq!(old_groups.len(), 3);
    for ((first, (old, old_frames)), (_, (new, new_frames))) in old_groups.iter().zip(&new_groups) {
        assert_eq!(old_frames, new_frames, "the group at {first}");
        assert_ne!(old.nonce, new.nonce);
        assert_eq!(
            (old.records, old.plain_bytes, old.plain_crc),
            (new.records, new.plain_bytes, new.plain_crc)
        );
    }
    for (key, value) in &old {
        match frame::parse_key(key) {
            Key::Header => {
                assert_eq!(Header::decode(value).unwrap().encode(), *value);
                assert_eq!(new[key].len(), value.len());
            }
            Key::Part(first, part) => {
                let (header, frames) = &old_groups[&first];
                let encoded =
                    frame::encode_group(first, header.records, header.nonce, frames).unwrap();
                let (new_key, new_value) = &encoded[usize::from(part)];
                assert_eq!(new_key[..], key[..]);
                // A compressor may choose other bytes that mean the same; that they do is asserted above.
                if value[1] == 0 {
                    assert_eq!(new_value, value, "part {part} of the group at {first}");
                }
            }
            // Their keys and values name no identity.
            Key::Seal(..) | Key::Checkpoint | Key::Opened => assert_eq!(new[key], *value),
            Key::Unknown => panic!("{key:?}"),
        }
    }
}

/// Read by hand, so that reader and writer cannot change together.
#[test]
fn the_fixtures_bytes_are_where_the_format_says() {
    let pairs = fixture();
    let header = &pairs[&vec![0]];
    assert_eq!((header.len(), header[0]), (1 + 16 + 16 + 2 + 8 + 4, 1));
    let id = u128::from_le_bytes(header[1..17].try_into().unwrap());
    assert_eq!(format!("{id:032x}"), LOG_ID);
    assert_eq!(header[33..35], [4, 0], "lanes");
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[0]), &header[..43]);
    assert_eq!(header[43..], crc.to_le_bytes());

    let checkpoint = &pairs[&vec![1]];
    assert_eq!((checkpoint.len(), checkpoint[0]), (1 + 8 + 4 * 16 + 4, 1));
    assert_eq!(checkpoint[1..9], 4u64.to_le_bytes());

    let seal = &pairs[&vec![2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2]];
    assert_eq!((seal.len(), seal[0]), (1 + 3 * 8 + 4 + 4 + 4, 1));
    assert_eq!(seal[1..9], 9u64.to_le_bytes());
    assert_eq!(seal[9..17], 24u64.to_le_bytes());

    // The last group: one record, not compressed.
    let part = &pairs[&vec![3, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0]];
    assert_eq!(part[..4], [1, 0, 0, 0], "format, codec");
    assert_eq!(part[4..8], [0, 0, 1, 0], "part, parts");
    assert_eq!(part[16..20], 1u32.to_le_bytes(), "records");
    let frames = &part[36..];
    assert_eq!(
        part[20..24],
        u32::try_from(frames.len()).unwrap().to_le_bytes()
    );
    assert_eq!(part[24..28], crc32c::crc32c(frames).to_le_bytes());
    let length = u32::from_le_bytes(frames[..4].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), frames.len() - 4);
    let mut record = Vec::new();
    record::encode(&full_event(), &mut record);
    assert_eq!(frames[4..], record);
    assert_eq!(pairs[&vec![4]], 1u64.to_le_bytes(), "opened once more");
}
