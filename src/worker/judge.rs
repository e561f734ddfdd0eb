//! One record, one outcome: a row or an error row. Pure.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use xxhash_rust::xxh3::xxh3_64;

use super::{Rejected, Stage, adapt, validate};
use crate::event::{
    DAY_MICROS, DEFAULT_SOURCE, DEFAULT_STREAM, Day, Event, Lane, LogId, Offset, PayloadFormat,
};
use crate::status::Code;
use crate::store::{ErrorRow, Row};
use crate::wal::record;

/// Where a record lies, and who judges it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its log.
    pub log_id: LogId,
    /// Its lane.
    pub lane: Lane,
    /// Its offset.
    pub offset: Offset,
    /// The UTC day on which its batch was received.
    pub day: Day,
    /// The label of this process.
    pub node: &'a str,
}

/// What judges one record; [`judge`] everywhere but in tests that need a judge with a fault.
pub type Judge = fn(&[u8], &Place<'_>) -> Result<Row, Box<ErrorRow>>;

/// Reads, adapts and validates one record ([`record::decode`]).
///
/// # Errors
///
/// The error row that takes the row's place. A record that cannot be read, one of an unknown payload format
/// included, becomes an error row of the format `record` that holds the whole record, so that a newer version can still
/// read it.
pub fn judge(record: &[u8], place: &Place<'_>) -> Result<Row, Box<ErrorRow>> {
    let event = record::decode(record)
        .map_err(|error| error_row(None, record, place, unreadable(error.to_string())))?;
    row(&event, place).map_err(|rejected| error_row(Some(&event), record, place, rejected))
}

/// The same, but a panic ends in an error row too and touches no other event.
pub(super) fn judge_isolated(
    judge: Judge,
    record: &[u8],
    place: &Place<'_>,
) -> Result<Row, Box<ErrorRow>> {
    // Nothing outlives the closure, so that nothing can be seen half changed.
    catch_unwind(AssertUnwindSafe(|| judge(record, place))).unwrap_or_else(|_panic| {
        let rejected = Rejected {
            stage: Stage::Adapt,
            code: Code::WorkerPanicked,
            reason: Code::WorkerPanicked.text().to_owned(),
        };
        // Reading the record is what may have panicked.
        let event = catch_unwind(|| record::decode(record))
            .ok()
            .and_then(Result::ok);
        Err(error_row(event.as_ref(), record, place, rejected))
    })
}

/// The error row for a row that the store will never take.
pub(super) fn refused(record: &[u8], place: &Place<'_>, reason: String) -> Box<ErrorRow> {
    let event = record::decode(record).ok();
    let rejected = Rejected {
        stage: Stage::Store,
        code: Code::RowRefused,
        reason,
    };
    error_row(event.as_ref(), record, place, rejected)
}

fn unreadable(reason: String) -> Rejected {
    Rejected {
        stage: Stage::Adapt,
        code: Code::InvalidPayload,
        reason,
    }
}

fn row(event: &Event<'_>, place: &Place<'_>) -> Result<Row, Rejected> {
    if !adapt::time::in_range(event.received_at) {
        return Err(Rejected {
            stage: Stage::Adapt,
            code: Code::InvalidTimestamp,
            reason: "received_at lies outside the years 1 to 9999".to_owned(),
        });
    }
    let draft = adapt::adapt(event)?;
    validate::validate(&draft)?;
    Ok(Row {
        message_id: event.message_id.to_owned(),
        source: event.source.to_owned(),
        kind: draft.kind.unwrap_or_default(),
        stream: event.stream.to_owned(),
        user_id: draft.user_id,
        anonymous_id: draft.anonymous_id,
        event: draft.event,
        name: draft.name,
        category: draft.category,
        group_id: draft.group_id,
        previous_id: draft.previous_id,
        properties: draft.properties,
        traits: draft.traits,
        context: draft.context,
        integrations: draft.integrations,
        extra: draft.extra,
        timestamp: draft.timestamp,
        original_timestamp: draft.original_timestamp,
        sent_at: draft.sent_at,
        received_at: event.received_at,
        node: place.node.to_owned(),
        log_id: place.log_id,
        lane: place.lane,
        offset: place.offset,
        trace_id: trace_id(event),
    })
}

/// `None`: nothing of the record can be read but its bytes.
fn error_row(
    event: Option<&Event<'_>>,
    record: &[u8],
    place: &Place<'_>,
    rejected: Rejected,
) -> Box<ErrorRow> {
    let (original, original_format) = match event {
        Some(event) => match event.format {
            PayloadFormat::Json => (event.payload, "json"),
            PayloadFormat::Event => (event.payload, "event"),
        },
        None => (record, "record"),
    };
    // Whatever the record says, the row must land in its batch's day and in what a warehouse can hold.
    let midnight = i64::from(place.day.0).saturating_mul(DAY_MICROS);
    Box::new(ErrorRow {
        log_id: place.log_id,
        offset: place.offset,
        original_hash: format!("{:016x}", xxh3_64(original)),
        original: original.to_vec(),
        original_format: Cow::Borrowed(original_format),
        stage: Cow::Borrowed(rejected.stage.as_str()),
        code: Cow::Borrowed(rejected.code.as_str()),
        reason: rejected.reason,
        source: event
            .map_or(DEFAULT_SOURCE, |event| event.source)
            .to_owned(),
        message_id: event.map_or("", |event| event.message_id).to_owned(),
        stream: event
            .map_or(DEFAULT_STREAM, |event| event.stream)
            .to_owned(),
        received_at: event
            .map(|event| event.received_at)
            .filter(|at| Day::of(*at) == place.day)
            .unwrap_or(midnight)
            .clamp(adapt::time::EARLIEST, adapt::time::LATEST),
        node: place.node.to_owned(),
        lane: place.lane,
        trace_id: event.and_then(trace_id),
    })
}

fn trace_id(event: &Event<'_>) -> Option<String> {
    event.trace.map(|trace| trace.trace_id_text())
}

#[cfg(test)]
mod tests;
