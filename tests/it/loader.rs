//! The loader: what every warehouse promises, and what the driver makes of it when things go wrong.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use eventkit::clock::ManualClock;
use eventkit::event::{BatchId, DAY_MICROS, Day, Lane, LogId, Micros};
use eventkit::lifecycle::Health;
use eventkit::loader::fake::MemoryWarehouse;
use eventkit::loader::{
    Context, Limits, Loader, Manifest, ManifestObject, SqliteWarehouse, Warehouse,
};
use eventkit::store::fake::MemoryObjects;
use eventkit::store::objects::{marker_name, object_name};
use eventkit::store::{
    ErrorRow, ErrorStore as _, EventStore as _, ObjectEventStore, Objects, Row, Table, Traces,
};
use eventkit::telemetry::Metrics;
use rusqlite::Connection;
use tempfile::TempDir;

#[cfg(feature = "cloud")]
mod bigquery;
mod conformance;
mod crash;
mod driver;
mod race;
mod rebuild;
mod retention;
mod sqlite;

const NOW: Micros = 1_769_903_999_000_001;

const LOG: LogId = LogId(7);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(NOW))
}

fn event(message_id: &str, offset: u64) -> Row {
    Row {
        message_id: message_id.into(),
        source: "web".into(),
        kind: "track".into(),
        stream: "events".into(),
        user_id: Some("u".into()),
        anonymous_id: None,
        event: Some("Clicked".into()),
        name: None,
        category: None,
        group_id: None,
        previous_id: None,
        properties: Some("{\"a\": 1.0}".into()),
        traits: None,
        context: Some("{}".into()),
        integrations: None,
        extra: None,
        timestamp: NOW - 5,
        original_timestamp: None,
        sent_at: Some(NOW - 1),
        received_at: NOW,
        node: "node-1".into(),
        log_id: LOG,
        lane: Lane(3),
        offset,
        trace_id: None,
    }
}

fn error(message_id: &str, offset: u64) -> ErrorRow {
    ErrorRow {
        log_id: LOG,
        offset,
        original_hash: "00000000000000ff".into(),
        original: b"{\x00\xff".to_vec(),
        original_format: Cow::Borrowed("json"),
        stage: Cow::Borrowed("validate"),
        code: Cow::Borrowed("missing_field"),
        reason: "field event is missing".into(),
        source: "web".into(),
        message_id: message_id.into(),
        stream: "events".into(),
        received_at: NOW,
        node: "node-1".into(),
        lane: Lane(3),
        trace_id: None,
    }
}

fn batch(number: u64) -> BatchId {
    BatchId {
        log_id: LOG,
        lane: Lane(3),
        number,
        first: number * 100,
        last: number * 100 + 99,
        input_hash: number,
    }
}

fn day() -> Day {
    Day::of(NOW)
}

/// Stores a batch of events with its marker; answers the object's name.
async fn put_events(objects: &MemoryObjects, number: u64, rows: &[Row]) -> String {
    put_events_of(objects, day(), number, rows).await
}

async fn put_events_of(objects: &MemoryObjects, day: Day, number: u64, rows: &[Row]) -> String {
    let store = ObjectEventStore::new(Arc::new(objects.clone()));
    let written = store.write_events(&batch(number), day, rows.into()).await;
    written.expect("memory works").object
}

/// Stores a batch of error rows with its marker; answers the object's name.
async fn put_errors(objects: &MemoryObjects, number: u64, rows: &[ErrorRow]) -> String {
    let store = ObjectEventStore::new(Arc::new(objects.clone()));
    let written = store.write_errors(&batch(number), day(), rows.into()).await;
    written.expect("memory works").object
}

/// Where the marker of a batch of events lies.
fn event_marker(number: u64) -> String {
    marker_name(Table::Events, day(), &batch(number))
}

fn event_object(number: u64) -> String {
    object_name(Table::Events, day(), &batch(number))
}

/// A manifest over these objects.
fn manifest(number: u64, objects: &[&str]) -> Manifest {
    let objects = objects.iter().map(|object| ManifestObject {
        table: if object.starts_with("events/") {
            Table::Events
        } else {
            Table::Errors
        },
        object: (*object).to_owned(),
        day: day().to_string(),
        rows: 1,
        bytes: 1,
        marker: format!("inbox/{}", object.replace('/', ".")),
        traces: Traces::default(),
    });
    Manifest {
        version: eventkit::loader::manifest::VERSION,
        number,
        attempt: 1,
        created_at: "2026-01-31T00:00:00.000000Z".into(),
        objects: objects.collect(),
    }
}

/// One warehouse of any kind: instances of it, and what is in it.
#[derive(Debug)]
enum World {
    Memory(MemoryWarehouse),
    Sqlite(TempDir),
    #[cfg(feature = "cloud")]
    BigQuery(bigquery::Place),
}

impl World {
    fn memory() -> Self {
        Self::Memory(MemoryWarehouse::default())
    }

    fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().expect("a temporary directory"))
    }

    /// Those of this process.
    fn local() -> [Self; 2] {
        [Self::memory(), Self::sqlite()]
    }

    /// All that there are emulators for.
    fn all() -> Vec<Self> {
        let mut all = Vec::from(Self::local());
        all.extend(Self::bigquery());
        all
    }

    /// For hundreds of loads, of which BigQuery's emulator does one a second: there with `EVENTKIT_CHAOS=long` (`make chaos`) alone.
    fn for_many_loads() -> Vec<Self> {
        if crate::support::gateway::setting("EVENTKIT_CHAOS").as_deref() == Some("long") {
            return Self::all();
        }
        if cfg!(feature = "cloud") {
            let what = "crashes of the loader at every call, its driver and what retention does to a store, on BigQuery (in `make chaos`; every promise of a warehouse is tried here, too)";
            crate::support::emulators::list_not_run("EVENTKIT_CHAOS=long", what);
        }
        Vec::from(Self::local())
    }

    #[cfg(feature = "cloud")]
    fn bigquery() -> Option<Self> {
        bigquery::Place::new().map(Self::BigQuery)
    }

    #[cfg(not(feature = "cloud"))]
    fn bigquery() -> Option<Self> {
        None
    }

    /// Another instance.
    fn open(&self) -> Box<dyn Warehouse> {
        match self {
            Self::Memory(warehouse) => Box::new(warehouse.clone()),
            Self::Sqlite(_) => Box::new(SqliteWarehouse::new(self.path(), clock())),
            #[cfg(feature = "cloud")]
            Self::BigQuery(place) => Box::new(place.warehouse()),
        }
    }

    async fn prepared(&self) -> Box<dyn Warehouse> {
        let mut warehouse = self.open();
        warehouse.prepare().await.expect("a new warehouse");
        warehouse
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Memory(_) => PathBuf::new(),
            #[cfg(feature = "cloud")]
            Self::BigQuery(_) => PathBuf::new(),
            Self::Sqlite(dir) => dir.path().join("data/warehouse.db"),
        }
    }

    /// A reader of its own, as an analyst has it.
    fn reader(&self) -> Connection {
        Connection::open(self.path()).expect("the warehouse is there")
    }

    /// Message id and offset of every event, sorted.
    fn events(&self) -> Vec<(String, u64)> {
        let mut events: Vec<(String, u64)> = match self {
            Self::Memory(warehouse) => {
                let rows = warehouse.events().into_iter();
                rows.map(|row| (row.message_id, row.offset)).collect()
            }
            Self::Sqlite(_) => pairs(&self.reader(), "SELECT message_id, offset FROM events"),
            #[cfg(feature = "cloud")]
            Self::BigQuery(place) => place.pairs("SELECT message_id, `offset` FROM `$events`"),
        };
        events.sort();
        events
    }

    /// Message id and offset of every error row, sorted.
    fn errors(&self) -> Vec<(String, u64)> {
        let mut errors: Vec<(String, u64)> = match self {
            Self::Memory(warehouse) => {
                let rows = warehouse.errors().into_iter();
                rows.map(|row| (row.message_id, row.offset)).collect()
            }
            Self::Sqlite(_) => pairs(&self.reader(), "SELECT message_id, offset FROM errors"),
            #[cfg(feature = "cloud")]
            Self::BigQuery(place) => {
                place.pairs("SELECT message_id, `offset` FROM `$events_errors`")
            }
        };
        errors.sort();
        errors
    }

    /// Status of every recorded manifest, and how many events it inserted and left out, by number.
    fn outcomes(&self) -> Vec<(u64, String, u64, u64)> {
        match self {
            Self::Memory(warehouse) => {
                let outcomes = warehouse.outcomes().into_iter();
                outcomes
                    .map(|(number, outcome)| {
                        let merged = match &outcome {
                            eventkit::loader::Outcome::Loaded(merged) => *merged,
                            _ => eventkit::loader::Merged::default(),
                        };
                        let status = outcome.as_str().to_owned();
                        let (inserted, duplicate) =
                            (merged.events_inserted, merged.events_duplicate);
                        (number, status, inserted, duplicate)
                    })
                    .collect()
            }
            #[cfg(feature = "cloud")]
            Self::BigQuery(place) => {
                let rows = place.query(
                    "SELECT number, status, events_inserted, events_duplicate
                    FROM `$events_loaded_manifests` WHERE status <> 'merged' ORDER BY number",
                );
                let number = |text: &str| text.parse().expect("a number");
                rows.into_iter()
                    .map(|row| {
                        let status = row[1].clone();
                        (number(&row[0]), status, number(&row[2]), number(&row[3]))
                    })
                    .collect()
            }
            Self::Sqlite(_) => {
                let reader = self.reader();
                let mut query = reader
                    .prepare(
                        "SELECT number, status, events_inserted, events_duplicate
                        FROM _loaded_manifests WHERE status <> 'merged' ORDER BY number",
                    )
                    .expect("the table is there");
                let rows = query.query_map([], |row| {
                    let count = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
                    Ok((count(0)?, row.get(1)?, count(2)?, count(3)?))
                });
                rows.expect("a query")
                    .collect::<Result<_, _>>()
                    .expect("rows")
            }
        }
    }
}

fn pairs(reader: &Connection, sql: &str) -> Vec<(String, u64)> {
    let mut query = reader.prepare(sql).expect("the table is there");
    let rows = query.query_map([], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
    });
    rows.expect("a query")
        .collect::<Result<_, _>>()
        .expect("rows")
}

fn pair(message_id: &str, offset: u64) -> (String, u64) {
    (message_id.to_owned(), offset)
}

fn context() -> Context {
    Context {
        clock: clock(),
        metrics: Metrics::new(),
        health: Health::default(),
    }
}

fn loader(objects: Arc<dyn Objects>, warehouse: Box<dyn Warehouse>) -> Loader {
    Loader::new(objects, warehouse, context(), Duration::from_secs(60))
}

fn yesterday() -> Day {
    Day::of(NOW - DAY_MICROS)
}

/// So that a handful of objects makes several manifests.
const FEW: Limits = Limits {
    objects: 3,
    bytes: 64 << 20,
    rows: 1_000,
};

async fn put(objects: &MemoryObjects, name: &str, text: &'static str) {
    put_bytes(objects, name, text.into()).await;
}

async fn put_bytes(objects: &MemoryObjects, name: &str, bytes: bytes::Bytes) {
    let put = objects.put_if_absent(name, bytes).await;
    assert!(put.expect("memory works"));
}

fn names(objects: &MemoryObjects, folder: &str) -> Vec<String> {
    let names = objects.names().into_iter();
    names.filter(|name| name.starts_with(folder)).collect()
}
