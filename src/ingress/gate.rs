//! The gate: what is shed before its body is read, and what a request holds of the budget until its answer is taken.

use super::auth::Caller;
use super::outcome::{self, RequestError};
use super::shed::Held;
use super::{Ingress, append_code};
use crate::status::Code;
use crate::telemetry::metrics::labels;

impl Ingress {
    /// Asked before a request's body is read: takes its announced bytes from the budget of what is under way, and from the
    /// share of it that its caller has.
    ///
    /// # Errors
    ///
    /// The caller is too fast; the log takes nothing now, or nothing more of this caller, or too much is under way: counted as shed.
    pub fn gate(&self, announced_bytes: usize, caller: &Caller) -> Result<Held, RequestError> {
        self.check_rate(caller)?;
        let is_full = caller
            .share()
            .is_some_and(|share| share.queue.available_permits() == 0);
        let refusal = match self.0.log.admit() {
            Err(error) => append_code(error),
            Ok(()) if is_full => Code::Overloaded,
            Ok(()) => match self.0.in_flight.take(announced_bytes) {
                Some(held) if held.share(caller.share()) => {
                    return Ok(held);
                }
                Some(_) | None => Code::Overloaded,
            },
        };
        self.shed(refusal);
        Err(refusal.into())
    }

    /// Takes bytes of one batch of a stream from the budget of what is under way.
    pub(crate) fn hold(&self, bytes: usize, caller: &Caller) -> Result<Held, RequestError> {
        let held = self.0.in_flight.take(bytes);
        held.filter(|held| held.share(caller.share()))
            .ok_or_else(|| {
                self.shed(Code::Overloaded);
                Code::Overloaded.into()
            })
    }

    /// Asked before a request's events are handed to the log: its answer has one outcome for each, and stays in memory until the
    /// client takes it. So a request of many tiny events holds as much of the budget as its answer will need; the largest body
    /// is the most, since that much there is room for.
    ///
    /// # Errors
    ///
    /// Too much is under way: counted as shed.
    pub(crate) fn hold_answer(&self, held: &Held, events: usize) -> Result<(), RequestError> {
        let answer = events.saturating_mul(outcome::BYTES);
        let answer = answer.min(self.config().body_bytes_max);
        if answer <= held.bytes() || held.grow_to(answer) {
            return Ok(());
        }
        self.shed(Code::Overloaded);
        Err(Code::Overloaded.into())
    }

    /// Counts a request that is turned away for our own want of capacity.
    pub(crate) fn shed(&self, code: Code) {
        self.metrics().requests_shed.add(1, labels::code(code));
    }
}
