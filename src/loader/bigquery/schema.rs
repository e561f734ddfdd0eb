//! The tables, and what is done when they are there already.
//!
//! Columns have the names of the one wide row; times are TIMESTAMP, the JSON columns are STRING, byte for byte as the client wrote
//! them (`JSON_VALUE(properties, '$.total')`, `PARSE_JSON(properties)`). Nullable columns that a later version brought are added; a
//! table that lacks a column which every row has is not ours, nor is one with a column of another type.

use std::collections::HashMap;

use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::table::Table as TableResource;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;

use super::super::warehouse::WarehouseError;
use super::BigQueryWarehouse;
use crate::store::Table;

mod columns;

pub(super) use columns::{Column, columns, list};
use columns::{MANIFESTS, OBJECTS};

/// The label that says which version of the tables these are. It counts changes that an older program could not live with.
const LABEL: &str = "eventkit-schema";

/// Its value.
const VERSION: i64 = 1;

/// A table as it should be.
struct Design {
    name: String,
    columns: &'static [Column],
    is_by_day: bool,
    clustered_by: &'static [&'static str],
}

impl Design {
    fn is_clustered(&self, table: &TableResource) -> bool {
        let fields = table.clustering.as_ref().and_then(|by| by.fields.as_ref());
        let first = fields.into_iter().flatten().take(self.clustered_by.len());
        first.eq(self.clustered_by)
    }
}

impl BigQueryWarehouse {
    /// Makes what is missing, and tells which tables there were. Once this process has used the tables, one that is missing is an error
    /// and never quietly made again.
    pub(super) async fn make_tables(&mut self) -> Result<Vec<String>, WarehouseError> {
        let found = self.api.find_dataset().await;
        if !found.map_err(|failure| self.error(failure))? {
            if self.is_prepared {
                return Err(self.gone());
            }
            let made = self.api.make_dataset().await;
            made.map_err(|failure| self.error(failure))?;
            let found = self.api.find_dataset().await;
            found.map_err(|failure| self.error(failure))?;
        }
        let there = self.api.list_tables().await;
        let there = there.map_err(|failure| self.error(failure))?;
        for design in self.designs() {
            self.make(&design, self.is_prepared).await?;
        }
        let objects = self.names.quoted(&self.names.objects());
        for view in self.names.views() {
            if there.contains(&view) {
                continue;
            }
            let view = self.names.quoted(&view);
            let sql = format!(
                "CREATE VIEW IF NOT EXISTS {view} AS SELECT {} FROM {objects}",
                list(OBJECTS, "")
            );
            let made = self.api.query(sql, Vec::new()).await;
            made.map_err(|failure| self.error(failure))?;
        }
        Ok(there)
    }

    fn designs(&self) -> [Design; 4] {
        let rows = |table, clustered_by| Design {
            name: self.names.rows(table),
            columns: columns(table),
            is_by_day: true,
            clustered_by,
        };
        [
            rows(Table::Events, &["stream", "event"]),
            rows(Table::Errors, &["code"]),
            Design {
                name: self.names.manifests(),
                columns: MANIFESTS,
                is_by_day: false,
                clustered_by: &["number"],
            },
            Design {
                name: self.names.objects(),
                columns: OBJECTS,
                is_by_day: false,
                clustered_by: &["object"],
            },
        ]
    }

    /// Makes the staging table of a load job. One that an older version made and left gets the columns that it lacks.
    pub(super) async fn make_staging(
        &self,
        name: String,
        table: Table,
    ) -> Result<(), WarehouseError> {
        let design = Design {
            name,
            columns: columns(table),
            is_by_day: false,
            clustered_by: &[],
        };
        self.make(&design, false).await
    }

    async fn make(&self, design: &Design, must_be_there: bool) -> Result<(), WarehouseError> {
        let error = |failure| self.error(failure);
        let changes = match self.changes_to_existing(design).await? {
            Some(changes) => changes,
            None if must_be_there => return Err(self.gone()),
            None => {
                let table = self.resource(design);
                match self.api.make_table(table).await.map_err(error)? {
                    Some(made) => changes_when_made(&made),
                    // Somebody else was quicker.
                    None => {
                        let found = self.changes_to_existing(design).await?;
                        found.ok_or_else(|| self.gone())?
                    }
                }
            }
        };
        for change in changes {
            let table = self.names.quoted(&design.name);
            let sql = format!("ALTER TABLE {table} {change}");
            self.api.query(sql, Vec::new()).await.map_err(error)?;
        }
        Ok(())
    }

    /// What has to be altered in the table that is there; `None`: there is none.
    async fn changes_to_existing(
        &self,
        design: &Design,
    ) -> Result<Option<Vec<String>>, WarehouseError> {
        let found = self.api.find_table(&design.name).await;
        let Some(table) = found.map_err(|failure| self.error(failure))? else {
            return Ok(None);
        };
        let missing = check(design, &table).map_err(|bad| self.refused(design, bad))?;
        // A repeat is recognised by the row that it repeats.
        let window_ms = (i64::from(self.dedup_days) + 1) * 86_400_000;
        if design.is_by_day
            && let Some(expire_ms) = partitions_expire_ms(&table)
            && expire_ms < window_ms
        {
            tracing::warn!(table = %design.name, expire_ms, window_ms, "partitions_expire_too_soon");
        }
        if !design.is_clustered(&table) {
            // Rows are merged all the same, and only whoever made the table can say whether it is meant so.
            let wanted = design.clustered_by.join(", ");
            tracing::warn!(table = %design.name, wanted, "table_not_clustered");
        }
        Ok(Some(changes(&missing, &table)))
    }

    pub(super) fn gone(&self) -> WarehouseError {
        WarehouseError::Gone {
            name: self.names.to_string(),
        }
    }

    fn refused(&self, design: &Design, bad: Bad) -> WarehouseError {
        let name = format!("table {} of {}", design.name, self.names);
        match bad {
            Bad::Foreign(reason) => WarehouseError::Foreign { name, reason },
            Bad::Newer(version) => WarehouseError::Newer { name, version },
        }
    }

    fn resource(&self, design: &Design) -> TableResource {
        let fields = design.columns.iter().map(|column| {
            let mode = if column.required {
                "REQUIRED"
            } else {
                "NULLABLE"
            };
            TableFieldSchema {
                mode: Some(mode.to_owned()),
                ..TableFieldSchema::new(column.name, column.kind.field())
            }
        });
        let (project, dataset) = self.names.place();
        let schema = TableSchema::new(fields.collect());
        let mut table = TableResource::new(project, dataset, &design.name, schema);
        table.labels = Some(HashMap::from([(LABEL.to_owned(), VERSION.to_string())]));
        if design.is_by_day {
            table.time_partitioning = Some(TimePartitioning::per_day().field("received_at"));
        }
        if !design.clustered_by.is_empty() {
            let fields = design.clustered_by.iter().map(|name| (*name).to_owned());
            table.clustering = Some(Clustering {
                fields: Some(fields.collect()),
            });
        }
        table
    }
}

/// What has to be altered.
fn changes(missing: &[Column], table: &TableResource) -> Vec<String> {
    let mut changes = Vec::new();
    if !missing.is_empty() {
        let added = missing
            .iter()
            .map(|c| format!("ADD COLUMN IF NOT EXISTS `{}` {}", c.name, c.kind.sql()));
        let added: Vec<String> = added.collect();
        changes.push(added.join(", "));
    }
    // A dataset may give every new table an end; with it would go rows that are nowhere else, and what was loaded would be forgotten.
    if table.expiration_time.is_some() {
        changes.push("SET OPTIONS (expiration_timestamp = NULL)".to_owned());
    }
    changes
}

/// The same of a table that was just made, whose partitions may have inherited an end as well. Where somebody set one on the table
/// itself, it is meant.
fn changes_when_made(made: &TableResource) -> Vec<String> {
    let mut changes = changes(&[], made);
    if partitions_expire_ms(made).is_some() {
        changes.push("SET OPTIONS (partition_expiration_days = NULL)".to_owned());
    }
    changes
}

/// After how long its partitions go.
fn partitions_expire_ms(table: &TableResource) -> Option<i64> {
    let day = table.time_partitioning.as_ref()?;
    day.expiration_ms.as_ref()?.parse().ok()
}

/// Why a table is not used.
#[derive(Debug, PartialEq, Eq)]
enum Bad {
    Foreign(String),
    Newer(i64),
}

/// The nullable columns that a table lacks.
fn check(design: &Design, table: &TableResource) -> Result<Vec<Column>, Bad> {
    let label = table.labels.as_ref().and_then(|labels| labels.get(LABEL));
    if let Some(version) = label.and_then(|label| label.parse::<i64>().ok())
        && version > VERSION
    {
        return Err(Bad::Newer(version));
    }
    if design.is_by_day {
        let day = table.time_partitioning.as_ref();
        if day.is_none_or(|p| p.field.as_deref() != Some("received_at") || p.r#type != "DAY") {
            return Err(Bad::Foreign(
                "it is not partitioned by day on received_at".to_owned(),
            ));
        }
    }
    let fields = table.schema.fields.as_deref().unwrap_or_default();
    let foreign = fields.iter().find(|field| {
        field.mode.as_deref() == Some("REQUIRED")
            && design.columns.iter().all(|c| c.name != field.name)
    });
    if let Some(foreign) = foreign {
        let reason = format!("each row must have a column {}", foreign.name);
        return Err(Bad::Foreign(reason));
    }
    let mut missing = Vec::new();
    for column in design.columns {
        match fields.iter().find(|field| field.name == column.name) {
            Some(field) if column.kind.is(&field.r#type) => {}
            Some(_) => {
                let reason = format!("column {} is no {}", column.name, column.kind.sql());
                return Err(Bad::Foreign(reason));
            }
            None if column.required => {
                return Err(Bad::Foreign(format!("it has no column {}", column.name)));
            }
            None => missing.push(*column),
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gcp_bigquery_client::model::field_type::FieldType;

    use super::columns::{Kind, nullable};
    use super::*;
    use crate::store::parquet::{errors_schema, events_schema};

    #[test]
    fn the_columns_are_those_of_the_files() {
        for (table, schema) in [
            (Table::Events, events_schema().unwrap()),
            (Table::Errors, errors_schema().unwrap()),
        ] {
            let files: Vec<_> = schema
                .fields()
                .iter()
                .map(|field| (field.name().as_str(), !field.is_nullable()))
                .collect();
            let ours: Vec<_> = columns(table)
                .iter()
                .map(|c| (c.name, c.required))
                .collect();
            assert_eq!(ours, files);
        }
    }

    fn design() -> Design {
        Design {
            name: "t".into(),
            columns: OBJECTS,
            is_by_day: false,
            clustered_by: &[],
        }
    }

    fn table(change: impl Fn(&mut Vec<TableFieldSchema>)) -> TableResource {
        let fields = OBJECTS
            .iter()
            .map(|c| TableFieldSchema::new(c.name, c.kind.field()));
        let mut fields = fields.collect();
        change(&mut fields);
        TableResource::new("p", "d", "t", TableSchema::new(fields))
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_older_newer_or_has_more() {
        let foreign = |change: &dyn Fn(&mut Vec<TableFieldSchema>)| {
            matches!(check(&design(), &table(change)), Err(Bad::Foreign(_)))
        };
        assert_eq!(check(&design(), &table(|_| {})), Ok(vec![]));
        assert_eq!(
            check(
                &design(),
                &table(|fields| fields.push(TableFieldSchema::string("mine")))
            ),
            Ok(vec![])
        );
        assert!(foreign(&|fields| drop(fields.remove(0))));
        assert!(foreign(&|fields| fields[0].r#type = FieldType::Bytes));
        assert!(foreign(&|fields| fields.push(TableFieldSchema {
            mode: Some("REQUIRED".into()),
            ..TableFieldSchema::string("mine")
        })));
        let by_day = Design {
            is_by_day: true,
            ..design()
        };
        assert!(matches!(
            check(&by_day, &table(|_| {})),
            Err(Bad::Foreign(_))
        ));
        let mut newer = table(|_| {});
        newer.labels = Some(HashMap::from([(LABEL.to_owned(), "2".to_owned())]));
        assert_eq!(check(&design(), &newer), Err(Bad::Newer(2)));
    }

    #[test]
    fn a_nullable_column_that_is_missing_is_to_be_added() {
        const COLUMNS: &[Column] = &[OBJECTS[0], nullable("new", Kind::Time)];
        let older = Design {
            columns: COLUMNS,
            ..design()
        };
        let table = TableResource::new(
            "p",
            "d",
            "t",
            TableSchema::new(vec![TableFieldSchema::string("object")]),
        );
        let missing = check(&older, &table).unwrap();
        assert_eq!(missing, [nullable("new", Kind::Time)]);
        let add = "ADD COLUMN IF NOT EXISTS `new` TIMESTAMP";
        assert_eq!(changes(&missing, &table), [add]);
    }

    #[test]
    fn a_table_is_clustered_when_its_first_columns_are_ours() {
        let design = Design {
            clustered_by: &["stream", "event"],
            ..design()
        };
        let clustered = |columns: &[&str]| {
            let columns = columns.iter().map(|&column| column.to_owned());
            let mut table = table(|_| {});
            table.clustering = Some(Clustering {
                fields: Some(columns.collect()),
            });
            design.is_clustered(&table)
        };
        assert!(clustered(&["stream", "event"]) && clustered(&["stream", "event", "user_id"]));
        assert!(!clustered(&["stream"]) && !clustered(&["event", "stream"]));
        assert!(!design.is_clustered(&table(|_| {})));
        assert!(self::design().is_clustered(&table(|_| {})));
    }

    #[test]
    fn no_table_expires() {
        let mut table = table(|_| {});
        assert_eq!(changes(&[], &table), [""; 0]);
        table.expiration_time = Some("1900000000000".to_owned());
        assert_eq!(
            changes(&[], &table),
            ["SET OPTIONS (expiration_timestamp = NULL)"]
        );
        let day = Duration::from_secs(86_400);
        let by_day = TimePartitioning::per_day().field("received_at");
        table.time_partitioning = Some(by_day.expiration_ms(day));
        assert_eq!(partitions_expire_ms(&table), Some(86_400_000));
        assert_eq!(changes(&[], &table).len(), 1, "somebody's own");
        assert_eq!(
            changes_when_made(&table),
            [
                "SET OPTIONS (expiration_timestamp = NULL)",
                "SET OPTIONS (partition_expiration_days = NULL)"
            ]
        );
    }
}
