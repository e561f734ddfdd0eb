use bytes::Bytes;

use super::*;
use crate::event::{Day, Offset};

const RULES: Rules = Rules {
    run: BatchRules {
        events: 4,
        events_age: Duration::from_secs(1),
        events_max: usize::MAX,
        bytes: 100,
        age: Duration::from_secs(10),
    },
    budget_bytes: 1_000,
    budget_messages: 20,
};

/// A batch of two events of so many bytes each; its handle is its number and copy.
fn message(lane: u16, number: u64, day: i32, bytes: usize) -> Message<(u64, u8)> {
    let first = number * 100;
    let records: Vec<(Offset, Bytes)> = [first, first + 1]
        .into_iter()
        .map(|offset| (offset, Bytes::from(vec![7; bytes])))
        .collect();
    Message {
        batch: Batch {
            id: BatchId {
                log_id: LogId(1),
                lane: Lane(lane),
                number,
                first,
                last: first + 1,
                input_hash: input_hash(&records),
            },
            day: Day(day),
            records,
            sent_in: Vec::new(),
        },
        node: "node".into(),
        handle: (number, 0),
    }
}

fn key(lane: u16) -> Key {
    (LogId(1), Lane(lane))
}

fn offsets(run: &Run) -> Vec<Offset> {
    run.batch
        .records
        .iter()
        .map(|(offset, _)| *offset)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn consecutive_batches_are_one_run_under_the_first_ones_number() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for number in 3..6 {
        assert!(gatherer.offer(message(0, number, 1, 1), now));
    }
    assert!(gatherer.take(now, false).is_none(), "not ripe");
    let run = gatherer.take(now + RULES.run.events_age, false).unwrap();
    assert_eq!(offsets(&run), [300, 301, 400, 401, 500, 501]);
    let id = run.batch.id;
    assert_eq!((id.number, id.first, id.last), (3, 300, 501));
    assert_eq!(id.input_hash, input_hash(&run.batch.records));
    assert_eq!(gatherer.settle(run.key), [(3, 0), (4, 0), (5, 0)]);
    assert!(gatherer.is_empty() && gatherer.bytes() == 0 && gatherer.messages() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_one_batch_keeps_that_batchs_name() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    let one = message(0, 3, 1, 1).batch;
    gatherer.offer(message(0, 3, 1, 1), now);
    assert_eq!(*gatherer.take(now, true).unwrap().batch, one);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_ripe_by_age_by_count_once_it_is_old_enough_and_by_bytes_at_once() {
    let cases = [
        (vec![message(0, 1, 1, 1)], RULES.run.age),
        (
            vec![message(0, 1, 1, 1), message(0, 2, 1, 1)],
            RULES.run.events_age,
        ),
        (vec![message(0, 1, 1, 50)], Duration::ZERO),
    ];
    for (messages, ripe_after) in cases {
        let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
        for message in messages {
            gatherer.offer(message, now);
        }
        assert_eq!(gatherer.deadline(), Some(now + ripe_after));
        if ripe_after > Duration::ZERO {
            let before = now + ripe_after - Duration::from_millis(1);
            assert!(gatherer.take(before, false).is_none());
        }
        assert!(gatherer.take(now + ripe_after, false).is_some());
        assert_eq!(gatherer.deadline(), None, "the lane is busy");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_another_day_and_a_full_run_close_what_came_before() {
    for (then, what) in [
        (message(0, 3, 1, 1), "a gap"),
        (message(0, 2, 2, 1), "another day"),
    ] {
        let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
        gatherer.offer(message(0, 1, 1, 1), now);
        gatherer.offer(then, now);
        let run = gatherer.take(now, false).expect(what);
        assert_eq!(offsets(&run), [100, 101], "{what}");
        assert!(
            gatherer.take(now + RULES.run.age, false).is_none(),
            "one run of a lane is out at a time"
        );
        gatherer.settle(run.key);
        assert!(
            gatherer.take(now + RULES.run.age, false).is_some(),
            "{what}"
        );
    }
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 1, 1, 60), now);
    gatherer.offer(message(0, 2, 1, 60), now);
    assert_eq!(
        offsets(&gatherer.take(now, false).unwrap()),
        [100, 101],
        "full"
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_settled_with_the_first_one_wherever_that_is() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    let copy = |number| Message {
        handle: (number, 1),
        ..message(0, number, 1, 1)
    };
    gatherer.offer(message(0, 1, 1, 1), now);
    assert!(!gatherer.offer(copy(1), now), "waiting");
    let run = gatherer.take(now, true).unwrap();
    assert!(!gatherer.offer(copy(1), now), "out");
    assert!(gatherer.offer(message(0, 2, 1, 1), now));
    assert_eq!(gatherer.settle(run.key), [(1, 0), (1, 1), (1, 1)]);
    // Once settled it is forgotten: another copy is a run of its own, under the same name.
    assert!(gatherer.offer(copy(1), now));
    assert_eq!(offsets(&gatherer.take(now, true).unwrap()), [100, 101]);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_batch_that_comes_late_goes_out_before_those_that_wait() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for number in [8, 9, 3, 4] {
        gatherer.offer(message(0, number, 1, 1), now);
    }
    let mut out = Vec::new();
    while let Some(run) = gatherer.take(now, true) {
        out.extend(offsets(&run));
        gatherer.settle(run.key);
    }
    assert_eq!(out, [300, 301, 400, 401, 800, 801, 900, 901]);
}

#[tokio::test(start_paused = true)]
async fn past_half_the_budget_the_oldest_run_is_ripe_and_past_all_of_it_nothing_is_taken_in() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for lane in 0..10 {
        let age = Duration::from_millis(u64::from(lane));
        gatherer.offer(message(lane, 1, 1, 25), now + age);
        assert!(!gatherer.is_full());
    }
    assert!(gatherer.take(now, false).is_none(), "half of it");
    gatherer.offer(message(10, 1, 1, 25), now);
    gatherer.offer(message(11, 1, 1, 1), now + RULES.run.events_age);
    assert_eq!(gatherer.take(now, false).unwrap().key, key(0));
    for number in 2..12 {
        gatherer.offer(message(12, number, 1, 49), now);
    }
    assert!(gatherer.is_full());
}

#[tokio::test(start_paused = true)]
async fn many_small_messages_count_too() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for number in 0..20 {
        assert!(!gatherer.is_full());
        gatherer.offer(message(0, number, 1, 0), now);
    }
    assert!(gatherer.is_full());
    assert!(gatherer.take(now, false).is_some());
}
