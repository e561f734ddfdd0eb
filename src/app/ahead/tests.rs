use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::event::Lane;
use crate::store::LocalObjects;
use crate::store::fake::{Fault, Faulty, MemoryObjects};
use crate::store::objects::object_name;
use crate::wal::testing::memory_wal;

const OURS: LogId = LogId(7);
const OTHER: LogId = LogId(8);

async fn put(
    objects: &dyn Objects,
    table: Table,
    day: Day,
    (log_id, lane, last): (LogId, u16, u64),
) {
    let batch = BatchId {
        log_id,
        lane: Lane(lane),
        number: last,
        first: 0,
        last,
        input_hash: 9,
    };
    let name = object_name(table, day, &batch);
    objects.put_if_absent(&name, Bytes::new()).await.unwrap();
}

#[tokio::test]
async fn the_highest_offset_of_this_log_since_the_day_counts() {
    let dir = TempDir::new().unwrap();
    let local: Arc<dyn Objects> = Arc::new(LocalObjects::open(dir.path()).unwrap());
    let memory: Arc<dyn Objects> = Arc::new(MemoryObjects::default());
    for objects in [&local, &memory] {
        let since = async |asked, day| {
            let place = Place {
                objects: &**objects,
                name: "x",
                asked,
            };
            highest(place, OURS, Day(day)).await.unwrap()
        };
        assert_eq!(since(Asked::Whole, 20_000).await, None, "no store yet");
        for (table, day, of) in [
            (Table::Events, Day(20_000), (OURS, 3, 50)),
            (Table::Errors, Day(20_001), (OURS, 12, 60)),
            (Table::Events, Day(20_001), (OURS, 1, 9)),
            (Table::Events, Day(19_999), (OURS, 3, 900)),
            (Table::Events, Day(20_001), (OTHER, 3, 1_000)),
            (Table::Events, Day(20_002), (LogId(6), 3, 1_000)),
            (Table::Events, Day(20_003), (OURS, 1, 10)),
        ] {
            put(&**objects, table, day, of).await;
        }
        for notes in [
            "notes",
            "dt=2024-10-05-notes/x",
            "dt=2024-10-05/notes.parquet",
            "dt=2024-10-05/00000000000000000000000000000007-notes.parquet",
        ] {
            let name = format!("events/{notes}");
            objects.put_if_absent(&name, Bytes::new()).await.unwrap();
        }
        for asked in [Asked::Whole, Asked::InParts] {
            assert_eq!(since(asked, 20_003).await, Some(10), "{asked:?}");
            assert_eq!(since(asked, 20_001).await, Some(60), "{asked:?}");
            assert_eq!(since(asked, 20_000).await, Some(60), "{asked:?}");
            assert_eq!(since(asked, 19_999).await, Some(900), "{asked:?}");
            assert_eq!(since(asked, 20_004).await, None, "{asked:?}");
        }
    }
}

#[tokio::test]
async fn names_are_read_to_their_end_in_pages() {
    let objects = MemoryObjects::default();
    for last in 0..25 {
        put(&objects, Table::Events, Day(20_000), (OURS, 0, last)).await;
    }
    let folder = "events/dt=2024-10-04/".to_owned();
    for page in [1, 2, 7, 25, 100] {
        let stem = format!("{OURS}-");
        let found = highest_in(&objects, folder.clone(), &stem, page).await;
        assert_eq!(found.unwrap(), Some(24), "pages of {page}");
    }
}

#[tokio::test]
async fn a_day_costs_one_list_however_much_is_in_it() {
    let objects = Faulty::new(MemoryObjects::default(), []);
    for last in 0..25 {
        for day in [20_000, 20_003] {
            put(&objects, Table::Events, Day(day), (OTHER, 0, last)).await;
        }
    }
    let before = objects.calls();
    let days = days(&objects, Table::Events, Day(20_000)).await.unwrap();
    assert_eq!(days, ["events/dt=2024-10-04/", "events/dt=2024-10-07/"]);
    // One each, and one that finds no more.
    assert_eq!(objects.calls() - before, 3);
}

#[tokio::test]
async fn a_store_that_knows_more_refuses_the_log_and_one_that_is_out_does_not() {
    let wal = memory_wal(16);
    let today = Day::of(wal.newest_received_at());
    let check = async |objects: &dyn Objects| {
        let place = Place {
            objects,
            name: "gs://b",
            asked: Asked::InParts,
        };
        check(&wal, Path::new("wal"), place).await
    };
    let memory = MemoryObjects::default();
    put(&memory, Table::Events, today, (OTHER, 0, 100)).await;
    check(&memory).await.unwrap();

    put(&memory, Table::Errors, today, (wal.log_id(), 0, 100)).await;
    let refused = check(&memory).await.unwrap_err();
    assert!(
        matches!(&refused, AheadError::Restored { highest: 100, next: 0, store, .. } if store == "gs://b"),
        "{refused}"
    );

    let out = Faulty::new(memory.clone(), [Some(Fault::Unavailable)]);
    check(&out).await.unwrap();
    let closed = Faulty::new(memory, [Some(Fault::Denied)]);
    let refused = check(&closed).await.unwrap_err();
    assert!(matches!(refused, AheadError::Store { .. }), "{refused}");
    wal.close().await;
}

/// Never answers.
#[derive(Debug)]
struct Hanging;

#[async_trait::async_trait]
impl Objects for Hanging {
    async fn put_if_absent(&self, _name: &str, _bytes: Bytes) -> Result<bool, WriteError> {
        std::future::pending().await
    }

    async fn get(&self, _name: &str) -> Result<Option<Bytes>, WriteError> {
        std::future::pending().await
    }

    async fn list(
        &self,
        _prefix: &str,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        std::future::pending().await
    }

    async fn delete(&self, _name: &str) -> Result<(), WriteError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_store_that_hangs_does_not_hold_the_start_up_for_ever() {
    let wal = memory_wal(16);
    tokio::time::pause();
    let place = Place {
        objects: &Hanging,
        name: "gs://b",
        asked: Asked::Whole,
    };
    let began = tokio::time::Instant::now();
    check(&wal, Path::new("wal"), place).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), TIME_LIMIT.as_secs());
    wal.close().await;
}
