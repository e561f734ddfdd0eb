//! The log's bytes on disk: keys, parts, seals, checkpoint, header. All integers in values are little endian, all
//! integers in keys big endian (so that keys sort by number). ARCHITECTURE.md shows the same as a table.
//!
//! A *group* is what one commit appended: its frames (each record with its length before it), compressed as a whole, cut into
//! *parts* of at most [`PART_BYTES_MAX`]. Every part carries the group's nonce and number of parts, so that a part
//! which a torn group left behind is never taken for one of the group that later got the same offsets.

use crc32c::{crc32c, crc32c_append};

use super::{Checkpoint, LaneCheckpoint, Seal};
use crate::event::{BatchId, Day, Lane, LogId, Micros, Offset};

/// The version of all of the below.
pub const FORMAT: u8 = 1;

/// The largest part, header included, in bytes.
pub const PART_BYTES_MAX: usize = 5_900;

/// A part's header, in bytes.
pub const PART_HEADER_BYTES: usize = 36;

/// Groups smaller than this are stored as they are.
const COMPRESS_BYTES_MIN: usize = 512;

const KIND_HEADER: u8 = 0;
const KIND_CHECKPOINT: u8 = 1;
const KIND_SEAL: u8 = 2;
const KIND_PART: u8 = 3;
const KIND_OPENED: u8 = 4;

const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;

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

/// What every part of a group says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHeader {
    /// Which part this is, from 0.
    pub part: u16,
    /// How many there are.
    pub parts: u16,
    /// Random per group.
    pub nonce: u64,
    /// Records in the group.
    pub records: u32,
    /// Bytes of the group's frames.
    pub plain_bytes: u32,
    /// CRC-32C of the group's frames.
    pub plain_crc: u32,
    codec: u8,
}

/// A part's key and value.
pub type Part = ([u8; 11], Vec<u8>);

/// Cuts a group into parts, in order.
///
/// # Errors
///
/// [`FrameError::Length`] for a group that is too large to be written: nothing of it may be.
pub fn encode_group(
    first: Offset,
    records: u32,
    nonce: u64,
    frames: &[u8],
) -> Result<Vec<Part>, FrameError> {
    let compressed = (frames.len() >= COMPRESS_BYTES_MIN)
        .then(|| lz4_flex::block::compress(frames))
        .filter(|compressed| compressed.len() < frames.len());
    let (codec, stored) = match &compressed {
        Some(compressed) => (CODEC_LZ4, compressed.as_slice()),
        None => (CODEC_NONE, frames),
    };
    let chunks = stored.chunks(PART_BYTES_MAX - PART_HEADER_BYTES);
    let header = PartHeader {
        part: 0,
        parts: u16::try_from(chunks.len()).map_err(|_over| FrameError::Length)?,
        nonce,
        records,
        plain_bytes: u32::try_from(frames.len()).map_err(|_over| FrameError::Length)?,
        plain_crc: crc32c(frames),
        codec,
    };
    let parts = chunks.zip(0u16..).map(|(chunk, part)| {
        let key = part_key(first, part);
        (key, encode_part(&key, PartHeader { part, ..header }, chunk))
    });
    Ok(parts.collect())
}

fn encode_part(key: &[u8], header: PartHeader, chunk: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(PART_HEADER_BYTES + chunk.len());
    value.extend([FORMAT, header.codec, 0, 0]);
    value.extend(header.part.to_le_bytes());
    value.extend(header.parts.to_le_bytes());
    value.extend(header.nonce.to_le_bytes());
    value.extend(header.records.to_le_bytes());
    value.extend(header.plain_bytes.to_le_bytes());
    value.extend(header.plain_crc.to_le_bytes());
    value.extend([0; 4]);
    value.extend(part_crc(key, &value, chunk).to_le_bytes());
    value.extend(chunk);
    value
}

/// The CRC covers the key as well: a value under a wrong key is damage too.
fn part_crc(key: &[u8], header: &[u8], chunk: &[u8]) -> u32 {
    crc32c_append(crc32c_append(crc32c(key), header), chunk)
}

/// Reads a part: its header and its share of the stored bytes.
///
/// # Errors
///
/// [`FrameError`].
pub fn decode_part<'a>(key: &[u8], value: &'a [u8]) -> Result<(PartHeader, &'a [u8]), FrameError> {
    let (head, chunk) = value
        .split_at_checked(PART_HEADER_BYTES)
        .ok_or(FrameError::Length)?;
    let (covered, crc) = head
        .split_at_checked(PART_HEADER_BYTES - 4)
        .ok_or(FrameError::Length)?;
    let mut fields = Fields(covered);
    let [format, codec, _, _] = fields.take()?;
    if format != FORMAT {
        return Err(FrameError::Format(format));
    }
    if crc != part_crc(key, covered, chunk).to_le_bytes() {
        return Err(FrameError::Checksum);
    }
    let header = PartHeader {
        part: u16::from_le_bytes(fields.take()?),
        parts: u16::from_le_bytes(fields.take()?),
        nonce: u64::from_le_bytes(fields.take()?),
        records: u32::from_le_bytes(fields.take()?),
        plain_bytes: u32::from_le_bytes(fields.take()?),
        plain_crc: u32::from_le_bytes(fields.take()?),
        codec,
    };
    Ok((header, chunk))
}

/// Whether bytes begin as a part's header does, whatever its key and checksum.
#[must_use]
pub(crate) fn looks_like_part(value: &[u8]) -> bool {
    let Some((head, _)) = value.split_first_chunk::<PART_HEADER_BYTES>() else {
        return false;
    };
    let number = |at: usize| match head.get(at..at + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    let zero = |range: std::ops::Range<usize>| {
        let mut bytes = head.get(range).unwrap_or_default().iter();
        bytes.all(|&byte| byte == 0)
    };
    let [format, codec, ..] = *head;
    format == FORMAT
        && codec <= CODEC_LZ4
        && zero(2..4)
        && zero(28..32)
        && !zero(16..20)
        && number(4) < number(6)
}

/// The nonce and the number of what looks like a part.
#[must_use]
pub(crate) fn nonce_and_part(value: &[u8]) -> Option<(u64, u16)> {
    let mut fields = Fields(value);
    let _format_and_codec: [u8; 4] = fields.take().ok()?;
    let part = u16::from_le_bytes(fields.take().ok()?);
    let _parts: [u8; 2] = fields.take().ok()?;
    Some((u64::from_le_bytes(fields.take().ok()?), part))
}

/// The format of a part that another version wrote: its checksum holds, so it is not a damaged one of ours.
#[must_use]
pub(crate) fn version_of_intact_part(key: &[u8], value: &[u8]) -> Option<u8> {
    let (head, chunk) = value.split_at_checked(PART_HEADER_BYTES)?;
    let (covered, crc) = head.split_last_chunk::<4>()?;
    let &format = covered.first()?;
    let intact = part_crc(key, covered, chunk).to_le_bytes() == *crc;
    (format != FORMAT && intact).then_some(format)
}

/// The same of the header and the checkpoint.
#[must_use]
pub(crate) fn version_of_intact(key: &[u8], value: &[u8]) -> Option<u8> {
    let (covered, crc) = value.split_last_chunk::<4>()?;
    let &format = covered.first()?;
    let intact = crc32c_append(crc32c(key), covered) == u32::from_le_bytes(*crc);
    (format != FORMAT && intact).then_some(format)
}

/// Puts a group's stored bytes (all parts in order) back into frames.
///
/// # Errors
///
/// [`FrameError`].
pub fn decode_group(header: &PartHeader, stored: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let plain_bytes = usize::try_from(header.plain_bytes).map_err(|_over| FrameError::Length)?;
    let frames = match header.codec {
        CODEC_NONE => stored,
        CODEC_LZ4 => lz4_flex::block::decompress(&stored, plain_bytes)
            .map_err(|_damaged| FrameError::Checksum)?,
        codec => return Err(FrameError::Codec(codec)),
    };
    if frames.len() != plain_bytes || crc32c(&frames) != header.plain_crc {
        return Err(FrameError::Checksum);
    }
    Ok(frames)
}

/// The ranges of the records within a group's frames.
///
/// # Errors
///
/// [`FrameError::Length`] when the frames do not add up to `records` records.
pub fn split_frames(
    frames: &[u8],
    records: u32,
) -> Result<Vec<std::ops::Range<usize>>, FrameError> {
    let mut ranges = Vec::with_capacity(usize::try_from(records).unwrap_or(0).min(1 << 16));
    let mut at = 0;
    while at < frames.len() {
        let prefix = frames
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        let length = u32::from_le_bytes(prefix.ok_or(FrameError::Length)?);
        let start = at + 4;
        let end = start + usize::try_from(length).map_err(|_over| FrameError::Length)?;
        if end > frames.len() {
            return Err(FrameError::Length);
        }
        ranges.push(start..end);
        at = end;
    }
    if u32::try_from(ranges.len()) == Ok(records) {
        Ok(ranges)
    } else {
        Err(FrameError::Length)
    }
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
