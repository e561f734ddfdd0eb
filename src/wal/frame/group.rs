//! The records of one commit as parts, and parts as records.
//!
//! A *group* is what one commit appended: its frames (each record with its length before it), compressed as a whole, cut into
//! *parts* of at most [`PART_BYTES_MAX`]. Every part carries the group's nonce and number of parts, so that a part
//! which a torn group left behind is never taken for one of the group that later got the same offsets.

use crc32c::{crc32c, crc32c_append};

use super::{FORMAT, Fields, FrameError, part_key};
use crate::event::Offset;

/// The largest part, header included, in bytes.
pub const PART_BYTES_MAX: usize = 5_900;

/// A part's header, in bytes.
pub const PART_HEADER_BYTES: usize = 36;

/// Groups smaller than this are stored as they are.
pub(super) const COMPRESS_BYTES_MIN: usize = 512;

pub(super) const CODEC_NONE: u8 = 0;
pub(super) const CODEC_LZ4: u8 = 1;
/// No byte of an LZ4 block stands for more than so many.
const LZ4_RATIO_MAX: usize = 255;

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
    pub(super) codec: u8,
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

/// Puts a group's stored bytes (all parts in order) back into frames.
///
/// # Errors
///
/// [`FrameError`].
pub fn decode_group(header: &PartHeader, stored: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let plain_bytes = usize::try_from(header.plain_bytes).map_err(|_over| FrameError::Length)?;
    let frames = match header.codec {
        CODEC_NONE => stored,
        // Not believed before memory is taken for it.
        CODEC_LZ4 if plain_bytes / LZ4_RATIO_MAX > stored.len() => return Err(FrameError::Length),
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
