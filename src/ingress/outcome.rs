//! What became of an event, or of a request as a whole. Pure.

use std::borrow::Cow;
use std::time::Duration;

use crate::status::{Code, Retry};

/// About what an outcome takes in memory until it is told.
pub(super) const BYTES: usize = 160;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Durable in the log.
    Accepted {
        /// The client's id, or the one that the gateway invented.
        message_id: Cow<'a, str>,
        /// True when the gateway invented it.
        assigned: bool,
    },
    /// Was durable in the log already, under the same source and message id; not stored again.
    Duplicate {
        /// The client's id.
        message_id: Cow<'a, str>,
    },
    /// Not stored, and never will be as it is.
    Rejected {
        /// The client's id, where it could be read.
        message_id: Option<Cow<'a, str>>,
        /// The word for why.
        code: Code,
        /// The same for people.
        reason: Cow<'static, str>,
    },
}

impl Outcome<'_> {
    /// The event's message id, where there is one.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        match self {
            Self::Accepted { message_id, .. } | Self::Duplicate { message_id } => Some(message_id),
            Self::Rejected { message_id, .. } => message_id.as_deref(),
        }
    }

    /// The same without what it borrows from the request.
    #[must_use]
    pub fn into_owned(self) -> Outcome<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Accepted {
                message_id,
                assigned,
            } => Outcome::Accepted {
                message_id: owned(message_id),
                assigned,
            },
            Self::Duplicate { message_id } => Outcome::Duplicate {
                message_id: owned(message_id),
            },
            Self::Rejected {
                message_id,
                code,
                reason,
            } => Outcome::Rejected {
                message_id: message_id.map(owned),
                code,
                reason,
            },
        }
    }
}

/// How many events of a request had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Stored by this request.
    pub accepted: u32,
    /// Stored earlier.
    pub duplicate: u32,
    /// Not stored.
    pub rejected: u32,
}

impl Counts {
    /// Counts a request's outcomes.
    #[must_use]
    pub fn of(outcomes: &[Outcome<'_>]) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Accepted { .. } => counts.accepted += 1,
                Outcome::Duplicate { .. } => counts.duplicate += 1,
                Outcome::Rejected { .. } => counts.rejected += 1,
            }
        }
        counts
    }
}

/// Turns the accepted outcomes at these places of the append (ascending) into duplicates. Rejected events were not
/// appended and have no place.
pub(crate) fn mark_duplicates(outcomes: &mut [Outcome<'_>], duplicates: &[u32]) {
    let mut duplicates = duplicates.iter().copied().peekable();
    let appended = outcomes
        .iter_mut()
        .filter(|outcome| matches!(outcome, Outcome::Accepted { .. }));
    for (place, outcome) in (0u32..).zip(appended) {
        match duplicates.peek() {
            None => return,
            Some(&duplicate) if duplicate == place => {
                duplicates.next();
                if let Outcome::Accepted { message_id, .. } = outcome {
                    *outcome = Outcome::Duplicate {
                        message_id: std::mem::take(message_id),
                    };
                }
            }
            Some(_) => {}
        }
    }
}

/// How many events were rejected with which code.
pub(crate) fn rejected_by_code(outcomes: &[Outcome<'_>]) -> Vec<(Code, u64)> {
    let mut counts: Vec<(Code, u64)> = Vec::new();
    for outcome in outcomes {
        if let Outcome::Rejected { code, .. } = outcome {
            match counts.iter_mut().find(|(counted, _)| counted == code) {
                Some((_, count)) => *count += 1,
                None => counts.push((*code, 1)),
            }
        }
    }
    counts
}

/// The code of a request of which no event was accepted: "too large" only if all were.
pub(crate) fn code_of_all_rejected(outcomes: &[Outcome<'_>]) -> Option<Code> {
    let mut codes = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Rejected { code, .. } => Some(*code),
        Outcome::Accepted { .. } | Outcome::Duplicate { .. } => None,
    });
    let first = codes.next()?;
    if first == Code::EventTooLarge {
        codes.find(|code| *code != first).or(Some(first))
    } else {
        Some(first)
    }
}

/// Why a request was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RequestError {
    /// The word for it; says too whether anything may have been stored and whether a retry helps.
    pub code: Code,
    /// The public text.
    pub text: Cow<'static, str>,
    /// The part of the request that is at fault, where that can be named.
    pub field: Option<&'static str>,
    /// The limit that its sender went beyond.
    pub quota: Option<Quota>,
}

/// A limit that a sender went beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// What it is a limit of.
    pub subject: &'static str,
    /// When there is something left again.
    pub wait: Duration,
}

/// The longest time that a client is told to wait: SDKs take no longer one.
const WAIT_MAX: Duration = Duration::from_secs(300);

impl From<Code> for RequestError {
    fn from(code: Code) -> Self {
        Self::new(code, code.text())
    }
}

impl RequestError {
    pub(crate) fn new(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            text: text.into(),
            field: None,
            quota: None,
        }
    }

    pub(crate) fn in_field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// The same, about one batch of a stream and those after it.
    pub(crate) fn at(mut self, what: &str, number: u64) -> Self {
        self.text = format!("from {what} {number} on: {}", self.text).into();
        self
    }

    pub(crate) fn too_many_events(max: usize) -> Self {
        let text = format!(
            "the request carries more than {max} events; do not retry it, send smaller batches"
        );
        Self::new(Code::TooManyEvents, text)
    }

    pub(crate) fn merged_too_large(max: usize) -> Self {
        let text = format!(
            "the events have more than {max} bytes, each with the batch's context and integrations; do not retry it, send smaller batches"
        );
        Self::new(Code::BodyTooLarge, text)
    }

    pub(crate) fn body_too_large(max: usize) -> Self {
        let text =
            format!("the request has more than {max} bytes; do not retry it, send smaller batches");
        Self::new(Code::BodyTooLarge, text)
    }

    /// When to try again; `None` when that cannot help, or when the client's own deadline was at fault.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let wanted = matches!(
            self.code.grpc(),
            tonic::Code::Unavailable | tonic::Code::ResourceExhausted
        );
        (wanted && self.code.retry() == Retry::SameIds).then(|| {
            match (self.quota, self.code) {
                (Some(quota), _) => quota.wait.min(WAIT_MAX),
                // It needs a store that comes back; everything else passes in a moment.
                (None, Code::LogFull) => Duration::from_secs(5),
                (None, _) => Duration::from_secs(1),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(id: &str) -> Outcome<'_> {
        Outcome::Accepted {
            message_id: id.into(),
            assigned: false,
        }
    }

    fn duplicate(id: &str) -> Outcome<'_> {
        Outcome::Duplicate {
            message_id: id.into(),
        }
    }

    fn rejected(code: Code) -> Outcome<'static> {
        Outcome::Rejected {
            message_id: None,
            code,
            reason: code.text().into(),
        }
    }

    #[test]
    fn duplicates_are_found_among_rejected_events() {
        let refuse = || rejected(Code::NotAnObject);
        let given = || {
            vec![
                refuse(),
                accepted("a"),
                accepted("b"),
                refuse(),
                accepted("c"),
            ]
        };
        let cases: &[(&[u32], [Outcome<'_>; 3])] = &[
            (&[], [accepted("a"), accepted("b"), accepted("c")]),
            (&[0], [duplicate("a"), accepted("b"), accepted("c")]),
            (&[2], [accepted("a"), accepted("b"), duplicate("c")]),
            (&[0, 1, 2], [duplicate("a"), duplicate("b"), duplicate("c")]),
        ];
        for (places, [a, b, c]) in cases {
            let mut outcomes = given();
            mark_duplicates(&mut outcomes, places);
            let expected = [refuse(), a.clone(), b.clone(), refuse(), c.clone()];
            assert_eq!(outcomes, expected, "{places:?}");
        }
    }

    #[test]
    fn outcomes_are_counted() {
        let outcomes = [
            accepted("a"),
            duplicate("b"),
            rejected(Code::TooDeep),
            rejected(Code::NotAnObject),
            rejected(Code::TooDeep),
        ];
        let counts = Counts::of(&outcomes);
        assert_eq!(
            (counts.accepted, counts.duplicate, counts.rejected),
            (1, 1, 3)
        );
        assert_eq!(
            rejected_by_code(&outcomes),
            [(Code::TooDeep, 2), (Code::NotAnObject, 1)]
        );
    }

    #[test]
    fn too_large_is_said_only_if_all_were() {
        let (large, deep) = (Code::EventTooLarge, Code::TooDeep);
        let cases: &[(&[Code], Option<Code>)] = &[
            (&[], None),
            (&[large], Some(large)),
            (&[large, large], Some(large)),
            (&[large, deep], Some(deep)),
            (&[deep, large], Some(deep)),
        ];
        for (codes, expected) in cases {
            let outcomes: Vec<_> = codes.iter().copied().map(rejected).collect();
            assert_eq!(code_of_all_rejected(&outcomes), *expected, "{codes:?}");
        }
    }

    #[test]
    fn only_what_passes_is_to_be_tried_again() {
        for &code in Code::ALL {
            let wait = RequestError::from(code).retry_after();
            match code {
                Code::LogFull
                | Code::Overloaded
                | Code::Draining
                | Code::LogFailed
                | Code::OutcomeUnknown
                | Code::RateLimited => assert!(wait.is_some(), "{code}"),
                _ => assert_eq!(wait, None, "{code}"),
            }
        }
    }
}
