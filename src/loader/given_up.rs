//! Manifests that cannot be loaded as they stand: in parts, again, or given up for good.
//!
//! Where the warehouse says that an object is at fault, the manifest is halved until that one is alone, and goes to quarantine. A load that
//! failed for reasons of the warehouse's own blames nobody: the same objects are loaded under the next number.

use opentelemetry::KeyValue;

use super::manifest::{Manifest, ManifestObject};
use super::warehouse::{LoadError, Outcome};
use super::{Loaded, Loader, MANIFESTS_KEPT, RoundError, inbox};

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
                self.supersede(manifest, [manifest.objects.clone()], reason.clone())
                    .await?;
                // Reported as a failure, so that the next attempt is waited for.
                Err(failed(LoadError::Attempt { reason }))
            }
            other => Err(failed(other)),
        }
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
