//! A pool (or a namespace in it) as a provider of volumes: each is an image.
//!
//! An image is named `NAME-DIGEST`, the digest being of its owner, so that what a lost attempt made is found by its name
//! alone, even before anything is written about it. What is known of it is one JSON text in its metadata, under `leeward`.
//! Images of other names are not touched, nor shown.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cluster, Location};
use crate::directory::name;
use crate::provider::{
    Attachment, AttachmentId, AttachmentSpec, AttachmentState, Attachments, Cloud, Device, Domain, Fault,
    Here, InstanceId, LISTED_MAX, Performance, Provider, Reported, TagLimits, Tags, Volume, VolumeId,
    VolumeLimits, VolumeSpec, VolumeState, Volumes,
};
use crate::{Error, ErrorKind, Result};

/// The one domain and the one machine: this one, which reaches the cluster.
const LOCAL: &str = "local";
/// The key of the record in an image's metadata.
const RECORD: &str = "leeward";
const KIND: &str = "rbd volume";
/// All tags go through one argument of a program.
const TAG_LIMITS: TagLimits = TagLimits { count_max: 32, key_chars_max: 100, value_chars_max: 512 };
const LIMITS: VolumeLimits = VolumeLimits { bytes_min: 512, bytes_max: 1 << 50, bytes_step: 512 };
/// How the tool ends when an image is there already, in use, or has snapshots: EEXIST, EBUSY, ENOTEMPTY.
const EXISTS: &str = "17";
const IN_USE: [&str; 2] = ["16", "39"];

/// A pool of images.
#[derive(Debug, Clone)]
pub struct RbdVolumes {
    /// Its image is any.
    pool: Location,
    name: String,
}

/// What is known of a volume beyond what the image says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    tags: Tags,
    created: Timestamp,
    /// Attached here: whether writing was not asked for.
    read_only: Option<bool>,
}

impl RbdVolumes {
    /// The pool `rbd:POOL[/NAMESPACE][?conf=FILE&id=USER]`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// Refused: what is wrong with it.
    pub fn at(text: &str) -> Result<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let wrong = |what: String| Error::refused(text, "find the pool", what);
        let whole = if query.is_empty() { format!("{path}/any") } else { format!("{path}/any?{query}") };
        let pool = Location::parse(&whole)
            .unwrap_or_else(|| Err("write rbd:POOL[/NAMESPACE][?conf=FILE&id=USER]".to_owned()))
            .map_err(wrong)?;
        Ok(Self { pool, name: path.to_owned() })
    }

    /// All that a pool can do.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = std::sync::Arc::new(self);
        Cloud {
            volumes: std::sync::Arc::clone(&this) as _,
            attachments: this,
            instances: None,
            policies: None,
        }
    }

    fn image(&self, id: &str) -> Location {
        Location { image: id.to_owned(), ..self.pool.clone() }
    }

    fn cluster(&self, id: &str) -> Cluster {
        Cluster::of(&self.image(id))
    }

    fn not_found(&self, id: &str) -> Error {
        let what = "there is no such volume in this pool";
        Fault::new(ErrorKind::NotFound, self.name(), format!("look at the volume {id}"), what).into()
    }

    /// What is written about an image; nothing when an attempt ended between making it and that.
    fn record(&self, id: &str) -> Result<Option<Record>> {
        if name::digest_of(id).is_none() {
            return Err(self.not_found(id));
        }
        let metadata = self.cluster(id).metadata().map_err(|error| self.sorted(id, error))?;
        let Some(text) = metadata.get(RECORD) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let what = format!("its record cannot be read ({error}); see rbd image-meta get {id} {RECORD}");
            Fault::new(ErrorKind::Protocol, self.name(), format!("look at the volume {id}"), what).into()
        })
    }

    fn write(&self, id: &str, record: &Record) -> Result<()> {
        let text = serde_json::to_string(record)
            .map_err(|error| Error::refused(self.name(), "write the record", error.to_string()))?;
        self.cluster(id).set_metadata(RECORD, &text)
    }

    fn tell(&self, id: &str, record: Option<Record>) -> Result<Volume> {
        let info = self.cluster(id).info().map_err(|error| self.sorted(id, error))?;
        let record = record.unwrap_or(Record {
            name: id.to_owned(),
            tags: Tags::new(),
            created: Timestamp::UNIX_EPOCH,
            read_only: None,
        });
        Ok(Volume {
            id: VolumeId::new(id),
            name: record.name,
            bytes: info.size,
            domain: LOCAL.to_owned(),
            performance: None,
            encryption_key: None,
            tags: record.tags,
            state: Reported::new(VolumeState::Available, "available"),
            created: Some(record.created),
        })
    }

    /// The tool's error in this module's kinds.
    fn sorted(&self, id: &str, error: Error) -> Error {
        match error {
            Error::NotFound { .. } => self.not_found(id),
            Error::Command { class, description, .. } if IN_USE.contains(&class.as_str()) => {
                let action = format!("change the volume {id}");
                Error::conflict(
                    self.name(),
                    action,
                    format!("{description}; end what uses it, and remove its snapshots"),
                )
            }
            other => other,
        }
    }

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
        let id = found.unwrap_or_else(|| name::id(&spec.name, KIND, &spec.owner));
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

    fn ids(&self) -> Result<Vec<String>> {
        let mut ids = self.cluster("any").images()?;
        ids.retain(|id| name::digest_of(id).is_some());
        if ids.len() > LISTED_MAX {
            return Err(Error::limit(self.name(), "list the volumes", "there are more than can be"));
        }
        Ok(ids)
    }

    fn attached(&self, id: &str, read_only: bool) -> Attachment {
        Attachment {
            id: AttachmentId::new(id),
            volume: VolumeId::new(id),
            instance: InstanceId::new(LOCAL),
            read_only,
            state: Reported::new(AttachmentState::Attached, "attached"),
            device: Some(Device::Rbd(self.image(id).to_string())),
        }
    }
}

impl Provider for RbdVolumes {
    fn name(&self) -> &str {
        &self.name
    }

    fn tag_limits(&self) -> TagLimits {
        TAG_LIMITS
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(500)
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
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Attachments for RbdVolumes {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        let (id, action) = (spec.volume.as_str(), format!("attach the volume {}", spec.volume));
        if spec.instance.as_str() != LOCAL {
            let what = format!("there is no machine {}, only {LOCAL}", spec.instance);
            return Err(Fault::new(ErrorKind::NotFound, self.name(), action, what).into());
        }
        let mut record = self.record(id)?.ok_or_else(|| self.not_found(id))?;
        match record.read_only {
            Some(read_only) if read_only != spec.read_only => {
                let what = "it is attached already in another way; detach it first";
                return Err(Error::conflict(self.name(), action, what));
            }
            Some(_) => {}
            None => {
                record.read_only = Some(spec.read_only);
                self.write(id, &record)?;
            }
        }
        Ok(self.attached(id, spec.read_only))
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        let held = self.record(id.as_str())?.and_then(|record| record.read_only);
        held.map(|read_only| self.attached(id.as_str(), read_only)).ok_or_else(|| self.not_found(id.as_str()))
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let held = self.record(volume.as_str())?.and_then(|record| record.read_only);
        Ok(held.into_iter().map(|read_only| self.attached(volume.as_str(), read_only)).collect())
    }

    fn detach(&self, id: &AttachmentId) -> Result<()> {
        let mut record = match self.record(id.as_str()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => match other? {
                Some(record) if record.read_only.is_some() => record,
                _ => return Ok(()),
            },
        };
        record.read_only = None;
        match self.write(id.as_str(), &record) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn here(&self) -> Result<Option<Here>> {
        Ok(Some(Here { instance: InstanceId::new(LOCAL), domain: Some(LOCAL.to_owned()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::RbdVolumes;
    use crate::provider::Provider;

    #[test]
    fn a_pool_is_named_without_an_image() {
        let pool = RbdVolumes::at("rbd:vms/team?id=backup&conf=/etc/ceph/b.conf").unwrap();
        assert_eq!((pool.name(), pool.image("x").to_string().as_str()), ("rbd:vms/team", "rbd:vms/team/x"));
        assert_eq!(pool.pool.user.as_deref(), Some("backup"));
        for wrong in ["", "vms", "rbd:", "rbd:a/b/c", "rbd:-a", "rbd:a?x=y", "rbd:a@b"] {
            assert!(RbdVolumes::at(wrong).is_err(), "{wrong:?}");
        }
    }
}
