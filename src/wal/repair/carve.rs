//! Parts found in an engine's file without the engine: by the look of their header and by their own checksum.
//!
//! sled writes a value in one piece with its length before it, at first together with its key (which may lack a prefix that
//! the keys around it share), later in a page that holds all keys before all values. The checksum covers the key as well: a key
//! that is guessed is either the right one or none. Groups are dense, so there are few keys to be guessed: those of a group
//! whose other parts are known, and those that begin where a known group ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::salvage::Salvage;
use crate::event::Offset;
use crate::wal::frame::{self, PART_BYTES_MAX, PART_HEADER_BYTES};

/// Bytes that are searched at a time.
const WINDOW: usize = 4 << 20;
/// What must still lie in the window around a header: a key with its length before it, and a whole part behind it.
const BEFORE: usize = 16;
const BEHIND: usize = PART_BYTES_MAX + 100;
/// The most keys that are tried for one value.
const KEYS_MAX: u64 = 512;
/// A part's key, in bytes.
const KEY_BYTES: usize = 11;

/// A value that looks like a part and whose key is not beside it.
struct Stray {
    position: u64,
    value: Vec<u8>,
}

/// Searches a file and adds what it finds; offsets from `end` on are not looked for.
pub(super) fn carve(salvage: &mut Salvage, file: File, end: Offset) -> io::Result<()> {
    let length = file.metadata()?.len();
    let reader = file.try_clone()?;
    let source = salvage.add_raw(file);
    let mut strays = Vec::new();
    let mut window = vec![0; WINDOW];
    let mut start = 0u64;
    while start < length {
        let read = read_at(&reader, &mut window, start)?;
        let bytes = window.get(..read).unwrap_or_default();
        let last = start + read as u64 >= length;
        let until = if last { read } else { read - BEHIND };
        for at in BEFORE..until {
            for value in values_at(bytes, at) {
                let position = start + at as u64;
                match key_before(bytes, at, value, end) {
                    Some(key) => salvage.add_bytes(source, &key, position, value),
                    None if frame::looks_like_part(value) => strays.push(Stray {
                        position,
                        value: value.to_vec(),
                    }),
                    None => {}
                }
            }
        }
        if last {
            break;
        }
        start += (until - BEFORE) as u64;
    }
    place(salvage, source, strays);
    Ok(())
}

fn read_at(file: &File, window: &mut [u8], start: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = window.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// The values that may begin here: a part's header, and before it a length that fits.
fn values_at(bytes: &[u8], at: usize) -> impl Iterator<Item = &[u8]> {
    let header = bytes.get(at..at + PART_HEADER_BYTES);
    let likely = header.is_some_and(|header| {
        header.first() == Some(&frame::FORMAT) && frame::looks_like_part(header)
    });
    let lengths = if likely {
        [1, 2, 3].map(|width| length_before(bytes, at, width))
    } else {
        [None; 3]
    };
    lengths
        .into_iter()
        .flatten()
        .filter(|length| (PART_HEADER_BYTES..=PART_BYTES_MAX).contains(length))
        .filter_map(move |length| bytes.get(at..at + length))
}

/// The length in the `width` bytes before a place, in the engine's spelling of numbers.
fn length_before(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    match (bytes.get(at.checked_sub(width)?..at)?, width) {
        (&[byte], 1) if byte <= 240 => Some(usize::from(byte)),
        (&[high @ 241..=248, low], 2) => {
            Some(240 + 256 * (usize::from(high) - 241) + usize::from(low))
        }
        (&[249, high, low], 3) => Some(2_288 + 256 * usize::from(high) + usize::from(low)),
        _ => None,
    }
}

fn width_of(length: usize) -> usize {
    match length {
        0..=240 => 1,
        241..=2_287 => 2,
        _ => 3,
    }
}

/// The key that lies before a value, with what it lacks put back.
fn key_before(bytes: &[u8], at: usize, value: &[u8], end: Offset) -> Option<[u8; KEY_BYTES]> {
    let key_end = at.checked_sub(width_of(value.len()))?;
    (2..=KEY_BYTES).rev().find_map(|length| {
        let begin = key_end.checked_sub(length)?;
        let tail = bytes.get(begin..key_end)?;
        let said = *bytes.get(begin.checked_sub(1)?)?;
        if usize::from(said) != length {
            return None;
        }
        completed(tail, end).find(|key| frame::decode_part(key, value).is_ok())
    })
}

/// All keys that end so, with offsets below the end.
fn completed(tail: &[u8], end: Offset) -> impl Iterator<Item = [u8; KEY_BYTES]> {
    // Of the 11 bytes, one is the kind, eight the offset, two the part.
    let offset_bytes = tail.len().saturating_sub(2).min(8);
    let shift = u32::try_from(8 * offset_bytes).unwrap_or(64);
    let highest = end.checked_shr(shift).unwrap_or(0);
    (0..=highest.min(KEYS_MAX)).filter_map(move |high| {
        let shifted = high.checked_shl(shift).unwrap_or(0);
        let mut key = frame::part_key(shifted, 0);
        let place = key.len().checked_sub(tail.len())?;
        key.get_mut(place..)?.copy_from_slice(tail);
        Some(key)
    })
}

/// Finds the keys of values without one, as long as each that is found tells where the next may belong.
fn place(salvage: &mut Salvage, source: usize, mut strays: Vec<Stray>) {
    loop {
        let before = strays.len();
        let (gaps, known) = (salvage.gaps(), salvage.firsts());
        strays.retain(|stray| {
            let Some((nonce, part)) = frame::nonce_and_part(&stray.value) else {
                return false;
            };
            let first = known.get(&nonce).copied();
            let firsts = first.map_or_else(|| gaps.clone(), |first| vec![first]);
            let key = firsts
                .into_iter()
                .take(usize::try_from(KEYS_MAX).unwrap_or(usize::MAX))
                .map(|first| frame::part_key(first, part))
                .find(|key| frame::decode_part(key, &stray.value).is_ok());
            match key {
                Some(key) => {
                    salvage.add_bytes(source, &key, stray.position, &stray.value);
                    false
                }
                None => true,
            }
        });
        if strays.len() == before || strays.is_empty() {
            return;
        }
    }
}
