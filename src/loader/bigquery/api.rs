//! The calls: each one bounded in time, each failure with its meaning.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::dataset::Dataset;
use gcp_bigquery_client::model::get_query_results_parameters::GetQueryResultsParameters;
use gcp_bigquery_client::model::job::Job;
use gcp_bigquery_client::model::job_configuration::JobConfiguration;
use gcp_bigquery_client::model::job_reference::JobReference;
use gcp_bigquery_client::model::query_parameter::QueryParameter;
use gcp_bigquery_client::model::query_request::QueryRequest;
use gcp_bigquery_client::model::table::Table;
use gcp_bigquery_client::model::table_row::TableRow;
use gcp_bigquery_client::table::ListOptions;
use gcp_bigquery_client::{Client, dataset, table};
use google_cloud_auth::credentials::AccessTokenCredentials;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::BigQueryOptions;
use super::failure::Failure;
use crate::backoff::Backoff;

/// The waits between two looks at a running job.
const POLL: Backoff = Backoff {
    base: Duration::from_millis(200),
    max: Duration::from_secs(5),
};

/// How long BigQuery holds the answer to a query back for its result, in milliseconds.
const QUERY_WAIT_MS: i32 = 10_000;

/// Tables that are listed at a time.
const PAGE: u64 = 1_000;

/// A value of a result, as text; `None` is null.
pub(super) type Cell = Option<String>;

/// What a query answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<Vec<Cell>>,
    /// Rows that a statement changed.
    pub(super) changed: u64,
}

/// BigQuery, as this warehouse calls it.
pub(super) struct Api {
    options: BigQueryOptions,
    tokens: Tokens,
    client: OnceCell<Client>,
    /// Where the dataset is; every job runs there.
    location: Option<String>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("options", &self.options)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// The tokens of the one chain of credentials that all clients have; towards an emulator a word.
#[derive(Clone)]
struct Tokens(Option<AccessTokenCredentials>);

#[async_trait]
impl Authenticator for Tokens {
    async fn access_token(&self) -> Result<String, BQError> {
        let Some(credentials) = &self.0 else {
            return Ok("emulator".to_owned());
        };
        let token = credentials.access_token().await;
        token
            .map(|token| token.token)
            .map_err(|error| BQError::ConnectionPoolError(format!("no access token: {error}")))
    }
}

impl Api {
    pub(super) fn new(options: BigQueryOptions, tokens: Option<AccessTokenCredentials>) -> Self {
        Self {
            location: options.location.clone(),
            options,
            tokens: Tokens(tokens),
            client: OnceCell::new(),
        }
    }

    async fn client(&self) -> Result<&Client, Failure> {
        let build = || async {
            let mut builder = ClientBuilder::new();
            if let Some(url) = self.options.endpoint.url() {
                builder.with_v2_base_url(format!("{url}/bigquery/v2"));
            }
            let tokens = Arc::new(self.tokens.clone());
            builder.build_from_authenticator(tokens).await
        };
        Ok(self.client.get_or_try_init(build).await?)
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, BQError>> + Send,
    ) -> Result<T, Failure> {
        let limit = self.options.request_timeout;
        let answered = timeout(limit, call).await;
        Ok(answered.map_err(|_elapsed| Failure::Late(limit))??)
    }

    // === dataset and tables ===

    /// Finds the dataset and where it is; `false` when there is none.
    pub(super) async fn find_dataset(&mut self) -> Result<bool, Failure> {
        let client = self.client().await?.clone();
        let (project, dataset) = (&self.options.project, &self.options.dataset);
        let found = self.call(client.dataset().get(project, dataset)).await;
        match found {
            Ok(found) => {
                self.location = found.location.or_else(|| self.location.take());
                Ok(true)
            }
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Makes the dataset; `false` when somebody else was quicker.
    pub(super) async fn make_dataset(&self) -> Result<bool, Failure> {
        let mut dataset = Dataset::new(&self.options.project, &self.options.dataset);
        dataset.location.clone_from(&self.options.location);
        let datasets: &dataset::DatasetApi = self.client().await?.dataset();
        made(self.call(datasets.create(dataset)).await).map(|made| made.is_some())
    }

    async fn tables(&self) -> Result<&table::TableApi, Failure> {
        Ok(self.client().await?.table())
    }

    pub(super) async fn find_table(&self, name: &str) -> Result<Option<Table>, Failure> {
        let (project, dataset) = (&self.options.project, &self.options.dataset);
        let tables = self.tables().await?;
        let found = self.call(tables.get(project, dataset, name, None)).await;
        found_or_none(found)
    }

    /// Makes a table, and tells what became of it; `None` when somebody else was quicker.
    pub(super) async fn make_table(&self, table: Table) -> Result<Option<Table>, Failure> {
        let tables = self.tables().await?;
        made(self.call(tables.create(table)).await)
    }

    pub(super) async fn drop_table(&self, name: &str) -> Result<(), Failure> {
        let (project, dataset) = (&self.options.project, &self.options.dataset);
        let tables = self.tables().await?;
        let dropped = self.call(tables.delete(project, dataset, name)).await;
        found_or_none(dropped).map(drop)
    }

    /// The names of all tables of the dataset.
    pub(super) async fn list_tables(&self) -> Result<Vec<String>, Failure> {
        let (project, dataset) = (&self.options.project, &self.options.dataset);
        let tables = self.tables().await?;
        let (mut names, mut page) = (Vec::new(), None);
        loop {
            let mut options = ListOptions::default().max_results(PAGE);
            if let Some(page) = page {
                options = options.page_token(page);
            }
            let list = self.call(tables.list(project, dataset, options)).await?;
            let tables = list.tables.into_iter().flatten();
            names.extend(tables.map(|table| table.table_reference.table_id));
            page = list.next_page_token;
            if page.is_none() {
                return Ok(names);
            }
        }
    }

    // === queries ===

    /// Runs a statement whose repetition is harmless, under an id of BigQuery's own.
    pub(super) async fn query(
        &self,
        sql: String,
        parameters: Vec<QueryParameter>,
    ) -> Result<Answer, Failure> {
        let mut request = QueryRequest::new(sql);
        request.use_query_cache = Some(false);
        request.location.clone_from(&self.location);
        request.timeout_ms = Some(QUERY_WAIT_MS);
        if !parameters.is_empty() {
            request.parameter_mode = Some("NAMED".to_owned());
            request.query_parameters = Some(parameters);
        }
        let project = &self.options.project;
        let jobs = self.client().await?.job();
        let first = self.call(jobs.query(project, request)).await?;
        let id = first.job_reference.and_then(|job| job.job_id);
        let mut answer = Answer::default();
        let mut is_complete = first.job_complete.unwrap_or(false);
        let mut page = first.page_token;
        answer.take(first.rows, first.num_dml_affected_rows);
        let started = Instant::now();
        while !is_complete || page.is_some() {
            let id = id.as_deref().ok_or(Failure::Lacks("job id"))?;
            if started.elapsed() > self.options.job_patience {
                return Err(self.still_running(id));
            }
            let parameters = GetQueryResultsParameters {
                location: self.location.clone(),
                page_token: page.take(),
                timeout_ms: Some(QUERY_WAIT_MS),
                ..GetQueryResultsParameters::default()
            };
            let next = jobs.get_query_results(project, id, parameters);
            let next = self.call(next).await?;
            is_complete = next.job_complete.unwrap_or(false);
            page = next.page_token;
            answer.take(next.rows, next.num_dml_affected_rows);
        }
        Ok(answer)
    }

    // === jobs under our own ids ===

    /// The job with this id; `None` when it never arrived.
    pub(super) async fn find_job(&self, id: &str) -> Result<Option<Job>, Failure> {
        let (project, location) = (&self.options.project, self.location.as_deref());
        let jobs = self.client().await?.job();
        found_or_none(self.call(jobs.get_job(project, id, location)).await)
    }

    /// Sends a job; when one with its id is there already, that one is the answer.
    pub(super) async fn insert_job(
        &self,
        id: &str,
        configuration: JobConfiguration,
    ) -> Result<Job, Failure> {
        let job = Job {
            job_reference: Some(JobReference {
                project_id: Some(self.options.project.clone()),
                job_id: Some(id.to_owned()),
                location: self.location.clone(),
            }),
            configuration: Some(configuration),
            ..Job::default()
        };
        let jobs = self.client().await?.job();
        match Box::pin(self.call(jobs.insert(&self.options.project, job))).await {
            Err(failure) if failure.is_there() => {
                self.find_job(id).await?.ok_or(Failure::Lacks("job"))
            }
            inserted => inserted,
        }
    }

    /// Waits until a job has ended, well or not.
    pub(super) async fn ended_job(&self, id: &str, mut job: Job) -> Result<Job, Failure> {
        let started = Instant::now();
        let mut looks = 0_u32;
        loop {
            let status = job.status.as_ref();
            if status.and_then(|status| status.state.as_deref()) == Some("DONE") {
                return Ok(job);
            }
            if started.elapsed() > self.options.job_patience {
                return Err(self.still_running(id));
            }
            looks = looks.saturating_add(1);
            sleep(POLL.wait(looks)).await;
            job = self.find_job(id).await?.ok_or(Failure::Lacks("job"))?;
        }
    }

    fn still_running(&self, id: &str) -> Failure {
        Failure::Running {
            id: id.to_owned(),
            patience: self.options.job_patience,
        }
    }
}

impl Answer {
    fn take(&mut self, rows: Option<Vec<TableRow>>, changed: Option<String>) {
        let rows = rows.into_iter().flatten();
        self.rows.extend(rows.map(|row| {
            let cells = row.columns.into_iter().flatten();
            cells
                .map(|cell| match cell.value? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text),
                    other => Some(other.to_string()),
                })
                .collect()
        }));
        if let Some(changed) = changed.and_then(|changed| changed.parse().ok()) {
            self.changed = changed;
        }
    }

    /// The value in the first row.
    pub(super) fn first<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        number(self.rows.first()?, column)
    }
}

/// A value of a row.
pub(super) fn number<T: std::str::FromStr>(row: &[Cell], column: usize) -> Option<T> {
    row.get(column)?.as_deref()?.parse().ok()
}

fn found_or_none<T>(found: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn made<T>(made: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(failure) if failure.is_there() => Ok(None),
        Err(failure) => Err(failure),
    }
}
