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

mod attachments;
pub(crate) mod name;
mod record;
mod volumes;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use self::record::{Condition, Record};
use crate::provider::{
    Cloud, Fault, Provider, Reported, TagLimits, Volume, VolumeId, VolumeLimits, VolumeState,
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
        Cloud {
            volumes: Arc::clone(&this) as _,
            attachments: Some(this),
            images: None,
            instances: None,
            policies: None,
        }
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

    fn change(&self, id: &VolumeId, change: impl FnOnce(&mut Record) -> Result<()>) -> Result<Volume> {
        let _lock = self.lock()?;
        let mut record = self.record(id)?;
        change(&mut record)?;
        record.write(&self.folder, id.as_str())?;
        Ok(self.tell(id.as_str(), record))
    }
}

fn no_follow() -> i32 {
    // The flag's bits are the same in both types.
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
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
