//! `leeward restore` and `leeward verify-restore`: a snapshot becomes a disk again or a site's volume, a group a machine.

pub mod at_site;
mod group;
mod in_place;
mod machine;
mod publish;
mod start;

pub use group::Restorable;

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use leeward_disk::{CreateOptions, Format, OpenOptions, Source, Target, default_threads};
use leeward_repository::{Repository, RestoreMode, RestoreOutcome, Snapshot, SnapshotId, SnapshotSpec};

use leeward_store::bucket::RequestCounts;

use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::place::{create_target, open_source, open_target};
use crate::{requests, size};

/// Restore a snapshot to a file, a block device, an NBD server or a volume of a site, or a group to a machine
#[derive(Args)]
pub struct RestoreArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG; with --as, --in-place or --disk the group:
    /// MACHINE, MACHINE@~1, or the first digits of its identity
    snapshot: String,
    /// Where to: a new image file, a block device, an nbd:// URL, or an image of Ceph as rbd:POOL/IMAGE
    #[arg(required_unless_present_any = ["name", "in_place", "site_target"])]
    target: Option<String>,
    /// Format of the new file: raw or qcow2 [default: what its name says, else raw]
    #[arg(short = 'O', long)]
    output_format: Option<Format>,
    /// Read what the target holds, write only what differs, and zero the rest; for raw files, devices and NBD
    #[arg(long, conflicts_with = "output_format")]
    onto: bool,
    /// Read the target again afterwards and compare every chunk with the snapshot
    #[arg(long)]
    verify: bool,
    /// Replace an existing file, or write over a block device
    #[arg(long)]
    force: bool,
    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_sync: bool,
    /// Threads that read and decompress [default: one per processor]
    #[arg(short = 'j', long)]
    threads: Option<usize>,
    /// Show what would be restored, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    machine: machine::MachineArguments,
    #[command(flatten)]
    at_site: at_site::AtSiteArguments,
}

/// Compare a disk with a snapshot, chunk by chunk
#[derive(Args)]
pub struct VerifyArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// The disk: an image file, a block device, an nbd:// URL, or rbd:POOL/IMAGE
    disk: String,
    /// Format of the disk: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(short, long)]
    format: Option<Format>,
    /// Threads that read and hash [default: one per processor]
    #[arg(short = 'j', long)]
    threads: Option<usize>,
}

/// Runs `restore`.
pub fn restore(
    arguments: &RestoreArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if let Some(target) = &arguments.at_site.site_target {
        return at_site::restore(&arguments.at_site, target, &arguments.snapshot, arguments.dry_run, output);
    }
    let repository = repository.open()?;
    if let Some(name) = &arguments.machine.name {
        return machine::restore(arguments, name, &repository, output);
    }
    if arguments.machine.in_place {
        return in_place::revert(arguments, &repository, output);
    }
    let Some(target_name) = &arguments.target else {
        return Err(Failure::new(Code::Usage, "where to is not given"));
    };
    restore_disk(arguments, target_name, &repository, output)
}

/// The snapshot of one disk: that of an image, or one of a group.
fn one_snapshot(
    arguments: &RestoreArguments,
    repository: &Repository,
) -> Result<(SnapshotId, Snapshot), Failure> {
    if arguments.machine.disks.is_empty() {
        let entry = repository.resolve(&arguments.snapshot.parse()?)?;
        return Ok((entry.id, repository.snapshot(entry.id)?));
    }
    let mut group = Restorable::load(repository, &arguments.snapshot)?;
    group.select(&arguments.machine.disks)?;
    match group.members.pop() {
        Some(member) if group.members.is_empty() => Ok((member.id, member.snapshot)),
        _ => Err(Failure::new(Code::Usage, "several disks do not fit into one target")
            .hint("name one with --disk, or restore them all with --as NAME --dir DIR")),
    }
}

fn restore_disk(
    arguments: &RestoreArguments,
    target_name: &str,
    repository: &Repository,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (id, snapshot) = one_snapshot(arguments, repository)?;
    let label = format!("{}@{}", snapshot.image, id.short());
    let virtual_size = snapshot.virtual_size;
    if arguments.dry_run {
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "snapshot": id, "virtual_size": virtual_size,
                "data_bytes": snapshot.statistics.data_bytes, "target": target_name,
            }));
        }
        output.line(format!(
            "Would restore {label} of {} to {}: {} of data",
            snapshot.created,
            target_name,
            size::show(snapshot.statistics.data_bytes)
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let threads = arguments.threads.unwrap_or_else(default_threads);
    let create = CreateOptions {
        format: arguments.output_format,
        overwrite: arguments.force,
        ..CreateOptions::default()
    };
    let started = Instant::now();
    let run = |mode: RestoreMode<'_>, target: &dyn Target| -> Result<RestoreOutcome, Failure> {
        let watch = Watch::new(output, virtual_size, &format!("restore {label}"));
        let result = repository.restore(&snapshot, mode, threads, &watch);
        watch.finish();
        let outcome = result?;
        target.finish(!arguments.no_sync)?;
        Ok(outcome)
    };
    let outcome = if arguments.onto {
        // The target first: it extends a file that is too short.
        let target = open_target(target_name, virtual_size)?;
        let existing = open_source(target_name, &OpenOptions::with_format(Format::Raw))?;
        run(RestoreMode::Patch(target.as_ref(), existing.as_ref()), target.as_ref())?
    } else {
        let target = create_target(target_name, virtual_size, &create)?;
        run(RestoreMode::Write(target.as_ref()), target.as_ref())?
    };
    report(&label, target_name, &outcome, started.elapsed(), arguments.onto, repository.requests(), output);
    if arguments.verify {
        let format = arguments
            .output_format
            .or_else(|| Format::from_extension(target_name.as_ref()))
            .filter(|_| !arguments.onto)
            .unwrap_or(Format::Raw);
        let disk = open_source(target_name, &OpenOptions::with_format(format))?;
        return compare(repository, &snapshot, &label, target_name, disk.as_ref(), threads, output);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    label: &str,
    target: &str,
    outcome: &RestoreOutcome,
    time: std::time::Duration,
    onto: bool,
    sent: Option<RequestCounts>,
    output: &Output,
) {
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "target": target, "restore": outcome, "seconds": time.as_secs_f64(), "requests": requests::value(sent),
        }));
    }
    output.line(format!("Restored {label} to {target}"));
    let kept = if onto {
        format!(
            ", {} was there already, {} zeroed",
            size::show(outcome.data_bytes.saturating_sub(outcome.written_bytes)),
            size::show(outcome.zeroed_bytes)
        )
    } else {
        String::new()
    };
    output.line(format!(
        "  disk {}, wrote {} in {} ({}){kept}",
        size::show(outcome.virtual_size),
        size::show(outcome.written_bytes),
        size::show_time(time),
        size::show_rate(outcome.data_bytes, time),
    ));
    requests::tell(sent, output);
}

/// Runs `verify-restore`. Exit code 3 when the disk differs.
pub fn verify(
    arguments: &VerifyArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let entry = repository.resolve(&arguments.snapshot)?;
    let snapshot = repository.snapshot(entry.id)?;
    let label = format!("{}@{}", snapshot.image, entry.id.short());
    let options = OpenOptions { format: arguments.format, ..OpenOptions::default() };
    let disk = open_source(&arguments.disk, &options)?;
    let threads = arguments.threads.unwrap_or_else(default_threads);
    compare(&repository, &snapshot, &label, &arguments.disk, disk.as_ref(), threads, output)
}

fn compare(
    repository: &Repository,
    snapshot: &Snapshot,
    label: &str,
    name: &str,
    disk: &dyn Source,
    threads: usize,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let watch = Watch::new(output, snapshot.virtual_size, &format!("verify {label}"));
    let started = Instant::now();
    let result = repository.restore(snapshot, RestoreMode::Compare(disk), threads, &watch);
    watch.finish();
    let outcome = result?;
    let time = started.elapsed();
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "disk": name, "equal": outcome.differing_bytes == 0, "comparison": outcome, "seconds": time.as_secs_f64(),
        }));
    }
    if outcome.differing_bytes == 0 {
        output.line(format!(
            "{name} equals {label}: {} compared in {}",
            size::show(outcome.virtual_size),
            size::show_time(time)
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let offsets: Vec<String> = outcome.differing_offsets.iter().map(u64::to_string).collect();
    output.line(format!(
        "{name} differs from {label}: {} in all, first at {}",
        size::show(outcome.differing_bytes),
        offsets.join(", ")
    ));
    Ok(Code::Differs.into())
}
