//! Compares what the clients were told with what lies in the warehouse and in the event store.
//!
//! The rules, per event: acknowledged means exactly one row, in `events` or in `errors` and never in both; sent but never
//! answered means at most one; rejected or never sent means none. A row holds what was sent. For each routing key, what
//! was sent after an answer lies behind what was answered. In the event store each lane's batches are dense, do not
//! overlap, and were written in the order of their numbers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::ledger::{Answer, Fate, Ledger, Obligation, Payload, Tick};
use super::warehouse::{Found, FoundError, FoundObject, FoundRow};

/// What the oracle has against a run: one line per fault, with all that is known about the event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Acknowledged, but in neither table.
    Lost { event: String },
    /// More than one row, or a row and an error row.
    Repeated { event: String, rows: String },
    /// A row whose event nobody sent.
    NeverSent { rows: String },
    /// A row of an event that was rejected.
    StoredThoughRejected { event: String, rows: String },
    /// A good event as an error row, or a bad one as a row.
    WrongTable { event: String, rows: String },
    /// Another answer than the event deserves.
    WrongAnswer { event: String },
    /// The row does not hold what was sent.
    Altered { event: String, rows: String },
    /// Stored before an event that was answered before this one was sent.
    OutOfOrder { earlier: String, later: String },
    /// A kill must never make a log repair itself under a new id.
    LogReplaced { logs: Vec<String> },
    /// The event store's objects contradict each other.
    Objects { what: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { event } => write!(f, "LOST: acknowledged, but no row: {event}"),
            Self::Repeated { event, rows } => {
                write!(f, "REPEATED: more than one row: {event}; found {rows}")
            }
            Self::NeverSent { rows } => write!(f, "NEVER SENT: found {rows}"),
            Self::StoredThoughRejected { event, rows } => {
                write!(f, "STORED THOUGH REJECTED: {event}; found {rows}")
            }
            Self::WrongTable { event, rows } => {
                write!(f, "WRONG TABLE: {event}; found {rows}")
            }
            Self::WrongAnswer { event } => write!(f, "WRONG ANSWER: {event}"),
            Self::Altered { event, rows } => {
                write!(f, "ALTERED: not what was sent: {event}; found {rows}")
            }
            Self::OutOfOrder { earlier, later } => write!(
                f,
                "OUT OF ORDER: sent after the answer, stored before: {later}; the one before it: {earlier}"
            ),
            Self::LogReplaced { logs } => write!(f, "LOG REPLACED: rows of logs {logs:?}"),
            Self::Objects { what } => write!(f, "OBJECTS: {what}"),
        }
    }
}

/// What was compared, for the last lines of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: usize,
    pub(crate) acknowledged: usize,
    pub(crate) rejected: usize,
    pub(crate) unanswered: usize,
    pub(crate) unanswered_but_stored: usize,
    pub(crate) rows: usize,
    pub(crate) error_rows: usize,
    pub(crate) routing_keys: usize,
    pub(crate) objects: usize,
}

/// Compares. The list is empty when every promise was kept.
pub(crate) fn judge(ledger: &Ledger, found: &Found) -> (Tally, Vec<Violation>) {
    let mut violations = Vec::new();
    let mut stored: BTreeMap<&str, Stored<'_>> = BTreeMap::new();
    for row in &found.rows {
        stored.entry(&row.message_id).or_default().rows.push(row);
    }
    for error in &found.errors {
        stored
            .entry(&error.message_id)
            .or_default()
            .errors
            .push(error);
    }
    let nothing = Stored::default();
    for obligation in ledger.obligations() {
        let here = stored
            .get(obligation.sent.message_id.as_str())
            .unwrap_or(&nothing);
        violations.extend(judge_event(obligation, here));
    }
    for (message_id, here) in &stored {
        if ledger.get(message_id).is_none() {
            violations.push(Violation::NeverSent {
                rows: here.to_string(),
            });
        }
    }
    violations.extend(judge_order(ledger, &stored));
    violations.extend(judge_logs(found));
    violations.extend(judge_objects(&found.objects));
    let tally = tally(ledger, found, &stored);
    (tally, violations)
}

/// What was found under one message id.
#[derive(Debug, Default)]
struct Stored<'a> {
    rows: Vec<&'a FoundRow>,
    errors: Vec<&'a FoundError>,
}

impl Stored<'_> {
    fn len(&self) -> usize {
        self.rows.len() + self.errors.len()
    }

    /// The place of the one row there is.
    fn offset(&self) -> Option<u64> {
        let row = self.rows.iter().map(|row| row.offset);
        let error = self.errors.iter().map(|error| error.offset);
        row.chain(error).next()
    }
}

impl fmt::Display for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len() == 0 {
            return f.write_str("nothing");
        }
        for row in &self.rows {
            write!(f, "[row {row}]")?;
        }
        for error in &self.errors {
            write!(f, "[error row {error}]")?;
        }
        Ok(())
    }
}

/// One event against what lies under its id.
fn judge_event(obligation: &Obligation, here: &Stored<'_>) -> Option<Violation> {
    let event = || describe(obligation);
    let rows = || here.to_string();
    let rejected = obligation.answer == Some(Answer::Rejected);
    let deserved = obligation.sent.fate == Fate::Nothing;
    if obligation.answer.is_some() && rejected != deserved {
        return Some(Violation::WrongAnswer { event: event() });
    }
    if deserved {
        return (here.len() > 0).then(|| Violation::StoredThoughRejected {
            event: event(),
            rows: rows(),
        });
    }
    if here.len() > 1 {
        return Some(Violation::Repeated {
            event: event(),
            rows: rows(),
        });
    }
    if here.len() == 0 {
        return obligation
            .acknowledged()
            .then(|| Violation::Lost { event: event() });
    }
    let original = obligation.sent.original;
    let rows_hold = here.rows.iter().all(|row| holds(obligation, row));
    let errors_hold = here.errors.iter().all(|error| error.original == original);
    let right_table = match obligation.sent.fate {
        Fate::Row => here.errors.is_empty(),
        Fate::ErrorRow | Fate::Nothing => here.rows.is_empty(),
        Fate::AnyRow => true,
    };
    let same = rows_hold && errors_hold;
    if !right_table {
        return Some(Violation::WrongTable {
            event: event(),
            rows: rows(),
        });
    }
    (!same).then(|| Violation::Altered {
        event: event(),
        rows: rows(),
    })
}

/// Whether a row holds what was sent.
fn holds(obligation: &Obligation, row: &FoundRow) -> bool {
    let payload = match obligation.sent.payload {
        Payload::Verbatim(hash) => hash == row.properties_bytes,
        Payload::Value(hash) => Some(hash) == row.properties_value,
    };
    payload && row.routing_key == obligation.sent.routing_key
}

/// Something that happened to a stored event.
#[derive(Debug)]
struct Happened<'a> {
    at: Tick,
    /// Its place in the request.
    index: usize,
    /// Answered, or sent for the first time.
    answered: bool,
    /// Where it is stored.
    offset: u64,
    event: &'a Obligation,
}

/// For each routing key: what was sent after an answer lies behind what was answered, and what was sent in one
/// request lies in its order.
fn judge_order(ledger: &Ledger, stored: &BTreeMap<&str, Stored<'_>>) -> Vec<Violation> {
    let mut keys: HashMap<&str, Vec<Happened<'_>>> = HashMap::new();
    for event in ledger.obligations() {
        let here = stored.get(event.sent.message_id.as_str());
        let Some(offset) = here.and_then(Stored::offset) else {
            continue;
        };
        let happened = keys.entry(&event.sent.routing_key).or_default();
        let acknowledged = event.answered.filter(|_| event.acknowledged());
        let moments = [(Some(event.first_sent), false), (acknowledged, true)];
        for (at, answered) in moments {
            happened.extend(at.map(|at| Happened {
                at,
                index: event.index,
                answered,
                offset,
                event,
            }));
        }
    }
    let mut violations = Vec::new();
    for happened in keys.values_mut() {
        happened.sort_by_key(|now| (now.at, now.index));
        let mut answered: Option<&Happened<'_>> = None;
        let mut sent: Option<&Happened<'_>> = None;
        for now in happened.iter() {
            if now.answered {
                if answered.is_none_or(|highest| now.offset > highest.offset) {
                    answered = Some(now);
                }
                continue;
            }
            let together = sent.replace(now).filter(|before| before.at == now.at);
            for before in answered.into_iter().chain(together) {
                if now.offset <= before.offset {
                    violations.push(Violation::OutOfOrder {
                        earlier: format!("{} at offset {}", describe(before.event), before.offset),
                        later: format!("{} at offset {}", describe(now.event), now.offset),
                    });
                }
            }
        }
    }
    violations
}

/// All rows come from one log: a kill alone must never cost a log its identity.
fn judge_logs(found: &Found) -> Option<Violation> {
    let rows = found.rows.iter().map(|row| &row.log_id);
    let mut logs: Vec<String> = rows
        .chain(found.errors.iter().map(|error| &error.log_id))
        .cloned()
        .collect();
    logs.sort_unstable();
    logs.dedup();
    (logs.len() > 1).then_some(Violation::LogReplaced { logs })
}

/// The order of the event store: per lane, numbers are dense and stand for one batch each, ranges ascend, and no batch
/// was written before the one in front of it.
fn judge_objects(objects: &[FoundObject]) -> Vec<Violation> {
    let mut lanes: BTreeMap<(&str, u16), BTreeMap<u64, Vec<&FoundObject>>> = BTreeMap::new();
    for object in objects {
        let lane = lanes.entry((&object.log_id, object.lane)).or_default();
        lane.entry(object.number).or_default().push(object);
    }
    let mut violations = Vec::new();
    let mut say = |what: String| violations.push(Violation::Objects { what });
    for lane in lanes.values() {
        let mut before: Option<&FoundObject> = None;
        for (expected, batch) in (0u64..).zip(lane.values()) {
            let Some(&object) = batch.first() else {
                continue;
            };
            if object.number != expected {
                say(format!("batch {expected} is missing before {object}"));
                break;
            }
            if let Some(other) = batch.iter().find(|other| other.stem != object.stem) {
                say(format!(
                    "two batches under one number: {object} and {other}"
                ));
            }
            let Some(earlier) = before.replace(object) else {
                continue;
            };
            if object.first <= earlier.last {
                say(format!("{object} overlaps {earlier}"));
            }
            if batch.iter().any(|now| now.written < earlier.written) {
                say(format!("{object} was written before {earlier}"));
            }
        }
    }
    violations
}

fn tally(ledger: &Ledger, found: &Found, stored: &BTreeMap<&str, Stored<'_>>) -> Tally {
    let mut tally = Tally {
        sent: ledger.len(),
        rows: found.rows.len(),
        error_rows: found.errors.len(),
        objects: found.objects.len(),
        ..Tally::default()
    };
    let mut keys: Vec<&str> = Vec::with_capacity(ledger.len());
    for obligation in ledger.obligations() {
        keys.push(&obligation.sent.routing_key);
        match obligation.answer {
            Some(Answer::Accepted | Answer::Duplicate) => tally.acknowledged += 1,
            Some(Answer::Rejected) => tally.rejected += 1,
            None => {
                tally.unanswered += 1;
                let message_id = obligation.sent.message_id.as_str();
                tally.unanswered_but_stored += usize::from(stored.contains_key(message_id));
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
    tally.routing_keys = keys.len();
    tally
}

/// All that is known about an event, for a report.
fn describe(obligation: &Obligation) -> String {
    let Obligation {
        sent,
        first_sent,
        index,
        attempts,
        incarnation,
        answer,
        answered,
    } = obligation;
    let answer = match (answer, answered) {
        (Some(answer), Some(at)) => format!("answered {answer:?} at tick {at}"),
        _ => "never answered".to_owned(),
    };
    format!(
        "event {:.64} of {} (key {}, expected {:?}), first sent at tick {first_sent} as number {index} of its request after {incarnation} restarts, {attempts} attempts, {answer}",
        sent.message_id, sent.client, sent.routing_key, sent.fate
    )
}
