//! Appends and reads, on both engines.

use eventkit::event::EventKey;
use eventkit::wal::{AppendError, Committed, LogState, ReadError, fingerprint};

use super::{
    Place, Sent, append, assert_holds, barrier, checkpoint, close, durable, events, first_held,
    noise, read_from, seal, settle, to_append, wait,
};

fn duplicates(committed: &Committed) -> &[u32] {
    &committed.duplicates
}

#[test]
fn records_come_back_byte_for_byte_in_the_order_of_appends() {
    for place in Place::all() {
        let (wal, unsettled) = place.open();
        assert_eq!(unsettled.checkpoint.offset, 0);
        let mut sent = Vec::new();
        for (n, count) in [1, 7, 0, 100, 3, 1].into_iter().enumerate() {
            let batch = events(&format!("g{n}"), count, 50 + n * 300);
            append(&wal, &batch);
            sent.extend(batch);
            assert_eq!(durable(&wal), sent.len() as u64);
        }
        assert_holds(&wal, 0, &sent);
        // Every offset is a place to begin at, in the middle of groups and at the tail.
        for from in 0..=sent.len() {
            assert_holds(&wal, from as u64, &sent[from..]);
        }
        assert!(wal.read(sent.len() as u64 + 5, 1).unwrap().is_empty());
        let (wal, _) = place.reopen(wal);
        assert_holds(&wal, 0, &sent);
        close(wal);
    }
}

#[test]
fn a_read_takes_about_as_many_bytes_as_asked_and_at_least_a_group() {
    let (wal, _) = Place::memory().open();
    for n in 0..10 {
        append(&wal, &events(&format!("g{n}"), 10, 1_000));
    }
    assert_eq!(wal.read(0, 1).unwrap().len(), 1);
    assert_eq!(wal.read(25, 15_000).unwrap().first().unwrap().first, 20);
    assert_eq!(wal.read(25, 15_000).unwrap().len(), 2);
    assert_eq!(wal.read(0, usize::MAX).unwrap().len(), 10);
    close(wal);
}

/// Many tasks at once, so that the committer makes groups of several appends.
#[test]
fn concurrent_appends_keep_their_own_order_and_offsets_stay_dense() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let wal = wal.clone();
                std::thread::spawn(move || {
                    for n in 0..40 {
                        let batch = events(&format!("{writer}/{n}"), 3, 200);
                        append(&wal, &batch);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let found = read_from(&wal, 0);
        assert_eq!(found.len(), 8 * 40 * 3);
        for writer in 0..8 {
            let own = (0..40).flat_map(|n| events(&format!("{writer}/{n}"), 3, 200));
            let own: Vec<Vec<u8>> = own.map(|sent| sent.record()).collect();
            let stored: Vec<&Vec<u8>> = found
                .iter()
                .map(|(_, record)| record)
                .filter(|record| own.contains(record))
                .collect();
            assert!(stored.into_iter().eq(&own), "the order of writer {writer}");
        }
        close(wal);
    }
}

/// Appends that wait while the committer is busy share a group; a repeat among them is one of its own commit.
#[test]
fn a_key_is_stored_once_within_an_append_a_group_and_the_log() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let [a, b, c] = ["a", "b", "c"].map(|id| Sent::new(id, format!("payload of {id}")));
        let other = Sent::new("a", "another body under the same key");

        let within = append(&wal, &[a.clone(), b.clone(), a.clone(), other.clone()]);
        assert_eq!(duplicates(&within), [2, 3], "within an append");

        // Sent without waiting in between: whether they meet in one commit or not, the outcome is the same.
        let first = wal
            .append(to_append(&wal, std::slice::from_ref(&c)))
            .unwrap();
        let second = wal
            .append(to_append(&wal, &[c.clone(), b.clone()]))
            .unwrap();
        let third = wal
            .append(to_append(&wal, std::slice::from_ref(&c)))
            .unwrap();
        assert_eq!(duplicates(&wait(first).unwrap()), [] as [u32; 0]);
        assert_eq!(duplicates(&wait(second).unwrap()), [0, 1]);
        assert_eq!(duplicates(&wait(third).unwrap()), [0]);

        assert_eq!(duplicates(&append(&wal, &[other])), [0], "across groups");
        let stored = [a, b, c];
        let (wal, _) = place.reopen(wal);
        assert_eq!(
            duplicates(&append(&wal, &stored)),
            [0, 1, 2],
            "after a reopen"
        );
        assert_holds(&wal, 0, &stored);
        close(wal);
    }
}

#[test]
fn the_source_is_part_of_the_key() {
    let secret = [7; 16];
    let of = |source, message_id| fingerprint(&secret, EventKey { source, message_id });
    assert_ne!(of("ab", "c"), of("a", "bc"));
    assert_ne!(of("a", "c"), of("b", "c"));
    assert_eq!(of("a", "c"), of("a", "c"));
    assert_ne!(
        of("a", "c"),
        fingerprint(
            &[8; 16],
            EventKey {
                source: "a",
                message_id: "c"
            }
        )
    );
}

#[test]
fn a_key_is_forgotten_when_its_group_is_trimmed() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let (old, young) = (events("old", 5, 10), events("young", 5, 10));
        append(&wal, &old);
        append(&wal, &young);
        settle(&wal, 5);
        assert_eq!(first_held(&wal), 5);
        assert!(matches!(wal.read(4, 1), Err(ReadError::Missing(4))));
        let again: Vec<Sent> = old.iter().chain(&young).cloned().collect();
        assert_eq!(duplicates(&append(&wal, &again)), [5, 6, 7, 8, 9]);
        let expected: Vec<Sent> = young.iter().chain(&old).cloned().collect();
        assert_holds(&wal, 5, &expected);
        let (wal, _) = place.reopen(wal);
        assert_eq!(duplicates(&append(&wal, &again)).len(), 10);
        assert_holds(&wal, 5, &expected);
        close(wal);
    }
}

#[test]
fn no_more_keys_are_remembered_than_configured() {
    for place in Place::all() {
        let (wal, _) = place.open_with(|config| config.dedup_ids_max = 3);
        let sent = events("e", 5, 10);
        append(&wal, &sent);
        assert_eq!(duplicates(&append(&wal, &sent[2..])), [0, 1, 2]);
        assert_eq!(duplicates(&append(&wal, &sent[..1])), [] as [u32; 0]);
        close(wal);
        let (wal, _) = place.open_with(|config| config.dedup_ids_max = 3);
        let again = [
            sent[3].clone(),
            sent[4].clone(),
            sent[0].clone(),
            sent[2].clone(),
        ];
        assert_eq!(duplicates(&append(&wal, &again)), [0, 1, 2]);
        close(wal);
    }
}

#[test]
fn large_events_and_large_appends_come_back_whole() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let mut sent = vec![
            Sent::new("empty", ""),
            Sent::new("incompressible", noise("large", 256 << 10)),
            Sent::new("compressible", vec![b' '; 256 << 10]),
        ];
        for event in &sent {
            append(&wal, std::slice::from_ref(event));
        }
        append(&wal, &events("many", 10_000, 100));
        sent.extend(events("many", 10_000, 100));
        assert_holds(&wal, 0, &sent);
        // A new group after the largest one, then a trim of all of them but the last.
        append(&wal, &events("last", 1, 10));
        sent.extend(events("last", 1, 10));
        let (wal, _) = place.reopen(wal);
        assert_holds(&wal, 0, &sent);
        settle(&wal, sent.len() as u64);
        barrier(&wal);
        barrier(&wal);
        assert_eq!(
            first_held(&wal),
            sent.len() as u64 - 1,
            "the last group stays"
        );
        let (wal, _) = place.reopen(wal);
        assert_eq!(durable(&wal), sent.len() as u64);
        assert_holds(&wal, sent.len() as u64 - 1, &sent[sent.len() - 1..]);
        close(wal);
    }
}

#[test]
fn a_closed_log_commits_what_waits_and_refuses_the_rest() {
    for place in Place::all() {
        let (wal, _) = place.open();
        let sent = events("e", 50, 10);
        let commits: Vec<_> = sent
            .iter()
            .map(|event| {
                wal.append(to_append(&wal, std::slice::from_ref(event)))
                    .unwrap()
            })
            .collect();
        wait(wal.close());
        assert_eq!(*wal.state().borrow(), LogState::Closed);
        for commit in commits {
            assert_eq!(wait(commit), Ok(Committed::default()));
        }
        let late = wal.append(to_append(&wal, &events("late", 1, 10)));
        assert_eq!(late.unwrap_err(), AppendError::Closed);
        assert!(!wait(wal.seal(vec![seal(&wal, 0, 0, 0, 1)])));
        assert!(!wait(wal.checkpoint(checkpoint(1))));
        drop(wal);
        let (wal, unsettled) = place.open();
        assert_holds(&wal, 0, &sent);
        assert!(unsettled.seals.is_empty());
        close(wal);
    }
}

#[test]
fn an_append_without_events_resolves_and_stores_nothing() {
    let (wal, _) = Place::memory().open();
    assert_eq!(append(&wal, &[]), Committed::default());
    assert_eq!(durable(&wal), 0);
    close(wal);
}
