//! The spans of a batch on its way from the log to the queue.

use opentelemetry::trace::SpanKind;

use crate::event::TraceLink;
use crate::queue::Named;
use crate::telemetry::names;
use crate::telemetry::trace::{Contexts, Span, Tracing, count};
use crate::wal::Seal;

/// A new batch: the beginning of its trace.
pub(super) fn sealing(tracing: &Tracing, seal: &Seal, contexts: &Contexts) -> Span {
    let span = tracing.span(names::SEAL).linked_to(contexts).start();
    describe(&span, seal);
    span
}

/// A batch on its way. One that was sealed before a restart, or that the queue lost, has no seal to be a part of: then it is
/// this span that leads to its requests.
pub(super) fn sending(
    tracing: &Tracing,
    (seal, queue): (&Seal, &Named),
    sealed: Option<TraceLink>,
    contexts: &Contexts,
) -> Span {
    let start = tracing.span(names::SEND).kind(SpanKind::Producer);
    let span = match sealed {
        Some(_) => start.child_of(sealed).start(),
        None => start.linked_to(contexts).start(),
    };
    describe(&span, seal);
    if sealed.is_none() {
        span.set(names::SENT_AGAIN, true);
    }
    queue.describe(&span, "send", "send");
    span
}

fn describe(span: &Span, seal: &Seal) {
    let batch = &seal.batch;
    span.set(names::LOG_ID, batch.log_id.to_string());
    span.set(names::LANE, i64::from(batch.lane.0));
    span.set(names::BATCH_NUMBER, count(batch.number));
    span.set(names::FIRST_OFFSET, count(batch.first));
    span.set(names::LAST_OFFSET, count(batch.last));
    span.set(names::EVENT_COUNT, i64::from(seal.count));
}
