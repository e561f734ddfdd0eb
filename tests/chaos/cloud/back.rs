//! The store of a run: made for it alone, and read by the documented layout when all is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::parquet as parquet_file;
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use eventkit::config::Endpoint;
use eventkit::store::{ErrorRow, GcsObjects, GcsOptions, Objects as _, Row, parquet};
use eventkit::telemetry::Metrics;
use parquet_file::arrow::ArrowWriter;
use parquet_file::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet_file::file::properties::WriterProperties;
use serde_json::json;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use super::documents;
use super::tables::{self, Tables};
use crate::scenario::Stage;
use crate::support::warehouse::{self, Found, FoundError, FoundObject, FoundRow, value_hash};

/// Between two looks at what has arrived. A slow emulator has to spend its time on those who write.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Files, and SQLite behind them.
    Local,
    /// Cloud Storage without a warehouse; its objects are read.
    Gcs,
    /// Cloud Storage, and BigQuery behind it.
    BigQuery,
    /// Firestore.
    Firestore,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Gcs => "gcs",
            Self::BigQuery => "gcs_bigquery",
            Self::Firestore => "firestore",
        }
    }

    /// How long a few more events may take until they have arrived. The BigQuery emulator takes half a minute for a manifest when others
    /// keep the machine busy, and after a kill the first one is carried out twice.
    pub(super) fn soon(self) -> Duration {
        Duration::from_secs(match self {
            Self::Local | Self::Gcs => 60,
            Self::Firestore => 120,
            Self::BigQuery => 240,
        })
    }

    /// Whether its emulator is so slow that the load has to be small; a kill may then meet no request.
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Self::BigQuery | Self::Firestore)
    }
}

/// The store, past everything that stands before it.
#[derive(Debug)]
pub(super) enum Back {
    Local(Stage),
    Gcs(Bucket),
    BigQuery(Bucket, Tables),
    Firestore { url: String, project: String },
}

/// A bucket, and what was read of it: objects never change.
#[derive(Debug)]
pub(super) struct Bucket {
    objects: GcsObjects,
    read: BTreeMap<String, Content>,
    /// What another version of the writer has put there.
    rewritten: BTreeMap<String, Bytes>,
}

#[derive(Debug, Default)]
struct Content {
    rows: Vec<FoundRow>,
    errors: Vec<FoundError>,
}

impl Bucket {
    /// A new one.
    pub(super) async fn make(url: &str, name: &str) -> Result<Self> {
        let http = tables::http(url);
        let body = json!({ "name": name }).to_string();
        let (status, said) = http.post("/storage/v1/b?project=p", body).await?;
        ensure!(status == 200, "make a bucket: {status} {said}");
        let options = GcsOptions {
            bucket: name.to_owned(),
            endpoint: Endpoint::emulator(url),
            request_timeout: Duration::from_secs(20),
        };
        Ok(Self {
            objects: GcsObjects::open(options, Metrics::new()).await?,
            read: BTreeMap::new(),
            rewritten: BTreeMap::new(),
        })
    }

    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().map(String::as_str);
            let page = self.objects.list(folder, after, 1_000).await?;
            if page.is_empty() {
                return Ok(names);
            }
            names.extend(page);
        }
    }

    /// Puts the same rows in other bytes in the place of each object that has no marker yet, as another version of the writer would
    /// have written them; how many.
    pub(super) async fn rewrite_unmarked(&mut self) -> Result<usize> {
        let stem = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let markers = self.names("inbox/").await?;
        let mut rewritten = 0;
        for name in self.names("events/").await? {
            let object = stem(&name);
            let is_marked = |marker: &String| marker.contains(object.trim_end_matches(".parquet"));
            if markers.iter().any(is_marked) {
                continue;
            }
            let bytes = self.objects.get(&name).await?;
            let bytes = bytes.with_context(|| format!("{name} was listed, and is gone"))?;
            let other = another_writers(bytes.clone())?;
            // It was rewritten, and nobody has come back to it since.
            if bytes == other {
                continue;
            }
            self.objects.delete(&name).await?;
            ensure!(
                self.objects.put_if_absent(&name, other.clone()).await?,
                "{name} is there again"
            );
            rewritten += 1;
            self.rewritten.insert(name, other);
        }
        Ok(rewritten)
    }

    /// Whether nobody has touched what another version of the writer has put there.
    async fn keeps_rewritten(&self) -> Result<()> {
        for (name, other) in &self.rewritten {
            let bytes = self.objects.get(name).await?;
            ensure!(
                bytes.as_ref() == Some(other),
                "{name} is not what was there"
            );
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<()> {
        for folder in ["events/", "errors/"] {
            for name in self.names(folder).await? {
                if self.read.contains_key(&name) {
                    continue;
                }
                let bytes = self.objects.get(&name).await?;
                let bytes = bytes.with_context(|| format!("{name} was listed, and is gone"))?;
                let mut content = Content::default();
                if folder == "events/" {
                    content.rows = parquet::decode_events(bytes)?
                        .iter()
                        .map(found_row)
                        .collect();
                } else {
                    content.errors = parquet::decode_errors(bytes)?
                        .iter()
                        .map(found_error)
                        .collect();
                }
                self.read.insert(name, content);
            }
        }
        Ok(())
    }

    /// What a warehouse has of it. Objects may hold one record twice when a run was cut anew after a kill; a warehouse merges
    /// them. Two records of one event are not one record, and stay two rows.
    fn found(&self) -> Result<Found> {
        let mut rows = BTreeMap::new();
        let mut errors = BTreeMap::new();
        let mut found = Found::default();
        for (name, content) in &self.read {
            found.objects.push(object(name)?);
            for row in &content.rows {
                let key = (&row.message_id, &row.log_id, row.offset);
                rows.entry(key).or_insert(row);
            }
            for error in &content.errors {
                let key = (&error.message_id, &error.log_id, error.offset);
                errors.entry(key).or_insert(error);
            }
        }
        found.rows = rows.into_values().cloned().collect();
        found.errors = errors.into_values().cloned().collect();
        Ok(found)
    }
}

impl Back {
    /// See [`Bucket::rewrite_unmarked`].
    pub(super) async fn rewrite_unmarked(&mut self) -> Result<usize> {
        match self {
            Self::Gcs(bucket) | Self::BigQuery(bucket, _) => bucket.rewrite_unmarked().await,
            Self::Local(_) | Self::Firestore { .. } => bail!("it has no bucket"),
        }
    }

    /// How many events are there by now, and whether none waits for the warehouse.
    pub(super) async fn arrived(&mut self) -> Result<(u64, bool)> {
        match self {
            Self::Local(stage) => {
                let (events, errors) = warehouse::counts(&stage.dir);
                return Ok((events + errors, warehouse::inbox_len(&stage.dir) == 0));
            }
            Self::BigQuery(bucket, tables) => {
                sleep(LOOK_EVERY).await;
                let is_loaded = bucket.names("inbox/").await?.is_empty();
                return Ok((tables.count().await?, is_loaded));
            }
            Self::Firestore { url, project } => {
                sleep(LOOK_EVERY).await;
                return Ok((documents::count(url, project).await?, true));
            }
            Self::Gcs(_) => {}
        }
        let found = self.read().await?;
        let count = found.rows.len() + found.errors.len();
        Ok((count.try_into()?, true))
    }

    /// Everything that is there.
    pub(super) async fn read(&mut self) -> Result<Found> {
        match self {
            Self::Local(stage) => warehouse::read(&stage.dir),
            Self::Gcs(bucket) => {
                bucket.refresh().await?;
                bucket.found()
            }
            Self::BigQuery(bucket, tables) => {
                let mut found = tables.read().await?;
                for folder in ["events/", "errors/"] {
                    for name in bucket.names(folder).await? {
                        found.objects.push(object(&name)?);
                    }
                }
                Ok(found)
            }
            Self::Firestore { url, project } => documents::read(url, project).await,
        }
    }

    /// See [`Bucket::keeps_rewritten`].
    pub(super) async fn keeps_rewritten(&self) -> Result<()> {
        match self {
            Self::Gcs(bucket) | Self::BigQuery(bucket, _) => bucket.keeps_rewritten().await,
            Self::Local(_) | Self::Firestore { .. } => Ok(()),
        }
    }

    /// Removes what an emulator would keep in its memory, for the next run, which has another project: this one is judged either way.
    pub(super) async fn clear(&self) {
        if let Self::Firestore { url, project } = self {
            drop(documents::clear(url, project).await);
        }
    }
}

/// The same rows in other bytes.
fn another_writers(file: Bytes) -> Result<Bytes> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let told = reader.metadata().file_metadata().key_value_metadata();
    // What Arrow says for itself it says again.
    let told = told
        .into_iter()
        .flatten()
        .filter(|told| !told.key.starts_with("ARROW"));
    let properties = WriterProperties::builder()
        .set_created_by("another version".to_owned())
        .set_key_value_metadata(Some(told.cloned().collect()))
        .set_max_row_group_row_count(Some(7))
        .build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, Arc::clone(reader.schema()), Some(properties))?;
    for batch in reader.build()? {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(bytes.into())
}

/// By its name. When it was written is not asked.
fn object(name: &str) -> Result<FoundObject> {
    let stem = name.rsplit('/').next().unwrap_or_default();
    FoundObject::from_stem(stem.trim_end_matches(".parquet"), SystemTime::UNIX_EPOCH)
}

fn found_row(row: &Row) -> FoundRow {
    let properties = row.properties.as_deref().unwrap_or_default().as_bytes();
    let key = row.user_id.as_ref().or(row.anonymous_id.as_ref());
    FoundRow {
        message_id: row.message_id.clone(),
        log_id: row.log_id.to_string(),
        lane: row.lane.0.into(),
        offset: row.offset,
        routing_key: key.unwrap_or(&row.message_id).clone(),
        properties_bytes: xxh3_64(properties),
        properties_value: value_hash(properties),
    }
}

fn found_error(row: &ErrorRow) -> FoundError {
    FoundError {
        message_id: row.message_id.clone(),
        log_id: row.log_id.to_string(),
        offset: row.offset,
        code: row.code.clone().into_owned(),
        original: xxh3_64(&row.original),
    }
}
