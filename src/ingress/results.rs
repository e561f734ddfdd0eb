//! Outcomes as messages of the contract. Pure.

use std::borrow::Cow;

use super::outcome::{Counts, Outcome};
use crate::proto::v1::{BatchAck, CollectResponse, EventResult, EventStatus};

/// One event's outcome.
pub(super) fn result(index: u32, outcome: Outcome<'_>) -> EventResult {
    let (status, message_id, code, reason) = match outcome {
        Outcome::Accepted { message_id, .. } => {
            (EventStatus::Accepted, message_id, "", Cow::Borrowed(""))
        }
        Outcome::Duplicate { message_id } => {
            (EventStatus::Duplicate, message_id, "", Cow::Borrowed(""))
        }
        Outcome::Rejected {
            message_id,
            code,
            reason,
        } => (
            EventStatus::Rejected,
            message_id.unwrap_or_default(),
            code.as_str(),
            reason,
        ),
    };
    EventResult {
        index,
        status: status.into(),
        message_id: message_id.into_owned(),
        code: code.to_owned(),
        reason: reason.into_owned(),
    }
}

/// The answer to a unary call: every outcome.
pub(super) fn response(outcomes: Vec<Outcome<'_>>, request_id: &str) -> CollectResponse {
    let counts = Counts::of(&outcomes);
    CollectResponse {
        results: (0u32..)
            .zip(outcomes)
            .map(|(index, outcome)| result(index, outcome))
            .collect(),
        accepted: counts.accepted,
        duplicate: counts.duplicate,
        rejected: counts.rejected,
        request_id: request_id.to_owned(),
    }
}

/// The acknowledgement of one batch: the outcomes that its sender cannot know.
pub(super) fn ack(batch_number: u64, outcomes: Vec<Outcome<'_>>) -> BatchAck {
    let counts = Counts::of(&outcomes);
    let told = (0u32..).zip(outcomes).filter(|(_, outcome)| {
        !matches!(
            outcome,
            Outcome::Accepted {
                assigned: false,
                ..
            }
        )
    });
    BatchAck {
        batch_number,
        accepted: counts.accepted,
        duplicate: counts.duplicate,
        rejected: counts.rejected,
        results: told
            .map(|(index, outcome)| result(index, outcome))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    fn outcomes() -> Vec<Outcome<'static>> {
        vec![
            Outcome::Accepted {
                message_id: "a".into(),
                assigned: true,
            },
            Outcome::Accepted {
                message_id: "own".into(),
                assigned: false,
            },
            Outcome::Duplicate {
                message_id: "b".into(),
            },
            Outcome::Rejected {
                message_id: None,
                code: Code::TooDeep,
                reason: "why".into(),
            },
        ]
    }

    type Line<'a> = (u32, EventStatus, &'a str, &'a str, &'a str);

    fn lines(results: &[EventResult]) -> Vec<Line<'_>> {
        results
            .iter()
            .map(|result| {
                let (code, reason) = (result.code.as_str(), result.reason.as_str());
                let id = result.message_id.as_str();
                (result.index, result.status(), id, code, reason)
            })
            .collect()
    }

    #[test]
    fn every_outcome_has_its_result() {
        let response = response(outcomes(), "r");
        let counts = (response.accepted, response.duplicate, response.rejected);
        assert_eq!((counts, response.request_id.as_str()), ((2, 1, 1), "r"));
        assert_eq!(
            lines(&response.results),
            [
                (0, EventStatus::Accepted, "a", "", ""),
                (1, EventStatus::Accepted, "own", "", ""),
                (2, EventStatus::Duplicate, "b", "", ""),
                (3, EventStatus::Rejected, "", "too_deep", "why"),
            ]
        );
    }

    #[test]
    fn an_acknowledgement_leaves_out_what_its_sender_knows() {
        let ack = ack(7, outcomes());
        let counts = (ack.accepted, ack.duplicate, ack.rejected);
        assert_eq!((ack.batch_number, counts), (7, (2, 1, 1)));
        assert_eq!(
            lines(&ack.results),
            [
                (0, EventStatus::Accepted, "a", "", ""),
                (2, EventStatus::Duplicate, "b", "", ""),
                (3, EventStatus::Rejected, "", "too_deep", "why"),
            ]
        );
    }
}
