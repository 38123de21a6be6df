//! One block device of this machine as a volume: where an import is to go to a disk that is there already.
//!
//! Nothing is made or removed: creating says whether the device is large enough and free, deleting gives it back with
//! whatever was written. Tags are remembered nowhere.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::provider::{
    Attachment, AttachmentId, AttachmentSpec, AttachmentState, Attachments, Cloud, Device, Domain, Fault,
    Here, InstanceId, Performance, Provider, Reported, TagLimits, Tags, Volume, VolumeId, VolumeLimits,
    VolumeSpec, VolumeState, Volumes,
};
use crate::{Error, ErrorKind, Result};

const LOCAL: &str = "local";

/// A block device, or a file in place of one.
#[derive(Debug)]
pub struct BlockDevice {
    path: PathBuf,
    name: String,
    /// Set by detaching: then there is no attachment until the next.
    is_detached: AtomicBool,
}

impl BlockDevice {
    /// The device at a path.
    ///
    /// # Errors
    /// Refused: it is neither a block device nor a regular file.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::io(path.display().to_string(), "use the device", source);
        let path = path.canonicalize().map_err(failed)?;
        let kind = std::fs::metadata(&path).map_err(failed)?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(Error::refused(
                path.display().to_string(),
                "use the device",
                "it is no block device",
            ));
        }
        let name = format!("device {}", path.display());
        Ok(Self { path, name, is_detached: AtomicBool::new(false) })
    }

    /// All that a device can do.
    #[must_use]
    pub fn cloud(self) -> Cloud {
        let this = Arc::new(self);
        Cloud {
            volumes: Arc::clone(&this) as _,
            attachments: Some(this),
            images: None,
            instances: None,
            policies: None,
        }
    }

    /// Its size in bytes.
    fn bytes(&self) -> Result<u64> {
        let failed = |source| Error::io(self.path.display().to_string(), "measure the device", source);
        File::open(&self.path).and_then(|mut file| file.seek(SeekFrom::End(0))).map_err(failed)
    }

    /// Refuses a device that is mounted, or that a device mapper or another process holds for itself.
    fn check_free(&self, action: &str) -> Result<()> {
        let exclusive = OFlags::EXCL.bits().cast_signed();
        match OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(&self.path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                let what = "it is in use: see with lsblk where it is mounted, or what holds it";
                Err(Error::conflict(self.name(), action, what))
            }
            Err(error) => {
                Err(Error::io(self.path.display().to_string(), "open the device for writing", error))
            }
        }
    }

    fn tell(&self) -> Result<Volume> {
        Ok(Volume {
            id: VolumeId::new(self.path.to_string_lossy()),
            name: self.path.to_string_lossy().into_owned(),
            bytes: self.bytes()?,
            domain: LOCAL.to_owned(),
            performance: None,
            encryption_key: None,
            tags: Tags::new(),
            state: Reported::new(VolumeState::Available, "available"),
            created: None,
        })
    }

    fn check_id(&self, id: &str) -> Result<()> {
        if id == self.path.to_string_lossy() {
            return Ok(());
        }
        Err(Fault::new(ErrorKind::NotFound, self.name(), format!("look at {id}"), "it is another device")
            .into())
    }

    fn tell_attachment(&self, read_only: bool) -> Attachment {
        let id = self.path.to_string_lossy();
        Attachment {
            id: AttachmentId::new(id.clone()),
            volume: VolumeId::new(id),
            instance: InstanceId::new(LOCAL),
            read_only,
            state: Reported::new(AttachmentState::Attached, "attached"),
            device: Some(Device::Path(self.path.clone())),
        }
    }
}

impl Provider for BlockDevice {
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

impl Volumes for BlockDevice {
    fn domains(&self) -> Result<Vec<Domain>> {
        Ok(vec![Domain { name: LOCAL.to_owned() }])
    }

    fn volume_limits(&self) -> VolumeLimits {
        let bytes_max = self.bytes().unwrap_or(0);
        VolumeLimits { bytes_min: 512, bytes_max, bytes_step: 512 }
    }

    fn create_volume(&self, spec: &VolumeSpec) -> Result<Volume> {
        let action = format!("use it for {}", spec.name);
        let volume = self.tell()?;
        if volume.bytes < spec.bytes {
            let what =
                format!("it has {} bytes, and {} are needed; name a larger device", volume.bytes, spec.bytes);
            return Err(Error::limit(self.name(), action, what));
        }
        if spec.domain != LOCAL || spec.encryption_key.is_some() {
            let what = "a device is in the domain local, and is not encrypted by a key of a provider";
            return Err(Error::refused(self.name(), action, what));
        }
        self.check_free(&action)?;
        Ok(volume)
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        self.check_id(id.as_str())?;
        self.tell()
    }

    fn volumes(&self) -> Result<Vec<Volume>> {
        Ok(vec![self.tell()?])
    }

    fn set_performance(&self, id: &VolumeId, performance: &Performance) -> Result<Volume> {
        let action = format!("set the performance of {id} to {performance}");
        Err(Error::refused(self.name(), action, "a device is as fast as it is; ask for no performance"))
    }

    fn grow_volume(&self, id: &VolumeId, bytes: u64) -> Result<Volume> {
        let volume = self.volume(id)?;
        if volume.bytes == bytes {
            return Ok(volume);
        }
        let what = format!("it has {} bytes, and keeps them", volume.bytes);
        Err(Error::refused(self.name(), format!("make it {bytes} bytes large"), what))
    }

    /// Gives the device back, with whatever was written.
    fn delete_volume(&self, _id: &VolumeId) -> Result<()> {
        Ok(())
    }
}

impl Attachments for BlockDevice {
    fn attach(&self, spec: &AttachmentSpec) -> Result<Attachment> {
        self.check_id(spec.volume.as_str())?;
        if spec.instance.as_str() != LOCAL {
            let what = format!("the device is of this machine ({LOCAL}), not of {}", spec.instance);
            return Err(Fault::new(ErrorKind::NotFound, self.name(), "attach it", what).into());
        }
        self.check_free("attach it")?;
        self.is_detached.store(false, Ordering::SeqCst);
        Ok(self.tell_attachment(spec.read_only))
    }

    fn attachment(&self, id: &AttachmentId) -> Result<Attachment> {
        self.check_id(id.as_str())?;
        if self.is_detached.load(Ordering::SeqCst) {
            return Err(Fault::new(
                ErrorKind::NotFound,
                self.name(),
                "look at the attachment",
                "it is undone",
            )
            .into());
        }
        Ok(self.tell_attachment(false))
    }

    fn attachments_of(&self, volume: &VolumeId) -> Result<Vec<Attachment>> {
        self.check_id(volume.as_str())?;
        Ok(Vec::new())
    }

    fn detach(&self, _id: &AttachmentId) -> Result<()> {
        self.is_detached.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn here(&self) -> Result<Option<Here>> {
        Ok(Some(Here { instance: InstanceId::new(LOCAL), domain: Some(LOCAL.to_owned()) }))
    }
}
