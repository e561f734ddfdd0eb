//! Crashes: at every call of the store and of the warehouse, and between every two steps; and many loaders at a time.

use std::sync::Arc;

use bytes::Bytes;
use eventkit::loader::fake::{self, MemoryWarehouse};
use eventkit::loader::{Loaded, SqliteWarehouse, Staged};
use eventkit::store::fake::{Fault, Faulty, MemoryObjects};
use eventkit::store::{LocalObjects, Objects};
use tokio_util::sync::CancellationToken;

use super::{
    FEW, World, clock, error, event, event_marker, event_object, loader, names, pair, put,
    put_errors, put_events, put_events_of, yesterday,
};
use crate::support::gateway::setting;

/// A bit of everything: repeats within and across objects, both judgements of one event, an old day, and three
/// markers that lead nowhere.
pub(super) async fn scene() -> MemoryObjects {
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
    for world in World::for_many_loads() {
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
            let warehouse = SqliteWarehouse::new(world.path(), clock());
            let warehouse = fake::Faulty::new(warehouse, warehouse_plan);
            let mut first = loader(Arc::new(store), Box::new(warehouse)).with_limits(FEW);
            first.drain().await
        }
        #[cfg(feature = "cloud")]
        World::BigQuery(place) => {
            let warehouse = fake::Faulty::new(place.warehouse(), warehouse_plan);
            let mut first = loader(Arc::new(store), Box::new(warehouse)).with_limits(FEW);
            first.drain().await
        }
    };
    assert!(failed.is_err(), "{planned} ends the drain");
    let mut second = loader(Arc::new(objects.clone()), world.open()).with_limits(FEW);
    second.drain().await.unwrap();
}

/// One object of each table: what fits into one manifest.
async fn small_scene() -> MemoryObjects {
    let objects = MemoryObjects::default();
    put_events(&objects, 1, &[event("a", 1), event("b", 2), event("a", 3)]).await;
    put_errors(&objects, 1, &[error("x", 9), error("b", 2)]).await;
    objects
}

/// How many calls of the store and of the warehouse a scene takes.
async fn calls(scene: MemoryObjects) -> (usize, usize) {
    let objects = Faulty::new(scene, []);
    let warehouse = fake::Faulty::new(MemoryWarehouse::default(), []);
    let asked = warehouse.calls();
    let mut loader = loader(Arc::new(objects.clone()), Box::new(warehouse)).with_limits(FEW);
    loader.drain().await.unwrap();
    (usize::try_from(objects.calls()).unwrap(), asked.count())
}

async fn crash_at_every_call(world: impl Fn() -> World, step: usize) {
    let (store_calls, warehouse_calls) = calls(scene().await).await;
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

/// On a scene of one manifest, and in the short form at a few calls of the warehouse alone: each run takes the emulator seconds.
#[tokio::test]
async fn a_crash_or_a_lost_answer_at_calls_around_bigquery_leaves_each_event_as_one_row() {
    if World::bigquery().is_none() {
        return;
    }
    let is_long = setting("EVENTKIT_CHAOS").as_deref() == Some("long");
    let (store_calls, warehouse_calls) = calls(small_scene().await).await;
    assert!(warehouse_calls > 5, "{warehouse_calls}");
    let at_store = (0..store_calls).step_by(3).map(|at| (true, at));
    let (first, step) = if is_long { (0, 1) } else { (2, 3) };
    let at_warehouse = (first..warehouse_calls).step_by(step).map(|at| (false, at));
    let both = [Fault::AnswerLost, Fault::Unavailable];
    for (store, at) in at_store.filter(|_| is_long).chain(at_warehouse) {
        for fault in &both[..if is_long { 2 } else { 1 }] {
            let world = World::bigquery().expect("it was there before");
            let objects = small_scene().await;
            crash(&world, &objects, store, after(at, *fault)).await;
            let note = format!("{fault:?} at call {at}, of the store: {store}");
            assert_eq!(world.events(), [pair("a", 1), pair("b", 2)], "{note}");
            assert_eq!(world.errors(), [pair("x", 9)], "{note}");
            assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 2, 1)], "{note}");
            assert_eq!(names(&objects, "inbox/"), [""; 0], "{note}");
        }
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_leaves_each_event_as_one_row() {
    let worlds: [fn() -> Option<World>; 3] = [
        || Some(World::memory()),
        || Some(World::sqlite()),
        World::bigquery,
    ];
    for world in worlds {
        for steps in 0..=5 {
            let (Some(world), objects) = (world(), MemoryObjects::default()) else {
                break;
            };
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
    // BigQuery has a smaller one of its own: there two transactions may meet, and one of them is repeated.
    for world in World::local() {
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

#[tokio::test]
async fn what_lies_in_a_directory_arrives_as_well() {
    let world = World::sqlite();
    let scene = scene().await;
    let dir = tempfile::TempDir::new().unwrap();
    let local = LocalObjects::open(dir.path()).unwrap();
    for name in scene.names() {
        let bytes = scene.get(&name).await.unwrap().unwrap();
        assert!(local.put_if_absent(&name, bytes).await.unwrap());
    }
    let mut loader = loader(Arc::new(local.clone()), world.open()).with_limits(FEW);
    loader.drain().await.unwrap();
    let left = MemoryObjects::default();
    for folder in ["inbox/", "quarantine/", "events/", "errors/"] {
        for name in local.list(folder, None, usize::MAX).await.unwrap() {
            let bytes = local.get(&name).await.unwrap().unwrap();
            assert!(left.put_if_absent(&name, bytes).await.unwrap());
        }
    }
    assert_arrived(&world, &left, "local");
}
