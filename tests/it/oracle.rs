//! The oracle of the crash test must notice what it is there for.

use std::time::{Duration, SystemTime};

use crate::support::ledger::{Answer, Fate, Ledger, Payload, Sent};
use crate::support::oracle::{Violation, judge};
use crate::support::warehouse::{Found, FoundError, FoundObject, FoundRow};

const LOG: &str = "0123456789abcdef0123456789abcdef";

fn event(message_id: &str, fate: Fate) -> Sent {
    Sent {
        message_id: message_id.to_owned(),
        routing_key: "u1".to_owned(),
        client: "a test".to_owned(),
        fate,
        payload: Payload::Verbatim(7),
        original: 8,
    }
}

fn row(message_id: &str, offset: u64) -> FoundRow {
    FoundRow {
        message_id: message_id.to_owned(),
        log_id: LOG.to_owned(),
        lane: 3,
        offset,
        routing_key: "u1".to_owned(),
        properties_bytes: 7,
        properties_value: Some(9),
    }
}

fn error(message_id: &str, offset: u64) -> FoundError {
    FoundError {
        message_id: message_id.to_owned(),
        log_id: LOG.to_owned(),
        offset,
        code: "missing_field".to_owned(),
        original: 8,
    }
}

fn object(number: u64, first: u64, last: u64, written_s: u64) -> FoundObject {
    let stem = format!("{LOG}-3-{number}-{first}-{last}-00000000000000aa");
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(written_s);
    FoundObject::from_stem(&stem, written).unwrap()
}

/// One after the other: `good` and `late` accepted, `bad` accepted but invalid, `huge` rejected, `lone` unanswered.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for (id, fate, answer) in [
        ("good", Fate::Row, Some(Answer::Accepted)),
        ("bad", Fate::ErrorRow, Some(Answer::Accepted)),
        ("huge", Fate::Nothing, Some(Answer::Rejected)),
        ("lone", Fate::Row, None),
        ("late", Fate::Row, Some(Answer::Duplicate)),
    ] {
        ledger.sending(&[event(id, fate)]);
        if let Some(answer) = answer {
            ledger.heard(id, answer);
        }
    }
    ledger
}

/// What an honest gateway leaves behind for [`ledger`].
fn honest() -> Found {
    Found {
        rows: vec![row("good", 0), row("late", 2)],
        errors: vec![error("bad", 1)],
        objects: vec![object(0, 0, 1, 10), object(1, 2, 2, 10)],
    }
}

#[test]
fn an_honest_run_passes() {
    let (tally, violations) = judge(&ledger(), &honest());
    assert_eq!(violations, []);
    assert_eq!(
        (
            tally.sent,
            tally.acknowledged,
            tally.rejected,
            tally.unanswered
        ),
        (5, 3, 1, 1)
    );
}

#[test]
fn an_unanswered_event_may_be_stored_once() {
    let mut found = honest();
    found.rows.insert(1, row("lone", 2));
    found.rows[2].offset = 3;
    let (tally, violations) = judge(&ledger(), &found);
    assert_eq!(violations, []);
    assert_eq!(tally.unanswered_but_stored, 1);
}

#[test]
fn each_broken_promise_is_noticed() {
    type Break = fn(&mut Found);
    let cases: &[(&str, Break)] = &[
        ("LOST", |found| {
            found.rows.remove(0);
        }),
        ("LOST", |found| found.errors.clear()),
        ("REPEATED", |found| found.rows.push(row("late", 9))),
        ("REPEATED", |found| found.errors.push(error("good", 9))),
        ("REPEATED", |found| {
            found.rows.push(row("lone", 9));
            found.rows.push(row("lone", 10));
        }),
        ("NEVER SENT", |found| found.rows.push(row("ghost", 9))),
        ("NEVER SENT", |found| found.errors.push(error("ghost", 9))),
        ("STORED THOUGH REJECTED", |found| {
            found.rows.push(row("huge", 9));
        }),
        ("WRONG TABLE", |found| {
            found.errors.clear();
            found.rows.insert(1, row("bad", 1));
        }),
        ("ALTERED", |found| found.rows[0].properties_bytes = 70),
        ("ALTERED", |found| {
            found.rows[0].routing_key = "u2".to_owned()
        }),
        ("ALTERED", |found| found.errors[0].original = 80),
        ("OUT OF ORDER", |found| {
            found.errors[0].offset = 2;
            found.rows[1].offset = 1;
        }),
        ("LOG REPLACED", |found| {
            found.rows[0].log_id = "ffff".to_owned();
        }),
        ("OBJECTS: batch 0 is missing", |found| {
            found.objects.remove(0);
        }),
        ("OBJECTS: two batches under one number", |found| {
            found.objects.push(object(1, 2, 3, 10));
        }),
        ("overlaps", |found| found.objects[0] = object(0, 0, 2, 10)),
        ("was written before", |found| {
            found.objects[1] = object(1, 2, 2, 9)
        }),
    ];
    for (expected, breaks) in cases {
        let mut found = honest();
        breaks(&mut found);
        let (_, violations) = judge(&ledger(), &found);
        let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(
            texts.len() == 1 && texts.iter().all(|text| text.contains(expected)),
            "{expected}: {texts:#?}"
        );
    }
}

#[test]
fn a_false_answer_is_noticed() {
    let mut ledger = ledger();
    ledger.sending(&[event("monster", Fate::Nothing), event("fine", Fate::Row)]);
    ledger.heard("monster", Answer::Accepted);
    ledger.heard("fine", Answer::Rejected);
    let (_, violations) = judge(&ledger, &honest());
    assert_eq!(violations.len(), 2, "{violations:#?}");
    assert!(
        violations
            .iter()
            .all(|violation| matches!(violation, Violation::WrongAnswer { .. }))
    );
}

#[test]
fn events_of_one_request_keep_their_order() {
    let mut ledger = Ledger::default();
    ledger.sending(&[event("first", Fate::Row), event("second", Fate::Row)]);
    let in_order = |first, second| Found {
        rows: vec![row("first", first), row("second", second)],
        ..Found::default()
    };
    assert_eq!(judge(&ledger, &in_order(4, 5)).1, []);
    assert!(matches!(
        judge(&ledger, &in_order(5, 4)).1.as_slice(),
        [Violation::OutOfOrder { .. }]
    ));
}

#[test]
fn concurrent_requests_have_no_order() {
    let mut ledger = Ledger::default();
    ledger.sending(&[event("one", Fate::Row)]);
    ledger.sending(&[event("two", Fate::Row)]);
    ledger.heard("one", Answer::Accepted);
    ledger.heard("two", Answer::Accepted);
    let found = Found {
        rows: vec![row("one", 5), row("two", 4)],
        ..Found::default()
    };
    assert_eq!(judge(&ledger, &found).1, []);
}
