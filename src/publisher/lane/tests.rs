use super::*;

const RULES: Rules = Rules {
    events: 3,
    events_age: Duration::ZERO,
    events_max: 3,
    bytes: 100,
    age: Duration::from_secs(1),
};

fn lane() -> LaneState {
    LaneState::new(Lane(2), LogId(7), LaneCheckpoint::default(), Vec::new())
}

fn offer(lane: &mut LaneState, offset: Offset, day: i32, bytes: usize) -> Offered {
    lane.offer(
        (offset, Day(day)),
        &Bytes::from(vec![0; bytes]),
        &RULES,
        Instant::now(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_ripe_by_count_bytes_age_day_or_drain() {
    let now = Instant::now();
    type Case = (
        &'static [(Offset, i32, usize)],
        Duration,
        bool,
        Option<Reason>,
    );
    let cases: [Case; 6] = [
        (&[(0, 1, 1), (1, 1, 1)], Duration::ZERO, false, None),
        (
            &[(0, 1, 1), (1, 1, 1), (2, 1, 1)],
            Duration::ZERO,
            false,
            Some(Reason::Count),
        ),
        (
            &[(0, 1, 60), (1, 1, 60)],
            Duration::ZERO,
            false,
            Some(Reason::Bytes),
        ),
        (
            &[(0, 1, 1)],
            Duration::from_secs(1),
            false,
            Some(Reason::Age),
        ),
        (
            &[(0, 1, 1), (1, 2, 1)],
            Duration::ZERO,
            false,
            Some(Reason::Day),
        ),
        (&[(0, 1, 1)], Duration::ZERO, true, Some(Reason::Drain)),
    ];
    for (records, wait, drain, reason) in cases {
        let mut lane = lane();
        for &(offset, day, bytes) in records {
            offer(&mut lane, offset, day, bytes);
        }
        assert_eq!(lane.ripe(&RULES, now + wait, drain), reason, "{records:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_lane_fills_one_batch_and_then_asks_to_wait() {
    let mut lane = lane();
    for offset in 0..3 {
        assert_eq!(offer(&mut lane, offset, 1, 1), Offered::Taken);
    }
    assert_eq!(offer(&mut lane, 3, 1, 1), Offered::Full);
    let (seal, batch, _) = lane.seal(Instant::now()).unwrap();
    assert_eq!(
        (
            seal.batch.number,
            seal.batch.first,
            seal.batch.last,
            seal.count
        ),
        (0, 0, 2, 3)
    );
    assert_eq!(batch.records.len(), 3);
    for offset in 3..6 {
        assert_eq!(offer(&mut lane, offset, 1, 1), Offered::Taken);
    }
    assert_eq!(
        lane.ripe(&RULES, Instant::now(), true),
        None,
        "one unsettled batch per lane"
    );
    assert_eq!(offer(&mut lane, 6, 1, 1), Offered::Full);
    assert_eq!(
        lane.checkpoint(6),
        LaneCheckpoint {
            next_number: 0,
            settled_below: 0
        }
    );
    lane.hold(0).unwrap();
    assert_eq!(lane.settle(0), 1);
    assert_eq!(
        lane.checkpoint(6),
        LaneCheckpoint {
            next_number: 1,
            settled_below: 3
        }
    );
    assert_eq!(
        lane.ripe(&RULES, Instant::now(), false),
        Some(Reason::Count)
    );
    assert_eq!(lane.seal(Instant::now()).unwrap().0.batch.number, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_before_a_crash_is_not_taken_again() {
    let batch = BatchId {
        log_id: LogId(7),
        lane: Lane(2),
        number: 4,
        first: 5,
        last: 9,
        input_hash: 1,
    };
    let seal = Seal {
        batch,
        count: 2,
        day: Day(1),
    };
    let settled = LaneCheckpoint {
        next_number: 4,
        settled_below: 5,
    };
    let mut lane = LaneState::new(Lane(2), LogId(7), settled, vec![seal]);
    assert_eq!(offer(&mut lane, 9, 1, 1), Offered::Taken);
    assert!(lane.open.is_none());
    assert_eq!(offer(&mut lane, 10, 1, 1), Offered::Taken);
    assert_eq!(lane.resume(Instant::now()), Some(seal));
    assert_eq!(lane.ripe(&RULES, Instant::now(), true), None);
    assert_eq!(lane.checkpoint(11).settled_below, 5);
    lane.hold(0).unwrap();
    assert_eq!(lane.settle(0), 1);
    assert_eq!(
        lane.checkpoint(11),
        LaneCheckpoint {
            next_number: 5,
            settled_below: 10
        }
    );
    assert_eq!(lane.seal(Instant::now()).unwrap().0.batch.number, 5);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_fell_behind_fetches_from_its_cursor() {
    let mut lane = lane();
    lane.behind = Some(10);
    assert_eq!(offer(&mut lane, 12, 1, 1), Offered::Taken);
    assert!(lane.open.is_none());
    assert_eq!(lane.checkpoint(50).settled_below, 10);
    let record = Bytes::from_static(b"x");
    for offset in 10..13 {
        assert!(lane.catch_up((offset, Day(1)), &record, &RULES, Instant::now()));
    }
    assert!(!lane.catch_up((13, Day(1)), &record, &RULES, Instant::now()));
    assert_eq!(
        (lane.behind, lane.checkpoint(50).settled_below),
        (Some(13), 10)
    );
    let sealed = lane.seal(Instant::now()).unwrap().1;
    assert_eq!(
        sealed.records.first().unwrap().0..=sealed.records.last().unwrap().0,
        10..=12
    );
}

/// Seals the next three events that are offered, and hands them on.
fn send(lane: &mut LaneState, first: Offset) -> Seal {
    for offset in first..first + 3 {
        assert_eq!(offer(lane, offset, 1, 1), Offered::Taken);
    }
    lane.seal(Instant::now()).unwrap().0
}

#[tokio::test(start_paused = true)]
async fn what_is_held_frees_the_lane_and_pins_the_checkpoint_until_it_is_owned() {
    let mut lane = lane();
    send(&mut lane, 0);
    lane.hold(0).unwrap();
    send(&mut lane, 3);
    lane.hold(1).unwrap();
    assert!(!lane.is_busy() && lane.is_idle());
    assert_eq!(lane.sent_below(6), 6);
    assert_eq!(lane.checkpoint(6).settled_below, 0);
    assert_eq!(lane.settle(0), 1, "only what was held before the question");
    let LaneCheckpoint {
        next_number,
        settled_below,
    } = lane.checkpoint(6);
    assert_eq!((next_number, settled_below), (1, 3));
    assert_eq!(lane.settle(1), 1);
    assert_eq!(lane.checkpoint(6).settled_below, 6);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_goes_out_again_in_order_with_what_was_under_way() {
    let mut lane = lane();
    let mut seals = vec![send(&mut lane, 0)];
    lane.hold(0).unwrap();
    seals.push(send(&mut lane, 3));
    lane.hold(0).unwrap();
    seals.push(send(&mut lane, 6));
    assert_eq!(lane.lose(), 2);
    assert!(lane.resume(Instant::now()).is_none(), "one is under way");
    assert_eq!(lane.hold(1), None, "it is sent again, too");
    assert_eq!(lane.sent_below(9), 0);
    for seal in seals {
        assert_eq!(lane.resume(Instant::now()), Some(seal));
        lane.hold(1).unwrap();
    }
    assert_eq!(lane.settle(1), 3);
    assert_eq!(lane.checkpoint(9).next_number, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lane_holds_no_more_than_it_may() {
    let mut lane = lane();
    for batch in 0..HELD_MAX as u64 {
        send(&mut lane, batch * 3);
        lane.hold(0).unwrap();
    }
    assert!(lane.is_busy());
    lane.settle(0);
    assert!(!lane.is_busy());
}

#[tokio::test(start_paused = true)]
async fn a_busy_lane_makes_larger_batches_instead_of_more() {
    let rules = Rules {
        events_age: Duration::from_secs(1),
        events_max: 5,
        age: Duration::from_secs(9),
        ..RULES
    };
    let (mut lane, now) = (lane(), Instant::now());
    let later = now + rules.events_age;
    for offset in 0..4 {
        lane.offer((offset, Day(1)), &Bytes::from_static(b"x"), &rules, now);
    }
    assert_eq!(lane.ripe(&rules, now, false), None, "not old enough");
    assert_eq!(lane.deadline(&rules), Some(later));
    assert_eq!(lane.ripe(&rules, later, false), Some(Reason::Count));
    lane.offer((4, Day(1)), &Bytes::from_static(b"x"), &rules, now);
    assert_eq!(lane.ripe(&rules, now, false), Some(Reason::Count), "full");
}
