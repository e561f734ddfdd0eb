//! The spans of a run at its worker.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::SpanKind;

use super::Judged;
use crate::event::TraceLink;
use crate::queue::{Batch, Delivery, Named};
use crate::telemetry::names;
use crate::telemetry::trace::{
    self, Contexts, FOLLOWED_MAX, LINKS_MAX, Scope, Span, Tracing, count,
};

/// To how many of a run's batches its span links at most: the rest of its links are the requests'.
const BATCHES_MAX: usize = LINKS_MAX / 2;

/// What a worker says of a run: it is durable with its next owner.
pub(super) const ACKNOWLEDGED: &str = "acknowledged";
/// Or it is to be delivered again.
pub(super) const GIVEN_BACK: &str = "given_back";

/// One run, from its arrival to its settlement.
#[derive(Debug)]
pub(super) struct Run {
    tracing: Tracing,
    queue: Named,
    started: SystemTime,
    /// Each sealed batch's way here.
    received: Vec<TraceLink>,
    process: Span,
}

impl Run {
    /// Each batch of the run has arrived: parts of the spans that sent them.
    pub(super) fn received(tracing: &Tracing, delivery: &Delivery, queue: Named) -> Self {
        let received = delivery.batch.sent_in.iter().filter_map(|sent_in| {
            let start = tracing.span(names::RECEIVE).kind(SpanKind::Consumer);
            let span = start.child_of(Some(*sent_in)).since(delivery.since).start();
            queue.describe(&span, "receive", "receive");
            span.set(names::ATTEMPT, i64::from(delivery.attempt));
            span.link()
        });
        Self {
            received: received.collect(),
            tracing: tracing.clone(),
            queue,
            started: trace::now(),
            process: Span::none(),
        }
    }

    /// It is known whose events are in it. If judging failed, that is only whose records are.
    pub(super) fn begin(&mut self, batch: &Batch, judged: Option<&Judged>) {
        let start = self
            .tracing
            .span(names::PROCESS)
            .kind(SpanKind::Consumer)
            .child_of(self.received.first().copied())
            .linked(self.received.iter().skip(1).take(BATCHES_MAX).copied());
        let start = match judged {
            Some(judged) => start
                .linked_to(&judged.rows_of)
                .linked_to(&judged.errors_of),
            None => {
                let records = batch.records.iter().map(|(_, record)| record.as_ref());
                start.linked_to(&Contexts::of_records(records))
            }
        };
        let span = start.since(self.started).start();
        let id = &batch.id;
        span.set(names::LANE, i64::from(id.lane.0));
        span.set(names::BATCH_NUMBER, count(id.number));
        self.queue.describe(&span, "process", "process");
        span.set(
            names::MESSAGING_BATCH_MESSAGE_COUNT,
            count(self.received.len()),
        );
        self.process = span;
    }

    /// For a write whose rows came in these requests.
    pub(super) fn scope(&self, contexts: &Contexts) -> Scope {
        Scope::of(&self.process).following(Arc::new(contexts.first(FOLLOWED_MAX)))
    }

    pub(super) fn failed(&self, kind: &'static str) {
        self.process.failed(kind);
    }

    /// The word to the queue.
    pub(super) fn settling(&self, settlement: &'static str) -> Span {
        let operation = match settlement {
            ACKNOWLEDGED => "ack",
            _ => "nack",
        };
        let start = self.tracing.span(names::SETTLE).kind(SpanKind::Client);
        let span = start.child_of(self.process.link()).start();
        span.set(names::SETTLEMENT, settlement);
        self.queue.describe(&span, operation, "settle");
        span
    }
}
