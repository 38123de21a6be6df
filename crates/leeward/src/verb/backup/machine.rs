//! `leeward backup qmp:SOCKET` and `libvirt:DOMAIN`: the disks of a running machine become a group of snapshots of one
//! moment.

mod resting;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use leeward_cloud::libvirt::{self, Domain, State};
use leeward_cloud::qemu::{
    Capture, CaptureOptions, CapturedDisk, Claim, DiskDefinition, LastSnapshot, Machine, MachineDefinition,
    MachineDisk, Mode, Moment, Qmp, QmpOptions, Wanted, Watched, bitmap,
};
use leeward_disk::{SharedSource, default_threads};
use leeward_repository::{
    BackupOutcome, CaptureMode, CaptureRecord, Changed, Consistency, Control, GroupOptions, GroupRecord,
    ImageName, Member, Repository, Snapshot, SnapshotId, SourceRecord, host_name,
};

use leeward_store::bucket::RequestCounts;

use super::BackupArguments;
use crate::failure::{Code, Failure};
use crate::limit::{RateLimit, limited};
use crate::output::Output;

use crate::verb::repository::{RepositoryArgument, Watch};
use crate::verb::thaw;
use crate::{requests, size};

/// What begins the source that is a machine behind a socket.
const SCHEME: &str = "qmp:";

/// How far the content has to agree with itself
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ConsistencyArgument {
    /// File systems at rest where the guest's agent answers, or else as after a power cut
    #[default]
    Auto,
    /// As after a power cut; the guest is not asked
    Crash,
    /// File systems at rest, or no backup
    Filesystem,
}

/// Options for running machines.
#[derive(Args, Debug)]
#[command(next_help_heading = "Machines (qmp:SOCKET, libvirt:DOMAIN)")]
pub struct MachineArguments {
    /// Read the disks whole, also where it is known what has changed
    #[arg(long)]
    pub(crate) full: bool,
    /// How far the content has to agree with itself
    #[arg(long, value_enum, default_value_t)]
    consistency: ConsistencyArgument,
    /// Socket of the guest's agent [default: the machine is asked]
    #[arg(long, value_name = "SOCKET")]
    agent: Option<PathBuf>,
    /// How long the guest's file systems may be frozen, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = parse_seconds)]
    freeze_limit: f64,
    /// Where to keep what the guest overwrites during the backup; a local disk [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    overlay_dir: Option<PathBuf>,
    /// How much of it to keep for each disk; the backup fails when it is more [default: 10 GiB, and half of what is
    /// free at most]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    overlay_max: Option<u64>,
    /// Remove what another backup left in the machine, though it cannot be told whether that one still runs
    #[arg(long)]
    pub(crate) take_over: bool,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 600 is wanted".to_owned()),
    }
}

/// A machine and the disks of it that are meant.
pub(crate) struct Place {
    way: Way,
    disks: Vec<String>,
}

/// The way to a machine's monitor.
enum Way {
    Socket(PathBuf),
    Domain(Box<Domain>),
}

impl Place {
    /// `qmp:SOCKET[?disk=NAME&disk=NAME…]`; `None` for other sources.
    pub(crate) fn parse(source: &str) -> Option<Result<Self, Failure>> {
        let rest = source.strip_prefix(SCHEME)?;
        let (socket, query) =
            rest.split_once("?disk=").map_or((rest, None), |(socket, query)| (socket, Some(query)));
        let disks: Vec<String> =
            query.into_iter().flat_map(|query| query.split("&disk=")).map(str::to_owned).collect();
        if socket.is_empty() || disks.iter().any(String::is_empty) {
            return Some(Err(Failure::new(
                Code::Usage,
                format!("{source}: no socket, or a disk without a name"),
            )
            .hint("a machine is given as qmp:SOCKET or qmp:SOCKET?disk=NAME&disk=NAME")));
        }
        Some(Ok(Self { way: Way::Socket(socket.into()), disks }))
    }

    fn peer(&self) -> String {
        match &self.way {
            Way::Socket(socket) => socket.display().to_string(),
            Way::Domain(domain) => format!("domain {}", domain.name()),
        }
    }

    fn location(&self, disk: &MachineDisk) -> String {
        match &self.way {
            Way::Socket(socket) => format!("{SCHEME}{}?disk={}", socket.display(), disk.name),
            Way::Domain(domain) => domain.location(&disk.name),
        }
    }

    pub(crate) fn monitor(&self) -> Result<Qmp, Failure> {
        let options = QmpOptions::default();
        Ok(match &self.way {
            Way::Socket(socket) => Qmp::connect(socket, &options)?,
            Way::Domain(domain) => domain.monitor(&options)?,
        })
    }

    pub(crate) fn selected(&self, mut machine: Machine) -> Result<Machine, Failure> {
        if let Way::Domain(domain) = &self.way {
            domain.name_disks(&mut machine);
        }
        machine.check_state(&self.peer())?;
        machine.select(&self.peer(), &self.disks)?;
        Ok(machine)
    }
}

/// What is to become of one disk.
struct Planned {
    disk: MachineDisk,
    image: ImageName,
    last: Option<SnapshotId>,
    mode: Mode,
}

/// Runs the verb if the source is a machine.
pub fn run(
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Option<Result<ExitCode, Failure>> {
    if let Some(place) = libvirt::Place::parse(&arguments.source) {
        return Some(back_up_domain(place, arguments, repository, output));
    }
    Some(Place::parse(&arguments.source)?.and_then(|place| back_up(&place, arguments, repository, output)))
}

fn back_up_domain(
    place: Result<libvirt::Place, String>,
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let place = place.map_err(|what| {
        Failure::new(Code::Usage, format!("{}: {what}", arguments.source))
            .hint("a domain is given as libvirt:DOMAIN or libvirt:DOMAIN?disk=vda&disk=vdb&connect=URI")
    })?;
    let domain = Domain::find(&place)?;
    match domain.state() {
        State::ShutOff => resting::back_up(domain, &place.disks, arguments, repository, output),
        State::Active => {
            let place = Place { way: Way::Domain(Box::new(domain)), disks: place.disks };
            back_up(&place, arguments, repository, output)
        }
    }
}

fn back_up(
    place: &Place,
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.format.is_some() || arguments.allow_references.is_some() || arguments.snapshot.is_some() {
        return Err(Failure::new(Code::Usage, "-f, --allow-references and --snapshot are for image files")
            .hint("leave them out: QEMU knows what the disks of its machine are"));
    }
    let repository = repository.open_limited(arguments.limit_write)?;
    if arguments.dry_run {
        let machine = place.selected(Machine::discover(&mut place.monitor()?)?)?;
        show_plan(&machine, &plan(&machine, &repository, arguments)?, output);
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let mut claim = Claim::of(place.monitor()?, arguments.machine.take_over)?;
    if !claim.removed().is_empty() {
        note(output, &format!("removed what an unfinished backup had left: {}", claim.removed().join(", ")));
    }
    if matches!(place.way, Way::Domain(_)) {
        claim.refuse_jobs()?;
    }
    let machine = place.selected(claim.machine()?)?;
    for left_out in &machine.left_out {
        note(output, &format!("disk {} is left out: {}", left_out.name, left_out.why));
    }
    let planned = plan(&machine, &repository, arguments)?;
    let definition = definition(&mut claim, place, &machine, &planned)?;
    let prefix = bitmap::prefix(&repository.config().repository_id);
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let options = capture_options(&arguments.machine, prefix, threads)?;
    let modes = planned.iter().map(|planned| (planned.disk.clone(), planned.mode.clone())).collect();
    let mut capture = Capture::begin(claim, &machine, modes, &options)?;
    for text in &capture.moment().notes {
        note(output, text);
    }
    let group = GroupRecord {
        id: options.group.clone(),
        images: Vec::new(),
        machine: serde_json::to_value(&definition).ok(),
    };
    let stored = store(&mut capture, &planned, group, place, &repository, arguments, output);
    let report = Report::of(&capture, &planned, started.elapsed(), repository.requests());
    let outcomes = match stored {
        Ok(outcomes) => outcomes,
        Err(failure) => {
            for trouble in capture.abandon() {
                note(output, &format!("cleaning up: {trouble}"));
            }
            return Err(failure);
        }
    };
    for trouble in capture.finish() {
        note(output, &format!("the snapshots are kept, but cleaning up: {trouble}"));
    }
    report.show(&outcomes, output);
    Ok(ExitCode::SUCCESS)
}

/// Something that people should know; it is no result.
pub(crate) fn note(output: &Output, text: &str) {
    if !output.is_json() {
        eprintln!("leeward: {text}");
        return;
    }
    eprintln!("{}", serde_json::json!({ "note": text }));
}

/// Decides for each disk which image it belongs to and how it is read.
fn plan(
    machine: &Machine,
    repository: &Repository,
    arguments: &BackupArguments,
) -> Result<Vec<Planned>, Failure> {
    let decide = |disk: &MachineDisk| {
        let image: ImageName = format!("{}/{}", arguments.image, disk.name).parse()?;
        let last = match repository.image(&image) {
            Ok(found) => found.snapshots.last().map(|entry| entry.id),
            Err(leeward_repository::Error::NoImage { .. }) => None,
            Err(error) => return Err(error),
        };
        let known = last.map(|id| repository.snapshot(id)).transpose();
        let mode = match known {
            Ok(known) => {
                let known = known.map(|snapshot| LastSnapshot {
                    virtual_size: snapshot.virtual_size,
                    file: file_of(&snapshot),
                    bitmap: snapshot.capture.and_then(|capture| capture.bitmap),
                });
                let full = arguments.machine.full;
                bitmap::decide(&disk.bitmaps, disk.virtual_size, &disk.file, known.as_ref(), full)
            }
            Err(error) => Mode::Full { reason: format!("the last snapshot cannot be read: {error}") },
        };
        Ok(Planned { disk: disk.clone(), image, last, mode })
    };
    let planned: Result<Vec<_>, leeward_repository::Error> = machine.disks.iter().map(decide).collect();
    Ok(planned?)
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
    place: &Place,
    machine: &Machine,
    planned: &[Planned],
) -> Result<MachineDefinition, Failure> {
    let mut definition = claim.definition(machine)?;
    if let Way::Domain(domain) = &place.way {
        definition = domain.complete(definition);
    }
    for disk in &mut definition.disks {
        let planned = planned.iter().find(|planned| planned.disk.name == disk.name);
        disk.image = planned.map(|planned| planned.image.to_string());
    }
    Ok(definition)
}

/// How the moment is taken; `prefix` begins the names of the chain's bitmaps.
pub(crate) fn capture_options(
    machine: &MachineArguments,
    prefix: String,
    threads: usize,
) -> Result<CaptureOptions, Failure> {
    let usual = PathBuf::from("/var/tmp");
    let directory = machine
        .overlay_dir
        .clone()
        .unwrap_or_else(|| if usual.is_dir() { usual } else { std::env::temp_dir() });
    Ok(CaptureOptions {
        prefix,
        group: group_id()?,
        consistency: match machine.consistency {
            ConsistencyArgument::Auto => Wanted::Auto,
            ConsistencyArgument::Crash => Wanted::Crash,
            ConsistencyArgument::Filesystem => Wanted::Filesystem,
        },
        agent: machine.agent.clone(),
        guardian: Some(thaw::guardian()),
        freeze_limit: Duration::from_secs_f64(machine.freeze_limit),
        overlay_directory: directory,
        overlay_bytes_max: machine.overlay_max,
        connections: threads.min(4),
    })
}

/// Another identity each time.
pub(crate) fn group_id() -> Result<String, Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::new(Code::Failed, format!("the system gives no random bytes: {error}")))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Listens to the person and to QEMU.
struct Attended<'a, 'q> {
    watch: &'a Watch,
    qemu: &'a Watched<'q>,
}

impl Control for Attended<'_, '_> {
    fn advance(&self, bytes: u64) {
        self.watch.advance(bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled() || self.qemu.is_in_doubt()
    }

    fn confirm(&self) -> leeward_repository::Result<()> {
        self.qemu
            .confirm()
            .map_err(|source| leeward_repository::Error::Unconfirmed { source: Box::new(source) })
    }
}

/// Reads the disks and publishes their snapshots.
fn store(
    capture: &mut Capture,
    planned: &[Planned],
    group: GroupRecord,
    place: &Place,
    repository: &Repository,
    arguments: &BackupArguments,
    output: &Output,
) -> Result<Vec<BackupOutcome>, Failure> {
    let limit = arguments.limit_read.map(RateLimit::new);
    let sources: Vec<SharedSource> = capture
        .disks()
        .iter()
        .map(|captured| limited(Arc::clone(&captured.source) as SharedSource, limit.as_ref()))
        .collect();
    let members: Vec<_> = capture
        .disks()
        .iter()
        .zip(planned)
        .zip(&sources)
        .map(|((captured, planned), source)| member(captured, planned, source, place))
        .collect();
    let total = capture.disks().iter().map(bytes_to_read).sum();
    let options = GroupOptions {
        group: Some(group),
        consistency: capture.moment().consistency,
        tags: arguments.tags.iter().cloned().collect::<BTreeMap<_, _>>(),
        threads: arguments.threads.unwrap_or_else(default_threads),
    };
    let watch = Watch::new(output, total, &format!("backup {}", arguments.image));
    let result = capture.watched(|qemu| {
        let control = Attended { watch: &watch, qemu };
        let stored = repository.backup_group(&members, &options, &control);
        match stored {
            // The doubt came first, and what followed is its consequence.
            Err(error) if qemu.is_in_doubt() => Err(qemu.confirm().err().map_or(error.into(), Failure::from)),
            other => other.map_err(Failure::from),
        }
    });
    watch.finish();
    result?
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
    source: &'a SharedSource,
    place: &Place,
) -> Member<'a> {
    let changed = captured.changed.as_ref().zip(planned.last);
    Member {
        image: planned.image.clone(),
        source: source.as_ref(),
        record: SourceRecord {
            location: place.location(&captured.disk),
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

fn show_plan(machine: &Machine, planned: &[Planned], output: &Output) {
    for left_out in &machine.left_out {
        output.line(format!("Disk {} is left out: {}", left_out.name, left_out.why));
    }
    for planned in planned {
        let disk = &planned.disk;
        let marked = disk.bitmaps.iter().find(|found| Some(found.name.as_str()) == planned.mode.bitmap());
        let bytes = marked.map_or(disk.virtual_size, |bitmap| bitmap.dirty_bytes);
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "image": planned.image, "disk": disk, "plan": planned.mode, "bytes": bytes,
            }));
        }
        output.line(match planned.mode.reason() {
            None => format!(
                "Would read {} of the {} of disk {} ({}) for {}",
                size::show(bytes),
                size::show(disk.virtual_size),
                disk.name,
                disk.driver,
                planned.image
            ),
            Some(reason) => format!(
                "Would read all data of the {} of disk {} ({}) for {}: {reason}",
                size::show(disk.virtual_size),
                disk.name,
                disk.driver,
                planned.image
            ),
        });
    }
}

/// What a person wants to know afterwards.
struct Report {
    moment: Moment,
    time: Duration,
    /// Names of disks, and bytes read from the disk and from what the guest had overwritten.
    disks: Vec<(String, u64, u64)>,
    /// What was sent to the repository for all disks.
    sent: Option<RequestCounts>,
}

impl Report {
    fn of(capture: &Capture, planned: &[Planned], time: Duration, sent: Option<RequestCounts>) -> Self {
        let disks = capture.disks().iter().zip(planned).map(|(captured, planned)| {
            (planned.disk.name.clone(), captured.source.disk_bytes(), captured.source.overlay_bytes())
        });
        Self { moment: capture.moment().clone(), time, disks: disks.collect(), sent }
    }

    fn show(&self, outcomes: &[BackupOutcome], output: &Output) {
        let consistency = match self.moment.consistency {
            Consistency::AtRest => "at rest",
            Consistency::Crash => "as after a power cut",
            Consistency::Filesystem => "file systems at rest",
        };
        let why = self.moment.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let frozen = self
            .moment
            .frozen_for
            .map_or(String::new(), |time| format!(", frozen for {} ms", time.as_millis()));
        output.line(format!("One moment of {} disks, {consistency}{why}{frozen}", outcomes.len()));
        for (outcome, (disk, disk_bytes, overlay_bytes)) in outcomes.iter().zip(&self.disks) {
            self.show_disk(outcome, disk, (*disk_bytes, *overlay_bytes), output);
        }
        requests::tell(self.sent, output);
    }

    fn show_disk(&self, outcome: &BackupOutcome, disk: &str, bytes: (u64, u64), output: &Output) {
        let snapshot = &outcome.snapshot;
        let statistics = &snapshot.statistics;
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "image": snapshot.image,
                "disk": disk,
                "snapshot": outcome.id,
                "group": snapshot.group.as_ref().map(|group| &group.id),
                "parents": snapshot.parents,
                "virtual_size": snapshot.virtual_size,
                "consistency": snapshot.consistency,
                "consistency_reason": self.moment.reason,
                "freeze_ms": self.moment.frozen_for.map(|time| time.as_secs_f64() * 1000.0),
                "capture": snapshot.capture,
                "statistics": statistics,
                "disk_bytes": bytes.0,
                "overlay_bytes": bytes.1,
                "seconds": self.time.as_secs_f64(),
                "requests": requests::value(self.sent),
            }));
        }
        output.line(format!("Snapshot {}@{}", snapshot.image, outcome.id.short()));
        let capture = snapshot.capture.as_ref();
        output.line(match capture.and_then(|capture| capture.reason.as_ref()) {
            Some(reason) => format!("  full: {reason}"),
            None => format!(
                "  incremental: {} changed",
                size::show(capture.and_then(|capture| capture.changed_bytes).unwrap_or(0))
            ),
        });
        output.line(format!(
            "  disk {}, read {}, new {}, stored {} after compression, {}",
            size::show(snapshot.virtual_size),
            size::show(statistics.read_bytes),
            size::show(statistics.new_bytes),
            size::show(statistics.stored_bytes),
            size::show_time(self.time)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_and_its_disks_are_told_from_other_sources() {
        assert!(Place::parse("disk.raw").is_none() && Place::parse("nbd://host/x").is_none());
        let place = Place::parse("qmp:/run/a?b.sock?disk=vd0&disk=#block1").unwrap().unwrap();
        assert_eq!(place.peer(), "/run/a?b.sock");
        assert_eq!(place.disks, ["vd0", "#block1"]);
        assert!(Place::parse("qmp:/run/a").unwrap().unwrap().disks.is_empty());
        for bad in ["qmp:", "qmp:?disk=a", "qmp:/a?disk=", "qmp:/a?disk=b&disk="] {
            assert!(Place::parse(bad).unwrap().is_err(), "{bad}");
        }
    }
}
