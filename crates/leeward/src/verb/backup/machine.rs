//! `leeward backup qmp:SOCKET` and `libvirt:DOMAIN`: the disks of a machine become a group of snapshots of one moment.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use leeward_cloud::qemu::{MachineDisk, Mode, Wanted};
use leeward_protect::{
    Attendant, CaptureSettings, DiskDone, Found, MachineBackup, MachineDone, MachinePlace, MachinePlan,
    PlannedDisk,
};
use leeward_repository::{Consistency, Control, ImageName};
use leeward_store::bucket::RequestCounts;

use super::BackupArguments;
use crate::failure::{Code, Failure};
use crate::limit::RateLimit;
use crate::output::Output;
use crate::verb::repository::{RepositoryArgument, Watch};
use crate::verb::thaw;
use crate::{interrupt, requests, size};

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

impl MachineArguments {
    /// How the moment is taken.
    pub(crate) fn settings(&self) -> CaptureSettings {
        CaptureSettings {
            consistency: match self.consistency {
                ConsistencyArgument::Auto => Wanted::Auto,
                ConsistencyArgument::Crash => Wanted::Crash,
                ConsistencyArgument::Filesystem => Wanted::Filesystem,
            },
            agent: self.agent.clone(),
            guardian: Some(thaw::guardian()),
            freeze_limit: Duration::from_secs_f64(self.freeze_limit),
            overlay_directory: self.overlay_dir.clone(),
            overlay_bytes_max: self.overlay_max,
        }
    }
}

/// Runs the verb if the source is a machine.
pub fn run(
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Option<Result<ExitCode, Failure>> {
    let place = MachinePlace::parse(&arguments.source)?;
    Some(place.map_err(Failure::from).and_then(|place| back_up(place, arguments, repository, output)))
}

fn back_up(
    place: MachinePlace,
    arguments: &BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let found = place.find()?;
    refuse_options_of_files(&found, arguments)?;
    let backup = MachineBackup {
        place,
        image: arguments.image.clone(),
        full: arguments.machine.full,
        capture: arguments.machine.settings(),
        take_over: arguments.machine.take_over,
        allow_references: arguments.allow_references.clone(),
        tags: arguments.tags.iter().cloned().collect(),
        threads: arguments.threads,
        limit_read: arguments.limit_read.map(RateLimit::new),
    };
    let repository = repository.open_limited(arguments.limit_write)?;
    if arguments.dry_run {
        show_plan(&backup.plan(&found, &repository)?, output);
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let label = format!("backup {}", arguments.image);
    let done = backup.back_up_found(found, &repository, &Person { output, label: &label })?;
    Report { done: &done, time: started.elapsed(), sent: repository.requests() }.show(output);
    Ok(ExitCode::SUCCESS)
}

fn refuse_options_of_files(found: &Found, arguments: &BackupArguments) -> Result<(), Failure> {
    let is_running = matches!(found, Found::Running(_));
    let (what, hint) = match is_running {
        true => (
            "-f, --allow-references and --snapshot are for image files",
            "leave them out: QEMU knows what the disks of its machine are",
        ),
        false => (
            "-f and --snapshot are for image files",
            "leave them out: libvirt knows what the disks of its domains are",
        ),
    };
    let refused = arguments.format.is_some()
        || arguments.snapshot.is_some()
        || (is_running && arguments.allow_references.is_some());
    match refused {
        true => Err(Failure::new(Code::Usage, what).hint(hint)),
        false => Ok(()),
    }
}

/// The person at the terminal, who attends the work.
struct Person<'a> {
    output: &'a Output,
    label: &'a str,
}

impl Attendant for Person<'_> {
    fn begins(&self, bytes: u64) -> Box<dyn Control + '_> {
        Box::new(Watch::new(self.output, bytes, self.label))
    }

    fn warns(&self, what: &str, hint: &str) {
        note(self.output, &format!("{what} ({hint})"));
    }

    fn says(&self, what: &str) {
        note(self.output, what);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::is_requested()
    }
}

/// Something that people should know; it is no result.
pub(crate) fn note(output: &Output, text: &str) {
    if !output.is_json() {
        eprintln!("leeward: {text}");
        return;
    }
    eprintln!("{}", serde_json::json!({ "note": text }));
}

fn show_plan(plan: &MachinePlan, output: &Output) {
    for left_out in &plan.left_out {
        output.line(format!("Disk {} is left out: {}", left_out.name, left_out.why));
    }
    for planned in &plan.disks {
        match planned {
            PlannedDisk::Running { disk, image, mode, .. } => show_running(disk, image, mode, output),
            PlannedDisk::Resting { name, path, image, virtual_size } => {
                if output.is_json() {
                    output.json_line(&serde_json::json!({
                        "dry_run": true, "image": image, "disk": { "name": name, "file": path },
                        "virtual_size": virtual_size,
                    }));
                }
                let size = size::show(*virtual_size);
                output.line(format!("Would read all data of the {size} of disk {name} at rest for {image}"));
            }
        }
    }
}

fn show_running(disk: &MachineDisk, image: &ImageName, mode: &Mode, output: &Output) {
    let marked = disk.bitmaps.iter().find(|found| Some(found.name.as_str()) == mode.bitmap());
    let bytes = marked.map_or(disk.virtual_size, |bitmap| bitmap.dirty_bytes);
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "dry_run": true, "image": image, "disk": disk, "plan": mode, "bytes": bytes,
        }));
    }
    let whole = size::show(disk.virtual_size);
    output.line(match mode.reason() {
        None => format!(
            "Would read {} of the {whole} of disk {} ({}) for {image}",
            size::show(bytes),
            disk.name,
            disk.driver
        ),
        Some(reason) => format!(
            "Would read all data of the {whole} of disk {} ({}) for {image}: {reason}",
            disk.name, disk.driver
        ),
    });
}

/// What a person wants to know afterwards.
struct Report<'a> {
    done: &'a MachineDone,
    time: Duration,
    /// What was sent to the repository for all disks.
    sent: Option<RequestCounts>,
}

impl Report<'_> {
    fn show(&self, output: &Output) {
        let moment = &self.done.moment;
        let consistency = match moment.consistency {
            Consistency::AtRest => "at rest",
            Consistency::Crash => "as after a power cut",
            Consistency::Filesystem => "file systems at rest",
        };
        let why = moment.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let frozen =
            moment.frozen_for.map_or(String::new(), |time| format!(", frozen for {} ms", time.as_millis()));
        output.line(format!("One moment of {} disks, {consistency}{why}{frozen}", self.done.disks.len()));
        for disk in &self.done.disks {
            self.show_disk(disk, output);
        }
        requests::tell(self.sent, output);
    }

    fn show_disk(&self, disk: &DiskDone, output: &Output) {
        let (outcome, moment) = (&disk.outcome, &self.done.moment);
        let snapshot = &outcome.snapshot;
        let statistics = &snapshot.statistics;
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "image": snapshot.image,
                "disk": disk.name,
                "snapshot": outcome.id,
                "group": snapshot.group.as_ref().map(|group| &group.id),
                "parents": snapshot.parents,
                "virtual_size": snapshot.virtual_size,
                "consistency": snapshot.consistency,
                "consistency_reason": moment.reason,
                "freeze_ms": moment.frozen_for.map(|time| time.as_secs_f64() * 1000.0),
                "capture": snapshot.capture,
                "statistics": statistics,
                "disk_bytes": disk.disk_bytes,
                "overlay_bytes": disk.overlay_bytes,
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
