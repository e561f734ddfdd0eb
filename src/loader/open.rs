//! Open manifests: found, made, and cleaned up after.

use bytes::Bytes;

use super::inbox::{self, Found, Gathered};
use super::iso::iso;
use super::manifest::{self, Manifest, ManifestObject, ParseError};
use super::pages::Pages;
use super::warehouse::Outcome;
use super::{Loader, MANIFESTS_KEPT, RoundError};
use crate::telemetry::with_causes;

impl Loader {
    /// Step 1: the lowest open manifest, or a new one over what lies in the inbox; `None` when there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`RoundError`].
    pub async fn next(&mut self) -> Result<Option<Manifest>, RoundError> {
        loop {
            // The order matters: first the last recorded number, then the open manifests, then the inbox. Whatever is
            // recorded or begun after the first look makes the number that is taken here a used one.
            let last = self.warehouse.last_recorded().await?.unwrap_or(0);
            if let Some(manifest) = self.open_after(last).await? {
                self.took_all = false;
                return Ok(Some(manifest));
            }
            let objects = self.gather().await?;
            if objects.is_empty() {
                return self.blocked.take().map_or(Ok(None), Err);
            }
            let number = last.checked_add(1).ok_or(RoundError::Numbers)?;
            let manifest = self.manifest(number, 1, objects);
            if self.create(&manifest).await? {
                return Ok(Some(manifest));
            }
            tracing::debug!(manifest.number = number, "manifest_race_lost");
        }
    }

    /// The lowest manifest above the last recorded one.
    async fn open_after(&mut self, last: u64) -> Result<Option<Manifest>, RoundError> {
        let mut pages = Pages::after(manifest::FOLDER, Manifest::name(last));
        while let Some(names) = pages.next(&*self.objects).await? {
            for (number, name) in names
                .iter()
                .filter_map(|name| Some((Manifest::number_of(name)?, name)))
            {
                let Some(file) = self.objects.get(name).await? else {
                    // Discarded by whoever made it too late.
                    continue;
                };
                match Manifest::parse(number, &file) {
                    Ok(manifest) => return Ok(Some(manifest)),
                    Err(source @ ParseError::Newer(_)) => {
                        return Err(RoundError::Newer { number, source });
                    }
                    Err(error) => self.discard(number, &error).await?,
                }
            }
        }
        Ok(None)
    }

    /// Closes a manifest that cannot be read. Its objects still have their markers.
    async fn discard(&mut self, number: u64, error: &ParseError) -> Result<(), RoundError> {
        let unread = self.manifest(number, 1, Vec::new());
        let reason = with_causes(error);
        tracing::error!(manifest.number = number, error = %reason, "manifest_discarded");
        self.give_up(&unread, &Outcome::Discarded { reason }).await
    }

    pub(super) fn manifest(
        &self,
        number: u64,
        attempt: u32,
        objects: Vec<ManifestObject>,
    ) -> Manifest {
        Manifest {
            version: manifest::VERSION,
            number,
            attempt,
            created_at: iso(self.context.clock.now()),
            objects,
        }
    }

    /// Creates the manifest's file; `false` when the number is taken or came too late.
    pub(super) async fn create(&mut self, manifest: &Manifest) -> Result<bool, RoundError> {
        let name = Manifest::name(manifest.number);
        if !self.objects.put_if_absent(&name, manifest.encode()).await? {
            return Ok(false);
        }
        // The number was free, but perhaps only because it is so old that its file was removed.
        let last = self.warehouse.last_recorded().await?;
        if last.is_some_and(|last| manifest.number <= last) {
            self.objects.delete(&name).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// What lies in the inbox and is not recorded, up to the limits. Sees to all markers on its way that lead nowhere.
    pub(super) async fn gather(&mut self) -> Result<Vec<ManifestObject>, RoundError> {
        let mut gathered = Gathered::new(self.limits);
        let mut blocked: Option<(usize, String, String)> = None;
        let mut is_cut = false;
        let mut pages = Pages::of(inbox::FOLDER);
        'pages: while let Some(names) = pages.next(&*self.objects).await? {
            let mut waiting = Vec::new();
            for (name, found) in inbox::read(&*self.objects, &names).await? {
                match found {
                    Found::Object(object) => waiting.push(object),
                    Found::Malformed(bytes, reason) => {
                        self.quarantine_marker(&name, bytes, &reason).await?;
                    }
                    Found::Blocked(reason) => {
                        let count = blocked.as_ref().map_or(0, |(count, ..)| *count);
                        blocked = Some((count + 1, name, reason));
                    }
                    Found::Gone => {}
                }
            }
            for object in self.leave_out_recorded(waiting).await? {
                if !gathered.push(object) {
                    is_cut = true;
                    break 'pages;
                }
            }
        }
        self.took_all = !is_cut;
        self.blocked = blocked.map(|(count, name, reason)| RoundError::Blocked {
            count,
            name,
            reason,
        });
        Ok(gathered.objects)
    }

    /// Removes the markers of objects that are recorded as loaded: left by a crash, or put again by a repeated write.
    async fn leave_out_recorded(
        &mut self,
        waiting: Vec<ManifestObject>,
    ) -> Result<Vec<ManifestObject>, RoundError> {
        let names: Vec<String> = waiting.iter().map(|o| o.object.clone()).collect();
        let recorded = self.warehouse.recorded(&names).await?;
        let (done, waiting): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|object| recorded.contains(&object.object));
        inbox::remove(&*self.objects, done.iter().map(|o| o.marker.as_str())).await?;
        Ok(waiting)
    }

    /// Moves a marker that is none out of the way.
    async fn quarantine_marker(
        &mut self,
        name: &str,
        bytes: Bytes,
        reason: &str,
    ) -> Result<(), RoundError> {
        inbox::quarantine(&*self.objects, name, bytes).await?;
        self.context.metrics.loader_markers_quarantined.add(1, &[]);
        tracing::error!(marker = name, reason, "marker_quarantined");
        Ok(())
    }

    /// Removes the files of manifests that were recorded long ago.
    pub(super) async fn clean_up(&mut self) -> Result<(), RoundError> {
        let last = self.warehouse.last_recorded().await?.unwrap_or(0);
        let mut pages = Pages::of(manifest::FOLDER);
        while let Some(names) = pages.next(&*self.objects).await? {
            for (number, name) in names
                .iter()
                .filter_map(|name| Some((Manifest::number_of(name)?, name)))
            {
                if number.saturating_add(MANIFESTS_KEPT) > last {
                    return Ok(());
                }
                self.objects.delete(name).await?;
            }
        }
        Ok(())
    }
}
