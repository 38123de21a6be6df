//! The backup of an image of RBD: what changed since the last one.
//!
//! The image itself goes on moving, so a snapshot of it is read. The snapshot stays until the next backup has made its own:
//! the cluster can then tell what differs between the two. One that the person named is read as it is and stays theirs.

use std::sync::Arc;

use leeward_cloud::bridge::{BridgedDisk, Use};
use leeward_cloud::rbd::{Cluster, ImageInfo, Known, Location, Mode, Moment, RbdSnapshot, decide};
use leeward_disk::{References, default_threads};
use leeward_repository::{
    BackupOutcome, CaptureMode, CaptureRecord, Changed, Consistency, GroupOptions, Member, Repository,
    SnapshotId, SourceRecord, host_name,
};

use crate::limit::LimitedSource;
use crate::volume::{Planned, Volume};
use crate::{Attendant, Error, ErrorKind, Result};

/// Digits of the repository's identity in the names of the snapshots that its backups make.
const IDENTITY_DIGITS: usize = 12;

/// One backup of an image of RBD.
pub(crate) struct RbdBackup<'a> {
    volume: &'a Volume,
    image: Location,
    cluster: Cluster,
    info: ImageInfo,
    /// What the names of the snapshots begin with that this repository's backups make.
    prefix: String,
    last: Option<(SnapshotId, Known)>,
}

/// The image's last snapshot in the repository.
fn last(repository: &Repository, volume: &Volume) -> Result<Option<(SnapshotId, Known)>> {
    let entry = match repository.image(&volume.image) {
        Ok(found) => found.snapshots.last().cloned(),
        Err(leeward_repository::Error::NoImage { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let Some(entry) = entry else { return Ok(None) };
    // One that cannot be read is no base; the whole image is then read, and `check` names the damage.
    let Ok(snapshot) = repository.snapshot(entry.id) else { return Ok(None) };
    let recorded = snapshot.capture.and_then(|capture| capture.bitmap);
    let moment = recorded.and_then(|text| Moment::from_record(&text));
    Ok(Some((entry.id, Known { virtual_size: snapshot.virtual_size, moment })))
}

/// Random digits, so that two backups at once have snapshots of their own.
fn random_digits() -> Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| {
        Error::asked(
            ErrorKind::Failed,
            format!("the system gives no random bytes: {error}"),
            "see why the machine's kernel gives none",
        )
    })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl<'a> RbdBackup<'a> {
    pub fn new(image: Location, volume: &'a Volume, repository: &Repository) -> Result<Self> {
        let has_references = !matches!(volume.options.references, References::Refuse);
        if has_references || volume.options.snapshot.is_some() {
            return Err(Error::asked(
                ErrorKind::Usage,
                "--allow-references and --snapshot are for image files",
                "a snapshot of an image of RBD is given as rbd:POOL/IMAGE@SNAPSHOT",
            ));
        }
        let cluster = Cluster::of(&image);
        let identity = &repository.config().repository_id;
        Ok(Self {
            volume,
            info: cluster.info()?,
            cluster,
            image,
            prefix: format!("leeward-{}-", &identity[..IDENTITY_DIGITS.min(identity.len())]),
            last: last(repository, volume)?,
        })
    }

    /// Backs it up; the snapshot of the image that was made for this stays as the base of the next backup.
    pub fn run(&self, repository: &Repository, attendant: &dyn Attendant) -> Result<BackupOutcome> {
        let (snapshot, is_own) = self.moment()?;
        let stored = self.store(&snapshot, repository, attendant);
        match &stored {
            Ok(_) if is_own => self.remove_older(&snapshot, attendant),
            Err(_) if is_own => {
                if let Err(error) = self.cluster.remove_snapshot(&snapshot.name) {
                    warn(attendant, &format!("cleaning up: {error}"));
                }
            }
            _ => {}
        }
        stored
    }

    /// The snapshot to read, and whether it was made for this.
    fn moment(&self) -> Result<(RbdSnapshot, bool)> {
        let (name, is_own) = match &self.image.snapshot {
            Some(name) => (name.clone(), false),
            None => (format!("{}{}", self.prefix, random_digits()?), true),
        };
        if is_own {
            self.cluster.create_snapshot(&name)?;
        }
        let found = self.cluster.snapshots()?.into_iter().find(|snapshot| snapshot.name == name);
        match found {
            Some(snapshot) => Ok((snapshot, is_own)),
            None => Err(Error::asked(
                ErrorKind::NotFound,
                format!("{}: there is no such snapshot", self.image.at(&name)),
                "see what there is with: rbd snap ls POOL/IMAGE",
            )),
        }
    }

    fn mode(&self, to: &RbdSnapshot, present: &[RbdSnapshot]) -> Mode {
        let known = self.last.as_ref().map(|(_, known)| known);
        decide(known, &self.info, present, to, self.volume.full)
    }

    /// What it would do.
    pub fn plan(&self) -> Result<Planned> {
        let mut present = self.cluster.snapshots()?;
        let to = match &self.image.snapshot {
            Some(_) => self.moment()?.0,
            // What a snapshot that is made now would be.
            None => RbdSnapshot { id: u64::MAX, name: String::new(), size: self.info.size },
        };
        present.retain(|snapshot| snapshot.id != to.id);
        let (mode, base, reason) = match self.mode(&to, &present) {
            Mode::Since(base) => (CaptureMode::Incremental, Some(base.name), None),
            Mode::Full(reason) => (CaptureMode::Full, None, Some(reason)),
        };
        Ok(Planned::Moment { source: self.image.to_string(), virtual_size: to.size, mode, base, reason })
    }

    /// Reads the snapshot and publishes one of it.
    fn store(
        &self,
        to: &RbdSnapshot,
        repository: &Repository,
        attendant: &dyn Attendant,
    ) -> Result<BackupOutcome> {
        let mode = self.mode(to, &self.cluster.snapshots()?);
        let (changed, reason) = match (&mode, &self.last) {
            (Mode::Since(base), Some((id, _))) => {
                let ranges = self.cluster.difference(&base.name, &to.name)?;
                (Some(Changed { base: *id, ranges }), None)
            }
            (Mode::Since(_), None) => (None, None),
            (Mode::Full(reason), _) => (None, Some(reason.clone())),
        };
        let disk = BridgedDisk::rbd(&self.image.at(&to.name), Use::Read)?;
        let stop = || attendant.is_cancelled();
        let source = LimitedSource::new(Arc::new(disk), self.volume.limit_read.clone(), &stop);
        let changed_bytes =
            changed.as_ref().map(|changed| changed.ranges.iter().map(|(_, length)| length).sum());
        let moment = Moment { image: self.info.id.clone(), snapshot: to.id };
        let member = Member {
            image: self.volume.image.clone(),
            source: &source,
            record: SourceRecord {
                location: self.image.without_snapshot().to_string(),
                format: "rbd".to_owned(),
                host: host_name(),
            },
            capture: Some(CaptureRecord {
                mode: if changed.is_some() { CaptureMode::Incremental } else { CaptureMode::Full },
                reason,
                bitmap: Some(moment.to_record()),
                changed_bytes,
            }),
            changed,
        };
        let options = GroupOptions {
            group: None,
            consistency: Consistency::Crash,
            tags: self.volume.tags.clone(),
            threads: self.volume.threads.unwrap_or_else(default_threads),
        };
        let control = attendant.begins(changed_bytes.unwrap_or(to.size));
        let mut made = repository.backup_group(&[member], &options, control.as_ref())?;
        made.pop().ok_or_else(|| {
            Error::asked(ErrorKind::Failed, "the backup made no snapshot", "run it again, and report this")
        })
    }

    /// Removes the snapshots that earlier backups to this repository made; they are no base any more.
    fn remove_older(&self, kept: &RbdSnapshot, attendant: &dyn Attendant) {
        let older = match self.cluster.snapshots() {
            Ok(found) => found,
            Err(error) => return warn(attendant, &format!("the snapshot is kept, but cleaning up: {error}")),
        };
        for snapshot in older {
            if snapshot.name.starts_with(&self.prefix)
                && snapshot.id < kept.id
                && let Err(error) = self.cluster.remove_snapshot(&snapshot.name)
            {
                warn(attendant, &format!("the snapshot is kept, but cleaning up: {error}"));
            }
        }
    }
}

fn warn(attendant: &dyn Attendant, what: &str) {
    attendant.warns(
        what,
        "the next backup of the image tries again to remove it; see them with: rbd snap ls POOL/IMAGE",
    );
}
