//! Manifests that cannot be loaded as they stand: again, parted, or given up for good.
//!
//! Where the warehouse says that an object is at fault, the manifest is halved until that one is alone, and goes to quarantine. A load that
//! failed for reasons of the warehouse's own is tried again as it is, under later numbers. But what is said to be the warehouse's
//! may be an object's doing all the same: where others are loaded and it goes on, the manifest is halved, too. An object
//! that is alone by then goes behind whatever waits, so that it holds nobody up; and when others are loaded time and
//! again and it is not, it is what is wrong.

use opentelemetry::KeyValue;

use super::manifest::{Manifest, ManifestObject};
use super::warehouse::{LoadError, Outcome};
use super::{Loaded, Loader, MANIFESTS_KEPT, RoundError, inbox};

/// So often the same objects are tried together, whatever else is loaded.
const ATTEMPTS_MIN: u32 = 4;

/// So often at least an object is tried before it may be at fault for what the warehouse blames on itself.
const ATTEMPTS_ALONE_MIN: u32 = 12;

/// Where nothing else waits that would tell, a manifest is halved after every so many attempts.
const ATTEMPTS_TOGETHER_MAX: u32 = 16;

/// How a manifest is tried again whose load failed for reasons of the warehouse's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// As it is.
    Whole,
    /// In halves.
    Halves,
    /// Its one object, behind all that waits.
    Behind,
    /// Not any more: its one object goes to quarantine.
    Never,
}

/// What to do after so many attempts; whether others were loaded since the one before failed.
const fn again(attempts: u32, objects: usize, others_loaded: bool) -> Again {
    match (objects, others_loaded) {
        _ if attempts < ATTEMPTS_MIN => Again::Whole,
        (1, true) if attempts >= ATTEMPTS_ALONE_MIN => Again::Never,
        (1, _) => Again::Behind,
        (_, true) => Again::Halves,
        (_, false) if attempts.is_multiple_of(ATTEMPTS_TOGETHER_MAX) => Again::Halves,
        (_, false) => Again::Whole,
    }
}

impl Loader {
    /// What follows a load that failed: a manifest that is given up, or a round that is waited after.
    pub(super) async fn after_failed_load(
        &mut self,
        manifest: &Manifest,
        error: LoadError,
    ) -> Result<Loaded, RoundError> {
        let failed = |source| RoundError::Load {
            number: manifest.number,
            source,
        };
        match error {
            LoadError::Object { object, reason } => {
                match manifest.parts(object.as_deref()) {
                    Some(parts) => self.supersede(manifest, parts, reason).await?,
                    None => self.quarantine(manifest, reason).await?,
                }
                Ok(Loaded::GivenUp)
            }
            LoadError::Attempt { reason } => {
                let others_loaded = std::mem::take(&mut self.loaded_since);
                let parts = match again(manifest.attempt, manifest.objects.len(), others_loaded) {
                    Again::Never => {
                        self.quarantine(manifest, reason).await?;
                        return Ok(Loaded::GivenUp);
                    }
                    Again::Whole => vec![manifest.objects.clone()],
                    Again::Halves => manifest.parts(None).into_iter().flatten().collect(),
                    Again::Behind => self.behind_others(manifest).await?,
                };
                self.supersede(manifest, parts, reason.clone()).await?;
                // Reported as a failure, so that the next attempt is waited for.
                Err(failed(LoadError::Attempt { reason }))
            }
            other => Err(failed(other)),
        }
    }

    /// What waits in the inbox, and then the manifest's objects.
    async fn behind_others(
        &mut self,
        manifest: &Manifest,
    ) -> Result<Vec<Vec<ManifestObject>>, RoundError> {
        let mut others = self.gather().await?;
        others.retain(|other| !manifest.objects.iter().any(|o| o.object == other.object));
        let both = [others, manifest.objects.clone()];
        Ok(both.into_iter().filter(|part| !part.is_empty()).collect())
    }

    /// Records a manifest of which nothing is in the tables, and removes the file of the one that is now too old to keep.
    pub(super) async fn give_up(
        &mut self,
        manifest: &Manifest,
        outcome: &Outcome,
    ) -> Result<(), RoundError> {
        self.warehouse.record(manifest, outcome).await?;
        let given_up = &self.context.metrics.loader_manifests_given_up;
        given_up.add(1, &[KeyValue::new("outcome", outcome.as_str())]);
        self.remove_old_file(manifest.number).await
    }

    pub(super) async fn remove_old_file(&mut self, number: u64) -> Result<(), RoundError> {
        if let Some(old) = number.checked_sub(MANIFESTS_KEPT) {
            self.objects.delete(&Manifest::name(old)).await?;
        }
        Ok(())
    }

    /// Gives a manifest up whose one object can never be loaded.
    async fn quarantine(&mut self, manifest: &Manifest, reason: String) -> Result<(), RoundError> {
        for object in &manifest.objects {
            inbox::quarantine_object(&*self.objects, object).await?;
            self.context.metrics.loader_markers_quarantined.add(1, &[]);
            tracing::error!(
                marker = %object.marker,
                object = %object.object,
                reason,
                "marker_quarantined"
            );
        }
        self.give_up(manifest, &Outcome::Quarantined { reason })
            .await
    }

    /// Gives a manifest up for later ones that hold its objects. They are created first: an object is always in an open
    /// manifest or has its marker, and after a crash in between the same parts are found.
    async fn supersede(
        &mut self,
        manifest: &Manifest,
        parts: impl IntoIterator<Item = Vec<ManifestObject>, IntoIter: Send> + Send,
        reason: String,
    ) -> Result<(), RoundError> {
        let mut number = manifest.number;
        for objects in parts {
            loop {
                number = number.checked_add(1).ok_or(RoundError::Numbers)?;
                let part =
                    self.manifest(number, manifest.attempt.saturating_add(1), objects.clone());
                if self.create(&part).await? || self.holds(number, &objects).await? {
                    break;
                }
            }
        }
        tracing::warn!(
            manifest.number = manifest.number,
            reason,
            "manifest_superseded"
        );
        self.give_up(manifest, &Outcome::Superseded { reason })
            .await
    }

    /// Whether a manifest holds exactly these objects.
    async fn holds(&mut self, number: u64, objects: &[ManifestObject]) -> Result<bool, RoundError> {
        let file = self.objects.get(&Manifest::name(number)).await?;
        let held = file.and_then(|file| Manifest::parse(number, &file).ok());
        Ok(held.is_some_and(|held| held.objects == objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_depends_on_how_often_it_failed_and_on_what_became_of_others() {
        for (attempts, objects, others_loaded, expected) in [
            (1, 9, true, Again::Whole),
            (3, 1, true, Again::Whole),
            (4, 9, true, Again::Halves),
            (4, 9, false, Again::Whole),
            (15, 9, false, Again::Whole),
            (16, 9, false, Again::Halves),
            (17, 5, false, Again::Whole),
            (4, 1, true, Again::Behind),
            (11, 1, true, Again::Behind),
            (12, 1, true, Again::Never),
            // An outage blames nobody, however long it is.
            (1_000, 1, false, Again::Behind),
        ] {
            let decided = again(attempts, objects, others_loaded);
            assert_eq!(decided, expected, "{attempts} {objects} {others_loaded}");
        }
    }
}
