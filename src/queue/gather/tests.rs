use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::{BatchId, Day, Offset};
use crate::queue::input_hash;

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
        assert_eq!(
            gatherer.offer(message(0, number, 1, 1), now),
            Offered::Taken
        );
    }
    assert!(gatherer.take(now, false).is_none(), "not ripe");
    let run = gatherer.take(now + RULES.run.events_age, false).unwrap();
    assert_eq!(offsets(&run), [300, 301, 400, 401, 500, 501]);
    let id = run.batch.id;
    assert_eq!((id.number, id.first, id.last), (3, 300, 501));
    assert_eq!(id.input_hash, input_hash(&run.batch.records));
    assert_eq!(gatherer.settle(run.key, now), [(3, 0), (4, 0), (5, 0)]);
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
    for (first, then, what) in [
        (message(0, 1, 1, 1), message(0, 3, 1, 1), "a gap"),
        (message(0, 1, 1, 1), message(0, 2, 2, 1), "another day"),
        (message(0, 1, 1, 60), message(0, 2, 1, 60), "full"),
    ] {
        let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
        gatherer.offer(first, now);
        gatherer.offer(then, now);
        let run = gatherer.take(now, false).expect(what);
        assert_eq!(offsets(&run), [100, 101], "{what}");
        assert!(
            gatherer.take(now + PATIENCE, false).is_none(),
            "one run of a lane is out at a time"
        );
        gatherer.settle(run.key, now);
        assert!(gatherer.take(now + PATIENCE, false).is_some(), "{what}");
    }
}

/// A copy of a batch of lane 0.
fn copy(number: u64) -> Message<(u64, u8)> {
    Message {
        handle: (number, 1),
        ..message(0, number, 1, 1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_settled_with_the_first_one_wherever_that_is() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 1, 1, 1), now);
    assert_eq!(gatherer.offer(copy(1), now), Offered::Copy, "waiting");
    let run = gatherer.take(now, true).unwrap();
    assert_eq!(gatherer.offer(copy(1), now), Offered::Copy, "out");
    assert_eq!(gatherer.offer(message(0, 2, 1, 1), now), Offered::Taken);
    assert_eq!(gatherer.settle(run.key, now), [(1, 0), (1, 1), (1, 1)]);
    // Once settled it is forgotten: another copy is a run of its own, under the same name.
    assert_eq!(gatherer.offer(copy(1), now), Offered::Taken);
    assert_eq!(offsets(&gatherer.take(now, true).unwrap()), [100, 101]);
}

/// Everything that goes out now, settled at once.
fn drained(gatherer: &mut Gatherer<(u64, u8)>, now: Instant) -> Vec<Vec<Offset>> {
    let mut out = Vec::new();
    while let Some(run) = gatherer.take(now, true) {
        out.push(offsets(&run));
        gatherer.settle(run.key, now);
    }
    out
}

#[tokio::test(start_paused = true)]
async fn an_earlier_batch_that_comes_late_goes_out_before_those_that_wait() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for number in [8, 9, 3, 4] {
        gatherer.offer(message(0, number, 1, 1), now);
    }
    // What is behind a gap waits.
    assert_eq!(drained(&mut gatherer, now), [[300, 301, 400, 401]]);
    for number in [6, 7, 5] {
        gatherer.offer(message(0, number, 1, 1), now);
    }
    assert_eq!(
        drained(&mut gatherer, now).concat(),
        [500, 501, 600, 601, 700, 701, 800, 801, 900, 901]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_waited_for_and_then_given_up_with_a_word() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    assert_eq!(drained(&mut gatherer, now).len(), 1);
    assert_eq!(gatherer.offer(message(0, 6, 1, 1), now), Offered::Early);
    let later = now + PATIENCE - Duration::from_millis(1);
    assert_eq!(gatherer.offer(message(0, 7, 1, 1), later), Offered::Taken);
    assert!(!gatherer.is_ready(later, true));
    assert_eq!(gatherer.early(later), 1);
    assert_eq!(gatherer.deadline(), Some(now + PATIENCE));
    let run = gatherer.take(now + PATIENCE, false).unwrap();
    assert_eq!((run.batch.id.number, run.missing), (6, 2));
    gatherer.settle(run.key, now + PATIENCE);
    // What comes after all is a late one, and holds nobody up.
    gatherer.offer(message(0, 4, 1, 1), now + PATIENCE);
    gatherer.offer(message(0, 8, 1, 1), now + PATIENCE);
    assert_eq!(drained(&mut gatherer, now + PATIENCE).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_was_quiet_for_long_may_have_been_anothers_and_begins_anew() {
    let moment = Duration::from_millis(1);
    for (quiet, cut_off, waits) in [
        (REMEMBERED - moment, None, true),
        (REMEMBERED, None, false),
        // Then it was quiet because nothing could come.
        (REMEMBERED * 3, Some(REMEMBERED - moment), true),
        (REMEMBERED * 3, Some(REMEMBERED), false),
    ] {
        let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
        gatherer.offer(message(0, 3, 1, 1), now);
        drained(&mut gatherer, now);
        if let Some(after) = cut_off {
            gatherer.cut_off(now + after);
        }
        gatherer.offer(message(0, 30, 1, 1), now + quiet);
        assert_eq!(gatherer.is_ready(now + quiet, true), !waits, "{quiet:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_could_not_be_taken_in_is_waited_for_even_at_the_lanes_first_sight() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    let until = now + Duration::from_secs(90);
    gatherer.expect((key(0), 4), until, now);
    // Asked again, it is not waited for any longer.
    gatherer.expect((key(0), 4), until + PATIENCE, now);
    gatherer.offer(message(0, 5, 1, 1), now);
    assert!(!gatherer.is_ready(until - Duration::from_millis(1), true));
    assert!(gatherer.is_ready(until, true));
    gatherer.offer(message(0, 4, 1, 1), now);
    assert_eq!(drained(&mut gatherer, now).concat(), [400, 401, 500, 501]);
    // It is behind the lane by now.
    gatherer.expect((key(0), 4), until, now);
    gatherer.offer(message(0, 6, 1, 1), now);
    assert!(gatherer.is_ready(now, true));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_could_not_be_taken_in_of_what_is_here_is_not_waited_for() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for number in [3, 4] {
        gatherer.offer(message(0, number, 1, 1), now);
    }
    gatherer.expect((key(0), 4), now + PATIENCE, now);
    assert_eq!(drained(&mut gatherer, now), [[300, 301, 400, 401]]);
    gatherer.offer(message(0, 5, 1, 1), now);
    assert_eq!(drained(&mut gatherer, now), [[500, 501]]);
}

#[tokio::test(start_paused = true)]
async fn while_the_queue_is_out_of_reach_what_is_missing_is_waited_for() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    drained(&mut gatherer, now);
    gatherer.offer(message(0, 5, 1, 1), now);
    gatherer.expect((key(1), 3), now + PATIENCE, now);
    gatherer.offer(message(1, 4, 1, 1), now);
    let moment = Duration::from_millis(1);
    gatherer.cut_off(now + PATIENCE - moment);
    let later = now + PATIENCE * 10;
    gatherer.cut_off(later);
    assert!(!gatherer.is_ready(later, true) && gatherer.deadline().is_none());
    assert_eq!(gatherer.early(later), 2);
    gatherer.reached(later);
    assert!(!gatherer.is_ready(later, true), "now it can come");
    // What could not be taken in was waited for before, too.
    assert_eq!(drained(&mut gatherer, later + moment), [[400, 401]]);
    assert_eq!(drained(&mut gatherer, later + PATIENCE), [[500, 501]]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_out_for_long_and_was_not_written_is_waited_for() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    let run = gatherer.take(now, true).unwrap();
    let later = now + REMEMBERED * 2;
    gatherer.give_back(run.key, later);
    assert_eq!(gatherer.offer(message(0, 4, 1, 1), later), Offered::Early);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_not_written_takes_all_that_waits_behind_it_along() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    let run = gatherer.take(now, true).unwrap();
    gatherer.offer(message(0, 4, 1, 1), now);
    gatherer.offer(message(1, 4, 1, 1), now);
    assert_eq!(gatherer.give_back(run.key, now), [(3, 0), (4, 0)]);
    assert_eq!(gatherer.messages(), 1);
    // They come again, in whatever order.
    gatherer.offer(message(0, 4, 1, 1), now);
    assert_eq!(drained(&mut gatherer, now).len(), 1, "the other lane's");
    gatherer.offer(message(0, 3, 1, 1), now);
    assert_eq!(drained(&mut gatherer, now).concat(), [300, 301, 400, 401]);
}

#[tokio::test(start_paused = true)]
async fn whoever_will_not_wait_gives_back_what_waits_for_something_missing() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    gatherer.offer(message(1, 3, 1, 1), now);
    drained(&mut gatherer, now);
    gatherer.offer(message(0, 5, 1, 1), now);
    gatherer.offer(message(0, 7, 1, 1), now);
    gatherer.offer(message(1, 4, 1, 1), now);
    assert_eq!(gatherer.give_back_early(now), [(5, 0), (7, 0)]);
    assert_eq!(drained(&mut gatherer, now), [[400, 401]]);
    assert!(gatherer.is_empty() && gatherer.bytes() == 0);
}

#[tokio::test(start_paused = true)]
async fn when_there_is_no_room_for_what_is_missing_the_oldest_run_goes_without_it() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    for lane in 0..2 {
        gatherer.offer(message(lane, 3, 1, 1), now);
    }
    drained(&mut gatherer, now);
    for number in 5..14 {
        gatherer.offer(message(0, number, 1, 49), now);
        assert!(!gatherer.is_ready(now, false));
    }
    gatherer.offer(message(1, 5, 1, 60), now + RULES.run.age);
    assert!(gatherer.is_full());
    let run = gatherer.take(now, false).unwrap();
    assert_eq!((run.key, run.missing), (key(0), 1));
    assert!(
        !gatherer.is_ready(now, false),
        "there is room when it is settled"
    );
}

#[tokio::test(start_paused = true)]
async fn while_nothing_could_come_nobody_waits_in_vain() {
    let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
    gatherer.offer(message(0, 3, 1, 1), now);
    drained(&mut gatherer, now);
    // One lane's write takes for ever, and leaves no room for what is missing of another.
    gatherer.offer(message(1, 1, 1, 490), now);
    let out = gatherer.take(now, true).unwrap();
    gatherer.offer(message(0, 7, 1, 30), now);
    assert!(gatherer.is_full());
    let later = now + PATIENCE * 10;
    assert!(!gatherer.is_ready(later, false) && gatherer.deadline().is_none());
    gatherer.settle(out.key, later);
    assert!(!gatherer.is_ready(later, true), "now it can come");
    assert_eq!(gatherer.deadline(), Some(later + PATIENCE));
    // What was missing already when the first of those that wait came is not waited for anew.
    gatherer.offer(message(0, 5, 1, 1), later + PATIENCE / 2);
    assert_eq!(
        drained(&mut gatherer, later + PATIENCE),
        [[500, 501], [700, 701]]
    );
}

proptest! {
    /// The first is there first; then anything comes, as often as it likes, in any order.
    #[test]
    fn in_whatever_order_a_lanes_batches_come_they_go_out_in_theirs(
        arrivals in prop::collection::vec((1_u64..12, any::<bool>()), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().start_paused(true).enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut gatherer, now) = (Gatherer::new(RULES), Instant::now());
            gatherer.offer(message(0, 0, 1, 1), now);
            let (mut first_times, mut given) = (Vec::new(), 1);
            let mut out = None;
            for (number, step) in arrivals {
                given += 1;
                gatherer.offer(message(0, number, 1, 1), now);
                if !step {
                    continue;
                }
                if let Some(key) = out.take() {
                    given -= gatherer.settle(key, now).len();
                } else if let Some(run) = gatherer.take(now, true) {
                    out = Some(run.key);
                    let fresh = offsets(&run).into_iter().filter(|offset| !first_times.contains(offset));
                    first_times.extend(fresh.collect::<Vec<_>>());
                }
            }
            assert!(first_times.is_sorted(), "{first_times:?}");
            let expected: Vec<Offset> = (0..first_times.len() as u64 / 2).flat_map(|n| [n * 100, n * 100 + 1]).collect();
            assert_eq!(first_times, expected, "without a gap");
            assert_eq!(gatherer.messages(), given);
        });
    }
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
