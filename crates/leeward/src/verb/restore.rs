//! `leeward restore` and `leeward verify-restore`: a snapshot becomes a disk again.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use leeward_disk::{
    CreateOptions, Format, OpenOptions, Source, Target, create_target, default_threads, open_source,
};
use leeward_repository::{Repository, RestoreMode, RestoreOutcome, Snapshot, SnapshotSpec};

use super::repository::{RepositoryArgument, Watch};
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// Restore a snapshot to a file, a block device or an NBD server
#[derive(Args)]
pub struct RestoreArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// Where to: a new image file, a block device, or an nbd:// URL
    target: String,
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
}

/// Compare a disk with a snapshot, chunk by chunk
#[derive(Args)]
pub struct VerifyArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG
    snapshot: SnapshotSpec,
    /// The disk: an image file, a block device, or an nbd:// URL
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
    let repository = repository.open()?;
    let entry = repository.resolve(&arguments.snapshot)?;
    let snapshot = repository.snapshot(entry.id)?;
    let label = format!("{}@{}", snapshot.image, entry.id.short());
    let virtual_size = snapshot.virtual_size;
    if arguments.dry_run {
        if output.is_json() {
            output.json_line(&serde_json::json!({
                "dry_run": true, "snapshot": entry.id, "virtual_size": virtual_size,
                "data_bytes": snapshot.statistics.data_bytes, "target": arguments.target,
            }));
        }
        output.line(format!(
            "Would restore {label} of {} to {}: {} of data",
            snapshot.created,
            arguments.target,
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
        let target = leeward_disk::open_target(&arguments.target, virtual_size)?;
        let existing = open_source(&arguments.target, &OpenOptions::with_format(Format::Raw))?;
        run(RestoreMode::Patch(target.as_ref(), existing.as_ref()), target.as_ref())?
    } else {
        let target = create_target(&arguments.target, virtual_size, &create)?;
        run(RestoreMode::Write(target.as_ref()), target.as_ref())?
    };
    report(&label, &arguments.target, &outcome, started.elapsed(), arguments.onto, output);
    if arguments.verify {
        let format = arguments
            .output_format
            .or_else(|| Format::from_extension(arguments.target.as_ref()))
            .filter(|_| !arguments.onto)
            .unwrap_or(Format::Raw);
        let disk = open_source(&arguments.target, &OpenOptions::with_format(format))?;
        return compare(&repository, &snapshot, &label, &arguments.target, disk.as_ref(), threads, output);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    label: &str,
    target: &str,
    outcome: &RestoreOutcome,
    time: std::time::Duration,
    onto: bool,
    output: &Output,
) {
    if output.is_json() {
        output.json_line(&serde_json::json!({
            "target": target, "restore": outcome, "seconds": time.as_secs_f64(),
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
