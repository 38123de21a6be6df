//! `leeward backup rbd:POOL/IMAGE`: what changed on an image of Ceph since the last backup.
//!
//! The image itself goes on moving, so a snapshot of it is read. The snapshot stays until the next backup has made its own:
//! the cluster can then tell what differs between the two. One that the person named is read as it is and stays theirs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use leeward_cloud::rbd::{
    Cluster, ImageInfo, Known, Location, Mode, Moment, RbdDisk, RbdSnapshot, Use, decide,
};
use leeward_disk::default_threads;
use leeward_repository::{
    BackupOutcome, CaptureMode, CaptureRecord, Changed, Consistency, GroupOptions, Member, Repository,
    SnapshotId, SourceRecord, host_name,
};

use super::machine::{group_id, note};
use super::{BackupArguments, Watch, report};
use crate::failure::{Code, Failure};
use crate::limit::{LimitedSource, RateLimit};
use crate::output::Output;
use crate::size;

/// Digits of the repository's identity in the names of the snapshots that its backups make.
const IDENTITY_DIGITS: usize = 12;

/// One backup of an image of RBD.
struct Backup<'a> {
    arguments: &'a BackupArguments,
    image: Location,
    cluster: Cluster,
    info: ImageInfo,
    /// What the names of the snapshots begin with that this repository's backups make.
    prefix: String,
    last: Option<(SnapshotId, Known)>,
}

/// Runs the verb for an image of RBD.
pub fn run(
    image: Location,
    arguments: &BackupArguments,
    repository: &Repository,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.allow_references.is_some() || arguments.snapshot.is_some() {
        return Err(Failure::new(Code::Usage, "--allow-references and --snapshot are for image files")
            .hint("a snapshot of an image of RBD is given as rbd:POOL/IMAGE@SNAPSHOT"));
    }
    let cluster = Cluster::of(&image);
    let identity = &repository.config().repository_id;
    let backup = Backup {
        arguments,
        info: cluster.info()?,
        cluster,
        image,
        prefix: format!("leeward-{}-", &identity[..IDENTITY_DIGITS.min(identity.len())]),
        last: last(repository, arguments)?,
    };
    if arguments.dry_run {
        return backup.show_plan(output);
    }
    let started = Instant::now();
    let (snapshot, is_own) = backup.moment()?;
    match backup.store(&snapshot, repository, output) {
        Ok(outcome) => {
            report(&outcome, &[], started.elapsed(), repository.requests(), output);
            backup.show(&outcome, output);
            if is_own {
                backup.remove_older(&snapshot, output);
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            if is_own && let Err(error) = backup.cluster.remove_snapshot(&snapshot.name) {
                note(output, &format!("cleaning up: {error}"));
            }
            Err(failure)
        }
    }
}

/// The image's last snapshot in the repository.
fn last(
    repository: &Repository,
    arguments: &BackupArguments,
) -> Result<Option<(SnapshotId, Known)>, Failure> {
    let entry = match repository.image(&arguments.image) {
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

impl Backup<'_> {
    /// The snapshot to read, and whether it was made for this.
    fn moment(&self) -> Result<(RbdSnapshot, bool), Failure> {
        let (name, is_own) = match &self.image.snapshot {
            Some(name) => (name.clone(), false),
            None => (format!("{}{}", self.prefix, &group_id()?[..16]), true),
        };
        if is_own {
            self.cluster.create_snapshot(&name)?;
        }
        let found = self.cluster.snapshots()?.into_iter().find(|snapshot| snapshot.name == name);
        match found {
            Some(snapshot) => Ok((snapshot, is_own)),
            None => Err(Failure::new(
                Code::NotFound,
                format!("{}: there is no such snapshot", self.image.at(&name)),
            )
            .hint("see what there is with: rbd snap ls POOL/IMAGE")),
        }
    }

    fn mode(&self, to: &RbdSnapshot, present: &[RbdSnapshot]) -> Mode {
        let known = self.last.as_ref().map(|(_, known)| known);
        decide(known, &self.info, present, to, self.arguments.machine.full)
    }

    fn show_plan(&self, output: &Output) -> Result<ExitCode, Failure> {
        let mut present = self.cluster.snapshots()?;
        let to = match &self.image.snapshot {
            Some(_) => self.moment()?.0,
            // What a snapshot that is made now would be.
            None => RbdSnapshot { id: u64::MAX, name: String::new(), size: self.info.size },
        };
        present.retain(|snapshot| snapshot.id != to.id);
        let (how, reason) = match self.mode(&to, &present) {
            Mode::Since(base) => (format!("what changed since the snapshot {}", base.name), None),
            Mode::Full(reason) => (format!("all data, because {reason}"), Some(reason)),
        };
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "image": self.arguments.image, "virtual_size": to.size, "reason": reason,
                "mode": if reason.is_some() { CaptureMode::Full } else { CaptureMode::Incremental },
            }));
        }
        output.line(format!(
            "Would read of the {} of {} for {}: {how}",
            size::show(to.size),
            self.image,
            self.arguments.image
        ));
        Ok(ExitCode::SUCCESS)
    }

    /// Reads the snapshot and publishes one of it.
    fn store(
        &self,
        to: &RbdSnapshot,
        repository: &Repository,
        output: &Output,
    ) -> Result<BackupOutcome, Failure> {
        let mode = self.mode(to, &self.cluster.snapshots()?);
        let (changed, reason) = match (&mode, &self.last) {
            (Mode::Since(base), Some((id, _))) => {
                let ranges = self.cluster.difference(&base.name, &to.name)?;
                (Some(Changed { base: *id, ranges }), None)
            }
            (Mode::Since(_), None) => (None, None),
            (Mode::Full(reason), _) => (None, Some(reason.clone())),
        };
        let disk = RbdDisk::open(&self.image.at(&to.name), Use::Read)?;
        let limit = self.arguments.limit_read.map(RateLimit::new);
        let source = LimitedSource::wrap(Arc::new(disk), limit.as_ref());
        let changed_bytes =
            changed.as_ref().map(|changed| changed.ranges.iter().map(|(_, length)| length).sum());
        let moment = Moment { image: self.info.id.clone(), snapshot: to.id };
        let member = Member {
            image: self.arguments.image.clone(),
            source: source.as_ref(),
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
            tags: self.arguments.tags.iter().cloned().collect(),
            threads: self.arguments.threads.unwrap_or_else(default_threads),
        };
        let label = format!("backup {}", self.arguments.image);
        let watch = Watch::new(output, changed_bytes.unwrap_or(to.size), &label);
        let result = repository.backup_group(&[member], &options, &watch);
        watch.finish();
        result?.pop().ok_or_else(|| Failure::new(Code::Failed, "the backup made no snapshot"))
    }

    fn show(&self, outcome: &BackupOutcome, output: &Output) {
        let Some(capture) = &outcome.snapshot.capture else { return };
        output.line(match &capture.reason {
            Some(reason) => format!("  full: {reason}"),
            None => format!("  incremental: {} changed", size::show(capture.changed_bytes.unwrap_or(0))),
        });
    }

    /// Removes the snapshots that earlier backups to this repository made; they are no base any more.
    fn remove_older(&self, kept: &RbdSnapshot, output: &Output) {
        let older = match self.cluster.snapshots() {
            Ok(found) => found,
            Err(error) => return note(output, &format!("the snapshot is kept, but cleaning up: {error}")),
        };
        for snapshot in older {
            if snapshot.name.starts_with(&self.prefix)
                && snapshot.id < kept.id
                && let Err(error) = self.cluster.remove_snapshot(&snapshot.name)
            {
                note(output, &format!("the snapshot is kept, but cleaning up: {error}"));
            }
        }
    }
}
