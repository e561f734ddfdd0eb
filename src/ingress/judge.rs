//! Every event of a request is judged, gets its id and its lane, and is encoded for the log; the one place where an outcome is born.

use std::borrow::Cow;

use super::admit::{self, Admitted};
use super::outcome::Outcome;
use super::submission::{Input, Submission};
use super::{Ingress, request_id, spans};
use crate::event::{Event, EventKey, Lane, Micros, PayloadFormat, TraceLink};
use crate::sequencer;
use crate::status::Code;
use crate::telemetry::Span;
use crate::wal::Append;

/// Bytes of a record that are not its payload, about: to size the buffer of an append once.
const RECORD_OVERHEAD: usize = 96;

impl Ingress {
    /// Judges every event and encodes those that are taken into one append. Their outcomes say "accepted" already, and are
    /// not shown to anyone before the commit.
    pub(super) fn judge<'a>(&self, submission: Submission<'a>) -> (Vec<Outcome<'a>>, Append) {
        let received_at = self.now();
        let bytes: usize = submission.inputs.iter().map(Input::bytes).sum();
        let count = submission.inputs.len();
        let overhead = RECORD_OVERHEAD + submission.shared.bytes() + submission.client.bytes();
        let mut append = Append::with_capacity(count, bytes + count * overhead);
        let mut outcomes = Vec::with_capacity(count);
        let debug = tracing::enabled!(tracing::Level::DEBUG);
        for input in &submission.inputs {
            let judged = match input {
                Input::Json(item) => admit::json(*item, &submission.shared, &self.0.limits),
                Input::Event(bytes) => admit::event(bytes, &self.0.limits),
            };
            let admitted = match judged {
                Ok(admitted) => admitted,
                Err(refused) => {
                    outcomes.push(Outcome::Rejected {
                        message_id: refused.message_id,
                        code: refused.code,
                        reason: refused.reason,
                    });
                    continue;
                }
            };
            let kind = submission.kind.unwrap_or(admitted.kind);
            if !submission.caller.may_write(submission.stream.of(kind)) {
                let code = Code::StreamNotAllowed;
                outcomes.push(Outcome::Rejected {
                    message_id: admitted.message_id,
                    code,
                    reason: code.text().into(),
                });
                continue;
            }
            let (outcome, lane) = self.push(admitted, &submission, received_at, &mut append);
            outcomes.push(outcome);
            if debug {
                trace_event(&submission, kind, lane);
            }
        }
        (outcomes, append)
    }

    /// Gives an event its id and lane and adds it to the append.
    fn push<'a>(
        &self,
        admitted: Admitted<'a>,
        submission: &Submission<'a>,
        received_at: Micros,
        append: &mut Append,
    ) -> (Outcome<'a>, Lane) {
        let assigned = admitted.message_id.is_none();
        let message_id = admitted
            .message_id
            .unwrap_or_else(|| Cow::Owned(request_id::uuid_v7(received_at)));
        let routing_key = sequencer::routing_key(
            admitted.user_id.as_deref(),
            admitted.anonymous_id.as_deref(),
            &message_id,
        );
        let lane = sequencer::lane(routing_key, self.0.log.lanes());
        let fingerprint = self.0.log.fingerprint(EventKey {
            source: submission.caller.source(),
            message_id: &message_id,
        });
        append.push(
            &Event {
                format: admitted.format,
                payload: admitted.payload,
                source: submission.caller.source(),
                message_id: &message_id,
                message_id_assigned: assigned,
                stream: submission
                    .stream
                    .of(submission.kind.unwrap_or(admitted.kind)),
                kind: submission.kind,
                lane,
                received_at,
                sent_at: submission.sent_at,
                trace: self.trace_of(admitted.format, admitted.payload, &submission.span),
                batch_context: submission.shared.context,
                batch_integrations: submission.shared.integrations,
                client: submission.client,
            },
            fingerprint,
        );
        let outcome = Outcome::Accepted {
            message_id,
            assigned,
        };
        (outcome, lane)
    }

    /// The trace that an event belongs to, if that is sampled: the one that it names itself, else its request's.
    fn trace_of(&self, format: PayloadFormat, payload: &[u8], span: &Span) -> Option<TraceLink> {
        let own = match self.tracing().follows() {
            true => spans::own_context(format, payload),
            false => None,
        };
        match own {
            Some(own) => own.is_sampled().then_some(own),
            None => span.link(),
        }
    }
}

/// The lines of one event, only when someone reads them. They carry no value that a client made up.
fn trace_event(submission: &Submission<'_>, kind: &'static str, lane: Lane) {
    let (request_id, stream) = (submission.request_id, submission.stream.of(kind));
    tracing::debug!(event_type = kind, request_id, stream, "event_received");
    tracing::debug!(event_type = kind, request_id, stream, "event_adapted");
    tracing::debug!(partition = lane.0, request_id, stream, "event_sequenced");
}
