//! Names of tables and of jobs. All of a warehouse's own begin with the name of its table, so that two of them can share a
//! dataset; all of a manifest's derive from what is in it, so that whoever repeats a step finds what was begun.

use std::fmt::{self, Write as _};

use xxhash_rust::xxh3::xxh3_64;

use super::super::manifest::Manifest;
use super::BigQueryOptions;
use crate::store::Table;

/// A name that cannot be one in BigQuery, or that we do not quote.
#[derive(Debug, thiserror::Error)]
#[error("{what} {name:?} is not a BigQuery name: letters, digits and {also} are")]
pub struct BadName {
    what: &'static str,
    name: String,
    also: &'static str,
}

/// The names of one warehouse.
#[derive(Debug, Clone)]
pub(super) struct Names {
    project: String,
    dataset: String,
    table: String,
    bucket: String,
    /// Stands for all four in the ids of jobs, which are unique in a project.
    identity: u64,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.project, self.dataset, self.table)
    }
}

impl Names {
    pub(super) fn new(options: &BigQueryOptions) -> Result<Self, BadName> {
        check("project", &options.project, "-.:_")?;
        check("dataset", &options.dataset, "_")?;
        check("table", &options.table, "_-")?;
        check("bucket", &options.bucket, "-._")?;
        let all = [
            &options.project,
            &options.dataset,
            &options.table,
            &options.bucket,
        ];
        let identity = xxh3_64(all.map(String::as_str).join("\n").as_bytes());
        Ok(Self {
            project: options.project.clone(),
            dataset: options.dataset.clone(),
            table: options.table.clone(),
            bucket: options.bucket.clone(),
            identity,
        })
    }

    /// Project and dataset.
    pub(super) fn place(&self) -> (&str, &str) {
        (&self.project, &self.dataset)
    }

    /// The table of events, or of error rows.
    pub(super) fn rows(&self, table: Table) -> String {
        match table {
            Table::Events => self.table.clone(),
            Table::Errors => format!("{}_errors", self.table),
        }
    }

    /// How manifests ended.
    pub(super) fn manifests(&self) -> String {
        format!("{}_loaded_manifests", self.table)
    }

    /// The objects of loaded manifests.
    pub(super) fn objects(&self) -> String {
        format!("{}_loaded_objects", self.table)
    }

    /// The views on the objects. The first that is prepared in a dataset also gets the short name, under which people look.
    pub(super) fn views(&self) -> [String; 2] {
        let own = format!("{}_loaded_files", self.table);
        [own, "_loaded_files".to_owned()]
    }

    /// A table for SQL.
    pub(super) fn quoted(&self, table: &str) -> String {
        format!("`{}.{}.{table}`", self.project, self.dataset)
    }

    /// A column of the views of the dataset's own data about itself.
    pub(super) fn information_schema(&self, view: &str) -> String {
        format!(
            "`{}.{}.INFORMATION_SCHEMA.{view}`",
            self.project, self.dataset
        )
    }

    /// Where an object lies.
    pub(super) fn uri(&self, object: &str) -> String {
        format!("gs://{}/{object}", self.bucket)
    }

    /// The id of a manifest's job, at the given count from 1.
    pub(super) fn job(&self, manifest: &Manifest, step: &str, count: u32) -> String {
        format!(
            "eventkit-{:016x}-{}-{}-{:016x}-{step}-{count}",
            self.identity,
            manifest.number,
            manifest.attempt,
            content(manifest)
        )
    }

    /// The table that the load job of the same count fills.
    pub(super) fn staging(&self, manifest: &Manifest, table: Table, count: u32) -> String {
        format!(
            "{}{}_{:016x}_{count}_{}",
            self.staging_prefix(),
            manifest.number,
            content(manifest),
            table.as_str()
        )
    }

    fn staging_prefix(&self) -> String {
        format!("{}_staging_", self.table)
    }

    /// The manifest whose staging table has this name; `None` for all other tables.
    pub(super) fn staged_manifest(&self, table: &str) -> Option<u64> {
        let rest = table.strip_prefix(&self.staging_prefix())?;
        let parts: Vec<&str> = rest.split('_').collect();
        let [number, hash, count, kind] = parts.as_slice() else {
            return None;
        };
        let is_ours = hash.len() == 16
            && u64::from_str_radix(hash, 16).is_ok()
            && count.parse::<u32>().is_ok()
            && matches!(*kind, "events" | "errors");
        number.parse().ok().filter(|_| is_ours)
    }
}

fn check(what: &'static str, name: &str, also: &'static str) -> Result<(), BadName> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || also.as_bytes().contains(&byte);
    if !name.is_empty() && name.len() <= 512 && name.bytes().all(fits) {
        return Ok(());
    }
    Err(BadName {
        what,
        name: name.to_owned(),
        also,
    })
}

/// What a manifest loads. Its time is not in it: it is for people.
pub(super) fn content(manifest: &Manifest) -> u64 {
    let mut text = format!("{} {}", manifest.number, manifest.attempt);
    for object in &manifest.objects {
        write!(text, "\n{} {}", object.table.as_str(), object.object)
            .expect("a String takes any text");
    }
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use crate::loader::ManifestObject;
    use crate::store::Traces;

    fn names(table: &str) -> Result<Names, BadName> {
        let endpoint = Endpoint::emulator("localhost:1");
        Names::new(&BigQueryOptions::new(endpoint, "p-1", "d", table, "b"))
    }

    fn manifest(number: u64, attempt: u32, objects: &[&str]) -> Manifest {
        let objects = objects.iter().map(|name| ManifestObject {
            table: Table::Events,
            object: (*name).to_owned(),
            day: "2026-01-31".into(),
            rows: 1,
            bytes: 2,
            marker: "m".into(),
            traces: Traces::default(),
        });
        Manifest {
            version: 1,
            number,
            attempt,
            created_at: format!("{number}"),
            objects: objects.collect(),
        }
    }

    #[test]
    fn the_names_of_a_warehouse_do_not_change() {
        let names = names("events").unwrap();
        let one = manifest(7, 2, &["events/a"]);
        assert_eq!(
            names.quoted(&names.rows(Table::Errors)),
            "`p-1.d.events_errors`"
        );
        assert_eq!(names.manifests(), "events_loaded_manifests");
        assert_eq!(names.objects(), "events_loaded_objects");
        assert_eq!(names.views(), ["events_loaded_files", "_loaded_files"]);
        assert_eq!(names.uri("events/a"), "gs://b/events/a");
        assert_eq!(
            names.job(&one, "merge", 3),
            "eventkit-23e6223c43b7bcf1-7-2-5eb995b86056943d-merge-3"
        );
        assert_eq!(
            names.staging(&one, Table::Events, 1),
            "events_staging_7_5eb995b86056943d_1_events"
        );
    }

    #[test]
    fn a_jobs_id_stands_for_everything_that_the_job_does() {
        let (events, others) = (names("events").unwrap(), names("others").unwrap());
        let one = manifest(1, 1, &["a", "b"]);
        let ids = [
            events.job(&one, "merge", 1),
            others.job(&one, "merge", 1),
            events.job(&one, "merge", 2),
            events.job(&one, "record", 1),
            events.job(&manifest(2, 1, &["a", "b"]), "merge", 1),
            events.job(&manifest(1, 2, &["a", "b"]), "merge", 1),
            events.job(&manifest(1, 1, &["a"]), "merge", 1),
            events.job(&manifest(1, 1, &["ab"]), "merge", 1),
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "{ids:?}");
        for id in &ids {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            assert!(id.len() <= 1_024 && id.bytes().all(plain), "{id}");
        }
        let later = Manifest {
            created_at: "later".into(),
            ..one.clone()
        };
        assert_eq!(events.job(&later, "merge", 1), ids[0]);
    }

    #[test]
    fn a_staging_table_tells_its_manifest_and_no_other_table_does() {
        let names = names("events").unwrap();
        let staging = names.staging(&manifest(12, 1, &["a"]), Table::Errors, 4);
        assert_eq!(names.staged_manifest(&staging), Some(12));
        for other in [
            "events",
            "events_errors",
            "events_staging_12",
            "events_staging_12_notahash_1_events",
            "events_staging_12_00000000000000ff_1_other",
            "events_staging_12_00000000000000ff_1_events_mine",
            "other_staging_12_00000000000000ff_1_events",
        ] {
            assert_eq!(names.staged_manifest(other), None, "{other}");
        }
    }

    #[test]
    fn names_that_would_have_to_be_quoted_are_refused() {
        for bad in ["", "a`b", "a b", "a.b", "ä", "a;b"] {
            let refused = names(bad).unwrap_err().to_string();
            assert!(refused.contains("table"), "{refused}");
        }
    }
}
