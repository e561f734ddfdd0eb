//! What is special about the SQLite warehouse: its tables, its readers, its file.

use std::fs;
use std::time::Duration;

use eventkit::event::Lane;
use eventkit::loader::{
    LoadError, MergeError, Outcome, SqliteWarehouse, Warehouse as _, WarehouseError,
};
use eventkit::store::fake::MemoryObjects;
use eventkit::store::{ErrorRow, Row};
use rusqlite::Connection;
use rusqlite::types::Value;

use super::{NOW, World, clock, error, event, manifest, pair, put_errors, put_events};

fn values(reader: &Connection, sql: &str) -> Vec<Value> {
    let columns = reader.prepare(sql).unwrap().column_count();
    reader
        .query_row(sql, [], |row| (0..columns).map(|at| row.get(at)).collect())
        .unwrap()
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

/// Loads one full event and one full error row; answers the names of their objects.
async fn load_full_rows(world: &World) -> [String; 2] {
    let objects = MemoryObjects::default();
    let row = Row {
        anonymous_id: Some("an".into()),
        name: Some("n".into()),
        category: Some("c".into()),
        group_id: Some("g".into()),
        previous_id: Some("p".into()),
        traits: Some("{ }".into()),
        integrations: Some("{\"All\":true}".into()),
        extra: Some("{\"x\":\"\u{1f980}\"}".into()),
        original_timestamp: Some(-1),
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".into()),
        offset: i64::MAX as u64,
        lane: Lane(u16::MAX),
        ..event("m", 1)
    };
    let bad = ErrorRow {
        trace_id: Some("t".into()),
        ..error("e", 2)
    };
    let names = [
        put_events(&objects, 1, &[row]).await,
        put_errors(&objects, 1, &[bad]).await,
    ];
    let manifest = manifest(1, &[&names[0], &names[1]]);
    let mut warehouse = world.prepared().await;
    warehouse.load(&manifest, &objects).await.unwrap();
    let merged = warehouse.merge(&manifest).await.unwrap();
    let outcome = Outcome::Loaded(merged);
    warehouse.record(&manifest, &outcome).await.unwrap();
    names
}

/// A row as name and value of each column, as the `sqlite3` shell would show it.
fn shown(reader: &Connection, table: &str) -> Vec<String> {
    let mut query = reader.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let names: Vec<String> = query.column_names().map(str::to_owned).collect();
    query
        .query_row([], |row| {
            let columns = names.iter().enumerate();
            columns
                .map(|(at, name)| Ok(format!("{name} = {:?}", row.get::<_, Value>(at)?)))
                .collect()
        })
        .unwrap()
}

#[tokio::test]
async fn every_column_arrives_under_its_name() {
    let world = World::sqlite();
    load_full_rows(&world).await;
    let reader = world.reader();
    let expected = [
        r#"message_id = Text("m")"#,
        r#"source = Text("web")"#,
        r#"type = Text("track")"#,
        r#"stream = Text("events")"#,
        r#"user_id = Text("u")"#,
        r#"anonymous_id = Text("an")"#,
        r#"event = Text("Clicked")"#,
        r#"name = Text("n")"#,
        r#"category = Text("c")"#,
        r#"group_id = Text("g")"#,
        r#"previous_id = Text("p")"#,
        r#"properties = Text("{\"a\": 1.0}")"#,
        r#"traits = Text("{ }")"#,
        r#"context = Text("{}")"#,
        r#"integrations = Text("{\"All\":true}")"#,
        r#"extra = Text("{\"x\":\"🦀\"}")"#,
        r#"timestamp = Text("2026-01-31T23:59:58.999996Z")"#,
        r#"original_timestamp = Text("1969-12-31T23:59:59.999999Z")"#,
        r#"sent_at = Text("2026-01-31T23:59:59.000000Z")"#,
        r#"received_at = Text("2026-01-31T23:59:59.000001Z")"#,
        r#"node = Text("node-1")"#,
        r#"log_id = Text("00000000000000000000000000000007")"#,
        "lane = Integer(65535)",
        "offset = Integer(9223372036854775807)",
        r#"trace_id = Text("0af7651916cd43dd8448eb211c80319c")"#,
    ];
    assert_eq!(shown(&reader, "events"), expected);
    let expected = [
        r#"log_id = Text("00000000000000000000000000000007")"#,
        "offset = Integer(2)",
        r#"original_hash = Text("00000000000000ff")"#,
        "original = Blob([123, 0, 255])",
        r#"original_format = Text("json")"#,
        r#"stage = Text("validate")"#,
        r#"code = Text("missing_field")"#,
        r#"reason = Text("field event is missing")"#,
        r#"source = Text("web")"#,
        r#"message_id = Text("e")"#,
        r#"stream = Text("events")"#,
        r#"received_at = Text("2026-01-31T23:59:59.000001Z")"#,
        r#"node = Text("node-1")"#,
        "lane = Integer(3)",
        r#"trace_id = Text("t")"#,
    ];
    assert_eq!(shown(&reader, "errors"), expected);
}

#[tokio::test]
async fn what_was_loaded_can_be_looked_up() {
    let world = World::sqlite();
    let names = load_full_rows(&world).await;
    assert_eq!(world.outcomes(), [(1, "loaded".to_owned(), 1, 0)]);
    let reader = world.reader();
    let files = values(
        &reader,
        "SELECT group_concat(object, ' '), group_concat(\"table\", ' '), min(manifest), min(loaded_at), count(*)
        FROM (SELECT * FROM _loaded_files ORDER BY object DESC)",
    );
    let expected = [
        text(&names.join(" ")),
        text("events errors"),
        Value::Integer(1),
        text("2026-01-31T23:59:59.000001Z"),
        Value::Integer(2),
    ];
    assert_eq!(files, expected);
    let objects: String = reader
        .query_row("SELECT objects FROM _loaded_manifests", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<String>>(&objects).unwrap(),
        names
    );
}

#[tokio::test]
async fn a_users_last_events_and_the_other_common_questions_use_an_index() {
    let world = World::sqlite();
    world.prepared().await;
    let reader = world.reader();
    for (index, question) in [
        (
            "events_by_user",
            "user_id = 'u' ORDER BY received_at DESC LIMIT 10",
        ),
        (
            "events_by_anonymous",
            "anonymous_id = 'a' ORDER BY received_at DESC LIMIT 10",
        ),
        (
            "events_by_stream",
            "stream = 's' ORDER BY received_at DESC LIMIT 10",
        ),
        ("events_by_offset", "log_id = 'l' AND offset = 1"),
        ("events_key", "source = 'web' AND message_id = 'm'"),
    ] {
        let mut plan = reader
            .prepare(&format!(
                "EXPLAIN QUERY PLAN SELECT * FROM events WHERE {question}"
            ))
            .unwrap();
        let steps: Vec<String> = plan
            .query_map([], |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(steps.len(), 1, "no sorting: {steps:?}");
        assert!(steps[0].contains(index), "{steps:?}");
    }
}

#[tokio::test]
async fn a_reader_in_a_transaction_blocks_nobody_and_is_not_blocked() {
    let world = World::sqlite();
    let objects = MemoryObjects::default();
    let mut warehouse = world.prepared().await;
    let reader = world.reader();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM events")
        .unwrap();
    let count = |reader: &Connection| -> i64 {
        reader
            .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
            .unwrap()
    };
    let name = put_events(&objects, 1, &[event("a", 1)]).await;
    let manifest = manifest(1, &[&name]);
    warehouse.load(&manifest, &objects).await.unwrap();
    warehouse.merge(&manifest).await.unwrap();
    assert_eq!(count(&reader), 0, "the reader keeps its view");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&reader), 1);
}

#[tokio::test]
async fn a_locked_file_is_said_to_be_and_works_again_afterwards() {
    let world = World::sqlite();
    let objects = MemoryObjects::default();
    let name = put_events(&objects, 1, &[event("a", 1)]).await;
    let manifest = manifest(1, &[&name]);
    let mut warehouse =
        SqliteWarehouse::new(world.path(), clock()).with_busy_timeout(Duration::from_millis(10));
    warehouse.prepare().await.unwrap();
    warehouse.load(&manifest, &objects).await.unwrap();
    let other = world.reader();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failed = warehouse.merge(&manifest).await.unwrap_err();
    assert!(
        matches!(failed, MergeError::Warehouse(WarehouseError::Locked { .. })),
        "{failed:?}"
    );
    other.execute_batch("ROLLBACK").unwrap();
    warehouse.load(&manifest, &objects).await.unwrap();
    assert_eq!(warehouse.merge(&manifest).await.unwrap().events_inserted, 1);
}

#[tokio::test]
async fn a_file_that_vanishes_is_an_error_until_it_is_back_and_is_never_made_again() {
    let world = World::sqlite();
    let objects = MemoryObjects::default();
    let mut warehouse = world.prepared().await;
    let name = put_events(&objects, 1, &[event("a", 1)]).await;
    let manifest = manifest(1, &[&name]);
    let aside = world.path().with_extension("aside");
    fs::rename(world.path(), &aside).unwrap();
    for _ in 0..2 {
        let failed = warehouse.load(&manifest, &objects).await.unwrap_err();
        assert!(
            matches!(failed, LoadError::Warehouse(WarehouseError::Gone { .. })),
            "{failed:?}"
        );
        let failed = warehouse.prepare().await.unwrap_err();
        assert!(matches!(failed, WarehouseError::Gone { .. }), "{failed:?}");
        assert!(!world.path().exists());
    }
    fs::rename(&aside, world.path()).unwrap();
    warehouse.load(&manifest, &objects).await.unwrap();
    warehouse.merge(&manifest).await.unwrap();
    assert_eq!(world.events(), [pair("a", 1)]);
}

#[tokio::test]
async fn what_is_no_warehouse_of_ours_is_refused_and_left_as_it_is() {
    let check = async |make: &dyn Fn(&std::path::Path), fits: &dyn Fn(&WarehouseError) -> bool| {
        let world = World::sqlite();
        fs::create_dir_all(world.path().parent().unwrap()).unwrap();
        make(&world.path());
        let before = fs::read(world.path()).unwrap();
        let failed = world.open().prepare().await.unwrap_err();
        assert!(fits(&failed), "{failed:?}");
        assert!(failed.to_string().contains("warehouse.db"), "{failed}");
        assert_eq!(fs::read(world.path()).unwrap(), before);
    };
    check(
        &|path| fs::write(path, [b"garbage ".as_slice(); 1_000].concat()).unwrap(),
        &|failed| matches!(failed, WarehouseError::Damaged { .. }),
    )
    .await;
    check(
        &|path| {
            let other = Connection::open(path).unwrap();
            other.execute_batch("CREATE TABLE events (id)").unwrap();
        },
        &|failed| matches!(failed, WarehouseError::Foreign { .. }),
    )
    .await;
    check(
        &|path| {
            let newer = Connection::open(path).unwrap();
            let sql =
                "PRAGMA application_id = 0x65766b74; PRAGMA user_version = 2; CREATE TABLE t (id)";
            newer.execute_batch(sql).unwrap();
        },
        &|failed| matches!(failed, WarehouseError::Newer { version: 2, .. }),
    )
    .await;
}

#[tokio::test]
async fn a_nullable_column_that_a_later_version_brought_is_added() {
    let world = World::sqlite();
    world.prepared().await;
    let old = world.reader();
    let drop = "ALTER TABLE events DROP COLUMN extra; ALTER TABLE errors DROP COLUMN trace_id";
    old.execute_batch(drop).unwrap();
    world.prepared().await;
    let objects = MemoryObjects::default();
    let row = Row {
        extra: Some("{}".into()),
        received_at: NOW,
        ..event("a", 1)
    };
    let name = put_events(&objects, 1, &[row]).await;
    let manifest = manifest(1, &[&name]);
    let mut warehouse = world.prepared().await;
    warehouse.load(&manifest, &objects).await.unwrap();
    warehouse.merge(&manifest).await.unwrap();
    let found = values(&world.reader(), "SELECT extra FROM events");
    assert_eq!(found, [text("{}")]);
}

#[tokio::test]
async fn a_missing_directory_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut warehouse = SqliteWarehouse::new(dir.path().join("file/warehouse.db"), clock());
    let failed = warehouse.prepare().await.unwrap_err();
    assert!(
        matches!(failed, WarehouseError::Unavailable { .. }),
        "{failed:?}"
    );
}
