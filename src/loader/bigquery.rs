//! The warehouse in BigQuery: load jobs into staging tables, then one transaction per manifest.
//!
//! ```text
//!  load(N)   ─▶ one load job per table: gs://… ─▶ <table>_staging_N_…_events, …_errors
//!  merge(N)  ─▶ one script job, one transaction: staging ─▶ <table>, <table>_errors, and N's counts ─▶ <table>_loaded_manifests
//!  record(N) ─▶ one script job, one transaction: N is done, its objects ─▶ <table>_loaded_objects; staging is dropped
//! ```
//!
//! Why every step may be repeated by anyone, and what happens when the process dies in it:
//!
//! - Every job has an id that derives from the tables, the manifest and a count ([`names`]). BigQuery runs an id once: whoever
//!   inserts it again hears 409 and waits for the one that is there; 404 means that it never arrived. So a death, or a lost
//!   answer, between insert and end leaves a job that the next start finds under its id; two loaders wait for one job.
//! - *What is done is read from the tables, never from a job.* A job is remembered for months, also when its tables were
//!   deleted or put back from a copy. Staged is what a staging table holds, row for row as its load job said; merged and recorded
//!   is what `<table>_loaded_manifests` says, which is committed with the rows themselves. A job that ended well and left
//!   nothing belongs to tables that are gone: the next count is tried. A staging table has the count in its name: each is
//!   filled by one job, so nothing is loaded into it twice.
//! - A job that failed is burnt. A load that failed for an object's content isolates the object ([`LoadError::Object`]); one that
//!   failed for BigQuery's own reasons gives the manifest up for a new one ([`LoadError::Attempt`]). A merge or a record that failed
//!   changed nothing, its transaction was rolled back; the next call runs it under the next count.
//! - Between load and merge, and between merge and record, nothing is half done: either the transaction is committed, with its
//!   counts, or it is not. A repeated merge reads the counts and answers them.
//!
//! *The window.* A merge looks for repeats in the partitions of the days on which what is staged was received, and of so many days
//! before and after each (`EVENTKIT_WAREHOUSE_DEDUP_DAYS`); so it reads and pays for days, not for the table, and one wild clock does
//! not widen it. Copies of an event that were received further apart become two rows.
//!
//! *Quotas.* 1,500 load jobs per table and day, failed ones included: a staging table has one. 100,000 load jobs per project and day: a
//! manifest has at most two, and at the usual interval of 300 s with one manifest each that is 576 a day. At most 10,000 URIs a job and
//! 4,000 partitions a transaction: [`LIMITS`] keeps both, since an object is of one day. DML has no daily quota.
//!
//! No table expires, whatever default a dataset has for new ones: staging tables are dropped with the record of their manifest, or by
//! the next start.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::inbox::Limits;
use super::manifest::Manifest;
use super::warehouse::{
    Expired, LoadError, MergeError, Merged, Outcome, Staged, Warehouse, WarehouseError,
};
use crate::clock::Clock;
use crate::cloud::{self, NoCredentials};
use crate::config::Endpoint;
use crate::event::Micros;
use crate::store::{Objects, Table};

mod api;
mod counts;
mod failure;
mod names;
mod records;
mod schema;
mod script;
mod stage;

use api::Api;
use counts::Counts;
use failure::Failure;
use names::{BadName, Names};
use stage::Staging;

/// How much one manifest takes when BigQuery loads it: below 10,000 URIs a job and 4,000 partitions a transaction.
pub const LIMITS: Limits = Limits {
    objects: 4_000,
    bytes: 16 << 30,
    rows: 50_000_000,
};

/// Which tables, and how they are reached.
#[derive(Debug, Clone)]
pub struct BigQueryOptions {
    /// The project of dataset and jobs.
    pub project: String,
    /// The dataset; made if it is missing.
    pub dataset: String,
    /// The table of events; everything else is named after it.
    pub table: String,
    /// The bucket of the objects.
    pub bucket: String,
    /// Google, or an emulator.
    pub endpoint: Endpoint,
    /// Where a dataset that is missing is made; `None` leaves it to BigQuery.
    pub location: Option<String>,
    /// Days around each received day in which repeats are looked for.
    pub dedup_days: u32,
    /// How long one call may take.
    pub request_timeout: Duration,
    /// How long a job is waited for before the round ends as failed; the next one goes on waiting.
    pub job_patience: Duration,
}

impl BigQueryOptions {
    /// The usual ones.
    #[must_use]
    pub fn new(
        endpoint: Endpoint,
        project: impl Into<String>,
        dataset: impl Into<String>,
        table: impl Into<String>,
        bucket: impl Into<String>,
    ) -> Self {
        Self {
            project: project.into(),
            dataset: dataset.into(),
            table: table.into(),
            bucket: bucket.into(),
            endpoint,
            location: None,
            dedup_days: 3,
            request_timeout: Duration::from_secs(60),
            job_patience: Duration::from_secs(600),
        }
    }
}

/// Why there is no warehouse to talk to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A name that BigQuery does not have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Nobody to be.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
}

/// The tables of one dataset.
#[derive(Debug)]
pub struct BigQueryWarehouse {
    api: Api,
    names: Names,
    clock: Arc<dyn Clock>,
    dedup_days: u32,
    /// What the last load staged.
    staged: Option<Staging>,
    /// Staging tables that this process filled or found, with the number of their manifest; dropped with its record.
    staging_tables: BTreeSet<(u64, String)>,
    counts: Counts,
    is_prepared: bool,
}

impl BigQueryWarehouse {
    /// The warehouse of these options. Calls nobody before it is prepared.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn new(options: BigQueryOptions, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let names = Names::new(&options)?;
        let tokens = cloud::access_tokens(&options.endpoint)?;
        Ok(Self {
            dedup_days: options.dedup_days,
            api: Api::new(options, tokens),
            names,
            clock,
            staged: None,
            staging_tables: BTreeSet::new(),
            counts: Counts::default(),
            is_prepared: false,
        })
    }

    /// Whether we are let in. A dataset that is not there is made later.
    ///
    /// # Errors
    ///
    /// [`WarehouseError`]; only `Denied` is more than an outage.
    pub async fn check(&mut self) -> Result<(), WarehouseError> {
        let found = self.api.find_dataset().await;
        found.map(drop).map_err(|failure| self.error(failure))
    }

    /// What a failed call means for the one who asked.
    fn error(&self, failure: Failure) -> WarehouseError {
        failure.of_warehouse(self.names.to_string())
    }
}

#[async_trait]
impl Warehouse for BigQueryWarehouse {
    async fn prepare(&mut self) -> Result<(), WarehouseError> {
        self.staged = None;
        let there = self.make_tables().await?;
        self.is_prepared = true;
        self.drop_old_staging(&there).await
    }

    async fn last_recorded(&mut self) -> Result<Option<u64>, WarehouseError> {
        self.highest_recorded().await
    }

    async fn recorded(&mut self, objects: &[String]) -> Result<HashSet<String>, WarehouseError> {
        self.recorded_of(objects).await
    }

    async fn load(
        &mut self,
        manifest: &Manifest,
        _objects: &dyn Objects,
    ) -> Result<Staged, LoadError> {
        self.staged = None;
        // Merged before: nothing has to be staged again for the counts to be answered again.
        let known = self.known(manifest).await?;
        if let Some(staged) = known.and_then(|known| known.staged()) {
            self.staged = Some(Staging::none(manifest));
            return Ok(staged);
        }
        let mut staging = Staging::none(manifest);
        staging.events = self.stage(manifest, Table::Events).await?;
        staging.errors = self.stage(manifest, Table::Errors).await?;
        let staged = staging.rows();
        self.staged = Some(staging);
        Ok(staged)
    }

    async fn merge(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        self.merge_staged(manifest).await
    }

    async fn record(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        self.record_outcome(manifest, outcome).await?;
        self.drop_staging(manifest.number).await;
        Ok(())
    }

    async fn expire(&mut self, before: Micros, _limit: u32) -> Result<Expired, WarehouseError> {
        self.expire_rows(before).await
    }

    async fn oldest(&mut self) -> Result<Option<Micros>, WarehouseError> {
        self.oldest_row().await
    }
}
