//! The rows that SDKs' calls end as, and what has to stand in them.

use std::path::Path;

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use super::driver::{App, Sdk};
use crate::support::warehouse;

const COLUMNS: [&str; 20] = [
    "message_id",
    "source",
    "type",
    "stream",
    "user_id",
    "anonymous_id",
    "event",
    "name",
    "category",
    "group_id",
    "previous_id",
    "properties",
    "traits",
    "context",
    "integrations",
    "timestamp",
    "original_timestamp",
    "sent_at",
    "received_at",
    "extra",
];

/// Every row as an object of its columns; what is JSON is read.
pub(super) fn rows(data_dir: &Path) -> Vec<Value> {
    let connection = warehouse::open(data_dir).unwrap();
    let query = format!(
        r#"SELECT {} FROM events ORDER BY "offset""#,
        COLUMNS.join(",")
    );
    let mut statement = connection.prepare(&query).unwrap();
    let rows = statement.query_map([], |row| {
        let columns = COLUMNS.iter().enumerate().map(|(at, name)| {
            let value = match row.get::<_, Sql>(at)? {
                Sql::Text(text) if text.starts_with('{') => serde_json::from_str(&text).unwrap(),
                Sql::Text(text) => Value::String(text),
                _ => Value::Null,
            };
            Ok(((*name).to_owned(), value))
        });
        columns.collect::<Result<serde_json::Map<String, Value>, rusqlite::Error>>()
    });
    rows.unwrap()
        .map(|row| Value::Object(row.unwrap()))
        .collect()
}

/// The one row with this in a column.
pub(super) fn the<'a>(rows: &'a [Value], column: &str, value: &str) -> &'a Value {
    let mut found = rows.iter().filter(|row| row[column] == value);
    let row = found
        .next()
        .unwrap_or_else(|| panic!("no {value}: {rows:?}"));
    assert!(found.next().is_none(), "two of {value}: {rows:?}");
    row
}

/// What all six calls have to be, whichever SDK made them.
pub(super) fn assert_all_six(app: &App, source: &str, rows: &[Value]) {
    type Columns = &'static [(&'static str, &'static str)];
    let columns: [(&str, &str, Columns); 6] = [
        ("identify", "users", &[]),
        ("track", "events", &[("event", "Order Placed")]),
        ("page", "pages", &[("category", "Docs"), ("name", "Start")]),
        ("screen", "screens", &[("name", "Main")]),
        ("group", "groups", &[("group_id", "acme")]),
        ("alias", "aliases", &[("previous_id", "anon-1")]),
    ];
    assert_eq!(rows.len(), columns.len(), "{app:?}: {rows:?}");
    let of_type = |kind: &str| the(rows, "type", kind);
    for (kind, stream, others) in columns {
        let row = of_type(kind);
        assert_eq!(row["source"], source, "{row}");
        assert_eq!(row["stream"], stream, "{row}");
        assert_eq!(row["user_id"], "ada", "{row}");
        for column in ["event", "name", "category", "group_id", "previous_id"] {
            let expected = others.iter().find(|(name, _)| *name == column);
            let expected = expected.map_or(Value::Null, |(_, value)| json!(value));
            assert_eq!(row[column], expected, "{column} of {row}");
        }
        assert!(
            row["message_id"].as_str().is_some_and(|id| id.len() > 20),
            "{row}"
        );
        assert!(row["sent_at"].is_string(), "{row}");
        assert!(!row.to_string().contains(&app.key), "{row}");
        assert_client(app.sdk, row);
    }
    assert_eq!(of_type("identify")["traits"]["plan"], "pro");
    assert_eq!(of_type("group")["traits"]["size"], 3);
    assert_eq!(of_type("page")["properties"]["path"], "/x");
    assert_eq!(of_type("screen")["properties"]["dark"], true);
    let track = of_type("track");
    assert_eq!(track["properties"]["total"], 12.5);
    assert_eq!(track["integrations"]["Mixpanel"], false);
    // The client's clock is ours: the correction moves the time by as long as the request took.
    assert_eq!(track["original_timestamp"], "2024-05-01T12:00:00.000000Z");
    let corrected = track["timestamp"].as_str().unwrap();
    assert!(corrected.starts_with("2024-05-01T12:00:"), "{corrected}");
}

/// Who sent it is filled for browsers alone.
fn assert_client(sdk: Sdk, row: &Value) {
    let context = &row["context"];
    match sdk {
        Sdk::Node | Sdk::Python { .. } => {
            assert!(context.get("ip").is_none(), "{context}");
            assert!(context.get("userAgent").is_none(), "{context}");
        }
        Sdk::Browser(_) => {
            assert_eq!(context["ip"], "127.0.0.1", "{context}");
            let agent = context["userAgent"].as_str().unwrap();
            assert!(agent.contains("Chrome"), "{context}");
        }
    }
}
