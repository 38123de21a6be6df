//! `leeward backup`: a disk becomes a snapshot, or the disks of a machine a group of them.

pub mod machine;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use leeward_disk::{Format, OpenOptions, References, Source, default_threads};
use leeward_protect::{Attendant, Planned, Volume};
use leeward_repository::{
    BackupOutcome, CaptureMode, CaptureRecord, Changed, Consistency, Control, GroupOptions, ImageName,
    Member, Repository, SourceRecord, host_name,
};

use leeward_store::bucket::RequestCounts;

use super::overlay;
use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::limit::{self, RateLimit};
use crate::output::Output;
use crate::{interrupt, requests, size};

/// Back up a disk as a new snapshot of an image
///
/// The disks of a running machine of QEMU (qmp:SOCKET) are backed up together, at one moment, as IMAGE/DISK each.
#[derive(Args)]
pub struct BackupArguments {
    /// The disk: an image file, a block device, an nbd:// URL, overlay:PATH for the changes of an exported snapshot, an
    /// image of Ceph as rbd:POOL/IMAGE, perhaps with @SNAPSHOT, or a running machine as qmp:SOCKET[?disk=NAME&disk=NAME]
    source: String,
    /// The image to add the snapshot to, as in web-01/root
    image: ImageName,
    /// Format of the disk: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(short, long)]
    format: Option<Format>,
    /// Follow backing files and extent files that lie in this directory
    #[arg(long, value_name = "DIR")]
    allow_references: Option<PathBuf>,
    /// Back up this internal snapshot of the image file
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Tag of the new snapshot; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[=VALUE]", value_parser = super::label::parse_tag)]
    tags: Vec<(String, String)>,
    /// Threads that read, hash and compress [default: one per processor]
    #[arg(short = 'j', long)]
    threads: Option<usize>,
    /// Read the disk no faster than this: bytes per second, as in 20M
    #[arg(long, value_name = "RATE", value_parser = limit::parse_rate)]
    limit_read: Option<u64>,
    /// Write to the repository no faster than this
    #[arg(long, value_name = "RATE", value_parser = limit::parse_rate)]
    limit_write: Option<u64>,
    /// Open the disk, show what would be read, and store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    machine: machine::MachineArguments,
}

/// Runs the verb.
pub fn run(
    arguments: BackupArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if let Some(done) = machine::run(&arguments, repository, output) {
        return done;
    }
    let references = arguments.allow_references.clone().map_or(References::Refuse, References::Within);
    let options = OpenOptions {
        format: arguments.format,
        references,
        snapshot: arguments.snapshot.clone(),
        ..OpenOptions::default()
    };
    let repository = repository.open_limited(arguments.limit_write)?;
    if let Some(path) = arguments.source.strip_prefix(overlay::SCHEME) {
        return back_up_overlay(&arguments, Path::new(path), &repository, output);
    }
    let volume = Volume {
        source: arguments.source.clone(),
        image: arguments.image.clone(),
        options,
        tags: arguments.tags.iter().cloned().collect(),
        threads: arguments.threads,
        limit_read: arguments.limit_read.map(RateLimit::new),
        full: arguments.machine.full,
    };
    let label = format!("backup {}", arguments.image);
    let person = Person { output, label: &label };
    if arguments.dry_run {
        show_plan(&volume.plan(&repository, &person)?, &arguments, output);
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let done = volume.back_up(&repository, &person)?;
    report(&done.outcome, &done.mounted_at, started.elapsed(), repository.requests(), output);
    show_capture(&done.outcome, output);
    Ok(ExitCode::SUCCESS)
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
        eprintln!("leeward: warning: {what}");
        eprintln!("  hint: {hint}");
    }

    fn is_cancelled(&self) -> bool {
        interrupt::is_requested()
    }
}

fn show_plan(plan: &Planned, arguments: &BackupArguments, output: &Output) {
    match plan {
        Planned::Whole { format, virtual_size, data_bytes, mounted_at } => {
            if output.is_json() {
                output.json_line(&serde_json::json!({
                    "dry_run": true, "format": format, "virtual_size": virtual_size, "data_bytes": data_bytes,
                    "mounted_at": mounted_at,
                }));
            }
            output.line(format!(
                "Would read {} of the {} of {} ({format}) for {}",
                size::show(*data_bytes),
                size::show(*virtual_size),
                arguments.source,
                arguments.image
            ));
        }
        Planned::Moment { source, virtual_size, mode, base, reason } => {
            if output.is_json() {
                output.json_line(&serde_json::json!({
                    "dry_run": true, "image": arguments.image, "virtual_size": virtual_size, "reason": reason,
                    "mode": mode,
                }));
            }
            let how = match (base, reason) {
                (Some(base), _) => format!("what changed since the snapshot {base}"),
                (None, reason) => {
                    format!("all data, because {}", reason.as_deref().unwrap_or("nothing is known"))
                }
            };
            output.line(format!(
                "Would read of the {} of {source} for {}: {how}",
                size::show(*virtual_size),
                arguments.image
            ));
        }
    }
}

/// How the disk was captured, where there was a choice.
fn show_capture(outcome: &BackupOutcome, output: &Output) {
    let Some(capture) = &outcome.snapshot.capture else { return };
    output.line(match &capture.reason {
        Some(reason) => format!("  full: {reason}"),
        None => format!("  incremental: {} changed", size::show(capture.changed_bytes.unwrap_or(0))),
    });
}

/// What the guest wrote to an overlay becomes the next snapshot; nothing else is read.
fn back_up_overlay(
    arguments: &BackupArguments,
    path: &Path,
    repository: &Repository,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.format.is_some() || arguments.allow_references.is_some() || arguments.snapshot.is_some() {
        let what = "an overlay has no format, references or internal snapshots";
        return Err(
            Failure::new(Code::Usage, what).hint("leave out --format, --allow-references and --snapshot")
        );
    }
    let (disk, base) = overlay::open(path, repository)?;
    let ranges: Vec<(u64, u64)> =
        disk.changed_ranges().into_iter().map(|range| (range.start, range.end - range.start)).collect();
    let changed_bytes = disk.changed_bytes();
    if arguments.dry_run {
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "base": base, "virtual_size": disk.virtual_size(), "changed_bytes": changed_bytes,
            }));
        }
        output.line(format!(
            "Would read the {} that were written since {} for {}",
            size::show(changed_bytes),
            base.label(),
            arguments.image
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let limit = arguments.limit_read.map(RateLimit::new);
    let source = limit::limited(Arc::new(disk), limit.as_ref());
    let member = Member {
        image: arguments.image.clone(),
        source: source.as_ref(),
        record: SourceRecord {
            location: arguments.source.clone(),
            format: "overlay".to_owned(),
            host: host_name(),
        },
        changed: Some(Changed { base: base.snapshot, ranges }),
        capture: Some(CaptureRecord {
            mode: CaptureMode::Incremental,
            reason: None,
            bitmap: None,
            changed_bytes: Some(changed_bytes),
        }),
    };
    let options = GroupOptions {
        group: None,
        consistency: Consistency::AtRest,
        tags: arguments.tags.iter().cloned().collect(),
        threads: arguments.threads.unwrap_or_else(default_threads),
    };
    let watch = Watch::new(output, changed_bytes, &format!("backup {}", arguments.image));
    let started = Instant::now();
    let result = repository.backup_group(&[member], &options, &watch);
    watch.finish();
    for outcome in result? {
        report(&outcome, &[], started.elapsed(), repository.requests(), output);
        if let Some(reason) = outcome.snapshot.capture.as_ref().and_then(|capture| capture.reason.as_ref()) {
            output.line(format!("  read the whole disk: {reason}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    outcome: &BackupOutcome,
    mounted_at: &[String],
    time: std::time::Duration,
    sent: Option<RequestCounts>,
    output: &Output,
) {
    let snapshot = &outcome.snapshot;
    let statistics = &snapshot.statistics;
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "image": snapshot.image,
            "snapshot": outcome.id,
            "parents": snapshot.parents,
            "virtual_size": snapshot.virtual_size,
            "statistics": statistics,
            "mounted_at": mounted_at,
            "seconds": time.as_secs_f64(),
            "requests": requests::value(sent),
        }));
    }
    output.line(format!("Snapshot {}@{}", snapshot.image, outcome.id.short()));
    output.line(format!(
        "  disk {}, data {}, read {} in {} ({})",
        size::show(snapshot.virtual_size),
        size::show(statistics.data_bytes),
        size::show(statistics.read_bytes),
        size::show_time(time),
        size::show_rate(statistics.read_bytes, time)
    ));
    output.line(format!(
        "  new {}, stored {} after compression",
        size::show(statistics.new_bytes),
        size::show(statistics.stored_bytes)
    ));
    requests::tell(sent, output);
}
