//! The disks of a domain that is shut off: read from their files, as one group, as long as nobody starts it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use leeward_cloud::libvirt::{Domain, RestingDisk, State};
use leeward_cloud::qemu::{LeftOut, MachineDefinition, Moment};
use leeward_disk::{Format, OpenOptions, References, SharedSource, Source, default_threads, open_source};
use leeward_repository::{
    CaptureMode, CaptureRecord, Consistency, Control, GroupOptions, GroupRecord, ImageName, Member,
    Repository, SourceRecord, host_name,
};

use super::{DiskDone, MachineBackup, MachineDone, MachinePlan, PlannedDisk, group_id, tell_left_out};
use crate::limit::LimitedSource;
use crate::{Attendant, Error, ErrorKind, Result};

/// How often it is looked whether the domain has been started.
const INTERVAL: Duration = Duration::from_millis(200);

/// A disk that is to be read.
struct Opened {
    disk: RestingDisk,
    image: ImageName,
    source: SharedSource,
    changed: Option<SystemTime>,
}

pub(super) fn back_up(
    backup: &MachineBackup,
    domain: Domain,
    wanted: &[String],
    repository: &Repository,
    attendant: &dyn Attendant,
) -> Result<MachineDone> {
    let (opened, left_out) = open_all(backup, &domain, wanted)?;
    tell_left_out(&left_out, attendant);
    let group = GroupRecord {
        id: group_id()?,
        images: Vec::new(),
        machine: serde_json::to_value(definition(&domain, &opened)).ok(),
    };
    let stop = || attendant.is_cancelled();
    let limited = |opened: &Opened| {
        LimitedSource::new(SharedSource::clone(&opened.source), backup.limit_read.clone(), &stop)
    };
    let sources: Vec<LimitedSource> = opened.iter().map(limited).collect();
    let members: Vec<_> =
        opened.iter().zip(&sources).map(|(opened, source)| member(opened, source, &domain)).collect();
    let options = GroupOptions {
        group: Some(group),
        consistency: Consistency::AtRest,
        tags: backup.tags.clone(),
        threads: backup.threads.unwrap_or_else(default_threads),
    };
    let control = attendant.begins(opened.iter().map(|opened| opened.source.virtual_size()).sum());
    let guard = Guard::new(control.as_ref(), domain, &opened);
    let outcomes = match repository.backup_group(&members, &options, &guard) {
        Err(error) => return Err(guard.doubt().unwrap_or_else(|| error.into())),
        Ok(outcomes) => outcomes,
    };
    let disks = outcomes.into_iter().zip(&opened).map(|(outcome, opened)| DiskDone {
        name: opened.disk.name.clone(),
        disk_bytes: outcome.snapshot.statistics.read_bytes,
        overlay_bytes: 0,
        outcome,
    });
    let moment = Moment { consistency: Consistency::AtRest, ..Moment::default() };
    Ok(MachineDone { disks: disks.collect(), moment })
}

pub(super) fn show(backup: &MachineBackup, domain: &Domain, wanted: &[String]) -> Result<MachinePlan> {
    let (opened, left_out) = open_all(backup, domain, wanted)?;
    let disks = opened.into_iter().map(|opened| PlannedDisk::Resting {
        virtual_size: opened.source.virtual_size(),
        name: opened.disk.name,
        path: opened.disk.path,
        image: opened.image,
    });
    Ok(MachinePlan { disks: disks.collect(), left_out })
}

fn open_all(
    backup: &MachineBackup,
    domain: &Domain,
    wanted: &[String],
) -> Result<(Vec<Opened>, Vec<LeftOut>)> {
    let (disks, left_out) = domain.resting_disks(wanted)?;
    let opened = disks.into_iter().map(|disk| open(disk, backup)).collect::<Result<_>>()?;
    Ok((opened, left_out))
}

fn open(disk: RestingDisk, backup: &MachineBackup) -> Result<Opened> {
    let image = backup.image_of(&disk.name)?;
    let format = disk.format.as_deref().map(str::parse::<Format>).transpose().map_err(|_| {
        Error::asked(
            ErrorKind::Refused,
            format!("disk {}: images of the format {} cannot be read at rest", disk.name, told(&disk)),
            "back the domain up while it runs",
        )
    })?;
    let references = backup.allow_references.clone().map_or(References::Refuse, References::Within);
    let options = OpenOptions { format, references, ..OpenOptions::default() };
    if leeward_disk::in_use::is_written(&disk.path)? {
        return Err(in_use(&disk.path));
    }
    let changed = modified(&disk.path);
    let source = open_source(&disk.path.display().to_string(), &options)?;
    Ok(Opened { image, source, disk, changed })
}

fn told(disk: &RestingDisk) -> &str {
    disk.format.as_deref().unwrap_or("(none)")
}

fn in_use(path: &Path) -> Error {
    Error::asked(
        ErrorKind::Refused,
        format!("{}: the domain is shut off, but somebody has this disk open for writing", path.display()),
        "end whoever has it open (fuser shows that), or start the domain and back it up while it runs",
    )
}

/// When a file was written last; devices do not tell.
fn modified(path: &Path) -> Option<SystemTime> {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    found.modified().ok()
}

fn definition(domain: &Domain, opened: &[Opened]) -> MachineDefinition {
    let mut definition = domain.definition();
    definition.disks.retain_mut(|disk| {
        let Some(found) = opened.iter().find(|opened| opened.disk.name == disk.name) else { return false };
        disk.image = Some(found.image.to_string());
        disk.virtual_size = found.source.virtual_size();
        true
    });
    definition
}

fn member<'a>(opened: &Opened, source: &'a LimitedSource<'_>, domain: &Domain) -> Member<'a> {
    Member {
        image: opened.image.clone(),
        record: SourceRecord {
            location: domain.location(&opened.disk.name),
            format: source.info().format.to_string(),
            host: host_name(),
        },
        source,
        changed: None,
        capture: Some(CaptureRecord {
            mode: CaptureMode::Full,
            reason: Some("the domain is shut off, and nothing tells what has changed".to_owned()),
            bitmap: None,
            changed_bytes: None,
        }),
    }
}

/// Listens to who attends, and looks whether the disks are still at rest. A domain that is started meanwhile starts: it
/// is the backup that fails.
struct Guard<'a> {
    control: &'a dyn Control,
    domain: Mutex<(Domain, Instant)>,
    opened: &'a [Opened],
    in_doubt: AtomicBool,
    doubt: Mutex<Option<String>>,
}

impl<'a> Guard<'a> {
    fn new(control: &'a dyn Control, domain: Domain, opened: &'a [Opened]) -> Self {
        Self {
            control,
            domain: Mutex::new((domain, Instant::now())),
            opened,
            in_doubt: AtomicBool::new(false),
            doubt: Mutex::default(),
        }
    }

    fn look(&self, domain: &mut Domain) {
        let seen = match domain.state_now() {
            Ok(State::ShutOff) => self.opened.iter().find_map(|opened| {
                let path = &opened.disk.path;
                let is_used = leeward_disk::in_use::is_written(path).unwrap_or(true);
                (is_used || modified(path) != opened.changed)
                    .then(|| format!("{}: somebody uses this disk while it is read", path.display()))
            }),
            Ok(State::Active) => {
                Some(format!("domain {} was started while its disks were read", domain.name()))
            }
            Err(error) => Some(format!("it cannot be told whether the domain is still shut off: {error}")),
        };
        if let Some(seen) = seen {
            self.doubt.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(seen);
            self.in_doubt.store(true, Ordering::Relaxed);
        }
    }

    fn doubt(&self) -> Option<Error> {
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Error::asked(
            ErrorKind::Refused,
            doubt,
            "back it up again: a running domain is backed up as it runs",
        ))
    }
}

impl Control for Guard<'_> {
    fn advance(&self, bytes: u64) {
        self.control.advance(bytes);
    }

    fn is_cancelled(&self) -> bool {
        // One looks, the others go on.
        if let Ok(mut state) = self.domain.try_lock()
            && state.1.elapsed() >= INTERVAL
        {
            state.1 = Instant::now();
            self.look(&mut state.0);
        }
        self.in_doubt.load(Ordering::Relaxed) || self.control.is_cancelled()
    }

    fn confirm(&self) -> leeward_repository::Result<()> {
        let mut state = self.domain.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut state.0);
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match doubt {
            None => Ok(()),
            Some(doubt) => Err(leeward_repository::Error::Unconfirmed { source: doubt.into() }),
        }
    }
}
