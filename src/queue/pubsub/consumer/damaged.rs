//! What to do with a message that is not a batch: ask for it once more, and then account for every offset that it may have
//! held. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use google_cloud_pubsub::model::Message;

use crate::event::{BatchId, Day, Lane, LogId, Offset, TraceLink};
use crate::queue::batch::{self, DecodeError};
use crate::queue::gather::Key;
use crate::queue::pubsub::TRACEPARENT;
use crate::queue::{Batch, input_hash};

/// How many messages that are no batches are remembered.
const REMEMBERED: usize = 1_024;

/// The most offsets that one damaged message accounts for; a range beyond it is not believed.
const OFFSETS_MAX: u64 = 1_000_000;

/// What a message turned out to be.
#[derive(Debug)]
pub(super) enum Read {
    /// A batch, and the label of the gateway that sealed it. A damaged one comes as a batch of records that cannot be read, one for each
    /// offset of its range: each becomes an error row, which goes again where the offset's event is a row.
    Batch(Batch, Arc<str>),
    /// Damaged, for the first time: the copy that comes again may be whole. With its place, if it names one.
    AskAgain(Option<(Key, u64)>),
    /// A newer version wrote it, or nothing of it can be told. With its place, if it names one, and how often it came.
    Wait(Option<(Key, u64)>, u32),
}

/// Reads messages, and remembers which were no batches, and how often they came.
#[derive(Debug, Default)]
pub(super) struct Reader {
    seen: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Reader {
    pub(super) fn read(&mut self, message: &Message) -> Read {
        let error = match batch::decode(message.data.clone()) {
            Ok((mut batch, node)) => {
                batch.sent_in = sent_in(message);
                return Read::Batch(batch, node.into());
            }
            Err(error) => error,
        };
        let times = self.times(&message.message_id);
        let number = message.attributes.get("number").map(String::as_str);
        let key = message.ordering_key.as_str();
        match error {
            DecodeError::UnknownFormat(_) => {
                tracing::warn!(ordering_key = key, number, %error, "message_waits_for_a_newer_worker");
                Read::Wait(place(message), times)
            }
            DecodeError::Damaged(_) if times == 1 => {
                tracing::warn!(ordering_key = key, number, %error, "damaged_message_asked_for_again");
                Read::AskAgain(place(message))
            }
            DecodeError::Damaged(_) => match accounted(message) {
                Some(batch) => {
                    tracing::error!(
                        ordering_key = key,
                        number,
                        first_offset = batch.id.first,
                        last_offset = batch.id.last,
                        %error,
                        "damaged_message_dead_lettered"
                    );
                    let node = message.attributes.get("node").cloned().unwrap_or_default();
                    Read::Batch(batch, node.into())
                }
                None => {
                    tracing::error!(
                        ordering_key = key,
                        message_id = message.message_id,
                        %error,
                        action = "it names no events; look at it with `gcloud pubsub subscriptions pull`",
                        "message_unreadable"
                    );
                    Read::Wait(None, times)
                }
            },
        }
    }

    /// How often it came, this time included.
    fn times(&mut self, message_id: &str) -> u32 {
        if let Some(times) = self.seen.get_mut(message_id) {
            *times = times.saturating_add(1);
            return *times;
        }
        self.seen.insert(message_id.to_owned(), 1);
        self.order.push_back(message_id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        1
    }
}

/// Whose batch it says it is, and which.
fn place(message: &Message) -> Option<(Key, u64)> {
    let text = |name: &str| message.attributes.get(name).map(String::as_str);
    let log_id: LogId = text("log_id")?.parse().ok()?;
    let lane = Lane(text("lane")?.parse().ok()?);
    Some(((log_id, lane), text("number")?.parse().ok()?))
}

/// A batch that accounts for every offset of a damaged message, as its attributes tell; its bytes go with the first.
fn accounted(message: &Message) -> Option<Batch> {
    let text = |name: &str| message.attributes.get(name).map(String::as_str);
    let ((log_id, lane), number) = place(message)?;
    let first: Offset = text("first_offset")?.parse().ok()?;
    let last: Offset = text("last_offset")?.parse().ok()?;
    let day = Day(text("day")?.parse().ok()?);
    if last < first || last - first >= OFFSETS_MAX {
        return None;
    }
    let records: Vec<(Offset, Bytes)> = (first..=last)
        .map(|offset| {
            let bytes = if offset == first {
                message.data.clone()
            } else {
                Bytes::new()
            };
            (offset, bytes)
        })
        .collect();
    let id = BatchId {
        log_id,
        lane,
        number,
        first,
        last,
        input_hash: input_hash(&records),
    };
    Some(Batch {
        id,
        day,
        records,
        sent_in: sent_in(message),
    })
}

/// The span that sent a message, if it belongs to a trace.
fn sent_in(message: &Message) -> Vec<TraceLink> {
    let text = message.attributes.get(TRACEPARENT);
    text.and_then(|text| text.parse().ok())
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &'static [u8], id: &str, attributes: &[(&str, &str)]) -> Message {
        Message::new()
            .set_data(data)
            .set_message_id(id)
            .set_attributes(attributes.iter().copied())
    }

    const ATTRIBUTES: [(&str, &str); 7] = [
        ("log_id", "0000000000000000000000000000002a"),
        ("lane", "3"),
        ("number", "17"),
        ("first_offset", "100"),
        ("last_offset", "103"),
        ("day", "20000"),
        ("node", "a"),
    ];

    #[test]
    fn a_damaged_message_is_asked_for_once_and_then_accounts_for_every_offset() {
        let mut reader = Reader::default();
        let damaged = message(b"no batch", "1", &ATTRIBUTES);
        let expected = Some(((LogId(42), Lane(3)), 17));
        assert!(matches!(reader.read(&damaged), Read::AskAgain(place) if place == expected));
        let Read::Batch(batch, node) = reader.read(&damaged) else {
            panic!("accounted for");
        };
        assert_eq!(&*node, "a");
        assert_eq!(batch.id.log_id, LogId(42));
        let offsets: Vec<_> = batch.records.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, [100, 101, 102, 103]);
        assert_eq!(batch.records[0].1, "no batch");
        // An empty record is one that cannot be read, not an event without anything in it.
        assert!(crate::wal::record::decode(&batch.records[1].1).is_err());
    }

    #[test]
    fn what_names_no_events_waits() {
        let mut reader = Reader::default();
        let mut huge = ATTRIBUTES;
        huge[4] = ("last_offset", "18446744073709551615");
        for (id, attributes) in [("1", &[][..]), ("2", &huge[..])] {
            let damaged = message(b"no batch", id, attributes);
            assert!(matches!(reader.read(&damaged), Read::AskAgain(_)));
            assert!(matches!(reader.read(&damaged), Read::Wait(None, 2)));
            assert!(matches!(reader.read(&damaged), Read::Wait(None, 3)));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reader = Reader::default();
        for id in 0..3_000 {
            reader.read(&message(b"no batch", &id.to_string(), &[]));
        }
        assert_eq!(reader.seen.len(), REMEMBERED);
        assert_eq!(reader.order.len(), REMEMBERED);
    }
}
