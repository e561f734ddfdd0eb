//! Events as they lie in a batch, and as rows, made of what the load consists of.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::cli::bench::events::Prepared;
use crate::clock::{Clock as _, SystemClock};
use crate::event::{BatchId, DEFAULT_SOURCE, Day, Event, Lane, LogId, Offset, PayloadFormat};
use crate::queue::{Batch, batch, input_hash};
use crate::sequencer::{lane, routing_key};
use crate::store::Row;
use crate::wal::record;
use crate::worker::{Place, judge};

/// The label of the process that took the events in.
const NODE: &str = "gateway-0";

/// The lanes among which users are spread, as by default.
const LANES: u16 = 16;

/// What decides about an event's lane and stream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Routing<'a> {
    message_id: &'a str,
    #[serde(borrow)]
    user_id: Option<&'a str>,
    #[serde(borrow)]
    anonymous_id: Option<&'a str>,
}

/// So many events as their records, in the order in which they came.
fn records(prepared: &Arc<Prepared>, events: usize) -> Vec<(Lane, Bytes)> {
    let received_at = SystemClock.now();
    let mut source = prepared.source();
    let made = (0..events).filter_map(|_| {
        let payload = source.json();
        let routing: Routing<'_> = serde_json::from_slice(&payload).ok()?;
        let key = routing_key(routing.user_id, routing.anonymous_id, routing.message_id);
        let event = Event {
            format: PayloadFormat::Json,
            payload: &payload,
            source: DEFAULT_SOURCE,
            message_id: routing.message_id,
            message_id_assigned: false,
            stream: "events",
            kind: None,
            lane: lane(key, LANES),
            received_at,
            sent_at: None,
            trace: None,
            batch_context: &[],
            batch_integrations: &[],
        };
        let mut bytes = Vec::new();
        record::encode(&event, &mut bytes);
        Some((event.lane, bytes.into()))
    });
    made.collect()
}

/// So many events as rows.
pub(super) fn rows(prepared: &Arc<Prepared>, events: usize) -> Vec<Row> {
    let day = Day::of(SystemClock.now());
    let log_id = LogId::random();
    let records = records(prepared, events).into_iter().zip(0..);
    let rows = records.filter_map(|((lane, record), offset)| {
        let place = Place {
            log_id,
            lane,
            offset,
            day,
            node: NODE,
        };
        judge(&record, &place).ok()
    });
    rows.collect()
}

/// So many events of one lane as the message that carries them.
pub(super) fn message(prepared: &Arc<Prepared>, events: usize) -> Bytes {
    // What one lane holds is every sixteenth event.
    let all = records(prepared, events * usize::from(LANES));
    let records: Vec<(Offset, Bytes)> = (0..)
        .zip(all)
        .map(|(offset, (_, record))| (offset * u64::from(LANES), record))
        .take(events)
        .collect();
    let batch = Batch {
        id: BatchId {
            log_id: LogId::random(),
            lane: Lane(0),
            number: 0,
            first: records.first().map_or(0, |(offset, _)| *offset),
            last: records.last().map_or(0, |(offset, _)| *offset),
            input_hash: input_hash(&records),
        },
        day: Day::of(SystemClock.now()),
        records,
        sent_in: Vec::new(),
    };
    batch::encode(&batch, NODE)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_event_becomes_a_row_and_a_message_can_be_read() {
        let prepared = Prepared::new(2);
        let rows = rows(&prepared, 2_000);
        assert_eq!(rows.len(), 2_000);
        let lanes: HashSet<Lane> = rows.iter().map(|row| row.lane).collect();
        assert_eq!(lanes.len(), usize::from(LANES));
        let kinds: HashSet<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
        assert!(kinds.len() > 3, "{kinds:?}");

        let (batch, node) = batch::decode(message(&prepared, 37)).unwrap();
        assert_eq!((batch.records.len(), node.as_str()), (37, NODE));
    }
}
