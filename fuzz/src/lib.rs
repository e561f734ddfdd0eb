//! What the targets share: an event that the edge takes is followed through the log's record to the worker.

use eventkit::event::{Client, DEFAULT_SOURCE, DEFAULT_STREAM, Day, Event, Lane, LogId};
use eventkit::ingress::admit::{Admitted, Limits, Shared};
use eventkit::wal::record;
use eventkit::worker::{Place, judge};

/// The limits of a default configuration.
pub const LIMITS: Limits = Limits {
    event_bytes_max: 256 << 10,
    depth_max: 64,
    keys_max: 10_000,
};

/// Two in the afternoon of a day in 2026.
const RECEIVED_AT: i64 = 1_790_000_000_000_000;

/// Writes the record of an event that was taken, reads it back and judges it.
///
/// # Panics
///
/// The record is another one when it is read back, or the worker loses bytes of an event that it sets aside.
pub fn follow(admitted: &Admitted<'_>, shared: &Shared<'_>) {
    let message_id = admitted.message_id.as_deref();
    let event = Event {
        format: admitted.format,
        payload: admitted.payload,
        source: DEFAULT_SOURCE,
        message_id: message_id.unwrap_or("assigned"),
        message_id_assigned: message_id.is_none(),
        stream: DEFAULT_STREAM,
        kind: None,
        lane: Lane(3),
        received_at: RECEIVED_AT,
        sent_at: None,
        trace: None,
        batch_context: shared.context,
        batch_integrations: shared.integrations,
        client: Client::default(),
    };
    let mut bytes = Vec::new();
    record::encode(&event, &mut bytes);
    assert_eq!(record::decode(&bytes).as_ref(), Ok(&event));
    assert_eq!(record::place(&bytes), (event.lane, event.received_at));
    assert_eq!(record::trace_link(&bytes), None);
    match judge(&bytes, &place()) {
        Ok(row) => assert_eq!(row.message_id, event.message_id),
        Err(error_row) => assert_eq!(error_row.original, event.payload),
    }
}

/// Some place of a record.
#[must_use]
pub fn place() -> Place<'static> {
    Place {
        log_id: LogId(7),
        lane: Lane(3),
        offset: 11,
        day: Day::of(RECEIVED_AT),
        node: "node",
    }
}
