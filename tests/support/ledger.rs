//! What the clients of a run sent and heard: every answer is an obligation that the oracle collects later.
//!
//! Independent of the program under test on purpose: nothing here comes from its library.

use std::collections::BTreeMap;

/// A moment of the run's own logical clock: "after" means a greater tick, whatever the wall clock did.
pub(crate) type Tick = u64;

/// What an event must become if it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A row of `events`.
    Row,
    /// A row of `errors`: the event is accepted but invalid.
    ErrorRow,
    /// Either of the two: the event is accepted, and so odd that the tests do not say what is right.
    AnyRow,
    /// Nothing: the edge cannot hold it.
    Nothing,
}

/// What the gateway said about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Durable now.
    Accepted,
    /// Was durable before.
    Duplicate,
    /// Not stored, never will be.
    Rejected,
}

impl Answer {
    /// From the word in an HTTP answer.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "accepted" => Some(Self::Accepted),
            "duplicate" => Some(Self::Duplicate),
            "rejected" => Some(Self::Rejected),
            _ => None,
        }
    }
}

/// The content of an event in the form in which it must be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Hash of the `properties` as sent: they must come back byte for byte.
    Verbatim(u64),
    /// Hash of the `properties` sent as a protobuf `Struct`: they must come back as the same JSON value.
    Value(u64),
}

/// One event, as the client that sent it knows it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The client's id for it.
    pub(crate) message_id: String,
    /// The key whose events keep their order.
    pub(crate) routing_key: String,
    /// The door and client, for reports.
    pub(crate) client: String,
    /// What it must become.
    pub(crate) fate: Fate,
    /// Its properties.
    pub(crate) payload: Payload,
    /// Hash of the event's own bytes on the wire: what an error row must hold.
    pub(crate) original: u64,
}

/// What is known about one event that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Obligation {
    /// The event.
    pub(crate) sent: Sent,
    /// When it was sent for the first time.
    pub(crate) first_sent: Tick,
    /// Its place in the request, to order events that were sent together.
    pub(crate) index: usize,
    /// How many times it was sent.
    pub(crate) attempts: u32,
    /// How many restarts there had been when it was sent for the first time.
    pub(crate) incarnation: u32,
    /// The first answer about it, if there was one.
    pub(crate) answer: Option<Answer>,
    /// When that came.
    pub(crate) answered: Option<Tick>,
}

impl Obligation {
    /// Whether the gateway said that the event is durable.
    pub(crate) fn acknowledged(&self) -> bool {
        matches!(self.answer, Some(Answer::Accepted | Answer::Duplicate))
    }
}

/// How often each answer was heard.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
}

/// Everything that was sent and heard, by message id (all events of a run have the same source).
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    clock: Tick,
    obligations: BTreeMap<String, Obligation>,
    /// How many restarts there have been.
    pub(crate) incarnation: u32,
    /// Every answer that was heard, repeats included.
    pub(crate) answers: Answers,
    /// Requests that got no usable answer.
    pub(crate) unanswered_requests: u64,
}

impl Ledger {
    /// The next moment.
    fn tick(&mut self) -> Tick {
        self.clock += 1;
        self.clock
    }

    /// Writes down that these events are about to be sent in one request; call it before the first byte leaves.
    pub(crate) fn sending(&mut self, events: &[Sent]) {
        let now = self.tick();
        for (index, sent) in events.iter().enumerate() {
            self.obligations
                .entry(sent.message_id.clone())
                .and_modify(|known| known.attempts += 1)
                .or_insert_with(|| Obligation {
                    sent: sent.clone(),
                    first_sent: now,
                    index,
                    attempts: 1,
                    incarnation: self.incarnation,
                    answer: None,
                    answered: None,
                });
        }
    }

    /// Writes down what was heard; call it when the answer has arrived completely. Later answers about the same
    /// event are counted, but the first one is the obligation.
    pub(crate) fn heard(&mut self, message_id: &str, answer: Answer) {
        let now = self.tick();
        match answer {
            Answer::Accepted => self.answers.accepted += 1,
            Answer::Duplicate => self.answers.duplicate += 1,
            Answer::Rejected => self.answers.rejected += 1,
        }
        if let Some(known) = self.obligations.get_mut(message_id)
            && known.answer.is_none()
        {
            known.answer = Some(answer);
            known.answered = Some(now);
        }
    }

    /// Takes over what another client wrote down. Moments of two ledgers do not compare, so their users must differ.
    pub(crate) fn adopt(&mut self, other: Self) {
        self.obligations.extend(other.obligations);
        self.answers.accepted += other.answers.accepted;
        self.answers.duplicate += other.answers.duplicate;
        self.answers.rejected += other.answers.rejected;
        self.unanswered_requests += other.unanswered_requests;
    }

    /// Every event that was sent.
    pub(crate) fn obligations(&self) -> impl Iterator<Item = &Obligation> {
        self.obligations.values()
    }

    /// What is known about one event.
    pub(crate) fn get(&self, message_id: &str) -> Option<&Obligation> {
        self.obligations.get(message_id)
    }

    /// How many different events were sent.
    pub(crate) fn len(&self) -> usize {
        self.obligations.len()
    }
}
