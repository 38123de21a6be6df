//! The disks of a machine that runs.

use std::sync::Arc;

use leeward_cloud::qemu::{
    Capture, CapturedDisk, Claim, DiskDefinition, LastSnapshot, Machine, MachineDefinition, MachineDisk,
    Mode, Watched, bitmap,
};
use leeward_disk::{SharedSource, default_threads};
use leeward_repository::{
    BackupOutcome, CaptureMode, CaptureRecord, Changed, Control, GroupOptions, GroupRecord, ImageName,
    Member, Repository, Snapshot, SnapshotId, SourceRecord, host_name,
};

use super::{DiskDone, MachineBackup, MachineDone, MachinePlan, PlannedDisk, Running, Way, tell_left_out};
use crate::limit::LimitedSource;
use crate::{Attendant, Error, Result};

/// What is to become of one disk.
struct Planned {
    disk: MachineDisk,
    image: ImageName,
    last: Option<SnapshotId>,
    mode: Mode,
}

pub(super) fn back_up(
    backup: &MachineBackup,
    running: &Running,
    repository: &Repository,
    attendant: &dyn Attendant,
) -> Result<MachineDone> {
    let mut claim = Claim::of(running.monitor()?, backup.take_over)?;
    if !claim.removed().is_empty() {
        attendant
            .says(&format!("removed what an unfinished backup had left: {}", claim.removed().join(", ")));
    }
    if matches!(running.way, Way::Domain(_)) {
        claim.refuse_jobs()?;
    }
    let machine = running.selected(claim.machine()?)?;
    tell_left_out(&machine.left_out, attendant);
    let planned = plan(backup, &machine, repository)?;
    let definition = definition(&mut claim, running, &machine, &planned)?;
    let prefix = bitmap::prefix(&repository.config().repository_id);
    let options = backup.capture.options(prefix, backup.threads.unwrap_or_else(default_threads))?;
    let modes = planned.iter().map(|planned| (planned.disk.clone(), planned.mode.clone())).collect();
    let mut capture = Capture::begin(claim, &machine, modes, &options)?;
    for text in &capture.moment().notes {
        attendant.says(text);
    }
    let group = GroupRecord {
        id: options.group.clone(),
        images: Vec::new(),
        machine: serde_json::to_value(&definition).ok(),
    };
    let stored = store(backup, running, &mut capture, &planned, group, repository, attendant);
    let outcomes = match stored {
        Ok(outcomes) => outcomes,
        Err(error) => {
            for trouble in capture.abandon() {
                attendant.says(&format!("cleaning up: {trouble}"));
            }
            return Err(error);
        }
    };
    let read = capture.disks().iter().zip(&planned).zip(outcomes);
    let disks = read.map(|((captured, planned), outcome)| DiskDone {
        name: planned.disk.name.clone(),
        outcome,
        disk_bytes: captured.source.disk_bytes(),
        overlay_bytes: captured.source.overlay_bytes(),
    });
    let done = MachineDone { disks: disks.collect(), moment: capture.moment().clone() };
    for trouble in capture.finish() {
        attendant.says(&format!("the snapshots are kept, but cleaning up: {trouble}"));
    }
    Ok(done)
}

pub(super) fn show(
    backup: &MachineBackup,
    running: &Running,
    repository: &Repository,
) -> Result<MachinePlan> {
    let machine = running.selected(Machine::discover(&mut running.monitor()?)?)?;
    let disks = plan(backup, &machine, repository)?.into_iter().map(|planned| PlannedDisk::Running {
        disk: Box::new(planned.disk),
        image: planned.image,
        last: planned.last,
        mode: planned.mode,
    });
    Ok(MachinePlan { disks: disks.collect(), left_out: machine.left_out })
}

/// Decides for each disk which image it belongs to and how it is read.
fn plan(backup: &MachineBackup, machine: &Machine, repository: &Repository) -> Result<Vec<Planned>> {
    let decide = |disk: &MachineDisk| {
        let image = backup.image_of(&disk.name)?;
        let last = match repository.image(&image) {
            Ok(found) => found.snapshots.last().map(|entry| entry.id),
            Err(leeward_repository::Error::NoImage { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let known = last.map(|id| repository.snapshot(id)).transpose();
        let mode = match known {
            Ok(known) => {
                let known = known.map(|snapshot| LastSnapshot {
                    virtual_size: snapshot.virtual_size,
                    file: file_of(&snapshot),
                    bitmap: snapshot.capture.and_then(|capture| capture.bitmap),
                });
                bitmap::decide(&disk.bitmaps, disk.virtual_size, &disk.file, known.as_ref(), backup.full)
            }
            Err(error) => Mode::Full { reason: format!("the last snapshot cannot be read: {error}") },
        };
        Ok(Planned { disk: disk.clone(), image, last, mode })
    };
    machine.disks.iter().map(decide).collect()
}

/// The file in which a disk was when a snapshot of it was made.
fn file_of(snapshot: &Snapshot) -> Option<String> {
    let machine = snapshot.group.as_ref()?.machine.clone()?;
    let definition: MachineDefinition = serde_json::from_value(machine).ok()?;
    let is_it = |disk: &&DiskDefinition| disk.image.as_deref() == Some(snapshot.image.as_str());
    definition.disks.iter().find(is_it)?.file.clone()
}

fn definition(
    claim: &mut Claim,
    running: &Running,
    machine: &Machine,
    planned: &[Planned],
) -> Result<MachineDefinition> {
    let mut definition = claim.definition(machine)?;
    if let Way::Domain(domain) = &running.way {
        definition = domain.complete(definition);
    }
    for disk in &mut definition.disks {
        let planned = planned.iter().find(|planned| planned.disk.name == disk.name);
        disk.image = planned.map(|planned| planned.image.to_string());
    }
    Ok(definition)
}

/// Listens to who attends and to QEMU.
struct Attended<'a, 'q> {
    control: &'a dyn Control,
    qemu: &'a Watched<'q>,
}

impl Control for Attended<'_, '_> {
    fn advance(&self, bytes: u64) {
        self.control.advance(bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.control.is_cancelled() || self.qemu.is_in_doubt()
    }

    fn confirm(&self) -> leeward_repository::Result<()> {
        self.qemu
            .confirm()
            .map_err(|source| leeward_repository::Error::Unconfirmed { source: Box::new(source) })
    }
}

/// Reads the disks and publishes their snapshots.
fn store(
    backup: &MachineBackup,
    running: &Running,
    capture: &mut Capture,
    planned: &[Planned],
    group: GroupRecord,
    repository: &Repository,
    attendant: &dyn Attendant,
) -> Result<Vec<BackupOutcome>> {
    let stop = || attendant.is_cancelled();
    let limited = |captured: &CapturedDisk| {
        let source = Arc::clone(&captured.source) as SharedSource;
        LimitedSource::new(source, backup.limit_read.clone(), &stop)
    };
    let sources: Vec<LimitedSource> = capture.disks().iter().map(limited).collect();
    let disks = capture.disks().iter().zip(planned).zip(&sources);
    let members: Vec<Member> =
        disks.map(|((captured, planned), source)| member(captured, planned, source, running)).collect();
    let total = capture.disks().iter().map(bytes_to_read).sum();
    let options = GroupOptions {
        group: Some(group),
        consistency: capture.moment().consistency,
        tags: backup.tags.clone(),
        threads: backup.threads.unwrap_or_else(default_threads),
    };
    let control = attendant.begins(total);
    capture.watched(|qemu| {
        let control = Attended { control: control.as_ref(), qemu };
        match repository.backup_group(&members, &options, &control) {
            // The doubt came first, and what followed is its consequence.
            Err(error) if qemu.is_in_doubt() => Err(qemu.confirm().err().map_or(error.into(), Error::from)),
            other => other.map_err(Error::from),
        }
    })?
}

fn bytes_to_read(captured: &CapturedDisk) -> u64 {
    match &captured.changed {
        Some(ranges) => ranges.iter().map(|(_, length)| length).sum(),
        None => captured.disk.virtual_size,
    }
}

fn member<'a>(
    captured: &CapturedDisk,
    planned: &Planned,
    source: &'a LimitedSource<'_>,
    running: &Running,
) -> Member<'a> {
    let changed = captured.changed.as_ref().zip(planned.last);
    Member {
        image: planned.image.clone(),
        source,
        record: SourceRecord {
            location: running.location(&captured.disk),
            format: captured.disk.driver.clone(),
            host: host_name(),
        },
        capture: Some(CaptureRecord {
            mode: if changed.is_some() { CaptureMode::Incremental } else { CaptureMode::Full },
            reason: captured.mode.reason().map(str::to_owned),
            bitmap: Some(captured.bitmap.clone()),
            changed_bytes: changed.map(|_| bytes_to_read(captured)),
        }),
        changed: changed.map(|(ranges, base)| Changed { base, ranges: ranges.clone() }),
    }
}
