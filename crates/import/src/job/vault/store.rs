//! `write_image_to_bv`: the disks into the repository, published at once, read back and compared.

use std::collections::BTreeMap;

use leeward_cloud::provider::{RUN_TAG, VolumeId};
use leeward_disk::default_threads;
use leeward_repository::{
    BackupOutcome, Consistency, Give, GroupOptions, GroupRecord, ImageName, ReadOptions, Repository,
    Snapshot, SnapshotEntry, SnapshotId, SourceRecord, Stream, host_name,
};
use leeward_runs::state::Level;
use leeward_runs::step::{Context, Fault, Outcome};

use super::super::fault::{self, Watching};
use super::super::inspect::{self, Image};
use super::super::volume::Made;
use super::super::{Places, Target};
use super::compare::{Ranges, compare, ranges_of};
use super::reading::Reading;
use super::volumes::{DOMAIN, id, parse};
use super::{Intended, Kept, Opening, Published, Read, Stored, Vault, of_repository};
use crate::image::Disk;
use crate::ledger::RangeDigests;

/// Threads that name, compress and store, at most: each has some megabytes.
const THREADS_MAX: usize = 4;

/// The step.
pub(in super::super) fn write(
    places: &dyn Places,
    context: &Context,
    target: &Target,
    vault: &Vault,
    intended: &[Intended],
) -> Result<Outcome, Fault> {
    // Before its first attempt a run has no snapshots: all images need not be looked through for them.
    let is_first = context.kept::<Kept>()?.is_none();
    let mut kept = Kept::read_from(context)?;
    context.keep(&kept)?;
    let image: Image = context.needed("download_image_from_bucket")?;
    let opened = inspect::open(places, context, &image.expanded)?;
    if opened.disks.len() != intended.len() {
        return Err(Fault::lasting("there are other disks than snapshots", "retry create_block_volume"));
    }
    let job = Job { context, target, vault, intended, disks: &opened.disks };
    let repository = vault.open(Opening::Usual)?;
    repository.complete_sessions().map_err(|error| of_repository(&error))?;
    let found = if is_first { None } else { job.found(&repository, &mut kept)? };
    let (snapshots, is_new) = match found {
        Some(found) => (found, false),
        None => (job.store(&repository, &mut kept)?, true),
    };
    drop(repository);
    // Opened anew: nothing that was kept on this machine while it was written is believed.
    let repository = vault.open(Opening::Examined)?;
    let mut published = Published { snapshots: Vec::new(), volumes: Vec::new() };
    for ((intended, read), snapshot) in intended.iter().zip(&kept.read).zip(&snapshots) {
        let stored = job.compare(&repository, &kept, intended, read, (*snapshot, is_new))?;
        published.snapshots.push(stored);
        published.volumes.push(Made {
            id: id(&intended.image, *snapshot),
            name: intended.image.to_string(),
            bytes: intended.bytes,
            domain: DOMAIN.to_owned(),
            disk: intended.disk.clone(),
        });
    }
    job.tidy(&repository, &kept, &published)?;
    Outcome::done(&published)
}

/// The step while it is done.
struct Job<'a> {
    context: &'a Context,
    target: &'a Target,
    vault: &'a Vault,
    intended: &'a [Intended],
    disks: &'a [Disk],
}

impl Job<'_> {
    /// The snapshots of these disks that an earlier attempt has published. Others of this run are forgotten.
    fn found(&self, repository: &Repository, kept: &mut Kept) -> Result<Option<Vec<SnapshotId>>, Fault> {
        let all = self.vault.made(repository).map_err(|error| of_repository(&error))?;
        let mut found = self.of_run(all);
        // What has the tags of a run that had succeeded and was not made by it is somebody's copy.
        found.retain(|(image, entry)| kept.delivered_at == 0 || kept.made.contains(&id(image, entry.id)));
        let is_read = kept.read.len() == self.disks.len()
            && kept.read.iter().zip(self.disks).all(|(read, disk)| read.source == *disk.identity())
            && kept.read.iter().zip(self.intended).all(|(read, intended)| read.bytes == intended.bytes);
        let of = |intended: &Intended| {
            let is_its = |(image, entry): &&(ImageName, SnapshotEntry)| {
                *image == intended.image && entry.virtual_size == intended.bytes
            };
            found.iter().rev().find(is_its).map(|(_, entry)| entry.id)
        };
        let whole: Option<Vec<SnapshotId>> =
            is_read.then(|| self.intended.iter().map(of).collect()).flatten();
        if let Some(snapshots) = whole {
            self.keep_made(kept, &snapshots)?;
            self.context.say("the snapshots were published before; they are compared again");
            return Ok(Some(snapshots));
        }
        for (image, entry) in &found {
            let name = id(image, entry.id);
            if kept.delivered.contains(&name) {
                return Err(Fault::lasting(
                    format!(
                        "this run has delivered snapshot {name} before, and is now to store another disk"
                    ),
                    "begin another import",
                ));
            }
            self.context.say(format!("snapshot {name} is of an attempt that broke off; it is forgotten"));
            self.forget(repository, &name)?;
        }
        Ok(None)
    }

    /// Those snapshots that have the tag of this run.
    fn of_run(&self, mut made: Vec<(ImageName, SnapshotEntry)>) -> Vec<(ImageName, SnapshotEntry)> {
        let run = self.context.run_id().as_str();
        made.retain(|(_, entry)| entry.tags.get(RUN_TAG).is_some_and(|tag| tag == run));
        made
    }

    fn keep_made(&self, kept: &mut Kept, snapshots: &[SnapshotId]) -> Result<(), Fault> {
        let made = self.intended.iter().zip(snapshots);
        kept.made.extend(made.map(|(intended, snapshot)| id(&intended.image, *snapshot)));
        self.context.keep(&*kept)
    }

    /// Reads the disks into the repository, and publishes their snapshots.
    fn store(&self, repository: &Repository, kept: &mut Kept) -> Result<Vec<SnapshotId>, Fault> {
        let group = match self.disks.len() {
            0 | 1 => None,
            _ => Some(GroupRecord { id: group_id()?, images: Vec::new(), machine: None }),
        };
        let options = GroupOptions {
            group,
            consistency: Consistency::AtRest,
            tags: BTreeMap::new(),
            threads: default_threads().min(THREADS_MAX),
        };
        let reading = Reading::new(self.context, self.target, kept);
        let mut streams: Vec<_> = self
            .intended
            .iter()
            .zip(self.disks)
            .map(|(intended, disk)| {
                let identity = disk.identity();
                let inner =
                    if identity.disk.is_empty() { String::new() } else { format!(" {}", identity.disk) };
                let reading = &reading;
                let give: Box<Give<'_>> = Box::new(move |take| reading.give(intended, disk, take));
                Stream {
                    image: intended.image.clone(),
                    virtual_size: intended.bytes,
                    record: SourceRecord {
                        location: format!("{} {}{inner}", identity.place, identity.object),
                        format: disk.format.name().to_owned(),
                        host: host_name(),
                    },
                    tags: intended.tags.clone(),
                    give,
                }
            })
            .collect();
        let done = repository.backup_streams(&mut streams, &options, &reading);
        drop(streams);
        let (read, fault) = reading.end();
        let outcomes: Vec<BackupOutcome> = done.map_err(|error| match fault {
            _ if self.context.is_stopped() => Fault::Stopped,
            Some(fault) => fault,
            None => of_repository(&error),
        })?;
        kept.read = read;
        let snapshots: Vec<SnapshotId> = outcomes.iter().map(|outcome| outcome.id).collect();
        self.keep_made(kept, &snapshots)?;
        for BackupOutcome { id, snapshot } in &outcomes {
            let statistics = &snapshot.statistics;
            self.context.say(format!(
                "snapshot {}@{}: {} bytes of data, of which {} are new here; {} bytes were stored for them",
                snapshot.image,
                id.short(),
                statistics.data_bytes,
                statistics.new_bytes,
                statistics.stored_bytes
            ));
        }
        Ok(snapshots)
    }

    /// Reads a snapshot back and compares it. What it has in common with the snapshot before, by the names of its chunks, was
    /// read then, and is not read again by the attempt that has just named them.
    fn compare(
        &self,
        repository: &Repository,
        kept: &Kept,
        intended: &Intended,
        read: &Read,
        (snapshot, is_new): (SnapshotId, bool),
    ) -> Result<Stored, Fault> {
        let name = format!("{}@{}", intended.image, snapshot.short());
        let options = ReadOptions { cache_bytes: 24 << 20, ..ReadOptions::default() };
        let source = repository.source_with(snapshot, options).map_err(|error| of_repository(&error))?;
        let manifest = source.snapshot().clone();
        let ranges = if is_new { changed(repository, &manifest, &read.digests) } else { None };
        let watching = Watching { context: self.context, note: "reading back" };
        let compared = compare(&source, &read.digests, ranges.as_ref().map(|(_, ranges)| ranges), &watching)
            .map_err(|error| if self.context.is_stopped() { Fault::Stopped } else { unreadable(&error) })?;
        if let Some(at) = compared.differs_at {
            let what = format!("snapshot {name} differs from what was read, behind byte {at}");
            let full = id(&intended.image, snapshot);
            if !kept.delivered.contains(&full) {
                self.forget(&self.vault.open(Opening::Usual)?, &full)?;
            }
            return Err(Fault::passing(
                what,
                "the disk is read again; if that repeats, see the daemon's memory",
            ));
        }
        self.context.say(format!(
            "snapshot {name} was compared: {} bytes were read back from the repository, all as read from the object",
            compared.read_bytes
        ));
        if let Some((parent, ranges)) = &ranges {
            let all = read.digests.ranges.len();
            self.context.say(format!(
                "{} of {all} parts of the disk have the same chunks as snapshot {} and were not read again: leeward check --read-data reads all",
                all - ranges.len(),
                parent.short()
            ));
        }
        Ok(Stored {
            image: intended.image.clone(),
            snapshot: snapshot.to_string(),
            virtual_bytes: manifest.virtual_size,
            data_bytes: manifest.statistics.data_bytes,
            new_bytes: manifest.statistics.new_bytes,
            stored_bytes: manifest.statistics.stored_bytes,
            read_back_bytes: compared.read_bytes,
            object_digest: read.object_digest.clone(),
        })
    }

    /// Leaves one snapshot for each disk: a process that was taken for dead may have published late.
    fn tidy(&self, repository: &Repository, kept: &Kept, published: &Published) -> Result<(), Fault> {
        let images: Vec<ImageName> = self.intended.iter().map(|intended| intended.image.clone()).collect();
        let made = self.vault.made_in(repository, &images).map_err(|error| of_repository(&error))?;
        for (image, entry) in self.of_run(made) {
            let name = id(&image, entry.id);
            let is_kept = published.volumes.iter().any(|volume| volume.id == name);
            if is_kept || kept.delivered.contains(&name) {
                continue;
            }
            if kept.delivered_at > 0 && !kept.made.contains(&name) {
                let what =
                    format!("snapshot {name} has the tags of this run and was not made by it: it stays");
                self.context.log(Level::Warning, &what);
                continue;
            }
            self.context.say(format!("snapshot {name} is one too many, and is forgotten"));
            self.forget(&self.vault.open(Opening::Usual)?, &name)?;
        }
        Ok(())
    }

    fn forget(&self, repository: &Repository, name: &VolumeId) -> Result<(), Fault> {
        let Some((image, snapshot)) = parse(name) else { return Ok(()) };
        match repository.forget(&image, &[snapshot]) {
            Err(error) if error.kind() != leeward_repository::ErrorKind::NotFound => {
                Err(of_repository(&error))
            }
            _ => Ok(()),
        }
    }
}

/// The ranges in which a snapshot differs from the one before it, and which that is; none where that cannot be told.
fn changed(
    repository: &Repository,
    snapshot: &Snapshot,
    digests: &RangeDigests,
) -> Option<(SnapshotId, Ranges)> {
    let parent = *snapshot.parents.first()?;
    let before = repository.snapshot(parent).ok()?;
    let mut stretches = Vec::new();
    repository
        .diff(&before, snapshot, |difference| stretches.push((difference.offset, difference.length)))
        .ok()?;
    let size = snapshot.virtual_size;
    let within = stretches.into_iter().filter(|(offset, _)| *offset < size);
    let within = within.map(|(offset, length)| (offset, length.min(size - offset)));
    Some((parent, ranges_of(digests, within)))
}

/// A snapshot that cannot be read back.
fn unreadable(error: &crate::Error) -> Fault {
    match error.is_transient() {
        true => fault::of_import(error),
        false => Fault::lasting(
            leeward_store::with_causes(error),
            "the repository holds something damaged: see with leeward check, mend it with leeward check --repair, then retry the step",
        ),
    }
}

fn group_id() -> Result<String, Fault> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        Fault::passing(format!("the system gives no random bytes: {error}"), "retry the step")
    })?;
    Ok(crate::digest::hex(&id))
}
