//! Reads what a run left behind: the warehouse's two tables and the names of the event store's objects.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow};
use rusqlite::{Connection, OpenFlags, Row, types::ValueRef};
use xxhash_rust::xxh3::xxh3_64;

/// One row of `events`.
#[derive(Debug, Clone)]
pub(crate) struct FoundRow {
    pub(crate) message_id: String,
    pub(crate) log_id: String,
    pub(crate) lane: i64,
    pub(crate) offset: u64,
    /// User id, else anonymous id, else message id.
    pub(crate) routing_key: String,
    /// Hash of the column `properties` as it is.
    pub(crate) properties_bytes: u64,
    /// Hash of the JSON value in it, if it is one.
    pub(crate) properties_value: Option<u64>,
}

impl fmt::Display for FoundRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} key {} log {} lane {} offset {}",
            self.message_id, self.routing_key, self.log_id, self.lane, self.offset
        )
    }
}

/// One row of `errors`.
#[derive(Debug, Clone)]
pub(crate) struct FoundError {
    pub(crate) message_id: String,
    pub(crate) log_id: String,
    pub(crate) offset: u64,
    pub(crate) code: String,
    /// Hash of the original bytes.
    pub(crate) original: u64,
}

impl fmt::Display for FoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} code {} log {} offset {}",
            self.message_id, self.code, self.log_id, self.offset
        )
    }
}

/// One Parquet object of the event store, as its name tells it.
#[derive(Debug, Clone)]
pub(crate) struct FoundObject {
    /// The name without folder and extension: the batch's identity.
    pub(crate) stem: String,
    pub(crate) log_id: String,
    pub(crate) lane: u16,
    pub(crate) number: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// When its bytes were written.
    pub(crate) written: SystemTime,
}

impl fmt::Display for FoundObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stem)
    }
}

impl FoundObject {
    /// Reads `<log id>-<lane>-<number>-<first>-<last>-<input hash>`.
    pub(crate) fn from_stem(stem: &str, written: SystemTime) -> Result<Self> {
        let parts: Vec<&str> = stem.split('-').collect();
        let [log_id, lane, number, first, last, _hash] = parts.as_slice() else {
            return Err(anyhow!("an object's name is not a batch's: {stem}"));
        };
        Ok(Self {
            stem: stem.to_owned(),
            log_id: (*log_id).to_owned(),
            lane: lane.parse().with_context(|| format!("lane of {stem}"))?,
            number: number
                .parse()
                .with_context(|| format!("number of {stem}"))?,
            first: first.parse().with_context(|| format!("first of {stem}"))?,
            last: last.parse().with_context(|| format!("last of {stem}"))?,
            written,
        })
    }
}

/// Everything that a run left behind.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) rows: Vec<FoundRow>,
    pub(crate) errors: Vec<FoundError>,
    pub(crate) objects: Vec<FoundObject>,
}

/// Hash of a JSON value that does not depend on its spelling: keys sorted, numbers as doubles.
pub(crate) fn value_hash(text: &[u8]) -> Option<u64> {
    fn spell(value: &serde_json::Value, out: &mut String) {
        use fmt::Write as _;
        use serde_json::Value;
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                out.push('{');
                for (key, value) in entries {
                    write!(out, "{key:?}:").expect("a string takes any text");
                    spell(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for item in items {
                    spell(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            Value::Number(number) => {
                write!(out, "{:?}", number.as_f64()).expect("a string takes any text");
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {
                write!(out, "{value:?}").expect("a string takes any text");
            }
        }
    }
    let value = serde_json::from_slice(text).ok()?;
    let mut spelled = String::new();
    spell(&value, &mut spelled);
    Some(xxh3_64(spelled.as_bytes()))
}

/// Opens the warehouse for reading beside a gateway that may be writing it.
pub(crate) fn open(data_dir: &Path) -> Result<Connection> {
    let path = data_dir.join("warehouse.db");
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("open {}", path.display()))?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(connection)
}

/// How many rows `events` and `errors` have; none while the warehouse or a table is not there yet.
pub(crate) fn counts(data_dir: &Path) -> (u64, u64) {
    let Ok(connection) = open(data_dir) else {
        return (0, 0);
    };
    let count = |table: &str| {
        connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get::<_, i64>(0)
            })
            .map_or(0, |count| u64::try_from(count).unwrap_or(0))
    };
    (count("events"), count("errors"))
}

/// Reads both tables and the names of all objects.
pub(crate) fn read(data_dir: &Path) -> Result<Found> {
    let connection = open(data_dir)?;
    Ok(Found {
        rows: rows(&connection).context("read events")?,
        errors: errors(&connection).context("read errors")?,
        objects: objects(&data_dir.join("store")).context("read the event store")?,
    })
}

/// How many markers wait in the inbox.
pub(crate) fn inbox_len(data_dir: &Path) -> usize {
    std::fs::read_dir(data_dir.join("store/inbox")).map_or(0, Iterator::count)
}

fn rows(connection: &Connection) -> Result<Vec<FoundRow>> {
    let mut statement = connection.prepare(
        r#"SELECT message_id, log_id, lane, "offset", user_id, anonymous_id, properties FROM events"#,
    )?;
    let rows = statement.query_map([], |row| {
        let message_id: String = row.get(0)?;
        let user_id: Option<String> = row.get(4)?;
        let anonymous_id: Option<String> = row.get(5)?;
        let properties = bytes(row, 6)?;
        Ok(FoundRow {
            log_id: row.get(1)?,
            lane: row.get(2)?,
            offset: offset(row, 3)?,
            routing_key: user_id
                .or(anonymous_id)
                .unwrap_or_else(|| message_id.clone()),
            properties_bytes: xxh3_64(&properties),
            properties_value: value_hash(&properties),
            message_id,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn errors(connection: &Connection) -> Result<Vec<FoundError>> {
    let mut statement =
        connection.prepare(r#"SELECT message_id, log_id, "offset", code, original FROM errors"#)?;
    let rows = statement.query_map([], |row| {
        Ok(FoundError {
            message_id: row.get(0)?,
            log_id: row.get(1)?,
            offset: offset(row, 2)?,
            code: row.get(3)?,
            original: xxh3_64(&bytes(row, 4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn offset(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let offset: i64 = row.get(column)?;
    u64::try_from(offset)
        .map_err(|_negative| rusqlite::Error::IntegralValueOutOfRange(column, offset))
}

/// Text or blob, as it is; nothing for NULL.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Vec::new(),
    })
}

/// Every object of both tables, on all days. Temporary files are not objects.
fn objects(store: &Path) -> Result<Vec<FoundObject>> {
    let mut objects = Vec::new();
    for table in ["events", "errors"] {
        let Ok(days) = std::fs::read_dir(store.join(table)) else {
            continue;
        };
        for day in days {
            for file in std::fs::read_dir(day?.path())? {
                let file = file?;
                let name = file.file_name();
                let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".parquet"))
                else {
                    continue;
                };
                objects.push(FoundObject::from_stem(stem, file.metadata()?.modified()?)?);
            }
        }
    }
    Ok(objects)
}

/// The days of the event store's folders, and the objects that hold rows that were received on another day than theirs.
pub(crate) fn days(data_dir: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let connection = open(data_dir)?;
    let (mut days, mut mixed) = (Vec::new(), Vec::new());
    for table in ["events", "errors"] {
        let Ok(folders) = std::fs::read_dir(data_dir.join("store").join(table)) else {
            continue;
        };
        for folder in folders {
            let folder = folder?;
            let name = folder.file_name().to_string_lossy().into_owned();
            let day = name.strip_prefix("dt=").unwrap_or_default().to_owned();
            for file in std::fs::read_dir(folder.path())? {
                let file = file?.file_name().to_string_lossy().into_owned();
                let stem = file.trim_end_matches(".parquet");
                let object = FoundObject::from_stem(stem, SystemTime::UNIX_EPOCH)?;
                let strangers: i64 = connection.query_row(
                    &format!(
                        r#"SELECT count(*) FROM {table} WHERE log_id = ?1 AND lane = ?2
                           AND "offset" BETWEEN ?3 AND ?4 AND substr(received_at, 1, 10) <> ?5"#
                    ),
                    rusqlite::params![
                        object.log_id,
                        object.lane,
                        i64::try_from(object.first)?,
                        i64::try_from(object.last)?,
                        day
                    ],
                    |row| row.get(0),
                )?;
                if strangers > 0 {
                    mixed.push(format!("{table} {day} {stem}: {strangers} rows"));
                }
            }
            days.push(day);
        }
    }
    days.sort_unstable();
    days.dedup();
    Ok((days, mixed))
}
