//! BigQuery's tables, read as an analyst reads them.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::support::clients;
use crate::support::warehouse::{Found, FoundError, FoundRow, value_hash};

/// Rows in one answer.
const PAGE: usize = 1_000;

/// A client of an emulator's JSON API.
pub(super) fn http(url: &str) -> clients::Http {
    clients::Http::at(url.trim_start_matches("http://"))
}

/// Both tables of a dataset.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) url: String,
    pub(super) project: String,
    pub(super) dataset: String,
}

impl Tables {
    /// How many rows both have; none while they are not there yet.
    pub(super) async fn count(&self) -> Result<u64> {
        let sql =
            "SELECT (SELECT count(*) FROM `$events`) + (SELECT count(*) FROM `$events_errors`)";
        let Ok(rows) = self.query(sql).await else {
            return Ok(0);
        };
        let count = rows.first().and_then(|row| row.first()?.as_deref());
        Ok(count.context("a count")?.parse()?)
    }

    pub(super) async fn read(&self) -> Result<Found> {
        let mut found = Found::default();
        let columns = "message_id, log_id, lane, `offset`, user_id, anonymous_id, properties";
        for row in self.all(columns, "events").await? {
            found.rows.push(row_of(&row).context("a row of events")?);
        }
        let columns = "message_id, log_id, lane, `offset`, code, TO_HEX(original)";
        for row in self.all(columns, "events_errors").await? {
            found.errors.push(error_of(&row).context("an error row")?);
        }
        Ok(found)
    }

    async fn all(&self, columns: &str, table: &str) -> Result<Vec<Cells>> {
        let mut all = Vec::new();
        loop {
            let sql = format!(
                "SELECT {columns} FROM `${table}` ORDER BY lane, `offset`, message_id LIMIT {PAGE} OFFSET {}",
                all.len()
            );
            let page = self.query(&sql).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Each value as text. A `$` that begins a quoted name stands for project and dataset.
    async fn query(&self, sql: &str) -> Result<Vec<Cells>> {
        let sql = sql.replace("`$", &format!("`{}.{}.", self.project, self.dataset));
        let path = format!("/bigquery/v2/projects/{}/queries", self.project);
        let body =
            json!({ "query": sql, "useLegacySql": false, "timeoutMs": 60_000, "maxResults": PAGE });
        let (status, answer) = http(&self.url).post(&path, body.to_string()).await?;
        ensure!(status == 200, "{sql}: {status} {answer}");
        let rows = answer.get("rows").and_then(Value::as_array);
        let rows = rows.map(Vec::as_slice).unwrap_or_default();
        Ok(rows.iter().map(cells).collect())
    }
}

type Cells = Vec<Option<String>>;

fn cells(row: &Value) -> Cells {
    let cells = row.get("f").and_then(Value::as_array);
    let cells = cells.map(Vec::as_slice).unwrap_or_default().iter();
    cells
        .map(|cell| match cell.get("v") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        })
        .collect()
}

fn row_of(row: &[Option<String>]) -> Result<FoundRow> {
    let [
        Some(id),
        Some(log),
        Some(lane),
        Some(offset),
        user,
        anonymous,
        properties,
    ] = row
    else {
        anyhow::bail!("not seven cells: {row:?}");
    };
    let properties = properties.as_deref().unwrap_or_default().as_bytes();
    let key = user.as_ref().or(anonymous.as_ref()).unwrap_or(id);
    Ok(FoundRow {
        message_id: id.clone(),
        log_id: log.clone(),
        lane: lane.parse()?,
        offset: offset.parse()?,
        routing_key: key.clone(),
        properties_bytes: xxh3_64(properties),
        properties_value: value_hash(properties),
    })
}

fn error_of(row: &[Option<String>]) -> Result<FoundError> {
    let [
        Some(id),
        Some(log),
        Some(_lane),
        Some(offset),
        Some(code),
        Some(original),
    ] = row
    else {
        anyhow::bail!("not six cells: {row:?}");
    };
    Ok(FoundError {
        message_id: id.clone(),
        log_id: log.clone(),
        offset: offset.parse()?,
        code: code.clone(),
        original: xxh3_64(&unhex(original)?),
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16));
    let digits: Vec<u32> = digits.collect::<Option<_>>().context("not hexadecimal")?;
    let pairs = digits.as_chunks::<2>().0.iter();
    let bytes = pairs.map(|[high, low]| u8::try_from(high * 16 + low));
    Ok(bytes.collect::<Result<_, _>>()?)
}
