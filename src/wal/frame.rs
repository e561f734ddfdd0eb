//! The log's bytes on disk: keys, parts, seals, checkpoint, header. All integers in values are little endian, all
//! integers in keys big endian (so that keys sort by number). ARCHITECTURE.md shows the same as a table.

use crc32c::{crc32c, crc32c_append};

use super::{Checkpoint, LaneCheckpoint, Seal};
use crate::event::{BatchId, Day, Lane, LogId, Micros, Offset};

mod group;

pub use group::{
    PART_BYTES_MAX, PART_HEADER_BYTES, Part, PartHeader, decode_group, decode_part, encode_group,
    split_frames,
};
pub(crate) use group::{looks_like_part, nonce_and_part, version_of_intact_part};

/// The version of all of the below.
pub const FORMAT: u8 = 1;

const KIND_HEADER: u8 = 0;
const KIND_CHECKPOINT: u8 = 1;
const KIND_SEAL: u8 = 2;
const KIND_PART: u8 = 3;
const KIND_OPENED: u8 = 4;

/// The key of the log's header.
pub const HEADER_KEY: [u8; 1] = [KIND_HEADER];
/// The key of the checkpoint.
pub const CHECKPOINT_KEY: [u8; 1] = [KIND_CHECKPOINT];
/// The key of the count of opens, the first write of each.
pub const OPENED_KEY: [u8; 1] = [KIND_OPENED];
/// Where the seals begin.
pub const SEALS_FROM: [u8; 1] = [KIND_SEAL];
/// Where the parts begin.
pub const PARTS_FROM: [u8; 1] = [KIND_PART];

/// Why stored bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A newer version wrote it.
    #[error("format {0} is not known to this version")]
    Format(u8),
    /// The codec is not known to this version.
    #[error("codec {0} is not known to this version")]
    Codec(u8),
    /// A checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// Lengths or counts do not fit each other.
    #[error("lengths do not fit")]
    Length,
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// [`HEADER_KEY`].
    Header,
    /// [`CHECKPOINT_KEY`].
    Checkpoint,
    /// [`OPENED_KEY`].
    Opened,
    /// A seal, by lane and number.
    Seal(Lane, u64),
    /// A part of the group whose first offset this is.
    Part(Offset, u16),
    /// None of ours.
    Unknown,
}

/// Reads a key.
#[must_use]
pub fn parse_key(key: &[u8]) -> Key {
    match key.split_first() {
        Some((&KIND_HEADER, [])) => Key::Header,
        Some((&KIND_CHECKPOINT, [])) => Key::Checkpoint,
        Some((&KIND_OPENED, [])) => Key::Opened,
        Some((&KIND_SEAL, rest)) => match split::<2, 8>(rest) {
            Some((lane, number)) => {
                Key::Seal(Lane(u16::from_be_bytes(lane)), u64::from_be_bytes(number))
            }
            None => Key::Unknown,
        },
        Some((&KIND_PART, rest)) => match split::<8, 2>(rest) {
            Some((first, part)) => Key::Part(u64::from_be_bytes(first), u16::from_be_bytes(part)),
            None => Key::Unknown,
        },
        _ => Key::Unknown,
    }
}

fn split<const A: usize, const B: usize>(bytes: &[u8]) -> Option<([u8; A], [u8; B])> {
    let (a, rest) = bytes.split_first_chunk::<A>()?;
    Some((*a, rest.try_into().ok()?))
}

/// The key of a part.
#[must_use]
pub fn part_key(first: Offset, part: u16) -> [u8; 11] {
    let mut key = [KIND_PART; 11];
    if let Some((_, rest)) = key.split_first_mut() {
        rest.copy_from_slice(&[&first.to_be_bytes()[..], &part.to_be_bytes()[..]].concat());
    }
    key
}

/// The key of a seal.
#[must_use]
pub fn seal_key(lane: Lane, number: u64) -> [u8; 11] {
    let mut key = [KIND_SEAL; 11];
    if let Some((_, rest)) = key.split_first_mut() {
        rest.copy_from_slice(&[&lane.0.to_be_bytes()[..], &number.to_be_bytes()[..]].concat());
    }
    key
}

/// The format of a header or a checkpoint that another version wrote: its checksum holds, so it is not a damaged one of ours.
#[must_use]
pub(crate) fn version_of_intact(key: &[u8], value: &[u8]) -> Option<u8> {
    let (covered, crc) = value.split_last_chunk::<4>()?;
    let &format = covered.first()?;
    let intact = crc32c_append(crc32c(key), covered) == u32::from_le_bytes(*crc);
    (format != FORMAT && intact).then_some(format)
}

/// What a log says about itself, written once when it is created (and again when its lanes change).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its identity.
    pub log_id: LogId,
    /// The key of its fingerprints.
    pub secret: [u8; 16],
    /// Its number of lanes.
    pub lanes: u16,
    /// When it was created.
    pub created_at: Micros,
}

impl Header {
    /// The value under [`HEADER_KEY`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![FORMAT];
        value.extend(self.log_id.0.to_le_bytes());
        value.extend(self.secret);
        value.extend(self.lanes.to_le_bytes());
        value.extend(self.created_at.to_le_bytes());
        checked(&HEADER_KEY, value)
    }

    /// Reads the value under [`HEADER_KEY`].
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    pub fn decode(value: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(unchecked(&HEADER_KEY, value)?);
        Ok(Self {
            log_id: LogId(u128::from_le_bytes(fields.take()?)),
            secret: fields.take()?,
            lanes: u16::from_le_bytes(fields.take()?),
            created_at: i64::from_le_bytes(fields.take()?),
        })
    }
}

/// The value under [`CHECKPOINT_KEY`].
#[must_use]
pub fn encode_checkpoint(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend(checkpoint.offset.to_le_bytes());
    for lane in &checkpoint.lanes {
        value.extend(lane.next_number.to_le_bytes());
        value.extend(lane.settled_below.to_le_bytes());
    }
    checked(&CHECKPOINT_KEY, value)
}

/// Reads the value under [`CHECKPOINT_KEY`].
///
/// # Errors
///
/// [`FrameError`].
pub fn decode_checkpoint(value: &[u8]) -> Result<Checkpoint, FrameError> {
    let mut fields = Fields(unchecked(&CHECKPOINT_KEY, value)?);
    let mut checkpoint = Checkpoint {
        offset: u64::from_le_bytes(fields.take()?),
        lanes: Vec::new(),
    };
    while !fields.0.is_empty() {
        checkpoint.lanes.push(LaneCheckpoint {
            next_number: u64::from_le_bytes(fields.take()?),
            settled_below: u64::from_le_bytes(fields.take()?),
        });
    }
    Ok(checkpoint)
}

/// The key and value of a seal.
#[must_use]
pub fn encode_seal(seal: &Seal) -> ([u8; 11], Vec<u8>) {
    let key = seal_key(seal.batch.lane, seal.batch.number);
    let mut value = vec![FORMAT];
    value.extend(seal.batch.first.to_le_bytes());
    value.extend(seal.batch.last.to_le_bytes());
    value.extend(seal.batch.input_hash.to_le_bytes());
    value.extend(seal.count.to_le_bytes());
    value.extend(seal.day.0.to_le_bytes());
    (key, checked(&key, value))
}

/// Reads a seal of a log.
///
/// # Errors
///
/// [`FrameError`].
pub fn decode_seal(
    log_id: LogId,
    lane: Lane,
    number: u64,
    value: &[u8],
) -> Result<Seal, FrameError> {
    let mut fields = Fields(unchecked(&seal_key(lane, number), value)?);
    let first = u64::from_le_bytes(fields.take()?);
    let last = u64::from_le_bytes(fields.take()?);
    let input_hash = u64::from_le_bytes(fields.take()?);
    Ok(Seal {
        batch: BatchId {
            log_id,
            lane,
            number,
            first,
            last,
            input_hash,
        },
        count: u32::from_le_bytes(fields.take()?),
        day: Day(i32::from_le_bytes(fields.take()?)),
    })
}

/// Appends the CRC-32C of key and value.
fn checked(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = crc32c_append(crc32c(key), &value);
    value.extend(crc.to_le_bytes());
    value
}

/// Checks format and CRC, and returns what is between them.
fn unchecked<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let (covered, crc) = value.split_last_chunk::<4>().ok_or(FrameError::Length)?;
    let (&format, fields) = covered.split_first().ok_or(FrameError::Length)?;
    if format != FORMAT {
        return Err(FrameError::Format(format));
    }
    if crc32c_append(crc32c(key), covered) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Checksum);
    }
    Ok(fields)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(FrameError::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests;
