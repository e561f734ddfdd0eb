//! A batch's wire form: `eventkit.queue.v1.BatchMessage` (see `proto/eventkit/queue/v1/batch.proto`). Pure.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message as _;

use super::{Batch, input_hash};
use crate::event::{BatchId, Day, Lane, LogId, Offset};
use crate::proto::queue as proto;

/// The format that is written.
pub const FORMAT: u32 = 1;

/// What a batch may measure when it is unpacked: one limit for those who write and for what is believed of a size that
/// came over the network.
pub const UNPACKED_MAX: usize = 24 << 20;

/// Why a message is not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer version wrote it.
    #[error("unknown batch format {0}")]
    UnknownFormat(u32),
    /// It is not what was written.
    #[error("damaged batch: {0}")]
    Damaged(Cow<'static, str>),
}

/// The batch and the label of the gateway that sealed it, as one message.
#[must_use]
pub fn encode(batch: &Batch, node: &str) -> Bytes {
    let mut before = 0;
    let steps = batch.records.iter().map(|&(offset, _)| {
        let step = offset - before;
        before = offset;
        step
    });
    let batch = proto::Batch {
        log_id: batch.id.log_id.0.to_be_bytes().to_vec().into(),
        lane: u32::from(batch.id.lane.0),
        number: batch.id.number,
        input_hash: batch.id.input_hash,
        day: batch.day.0,
        node: node.to_owned(),
        offset_steps: steps.collect(),
        records: batch
            .records
            .iter()
            .map(|(_, bytes)| bytes.clone())
            .collect(),
    };
    let body = lz4_flex::compress_prepend_size(&batch.encode_to_vec());
    let message = proto::BatchMessage {
        format: FORMAT,
        crc32c: crc32c::crc32c(&body),
        body: body.into(),
    };
    message.encode_to_vec().into()
}

/// Reads a message: the batch, and the label of the gateway that sealed it.
///
/// # Errors
///
/// [`DecodeError`].
pub fn decode(message: Bytes) -> Result<(Batch, String), DecodeError> {
    let message = proto::BatchMessage::decode(message).map_err(|_error| damaged("no message"))?;
    if message.format != FORMAT {
        return Err(match message.format {
            // What a message without its first field looks like.
            0 => damaged("no format"),
            newer => DecodeError::UnknownFormat(newer),
        });
    }
    if crc32c::crc32c(&message.body) != message.crc32c {
        return Err(damaged("its checksum does not match"));
    }
    let size = message.body.first_chunk().copied().map(u32::from_le_bytes);
    if size.is_none_or(|size| size as usize > UNPACKED_MAX) {
        return Err(damaged("its size is not believable"));
    }
    let unpacked = lz4_flex::decompress_size_prepended(&message.body)
        .map_err(|_error| damaged("it cannot be unpacked"))?;
    let batch =
        proto::Batch::decode(Bytes::from(unpacked)).map_err(|_error| damaged("no batch"))?;
    assemble(batch)
}

fn assemble(batch: proto::Batch) -> Result<(Batch, String), DecodeError> {
    let log_id =
        <[u8; 16]>::try_from(batch.log_id.as_ref()).map_err(|_error| damaged("no log id"))?;
    let lane = u16::try_from(batch.lane).map_err(|_error| damaged("no lane"))?;
    if batch.offset_steps.len() != batch.records.len() {
        return Err(damaged("offsets and records do not pair up"));
    }
    let mut offset: Offset = 0;
    let mut records = Vec::with_capacity(batch.records.len());
    for (step, bytes) in batch.offset_steps.into_iter().zip(batch.records) {
        offset = offset
            .checked_add(step)
            .filter(|_| step > 0 || records.is_empty())
            .ok_or_else(|| damaged("offsets do not ascend"))?;
        records.push((offset, bytes));
    }
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Err(damaged("it is empty"));
    };
    let id = BatchId {
        log_id: LogId(u128::from_be_bytes(log_id)),
        lane: Lane(lane),
        number: batch.number,
        first: first.0,
        last: last.0,
        input_hash: batch.input_hash,
    };
    if input_hash(&records) != id.input_hash {
        return Err(damaged("its records are not what was sealed"));
    }
    let day = Day(batch.day);
    let sent_in = Vec::new();
    Ok((
        Batch {
            id,
            day,
            records,
            sent_in,
        },
        batch.node,
    ))
}

fn damaged(what: &'static str) -> DecodeError {
    DecodeError::Damaged(Cow::Borrowed(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(first: Offset, records: &[(u64, &[u8])]) -> Batch {
        let mut offset = first;
        let records: Vec<_> = records
            .iter()
            .map(|(step, bytes)| {
                offset += step;
                (offset, Bytes::copy_from_slice(bytes))
            })
            .collect();
        Batch {
            id: BatchId {
                log_id: LogId(7 << 100),
                lane: Lane(3),
                number: 41,
                first: records[0].0,
                last: records[records.len() - 1].0,
                input_hash: input_hash(&records),
            },
            day: Day(20_000),
            records,
            sent_in: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn a_batch_is_read_as_it_was_written(
            first in 0..u64::MAX / 2,
            records in prop::collection::vec((1_u64..1_000, prop::collection::vec(any::<u8>(), 0..50)), 1..20),
        ) {
            let records: Vec<_> = records.iter().map(|(step, bytes)| (*step, bytes.as_slice())).collect();
            let batch = batch(first, &records);
            prop_assert_eq!(decode(encode(&batch, "a node")), Ok((batch, "a node".to_owned())));
        }

        #[test]
        fn no_flipped_byte_goes_unnoticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let batch = batch(5, &[(1, b"one"), (9, b"two")]);
            let mut message = encode(&batch, "node").to_vec();
            let at = at.index(message.len());
            message[at] ^= flip;
            match decode(message.into()) {
                // The format's own byte: another version's, as far as anyone can tell.
                Err(DecodeError::UnknownFormat(_)) => prop_assert_eq!(at, 1),
                other => prop_assert!(matches!(other, Err(DecodeError::Damaged(_))), "byte {}", at),
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(bytes.into()).is_err());
        }
    }

    #[test]
    fn a_newer_format_and_an_unbelievable_size_are_told_apart() {
        let newer = proto::BatchMessage {
            format: 2,
            ..Default::default()
        };
        assert_eq!(
            decode(newer.encode_to_vec().into()),
            Err(DecodeError::UnknownFormat(2))
        );
        let body = vec![0xff; 64];
        let huge = proto::BatchMessage {
            format: 1,
            crc32c: crc32c::crc32c(&body),
            body: body.into(),
        };
        assert_eq!(
            decode(huge.encode_to_vec().into()),
            Err(damaged("its size is not believable"))
        );
    }
}
