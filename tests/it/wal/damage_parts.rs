//! Damage below the log and above the engine: keys and values that are missing, changed, stale or from elsewhere.

use std::collections::BTreeMap;

use crc32c::{crc32c, crc32c_append};
use eventkit::wal::frame::{self, Key, part_key};
use eventkit::wal::storage::Storage as _;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::storage::sled::SledStorage;
use eventkit::wal::{Damage, OpenError, Unsettled, Wal};

use super::{
    Place, Sent, append, assert_holds, beside, close, durable, events, first_held, seal, settle,
    wait,
};

/// Five groups of ten events, the third of several parts, settled below `settled`.
fn filled(place: &Place, settled: u64) -> Vec<Sent> {
    let (wal, _) = place.open_with(|config| config.retained_events_max = 1_000);
    let mut sent = Vec::new();
    for (n, bytes) in [20, 20, 2_000, 20, 20].into_iter().enumerate() {
        let batch = events(&format!("g{n}"), 10, bytes);
        append(&wal, &batch);
        sent.extend(batch);
    }
    if settled > 0 {
        settle(&wal, settled);
    }
    close(wal);
    sent
}

fn memory(settled: u64) -> (Place, MemoryStorage, Vec<Sent>) {
    let storage = MemoryStorage::default();
    let place = Place::Memory(storage.clone());
    let sent = filled(&place, settled);
    (place, storage, sent)
}

/// Opens without trimming, so that it is seen what recovery alone removes.
fn open(place: &Place) -> Result<(Wal, Unsettled), OpenError> {
    place.try_open(super::options(place.path(), |config| {
        config.retained_events_max = 1_000;
    }))
}

/// The parts of the group that begins at an offset.
fn parts_of(storage: &MemoryStorage, at: u64) -> BTreeMap<u16, Vec<u8>> {
    let all = storage.contents().into_iter();
    all.filter_map(|(key, value)| match frame::parse_key(&key) {
        Key::Part(first, part) if first == at => Some((part, value)),
        _ => None,
    })
    .collect()
}

#[track_caller]
fn damage(opened: Result<(Wal, Unsettled), OpenError>) -> Damage {
    match opened {
        Err(OpenError::Damaged { damage, .. }) => damage,
        Err(other) => panic!("refused as {other:?}"),
        Ok((wal, _)) => panic!("opened, with offsets below {}", durable(&wal)),
    }
}

#[track_caller]
fn assert_lost(opened: Result<(Wal, Unsettled), OpenError>, range: (u64, u64)) {
    match damage(opened) {
        Damage::Lost { from, to, .. } => assert_eq!((from, to), range),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_that_misses_parts_beyond_the_checkpoint_is_damage() {
    let whole = parts_of(&memory(0).1, 20).len();
    assert!(whole > 3, "the group has several parts");
    for settled in [0, 10, 20, 29] {
        for missing in [&[0][..], &[1], &[3], &[0, 1, 2, 3]] {
            let (place, storage, _) = memory(settled);
            for &part in missing {
                assert!(parts_of(&storage, 20).contains_key(&part));
                storage.damage(&part_key(20, part), None);
            }
            assert_lost(open(&place), (20, 29));
            // Nothing was repaired away: the next open finds the same.
            assert_lost(open(&place), (20, 29));
        }
    }
}

#[test]
fn a_whole_group_missing_beyond_the_checkpoint_is_damage() {
    let cases = [
        // (group, settled, lost)
        (0, 0, (0, 9)),
        (10, 0, (10, 19)),
        (30, 25, (30, 39)),
        (20, 25, (20, 29)),
    ];
    for (group, settled, lost) in cases {
        let (place, storage, _) = memory(settled);
        for part in parts_of(&storage, group).into_keys() {
            storage.damage(&part_key(group, part), None);
        }
        assert_lost(open(&place), lost);
    }
}

#[test]
fn a_trim_that_was_cut_is_finished() {
    // Of the group at 20, any of its parts are gone; what lies before it goes as well.
    let parts = u16::try_from(parts_of(&memory(0).1, 20).len()).unwrap();
    for left in 0..parts {
        for settled in [30, 35, 50] {
            let (place, storage, sent) = memory(settled);
            for part in left..parts {
                storage.damage(&part_key(20, part), None);
            }
            let (wal, unsettled) = open(&place).unwrap();
            assert_eq!(unsettled.checkpoint.offset, settled);
            assert_eq!((first_held(&wal), durable(&wal)), (30, 50));
            assert_holds(&wal, 30, &sent[30..]);
            // What is gone is forgotten, what is left is known.
            let again = append(&wal, &sent);
            assert_eq!(again.duplicates, Vec::from_iter(30..50));
            close(wal);
            assert!(parts_of(&storage, 20).is_empty() && parts_of(&storage, 0).is_empty());
            close(open(&place).unwrap().0);
        }
    }
}

#[test]
fn every_flipped_byte_of_every_value_is_noticed() {
    let (place, storage, sent) = memory(15);
    let (wal, _) = open(&place).unwrap();
    assert!(wait(wal.seal(vec![seal(&wal, 1, 0, 15, 20)])));
    close(wal);
    for (key, value) in storage.contents() {
        if key == frame::OPENED_KEY {
            continue;
        }
        for at in (0..value.len()).step_by(1 + value.len() / 60) {
            let mut flipped = value.clone();
            flipped[at] ^= 0x5a;
            let image = storage.crash(0);
            image.damage(&key, Some(&flipped));
            let place = Place::Memory(image);
            match (open(&place), frame::parse_key(&key)) {
                // Damaged below the checkpoint: a trim is finished, nothing unsettled is touched.
                (Ok((wal, _)), Key::Part(first, _)) if first < 10 => {
                    assert_holds(&wal, 10, &sent[10..]);
                    close(wal);
                }
                // Without a mark the last group cannot be told from a torn one.
                (Ok((wal, _)), Key::Part(40, _)) => {
                    assert_holds(&wal, 0, &sent[..40]);
                    close(wal);
                }
                (opened, _) => {
                    damage(opened);
                }
            }
        }
    }
}

/// A part as another version would write it: a byte changed, the CRC made to match.
fn with_codec(key: &[u8], value: &[u8], codec: u8) -> Vec<u8> {
    let mut value = value.to_vec();
    value[1] = codec;
    let crc = crc32c_append(crc32c_append(crc32c(key), &value[..32]), &value[36..]);
    value[32..36].copy_from_slice(&crc.to_le_bytes());
    value
}

/// Rolled back to an older version, the newer one's last group must not pass for torn.
#[test]
fn what_a_newer_version_wrote_is_refused_and_kept() {
    let codec = |value: &[u8]| with_codec(&part_key(40, 0), value, 9);
    let format = |value: &[u8]| [&[2], &value[1..]].concat();
    type Change<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let changes: [Change<'_>; 2] = [&codec, &format];
    for change in changes {
        let (place, storage, _) = memory(0);
        let newer = change(&parts_of(&storage, 40)[&0]);
        storage.damage(&part_key(40, 0), Some(&newer));
        let found = damage(open(&place));
        assert!(
            matches!(found, Damage::UnknownGroup { first: 40, .. }),
            "{found:?}"
        );
        assert_eq!(parts_of(&storage, 40)[&0], newer, "left as it is");
    }
    for key in [&[0, 0][..], &[2, 1], &[3], &[5], &[255], b"key"] {
        let (place, storage, _) = memory(0);
        storage.damage(key, Some(b"newer"));
        let found = damage(open(&place));
        assert_eq!(found, Damage::UnknownKey, "{key:?}");
    }
    // One that sorts among the groups.
    let (place, storage, _) = memory(0);
    storage.damage(&[&part_key(20, 0)[..], &[0]].concat(), Some(b"newer"));
    let opened = open(&place);
    assert!(
        matches!(opened, Err(OpenError::Engine { .. })),
        "{opened:?}"
    );
}

#[test]
fn a_log_without_its_header_is_damage_whatever_is_left() {
    for settled in [0, 50] {
        let (place, storage, _) = memory(settled);
        storage.damage(&frame::HEADER_KEY, None);
        assert_eq!(damage(open(&place)), Damage::NoHeader);
    }
}

#[test]
fn a_log_without_its_checkpoint_is_damage_once_something_was_trimmed() {
    let (place, storage, _) = memory(0);
    let (wal, _) = place.open();
    settle(&wal, 20);
    assert_eq!(first_held(&wal), 20);
    close(wal);
    storage.damage(&frame::CHECKPOINT_KEY, None);
    assert_lost(open(&place), (0, 19));
}

#[test]
fn a_seal_of_events_that_are_not_there_is_damage() {
    let (place, storage, _) = memory(0);
    let (wal, _) = open(&place).unwrap();
    assert!(wait(wal.seal(vec![seal(&wal, 1, 0, 35, 49)])));
    close(wal);
    storage.damage(&part_key(40, 0), None);
    assert_lost(open(&place), (40, 49));
}

/// A torn group leaves parts; the group that gets its offsets may have fewer. None of the old bytes may come back.
#[test]
fn stale_parts_of_a_torn_group_are_never_read() {
    let (_, torn, _) = memory(0);
    let stale = parts_of(&torn, 20);
    let (_, storage, sent) = memory(0);
    // Of the same key, from another group: the nonces differ.
    let own = parts_of(&storage, 20);
    assert_eq!(own.len(), stale.len());
    assert_ne!(own[&0], stale[&0]);

    // Parts beyond the group's own number are removed.
    let short = parts_of(&storage, 40).len();
    for part in 1..4u16 {
        let key = part_key(40, part);
        let moved = restamped(&stale[&part], &part_key(20, part), &key);
        storage.damage(&key, Some(&moved));
    }
    let place = Place::Memory(storage.clone());
    let (wal, _) = open(&place).unwrap();
    assert_holds(&wal, 0, &sent);
    assert_eq!(
        parts_of(&storage, 40).len(),
        short,
        "the stale parts are gone"
    );
    close(wal);

    // A part of another nonce in the middle is not this group's: damage, never a mixture.
    for part in [0, 1, 3] {
        let image = storage.crash(0);
        image.damage(&part_key(20, part), Some(&stale[&part]));
        assert_lost(open(&Place::Memory(image)), (20, 29));
    }
}

/// The same part under another key, with a CRC that matches.
fn restamped(value: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    let crc = |key: &[u8], value: &[u8]| {
        crc32c_append(crc32c_append(crc32c(key), &value[..32]), &value[36..]).to_le_bytes()
    };
    assert_eq!(value[32..36], crc(from, &value));
    let fresh = crc(to, &value);
    value[32..36].copy_from_slice(&fresh);
    value
}

#[test]
fn what_is_left_of_a_torn_group_is_removed() {
    let parts = {
        let (_, storage, _) = torn(0);
        parts_of(&storage, 50).len()
    };
    for cut in 1..parts {
        let (place, storage, sent) = torn(cut);
        let (wal, _) = open(&place).unwrap();
        assert_holds(&wal, 0, &sent);
        assert!(
            parts_of(&storage, 50).is_empty(),
            "{cut} parts were cut off"
        );
        close(wal);
    }
}

/// A log whose last group misses so many of its last parts, and what it holds besides.
fn torn(cut: usize) -> (Place, MemoryStorage, Vec<Sent>) {
    let (place, storage, sent) = memory(0);
    let (wal, _) = open(&place).unwrap();
    append(&wal, &events("torn", 4, 4_000));
    close(wal);
    for part in parts_of(&storage, 50).into_keys().rev().take(cut) {
        storage.damage(&part_key(50, part), None);
    }
    (place, storage, sent)
}

/// With the mark beside it, a last group that was acknowledged is told from a torn one.
#[test]
fn the_mark_tells_a_torn_last_group_from_a_lost_one() {
    let place = Place::sled();
    let mut sent = filled(&place, 0);
    let before = std::fs::read(beside(&place.path(), ".mark")).unwrap();
    // A last group of several parts, of which the last is taken away.
    let (wal, _) = open(&place).unwrap();
    let last = events("last", 4, 4_000);
    append(&wal, &last);
    close(wal);
    {
        let storage = SledStorage::open(&place.path()).unwrap();
        storage.remove(&part_key(50, 2)).unwrap();
        storage.sync().unwrap();
    }
    assert_lost(open(&place), (50, 53));
    assert_lost(open(&place), (50, 53));

    // The same bytes, had nobody been told of the last group.
    std::fs::write(beside(&place.path(), ".mark"), before).unwrap();
    let (wal, _) = open(&place).unwrap();
    assert_holds(&wal, 0, &sent);
    let committed = append(&wal, &last[..1]);
    assert_eq!(
        committed.duplicates,
        [] as [u32; 0],
        "a torn event is not known"
    );
    sent.push(last[0].clone());
    close(wal);
    let (wal, _) = open(&place).unwrap();
    assert_holds(&wal, 0, &sent);
    close(wal);
}
