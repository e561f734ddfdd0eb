//! Objects into staging tables, by load jobs; and the staging tables' end.

use std::collections::BTreeSet;

use gcp_bigquery_client::model::job::Job;
use gcp_bigquery_client::model::job_configuration::JobConfiguration;
use gcp_bigquery_client::model::job_configuration_load::JobConfigurationLoad;
use gcp_bigquery_client::model::table_reference::TableReference;

use super::super::manifest::{Manifest, ManifestObject};
use super::super::warehouse::{LoadError, Staged, WarehouseError};
use super::BigQueryWarehouse;
use super::api::number;
use super::failure::{Failure, JobError};
use super::names::content;
use crate::event::Day;
use crate::store::Table;
use crate::telemetry::{names, trace, with_causes};

/// URIs that one load job takes.
const URIS_MAX: usize = 10_000;

/// One table's staged rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The staging table.
    pub(super) table: String,
    /// Its rows.
    pub(super) rows: u64,
    /// The days on which they were received.
    pub(super) days: Vec<Day>,
}

/// What is staged of a manifest.
#[derive(Debug)]
pub(super) struct Staging {
    number: u64,
    content: u64,
    pub(super) events: Option<Part>,
    pub(super) errors: Option<Part>,
}

impl Staging {
    pub(super) fn none(manifest: &Manifest) -> Self {
        Self {
            number: manifest.number,
            content: content(manifest),
            events: None,
            errors: None,
        }
    }

    pub(super) fn is_of(&self, manifest: &Manifest) -> bool {
        self.number == manifest.number && self.content == content(manifest)
    }

    pub(super) fn rows(&self) -> Staged {
        let rows = |part: &Option<Part>| part.as_ref().map_or(0, |part| part.rows);
        Staged {
            events: rows(&self.events),
            errors: rows(&self.errors),
        }
    }
}

impl BigQueryWarehouse {
    /// Stages the objects of one table; `None` when there are none.
    pub(super) async fn stage(
        &mut self,
        manifest: &Manifest,
        table: Table,
    ) -> Result<Option<Part>, LoadError> {
        let objects = manifest.objects.iter().filter(|o| o.table == table);
        let objects: Vec<&ManifestObject> = objects.collect();
        if objects.is_empty() {
            return Ok(None);
        }
        if objects.len() > URIS_MAX {
            // Halved like a manifest with a bad object.
            let reason = format!("one load job takes {URIS_MAX} objects at most");
            return Err(LoadError::Object {
                object: None,
                reason,
            });
        }
        loop {
            let count = self.counts.free(manifest, table.as_str());
            match Box::pin(self.stage_once(manifest, table, &objects, count)).await? {
                Once::Staged(part) => return Ok(Some(part)),
                Once::Burnt => self.counts.used(table.as_str(), count),
            }
        }
    }

    async fn stage_once(
        &mut self,
        manifest: &Manifest,
        table: Table,
        objects: &[&ManifestObject],
        count: u32,
    ) -> Result<Once, LoadError> {
        let id = self.names.job(manifest, table.as_str(), count);
        let name = match table {
            Table::Events => names::JOB_ID,
            Table::Errors => names::ERRORS_JOB_ID,
        };
        trace::current().set(name, id.clone());
        let staging = self.names.staging(manifest, table, count);
        let found = self.api.find_job(&id).await;
        let found = found.map_err(|failure| self.error(failure))?;
        let was_there = found.is_some();
        let job = match found {
            Some(job) => Ok(job),
            None => {
                Box::pin(self.make_staging(staging.clone(), table)).await?;
                let load = self.load_job(&staging, objects);
                self.api.insert_job(&id, load).await
            }
        };
        let held = (manifest.number, staging.clone());
        self.staging_tables.insert(held.clone());
        let job = job.map_err(|failure| self.error(failure))?;
        let ended = self.api.ended_job(&id, job).await;
        let job = ended.map_err(|failure| self.error(failure))?;
        if let Some(error) = JobError::of(&job) {
            // A refusal stays until a person acts; then the objects are loaded under the next count.
            return match error.is_denied() {
                true if was_there => Ok(Once::Burnt),
                true => {
                    self.counts.used(table.as_str(), count);
                    self.staging_tables.remove(&held);
                    self.drop_staged(&staging).await;
                    Err(self.error(Failure::Job { id, error }).into())
                }
                false => Err(error.of_load(objects)),
            };
        }
        match self.look_at(&staging).await? {
            Some(part) if Some(part.rows) == rows_of(&job) => Ok(Once::Staged(part)),
            // Of tables that were deleted meanwhile, or before.
            _ if was_there => Ok(Once::Burnt),
            _ => Err(self.error(Failure::StagingLost(staging)).into()),
        }
    }

    /// What a staging table holds; `None` when there is none.
    async fn look_at(&self, staging: &str) -> Result<Option<Part>, WarehouseError> {
        let sql = format!(
            "SELECT UNIX_DATE(DATE(received_at)) AS day, COUNT(*) AS n FROM {} GROUP BY day",
            self.names.quoted(staging)
        );
        let answer = match self.api.query(sql, Vec::new()).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(self.error(failure)),
        };
        let mut part = Part {
            table: staging.to_owned(),
            rows: 0,
            days: Vec::new(),
        };
        for row in &answer.rows {
            let (Some(day), Some(rows)) = (number(row, 0), number::<u64>(row, 1)) else {
                return Err(self.error(Failure::Lacks("count of a day")));
            };
            part.days.push(Day(day));
            part.rows = part.rows.saturating_add(rows);
        }
        part.days.sort_unstable();
        Ok(Some(part))
    }

    /// A load into the table that is there: what older files lack is null, what newer ones have more is added and then left out by the
    /// merge. Never `WRITE_TRUNCATE`, which would take all columns from the files instead.
    fn load_job(&self, staging: &str, objects: &[&ManifestObject]) -> JobConfiguration {
        let uris = objects.iter().map(|o| self.names.uri(&o.object));
        let (project, dataset) = self.names.place();
        JobConfiguration {
            load: Some(JobConfigurationLoad {
                source_uris: Some(uris.collect()),
                source_format: Some("PARQUET".to_owned()),
                destination_table: Some(TableReference::new(project, dataset, staging)),
                create_disposition: Some("CREATE_NEVER".to_owned()),
                write_disposition: Some("WRITE_APPEND".to_owned()),
                schema_update_options: Some(vec!["ALLOW_FIELD_ADDITION".to_owned()]),
                ..JobConfigurationLoad::default()
            }),
            ..JobConfiguration::default()
        }
    }

    /// Drops what was staged of a manifest. What stays behind is dropped by the next start.
    pub(super) async fn drop_staging(&mut self, manifest: u64) {
        let (ended, open): (BTreeSet<_>, BTreeSet<_>) = std::mem::take(&mut self.staging_tables)
            .into_iter()
            .partition(|(number, _)| *number <= manifest);
        self.staging_tables = open;
        for (_, table) in ended {
            self.drop_staged(&table).await;
        }
    }

    async fn drop_staged(&self, table: &str) {
        if let Err(failure) = self.api.drop_table(table).await {
            tracing::warn!(table, error = %with_causes(&failure), "staging_table_stays");
        }
    }

    /// Drops those of these tables that are the staging of manifests that are recorded.
    pub(super) async fn drop_old_staging(&self, tables: &[String]) -> Result<(), WarehouseError> {
        let staged: Vec<(u64, &String)> = tables
            .iter()
            .filter_map(|table| Some((self.names.staged_manifest(table)?, table)))
            .collect();
        if staged.is_empty() {
            return Ok(());
        }
        let last = self.highest_recorded().await?.unwrap_or(0);
        for (_, table) in staged.iter().filter(|(number, _)| *number <= last) {
            let dropped = self.api.drop_table(table).await;
            dropped.map_err(|failure| self.error(failure))?;
        }
        Ok(())
    }
}

/// What became of one count.
enum Once {
    Staged(Part),
    /// It was used up before.
    Burnt,
}

fn rows_of(job: &Job) -> Option<u64> {
    let load = job.statistics.as_ref()?.load.as_ref()?;
    load.output_rows.as_deref()?.parse().ok()
}
