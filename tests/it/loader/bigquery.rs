//! BigQuery as a warehouse, against local-bigquery, which reads the objects from fake-gcs-server; and with calls that go wrong.
//!
//! The emulator is not BigQuery. What it does otherwise, and where nothing here proves the real one:
//!
//! - Partitions and clusters are metadata: that a merge reads the days of its window alone is seen in its text only.
//! - `MERGE` inside a transaction fails ("Current transaction is aborted"), so the scripts insert what a join leaves over, which
//!   both do.
//! - A load job that carries a schema fails when a file lacks a nullable column, and decodes BYTES columns of Parquet files as base64. A load
//!   into a table that is there, without a schema, works on both. There `WRITE_EMPTY` and `WRITE_TRUNCATE` replace the table's columns by the
//!   file's, on the emulator and (truncation) on BigQuery; so staging tables are made first and appended to once.
//! - Of several files in one load it takes the first one's columns for all, so that files of several versions load together is BigQuery's documented behaviour and is not tried here; one older file alone is.
//! - Files below `dt=…/` get a column `dt` from their path, which BigQuery adds only when it is told to; that new columns may be added to a
//!   staging table takes care of both.
//! - A table is seen without its columns while it is being made, which one loader may meet when another makes it.
//! - A missing object is `invalid`, not `notFound`; its texts name paths of its own disk, in which the object's name is found all the same.
//! - There are no quotas, no permissions and no locations: refusals and rate limits are made by the proxy.
//! - Jobs are done within the second, mostly before the answer to their insert: that one runs, fails or is lost is made by the proxy.
//! - Two transactions that meet are serialised or fail with another text than BigQuery's; both are failed jobs.

use std::sync::Arc;

use eventkit::lifecycle::Tasks;
use eventkit::loader::{Loader, MergeError, Outcome, RoundError, Warehouse, WarehouseError};
use eventkit::store::Row;
use eventkit::store::fake::MemoryObjects;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::crash::scene;
use super::{FEW, NOW, World, error, event, loader, manifest, names, pair, put_errors, put_events};
use crate::support::gateway::setting;
use proxy::{Fault, Job, Proxy};

pub(super) mod proxy;
pub(super) mod world;

pub(super) use world::Place;

/// A loader whose warehouse is reached through a proxy, and what it reads.
async fn behind_a_proxy(objects: &MemoryObjects) -> Option<(Place, Proxy, Loader)> {
    let place = Place::new()?;
    let proxy = Proxy::before(&place.bigquery, &Tasks::default()).await;
    let warehouse = Box::new(place.at(&proxy.url).warehouse());
    let loader = loader(Arc::new(objects.clone()), warehouse);
    Some((place, proxy, loader))
}

/// Both tables, and a repeat of each kind.
async fn some_of_each() -> MemoryObjects {
    let objects = MemoryObjects::default();
    put_events(&objects, 1, &[event("a", 1), event("b", 2), event("a", 3)]).await;
    put_errors(&objects, 1, &[error("x", 9), error("b", 2)]).await;
    objects
}

fn assert_some_of_each(place: &Place, objects: &MemoryObjects, note: &str) {
    let world = World::BigQuery(place.clone());
    assert_eq!(world.events(), [pair("a", 1), pair("b", 2)], "{note}");
    assert_eq!(world.errors(), [pair("x", 9)], "{note}");
    assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 2, 1)], "{note}");
    assert_eq!(names(objects, "inbox/"), [""; 0], "{note}");
}

fn is_staging(table: &str) -> bool {
    table.contains("_staging_")
}

#[tokio::test]
async fn a_fault_at_any_call_costs_time_and_nothing_else() {
    let objects = some_of_each().await;
    let Some((place, proxy, mut calm)) = behind_a_proxy(&objects).await else {
        return;
    };
    calm.drain().await.unwrap();
    assert_some_of_each(&place, &objects, "calm");
    let calls = proxy.calls();
    assert!(calls > 30, "{calls}");
    let is_long = setting("EVENTKIT_CHAOS").as_deref() == Some("long");
    let step = if is_long { 1 } else { 13 };
    let faults = [Fault::Unavailable, Fault::Lost, Fault::Twice];
    for (phase, fault) in faults.into_iter().enumerate() {
        for at in (phase * 4 % step..calls).step_by(step) {
            let objects = some_of_each().await;
            let (place, proxy, mut first) = behind_a_proxy(&objects).await.unwrap();
            proxy.fault_at(at, fault);
            let note = format!("{fault:?} at call {at} of {calls}");
            let drained = first.drain().await;
            let passes = |error: &RoundError| !error.needs_a_person();
            assert!(
                drained.as_ref().is_ok_and(|()| true) || passes(&drained.unwrap_err()),
                "{note}"
            );
            drop(first);
            let warehouse = Box::new(place.warehouse());
            let mut second = loader(Arc::new(objects.clone()), warehouse);
            second.drain().await.unwrap();
            assert_some_of_each(&place, &objects, &note);
        }
    }
}

#[tokio::test]
async fn a_job_that_runs_for_a_while_is_waited_for_and_one_that_takes_too_long_is_found_again() {
    let objects = some_of_each().await;
    let Some((place, proxy, mut loader)) = behind_a_proxy(&objects).await else {
        return;
    };
    proxy.job("-events-", Job::RunsFor(3));
    loader.drain().await.unwrap();
    assert_some_of_each(&place, &objects, "it ran for three looks");

    let objects = some_of_each().await;
    let (place, proxy, _) = behind_a_proxy(&objects).await.unwrap();
    let mut options = place.at(&proxy.url).options();
    options.job_patience = std::time::Duration::from_secs(3);
    let warehouse = place.at(&proxy.url).warehouse_with(options);
    let mut hasty = super::loader(Arc::new(objects.clone()), Box::new(warehouse));
    proxy.job("-merge-", Job::RunsFor(1_000));
    let failed = hasty.drain().await.unwrap_err();
    assert!(!failed.needs_a_person(), "{failed:?}");
    proxy.job("-merge-", Job::RunsFor(0));
    let patient = Box::new(place.at(&proxy.url).warehouse());
    let mut patient = super::loader(Arc::new(objects.clone()), patient);
    patient.drain().await.unwrap();
    assert_some_of_each(&place, &objects, "it was found again");
    let sent = proxy.sent();
    let merges = sent.iter().filter(|id| id.contains("-merge-"));
    assert_eq!(merges.count(), 1, "{sent:?}");
}

#[tokio::test]
async fn a_load_that_broke_is_repeated_under_another_manifest_and_no_object_is_blamed() {
    let objects = some_of_each().await;
    let Some((place, proxy, mut loader)) = behind_a_proxy(&objects).await else {
        return;
    };
    proxy.job("-events-", Job::Breaks);
    let failed = loader.drain().await.unwrap_err();
    assert!(
        matches!(failed, RoundError::Load { number: 1, .. }),
        "{failed:?}"
    );
    loader.drain().await.unwrap();
    let world = World::BigQuery(place.clone());
    assert_eq!(world.events(), [pair("a", 1), pair("b", 2)]);
    let outcomes = [
        (1, "superseded".to_owned(), 0, 0),
        (2, "loaded".to_owned(), 2, 1),
    ];
    assert_eq!(world.outcomes(), outcomes);
    assert_eq!(names(&objects, "quarantine/"), [""; 0]);
    let reason =
        place.query("SELECT reason, reason FROM `$events_loaded_manifests` WHERE number = 1");
    assert!(reason[0][0].contains("backendError"), "{reason:?}");
    let left: Vec<_> = place
        .tables()
        .into_iter()
        .filter(|table| is_staging(table))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn a_merge_or_a_record_that_failed_runs_again_under_another_id_with_the_same_outcome() {
    for step in ["-merge-", "-record-"] {
        let objects = some_of_each().await;
        let Some((place, proxy, mut loader)) = behind_a_proxy(&objects).await else {
            return;
        };
        for _ in 0..2 {
            proxy.job(step, Job::Raises);
            let failed = loader.drain().await.unwrap_err();
            assert!(!failed.needs_a_person(), "{failed:?}");
        }
        loader.drain().await.unwrap();
        assert_some_of_each(&place, &objects, step);
        let ends = |ids: Vec<String>| -> Vec<String> {
            let of_step = ids.into_iter().filter(|id| id.contains(step));
            of_step
                .map(|id| id.rsplit('-').next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(ends(proxy.sent()), ["1", "2", "3"]);
        // What was used up is not looked at again: an outage of hours uses up hundreds.
        assert_eq!(ends(proxy.looked()), ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn a_refusal_calls_for_a_person_at_every_call() {
    let objects = some_of_each().await;
    let Some((place, proxy, _)) = behind_a_proxy(&objects).await else {
        return;
    };
    for at in [0, 1, 5] {
        let warehouse = Box::new(place.at(&proxy.url).warehouse());
        let mut refused = loader(Arc::new(objects.clone()), warehouse);
        proxy.fault_at(proxy.calls() + at, Fault::Denied);
        let failed = refused.drain().await.unwrap_err();
        assert!(failed.needs_a_person(), "{at}: {failed:?}");
        assert!(
            eventkit::telemetry::with_causes(&failed).contains("accessDenied"),
            "{failed:?}"
        );
    }
}

/// The trap of ids that derive from what is loaded: BigQuery remembers jobs whose tables were deleted long ago.
#[tokio::test]
async fn tables_that_were_deleted_are_filled_again_although_their_jobs_are_remembered() {
    let objects = some_of_each().await;
    let Some(place) = Place::new() else {
        return;
    };
    let world = World::BigQuery(place.clone());
    loader(Arc::new(objects.clone()), world.open())
        .drain()
        .await
        .unwrap();
    assert_some_of_each(&place, &objects, "before");
    // With all of it, and the rows alone left over: then everything is merged again into what is there.
    let all: &[&str] = &[""];
    for deleted in [all, &["events_loaded_manifests", "events_loaded_objects"]] {
        for table in deleted {
            place.delete(table);
        }
        let mut after = loader(Arc::new(objects.clone()), world.open());
        after.drain().await.unwrap();
        assert_eq!(world.events(), [pair("a", 1), pair("b", 2)], "{deleted:?}");
        assert_eq!(world.errors(), [pair("x", 9)], "{deleted:?}");
        assert_eq!(world.outcomes().len(), 1, "{deleted:?}");
        assert_eq!(names(&objects, "inbox/"), [""; 0], "{deleted:?}");
    }
}

#[tokio::test]
async fn tables_that_vanish_while_in_use_are_an_error_and_are_not_made_again() {
    let Some(place) = Place::new() else {
        return;
    };
    let objects = some_of_each().await;
    let names = names(&objects, "events/");
    let one = manifest(1, &[&names[0]]);
    let mut warehouse = place.warehouse();
    warehouse.prepare().await.unwrap();
    warehouse.load(&one, &objects).await.unwrap();
    place.delete("events");
    let failed = warehouse.merge(&one).await.unwrap_err();
    assert!(
        matches!(failed, MergeError::Warehouse(WarehouseError::Gone { .. })),
        "{failed:?}"
    );
    let failed = warehouse.prepare().await.unwrap_err();
    assert!(matches!(failed, WarehouseError::Gone { .. }), "{failed:?}");
    assert!(!place.tables().contains(&"events".to_owned()));

    let mut restarted = place.warehouse();
    restarted.prepare().await.unwrap();
    restarted.load(&one, &objects).await.unwrap();
    assert_eq!(restarted.merge(&one).await.unwrap().events_inserted, 2);
}

#[tokio::test]
async fn staging_that_vanished_is_loaded_again() {
    let Some(place) = Place::new() else {
        return;
    };
    let objects = some_of_each().await;
    let names = names(&objects, "events/");
    let one = manifest(1, &[&names[0]]);
    let mut warehouse = place.warehouse();
    warehouse.prepare().await.unwrap();
    let staged = warehouse.load(&one, &objects).await.unwrap();
    for table in place.tables().iter().filter(|table| is_staging(table)) {
        place.delete(table);
    }
    let failed = warehouse.merge(&one).await.unwrap_err();
    assert!(matches!(failed, MergeError::NotStaged(1)), "{failed:?}");
    assert_eq!(warehouse.load(&one, &objects).await.unwrap(), staged);
    assert_eq!(warehouse.merge(&one).await.unwrap().events_inserted, 2);
}

#[tokio::test]
async fn staging_goes_with_the_record_and_what_a_crash_left_goes_at_the_next_start() {
    let Some(place) = Place::new() else {
        return;
    };
    let objects = some_of_each().await;
    let names = names(&objects, "events/");
    let one = manifest(1, &[&names[0]]);
    let (mut first, mut second) = (place.warehouse(), place.warehouse());
    first.prepare().await.unwrap();
    second.prepare().await.unwrap();
    first.load(&one, &objects).await.unwrap();
    second.load(&one, &objects).await.unwrap();
    let staging = || {
        place
            .tables()
            .iter()
            .filter(|table| is_staging(table))
            .count()
    };
    assert_eq!(staging(), 1, "both wait for one job");
    let merged = first.merge(&one).await.unwrap();
    assert_eq!(second.merge(&one).await.unwrap(), merged);
    first.record(&one, &Outcome::Loaded(merged)).await.unwrap();
    assert_eq!(staging(), 0);
    let resource = json!({ "schema": { "fields": [{ "name": "a", "type": "STRING" }] } });
    for left in [
        "events_staging_1_00000000000000ff_1_events",
        "events_staging_2_00000000000000ff_1_events",
        "events_staging_mine",
    ] {
        place.make_table(left, resource.clone());
    }
    place.warehouse().prepare().await.unwrap();
    let mut left: Vec<_> = place
        .tables()
        .into_iter()
        .filter(|table| is_staging(table))
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            "events_staging_2_00000000000000ff_1_events",
            "events_staging_mine"
        ]
    );
}

#[tokio::test]
async fn a_table_of_somebody_elses_is_refused_and_left_as_it_is() {
    let Some(place) = Place::new() else {
        return;
    };
    let resource = json!({ "schema": { "fields": [{ "name": "payload", "type": "STRING" }] } });
    place.make_table("events", resource);
    let failed = place.warehouse().prepare().await.unwrap_err();
    assert!(
        matches!(failed, WarehouseError::Foreign { .. }),
        "{failed:?}"
    );
    assert_eq!(place.tables(), ["events"]);
}

#[tokio::test]
async fn copies_of_an_event_are_one_row_within_the_window_and_two_beyond_it() {
    let Some(place) = Place::new() else {
        return;
    };
    let day = eventkit::event::DAY_MICROS;
    let objects = MemoryObjects::default();
    let mut warehouse = place.warehouse();
    warehouse.prepare().await.unwrap();
    for (number, days, inserted) in [(1, 0, 1), (2, 3, 0), (3, -3, 0), (4, 4, 1)] {
        let row = Row {
            received_at: NOW + days * day,
            ..event("a", number)
        };
        let name = put_events(&objects, number, &[row]).await;
        let manifest = manifest(number, &[&name]);
        warehouse.load(&manifest, &objects).await.unwrap();
        let merged = warehouse.merge(&manifest).await.unwrap();
        assert_eq!(merged.events_inserted, inserted, "{days} days away");
        warehouse
            .record(&manifest, &Outcome::Loaded(merged))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn tables_of_an_older_version_get_the_columns_that_they_lack_and_older_files_load() {
    let Some(place) = Place::new() else {
        return;
    };
    place.warehouse().prepare().await.unwrap();
    for table in ["events", "events_errors"] {
        place.query(&format!("ALTER TABLE `${table}` DROP COLUMN trace_id"));
    }
    let objects = MemoryObjects::default();
    let row = Row {
        trace_id: Some("t".into()),
        ..event("new", 1)
    };
    let new = put_events(&objects, 1, &[row]).await;
    let old = "events/dt=2026-01-31/old.parquet";
    super::put_bytes(&objects, old, without(&objects, &new, "trace_id").await).await;
    let mut warehouse = place.warehouse();
    warehouse.prepare().await.unwrap();
    // Not in one load: see this file's head.
    for (number, name) in [(1, new.as_str()), (2, old)] {
        let manifest = manifest(number, &[name]);
        warehouse.load(&manifest, &objects).await.unwrap();
        let merged = warehouse.merge(&manifest).await.unwrap();
        // The old file holds the same event.
        assert_eq!(merged.events_inserted, u64::from(number == 1));
        warehouse
            .record(&manifest, &Outcome::Loaded(merged))
            .await
            .unwrap();
    }
    assert_eq!(
        place.query("SELECT trace_id, message_id FROM `$events`"),
        [["t", "new"]]
    );
}

/// An object without one of its columns, as an older version wrote it.
async fn without(objects: &MemoryObjects, name: &str, column: &str) -> bytes::Bytes {
    use eventkit::store::Objects as _;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let file = objects.get(name).await.unwrap().unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let batch = reader.next().unwrap().unwrap();
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|&at| batch.schema().field(at).name() != column)
        .collect();
    assert_eq!(kept.len() + 1, batch.num_columns());
    let batch = batch.project(&kept).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_loaders_at_once_make_one_row_of_each_event() {
    let Some(place) = Place::new() else {
        return;
    };
    let world = World::BigQuery(place.clone());
    world.prepared().await;
    let objects = MemoryObjects::default();
    for number in 0..9 {
        let rows = [
            event(&format!("m{number}"), number * 2),
            event("same", number * 2 + 1),
        ];
        put_events(&objects, number, &rows).await;
    }
    let tasks = Tasks::default();
    let loaders: Vec<_> = (0..2)
        .map(|_| {
            let mut loader = loader(Arc::new(objects.clone()), world.open()).with_limits(FEW);
            tasks.spawn("loader", async move {
                let stop = CancellationToken::new();
                // Two transactions may meet: the one that fails is repeated.
                for _ in 0..200 {
                    match loader.round(&stop).await {
                        Ok(eventkit::loader::Round::Idle) => return,
                        Ok(_) => {}
                        Err(error) => {
                            let text = format!("{error:?}");
                            // See this file's head: the other one makes a staging table.
                            let is_half_made =
                                text.contains("Foreign") && text.contains("_staging_");
                            assert!(is_half_made || !error.needs_a_person(), "{text}");
                            // As the program does: the other one has to come to its end, on a busy machine.
                            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        }
                    }
                }
                panic!("no end");
            })
        })
        .collect();
    for loader in loaders {
        assert_eq!(loader.await.unwrap(), Some(()), "no loader panicked");
    }
    assert_eq!(world.events().len(), 10);
    let outcomes = world.outcomes();
    let inserted: u64 = outcomes.iter().map(|(_, _, inserted, _)| inserted).sum();
    let duplicate: u64 = outcomes.iter().map(|(.., duplicate)| duplicate).sum();
    assert_eq!((inserted, duplicate), (10, 8), "{outcomes:?}");
    let numbers = outcomes.iter().map(|(number, ..)| *number);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3], "each once");
    let files = place.query("SELECT COUNT(*), COUNT(DISTINCT object) FROM `$_loaded_files`");
    assert_eq!(files, [["9", "9"]]);
}

/// The same question in both, and the answers as text.
#[tokio::test]
async fn an_analysts_queries_count_the_same_in_sqlite_and_in_bigquery() {
    let Some(place) = Place::new() else {
        return;
    };
    let (sqlite, bigquery) = (World::sqlite(), World::BigQuery(place.clone()));
    for world in [&sqlite, &bigquery] {
        let objects = scene().await;
        let more = |id: &str, offset, kind: &str, user: Option<&str>, days: i64| Row {
            kind: kind.into(),
            user_id: user.map(str::to_owned),
            properties: Some(format!("{{\"total\": {offset}, \"näme\": \"ä\"}}")),
            received_at: NOW - days * eventkit::event::DAY_MICROS,
            ..event(id, offset)
        };
        let rows = [
            more("h", 100, "identify", Some("ada"), 0),
            more("i", 101, "page", None, 1),
            more("j", 102, "track", Some("ada"), 2),
            more("j", 103, "track", Some("ada"), 2),
            more("a", 104, "track", Some("bob"), 3),
        ];
        put_events(&objects, 20, &rows).await;
        let mut loader = loader(Arc::new(objects), world.open()).with_limits(FEW);
        loader.drain().await.unwrap();
    }
    for (in_sqlite, in_bigquery) in [
        (
            "SELECT count(*), count(DISTINCT user_id) FROM events",
            "SELECT COUNT(*), COUNT(DISTINCT user_id) FROM `$events`",
        ),
        (
            "SELECT type, count(*) FROM events GROUP BY type ORDER BY type",
            "SELECT type, COUNT(*) FROM `$events` GROUP BY type ORDER BY type",
        ),
        (
            "SELECT substr(received_at, 1, 10), count(*) FROM events GROUP BY 1 ORDER BY 1",
            "SELECT CAST(DATE(received_at) AS STRING), COUNT(*) FROM `$events` GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT properties, count(*) FROM events WHERE properties ->> 'total' >= 100 GROUP BY 1 ORDER BY 1",
            "SELECT properties, COUNT(*) FROM `$events` WHERE CAST(JSON_VALUE(properties, '$.total') AS INT64) >= 100 GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT hex(original), code || stage, count(*) FROM errors GROUP BY 1, 2",
            "SELECT UPPER(TO_HEX(original)), CONCAT(code, stage), COUNT(*) FROM `$events_errors` GROUP BY 1, 2",
        ),
        (
            "SELECT \"table\", count(*), sum(\"rows\") FROM _loaded_files GROUP BY 1 ORDER BY 1",
            "SELECT `table`, COUNT(*), SUM(`rows`) FROM `$_loaded_files` GROUP BY 1 ORDER BY 1",
        ),
    ] {
        let reader = sqlite.reader();
        let mut query = reader.prepare(in_sqlite).unwrap();
        let columns = query.column_count();
        let rows = query.query_map([], |row| {
            (0..columns)
                .map(|at| {
                    row.get_ref(at).map(|value| match value.as_str() {
                        Ok(text) => text.to_owned(),
                        Err(_) => value.as_i64().map(|n| n.to_string()).unwrap_or_default(),
                    })
                })
                .collect::<Result<Vec<String>, _>>()
        });
        let expected: Vec<Vec<String>> = rows.unwrap().map(Result::unwrap).collect();
        assert!(!expected.is_empty(), "{in_sqlite}");
        assert_eq!(place.query(in_bigquery), expected, "{in_sqlite}");
    }
}
