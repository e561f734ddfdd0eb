//! Retention: what every warehouse removes when it is told to, and what the driver tells it and the store.

use std::sync::Arc;
use std::time::Duration;

use eventkit::clock::ManualClock;
use eventkit::event::{DAY_MICROS, Day};
use eventkit::loader::fake::{Faulty, MemoryWarehouse};
use eventkit::loader::{Context, Expired, Keep, Loader};
use eventkit::store::fake::{self, Fault, MemoryObjects};
use eventkit::store::objects::{marker_name, object_name};
use eventkit::store::{ErrorRow, LocalObjects, Objects, Row, Table};
use tokio_util::sync::CancellationToken;

use super::{
    NOW, World, batch, context, error, event, loader, manifest, names, pair, put, put_errors,
    put_events, put_events_of,
};

const KEEP: Keep = Keep {
    store_days: Some(4),
    warehouse_days: Some(4),
};

fn days_ago(days: i64) -> i64 {
    NOW - days * DAY_MICROS
}

fn aged(message_id: &str, offset: u64, days: i64) -> Row {
    Row {
        received_at: days_ago(days),
        ..event(message_id, offset)
    }
}

fn aged_object(number: u64, days: i64) -> String {
    object_name(Table::Events, Day::of(days_ago(days)), &batch(number))
}

/// Stores one event, number and offset the same, that was received so many days ago.
async fn put_aged(objects: &MemoryObjects, number: u64, days: i64) -> String {
    let row = aged(&format!("m{number}"), number, days);
    put_events_of(objects, Day::of(days_ago(days)), number, &[row]).await
}

async fn retain(loader: &mut Loader) {
    let retained = loader.retain(&CancellationToken::new()).await;
    retained.expect("nothing is out");
}

#[tokio::test]
async fn a_warehouse_removes_old_rows_in_small_steps_and_keeps_every_record() {
    for world in World::all() {
        let objects = MemoryObjects::default();
        let rows = [
            aged("a", 1, 9),
            aged("b", 2, 8),
            aged("c", 3, 7),
            event("d", 4),
        ];
        let old_error = ErrorRow {
            received_at: days_ago(10),
            ..error("x", 5)
        };
        let events = put_events(&objects, 1, &rows).await;
        let errors = put_errors(&objects, 1, &[old_error, error("y", 6)]).await;
        let manifest = manifest(1, &[&events, &errors]);
        let mut warehouse = world.prepared().await;
        assert_eq!(warehouse.oldest().await.unwrap(), None);
        warehouse.load(&manifest, &objects).await.unwrap();
        let merged = warehouse.merge(&manifest).await.unwrap();
        let outcome = eventkit::loader::Outcome::Loaded(merged);
        warehouse.record(&manifest, &outcome).await.unwrap();
        assert_eq!(warehouse.oldest().await.unwrap(), Some(days_ago(10)));

        // The moment itself is kept.
        let before = days_ago(7);
        let mut steps = Vec::new();
        for _ in 0..3 {
            let Expired { events, errors } = warehouse.expire(before, 1).await.unwrap();
            steps.push((events, errors));
        }
        let whole_days = [(2, 1), (0, 0), (0, 0)];
        assert!(
            steps == [(1, 1), (1, 0), (0, 0)] || steps == whole_days,
            "{steps:?}"
        );
        assert_eq!(world.events(), [pair("c", 3), pair("d", 4)]);
        assert_eq!(world.errors(), [pair("y", 6)]);
        assert_eq!(warehouse.oldest().await.unwrap(), Some(days_ago(7)));
        let asked = [events.clone()];
        assert!(warehouse.recorded(&asked).await.unwrap().contains(&events));
        assert_eq!(warehouse.last_recorded().await.unwrap(), Some(1));
        assert_eq!(warehouse.merge(&manifest).await.unwrap(), merged);
    }
}

#[tokio::test]
async fn only_old_loaded_objects_without_markers_go() {
    for world in World::for_many_loads() {
        let objects = MemoryObjects::default();
        for (number, days) in [(1, 9), (2, 5), (3, 4), (4, 0), (5, 8), (6, 8), (7, 8)] {
            put_aged(&objects, number, days).await;
        }
        let mut loader = loader(Arc::new(objects.clone()), world.open()).with_retention(KEEP);
        loader.drain().await.unwrap();
        // Loaded and old, but with markers: in the inbox, in quarantine, in quarantine for the second time.
        for (number, folder, end) in [
            (5, "inbox/", ""),
            (6, "quarantine/", ""),
            (7, "quarantine/", ".00000000000000ff"),
        ] {
            let marker = marker_name(Table::Events, Day::of(days_ago(8)), &batch(number));
            let name = format!("{}{end}", marker.replace("inbox/", folder));
            put(&objects, &name, "{}").await;
        }
        // Old, but never loaded; and what is no object of ours.
        let unloaded = aged_object(8, 9);
        let foreign = [
            "events/dt=2001/a.parquet",
            "events/dt=2001-01-01/notes.txt",
            "events/x",
        ];
        for name in foreign.iter().copied().chain([unloaded.as_str()]) {
            put(&objects, name, "?").await;
        }
        retain(&mut loader).await;

        let kept = [(3, 4), (4, 0), (5, 8), (6, 8), (7, 8), (8, 9)];
        let mut expected: Vec<_> = kept.map(|(number, days)| aged_object(number, days)).into();
        expected.extend(foreign.map(str::to_owned));
        expected.sort();
        assert_eq!(names(&objects, "events/"), expected);
        assert_eq!(world.events(), [pair("m3", 3), pair("m4", 4)]);
    }
}

#[tokio::test]
async fn a_marker_that_comes_back_after_the_object_is_gone_loads_nothing() {
    for world in World::for_many_loads() {
        let objects = MemoryObjects::default();
        let mut loader = loader(Arc::new(objects.clone()), world.open()).with_retention(KEEP);
        put_aged(&objects, 1, 9).await;
        loader.drain().await.unwrap();
        retain(&mut loader).await;
        assert_eq!(names(&objects, "events/"), [""; 0]);
        put_aged(&objects, 1, 9).await;
        loader.drain().await.unwrap();
        assert_eq!(
            (world.events().len(), names(&objects, "inbox/").len()),
            (0, 0)
        );
        assert_eq!(world.outcomes().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_setting_nothing_goes_and_the_ages_are_shown() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    let context = context();
    let metrics = context.metrics.clone();
    let mut loader = Loader::new(
        Arc::new(objects.clone()),
        Box::new(warehouse.clone()),
        context,
        Duration::from_secs(60),
    )
    .with_retention(Keep::default());
    let shows = |line: &str| {
        let scraped = metrics.render();
        assert!(
            scraped.lines().any(|found| found == line),
            "{line} in {scraped}"
        );
    };
    retain(&mut loader).await;
    shows("eventkit_store_oldest_seconds 0");
    shows("eventkit_warehouse_oldest_seconds 0");
    put_aged(&objects, 1, 400).await;
    loader.drain().await.unwrap();
    // Not before an hour has passed.
    retain(&mut loader).await;
    shows("eventkit_warehouse_oldest_seconds 0");
    tokio::time::advance(Duration::from_secs(3600)).await;
    retain(&mut loader).await;
    assert_eq!(warehouse.events().len(), 1);
    assert_eq!(names(&objects, "events/").len(), 1);
    let store = (NOW - i64::from(Day::of(days_ago(400)).0) * DAY_MICROS) / 1_000_000;
    let scraped = metrics.render();
    assert!(
        scraped.contains(&format!("eventkit_store_oldest_seconds {store}")),
        "{scraped}"
    );
    shows(&format!(
        "eventkit_warehouse_oldest_seconds {}",
        400 * 86_400
    ));
}

#[tokio::test(start_paused = true)]
async fn what_is_young_is_removed_when_it_has_become_old() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    let clock = ManualClock::new(NOW);
    let context = Context {
        clock: Arc::new(clock.clone()),
        ..context()
    };
    let metrics = context.metrics.clone();
    let mut loader = Loader::new(
        Arc::new(objects.clone()),
        Box::new(warehouse.clone()),
        context,
        Duration::from_secs(60),
    )
    .with_retention(KEEP);
    put_events(&objects, 1, &[event("a", 1)]).await;
    put_errors(&objects, 1, &[error("b", 2)]).await;
    loader.drain().await.unwrap();
    for (days, left) in [(0, 1), (4, 1), (5, 0)] {
        clock.set(NOW + days * DAY_MICROS);
        tokio::time::advance(Duration::from_secs(3600)).await;
        retain(&mut loader).await;
        let found = (
            names(&objects, "events/").len(),
            names(&objects, "errors/").len(),
        );
        assert_eq!(found, (left, left), "after {days} days");
        assert_eq!(
            (warehouse.events().len(), warehouse.errors().len()),
            (left, left)
        );
    }
    let scraped = metrics.render();
    for line in [
        "eventkit_retention_objects_removed_total 2",
        "eventkit_retention_rows_removed_total{table=\"events\"} 1",
        "eventkit_retention_rows_removed_total{table=\"errors\"} 1",
    ] {
        assert!(scraped.contains(line), "{line} in {scraped}");
    }
}

#[tokio::test]
async fn an_outage_anywhere_in_the_middle_is_repeated_and_a_stop_begins_nothing() {
    for fault in [Fault::Unavailable, Fault::AnswerLost] {
        for at in 0..30 {
            let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
            for (number, days) in [(1, 9), (2, 6), (3, 4)] {
                put_aged(&objects, number, days).await;
            }
            loader(Arc::new(objects.clone()), Box::new(warehouse.clone()))
                .drain()
                .await
                .unwrap();
            let plan = || (0..at).map(|_| None).chain([Some(fault)]);
            let mut loader = loader(
                Arc::new(fake::Faulty::new(objects.clone(), plan())),
                Box::new(Faulty::new(warehouse.clone(), plan())),
            )
            .with_retention(KEEP);
            let stop = CancellationToken::new();
            stop.cancel();
            loader.retain(&stop).await.unwrap();
            assert_eq!(names(&objects, "events/").len(), 3);
            let mut failures = 0;
            while loader.retain(&CancellationToken::new()).await.is_err() {
                failures += 1;
            }
            assert!(failures <= 2, "each plan has one fault");
            assert!(at > 0 || failures > 0, "the first call fails");
            assert_eq!(names(&objects, "events/"), [aged_object(3, 4)]);
            let left: Vec<_> = warehouse
                .events()
                .into_iter()
                .map(|row| row.offset)
                .collect();
            assert_eq!(left, [3]);
        }
    }
}

#[tokio::test]
async fn the_local_store_lists_in_order_and_lets_go_of_empty_days() {
    let dir = tempfile::tempdir().unwrap();
    let objects = LocalObjects::open(dir.path()).unwrap();
    let mut all = Vec::new();
    for name in ["a-b", "a/1", "a/2", "a.b", "b/1", "b/c/d", "c"] {
        let name = format!("events/{name}");
        objects.put_if_absent(&name, "x".into()).await.unwrap();
        all.push(name);
    }
    all.sort();
    for start in 0..=all.len() {
        for limit in [1, 2, 3, 100] {
            let after = start.checked_sub(1).map(|at| all[at].as_str());
            let listed = objects.list("events/", after, limit).await.unwrap();
            let expected: Vec<_> = all[start..].iter().take(limit).cloned().collect();
            assert_eq!(listed, expected, "{limit} after {after:?}");
        }
    }
    objects.delete("events/a/1").await.unwrap();
    assert!(dir.path().join("events/a").is_dir());
    objects.delete("events/a/2").await.unwrap();
    assert!(!dir.path().join("events/a").exists());
    assert!(
        objects
            .put_if_absent("events/a/1", "y".into())
            .await
            .unwrap()
    );
    assert_eq!(objects.get("events/a/1").await.unwrap().unwrap(), "y");
    objects.put_if_absent("inbox/m", "x".into()).await.unwrap();
    objects.delete("inbox/m").await.unwrap();
    assert!(dir.path().join("inbox").is_dir());
}
