//! The disks of a domain that is shut off: read from their files, as one group, as long as nobody starts it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use leeward_cloud::libvirt::{Domain, RestingDisk, State};
use leeward_cloud::qemu::{MachineDefinition, Moment};
use leeward_disk::{Format, OpenOptions, References, SharedSource, default_threads, open_source};
use leeward_repository::{
    CaptureMode, CaptureRecord, Consistency, Control, GroupOptions, GroupRecord, ImageName, Member,
    SourceRecord, host_name,
};

use super::super::BackupArguments;
use super::{Report, group_id, note};
use crate::failure::{Code, Failure};
use crate::limit::{RateLimit, limited};
use crate::output::Output;
use crate::size;
use crate::verb::repository::{RepositoryArgument, Watch};

/// How often it is looked whether the domain has been started.
const INTERVAL: Duration = Duration::from_millis(200);

/// A disk that is to be read.
struct Opened {
    disk: RestingDisk,
    image: ImageName,
    source: SharedSource,
    changed: Option<SystemTime>,
}

/// Backs up the disks of a domain that is shut off.
pub fn back_up(
    domain: Domain,
    wanted: &[String],
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.format.is_some() || arguments.snapshot.is_some() {
        return Err(Failure::new(Code::Usage, "-f and --snapshot are for image files")
            .hint("leave them out: libvirt knows what the disks of its domains are"));
    }
    let repository = repository.open_limited(arguments.limit_write)?;
    let (disks, left_out) = domain.resting_disks(wanted)?;
    for left_out in &left_out {
        note(output, &format!("disk {} is left out: {}", left_out.name, left_out.why));
    }
    let limit = arguments.limit_read.map(RateLimit::new);
    let opened: Vec<Opened> =
        disks.into_iter().map(|disk| open(disk, arguments, limit.as_ref())).collect::<Result<_, _>>()?;
    if arguments.dry_run {
        show_plan(&opened, output);
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let group = GroupRecord {
        id: group_id()?,
        images: Vec::new(),
        machine: serde_json::to_value(definition(&domain, &opened)).ok(),
    };
    let members: Vec<_> = opened.iter().map(|opened| member(opened, &domain)).collect();
    let options = GroupOptions {
        group: Some(group),
        consistency: Consistency::AtRest,
        tags: arguments.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
        threads: arguments.threads.unwrap_or_else(default_threads),
    };
    let total = opened.iter().map(|opened| opened.source.virtual_size()).sum();
    let watch = Watch::new(output, total, &format!("backup {}", arguments.image));
    let guard = Guard::new(&watch, domain, &opened);
    let result = repository.backup_group(&members, &options, &guard);
    watch.finish();
    let outcomes = match result {
        Err(error) => return Err(guard.doubt().unwrap_or_else(|| error.into())),
        Ok(outcomes) => outcomes,
    };
    let read = outcomes.iter().zip(&opened);
    let report = Report {
        moment: Moment { consistency: Consistency::AtRest, ..Moment::default() },
        time: started.elapsed(),
        disks: read
            .map(|(outcome, opened)| (opened.disk.name.clone(), outcome.snapshot.statistics.read_bytes, 0))
            .collect(),
        sent: repository.requests(),
    };
    report.show(&outcomes, output);
    Ok(ExitCode::SUCCESS)
}

fn open(
    disk: RestingDisk,
    arguments: &BackupArguments,
    limit: Option<&Arc<RateLimit>>,
) -> Result<Opened, Failure> {
    let image = format!("{}/{}", arguments.image, disk.name).parse::<ImageName>()?;
    let format = disk.format.as_deref().map(str::parse::<Format>).transpose().map_err(|_| {
        Failure::new(
            Code::Refused,
            format!("disk {}: images of the format {} cannot be read at rest", disk.name, told(&disk)),
        )
        .hint("back the domain up while it runs")
    })?;
    let references = arguments.allow_references.clone().map_or(References::Refuse, References::Within);
    let options = OpenOptions { format, references, ..OpenOptions::default() };
    if leeward_disk::in_use::is_written(&disk.path)? {
        return Err(in_use(&disk.path));
    }
    let changed = modified(&disk.path);
    let source = open_source(&disk.path.display().to_string(), &options)?;
    Ok(Opened { image, source: limited(source, limit), disk, changed })
}

fn told(disk: &RestingDisk) -> &str {
    disk.format.as_deref().unwrap_or("(none)")
}

fn in_use(path: &Path) -> Failure {
    Failure::new(
        Code::Refused,
        format!("{}: the domain is shut off, but somebody has this disk open for writing", path.display()),
    )
    .hint("end whoever has it open (fuser shows that), or start the domain and back it up while it runs")
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

fn member<'a>(opened: &'a Opened, domain: &Domain) -> Member<'a> {
    Member {
        image: opened.image.clone(),
        source: opened.source.as_ref(),
        record: SourceRecord {
            location: domain.location(&opened.disk.name),
            format: opened.source.info().format.to_string(),
            host: host_name(),
        },
        changed: None,
        capture: Some(CaptureRecord {
            mode: CaptureMode::Full,
            reason: Some("the domain is shut off, and nothing tells what has changed".to_owned()),
            bitmap: None,
            changed_bytes: None,
        }),
    }
}

fn show_plan(opened: &[Opened], output: &Output) {
    for opened in opened {
        let (size, disk) = (opened.source.virtual_size(), &opened.disk);
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "image": opened.image, "disk": { "name": disk.name, "file": disk.path },
                "virtual_size": size,
            }));
        }
        output.line(format!(
            "Would read all data of the {} of disk {} at rest for {}",
            size::show(size),
            disk.name,
            opened.image
        ));
    }
}

/// Listens to the person, and looks whether the disks are still at rest. A domain that is started meanwhile starts: it
/// is the backup that fails.
struct Guard<'a> {
    watch: &'a Watch,
    domain: Mutex<(Domain, Instant)>,
    opened: &'a [Opened],
    in_doubt: AtomicBool,
    doubt: Mutex<Option<String>>,
}

impl<'a> Guard<'a> {
    fn new(watch: &'a Watch, domain: Domain, opened: &'a [Opened]) -> Self {
        Self {
            watch,
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

    fn doubt(&self) -> Option<Failure> {
        let doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(
            Failure::new(Code::Refused, doubt)
                .hint("run the command again: a running domain is backed up as it runs"),
        )
    }
}

impl Control for Guard<'_> {
    fn advance(&self, bytes: u64) {
        self.watch.advance(bytes);
    }

    fn is_cancelled(&self) -> bool {
        // One looks, the others go on.
        if let Ok(mut state) = self.domain.try_lock()
            && state.1.elapsed() >= INTERVAL
        {
            state.1 = Instant::now();
            self.look(&mut state.0);
        }
        self.in_doubt.load(Ordering::Relaxed) || self.watch.is_cancelled()
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
