//! Making, changing and removing the images.

use jiff::Timestamp;

use super::{EXISTS, KIND, LIMITS, LOCAL, RbdVolumes, Record, TAG_LIMITS};
use crate::directory::name;
use crate::provider::{Domain, Performance, Provider, Volume, VolumeId, VolumeLimits, VolumeSpec, Volumes};
use crate::{Error, ErrorKind, Result};

impl RbdVolumes {
    fn check(&self, spec: &VolumeSpec) -> Result<()> {
        let refused =
            |what: &str| Err(Error::refused(self.name(), format!("make the volume {}", spec.name), what));
        if !LIMITS.allows(spec.bytes) {
            return refused("a volume has whole sectors of 512 bytes, and at most 1 PiB");
        }
        if spec.domain != LOCAL {
            return refused("a pool has one domain: local");
        }
        if spec.encryption_key.is_some() || spec.performance.is_some() {
            return refused("a pool has no keys and no classes of performance; name none");
        }
        TAG_LIMITS.check(self.name(), &spec.tags, &spec.owner)
    }

    /// Makes the image unless it is there, and writes about it what a lost attempt did not.
    fn make(&self, spec: &VolumeSpec) -> Result<(String, Option<Record>)> {
        let digest = name::digest(KIND, &spec.owner);
        let found = self.ids()?.into_iter().find(|id| name::digest_of(id) == Some(&digest));
        let id = match found {
            Some(id) => id,
            None => {
                self.check_room(&format!("make the volume {}", spec.name))?;
                name::id(&spec.name, KIND, &spec.owner)
            }
        };
        match self.cluster(&id).create_image(spec.bytes) {
            Err(Error::Command { class, .. }) if class == EXISTS => {}
            other => other?,
        }
        if let Some(record) = self.record(&id)? {
            return Ok((id, Some(record)));
        }
        let tags = spec.owner.mark(&spec.tags);
        let record = Record { name: spec.name.clone(), tags, created: Timestamp::now(), read_only: None };
        self.write(&id, &record)?;
        Ok((id, Some(record)))
    }
}

impl Volumes for RbdVolumes {
    fn domains(&self) -> Result<Vec<Domain>> {
        Ok(vec![Domain { name: LOCAL.to_owned() }])
    }

    fn volume_limits(&self) -> VolumeLimits {
        LIMITS
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        self.check(spec)?;
        let (id, record) = self.make(spec)?;
        let volume = self.tell(&id, record)?;
        if volume.bytes == spec.bytes {
            return Ok(volume);
        }
        let what = format!(
            "{} made the volume {id} before, and it has {} bytes instead of {}; remove it, then try again",
            spec.owner, volume.bytes, spec.bytes
        );
        Err(Error::conflict(self.name(), format!("make the volume {}", spec.name), what))
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        let record = self.record(id.as_str())?;
        self.tell(id.as_str(), record)
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for id in self.ids()? {
            match self.volume(&VolumeId::new(id)) {
                // Removed since.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => volumes.push(other?),
            }
        }
        volumes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(volumes)
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        let action = format!("set the performance of {id} to {performance}");
        Err(Error::refused(self.name(), action, "a pool has no classes of performance; ask for none"))
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        let now = self.volume(id)?;
        if now.bytes == bytes {
            return Ok(now);
        }
        if bytes < now.bytes || !LIMITS.allows(bytes) {
            let what = format!("it has {} bytes, and {bytes} are no larger size of whole sectors", now.bytes);
            return Err(Error::refused(self.name(), format!("grow the volume {id}"), what));
        }
        self.cluster(id.as_str()).resize_image(bytes).map_err(|error| self.sorted(id.as_str(), error))?;
        Ok(Volume { bytes, ..now })
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let record = match self.record(id.as_str()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if record.is_some_and(|record| record.read_only.is_some()) {
            let action = format!("delete the volume {id}");
            return Err(Error::conflict(self.name(), action, "it is attached; detach it first"));
        }
        match self.cluster(id.as_str()).remove_image().map_err(|error| self.sorted(id.as_str(), error)) {
            // Of a pool without room the tool says the same, and the image stays.
            Err(error) if error.kind() == ErrorKind::NotFound => match self.cluster(id.as_str()).info() {
                Ok(_) => {
                    let action = format!("delete the volume {id}");
                    self.check_room(&action)?;
                    Err(Error::conflict(self.name(), action, "it is still there; try again"))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(self.sorted(id.as_str(), error)),
            },
            other => other,
        }
    }
}
