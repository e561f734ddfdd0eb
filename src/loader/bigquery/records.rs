//! What became of manifests, as the tables know it; the two scripts that change it; and old rows out of the tables.

use std::collections::HashSet;

use gcp_bigquery_client::model::job_configuration::JobConfiguration;
use gcp_bigquery_client::model::job_configuration_query::JobConfigurationQuery;
use gcp_bigquery_client::model::query_parameter::QueryParameter;
use gcp_bigquery_client::model::query_parameter_type::QueryParameterType;
use gcp_bigquery_client::model::query_parameter_value::QueryParameterValue;

use super::super::iso::iso;
use super::super::manifest::Manifest;
use super::super::warehouse::{Expired, MergeError, Merged, Outcome, Staged, WarehouseError};
use super::BigQueryWarehouse;
use super::api::number;
use super::failure::{Failure, JobError};
use super::script::{self, Merge};
use crate::event::Micros;
use crate::store::Table;
use crate::telemetry::{names, trace};

/// What the tables know of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    merged: Merged,
    status: Status,
}

/// How far a manifest got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Merged,
    Loaded,
    /// Recorded in another way: nothing of it is in the tables.
    GivenUp,
}

impl Known {
    /// What was staged, by what became of it; `None` when nothing was loaded.
    pub(super) fn staged(&self) -> Option<Staged> {
        if self.status == Status::GivenUp {
            return None;
        }
        let Merged {
            events_inserted,
            events_duplicate,
            errors_inserted,
            errors_duplicate,
            errors_superseded,
            errors_removed: _,
        } = self.merged;
        Some(Staged {
            events: events_inserted.saturating_add(events_duplicate),
            errors: errors_inserted
                .saturating_add(errors_duplicate)
                .saturating_add(errors_superseded),
        })
    }
}

/// What a script is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Merged,
    Recorded,
}

impl Goal {
    const fn step(self) -> &'static str {
        match self {
            Self::Merged => "merge",
            Self::Recorded => "record",
        }
    }

    fn is_reached(self, known: &Known) -> bool {
        self == Self::Merged || known.status != Status::Merged
    }
}

impl BigQueryWarehouse {
    /// What became of a manifest, if anything did.
    pub(super) async fn known(&self, manifest: &Manifest) -> Result<Option<Known>, WarehouseError> {
        let sql = format!(
            "SELECT events_inserted, events_duplicate, errors_inserted, errors_duplicate, errors_superseded, errors_removed,
                CASE status WHEN 'merged' THEN 0 WHEN 'loaded' THEN 1 ELSE 2 END,
                objects
            FROM {} WHERE number = {}",
            self.names.quoted(&self.names.manifests()),
            manifest.number
        );
        let answer = self.api.query(sql, Vec::new()).await;
        let answer = answer.map_err(|failure| self.error(failure))?;
        let Some(row) = answer.rows.first() else {
            return Ok(None);
        };
        let objects = row.get(7).and_then(Option::as_deref).unwrap_or_default();
        if !manifest.is_of(objects) {
            return Err(WarehouseError::Shared {
                name: self.names.to_string(),
                number: manifest.number,
            });
        }
        let count = |column| number(row, column);
        let known = || {
            Some(Known {
                merged: Merged {
                    events_inserted: count(0)?,
                    events_duplicate: count(1)?,
                    errors_inserted: count(2)?,
                    errors_duplicate: count(3)?,
                    errors_superseded: count(4)?,
                    errors_removed: count(5)?,
                },
                status: match count(6)? {
                    0 => Status::Merged,
                    1 => Status::Loaded,
                    _ => Status::GivenUp,
                },
            })
        };
        let known = known().ok_or_else(|| self.error(Failure::Lacks("counts")))?;
        Ok(Some(known))
    }

    /// Brings the manifest to its goal by a job that runs under each count once, unless it is there.
    async fn reach(
        &mut self,
        manifest: &Manifest,
        goal: Goal,
        configuration: JobConfiguration,
    ) -> Result<Known, Failed> {
        let step = goal.step();
        let mut known = self.known(manifest).await?;
        loop {
            if let Some(known) = known.filter(|known| goal.is_reached(known)) {
                return Ok(known);
            }
            let count = self.counts.free(manifest, step);
            let error = |failure| Failed::Warehouse(self.error(failure));
            let id = self.names.job(manifest, step, count);
            trace::current().set(names::JOB_ID, id.clone());
            let found = self.api.find_job(&id).await.map_err(error)?;
            let was_there = found.is_some();
            let job = match found {
                Some(job) => job,
                None => {
                    let sent = self.api.insert_job(&id, configuration.clone()).await;
                    sent.map_err(error)?
                }
            };
            let job = self.api.ended_job(&id, job).await.map_err(error)?;
            match JobError::of(&job) {
                // It failed before.
                Some(_) if was_there => {}
                Some(failed) => {
                    let lacks_staging =
                        failed.lacks_a_table() && failed.message.contains("_staging_");
                    let failed = match lacks_staging {
                        true => Failed::NotStaged,
                        false => error(Failure::Job { id, error: failed }),
                    };
                    self.counts.used(step, count);
                    return Err(failed);
                }
                // One that ended well before, and left nothing, was of tables that are gone.
                None => {
                    known = self.known(manifest).await?;
                    // One job a call: whatever this is, more of them would not mend it.
                    if !was_there && known.is_none_or(|known| !goal.is_reached(&known)) {
                        return Err(error(Failure::Lacks("record of what its job did")));
                    }
                }
            }
            self.counts.used(step, count);
        }
    }

    pub(super) async fn merge_staged(&mut self, manifest: &Manifest) -> Result<Merged, MergeError> {
        let staged = self.staged.take().filter(|staged| staged.is_of(manifest));
        let staging = staged.ok_or(MergeError::NotStaged(manifest.number))?;
        let merge = Merge {
            names: &self.names,
            number: manifest.number,
            attempt: manifest.attempt,
            rows: manifest.rows(),
            dedup_days: self.dedup_days,
        };
        let parameters = vec![
            text("created_at", manifest.created_at.clone()),
            text("objects", manifest.object_list()),
            integer("now", self.clock.now()),
        ];
        let job = script_job(merge.script(&staging), parameters);
        let known = match Box::pin(self.reach(manifest, Goal::Merged, job)).await {
            Ok(known) => known,
            Err(Failed::NotStaged) => return Err(MergeError::NotStaged(manifest.number)),
            Err(Failed::Warehouse(error)) => {
                self.staged = Some(staging);
                return Err(error.into());
            }
        };
        self.staged = Some(staging);
        Ok(known.merged)
    }

    pub(super) async fn record_outcome(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), WarehouseError> {
        let (merged, reason) = match outcome {
            Outcome::Loaded(merged) => (*merged, ""),
            Outcome::Quarantined { reason }
            | Outcome::Superseded { reason }
            | Outcome::Discarded { reason } => (Merged::default(), reason.as_str()),
        };
        let is_loaded = matches!(outcome, Outcome::Loaded(_)) && !manifest.objects.is_empty();
        let mut parameters = vec![
            text("status", outcome.as_str().to_owned()),
            text("reason", reason.to_owned()),
            text("created_at", manifest.created_at.clone()),
            text("objects", manifest.object_list()),
            integer("now", self.clock.now()),
        ];
        if is_loaded {
            let objects = &manifest.objects;
            let tables = objects.iter().map(|o| o.table.as_str().to_owned());
            let counts = objects.iter().map(|o| o.rows.to_string());
            parameters.push(array("names", "STRING", manifest.object_names()));
            parameters.push(array("tables", "STRING", tables));
            parameters.push(array("counts", "INT64", counts));
        }
        let sql = script::record(
            &self.names,
            (manifest.number, manifest.attempt, manifest.rows()),
            [
                merged.events_inserted,
                merged.events_duplicate,
                merged.errors_inserted,
                merged.errors_duplicate,
                merged.errors_superseded,
                merged.errors_removed,
            ],
            is_loaded,
        );
        let job = script_job(sql, parameters);
        match Box::pin(self.reach(manifest, Goal::Recorded, job)).await {
            Ok(_) => Ok(()),
            Err(Failed::Warehouse(error)) => Err(error),
            Err(Failed::NotStaged) => Err(self.gone()),
        }
    }

    pub(super) async fn highest_recorded(&self) -> Result<Option<u64>, WarehouseError> {
        let sql = format!(
            "SELECT MAX(number) FROM {} WHERE status <> 'merged'",
            self.names.quoted(&self.names.manifests())
        );
        let answer = self.api.query(sql, Vec::new()).await;
        Ok(answer.map_err(|failure| self.error(failure))?.first(0))
    }

    pub(super) async fn recorded_of(
        &self,
        objects: &[String],
    ) -> Result<HashSet<String>, WarehouseError> {
        let (Some(first), Some(last)) = (objects.iter().min(), objects.iter().max()) else {
            return Ok(HashSet::new());
        };
        // The two ends let the clustering leave out most of the table.
        let sql = format!(
            "SELECT DISTINCT object FROM {} WHERE object BETWEEN @first AND @last AND object IN UNNEST(@names)",
            self.names.quoted(&self.names.objects())
        );
        let parameters = vec![
            text("first", first.clone()),
            text("last", last.clone()),
            array("names", "STRING", objects.to_vec()),
        ];
        let answer = self.api.query(sql, parameters).await;
        let rows = answer.map_err(|failure| self.error(failure))?.rows;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    /// All at once: BigQuery drops whole partitions for nothing, and a statement for some rows of one rewrites it.
    pub(super) async fn expire_rows(&self, before: Micros) -> Result<Expired, WarehouseError> {
        let mut expired = Expired::default();
        for (table, removed) in [
            (Table::Events, &mut expired.events),
            (Table::Errors, &mut expired.errors),
        ] {
            let sql = format!(
                "DELETE FROM {} WHERE received_at < TIMESTAMP '{}'",
                self.names.quoted(&self.names.rows(table)),
                iso(before)
            );
            let answer = self.api.query(sql, Vec::new()).await;
            *removed = answer.map_err(|failure| self.error(failure))?.changed;
        }
        Ok(expired)
    }

    /// From what BigQuery knows of the partitions, so that one day is read and not the table.
    pub(super) async fn oldest_row(&self) -> Result<Option<Micros>, WarehouseError> {
        let mut oldest: Option<Micros> = None;
        for table in [Table::Events, Table::Errors] {
            let name = self.names.rows(table);
            let sql = format!(
                "SELECT MIN(partition_id) FROM {} WHERE table_name = '{name}' AND total_rows > 0 AND partition_id < '_'",
                self.names.information_schema("PARTITIONS")
            );
            let answer = self.api.query(sql, Vec::new()).await;
            let day = answer.map_err(|failure| self.error(failure))?.first(0);
            let Some(day) = day.filter(|day: &String| day.parse::<u32>().is_ok()) else {
                continue;
            };
            let from = format!("TIMESTAMP(PARSE_DATE('%Y%m%d', '{day}'))");
            let sql = format!(
                "SELECT UNIX_MICROS(MIN(received_at)) FROM {} WHERE received_at >= {from} AND received_at < TIMESTAMP_ADD({from}, INTERVAL 1 DAY)",
                self.names.quoted(&name)
            );
            let answer = self.api.query(sql, Vec::new()).await;
            let first = answer.map_err(|failure| self.error(failure))?.first(0);
            oldest = oldest.into_iter().chain(first).min();
        }
        Ok(oldest)
    }
}

/// Why a script did not bring a manifest to its goal.
enum Failed {
    Warehouse(WarehouseError),
    NotStaged,
}

impl From<WarehouseError> for Failed {
    fn from(error: WarehouseError) -> Self {
        Self::Warehouse(error)
    }
}

fn script_job(query: String, parameters: Vec<QueryParameter>) -> JobConfiguration {
    JobConfiguration {
        query: Some(JobConfigurationQuery {
            query,
            use_legacy_sql: Some(false),
            parameter_mode: Some("NAMED".to_owned()),
            query_parameters: Some(parameters),
            ..JobConfigurationQuery::default()
        }),
        ..JobConfiguration::default()
    }
}

fn kind(name: &str) -> QueryParameterType {
    QueryParameterType {
        r#type: name.to_owned(),
        ..QueryParameterType::default()
    }
}

fn value(text: String) -> QueryParameterValue {
    QueryParameterValue {
        value: Some(text),
        ..QueryParameterValue::default()
    }
}

fn text(name: &str, text: String) -> QueryParameter {
    QueryParameter {
        name: Some(name.to_owned()),
        parameter_type: Some(kind("STRING")),
        parameter_value: Some(value(text)),
    }
}

fn integer(name: &str, number: i64) -> QueryParameter {
    QueryParameter {
        name: Some(name.to_owned()),
        parameter_type: Some(kind("INT64")),
        parameter_value: Some(value(number.to_string())),
    }
}

fn array(name: &str, of: &str, values: impl IntoIterator<Item = String>) -> QueryParameter {
    QueryParameter {
        name: Some(name.to_owned()),
        parameter_type: Some(QueryParameterType {
            array_type: Some(Box::new(kind(of))),
            ..kind("ARRAY")
        }),
        parameter_value: Some(QueryParameterValue {
            array_values: Some(values.into_iter().map(value).collect()),
            ..QueryParameterValue::default()
        }),
    }
}
