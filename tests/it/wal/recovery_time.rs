//! How long an open takes after an outage of everything behind the log: a note, not a limit.

use std::io::Write as _;

use super::{ENGINES, Place, Sent, append, close, durable};

const EVENTS: usize = 200_000;
const BATCH: usize = 4_000;

#[test]
fn the_time_to_open_a_large_backlog_is_noted() {
    for engine in ENGINES {
        let place = Place::on(engine);
        let (wal, _) = place.open();
        for batch in 0..EVENTS / BATCH {
            let events: Vec<Sent> = (0..BATCH)
                .map(|n| {
                    // As random as real ids are, in a body as repetitive as real ones.
                    let id = uuid::Uuid::new_v4().to_string();
                    let user = uuid::Uuid::new_v4();
                    let body = format!(
                        "{{\"type\":\"track\",\"messageId\":\"{id}\",\"userId\":\"{user}\",\"event\":\"product viewed\",\
                         \"properties\":{{\"position\":{n},\"path\":\"/shop/{batch}\",\"currency\":\"EUR\"}}}}"
                    );
                    Sent::new(id, body)
                })
                .collect();
            append(&wal, &events);
        }
        let stored = wal.stored_bytes();
        close(wal);
        let started = tokio::time::Instant::now();
        let (wal, _) = place.open();
        let took = started.elapsed();
        assert_eq!(durable(&wal), EVENTS as u64);
        close(wal);
        let note = format!(
            "note: {EVENTS} unpublished events ({stored} B stored) on {} open in {took:?}",
            engine.name()
        );
        writeln!(std::io::stderr(), "{note}").unwrap();
    }
}
