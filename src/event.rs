//! The words every stage uses: event, key, offset, lane, log id, trace link.
//!
//! Nothing here knows serde, protobuf or I/O.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::Xxh3;

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// The place of an event in its log: dense, counted from 0, shared by all lanes.
pub type Offset = u64;

/// Microseconds in a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// The longest message id that the gateway holds, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;

/// The source of events whose sender has no name.
pub const DEFAULT_SOURCE: &str = "default";

/// The stream of events that name none.
pub const DEFAULT_STREAM: &str = "default";

/// One of N ordered partitions: events of one routing key share a lane and keep their order in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lane(pub u16);

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a log: random, new whenever a log is created or repaired. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u128);

impl LogId {
    /// A new identity.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

impl FromStr for LogId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// What makes an event the same event everywhere: edge filter, unique index, merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventKey<'a> {
    /// Who sent it; never empty.
    pub source: &'a str,
    /// The sender's id for it, or the one that the gateway invented; never empty.
    pub message_id: &'a str,
}

/// How an event's payload is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadFormat {
    /// One JSON object in UTF-8.
    Json,
    /// An encoded `eventkit.v1.Event`.
    Event,
}

/// The W3C trace context of a sampled event, 25 bytes in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceLink {
    /// The trace id, big endian.
    pub trace_id: [u8; 16],
    /// The span id of the request that carried the event, big endian.
    pub span_id: [u8; 8],
    /// The W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
}

impl TraceLink {
    /// Whether whoever began the trace records it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The trace id as people and back ends write it: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id_text(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    /// The span id in the same way: 16 of them.
    #[must_use]
    pub fn span_id_text(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.span_id))
    }
}

impl fmt::Display for TraceLink {
    /// As in the header `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id_text(),
            self.span_id_text(),
            self.flags
        )
    }
}

/// A text is not a `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct NoTraceparent;

impl FromStr for TraceLink {
    type Err = NoTraceparent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        fn number<T>(
            digits: Option<&str>,
            length: usize,
            read: impl Fn(&str, u32) -> Result<T, std::num::ParseIntError>,
        ) -> Result<T, NoTraceparent> {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            digits
                .filter(|digits| digits.len() == length && digits.bytes().all(is_digit))
                .and_then(|digits| read(digits, 16).ok())
                .ok_or(NoTraceparent)
        }
        let mut parts = text.split('-');
        let version = number(parts.next(), 2, u8::from_str_radix)?;
        let trace_id = number(parts.next(), 32, u128::from_str_radix)?;
        let span_id = number(parts.next(), 16, u64::from_str_radix)?;
        let flags = number(parts.next(), 2, u8::from_str_radix)?;
        // A later version may add parts; this one has none.
        let is_whole = version < 0xff && (version > 0 || parts.next().is_none());
        if !is_whole || trace_id == 0 || span_id == 0 {
            return Err(NoTraceparent);
        }
        Ok(Self {
            trace_id: trace_id.to_be_bytes(),
            span_id: span_id.to_be_bytes(),
            flags,
        })
    }
}

/// The browser or telephone that sent an event, as the gateway saw it; empty where a server sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client<'a> {
    /// Its address.
    pub ip: Option<&'a str>,
    /// Its user agent.
    pub user_agent: Option<&'a str>,
}

impl Client<'_> {
    /// Bytes that it adds to each event.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = |text: Option<&str>| text.map_or(0, str::len);
        bytes(self.ip) + bytes(self.user_agent)
    }
}

/// What a client sent, once admitted: its own bytes and what the gateway decided about them.
///
/// Borrowed, so that it can be written to and read from a log without copying its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// How `payload` is to be read.
    pub format: PayloadFormat,
    /// The bytes of this one event exactly as the client sent them.
    pub payload: &'a [u8],
    /// Who sent it; never empty.
    pub source: &'a str,
    /// The event's id within its source; never empty, at most [`MESSAGE_ID_BYTES_MAX`].
    pub message_id: &'a str,
    /// True when the gateway had to invent `message_id`.
    pub message_id_assigned: bool,
    /// Where it is stored; never empty.
    pub stream: &'a str,
    /// The type, where the path gives it; else the payload says.
    pub kind: Option<&'a str>,
    /// The lane that keeps its order.
    pub lane: Lane,
    /// When the gateway received it, by its wall clock.
    pub received_at: Micros,
    /// When the client says it sent the request that carried the event.
    pub sent_at: Option<Micros>,
    /// The trace that the event belongs to, if that is sampled.
    pub trace: Option<TraceLink>,
    /// The batch's shared context as a JSON object (empty: none); the event's own keys win.
    pub batch_context: &'a [u8],
    /// The batch's shared integrations as a JSON object (empty: none); the event's own keys win.
    pub batch_integrations: &'a [u8],
    /// Who sent it, where that is a client itself; fills what the context does not say.
    pub client: Client<'a>,
}

impl<'a> Event<'a> {
    /// The event's key.
    #[must_use]
    pub fn key(&self) -> EventKey<'a> {
        EventKey {
            source: self.source,
            message_id: self.message_id,
        }
    }
}

/// A day in UTC, as the number of days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

impl Day {
    /// The day that holds a moment.
    #[must_use]
    pub fn of(at: Micros) -> Self {
        let days = at.div_euclid(DAY_MICROS);
        Self(i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX }))
    }
}

impl fmt::Display for Day {
    /// `YYYY-MM-DD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = chrono::DateTime::from_timestamp(i64::from(self.0) * 86_400, 0)
            .unwrap_or(chrono::DateTime::<chrono::Utc>::MIN_UTC);
        write!(f, "{}", date.format("%Y-%m-%d"))
    }
}

/// The identity of a sealed batch: which events of which lane of which log, under which dense number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// The log that the events lie in.
    pub log_id: LogId,
    /// Their lane.
    pub lane: Lane,
    /// Dense per lane, from 0: consecutive batches can be told from a gap.
    pub number: u64,
    /// The offset of the first event.
    pub first: Offset,
    /// The offset of the last event; the offsets between belong to this lane only in part.
    pub last: Offset,
    /// xxh3-64 over the input: every record's length (u32, little endian) and bytes, in order. In the names of what is stored also
    /// over what was judged to be an error, see [`judged`](Self::judged).
    pub input_hash: u64,
}

impl BatchId {
    /// The identity under which a batch is stored when the events at these offsets became error rows: its own when there are none,
    /// else another for each set of them.
    ///
    /// An upgraded writer may judge differently. Did it write under the names of the one before, which died between a batch's two
    /// objects, then an event could be in neither: its row not in the one that is there, its error row not in the one that is not.
    #[must_use]
    pub fn judged(mut self, errors: impl IntoIterator<Item = Offset>) -> Self {
        let mut hash = Xxh3::with_seed(self.input_hash);
        let mut is_split = false;
        for offset in errors {
            hash.update(&offset.to_le_bytes());
            is_split = true;
        }
        if is_split {
            self.input_hash = hash.digest();
        }
        self
    }

    /// Reads what [`BatchId`] is displayed as.
    #[must_use]
    pub fn parse(stem: &str) -> Option<Self> {
        let mut fields = stem.split('-');
        let batch = Self {
            log_id: fields.next()?.parse().ok()?,
            lane: Lane(fields.next()?.parse().ok()?),
            number: fields.next()?.parse().ok()?,
            first: fields.next()?.parse().ok()?,
            last: fields.next()?.parse().ok()?,
            input_hash: u64::from_str_radix(fields.next()?, 16).ok()?,
        };
        fields.next().is_none().then_some(batch)
    }
}

impl fmt::Display for BatchId {
    /// `<log id>-<lane>-<number>-<first>-<last>-<input hash>`: the stem of every name that derives from the batch.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-{}-{}-{}-{}-{:016x}",
            self.log_id, self.lane, self.number, self.first, self.last, self.input_hash
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_back_from_its_name() {
        let batch = BatchId {
            log_id: LogId(u128::MAX - 5),
            lane: Lane(3),
            number: 17,
            first: 100,
            last: 4_000_000_000_000,
            input_hash: 0x00c0_ffee,
        };
        assert_eq!(BatchId::parse(&batch.to_string()), Some(batch));
        for other in [
            "",
            "notes",
            "1-2-3",
            &format!("{batch}-1"),
            &format!("x{batch}"),
        ] {
            assert_eq!(BatchId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn each_judgement_of_a_batch_has_a_name_of_its_own() {
        let batch = BatchId {
            log_id: LogId(1),
            lane: Lane(3),
            number: 17,
            first: 100,
            last: 104,
            input_hash: 7,
        };
        assert_eq!(batch.judged([]), batch, "all are rows");
        let judged = batch.judged([102]);
        assert_eq!(judged, batch.judged([102]));
        // Part of names that are there: it never changes.
        assert_eq!(judged.input_hash, 0xdfd3_6aa0_5371_33bb);
        let other = BatchId {
            input_hash: 8,
            ..batch
        };
        let names = [
            batch,
            judged,
            batch.judged([103]),
            batch.judged([102, 103]),
            other.judged([102]),
        ];
        let distinct: std::collections::HashSet<_> = names.into_iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_traceparent_is_read_as_it_is_written_and_nothing_else_is() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let link: TraceLink = text.parse().unwrap();
        assert!(link.is_sampled());
        assert_eq!(link.to_string(), text);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes";
        assert_eq!(later.parse(), Ok(link));
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong.parse::<TraceLink>(), Err(NoTraceparent), "{wrong}");
        }
    }
}
