//! What every store promises, run against each implementation and each fake.

use std::any::Any;
use std::sync::Arc;
#[cfg(feature = "cloud")]
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "cloud")]
use eventkit::config::Endpoint;
use eventkit::event::{BatchId, Lane, LogId};
use eventkit::store::fake::{Fault, Faulty, MemoryObjects};
use eventkit::store::objects::{marker_name, object_name};
use eventkit::store::{
    ErrorStore, EventStore, LocalObjects, Marker, ObjectEventStore, Objects, Table, Traces,
    Written, parquet,
};
#[cfg(feature = "cloud")]
use eventkit::store::{GcsObjects, GcsOptions};
#[cfg(feature = "cloud")]
use eventkit::telemetry::Metrics;
use tempfile::TempDir;

use crate::stores::rows::{DAY, error_row, row};
#[cfg(feature = "cloud")]
use crate::support::emulators;

#[cfg(feature = "cloud")]
mod gcs;
mod hive;
#[cfg(feature = "cloud")]
mod service;
mod syscalls;

/// An implementation's name, its objects, and what keeps them alive.
type Implementation = (&'static str, Arc<dyn Objects>, Box<dyn Any>);

/// Every implementation, empty.
async fn all() -> Vec<Implementation> {
    let dir = TempDir::new().expect("a temporary directory");
    let local = LocalObjects::open(dir.path()).expect("a new store");
    let calm = Faulty::new(MemoryObjects::default(), []);
    let mut all: Vec<Implementation> = vec![
        ("local", Arc::new(local), Box::new(dir)),
        ("memory", Arc::new(MemoryObjects::default()), Box::new(())),
        ("faulty without faults", Arc::new(calm), Box::new(())),
    ];
    #[cfg(feature = "cloud")]
    all.extend(cloud().await);
    all
}

/// Cloud Storage: the real client with the service of these tests, and with the emulator.
#[cfg(feature = "cloud")]
async fn cloud() -> Vec<Implementation> {
    let service = service::FakeGcs::start().await;
    let objects = service.objects(TIMEOUT).await;
    let mut cloud: Vec<Implementation> = vec![(
        "Cloud Storage in memory",
        Arc::new(objects),
        Box::new(service),
    )];
    if let Some(objects) = emulated_bucket().await {
        cloud.push(("Cloud Storage", Arc::new(objects), Box::new(())));
    }
    cloud
}

/// A bucket of its own at the emulator, if that is there.
#[cfg(feature = "cloud")]
pub(super) async fn emulated_bucket() -> Option<GcsObjects> {
    let url = emulators::storage()?;
    let bucket = format!("it-{}", uuid::Uuid::new_v4().simple());
    reqwest::Client::new()
        .post(format!("{url}/storage/v1/b?project=it"))
        .header("content-type", "application/json")
        .body(serde_json::json!({ "name": bucket }).to_string())
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .expect("the emulator makes a bucket");
    let options = GcsOptions {
        bucket,
        endpoint: Endpoint::emulator(&url),
        request_timeout: TIMEOUT,
    };
    Some(
        GcsObjects::open(options, Metrics::new())
            .await
            .expect("a client"),
    )
}

/// Of one attempt; generous, since nothing here is meant to fail.
#[cfg(feature = "cloud")]
const TIMEOUT: Duration = Duration::from_secs(30);

async fn put(objects: &dyn Objects, name: &str, text: &'static str) -> bool {
    objects
        .put_if_absent(name, Bytes::from_static(text.as_bytes()))
        .await
        .expect("the store works")
}

async fn names(objects: &dyn Objects, prefix: &str) -> Vec<String> {
    objects
        .list(prefix, None, usize::MAX)
        .await
        .expect("the store works")
}

#[tokio::test]
async fn a_name_is_written_once_and_keeps_its_first_bytes() {
    for (kind, objects, _dir) in all().await {
        assert!(
            put(&*objects, "events/dt=2024-05-01/a", "first").await,
            "{kind}"
        );
        assert!(
            !put(&*objects, "events/dt=2024-05-01/a", "second").await,
            "{kind}"
        );
        let bytes = objects.get("events/dt=2024-05-01/a").await.unwrap();
        assert_eq!(bytes.unwrap(), "first", "{kind}");
        assert!(put(&*objects, "inbox/empty", "").await, "{kind}");
        assert_eq!(
            objects.get("inbox/empty").await.unwrap().unwrap(),
            "",
            "{kind}"
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_none_and_can_be_deleted() {
    for (kind, objects, _dir) in all().await {
        assert_eq!(objects.get("inbox/none").await.unwrap(), None, "{kind}");
        assert_eq!(objects.get("no/such/folder").await.unwrap(), None, "{kind}");
        objects.delete("inbox/none").await.unwrap();
        objects.delete("no/such/folder").await.unwrap();
        assert_eq!(names(&*objects, "inbox/").await, [""; 0], "{kind}");
    }
}

#[tokio::test]
async fn a_deleted_name_is_gone_and_can_be_written_again() {
    for (kind, objects, _dir) in all().await {
        put(&*objects, "inbox/a", "first").await;
        put(&*objects, "inbox/b", "stays").await;
        objects.delete("inbox/a").await.unwrap();
        assert_eq!(objects.get("inbox/a").await.unwrap(), None, "{kind}");
        assert_eq!(names(&*objects, "inbox/").await, ["inbox/b"], "{kind}");
        assert!(put(&*objects, "inbox/a", "second").await, "{kind}");
        assert_eq!(
            objects.get("inbox/a").await.unwrap().unwrap(),
            "second",
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_list_is_one_folders_names_in_order_and_in_pages() {
    for (kind, objects, _dir) in all().await {
        // Put out of order; '-' sorts before '/', which sorts before letters.
        for name in [
            "events/dt=2024-05-02/b",
            "events/dt=2024-05-01/z",
            "events/dt=2024-05-01/a",
            "events/dt=2024-05-01-x",
            "events2/no",
            "inbox/no",
        ] {
            assert!(put(&*objects, name, "x").await, "{kind} {name}");
        }
        let expected = [
            "events/dt=2024-05-01-x",
            "events/dt=2024-05-01/a",
            "events/dt=2024-05-01/z",
            "events/dt=2024-05-02/b",
        ];
        assert_eq!(names(&*objects, "events/").await, expected, "{kind}");
        assert_eq!(
            names(&*objects, "events/dt=2024-05-01/").await,
            expected[1..3],
            "{kind}"
        );
        let mut paged = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = objects.list("events/", after.as_deref(), 3).await.unwrap();
            assert!(page.len() <= 3, "{kind}");
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, expected, "{kind}");
        let none = objects.list("events/", None, 0).await.unwrap();
        assert_eq!(none, [""; 0], "{kind}");
        // After a name that does not exist.
        let after = objects
            .list("events/", Some("events/dt=2024-05-01/m"), 9)
            .await
            .unwrap();
        assert_eq!(after, expected[2..], "{kind}");
    }
}

#[tokio::test]
async fn of_many_who_put_one_name_exactly_one_creates_it() {
    for (kind, objects, _dir) in all().await {
        let puts = (0..16).map(|writer| {
            let bytes = Bytes::from(vec![writer; 100_000]);
            objects.put_if_absent("manifests/1", bytes)
        });
        let created = futures::future::join_all(puts).await;
        let created = created
            .into_iter()
            .filter(|created| *created.as_ref().unwrap())
            .count();
        assert_eq!(created, 1, "{kind}");
        let bytes = objects.get("manifests/1").await.unwrap().unwrap();
        assert_eq!(bytes.len(), 100_000, "{kind}");
        assert!(
            bytes.iter().all(|byte| *byte == bytes[0]),
            "{kind}: a mixture"
        );
    }
}

#[tokio::test]
async fn nobody_sees_a_part_of_an_object() {
    for (kind, objects, _dir) in all().await {
        let size = 4 << 20;
        let writer = objects.put_if_absent("events/big", Bytes::from(vec![7; size]));
        let reader = async {
            loop {
                if let Some(bytes) = objects.get("events/big").await.unwrap() {
                    break bytes.len();
                }
                tokio::task::yield_now().await;
            }
        };
        let (created, seen) = tokio::join!(writer, reader);
        assert!(created.unwrap(), "{kind}");
        assert_eq!(seen, size, "{kind}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_object_and_a_repeat_succeeds() {
    let memory = MemoryObjects::default();
    let objects = Faulty::new(memory.clone(), [Some(Fault::AnswerLost)]);
    assert!(objects.put_if_absent("inbox/a", "x".into()).await.is_err());
    assert_eq!(memory.names(), ["inbox/a"]);
    assert!(!objects.put_if_absent("inbox/a", "x".into()).await.unwrap());
}

// === the event store and the error store over them ===

fn batch(input_hash: u64) -> BatchId {
    BatchId {
        log_id: LogId(0xfeed),
        lane: Lane(3),
        number: 12,
        first: 100,
        last: 220,
        input_hash,
    }
}

#[tokio::test]
async fn a_write_is_an_object_and_a_marker_that_names_it() {
    for (kind, objects, _dir) in all().await {
        let store = ObjectEventStore::new(Arc::clone(&objects));
        let rows = [row(100), row(220)];
        let written = store
            .write_events(&batch(1), DAY, Arc::new(rows.clone()))
            .await
            .unwrap();
        let errors = store
            .write_errors(&batch(1), DAY, Arc::new([error_row(101)]))
            .await
            .unwrap();
        let name = object_name(Table::Events, DAY, &batch(1));
        assert!(written.created && written.refused.is_empty(), "{kind}");
        assert_eq!(written.object, name, "{kind}");
        assert_eq!(
            name,
            "events/dt=2024-05-01/0000000000000000000000000000feed-3-12-100-220-0000000000000001.parquet"
        );
        let file = objects.get(&name).await.unwrap().unwrap();
        assert_eq!(file.len() as u64, written.bytes, "{kind}");
        assert_eq!(parquet::decode_events(file).unwrap(), rows, "{kind}");
        let file = objects.get(&errors.object).await.unwrap().unwrap();
        assert_eq!(
            parquet::decode_errors(file).unwrap(),
            [error_row(101)],
            "{kind}"
        );

        let marker = marker_name(Table::Events, DAY, &batch(1));
        assert_eq!(
            names(&*objects, "inbox/").await,
            [marker_name(Table::Errors, DAY, &batch(1)), marker.clone()],
            "{kind}"
        );
        let marker: Marker =
            serde_json::from_slice(&objects.get(&marker).await.unwrap().unwrap()).unwrap();
        let expected = Marker {
            version: 1,
            table: Table::Events,
            object: name,
            day: "2024-05-01".into(),
            rows: 2,
            bytes: written.bytes,
            traces: Traces::default(),
        };
        assert_eq!(marker, expected, "{kind}");
    }
}

#[tokio::test]
async fn a_repeat_succeeds_and_changes_nothing_whatever_the_rows() {
    for (kind, objects, _dir) in all().await {
        let store = ObjectEventStore::new(Arc::clone(&objects));
        let first = store
            .write_events(&batch(1), DAY, Arc::new([row(100)]))
            .await
            .unwrap();
        let again = store
            .write_events(&batch(1), DAY, Arc::new([row(100), row(101)]))
            .await
            .unwrap();
        assert!(first.created && !again.created, "{kind}");
        let file = objects.get(&first.object).await.unwrap().unwrap();
        assert_eq!(parquet::decode_events(file).unwrap(), [row(100)], "{kind}");
        assert_eq!(names(&*objects, "inbox/").await.len(), 1, "{kind}");
        // Another input is another name.
        assert!(
            store
                .write_events(&batch(2), DAY, Arc::new([row(100)]))
                .await
                .unwrap()
                .created
        );
        assert_eq!(names(&*objects, "events/").await.len(), 2, "{kind}");
    }
}

#[tokio::test]
async fn no_rows_leave_no_trace() {
    for (kind, objects, _dir) in all().await {
        let store = ObjectEventStore::new(Arc::clone(&objects));
        let events = store
            .write_events(&batch(1), DAY, Arc::new([]))
            .await
            .unwrap();
        let errors = store
            .write_errors(&batch(1), DAY, Arc::new([]))
            .await
            .unwrap();
        assert_eq!(
            (events, errors),
            (Written::default(), Written::default()),
            "{kind}"
        );
        for folder in ["events/", "errors/", "inbox/"] {
            assert_eq!(names(&*objects, folder).await, [""; 0], "{kind}");
        }
    }
}

#[tokio::test]
async fn success_means_object_and_marker_and_a_repeat_supplies_what_is_missing() {
    // A write is two calls; either fails, before or after it took effect.
    for fault in [Fault::Unavailable, Fault::Denied, Fault::AnswerLost] {
        for fails_at in 0..2 {
            let memory = MemoryObjects::default();
            let mut plan = vec![None; fails_at];
            plan.push(Some(fault));
            let store = ObjectEventStore::new(Arc::new(Faulty::new(memory.clone(), plan)));
            let failed = store
                .write_events(&batch(1), DAY, Arc::new([row(100)]))
                .await;
            assert!(failed.is_err(), "{fault:?} at {fails_at}");
            // A marker never stands without its object.
            let marked = memory.names().iter().any(|name| name.starts_with("inbox/"));
            let stored = memory
                .names()
                .iter()
                .any(|name| name.starts_with("events/"));
            assert!(stored || !marked, "{fault:?} at {fails_at}");
            store
                .write_events(&batch(1), DAY, Arc::new([row(100)]))
                .await
                .unwrap();
            assert_eq!(memory.names().len(), 2, "{fault:?} at {fails_at}");
        }
    }
}

#[tokio::test]
async fn an_object_whose_marker_was_lost_gets_it_back() {
    for (kind, objects, _dir) in all().await {
        let store = ObjectEventStore::new(Arc::clone(&objects));
        store
            .write_events(&batch(1), DAY, Arc::new([row(100)]))
            .await
            .unwrap();
        let marker = marker_name(Table::Events, DAY, &batch(1));
        objects.delete(&marker).await.unwrap();
        let again = store
            .write_events(&batch(1), DAY, Arc::new([row(100)]))
            .await
            .unwrap();
        assert!(!again.created, "{kind}");
        assert_eq!(names(&*objects, "inbox/").await, [marker], "{kind}");
    }
}
