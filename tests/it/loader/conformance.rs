//! What every warehouse promises, run against each implementation and the fake.

use eventkit::loader::{
    LoadError, Manifest, MergeError, Merged, Outcome, Staged, Warehouse, WarehouseError,
};
use eventkit::store::fake::MemoryObjects;
use eventkit::store::{ErrorRow, Objects as _, Row};

use super::{NOW, World, batch, error, event, manifest, pair, put_errors, put_events};

/// Takes a manifest through all steps.
async fn complete(
    warehouse: &mut dyn Warehouse,
    manifest: &Manifest,
    objects: &MemoryObjects,
) -> Merged {
    warehouse.load(manifest, objects).await.expect("a load");
    let merged = warehouse.merge(manifest).await.expect("a merge");
    let outcome = Outcome::Loaded(merged);
    warehouse
        .record(manifest, &outcome)
        .await
        .expect("a record");
    merged
}

/// Loads these rows as one manifest.
async fn load_all(world: &World, number: u64, events: &[Row], errors: &[ErrorRow]) -> Merged {
    let objects = MemoryObjects::default();
    let mut names = Vec::new();
    if !events.is_empty() {
        names.push(put_events(&objects, number, events).await);
    }
    if !errors.is_empty() {
        names.push(put_errors(&objects, number, errors).await);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut warehouse = world.prepared().await;
    complete(&mut *warehouse, &manifest(number, &names), &objects).await
}

#[tokio::test]
async fn a_new_warehouse_has_recorded_nothing_and_is_prepared_any_number_of_times() {
    for world in World::all() {
        let mut warehouse = world.prepared().await;
        warehouse.prepare().await.unwrap();
        world.prepared().await;
        assert_eq!(warehouse.last_recorded().await.unwrap(), None);
        let asked = ["events/dt=2026-01-31/a.parquet".to_owned()];
        assert!(warehouse.recorded(&asked).await.unwrap().is_empty());
        assert!(world.events().is_empty() && world.errors().is_empty());
    }
}

#[tokio::test]
async fn every_step_may_be_repeated_by_the_same_and_by_another_instance() {
    for world in World::all() {
        let objects = MemoryObjects::default();
        let rows = [event("a", 1), event("a", 2), event("b", 3)];
        let name = put_events(&objects, 1, &rows).await;
        let manifest = manifest(1, &[&name]);
        let staged = Staged {
            events: 3,
            errors: 0,
        };
        let merged = Merged {
            events_inserted: 2,
            events_duplicate: 1,
            ..Merged::default()
        };
        let mut first = world.prepared().await;
        for _ in 0..2 {
            assert_eq!(first.load(&manifest, &objects).await.unwrap(), staged);
            assert!(world.events().is_empty(), "a load shows nothing");
        }
        for _ in 0..2 {
            assert_eq!(first.merge(&manifest).await.unwrap(), merged);
            assert_eq!(first.last_recorded().await.unwrap(), None);
        }
        let mut second = world.prepared().await;
        assert_eq!(second.load(&manifest, &objects).await.unwrap(), staged);
        assert_eq!(second.merge(&manifest).await.unwrap(), merged);
        let outcome = Outcome::Loaded(merged);
        second.record(&manifest, &outcome).await.unwrap();
        let late = Outcome::Discarded {
            reason: "late".into(),
        };
        first.record(&manifest, &late).await.unwrap();
        first.load(&manifest, &objects).await.unwrap();
        assert_eq!(first.merge(&manifest).await.unwrap(), merged);
        assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 2, 1)]);
        assert_eq!(world.events(), [pair("a", 1), pair("b", 3)]);
        assert_eq!(first.last_recorded().await.unwrap(), Some(1));
        let recorded = second.recorded(&[name.clone(), "x".into()]).await.unwrap();
        assert_eq!(recorded.into_iter().collect::<Vec<_>>(), [name]);
    }
}

/// Manifests are numbered by the loader of a store, and two stores may be loaded into the same tables.
#[tokio::test]
async fn a_number_that_was_taken_for_other_objects_is_no_answer_about_ours() {
    for world in World::all() {
        let (theirs, ours) = (MemoryObjects::default(), MemoryObjects::default());
        let their = put_events(&theirs, 1, &[event("a", 1)]).await;
        let our = put_events(&ours, 2, &[event("b", 2)]).await;
        let (their, our) = (manifest(1, &[&their]), |number| manifest(number, &[&our]));
        let mut first = world.prepared().await;
        first.load(&their, &theirs).await.unwrap();
        let mut second = world.prepared().await;
        second.load(&our(1), &ours).await.unwrap();
        let merged = first.merge(&their).await.unwrap();

        let is_refused =
            |error: &WarehouseError| matches!(error, WarehouseError::Shared { number: 1, .. });
        let late = second.merge(&our(1)).await.unwrap_err();
        assert!(
            matches!(&late, MergeError::Warehouse(error) if is_refused(error)),
            "{late:?}"
        );
        let why = "why".to_owned();
        for outcome in [Outcome::Loaded(merged), Outcome::Superseded { reason: why }] {
            assert!(is_refused(
                &second.record(&our(1), &outcome).await.unwrap_err()
            ));
        }
        first
            .record(&their, &Outcome::Loaded(merged))
            .await
            .unwrap();
        assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 1, 0)]);

        second.load(&our(2), &ours).await.unwrap();
        let merged = second.merge(&our(2)).await.unwrap();
        second
            .record(&our(2), &Outcome::Loaded(merged))
            .await
            .unwrap();
        assert_eq!(world.events(), [pair("a", 1), pair("b", 2)]);
    }
}

#[tokio::test]
async fn a_merge_without_a_load_of_the_same_manifest_is_refused() {
    for world in World::all() {
        let objects = MemoryObjects::default();
        let name = put_events(&objects, 1, &[event("a", 1)]).await;
        let (one, two) = (manifest(1, &[&name]), manifest(2, &[&name]));
        let mut warehouse = world.prepared().await;
        let merged = warehouse.merge(&one).await;
        assert!(
            matches!(merged, Err(MergeError::NotStaged(1))),
            "{merged:?}"
        );
        warehouse.load(&one, &objects).await.unwrap();
        let merged = warehouse.merge(&two).await;
        assert!(
            matches!(merged, Err(MergeError::NotStaged(2))),
            "{merged:?}"
        );
        assert!(world.events().is_empty());
    }
}

#[tokio::test]
async fn of_staged_events_with_one_key_the_first_by_time_log_and_offset_wins() {
    for world in World::all() {
        let at = |offset, received_at| Row {
            received_at,
            ..event("a", offset)
        };
        let other_log = Row {
            log_id: eventkit::event::LogId(6),
            ..event("b", 9)
        };
        let other_source = Row {
            source: "app".into(),
            ..event("a", 8)
        };
        let rows = [
            at(5, NOW + 1),
            at(4, NOW),
            at(3, NOW + 1),
            at(6, NOW),
            event("b", 2),
            other_log,
            other_source,
        ];
        let merged = load_all(&world, 1, &rows, &[]).await;
        assert_eq!((merged.events_inserted, merged.events_duplicate), (3, 4));
        assert_eq!(world.events(), [pair("a", 4), pair("a", 8), pair("b", 9)]);

        let earlier = [at(1, NOW - 1), event("c", 7)];
        let merged = load_all(&world, 2, &earlier, &[]).await;
        assert_eq!((merged.events_inserted, merged.events_duplicate), (1, 1));
        let kept = [pair("a", 4), pair("a", 8), pair("b", 9), pair("c", 7)];
        assert_eq!(world.events(), kept, "a row that is there wins");
    }
}

#[tokio::test]
async fn error_rows_are_inserted_once_per_log_offset_and_original() {
    for world in World::all() {
        let other = ErrorRow {
            original_hash: "0000000000000001".into(),
            ..error("a", 1)
        };
        let rows = [error("a", 1), error("a", 1), other, error("a", 2)];
        let merged = load_all(&world, 1, &[], &rows).await;
        assert_eq!((merged.errors_inserted, merged.errors_duplicate), (3, 1));
        let merged = load_all(&world, 2, &[], &rows).await;
        assert_eq!((merged.errors_inserted, merged.errors_duplicate), (0, 4));
        assert_eq!(world.errors(), [pair("a", 1), pair("a", 1), pair("a", 2)]);
    }
}

#[tokio::test]
async fn judged_twice_the_row_wins_whichever_came_first() {
    // By the event's key alone, by its place in the log alone, by both; the first two are two conditions of the merge, and all that
    // BigQuery is asked: its emulator takes seconds for each load.
    for (at, (good, bad)) in [
        (event("a", 1), error("a", 2)),
        (event("a", 1), error("", 1)),
        (event("a", 1), error("a", 1)),
    ]
    .into_iter()
    .enumerate()
    {
        let worlds = || match at {
            0 | 1 => World::all(),
            _ => World::local().into(),
        };
        for world in worlds() {
            let merged = load_all(&world, 1, &[], &[bad.clone(), error("z", 50)]).await;
            assert_eq!(merged.errors_inserted, 2);
            let merged = load_all(&world, 2, std::slice::from_ref(&good), &[]).await;
            assert_eq!((merged.events_inserted, merged.errors_removed), (1, 1));
            assert_eq!(world.events(), [pair("a", 1)]);
            assert_eq!(world.errors(), [pair("z", 50)]);

            let merged = load_all(&world, 3, &[], std::slice::from_ref(&bad)).await;
            assert_eq!((merged.errors_inserted, merged.errors_superseded), (0, 1));
            assert_eq!(world.errors(), [pair("z", 50)]);
        }
        for world in worlds() {
            let bad = [bad.clone(), error("z", 50)];
            let merged = load_all(&world, 1, std::slice::from_ref(&good), &bad).await;
            let expected = Merged {
                events_inserted: 1,
                errors_inserted: 1,
                errors_superseded: 1,
                ..Merged::default()
            };
            assert_eq!(merged, expected, "both in one manifest");
        }
    }
}

#[tokio::test]
async fn an_error_row_goes_although_its_event_was_a_row_before() {
    for world in World::all() {
        load_all(&world, 1, &[event("a", 1)], &[]).await;
        // Another copy of the event was refused under an id that could not be read.
        load_all(&world, 2, &[], &[error("", 7)]).await;
        let merged = load_all(&world, 3, &[event("a", 7)], &[]).await;
        assert_eq!((merged.events_duplicate, merged.errors_removed), (1, 1));
        assert!(world.errors().is_empty());
    }
}

#[tokio::test]
async fn only_objects_of_loaded_manifests_are_recorded() {
    for world in World::all() {
        let mut warehouse = world.prepared().await;
        let reason = || "why".to_owned();
        for (number, outcome) in [
            (1, Outcome::Quarantined { reason: reason() }),
            (2, Outcome::Superseded { reason: reason() }),
            (3, Outcome::Discarded { reason: reason() }),
        ] {
            let name = eventkit::store::objects::object_name(
                eventkit::store::Table::Events,
                super::day(),
                &batch(number),
            );
            let manifest = manifest(number, &[&name]);
            warehouse.record(&manifest, &outcome).await.unwrap();
            assert_eq!(warehouse.last_recorded().await.unwrap(), Some(number));
            assert!(warehouse.recorded(&[name]).await.unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn an_object_that_is_missing_or_damaged_is_named_and_nothing_is_staged() {
    for world in World::all() {
        let objects = MemoryObjects::default();
        let good = put_events(&objects, 1, &[event("a", 1)]).await;
        let whole = objects.get(&good).await.unwrap().unwrap();
        let cut = whole.slice(..whole.len() / 2);
        objects.put_if_absent("events/cut", cut).await.unwrap();
        objects
            .put_if_absent("events/empty", "".into())
            .await
            .unwrap();
        // A file of the other table lacks columns.
        objects.put_if_absent("errors/other", whole).await.unwrap();
        let mut warehouse = world.prepared().await;
        for bad in [
            "events/cut",
            "events/empty",
            "events/missing",
            "errors/other",
        ] {
            let manifest = manifest(1, &[&good, bad]);
            match warehouse.load(&manifest, &objects).await {
                Err(LoadError::Object { object, .. }) => {
                    assert_eq!(object.as_deref(), Some(bad));
                }
                other => panic!("{bad}: {other:?}"),
            }
            let merged = warehouse.merge(&manifest).await;
            assert!(
                matches!(merged, Err(MergeError::NotStaged(1))),
                "{merged:?}"
            );
        }
        let merged = complete(&mut *warehouse, &manifest(1, &[&good]), &objects).await;
        assert_eq!(
            merged.events_inserted, 1,
            "what the failed loads staged is gone"
        );
    }
}

#[tokio::test]
async fn any_flipped_byte_of_an_object_is_an_error_or_a_load_and_never_a_panic() {
    for world in World::all() {
        let objects = MemoryObjects::default();
        let good = put_events(&objects, 1, &[event("a", 1), event("b", 2)]).await;
        let whole = objects.get(&good).await.unwrap().unwrap();
        let mut warehouse = world.prepared().await;
        let step = if matches!(world, World::Sqlite(_)) {
            37
        } else {
            whole.len()
        };
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0xff;
            let name = format!("events/{at}");
            objects.put_if_absent(&name, bytes.into()).await.unwrap();
            match warehouse.load(&manifest(1, &[&name]), &objects).await {
                Ok(_) | Err(LoadError::Object { .. }) => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}
