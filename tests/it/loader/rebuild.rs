//! A warehouse that lacks what was loaded before is filled again from the store.

use std::sync::Arc;

use eventkit::loader::{Limits, Loader, Manifest};
use eventkit::store::Objects as _;
use eventkit::store::fake::MemoryObjects;

use super::{
    World, error, event, event_marker, event_object, loader, names, put, put_errors, put_events,
};

/// More manifests than the loader keeps files of.
const MANY: u64 = 130;

/// One object per manifest.
fn one_by_one(loader: Loader) -> Loader {
    loader.with_limits(Limits {
        objects: 1,
        ..Limits::default()
    })
}

async fn load_many(objects: &MemoryObjects, world: &World, range: std::ops::Range<u64>) {
    let mut loader = one_by_one(loader(Arc::new(objects.clone()), world.open()));
    for number in range {
        put_events(objects, number, &[event(&format!("m{number}"), number)]).await;
        loader.drain().await.unwrap();
    }
}

#[tokio::test]
async fn a_warehouse_that_was_deleted_is_filled_again_from_the_store() {
    let objects = MemoryObjects::default();
    for [old, new] in [
        [World::memory(), World::memory()],
        [World::sqlite(), World::sqlite()],
    ] {
        load_many(&objects, &old, 0..MANY).await;
        put_errors(&objects, MANY, &[error("bad", 1_000_000)]).await;
        loader(Arc::new(objects.clone()), old.open())
            .drain()
            .await
            .unwrap();
        assert!(names(&objects, "manifests/").len() < usize::try_from(MANY).unwrap());

        let mut loader = loader(Arc::new(objects.clone()), new.open());
        loader.drain().await.unwrap();
        assert_eq!(new.events(), old.events());
        assert_eq!(new.errors(), old.errors());
        assert_eq!(names(&objects, "inbox/"), [""; 0]);
    }
}

#[tokio::test]
async fn an_older_copy_of_the_warehouse_gets_what_it_lacks() {
    let objects = MemoryObjects::default();
    let world = World::sqlite();
    load_many(&objects, &world, 0..5).await;
    let copy = std::fs::read(world.path()).unwrap();
    load_many(&objects, &world, 5..6).await;
    let next = Manifest::name(6);
    let left_behind = objects.get(&next).await.unwrap().unwrap();
    load_many(&objects, &world, 6..MANY).await;
    let all = world.events();
    // The file of the first manifest that the copy lacks was not removed with those behind it: whoever did was killed.
    objects.put_if_absent(&next, left_behind).await.unwrap();

    for suffix in ["-wal", "-shm"] {
        let mut path = world.path().into_os_string();
        path.push(suffix);
        std::fs::remove_file(path).unwrap_or(());
    }
    std::fs::write(world.path(), copy).unwrap();
    assert_eq!(world.events().len(), 5);
    let mut loader = loader(Arc::new(objects.clone()), world.open());
    loader.drain().await.unwrap();
    assert_eq!(world.events(), all);
}

#[tokio::test]
async fn a_rebuild_that_is_cut_short_is_begun_again() {
    let objects = MemoryObjects::default();
    load_many(&objects, &World::memory(), 0..MANY).await;
    let world = World::memory();
    for _ in 0..2 {
        // Prepared, and gone before it loads anything; one marker was put back by hand as a crash would have left it.
        let mut cut = loader(Arc::new(objects.clone()), world.open());
        cut.prepare().await.unwrap();
        objects.delete(&event_marker(7)).await.unwrap();
    }
    let mut loader = loader(Arc::new(objects.clone()), world.open());
    loader.drain().await.unwrap();
    assert_eq!(world.events().len(), usize::try_from(MANY).unwrap());
}

#[tokio::test]
async fn a_rebuild_leaves_alone_what_is_in_quarantine_and_what_is_no_object() {
    let objects = MemoryObjects::default();
    put_events(&objects, 1, &[event("a", 1)]).await;
    put_events(&objects, 2, &[event("b", 2)]).await;
    objects.delete(&event_marker(1)).await.unwrap();
    objects.delete(&event_marker(2)).await.unwrap();
    let quarantined = event_marker(1).replace("inbox/", "quarantine/");
    put(
        &objects,
        &quarantined,
        "set aside by a person or by the loader",
    )
    .await;
    put(&objects, "events/dt=2026-01-31/notes.txt", "mine").await;
    let world = World::memory();
    let mut loader = loader(Arc::new(objects.clone()), world.open());
    loader.drain().await.unwrap();
    assert_eq!(world.events(), [super::pair("b", 2)]);
    assert!(names(&objects, "quarantine/").contains(&quarantined));
    assert!(objects.get(&event_object(1)).await.unwrap().is_some());
}
