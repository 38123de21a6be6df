//! Snapshots of a repository as a provider's volumes: for who looks for what a run has made, and removes it.
//!
//! Only snapshots that a run has made here count. One that was taken over from another repository is the copy of somebody's, with
//! all its tags, and none of them.

use std::sync::Arc;
use std::time::Duration;

use leeward_cloud::provider::{
    Cloud, Domain, Fault, Performance, Provider, RUN_TAG, Reported, STEP_TAG, TagLimits, Volume, VolumeId,
    VolumeLimits, VolumeSpec, VolumeState, Volumes,
};
use leeward_cloud::{Error, ErrorKind, Result};
use leeward_repository::{
    ErrorKind as RepositoryKind, ImageName, SnapshotEntry, SnapshotId, VIRTUAL_SIZE_MAX,
};

use super::Vault;

/// The one domain that there is.
pub(super) const DOMAIN: &str = "repository";

/// The name of a snapshot as that of a volume.
pub(super) fn id(image: &ImageName, snapshot: SnapshotId) -> VolumeId {
    VolumeId::new(format!("{image}@{snapshot}"))
}

/// The snapshot that such a name means.
pub(super) fn parse(id: &VolumeId) -> Option<(ImageName, SnapshotId)> {
    let (image, snapshot) = id.as_str().split_once('@')?;
    Some((image.parse().ok()?, snapshot.parse().ok()?))
}

/// Whether a run has made a snapshot here.
pub(super) fn is_made(entry: &SnapshotEntry) -> bool {
    entry.origin.is_none() && entry.tags.contains_key(RUN_TAG) && entry.tags.contains_key(STEP_TAG)
}

fn told(image: &ImageName, entry: SnapshotEntry) -> Volume {
    Volume {
        id: id(image, entry.id),
        name: image.to_string(),
        bytes: entry.virtual_size,
        domain: DOMAIN.to_owned(),
        performance: None,
        encryption_key: None,
        tags: entry.tags,
        state: Reported::new(VolumeState::Available, "kept"),
        created: Some(entry.created),
    }
}

impl Vault {
    /// All that a repository can do as a provider.
    #[must_use]
    pub fn cloud(self: &Arc<Self>) -> Cloud {
        Cloud {
            volumes: Arc::clone(self) as _,
            attachments: None,
            images: None,
            instances: None,
            policies: None,
        }
    }

    fn failed(&self, action: &str, error: &leeward_repository::Error) -> Error {
        let kind = match error.kind() {
            RepositoryKind::Io => ErrorKind::Io,
            RepositoryKind::Conflict => ErrorKind::Conflict,
            RepositoryKind::NotFound => ErrorKind::NotFound,
            RepositoryKind::Denied => ErrorKind::Denied,
            RepositoryKind::Interrupted => ErrorKind::Cancelled,
            RepositoryKind::Damaged | RepositoryKind::Refused | RepositoryKind::Usage => ErrorKind::Refused,
            _ => ErrorKind::Io,
        };
        Fault::new(kind, &self.name, action, leeward_store::with_causes(error)).into()
    }

    fn opened(&self, action: &str) -> Result<leeward_repository::Repository> {
        (self.opener)(super::Opening::Usual)
            .map_err(|what| Fault::new(ErrorKind::Io, &self.name, action, what).into())
    }

    fn none(&self, action: String, what: &str) -> Error {
        Fault::new(ErrorKind::Refused, &self.name, action, what).into()
    }
}

impl Provider for Vault {
    fn name(&self) -> &str {
        &self.name
    }

    fn tag_limits(&self) -> TagLimits {
        TagLimits { count_max: 100, key_chars_max: 255, value_chars_max: 4096 }
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(100)
    }
}

impl Volumes for Vault {
    fn domains(&self) -> Result<Vec<Domain>> {
        Ok(vec![Domain { name: DOMAIN.to_owned() }])
    }

    fn volume_limits(&self) -> VolumeLimits {
        VolumeLimits { bytes_min: 0, bytes_max: VIRTUAL_SIZE_MAX, bytes_step: 1 }
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        let what = "a snapshot is made of a disk that is read, and never empty";
        Err(self.none(format!("make {}", spec.name), what))
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        let action = format!("look at {id}");
        let missing =
            || Fault::new(ErrorKind::NotFound, &self.name, action.as_str(), "there is no such snapshot");
        let (image, snapshot) = parse(id).ok_or_else(missing)?;
        let found = self.opened(&action)?.image(&image).map_err(|error| self.failed(&action, &error))?;
        let entry = found.entry(snapshot).ok_or_else(missing)?;
        Ok(told(&image, entry.clone()))
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let action = "list the snapshots of runs";
        let made = self.made(&self.opened(action)?).map_err(|error| self.failed(action, &error))?;
        Ok(made.into_iter().map(|(image, entry)| told(&image, entry)).collect())
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        Err(self.none(format!("set the performance of {id} to {performance}"), "a snapshot has none"))
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        Err(self.none(format!("make {id} {bytes} bytes large"), "a snapshot does not change"))
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let action = format!("forget {id}");
        let Some((image, snapshot)) = parse(id) else { return Ok(()) };
        match self.opened(&action)?.forget(&image, &[snapshot]) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RepositoryKind::NotFound => Ok(()),
            Err(error @ leeward_repository::Error::Held { .. }) => {
                let mut fault = Fault::new(ErrorKind::Conflict, &self.name, action, error.to_string());
                fault.hint = Some("release the hold, then try again".to_owned());
                Err(fault.into())
            }
            Err(error) => Err(self.failed(&action, &error)),
        }
    }
}
