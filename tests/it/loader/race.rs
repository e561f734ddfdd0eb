//! What may happen between two calls: another loader is quicker; and nothing may go too early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eventkit::loader::fake::{self, MemoryWarehouse};
use eventkit::loader::{Loader, Manifest, Outcome, Round, Warehouse as _};
use eventkit::store::fake::{Fault, MemoryObjects};
use eventkit::store::{Marker, Objects, WriteError};
use tokio_util::sync::CancellationToken;

use super::crash::scene;
use super::{FEW, context, event, event_object, loader, manifest, names, put, put_events};

/// Far more than a loader that keeps to its interval takes in the hour that it has.
const ENOUGH: u64 = 500;

/// Objects where somebody else does something right before a manifest is created.
#[derive(Debug)]
struct Raced {
    inner: MemoryObjects,
    other: Other,
    /// How many manifests were to be created so far.
    manifests: AtomicU64,
}

/// The first two once, the third each time.
#[derive(Debug)]
enum Other {
    /// Creates this manifest first.
    Creates(Manifest),
    /// Has taken this manifest to its end, and its file is so old that it is gone.
    HasRecorded(Manifest, MemoryWarehouse),
    /// Stores one more object.
    Stores,
}

impl Raced {
    async fn race(&self) {
        let before = self.manifests.fetch_add(1, Ordering::SeqCst);
        match &self.other {
            // Whoever takes no breath at all has to be noticed, too.
            Other::Stores if before < ENOUGH => {
                let number = before + 2;
                put_events(&self.inner, number, &[event(&number.to_string(), number)]).await;
            }
            Other::Creates(manifest) if before == 0 => {
                let name = Manifest::name(manifest.number);
                let created = self.inner.put_if_absent(&name, manifest.encode()).await;
                assert!(created.unwrap());
            }
            Other::HasRecorded(manifest, warehouse) if before == 0 => {
                let mut warehouse = warehouse.clone();
                warehouse.load(manifest, &self.inner).await.unwrap();
                let merged = warehouse.merge(manifest).await.unwrap();
                let outcome = Outcome::Loaded(merged);
                warehouse.record(manifest, &outcome).await.unwrap();
            }
            Other::Creates(_) | Other::HasRecorded(..) | Other::Stores => {}
        }
    }
}

#[async_trait]
impl Objects for Raced {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<bool, WriteError> {
        if name.starts_with("manifests/") {
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
        manifests: AtomicU64::new(0),
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
        manifests: AtomicU64::new(0),
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

/// Two stores, each with a loader, and one warehouse.
#[tokio::test]
async fn the_loader_of_another_store_that_takes_the_same_number_costs_a_round_and_no_event() {
    let (ours, theirs) = (MemoryObjects::default(), MemoryObjects::default());
    put_events(&ours, 1, &[event("ours", 1)]).await;
    put_events(&theirs, 2, &[event("theirs", 2)]).await;
    let warehouse = MemoryWarehouse::default();
    let of =
        |objects: &MemoryObjects| loader(Arc::new(objects.clone()), Box::new(warehouse.clone()));
    let (mut we, mut they) = (of(&ours), of(&theirs));
    let manifest = we.next().await.unwrap().expect("an object waits");
    they.drain().await.unwrap();

    we.load(&manifest).await.unwrap();
    let error = we.merge(&manifest).await.unwrap_err();
    assert_eq!(error.kind(), "warehouse_shared");
    assert!(error.needs_a_person());
    we.drain().await.unwrap();
    let loaded = warehouse.events().into_iter().map(|row| row.message_id);
    assert_eq!(loaded.collect::<Vec<_>>(), ["ours", "theirs"]);
    assert_eq!(names(&ours, "inbox/"), [""; 0]);
    let outcomes = warehouse.outcomes().into_iter().map(|(number, _)| number);
    assert_eq!(outcomes.collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_loader_for_whom_there_is_always_more_keeps_to_its_interval_and_is_well() {
    let is_well = always_more(MemoryObjects::default()).await;
    assert!(is_well);
}

#[tokio::test(start_paused = true)]
async fn beside_a_marker_of_a_later_version_it_keeps_to_its_interval_too_and_says_so() {
    let objects = MemoryObjects::default();
    let later = r#"{"version":2,"table":"sessions"}"#;
    put(&objects, "inbox/a-later-version.json", later).await;
    let is_well = always_more(objects).await;
    assert!(!is_well);
}

/// An hour of a loader that looks once a minute, and never finds nothing. Whether it is well at the end.
async fn always_more(objects: MemoryObjects) -> bool {
    let memory = MemoryWarehouse::default();
    put_events(&objects, 1, &[event("1", 1)]).await;
    let endless = Raced {
        inner: objects,
        other: Other::Stores,
        manifests: AtomicU64::new(0),
    };
    // Its first calls fail.
    let warehouse = fake::Faulty::new(memory.clone(), vec![Some(Fault::Unavailable); 3]);
    let context = context();
    let minute = Duration::from_secs(60);
    let loader = Loader::new(
        Arc::new(endless),
        Box::new(warehouse),
        context.clone(),
        minute,
    );
    let stop = CancellationToken::new();
    let tasks = eventkit::lifecycle::Tasks::default();
    let running = tasks.spawn("loader", loader.run(Arc::default(), stop.clone()));
    tokio::time::sleep(60 * minute + minute / 2).await;
    let manifests = memory.outcomes().len();
    assert!((59..=61).contains(&manifests), "{manifests} in an hour");
    let is_well = context.health.readiness().degraded.is_empty();
    let scraped = context.metrics.render();
    assert!(
        !is_well || scraped.contains("eventkit_loader_behind_seconds 0\n"),
        "{scraped}"
    );
    stop.cancel();
    let mut loader = running.await.unwrap().unwrap();
    // What stops drains all the same.
    assert_eq!(
        loader.round(&CancellationToken::new()).await.unwrap(),
        Round::Worked
    );
    is_well
}
