//! A provider without a cloud: volumes are sparse files in a folder.
//!
//! For newcomers, for tests, and for who wants an image as a raw file. Each volume is `ID.raw`, and beside it `ID.json`
//! with what is known of it; a volume is there once its record is. Attaching says where the file is, on this machine only.
//!
//! What always holds:
//! - Records are replaced whole: temporary file, sync, rename, sync of the folder. A crash leaves a file without a record
//!   (taken over by the step that is repeated) or a record that says `deleting` (which deleting again completes).
//! - One process at a time changes the folder: a lock is held on `.lock`.
//! - Names from outside are never paths: an id is made of plain characters of the name and a digest, and ids that
//!   come back are checked for that form. Links are not followed.

pub(crate) mod name;
mod record;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use self::record::{Condition, Held, Record};
use crate::provider::{
    Attachment, AttachmentId, AttachmentSpec, AttachmentState, Attachments, Cloud, Device, Domain, Fault,
    Here, InstanceId, LISTED_MAX, Performance, Provider, Reported, TagLimits, Volume, VolumeId, VolumeLimits,
    VolumeSpec, VolumeState, Volumes,
};
use crate::{Error, ErrorKind, Result};

/// The one domain and the one machine.
const LOCAL: &str = "local";
const TAG_LIMITS: TagLimits = TagLimits { count_max: 100, key_chars_max: 255, value_chars_max: 4096 };
/// Whole sectors; the largest is more than file systems have.
const LIMITS: VolumeLimits = VolumeLimits { bytes_min: 512, bytes_max: 1 << 50, bytes_step: 512 };

/// A folder of volumes.
#[derive(Debug)]
pub struct Directory {
    folder: PathBuf,
    name: String,
}

impl Directory {
    /// The volumes in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or is none.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        let failed = |source| Error::io(folder.display().to_string(), "use the folder of volumes", source);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let name = format!("directory {}", folder.display());
        Ok(Self { folder, name })
    }

    /// All that a directory can do.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = Arc::new(self);
        Cloud { volumes: Arc::clone(&this) as _, attachments: this, instances: None, policies: None }
    }

    /// Held while anything is changed.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let failed =
            |source: std::io::Error| Error::io(path.display().to_string(), "lock the folder", source);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(&path)
            .map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    fn data(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.raw"))
    }

    fn not_found(&self, action: String) -> Error {
        Fault::new(ErrorKind::NotFound, self.name.as_str(), action, "there is no such volume in this folder")
            .into()
    }

    /// A record; not found when there is none, or the id is none of ours.
    fn record(&self, id: &VolumeId) -> Result<Record> {
        let missing = || self.not_found(format!("look at the volume {id}"));
        if !name::is_id(id.as_str()) {
            return Err(missing());
        }
        Record::read(&self.folder, id.as_str())?.ok_or_else(missing)
    }

    fn tell(&self, id: &str, record: Record) -> Volume {
        let found = fs::symlink_metadata(self.data(id));
        let is_whole = found.is_ok_and(|found| found.is_file() && found.len() == record.bytes);
        let state = match (record.condition, is_whole) {
            (Condition::Deleting, _) => Reported::new(VolumeState::Deleting, "deleting"),
            (Condition::Available, true) => Reported::new(VolumeState::Available, "available"),
            (Condition::Available, false) => {
                Reported::new(VolumeState::Faulty, "its file is missing or was resized")
            }
        };
        Volume {
            id: VolumeId::new(id),
            name: record.name,
            bytes: record.bytes,
            domain: LOCAL.to_owned(),
            performance: record.performance,
            encryption_key: None,
            tags: record.tags,
            state,
            created: Some(record.created),
        }
    }

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

    fn change(&self, id: &VolumeId, change: impl FnOnce(&mut Record) -> Result<()>) -> Result<Volume> {
        let _lock = self.lock()?;
        let mut record = self.record(id)?;
        change(&mut record)?;
        record.write(&self.folder, id.as_str())?;
        Ok(self.tell(id.as_str(), record))
    }

    fn attached(&self, id: &VolumeId, held: &Held) -> Attachment {
        Attachment {
            id: AttachmentId::new(id.as_str()),
            volume: id.clone(),
            instance: InstanceId::new(LOCAL),
            read_only: held.read_only,
            state: Reported::new(AttachmentState::Attached, "attached"),
            device: Some(Device::Path(self.data(id.as_str()))),
        }
    }
}

fn no_follow() -> i32 {
    // The flag's bits are the same in both types.
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
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

impl Provider for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn tag_limits(&self) -> TagLimits {
        TAG_LIMITS
    }

    fn poll_interval(&self) -> Duration {
        Duration::from_millis(100)
    }
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

impl Attachments for Directory {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        let action = format!("attach the volume {}", spec.volume);
        if spec.instance.as_str() != LOCAL {
            let what = format!("there is no machine {}, only {LOCAL}", spec.instance);
            return Err(Fault::new(ErrorKind::NotFound, self.name(), action, what).into());
        }
        let volume = self.change(&spec.volume, |record| {
            let held = record.attached.get_or_insert(Held { read_only: spec.read_only });
            if record.condition == Condition::Deleting {
                return Err(Error::conflict(self.name(), action.as_str(), "it is being deleted"));
            }
            if held.read_only != spec.read_only {
                let what = "it is attached already in another way; detach it first";
                return Err(Error::conflict(self.name(), action.as_str(), what));
            }
            Ok(())
        })?;
        Ok(self.attached(&volume.id, &Held { read_only: spec.read_only }))
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        let volume = VolumeId::new(id.as_str());
        let held = self.record(&volume)?.attached;
        held.map(|held| self.attached(&volume, &held))
            .ok_or_else(|| self.not_found(format!("look at the attachment {id}")))
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        let held = self.record(volume)?.attached;
        Ok(held.iter().map(|held| self.attached(volume, held)).collect())
    }

    fn detach(&self, id: &AttachmentId) -> Result<()> {
        let detached = self.change(&VolumeId::new(id.as_str()), |record| {
            record.attached = None;
            Ok(())
        });
        match detached {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn here(&self) -> Result<Option<Here>> {
        Ok(Some(Here { instance: InstanceId::new(LOCAL), domain: Some(LOCAL.to_owned()) }))
    }
}
