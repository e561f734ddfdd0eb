//! The layout is readable as Hive partitions by a reader that knows nothing of us: DuckDB.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use eventkit::event::{BatchId, Day, Lane, LogId};
use eventkit::store::{ErrorStore as _, EventStore as _, ObjectEventStore, Objects};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{all, error_row, names, row};
use crate::support::emulators;
use crate::support::gateway::setting;

/// The Python that comes with the BigQuery emulator, which stands on DuckDB.
const PYTHON: &str = ".tools/bigquery/venv/bin/python";

const SCRIPT: &str = r#"
import duckdb, json, sys
rows = lambda table, columns: duckdb.execute(
    f"SELECT dt, {columns} FROM read_parquet(?, hive_partitioning = true) GROUP BY dt ORDER BY dt",
    [f"{sys.argv[1]}/{table}/*/*.parquet"],
).fetchall()
print(json.dumps({
    "events": rows("events", 'count(*), count(DISTINCT message_id), min("offset"), max("offset"), min(epoch_us(received_at))'),
    "errors": rows("errors", 'count(*), min("offset"), min(code)'),
}, default=str))
"#;

fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(PYTHON);
    if python.exists() {
        return Some(python);
    }
    assert_ne!(
        setting("CI").as_deref(),
        Some("true"),
        "DuckDB is missing in CI: `scripts/emulators install` has it"
    );
    emulators::not_run(
        PYTHON,
        "a test that DuckDB reads the store as Hive partitions",
    );
    None
}

/// Three days of events, of two lanes, and an error.
async fn fill(objects: &Arc<dyn Objects>) {
    let store = ObjectEventStore::new(Arc::clone(objects));
    for day in 0..3_i32 {
        for lane in 0..2_u16 {
            let first = u64::from(lane) * 1_000 + u64::try_from(day).unwrap() * 100;
            let batch = BatchId {
                log_id: LogId(0xfeed),
                lane: Lane(lane),
                number: 7,
                first,
                last: first + 9,
                input_hash: 1,
            };
            let received_at = (19_844 + i64::from(day)) * 86_400_000_000 + 5;
            let rows = (first..first + 10).map(|offset| {
                let mut row = row(offset);
                row.received_at = received_at;
                row
            });
            let day = Day(19_844 + day);
            store
                .write_events(&batch, day, rows.collect())
                .await
                .unwrap();
            if lane == 1 {
                let errors = Arc::new([error_row(first)]);
                store.write_errors(&batch, day, errors).await.unwrap();
            }
        }
    }
}

/// What a copy of the bucket to a disk is.
async fn copy(objects: &dyn Objects, to: &Path) {
    for folder in ["events/", "errors/", "inbox/"] {
        for name in names(objects, folder).await {
            let path = to.join(&name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, objects.get(&name).await.unwrap().unwrap()).unwrap();
        }
    }
}

#[tokio::test]
async fn an_independent_reader_finds_every_row_under_its_day() {
    let Some(python) = python() else { return };
    for (kind, objects, _alive) in all().await {
        fill(&objects).await;
        let dir = TempDir::new().unwrap();
        copy(&*objects, dir.path()).await;
        let read = Command::new(&python)
            .args(["-c", SCRIPT])
            .arg(dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success(), "{kind}: {stderr}");
        let read: BTreeMap<String, Value> = serde_json::from_slice(&read.stdout).unwrap();
        let at = |day: i64| (19_844 + day) * 86_400_000_000 + 5;
        let events = json!([
            ["2024-05-01", 20, 20, 0, 1_009, at(0)],
            ["2024-05-02", 20, 20, 100, 1_109, at(1)],
            ["2024-05-03", 20, 20, 200, 1_209, at(2)],
        ]);
        let errors = json!([
            ["2024-05-01", 1, 1_000, "missing_field"],
            ["2024-05-02", 1, 1_100, "missing_field"],
            ["2024-05-03", 1, 1_200, "missing_field"],
        ]);
        assert_eq!(read["events"], events, "{kind}");
        assert_eq!(read["errors"], errors, "{kind}");
    }
}
