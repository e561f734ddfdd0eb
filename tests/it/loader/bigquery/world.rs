//! A warehouse in the BigQuery emulator, over objects in the Cloud Storage emulator, each under names of its own.

use std::collections::HashSet;

use async_trait::async_trait;
use eventkit::config::Endpoint;
use eventkit::event::Micros;
use eventkit::loader::{
    BigQueryOptions, BigQueryWarehouse, Expired, LoadError, Manifest, MergeError, Merged, Outcome,
    Staged, Warehouse, WarehouseError,
};
use eventkit::store::Objects;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::clock;
use crate::support::emulators;

/// The project of all tests; both emulators take any.
pub(crate) const PROJECT: &str = "eventkit-test";

/// The table of events.
pub(crate) const TABLE: &str = "events";

/// One dataset and one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bigquery: String,
    storage: String,
    pub(crate) dataset: String,
    bucket: String,
}

/// Runs a call from where nothing can be awaited.
fn block_on<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(call)
    };
    std::thread::spawn(run).join().expect("the call ends")
}

async fn send(method: &str, url: String, body: Vec<u8>) -> (u16, Vec<u8>) {
    let method = method.parse().expect("a method");
    let request = reqwest::Client::new()
        .request(method, &url)
        .header("content-type", "application/json")
        .body(body);
    let answer = request.send().await.expect("the emulator answers");
    let status = answer.status().as_u16();
    (status, answer.bytes().await.expect("a body").to_vec())
}

impl Place {
    /// A new one; `None` where an emulator is missing.
    pub(crate) fn new() -> Option<Self> {
        let (bigquery, storage) = (emulators::bigquery()?, emulators::storage()?);
        let unique = Uuid::new_v4().simple();
        let place = Self {
            bigquery,
            storage,
            dataset: format!("d{unique}"),
            bucket: format!("b{unique}"),
        };
        let url = format!("{}/storage/v1/b?project={PROJECT}", place.storage);
        let body = json!({ "name": place.bucket }).to_string();
        let (status, _) = block_on(send("POST", url, body.into()));
        assert_eq!(status, 200, "a bucket");
        Some(place)
    }

    /// The same tables under another address.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self {
            bigquery: url.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn options(&self) -> BigQueryOptions {
        let endpoint = Endpoint::emulator(&self.bigquery);
        BigQueryOptions::new(endpoint, PROJECT, &self.dataset, TABLE, &self.bucket)
    }

    pub(crate) fn warehouse(&self) -> Mirrored {
        self.warehouse_with(self.options())
    }

    pub(crate) fn warehouse_with(&self, options: BigQueryOptions) -> Mirrored {
        Mirrored {
            inner: BigQueryWarehouse::new(options, clock()).expect("good names"),
            place: self.clone(),
        }
    }

    /// A call of the API.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}/bigquery/v2/projects/{PROJECT}{path}", self.bigquery);
        let body = body.to_string().into_bytes();
        let method = method.to_owned();
        let (status, body) = block_on(async move { send(&method, url, body).await });
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// A query, as an analyst has it; each value as text. A `$` that begins a quoted name stands for dataset and dot.
    pub(crate) fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let sql = sql.replace("`$", &format!("`{PROJECT}.{}.", self.dataset));
        let body = json!({ "query": sql, "useLegacySql": false, "timeoutMs": 60_000 });
        let (status, answer) = self.call("POST", "/queries", &body);
        assert_eq!(status, 200, "{sql}: {answer}");
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        let text = |cell: &Value| match &cell["v"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cells = |row: &Value| {
            row["f"]
                .as_array()
                .map(|cells| cells.iter().map(text).collect())
        };
        rows.iter().filter_map(cells).collect()
    }

    pub(crate) fn pairs(&self, sql: &str) -> Vec<(String, u64)> {
        let rows = self.query(sql).into_iter();
        rows.map(|row| (row[0].clone(), row[1].parse().expect("a number")))
            .collect()
    }

    /// The names of the dataset's tables.
    pub(crate) fn tables(&self) -> Vec<String> {
        let path = format!("/datasets/{}/tables?maxResults=1000", self.dataset);
        let (_, answer) = self.call("GET", &path, &Value::Null);
        let tables = answer["tables"].as_array().cloned().unwrap_or_default();
        let name = |table: &Value| {
            table["tableReference"]["tableId"]
                .as_str()
                .map(str::to_owned)
        };
        tables.iter().filter_map(name).collect()
    }

    /// Makes a table as somebody else would.
    pub(crate) fn make_table(&self, table: &str, resource: Value) {
        let reference = json!({ "projectId": PROJECT, "datasetId": self.dataset });
        let (_, _) = self.call(
            "POST",
            "/datasets",
            &json!({ "datasetReference": reference }),
        );
        let mut body = resource;
        body["tableReference"] =
            json!({ "projectId": PROJECT, "datasetId": self.dataset, "tableId": table });
        let path = format!("/datasets/{}/tables", self.dataset);
        let (status, answer) = self.call("POST", &path, &body);
        assert_eq!(status, 200, "{answer}");
    }

    /// Deletes a table, or with an empty name the dataset and everything in it.
    pub(crate) fn delete(&self, table: &str) {
        let path = match table {
            "" => format!("/datasets/{}?deleteContents=true", self.dataset),
            table => format!("/datasets/{}/tables/{table}", self.dataset),
        };
        let (status, answer) = self.call("DELETE", &path, &Value::Null);
        assert!(status < 300, "{answer}");
    }
}

/// The warehouse, and before each load the manifest's objects as they are now in the bucket: the suites keep theirs in memory.
#[derive(Debug)]
pub(crate) struct Mirrored {
    inner: BigQueryWarehouse,
    place: Place,
}

impl Mirrored {
    async fn mirror(&self, manifest: &Manifest, objects: &dyn Objects) -> Result<(), LoadError> {
        let Place {
            storage, bucket, ..
        } = &self.place;
        for object in &manifest.objects {
            let name = object.object.replace('/', "%2F");
            let (status, _) = match objects.get(&object.object).await? {
                Some(bytes) => {
                    let url = format!(
                        "{storage}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
                    );
                    send("POST", url, bytes.to_vec()).await
                }
                None => {
                    let url = format!("{storage}/storage/v1/b/{bucket}/o/{name}");
                    send("DELETE", url, Vec::new()).await
                }
            };
            assert!(status < 300 || status == 404, "{name}: {status}");
        }
        Ok(())
    }
}

#[async_trait]
impl Warehouse for Mirrored {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        self.inner.prepare().await
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        self.inner.last_recorded().await
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        self.inner.recorded(objects).await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        self.mirror(manifest, objects).await?;
        self.inner.load(manifest, objects).await
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        self.inner.merge(manifest).await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        self.inner.record(manifest, outcome).await
    }

    async fn expire(&mut self, before: Micros, limit: u32) -> Result<Expired, WarehouseError> {
        self.inner.expire(before, limit).await
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        self.inner.oldest().await
    }
}
