//! A record's bytes: `eventkit.log.v1.Record` (see `proto/eventkit/log/v1/record.proto`), written and read without
//! copying its parts.
//!
//! Hand-written over prost's primitives because the generated types own their strings; a test holds the two against each
//! other. Frames are records with their length before them (u32, little endian).

use bytes::{Buf as _, BufMut as _};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};

use crate::event::{Client, Event, Lane, PayloadFormat, TraceLink};

/// Bytes of a trace link: trace id, span id, flags.
const TRACE_BYTES: usize = 25;

/// Why a record could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not a record.
    #[error("not a record: {0}")]
    Malformed(&'static str),
    /// The payload's format is unknown to this version: a newer one wrote it.
    #[error("unknown payload format {0}")]
    UnknownFormat(u64),
}

/// Appends the event's record, with its length before it.
pub fn encode_frame(event: &Event<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u32_le(0);
    encode(event, out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_le_bytes());
    }
}

/// Appends the event's record.
pub fn encode(event: &Event<'_>, out: &mut Vec<u8>) {
    // The short fields first, so that who only wants the key or the lane does not walk past the payload.
    varint(
        out,
        1,
        match event.format {
            PayloadFormat::Json => 1,
            PayloadFormat::Event => 2,
        },
    );
    if event.source != crate::event::DEFAULT_SOURCE {
        bytes(out, 3, event.source.as_bytes());
    }
    bytes(out, 4, event.message_id.as_bytes());
    bytes(out, 5, event.stream.as_bytes());
    varint(out, 6, u64::from(event.lane.0));
    fixed(out, 7, event.received_at);
    if let Some(sent_at) = event.sent_at {
        fixed(out, 8, sent_at);
    }
    bytes(out, 9, event.kind.unwrap_or_default().as_bytes());
    varint(out, 10, u64::from(event.message_id_assigned));
    if let Some(trace) = event.trace {
        encode_key(11, WireType::LengthDelimited, out);
        encode_varint(TRACE_BYTES as u64, out);
        out.put_slice(&trace.trace_id);
        out.put_slice(&trace.span_id);
        out.put_u8(trace.flags);
    }
    bytes(out, 12, event.batch_context);
    bytes(out, 13, event.batch_integrations);
    bytes(out, 14, event.client.ip.unwrap_or_default().as_bytes());
    bytes(
        out,
        15,
        event.client.user_agent.unwrap_or_default().as_bytes(),
    );
    bytes(out, 2, event.payload);
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.put_slice(value);
    }
}

fn varint(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn fixed(out: &mut Vec<u8>, tag: u32, value: i64) {
    encode_key(tag, WireType::SixtyFourBit, out);
    out.put_i64_le(value);
}

/// Reads a record.
///
/// # Errors
///
/// [`RecordError`]; the caller keeps the bytes.
pub fn decode(record: &[u8]) -> Result<Event<'_>, RecordError> {
    let mut event = Event {
        format: PayloadFormat::Json,
        payload: &[],
        source: crate::event::DEFAULT_SOURCE,
        message_id: "",
        message_id_assigned: false,
        stream: "",
        kind: None,
        lane: Lane(0),
        received_at: 0,
        sent_at: None,
        trace: None,
        batch_context: &[],
        batch_integrations: &[],
        client: Client::default(),
    };
    let mut format = 0;
    let mut rest = record;
    while !rest.is_empty() {
        let (tag, wire) =
            decode_key(&mut rest).map_err(|_malformed| RecordError::Malformed("field key"))?;
        match (tag, wire) {
            (1, WireType::Varint) => format = number(&mut rest)?,
            (2, WireType::LengthDelimited) => event.payload = slice(&mut rest)?,
            (3, WireType::LengthDelimited) => {
                event.source = given(&mut rest)?.unwrap_or(crate::event::DEFAULT_SOURCE);
            }
            (4, WireType::LengthDelimited) => event.message_id = text(&mut rest)?,
            (5, WireType::LengthDelimited) => event.stream = text(&mut rest)?,
            (6, WireType::Varint) => {
                let lane = u16::try_from(number(&mut rest)?);
                event.lane = Lane(lane.map_err(|_over| RecordError::Malformed("lane"))?);
            }
            (7, WireType::SixtyFourBit) => event.received_at = signed(&mut rest)?,
            (8, WireType::SixtyFourBit) => event.sent_at = Some(signed(&mut rest)?),
            (9, WireType::LengthDelimited) => event.kind = given(&mut rest)?,
            (10, WireType::Varint) => event.message_id_assigned = number(&mut rest)? != 0,
            (11, WireType::LengthDelimited) => event.trace = Some(trace(slice(&mut rest)?)?),
            (12, WireType::LengthDelimited) => event.batch_context = slice(&mut rest)?,
            (13, WireType::LengthDelimited) => event.batch_integrations = slice(&mut rest)?,
            (14, WireType::LengthDelimited) => event.client.ip = given(&mut rest)?,
            (15, WireType::LengthDelimited) => event.client.user_agent = given(&mut rest)?,
            // A newer version's field: it said that older ones can do without.
            _ => skip_field(
                wire,
                tag,
                &mut rest,
                prost::encoding::DecodeContext::default(),
            )
            .map_err(|_malformed| RecordError::Malformed("unknown field"))?,
        }
    }
    event.format = match format {
        1 => PayloadFormat::Json,
        2 => PayloadFormat::Event,
        other => return Err(RecordError::UnknownFormat(other)),
    };
    if event.message_id.is_empty() || event.stream.is_empty() {
        return Err(RecordError::Malformed("no message id or stream"));
    }
    Ok(event)
}

/// Lane and time of receipt of a record, without reading the rest; lane 0 and 1970 where the bytes are not a record, so that
/// a worker gets to see and report them.
#[must_use]
pub fn place(record: &[u8]) -> (Lane, crate::event::Micros) {
    fn fields(mut rest: &[u8]) -> Option<(Lane, crate::event::Micros)> {
        let mut lane = Lane(0);
        loop {
            match decode_key(&mut rest).ok()? {
                (6, WireType::Varint) => lane = Lane(u16::try_from(number(&mut rest).ok()?).ok()?),
                (7, WireType::SixtyFourBit) => return Some((lane, signed(&mut rest).ok()?)),
                (_, WireType::LengthDelimited) => drop(slice(&mut rest).ok()?),
                (tag, wire) => {
                    let context = prost::encoding::DecodeContext::default();
                    skip_field(wire, tag, &mut rest, context).ok()?;
                }
            }
        }
    }
    fields(record).unwrap_or((Lane(0), 0))
}

/// The trace link of a record, without reading the rest; `None` also where the bytes are not a record.
#[must_use]
pub fn trace_link(record: &[u8]) -> Option<TraceLink> {
    let mut rest = record;
    // Every record is walked through twice for it and most have none: all keys before it are one byte.
    loop {
        let (key, tail) = rest.split_first()?;
        rest = tail;
        match (key >> 3, key & 7) {
            (11, 2) => return trace(slice(&mut rest).ok()?).ok(),
            // The payload comes last.
            (2 | 12.., _) => return None,
            (_, 0) => drop(number(&mut rest).ok()?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => drop(slice(&mut rest).ok()?),
            _ => return None,
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<u64, RecordError> {
    decode_varint(rest).map_err(|_malformed| RecordError::Malformed("varint"))
}

fn signed(rest: &mut &[u8]) -> Result<i64, RecordError> {
    rest.try_get_i64_le()
        .map_err(|_short| RecordError::Malformed("fixed64"))
}

fn slice<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], RecordError> {
    let length = usize::try_from(number(rest)?).unwrap_or(usize::MAX);
    let (value, tail) = rest
        .split_at_checked(length)
        .ok_or(RecordError::Malformed("length beyond the end"))?;
    *rest = tail;
    Ok(value)
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, RecordError> {
    std::str::from_utf8(slice(rest)?).map_err(|_invalid| RecordError::Malformed("not UTF-8"))
}

/// A text, which is not there when it is empty: as protobuf has it.
fn given<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a str>, RecordError> {
    Ok(Some(text(rest)?).filter(|text| !text.is_empty()))
}

fn trace(value: &[u8]) -> Result<TraceLink, RecordError> {
    let wrong = RecordError::Malformed("trace");
    let (trace_id, rest) = value.split_first_chunk().ok_or(wrong.clone())?;
    let (span_id, flags) = rest.split_first_chunk().ok_or(wrong.clone())?;
    match *flags {
        [flags] => Ok(TraceLink {
            trace_id: *trace_id,
            span_id: *span_id,
            flags,
        }),
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::log::Record;

    /// What an earlier or other writer may write, and ours never does (found by fuzzing).
    #[test]
    fn a_text_that_is_empty_is_not_there() {
        let mut bytes = vec![0x08, 1, 0x22, 1, b'm', 0x2a, 1, b's'];
        for tag in [3, 9, 14, 15] {
            bytes.extend([tag << 3 | 2, 0]);
        }
        let event = decode(&bytes).unwrap();
        assert_eq!(event.source, crate::event::DEFAULT_SOURCE);
        assert_eq!((event.kind, event.client), (None, Client::default()));
    }

    fn event() -> Event<'static> {
        Event {
            format: PayloadFormat::Json,
            payload: b"{\"a\":1}",
            source: "web",
            message_id: "m-1",
            message_id_assigned: true,
            stream: "events",
            kind: Some("track"),
            lane: Lane(11),
            received_at: 1_700_000_000_000_000,
            sent_at: Some(-5),
            trace: Some(TraceLink {
                trace_id: [1; 16],
                span_id: [2; 8],
                flags: 1,
            }),
            batch_context: b"{}",
            batch_integrations: b"{\"All\":true}",
            client: Client {
                ip: Some("2001:db8::1"),
                user_agent: Some("Mozilla/5.0"),
            },
        }
    }

    #[test]
    fn the_generated_message_reads_what_is_written_here() {
        let mut bytes = Vec::new();
        encode(&event(), &mut bytes);
        let record = Record::decode(bytes.as_slice()).unwrap();
        assert_eq!(record.payload.as_ref(), b"{\"a\":1}");
        assert_eq!(
            (record.source.as_str(), record.message_id.as_str()),
            ("web", "m-1")
        );
        assert_eq!(
            (record.stream.as_str(), record.r#type.as_str()),
            ("events", "track")
        );
        assert_eq!((record.lane, record.message_id_assigned), (11, true));
        assert_eq!(
            (record.received_at_us, record.sent_at_us),
            (1_700_000_000_000_000, Some(-5))
        );
        assert_eq!(record.trace.len(), TRACE_BYTES);
        assert_eq!(record.batch_context.as_ref(), b"{}");
        assert_eq!(record.batch_integrations.as_ref(), b"{\"All\":true}");
        assert_eq!(
            (record.client_ip.as_str(), record.user_agent.as_str()),
            ("2001:db8::1", "Mozilla/5.0")
        );
        assert_eq!(decode(&record.encode_to_vec()), Ok(event()));
        assert_eq!(place(&bytes), (Lane(11), 1_700_000_000_000_000));
        assert_eq!(place(b"not a record"), (Lane(0), 0));
        assert_eq!(trace_link(&bytes), event().trace);
        assert_eq!(trace_link(b"not a record"), None);
    }

    #[test]
    fn defaults_are_not_written_and_come_back() {
        let mut bare = event();
        bare.source = crate::event::DEFAULT_SOURCE;
        (bare.kind, bare.sent_at, bare.trace) = (None, None, None);
        (bare.batch_context, bare.batch_integrations) = (&[], &[]);
        (bare.lane, bare.message_id_assigned) = (Lane(0), false);
        bare.client = Client::default();
        let mut bytes = Vec::new();
        encode(&bare, &mut bytes);
        assert_eq!(trace_link(&bytes), None);
        assert_eq!(decode(&bytes), Ok(bare));
    }

    #[test]
    fn a_record_from_before_clients_were_named_reads_and_ends_with_its_payload() {
        let old = Event {
            client: Client::default(),
            ..event()
        };
        // Written by hand, field by field, as they were before 14 and 15 came.
        let mut bytes = Vec::new();
        bytes.extend_from_slice(b"\x08\x01\x1a\x03web\x22\x03m-1\x2a\x06events\x30\x0b\x39");
        bytes.extend_from_slice(&1_700_000_000_000_000i64.to_le_bytes());
        bytes.push(0x41);
        bytes.extend_from_slice(&(-5i64).to_le_bytes());
        bytes.extend_from_slice(b"\x4a\x05track\x50\x01\x5a\x19");
        bytes.extend_from_slice(&[[1; 16].as_slice(), &[2; 8], &[1]].concat());
        bytes.extend_from_slice(b"\x62\x02{}\x6a\x0c{\"All\":true}\x12\x07{\"a\":1}");
        assert_eq!(decode(&bytes), Ok(old.clone()));
        let mut written = Vec::new();
        encode(&old, &mut written);
        assert_eq!(written, bytes);
        let mut new = Vec::new();
        encode(&event(), &mut new);
        assert!(new.ends_with(b"\x12\x07{\"a\":1}"), "the payload is last");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let mut bytes = Vec::new();
        encode(&event(), &mut bytes);
        for cut in 0..bytes.len() {
            assert_ne!(decode(&bytes[..cut]), Ok(event()), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x5a;
            // Some flips leave a record that reads (the frame's CRC is what notices); none may panic.
            drop(decode(&flipped));
        }
    }

    #[test]
    fn an_unknown_format_is_told_apart_from_damage() {
        let record = Record {
            format: 9,
            message_id: "m".into(),
            stream: "s".into(),
            ..Record::default()
        };
        assert_eq!(
            decode(&record.encode_to_vec()),
            Err(RecordError::UnknownFormat(9))
        );
    }
}
