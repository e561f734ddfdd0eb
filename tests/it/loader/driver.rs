//! The driver: crashes at every call, lost races, and markers and objects that lead nowhere.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eventkit::backoff::Backoff;
use eventkit::loader::fake::{self, MemoryWarehouse};
use eventkit::loader::{
    Limits, LoadError, Loaded, Loader, Manifest, MergeError, Merged, Outcome, Round, RoundError,
    Staged, Warehouse, WarehouseError,
};
use eventkit::store::fake::{Fault, Faulty, MemoryObjects};
use eventkit::store::{Marker, Objects, WriteError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    World, context, error, event, event_marker, event_object, loader, manifest, pair, put_errors,
    put_events, put_events_of, yesterday,
};

/// So that a handful of objects makes several manifests.
const FEW: Limits = Limits {
    objects: 3,
    bytes: 64 << 20,
    rows: 1_000,
};

async fn put(objects: &MemoryObjects, name: &str, text: &'static str) {
    assert!(objects.put_if_absent(name, text.into()).await.unwrap());
}

fn names(objects: &MemoryObjects, folder: &str) -> Vec<String> {
    let names = objects.names().into_iter();
    names.filter(|name| name.starts_with(folder)).collect()
}

/// A bit of everything: repeats within and across objects, both judgements of one event, an old day, and three
/// markers that lead nowhere.
async fn scene() -> MemoryObjects {
    let objects = MemoryObjects::default();
    put_events(&objects, 1, &[event("a", 1), event("b", 2), event("a", 3)]).await;
    put_events(&objects, 2, &[event("b", 2), event("c", 4)]).await;
    put_events(&objects, 3, &[event("d", 5)]).await;
    put_events(&objects, 4, &[event("e", 6), event("f", 7)]).await;
    put_events_of(&objects, yesterday(), 5, &[event("g", 8), event("a", 1)]).await;
    put_errors(&objects, 6, &[error("c", 4), error("x", 9)]).await;
    for (number, damaged) in [(7, Some("damaged")), (8, None)] {
        put_events(&objects, number, &[event("never", 70)]).await;
        objects.delete(&event_object(number)).await.unwrap();
        if let Some(bytes) = damaged {
            put(&objects, &event_object(number), bytes).await;
        }
    }
    put(&objects, "inbox/events.nonsense.json", "nonsense").await;
    objects
}

/// Everything of the scene arrived, each event once; each object was counted in one manifest; nothing is left over.
fn assert_arrived(world: &World, objects: &MemoryObjects, note: &str) {
    let events = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned);
    let found: Vec<String> = world.events().into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, events, "{note}");
    assert_eq!(world.errors(), [pair("x", 9)], "{note}");
    let outcomes = world.outcomes();
    let inserted: u64 = outcomes.iter().map(|(_, _, inserted, _)| inserted).sum();
    let duplicate: u64 = outcomes.iter().map(|(.., duplicate)| duplicate).sum();
    assert_eq!((inserted, duplicate), (7, 3), "{note}: {outcomes:?}");
    assert_eq!(names(objects, "inbox/"), [""; 0], "{note}");
    let quarantine = [7, 8].map(|n| event_marker(n).replace("inbox/", "quarantine/"));
    let mut expected = vec!["quarantine/events.nonsense.json".to_owned()];
    expected.splice(0..0, quarantine);
    assert_eq!(names(objects, "quarantine/"), expected, "{note}");
    let kept = names(objects, "events/").len() + names(objects, "errors/").len();
    assert_eq!(kept, 7, "{note}: objects stay where they are");
}

#[tokio::test]
async fn everything_arrives_once_and_what_leads_nowhere_is_set_aside() {
    for world in World::all() {
        let objects = scene().await;
        let mut loader = loader(Arc::new(objects.clone()), world.open()).with_limits(FEW);
        loader.drain().await.unwrap();
        assert_arrived(&world, &objects, "calm");
    }
}

/// The plan that lets `calls` through and then fails.
fn after(calls: usize, fault: Fault) -> Vec<Option<Fault>> {
    let mut plan = vec![None; calls];
    plan.push(Some(fault));
    plan
}

/// Crashes a loader at one call of the store or of the warehouse; a second one finishes.
async fn crash(world: &World, objects: &MemoryObjects, store: bool, plan: Vec<Option<Fault>>) {
    let part = if store { "store" } else { "warehouse" };
    let planned = format!("{:?} at call {} of the {part}", plan.last(), plan.len() - 1);
    let (store_plan, warehouse_plan) = if store {
        (plan, vec![])
    } else {
        (vec![], plan)
    };
    let store = Faulty::new(objects.clone(), store_plan);
    let failed = match world {
        World::Memory(warehouse) => {
            let warehouse = fake::Faulty::new(warehouse.clone(), warehouse_plan);
            let mut first = loader(Arc::new(store), Box::new(warehouse)).with_limits(FEW);
            first.drain().await
        }
        World::Sqlite(_) => {
            let warehouse = eventkit::loader::SqliteWarehouse::new(world.path(), super::clock());
            let warehouse = fake::Faulty::new(warehouse, warehouse_plan);
            let mut first = loader(Arc::new(store), Box::new(warehouse)).with_limits(FEW);
            first.drain().await
        }
    };
    assert!(failed.is_err(), "{planned} ends the drain");
    let mut second = loader(Arc::new(objects.clone()), world.open()).with_limits(FEW);
    second.drain().await.unwrap();
}

/// How many calls of the store and of the warehouse the scene takes.
async fn calls() -> (usize, usize) {
    let objects = Faulty::new(scene().await, []);
    let warehouse = fake::Faulty::new(MemoryWarehouse::default(), []);
    let asked = warehouse.calls();
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse)).with_limits(FEW);
    loader.drain().await.unwrap();
    (usize::try_from(objects.calls()).unwrap(), asked.count())
}

async fn crash_at_every_call(world: impl Fn() -> World, step: usize) {
    let (store_calls, warehouse_calls) = calls().await;
    assert!(
        store_calls > 40 && warehouse_calls > 20,
        "{store_calls} {warehouse_calls}"
    );
    for (store, calls) in [(true, store_calls), (false, warehouse_calls)] {
        for fault in [Fault::Unavailable, Fault::AnswerLost] {
            for at in (0..calls).step_by(step) {
                let (world, objects) = (world(), scene().await);
                crash(&world, &objects, store, after(at, fault)).await;
                let part = if store { "store" } else { "warehouse" };
                assert_arrived(
                    &world,
                    &objects,
                    &format!("{fault:?} at call {at} of the {part}"),
                );
            }
        }
    }
}

#[tokio::test]
async fn a_crash_or_a_lost_answer_at_any_call_leaves_each_event_as_one_row() {
    crash_at_every_call(World::memory, 1).await;
}

#[tokio::test]
async fn a_crash_or_a_lost_answer_at_calls_around_sqlite_leaves_each_event_as_one_row() {
    crash_at_every_call(World::sqlite, 3).await;
}

#[tokio::test]
async fn a_crash_between_any_two_steps_leaves_each_event_as_one_row() {
    for world in [World::memory, World::sqlite] {
        for steps in 0..=5 {
            let (world, objects) = (world(), MemoryObjects::default());
            put_events(&objects, 1, &[event("a", 1), event("b", 2)]).await;
            put_errors(&objects, 1, &[error("x", 9)]).await;
            let mut first = loader(Arc::new(objects.clone()), world.open());
            'crash: {
                if steps == 0 {
                    break 'crash;
                }
                first.prepare().await.unwrap();
                if steps == 1 {
                    break 'crash;
                }
                let manifest = first.next().await.unwrap().unwrap();
                if steps == 2 {
                    break 'crash;
                }
                let staged = Staged {
                    events: 2,
                    errors: 1,
                };
                assert_eq!(first.load(&manifest).await.unwrap(), Loaded::Staged(staged));
                if steps == 3 {
                    break 'crash;
                }
                let merged = first.merge(&manifest).await.unwrap();
                if steps == 4 {
                    break 'crash;
                }
                first.record(&manifest, merged).await.unwrap();
            }
            drop(first);
            let mut second = loader(Arc::new(objects.clone()), world.open());
            second.drain().await.unwrap();
            assert_eq!(world.events(), [pair("a", 1), pair("b", 2)], "{steps}");
            assert_eq!(world.errors(), [pair("x", 9)], "{steps}");
            assert_eq!(
                world.outcomes(),
                [(1, "loaded".to_owned(), 2, 0)],
                "{steps}"
            );
            assert_eq!(names(&objects, "inbox/"), [""; 0], "{steps}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loaders_on_one_inbox_load_each_object_in_one_manifest() {
    for world in World::all() {
        world.prepared().await;
        let objects = MemoryObjects::default();
        let tasks = eventkit::lifecycle::Tasks::default();
        let loaders: Vec<_> = (0..3)
            .map(|_| {
                let mut loader = loader(Arc::new(objects.clone()), world.open()).with_limits(FEW);
                let (objects, stop) = (objects.clone(), CancellationToken::new());
                tasks.spawn("loader", async move {
                    // Until the last object's marker was seen to go.
                    while !objects.names().contains(&"done".to_owned()) {
                        loader.round(&stop).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    loader.drain().await.unwrap();
                })
            })
            .collect();
        for number in 0..40 {
            put_events(&objects, number, &[event(&format!("m{number:02}"), number)]).await;
            tokio::task::yield_now().await;
        }
        assert!(objects.put_if_absent("done", Bytes::new()).await.unwrap());
        for loader in loaders {
            assert_eq!(loader.await.unwrap(), Some(()), "no loader panicked");
        }
        assert_eq!(world.events().len(), 40);
        assert_eq!(names(&objects, "inbox/"), [""; 0]);
        let outcomes = world.outcomes();
        let inserted: u64 = outcomes.iter().map(|(_, _, inserted, _)| inserted).sum();
        let duplicate: u64 = outcomes.iter().map(|(.., duplicate)| duplicate).sum();
        assert_eq!((inserted, duplicate), (40, 0), "{outcomes:?}");
    }
}

/// Objects where somebody else is quicker, once: right before a manifest is created.
#[derive(Debug)]
struct Raced {
    inner: MemoryObjects,
    other: Other,
    is_over: AtomicBool,
}

#[derive(Debug)]
enum Other {
    /// Creates this manifest first.
    Creates(Manifest),
    /// Has taken this manifest to its end, and its file is so old that it is gone.
    HasRecorded(Manifest, MemoryWarehouse),
}

impl Raced {
    async fn race(&self) {
        match &self.other {
            Other::Creates(manifest) => {
                let name = Manifest::name(manifest.number);
                let created = self.inner.put_if_absent(&name, manifest.encode()).await;
                assert!(created.unwrap());
            }
            Other::HasRecorded(manifest, warehouse) => {
                let mut warehouse = warehouse.clone();
                warehouse.load(manifest, &self.inner).await.unwrap();
                let merged = warehouse.merge(manifest).await.unwrap();
                let outcome = Outcome::Loaded(merged);
                warehouse.record(manifest, &outcome).await.unwrap();
            }
        }
    }
}

#[async_trait]
impl Objects for Raced {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        if name.starts_with("manifests/") && !self.is_over.swap(true, Ordering::SeqCst) {
            self.race().await;
        }
        self.inner.put_if_absent(name, bytes).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        self.inner.get(name).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        self.inner.delete(name).await
    }
}

/// Objects that check, whenever a marker goes, that it may.
#[derive(Debug)]
struct Watched {
    inner: MemoryObjects,
    warehouse: MemoryWarehouse,
    gone: AtomicU32,
}

#[async_trait]
impl Objects for Watched {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        self.inner.put_if_absent(name, bytes).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, WriteError> {
        self.inner.get(name).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, WriteError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, name: &str) -> Result<(), WriteError> {
        if name.starts_with("inbox/") {
            let copy = name.replace("inbox/", "quarantine/");
            let marker = self.inner.get(name).await?.unwrap();
            let is_recorded = match serde_json::from_slice::<Marker>(&marker) {
                Ok(marker) => {
                    let mut warehouse = self.warehouse.clone();
                    !warehouse
                        .recorded(&[marker.object])
                        .await
                        .unwrap()
                        .is_empty()
                }
                Err(_) => false,
            };
            let is_kept = self.inner.get(&copy).await?.as_ref() == Some(&marker);
            assert!(is_recorded != is_kept, "{name}");
            self.gone.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.delete(name).await
    }
}

#[tokio::test]
async fn a_marker_goes_only_after_the_record_or_its_copy_in_quarantine() {
    let warehouse = MemoryWarehouse::default();
    let watched = Arc::new(Watched {
        inner: scene().await,
        warehouse: warehouse.clone(),
        gone: AtomicU32::new(0),
    });
    let objects: Arc<dyn Objects> = Arc::<Watched>::clone(&watched);
    let mut loader = loader(objects, Box::new(warehouse)).with_limits(FEW);
    loader.drain().await.unwrap();
    assert_eq!(watched.gone.load(Ordering::SeqCst), 9);
}

#[tokio::test]
async fn who_loses_the_race_for_a_number_completes_the_winners_manifest() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    put_events(&objects, 2, &[event("b", 2)]).await;
    let winner = manifest(1, &[&event_object(1)]);
    let raced = Raced {
        inner: objects.clone(),
        other: Other::Creates(winner.clone()),
        is_over: AtomicBool::new(false),
    };
    let mut loader = loader(Arc::new(raced), Box::new(warehouse.clone()));
    assert_eq!(loader.next().await.unwrap(), Some(winner));
    loader.drain().await.unwrap();
    let numbers: Vec<u64> = warehouse.outcomes().into_iter().map(|(n, _)| n).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(warehouse.events().len(), 2);
}

#[tokio::test]
async fn a_number_that_was_recorded_meanwhile_is_discarded() {
    let (objects, warehouse) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    let other = manifest(1, &[&event_object(1)]);
    let raced = Raced {
        inner: objects.clone(),
        other: Other::HasRecorded(other, warehouse.clone()),
        is_over: AtomicBool::new(false),
    };
    let mut loader = loader(Arc::new(raced), Box::new(warehouse));
    assert_eq!(loader.next().await.unwrap(), None);
    assert_eq!(names(&objects, "manifests/"), [""; 0]);
    assert_eq!(
        names(&objects, "inbox/"),
        [""; 0],
        "the object was recorded"
    );
}

#[tokio::test]
async fn a_marker_that_comes_back_for_a_recorded_object_is_just_removed() {
    for world in World::all() {
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
    for world in World::all() {
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
    for world in World::all() {
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

/// A warehouse whose first loads fail for good, as a job does whose id is used up.
#[derive(Debug)]
struct Burnt(MemoryWarehouse, AtomicU32);

#[async_trait]
impl Warehouse for Burnt {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        self.0.prepare().await
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        self.0.last_recorded().await
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        self.0.recorded(objects).await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        if manifest.attempt <= self.1.load(Ordering::SeqCst) {
            let reason = "backend error".to_owned();
            return Err(LoadError::Attempt { reason });
        }
        self.0.load(manifest, objects).await
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        self.0.merge(manifest).await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        self.0.record(manifest, outcome).await
    }
}

#[tokio::test]
async fn an_attempt_that_failed_for_good_is_followed_by_the_next_under_a_new_number() {
    let (objects, memory) = (MemoryObjects::default(), MemoryWarehouse::default());
    put_events(&objects, 1, &[event("a", 1)]).await;
    put_events(&objects, 2, &[event("b", 2)]).await;
    let warehouse = Burnt(memory.clone(), AtomicU32::new(2));
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
    let context = context();
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
    tokio::time::sleep(20 * second).await;
    assert_eq!(memory.events().len(), 1);
    assert!(context.health.readiness().degraded.is_empty());
    let scraped = context.metrics.render();
    for line in [
        "eventkit_loader_failures_total 20",
        "eventkit_loader_manifests_recorded_total 1",
        "eventkit_loader_rows_merged_total{table=\"events\"} 1",
    ] {
        assert!(scraped.contains(line), "{line} in {scraped}");
    }
    stop.cancel();
    assert!(running.await.unwrap().is_some());
}
