//! Making, changing and removing the files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

use super::record::{self, Condition, Record};
use super::{Directory, LIMITS, LOCAL, TAG_LIMITS, name, no_follow};
use crate::provider::{
    Domain, LISTED_MAX, Performance, Provider, Volume, VolumeId, VolumeLimits, VolumeSpec, Volumes,
};
use crate::{Error, ErrorKind, Result};

impl Directory {
    /// Makes the file and then the record. A file without a record is what a crash left.
    fn make(&self, spec: &VolumeSpec) -> Result<Volume> {
        let id = name::id(&spec.name, "directory volume", &spec.owner);
        let path = self.data(&id);
        if let Err(error) = sparse(&path, spec.bytes) {
            let _ = fs::remove_file(&path);
            return Err(Error::io(path.display().to_string(), "make the volume's file", error));
        }
        let record = Record {
            version: record::VERSION,
            name: spec.name.clone(),
            bytes: spec.bytes,
            performance: spec.performance.clone(),
            tags: spec.owner.mark(&spec.tags),
            condition: Condition::Available,
            created: Timestamp::now(),
            attached: None,
        };
        record.write(&self.folder, &id)?;
        Ok(self.tell(&id, record))
    }
}

/// A new sparse file in place of what a lost attempt left there.
fn sparse(path: &Path, bytes: u64) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}

impl Volumes for Directory {
    fn domains(&self) -> Result<Vec<Domain>> {
        Ok(vec![Domain { name: LOCAL.to_owned() }])
    }

    fn volume_limits(&self) -> VolumeLimits {
        LIMITS
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        let action = format!("make the volume {}", spec.name);
        let refused = |what: &str| Err(Error::refused(self.name(), action.as_str(), what));
        if !LIMITS.allows(spec.bytes) {
            return refused("a volume has whole sectors of 512 bytes, and at most 1 PiB");
        }
        if spec.domain != LOCAL {
            return refused("a folder has one domain: local");
        }
        if spec.encryption_key.is_some() {
            return refused("a folder does not encrypt; put it on an encrypted file system, and name no key");
        }
        TAG_LIMITS.check(self.name(), &spec.tags, &spec.owner)?;
        let _lock = self.lock()?;
        let own = |volume: &Volume| volume.state.is_live() && spec.owner.owns(&volume.tags);
        match self.volumes()?.into_iter().find(own) {
            None => self.make(spec),
            Some(found) if found.bytes == spec.bytes => Ok(found),
            Some(found) => {
                let what = format!(
                    "{} made the volume {} before, and it has {} bytes instead of {}; remove it, then try again",
                    spec.owner, found.id, found.bytes, spec.bytes
                );
                Err(Error::conflict(self.name(), action, what))
            }
        }
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        Ok(self.tell(id.as_str(), self.record(id)?))
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        let failed = |source| Error::io(self.folder.display().to_string(), "list the volumes", source);
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json")).filter(|id| name::is_id(id));
            let Some(id) = id else { continue };
            // It may have been removed since.
            let Some(record) = Record::read(&self.folder, id)? else { continue };
            if volumes.len() == LISTED_MAX {
                return Err(failed(std::io::Error::other("there are more than can be")));
            }
            volumes.push(self.tell(id, record));
        }
        volumes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(volumes)
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        self.change(id, |record| {
            record.performance = Some(performance.clone());
            Ok(())
        })
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        let action = format!("grow the volume {id}");
        let path = self.data(id.as_str());
        self.change(id, |record| {
            if !LIMITS.allows(bytes) || bytes < record.bytes {
                let what =
                    format!("it has {} bytes, and {bytes} are no larger size of whole sectors", record.bytes);
                return Err(Error::refused(self.name(), action, what));
            }
            let grown =
                OpenOptions::new().write(true).custom_flags(no_follow()).open(&path).and_then(|file| {
                    file.set_len(bytes)?;
                    file.sync_all()
                });
            grown
                .map_err(|source| Error::io(path.display().to_string(), "grow the volume's file", source))?;
            record.bytes = bytes;
            Ok(())
        })
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        let _lock = self.lock()?;
        let mut record = match self.record(id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if record.attached.is_some() {
            let what = "it is attached; detach it first";
            return Err(Error::conflict(self.name(), format!("delete the volume {id}"), what));
        }
        record.condition = Condition::Deleting;
        record.write(&self.folder, id.as_str())?;
        let path = self.data(id.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(path.display().to_string(), "remove the volume's file", error));
            }
            _ => {}
        }
        Record::remove(&self.folder, id.as_str())
    }
}
