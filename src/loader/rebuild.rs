//! A warehouse that lacks what was loaded before: deleted, set aside as damaged, or brought back from an older copy.
//!
//! Objects outlive their loading, so such a warehouse is filled from the store. What it lacks shows in the numbers of the
//! manifests: the files of the last ones are kept, so either the next number after the last recorded one is there (and the
//! open manifests are all it takes), or some are missing in between. Only then every object of the store is looked at, and
//! those that are neither recorded nor wait get their markers back. From there on it is ordinary work.
//!
//! Nothing is kept about how far this got: until the first manifest is recorded, a crash only means that it begins again.
//! What a retention removed from the store cannot come back, and the log says from which day on there are objects.

use bytes::Bytes;

use super::manifest::{self, Manifest, ManifestObject};
use super::pages::Pages;
use super::{Loader, RoundError, inbox, retention};
use crate::store::{Table, Traces, parquet};

impl Loader {
    /// Gives the objects that the warehouse should know and does not their markers back.
    ///
    /// # Errors
    ///
    /// [`RoundError`]; the next call begins anew.
    pub(super) async fn rebuild_inbox(&mut self) -> Result<(), RoundError> {
        if !self.lacks_manifests().await? {
            return Ok(());
        }
        let mut objects = 0_u64;
        let mut oldest: Option<String> = None;
        for table in [Table::Events, Table::Errors] {
            let folder = format!("{}/", table.as_str());
            let mut pages = Pages::of(&folder);
            while let Some(names) = pages.next(&*self.objects).await? {
                let recorded = self.warehouse.recorded(&names).await?;
                for name in names.iter().filter(|name| !recorded.contains(*name)) {
                    let Some((day, stem)) = retention::parts(name) else {
                        continue;
                    };
                    if self.put_marker_back(table, name, (day, stem)).await? {
                        objects = objects.saturating_add(1);
                        if oldest.as_deref().is_none_or(|oldest| day < oldest) {
                            oldest = Some(day.to_owned());
                        }
                    }
                }
            }
        }
        if let Some(oldest) = oldest {
            tracing::warn!(
                objects,
                first_day = oldest,
                "warehouse_is_rebuilt_from_the_store"
            );
        }
        Ok(())
    }

    /// Whether manifests were recorded once that this warehouse does not know and that are not there any more.
    async fn lacks_manifests(&mut self) -> Result<bool, RoundError> {
        let last = self.warehouse.last_recorded().await?;
        let mut known = last;
        let mut pages = Pages::after(manifest::FOLDER, Manifest::name(last.unwrap_or(0)));
        while let Some(names) = pages.next(&*self.objects).await? {
            for number in names.iter().filter_map(|name| Manifest::number_of(name)) {
                if number > known.unwrap_or(0).saturating_add(1) {
                    return Ok(true);
                }
                known = Some(number);
            }
        }
        // None at all: a warehouse that never recorded anything, new or made anew.
        Ok(known.is_none())
    }

    /// Puts an object's marker back, unless it waits already or was set aside.
    async fn put_marker_back(
        &mut self,
        table: Table,
        object: &str,
        (day, stem): (&str, &str),
    ) -> Result<bool, RoundError> {
        let marker = format!("{}{}.dt={day}.{stem}.json", inbox::FOLDER, table.as_str());
        for name in [inbox::copy_name(&marker), marker.clone()] {
            if self.objects.get(&name).await?.is_some() {
                return Ok(false);
            }
        }
        let Some(file) = self.objects.get(object).await? else {
            return Ok(false);
        };
        let found = ManifestObject {
            table,
            object: object.to_owned(),
            day: day.to_owned(),
            rows: rows(table, &file),
            bytes: file.len() as u64,
            marker: marker.clone(),
            traces: Traces::default(),
        };
        let put = self
            .objects
            .put_if_absent(&marker, inbox::encode(&found))
            .await?;
        Ok(put)
    }
}

/// How many rows a file says that it has. What cannot be read is the load's to judge and to set aside.
fn rows(table: Table, file: &Bytes) -> u64 {
    let rows = match table {
        Table::Events => parquet::read_events(file.clone()).map(|rows| rows.total()),
        Table::Errors => parquet::read_errors(file.clone()).map(|rows| rows.total()),
    };
    rows.unwrap_or(0)
}
