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
    let (seal, batch) = lane.seal(Instant::now()).unwrap();
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
    lane.settle().unwrap();
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
    lane.settle().unwrap();
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
