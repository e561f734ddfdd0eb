//! Events made up beforehand, so that sending one costs a copy and an id of its own.
//!
//! The ids look random, as those of clients do: a filter or an index must not profit from their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use uuid::fmt::Hyphenated;

use crate::cli::generate::Generator;
use crate::client::Event;
use crate::clock::SystemClock;

/// How many different events there are: enough that one does not come again within reach of a compressor's window.
const EVENTS: usize = 8_192;

/// An id's length.
const ID_BYTES: usize = Hyphenated::LENGTH;

/// One event as it travels, and where in it its id lies.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    id_at: usize,
}

impl Template {
    /// Finds the id. None of them is without.
    fn new(bytes: Vec<u8>, id: &str) -> Option<Self> {
        let id_at = bytes
            .windows(ID_BYTES)
            .position(|window| window == id.as_bytes())?;
        Some(Self { bytes, id_at })
    }

    /// Appends the event under another id.
    fn write(&self, id: &[u8; ID_BYTES], out: &mut Vec<u8>) {
        let start = out.len() + self.id_at;
        out.extend_from_slice(&self.bytes);
        if let Some(place) = out.get_mut(start..start + ID_BYTES) {
            place.copy_from_slice(id);
        }
    }
}

/// All events, as JSON for HTTP and as protobuf for gRPC.
#[derive(Debug)]
pub(super) struct Prepared {
    json: Vec<Template>,
    protobuf: Vec<Template>,
    salt: [u8; 16],
    sources: AtomicU64,
}

impl Prepared {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut generator = Generator::new(seed, Arc::new(SystemClock));
        let mut prepared = Self {
            json: Vec::with_capacity(EVENTS),
            protobuf: Vec::with_capacity(EVENTS),
            salt: rand::random(),
            sources: AtomicU64::new(0),
        };
        for _ in 0..EVENTS {
            let event = generator.event();
            let id = event.message_id();
            prepared
                .json
                .extend(Template::new(event.json().to_vec(), id));
            prepared.protobuf.extend(Template::new(encoded(&event), id));
        }
        Arc::new(prepared)
    }

    /// A source of events for one connection. Its ids are those of no other source.
    pub(super) fn source(self: &Arc<Self>) -> Source {
        let number = self.sources.fetch_add(1, Ordering::Relaxed);
        Source {
            prepared: Arc::clone(self),
            next: number << 40,
            // Sources begin at different events, so that what is sent at one time differs.
            at: usize::try_from(number).unwrap_or(0).wrapping_mul(613) % EVENTS,
        }
    }

    /// Bytes of an event on average, as JSON.
    pub(super) fn json_bytes(&self) -> usize {
        let bytes: usize = self.json.iter().map(|template| template.bytes.len()).sum();
        bytes / self.json.len().max(1)
    }
}

/// The event as field 2 of a `CollectBidiRequest`.
fn encoded(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    let event =
        crate::client::to_proto(event).expect("what is made up has only fields that gRPC carries");
    prost::encoding::message::encode(2, &event, &mut bytes);
    bytes
}

/// See [`Prepared::source`].
#[derive(Debug)]
pub(super) struct Source {
    prepared: Arc<Prepared>,
    next: u64,
    at: usize,
}

impl Source {
    /// One event as a JSON object.
    pub(super) fn json(&mut self) -> Bytes {
        let id = self.id();
        let at = self.turn();
        let mut body = Vec::with_capacity(1_024);
        if let Some(template) = self.prepared.json.get(at) {
            template.write(&id, &mut body);
        }
        body.into()
    }

    /// An encoded `CollectBidiRequest` with so many events.
    pub(super) fn batch(&mut self, number: u64, events: usize) -> Bytes {
        let mut message = Vec::with_capacity(events * 768);
        prost::encoding::uint64::encode(1, &number, &mut message);
        for _ in 0..events {
            let id = self.id();
            let at = self.turn();
            if let Some(template) = self.prepared.protobuf.get(at) {
                template.write(&id, &mut message);
            }
        }
        message.into()
    }

    fn turn(&mut self) -> usize {
        self.at = (self.at + 1) % EVENTS;
        self.at
    }

    fn id(&mut self) -> [u8; ID_BYTES] {
        self.next += 1;
        let mut bytes = self.prepared.salt;
        // Bytes 6 and 8 hold an UUID's version and variant.
        for (at, byte) in [0, 1, 2, 3, 4, 5, 9, 10]
            .into_iter()
            .zip(scrambled(self.next))
        {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let mut text = [0; ID_BYTES];
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .hyphenated()
            .encode_lower(&mut text);
        text
    }
}

/// A number's place in an order without order: SplitMix64's last step, which maps no two numbers to one.
fn scrambled(number: u64) -> [u8; 8] {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message as _;

    use super::*;
    use crate::proto::v1::CollectBidiRequest;

    #[test]
    fn every_event_is_whole_and_has_an_id_of_its_own() {
        let prepared = Prepared::new(1);
        assert_eq!(prepared.json.len(), EVENTS);
        assert_eq!(prepared.protobuf.len(), EVENTS);
        let mut ids = HashSet::new();
        let mut types = HashSet::new();
        for mut source in [prepared.source(), prepared.source()] {
            for number in 1..=50 {
                let event = Event::from_json(source.json()).unwrap();
                assert!(ids.insert(event.message_id().to_owned()));
                let batch = CollectBidiRequest::decode(source.batch(number, 20)).unwrap();
                assert_eq!((batch.batch_number, batch.events.len()), (number, 20));
                for event in batch.events {
                    uuid::Uuid::parse_str(&event.message_id).unwrap();
                    assert!(ids.insert(event.message_id));
                    types.insert(event.r#type);
                }
            }
        }
        assert_eq!((ids.len(), types.len()), (2 * 50 * 21, 6));
        assert!((200..1_000).contains(&prepared.json_bytes()));
    }
}
