//! The backup of one disk: a file, a block device, an export of NBD, or an image of RBD.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use leeward_disk::{OpenOptions, SharedSource, Source, default_threads};
use leeward_repository::{
    BackupOptions, BackupOutcome, CaptureMode, Consistency, ImageName, Repository, SourceRecord, host_name,
};
use leeward_store::RateLimit;

use crate::limit::LimitedSource;
use crate::moment::RbdBackup;
use crate::{Attendant, Error, ErrorKind, Result, mounted, place};

/// A disk that is to become a snapshot.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The disk, by the name that a person gives it.
    pub source: String,
    /// The image to which the snapshot is added.
    pub image: ImageName,
    /// How it is opened.
    pub options: OpenOptions,
    /// Tags of the new snapshot.
    pub tags: BTreeMap<String, String>,
    /// Threads that read, hash and compress; one per processor where absent.
    pub threads: Option<usize>,
    /// How fast it is read at most.
    pub limit_read: Option<Arc<RateLimit>>,
    /// Whether all of it is read, where otherwise only what has changed would be.
    pub full: bool,
}

/// What a backup made.
#[derive(Debug, Clone)]
pub struct Done {
    /// The snapshot.
    pub outcome: BackupOutcome,
    /// Where the disk is mounted for writing: what was read is of no one moment.
    pub mounted_at: Vec<String>,
}

/// What a backup would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// It reads all data.
    Whole {
        /// Format of the disk.
        format: String,
        /// Its size, as a guest sees it.
        virtual_size: u64,
        /// Bytes of data.
        data_bytes: u64,
        /// Where it is mounted for writing.
        mounted_at: Vec<String>,
    },
    /// It reads a moment of an image of RBD.
    Moment {
        /// The image of RBD.
        source: String,
        /// Its size.
        virtual_size: u64,
        /// Whether what has changed is read, or all.
        mode: CaptureMode,
        /// The snapshot since which it has changed.
        base: Option<String>,
        /// Why all is read.
        reason: Option<String>,
    },
}

impl Volume {
    /// Backs the disk up. When this returns, the snapshot survives anything.
    ///
    /// # Errors
    /// The disk or the repository fails, or the disk is refused because a machine writes it.
    pub fn back_up(&self, repository: &Repository, attendant: &dyn Attendant) -> Result<Done> {
        if let Some(image) = place::rbd(&self.source) {
            let outcome = RbdBackup::new(image?, self, repository)?.run(repository, attendant)?;
            return Ok(Done { outcome, mounted_at: Vec::new() });
        }
        let (source, mounted_at) = self.open()?;
        warn_of_mounts(&self.source, &mounted_at, attendant);
        let stop = || attendant.is_cancelled();
        let source = LimitedSource::new(source, self.limit_read.clone(), &stop);
        let options = BackupOptions {
            image: self.image.clone(),
            source: SourceRecord {
                location: self.source.clone(),
                format: source.info().format.to_string(),
                host: host_name(),
            },
            consistency: if mounted_at.is_empty() { Consistency::AtRest } else { Consistency::Crash },
            tags: self.tags.clone(),
            threads: self.threads.unwrap_or_else(default_threads),
        };
        let control = attendant.begins(source.virtual_size());
        let outcome = repository.backup(&source, &options, control.as_ref())?;
        Ok(Done { outcome, mounted_at })
    }

    /// What the backup would do; nothing is stored.
    ///
    /// # Errors
    /// As [`Volume::back_up`].
    pub fn plan(&self, repository: &Repository, attendant: &dyn Attendant) -> Result<Planned> {
        if let Some(image) = place::rbd(&self.source) {
            return RbdBackup::new(image?, self, repository)?.plan();
        }
        let (source, mounted_at) = self.open()?;
        warn_of_mounts(&self.source, &mounted_at, attendant);
        let mut data_bytes = 0;
        let size = source.virtual_size();
        leeward_disk::walk_extents::<leeward_disk::Error>(source.as_ref(), 0, size, |extent| {
            data_bytes += if extent.kind.is_data() { extent.length } else { 0 };
            Ok(())
        })?;
        let format = source.info().format.to_string();
        Ok(Planned::Whole { format, virtual_size: size, data_bytes, mounted_at })
    }

    /// Opens the disk; also says where it is mounted for writing.
    fn open(&self) -> Result<(SharedSource, Vec<String>)> {
        refuse_in_use(&self.source)?;
        let mounted_at = mounted::places(&self.source);
        Ok((leeward_disk::open_source(&self.source, &self.options)?, mounted_at))
    }
}

/// Refuses a disk that a running machine writes: what is read of it would be of no one moment.
fn refuse_in_use(source: &str) -> Result<()> {
    let path = Path::new(source);
    // What cannot be asked fails where it is opened, with a better message.
    if path.exists() && leeward_disk::in_use::is_written(path).unwrap_or(false) {
        return Err(Error::asked(
            ErrorKind::Refused,
            format!("{source}: a running machine has this disk open for writing"),
            "back the machine up through its QMP socket: leeward backup qmp:SOCKET IMAGE; or stop it first",
        ));
    }
    Ok(())
}

/// Tells that a disk does not hold still, and what to do about it.
fn warn_of_mounts(source: &str, places: &[String], attendant: &dyn Attendant) {
    if places.is_empty() {
        return;
    }
    // To freeze the root of this machine would freeze this process as well.
    let freeze = match places.iter().any(|place| place == "/") {
        true => String::new(),
        false => format!(", or freeze it meanwhile (fsfreeze --freeze {})", places[0]),
    };
    attendant.warns(
        &format!(
            "{source} is mounted for writing at {}: what is read of it is of no one moment, and may not mount again",
            places.join(", ")
        ),
        &format!("back up a snapshot of it (lvcreate --snapshot){freeze}"),
    );
}
