//! The driver: markers and objects that lead nowhere, attempts, clean-up, and the running loader.

use std::collections::HashSet;
use std::sync::Arc;

use std::time::Duration;

use async_trait::async_trait;
use eventkit::backoff::Backoff;
use eventkit::clock::ManualClock;
use eventkit::event::Micros;
use eventkit::loader::fake::{self, MemoryWarehouse};
use eventkit::loader::{
    Context, Expired, Limits, LoadError, Loader, Manifest, MergeError, Merged, Outcome, Round,
    RoundError, Staged, Warehouse, WarehouseError,
};
use eventkit::store::Objects;
use eventkit::store::fake::{Fault, MemoryObjects};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    FEW, NOW, World, context, event, event_marker, event_object, loader, names, pair, put,
    put_events,
};

#[tokio::test]
async fn a_marker_that_comes_back_for_a_recorded_object_is_just_removed() {
    for world in World::for_many_loads() {
        let objects = MemoryObjects::default();
        let mut loader = loader(Arc::new(objects.clone()), world.open());
        for _ in 0..3 {
            put_events(&objects, 1, &[event("a", 1)]).await;
            loader.drain().await.unwrap();
            assert_eq!(names(&objects, "inbox/"), [""; 0]);
            assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 1, 0)]);
        }
    }
}

#[tokio::test]
async fn a_bad_object_is_found_by_halving_when_the_warehouse_does_not_name_it() {
    for bad in 0..8 {
        let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
        for number in 0..8 {
            put_events(&objects, number, &[event(&format!("m{number}"), number)]).await;
        }
        objects.delete(&event_object(bad)).await.unwrap();
        let mut loader = loader(
            Arc::new(objects.clone()),
            Box::new(warehouse.clone().anonymous()),
        );
        loader.drain().await.unwrap();
        let loaded: HashSet<u64> = warehouse.events().iter().map(|row| row.offset).collect();
        assert_eq!(loaded, (0..8).filter(|&number| number != bad).collect());
        let quarantined = event_marker(bad).replace("inbox/", "quarantine/");
        assert_eq!(names(&objects, "quarantine/"), [quarantined]);
        assert_eq!(names(&objects, "inbox/"), [""; 0]);
        let words: Vec<&str> = warehouse
            .outcomes()
            .iter()
            .map(|(_, o)| o.as_str())
            .collect();
        let count = |word| words.iter().filter(|&&found| found == word).count();
        assert_eq!(
            (count("quarantined"), count("superseded")),
            (1, 3),
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn a_quarantined_object_is_loaded_when_it_is_mended_and_its_marker_moved_back() {
    for world in World::for_many_loads() {
        let objects = MemoryObjects::default();
        put_events(&objects, 1, &[event("a", 1)]).await;
        let file = objects.get(&event_object(1)).await.unwrap().unwrap();
        objects.delete(&event_object(1)).await.unwrap();
        let mut loader = loader(Arc::new(objects.clone()), world.open());
        loader.drain().await.unwrap();
        assert_eq!(world.outcomes(), [(1, "quarantined".to_owned(), 0, 0)]);

        let quarantined = event_marker(1).replace("inbox/", "quarantine/");
        let marker = objects.get(&quarantined).await.unwrap().unwrap();
        objects.put_if_absent(&event_object(1), file).await.unwrap();
        objects
            .put_if_absent(&event_marker(1), marker)
            .await
            .unwrap();
        loader.drain().await.unwrap();
        assert_eq!(world.events(), [pair("a", 1)]);
        assert_eq!(names(&objects, "inbox/"), [""; 0]);
    }
}

#[tokio::test]
async fn two_unreadable_markers_of_one_name_are_both_kept() {
    let objects = MemoryObjects::default();
    let mut loader = loader(Arc::new(objects.clone()), Box::<MemoryWarehouse>::default());
    for text in ["one", "two", "one"] {
        put(&objects, "inbox/x.json", text).await;
        loader.drain().await.unwrap();
    }
    let kept = names(&objects, "quarantine/");
    let mut texts = Vec::new();
    for name in &kept {
        texts.push(objects.get(name).await.unwrap().unwrap());
    }
    assert_eq!(texts, ["one", "two"], "{kept:?}");
}

#[tokio::test]
async fn a_marker_of_a_later_version_stays_and_holds_nobody_up() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    let later = "inbox/a-later-version.json";
    let put = objects.put_if_absent(later, r#"{"version":2,"table":"sessions"}"#.into());
    assert!(put.await.unwrap());
    put_events(&objects, 1, &[event("a", 1)]).await;
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse.clone()));
    let failed = loader.drain().await.unwrap_err();
    assert!(
        matches!(failed, RoundError::Blocked { count: 1, .. }),
        "{failed:?}"
    );
    assert_eq!(warehouse.events().len(), 1);
    assert_eq!(names(&objects, "inbox/"), [later]);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_is_closed_and_its_objects_are_taken_again() {
    for world in World::for_many_loads() {
        let objects = MemoryObjects::default();
        put_events(&objects, 1, &[event("a", 1)]).await;
        put(&objects, &Manifest::name(1), "torn").await;
        put(&objects, "manifests/notes.txt", "ours not").await;
        let mut loader = loader(Arc::new(objects.clone()), world.open());
        loader.drain().await.unwrap();
        assert_eq!(world.events(), [pair("a", 1)]);
        let words: Vec<String> = world
            .outcomes()
            .into_iter()
            .map(|(_, word, ..)| word)
            .collect();
        assert_eq!(words, ["discarded", "loaded"]);
    }
}

#[tokio::test]
async fn a_manifest_of_a_later_version_waits_for_one() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    put(&objects, &Manifest::name(1), r#"{"version":2}"#).await;
    let mut loader = loader(Arc::new(objects), Box::new(warehouse.clone()));
    let failed = loader.drain().await.unwrap_err();
    assert!(
        matches!(failed, RoundError::Newer { number: 1, .. }),
        "{failed:?}"
    );
    assert!(warehouse.outcomes().is_empty());
}

/// A warehouse whose loads fail for good, as a job does whose id is used up, and blame no object.
#[derive(Debug)]
struct Burnt {
    inner: MemoryWarehouse,
    /// So many attempts fail, whatever they are of.
    attempts: u32,
}

#[async_trait]
impl Warehouse for Burnt {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        self.inner.prepare().await
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        self.inner.last_recorded().await
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        self.inner.recorded(objects).await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        if manifest.attempt <= self.attempts {
            let reason = "backend error".to_owned();
            return Err(LoadError::Attempt { reason });
        }
        self.inner.load(manifest, objects).await
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        self.inner.merge(manifest).await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        self.inner.record(manifest, outcome).await
    }

    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError> {
        self.inner.expire(before, limit).await
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        self.inner.oldest().await
    }
}

#[tokio::test]
async fn an_attempt_that_failed_for_good_is_followed_by_the_next_under_a_new_number() {
    let (objects, memory) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    put_events(&objects, 2, &[event("b", 2)]).await;
    let warehouse = Burnt {
        inner: memory.clone(),
        attempts: 2,
    };
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse));
    for _ in 0..2 {
        let failed = loader.drain().await.unwrap_err();
        assert!(matches!(failed, RoundError::Load { .. }), "{failed:?}");
    }
    loader.drain().await.unwrap();
    assert_eq!(memory.events().len(), 2);
    let outcomes = memory.outcomes();
    let words: Vec<&str> = outcomes
        .iter()
        .map(|(_, outcome)| outcome.as_str())
        .collect();
    assert_eq!(words, ["superseded", "superseded", "loaded"]);
}

#[tokio::test]
async fn an_outage_that_fails_every_attempt_blames_no_object_and_leaves_few_files() {
    let (objects, memory) = (MemoryObjects::default(), MemoryWarehouse::default());
    for number in 0..3 {
        put_events(&objects, number, &[event(&number.to_string(), number)]).await;
    }
    let warehouse = Burnt {
        inner: memory.clone(),
        attempts: 105,
    };
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse));
    for _ in 0..105 {
        loader.drain().await.unwrap_err();
    }
    loader.drain().await.unwrap();
    assert_eq!(memory.events().len(), 3);
    assert_eq!(names(&objects, "quarantine/"), [""; 0]);
    assert_eq!(memory.outcomes().len(), 106);
    assert_eq!(names(&objects, "manifests/").len(), 100);
}

#[tokio::test]
async fn only_the_newest_hundred_recorded_manifests_keep_their_files() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    let one = Limits { objects: 1, ..FEW };
    for number in 0..105 {
        put_events(&objects, number, &[event(&format!("m{number}"), number)]).await;
    }
    let mut first = loader(Arc::new(objects.clone()), Box::new(warehouse.clone())).with_limits(one);
    first.drain().await.unwrap();
    let kept: Vec<String> = (6..=105).map(Manifest::name).collect();
    assert_eq!(names(&objects, "manifests/"), kept);

    // One that a crash left behind goes at the next start.
    put(&objects, &Manifest::name(3), "old").await;
    let mut second = loader(Arc::new(objects.clone()), Box::new(warehouse.clone()));
    second.drain().await.unwrap();
    assert_eq!(names(&objects, "manifests/"), kept);
    assert_eq!(warehouse.outcomes().len(), 105);
}

#[tokio::test]
async fn a_stop_starts_nothing_new() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    let before = objects.names();
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse.clone()));
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(loader.round(&stop).await.unwrap(), Round::Stopped);
    let loader_back = loader.run(Arc::new(Notify::new()), stop);
    let mut loader = loader_back.await;
    assert_eq!(objects.names(), before);
    loader.drain().await.unwrap();
    assert_eq!(warehouse.events().len(), 1, "and drains when told to");
}

#[tokio::test(start_paused = true)]
async fn a_running_loader_is_woken_by_markers_and_looks_by_itself_once_an_interval() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let loader = loader(Arc::new(objects.clone()), Box::new(warehouse.clone()));
    let tasks = eventkit::lifecycle::Tasks::default();
    let running = tasks.spawn("loader", loader.run(Arc::clone(&wake), stop.clone()));

    tokio::time::sleep(Duration::from_secs(1)).await;
    put_events(&objects, 1, &[event("a", 1)]).await;
    wake.notify_one();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(warehouse.events().len(), 1);

    put_events(&objects, 2, &[event("b", 2)]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(warehouse.events().len(), 1, "nobody woke it");
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(warehouse.events().len(), 2);
    stop.cancel();
    assert!(running.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_outage_shows_as_degraded_and_is_waited_out() {
    let (objects, memory) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    let warehouse = fake::Faulty::new(memory.clone(), vec![Some(Fault::Unavailable); 20]);
    let calls = warehouse.calls();
    let clock = ManualClock::new(NOW);
    let context = Context {
        clock: Arc::new(clock.clone()),
        ..context()
    };
    let second = Duration::from_secs(1);
    let loader = Loader::new(
        Arc::new(objects),
        Box::new(warehouse),
        context.clone(),
        second,
    )
    .with_backoff(Backoff {
        base: second,
        max: second,
    });
    let stop = CancellationToken::new();
    let tasks = eventkit::lifecycle::Tasks::default();
    let running = tasks.spawn("loader", loader.run(Arc::default(), stop.clone()));

    tokio::time::sleep(5 * second).await;
    let readiness = context.health.readiness();
    let reason = readiness.degraded.get("warehouse").unwrap();
    assert!(reason.contains("planned fault"), "{reason}");
    assert!(readiness.is_ready());
    assert!(calls.count() <= 11, "it waits between its attempts");
    clock.set(NOW + 90_000_000);
    let scraped = context.metrics.render();
    assert!(
        scraped.contains("eventkit_loader_behind_seconds 90\n"),
        "{scraped}"
    );
    tokio::time::sleep(20 * second).await;
    assert_eq!(memory.events().len(), 1);
    assert!(context.health.readiness().degraded.is_empty());
    let scraped = context.metrics.render();
    for line in [
        "eventkit_loader_failures_total 20",
        "eventkit_loader_step_failures_total{step=\"warehouse\"} 20",
        "eventkit_loader_behind_seconds 0\n",
        "eventkit_loader_manifests_recorded_total 1",
        "eventkit_loader_rows_merged_total{table=\"events\"} 1",
    ] {
        assert!(scraped.contains(line), "{line} in {scraped}");
    }
    stop.cancel();
    assert!(running.await.unwrap().is_some());
}
