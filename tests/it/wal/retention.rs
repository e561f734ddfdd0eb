//! Seals, checkpoints, and what may be forgotten when, on both engines.

use std::time::Duration;

use eventkit::clock::ManualClock;
use eventkit::wal::storage::memory::MemoryStorage;
use eventkit::wal::{AppendError, Checkpoint, LaneCheckpoint, LogState, Wal};

use super::{
    Place, Sent, append, assert_holds, barrier, checkpoint, close, durable, events, first_held,
    options_at, seal, settle, settle_lanes, to_append, wait,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// `groups` groups of ten events.
fn fill(wal: &Wal, groups: usize, bytes: usize) -> Vec<Sent> {
    let mut sent = Vec::new();
    for _ in 0..groups {
        let batch = events(&format!("at{}", durable(wal)), 10, bytes);
        append(wal, &batch);
        sent.extend(batch);
    }
    sent
}

#[test]
fn seals_and_the_checkpoint_are_found_again_until_they_are_settled() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let sent = fill(&wal, 4, 10);
        let seals = [
            seal(&wal, 0, 0, 0, 9),
            seal(&wal, 0, 1, 10, 19),
            seal(&wal, 2, 0, 3, 27),
            seal(&wal, 3, 0, 5, 6),
        ];
        assert!(wait(wal.seal(seals[..1].to_vec())));
        assert!(wait(wal.seal(seals[1..].to_vec())));
        let id = wal.log_id();
        let (wal, unsettled) = place.reopen(wal);
        assert_eq!(wal.log_id(), id);
        assert_eq!(unsettled.seals, seals);
        assert_eq!(unsettled.checkpoint, Checkpoint::default());

        let mut settled = checkpoint(20);
        settled.lanes[0].next_number = 1;
        settled.lanes[3] = LaneCheckpoint {
            next_number: 1,
            settled_below: 7,
        };
        settle_lanes(&wal, settled.clone());
        assert_eq!(wal.settled(), 20);
        let (wal, unsettled) = place.reopen(wal);
        assert_eq!(unsettled.checkpoint, settled);
        assert_eq!(unsettled.seals, seals[1..3]);
        assert_eq!((wal.settled(), first_held(&wal)), (20, 20));
        assert_holds(&wal, 20, &sent[20..]);
        close(wal);
    }
}

#[test]
fn nothing_that_is_not_settled_is_trimmed_and_the_last_group_stays() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let sent = fill(&wal, 6, 10);
        for (settled, first) in [(0, 0), (9, 0), (10, 10), (11, 10), (29, 20), (60, 50)] {
            settle(&wal, settled);
            assert_eq!(first_held(&wal), first, "settled below {settled}");
            assert_holds(&wal, first, &sent[usize::try_from(first).unwrap()..]);
        }
        let (wal, _) = place.reopen(wal);
        assert_eq!((first_held(&wal), durable(&wal)), (50, 60));
        // The next group is appended where the last one ends, and only then may that one go.
        append(&wal, &events("next", 1, 10));
        barrier(&wal);
        assert_eq!((first_held(&wal), durable(&wal)), (60, 61));
        close(wal);
    }
}

/// An engine may keep a remove and lose the checkpoint that was written just before it, if one sync covers both.
#[test]
fn a_checkpoint_trims_nothing_in_its_own_commit() {
    let storage = MemoryStorage::default();
    let (wal, _) = Place::Memory(storage.clone()).open();
    let sent = fill(&wal, 3, 10);
    let before = storage.operations();
    assert!(wait(wal.checkpoint(checkpoint(20))));
    while wal.settled() < 20 {
        std::thread::yield_now();
    }
    assert_eq!(
        storage.operations() - before,
        2,
        "the checkpoint and its sync"
    );
    assert_holds(&wal, 0, &sent);
    barrier(&wal);
    assert_eq!(first_held(&wal), 20, "the next commit trims");
    close(wal);
}

#[test]
fn settled_events_are_kept_up_to_the_configured_number() {
    for place in Place::all() {
        let (wal, _) = place.open_with(|config| config.retained_events_max = 25);
        fill(&wal, 6, 10);
        settle(&wal, 60);
        assert_eq!(first_held(&wal), 40, "20 are fewer than 25, 30 are not");
        close(wal);
    }
}

#[test]
fn settled_events_are_kept_for_the_configured_time() {
    for place in Place::all() {
        let clock = ManualClock::new(super::RECEIVED_AT);
        let options = options_at(place.path(), &clock, |config| {
            config.retained_events_max = 1_000;
            config.retention = HOUR;
        });
        let (wal, _) = place.try_open(options).unwrap();
        fill(&wal, 2, 10);
        clock.set(super::RECEIVED_AT + 1_800_000_000);
        fill(&wal, 2, 10);
        settle(&wal, 35);
        assert_eq!(first_held(&wal), 0, "nothing is old");
        clock.set(super::RECEIVED_AT + 3_600_000_001);
        barrier(&wal);
        assert_eq!(first_held(&wal), 20, "half of it is old");
        clock.set(super::RECEIVED_AT + 36_000_000_000);
        barrier(&wal);
        assert_eq!(
            first_held(&wal),
            30,
            "all of it is old, the rest is not settled"
        );
        close(wal);
    }
}

#[test]
fn a_full_log_sheds_and_takes_work_again_when_what_is_settled_has_gone() {
    for place in Place::all() {
        let (wal, _) = place.open_with(|config| {
            config.bytes_max = Some(200_000);
            config.retained_events_max = 1_000_000;
        });
        assert_eq!(wal.limit_bytes(), 200_000);
        let mut state = wal.state();
        let mut sent = Vec::new();
        while *state.borrow() == LogState::Open {
            sent.extend(fill(&wal, 1, 1_000));
            assert!(sent.len() < 1_000, "the limit is never reached");
        }
        assert_eq!(*state.borrow_and_update(), LogState::Full);
        assert!(wal.stored_bytes() >= 200_000);
        let shed = wal.append(to_append(&wal, &events("shed", 1, 10)));
        assert_eq!(shed.unwrap_err(), AppendError::Full);
        assert_eq!(wal.admit(), Err(AppendError::Full));
        assert_holds(&wal, 0, &sent);

        // Space is the reason to forget what is settled, although its retention is not over.
        settle(&wal, sent.len() as u64 / 2);
        wait(state.wait_for(|state| *state == LogState::Open)).unwrap();
        assert!(first_held(&wal) > 0);
        append(&wal, &events("taken", 1, 10));
        close(wal);
    }
}

/// After an outage a full log is drained in one go; it must not stay closed for long because trims are bounded.
#[test]
fn a_large_full_log_takes_work_again_within_seconds_of_being_settled() {
    let place = Place::memory();
    let (wal, _) = place.open_with(|config| {
        config.bytes_max = Some(64 << 20);
        config.retained_events_max = 1_000_000;
    });
    let mut state = wal.state();
    // Each of these is more than one trim takes, and nine must go. With the committer's rest of half a second between two trims that
    // would take 4.5 s; right, it is that rest once.
    while *state.borrow() == LogState::Open {
        fill(&wal, 1, 40_000);
    }
    assert!(wait(wal.checkpoint(checkpoint(durable(&wal)))));
    let opens = state.wait_for(|state| *state == LogState::Open);
    let opened = wait(async {
        tokio::time::timeout(Duration::from_millis(3_500), opens)
            .await
            .is_ok()
    });
    assert!(
        opened,
        "still full, with {} bytes stored",
        wal.stored_bytes()
    );
    close(wal);
}

#[test]
fn lanes_change_only_when_nothing_is_unsettled() {
    for place in Place::all() {
        let lanes = |lanes| move |config: &mut eventkit::config::WalConfig| config.lanes = lanes;
        let (wal, _) = place.open_with(lanes(4));
        assert_eq!(wal.lanes(), 4);
        fill(&wal, 1, 10);
        close(wal);

        let (wal, _) = place.open_with(lanes(8));
        assert_eq!(wal.lanes(), 4, "events are unsettled");
        let open_seal = seal(&wal, 1, 0, 0, 9);
        assert!(wait(wal.seal(vec![open_seal])));
        settle(&wal, 10);
        close(wal);

        let (wal, unsettled) = place.open_with(lanes(8));
        assert_eq!(unsettled.seals, [open_seal]);
        assert_eq!(wal.lanes(), 4, "a seal is open");
        let mut settled = checkpoint(10);
        settled.lanes[1].next_number = 1;
        settle_lanes(&wal, settled);
        let id = wal.log_id();
        close(wal);

        let (wal, _) = place.open_with(|config| (config.lanes, config.keeps_lanes) = (8, true));
        assert_eq!(wal.lanes(), 4, "batches may wait behind it");
        close(wal);

        let (wal, _) = place.open_with(lanes(8));
        assert_eq!(
            (wal.lanes(), wal.log_id()),
            (8, id),
            "everything is settled"
        );
        close(wal);
        let (wal, _) = place.open_with(lanes(8));
        assert_eq!((wal.lanes(), durable(&wal)), (8, 10));
        close(wal);
    }
}
