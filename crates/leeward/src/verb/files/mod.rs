//! `leeward files` and `leeward cp`: looks into disks and takes files out of them, without mounting anything.

mod copy;
mod list;
mod names;
mod place;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leeward_files::FileSystem;

use super::disk::OpenArguments;
use super::repository::RepositoryArgument;
use crate::failure::Failure;
use crate::output::Output;

/// Which disk, and how to read it.
#[derive(Args)]
struct DiskArguments {
    /// Look into this image file, block device or nbd:// URL instead of a snapshot
    #[arg(long, value_name = "PATH")]
    disk: Option<String>,
    /// The volume: a partition's number, `disk`, or lvm:GROUP/VOLUME [default: the only file system, or the one with a system's root]
    #[arg(short = 'V', long, value_name = "VOLUME")]
    volume: Option<String>,
    /// Read metadata whose checksum is wrong, to save what can be saved
    #[arg(long)]
    ignore_checksums: bool,
    #[command(flatten)]
    open: OpenArguments,
}

/// List the files in a snapshot or disk; without a path its partitions and file systems
#[derive(Args)]
pub struct FilesArguments {
    /// The snapshot: IMAGE, IMAGE@~1, IMAGE@DIGEST, IMAGE@TIME or IMAGE@TAG; left out with --disk
    snapshot: Option<String>,
    /// What to list: /PATH, or VOLUME:/PATH, as 1:/etc or lvm:vg/root:/etc
    path: Option<String>,
    /// List what is in directories below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    disk: DiskArguments,
}

/// Copy files out of a snapshot or disk
///
/// Symbolic links are copied as links. Modes (without setuid and setgid) and times are kept; devices, pipes and sockets
/// are left out. Nothing is written outside of the target, whatever the names in the disk are.
#[derive(Args)]
pub struct CpArguments {
    /// What to copy: SNAPSHOT:/PATH or SNAPSHOT:VOLUME:/PATH; with --disk: /PATH or VOLUME:/PATH
    from: String,
    /// Where to: a new name, an existing directory to copy into, or - to write one file to standard output
    to: PathBuf,
    /// Replace existing files and links
    #[arg(long)]
    force: bool,
    /// Keep owners and groups, and with them setuid and setgid; needs root
    #[arg(long)]
    owners: bool,
    /// Show what would be copied, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    disk: DiskArguments,
}

/// Runs `files`.
pub fn list(
    arguments: &FilesArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (snapshot, path) = match (&arguments.disk.disk, &arguments.snapshot, &arguments.path) {
        (Some(_), path, None) => (None, path.as_deref()),
        (Some(_), _, Some(path)) => {
            return Err(place::usage(format!(
                "--disk takes the place of the snapshot, so {path} is one argument too many"
            )));
        }
        (None, Some(snapshot), path) => (Some(snapshot.as_str()), path.as_deref()),
        (None, None, _) => return Err(place::usage("name a snapshot, or a disk with --disk".to_owned())),
    };
    let disk = place::open_disk(&arguments.disk, snapshot, repository)?;
    match (path, &arguments.disk.volume) {
        (None, None) if !arguments.recursive => list::volumes(&disk, &arguments.disk, output),
        (path, _) => {
            let place = place::Place::parse(path.unwrap_or("/"), &arguments.disk)?;
            let files = place::open_files(&disk, &place, &arguments.disk, output)?;
            list::files(files.as_ref(), &place, arguments.recursive, output)
        }
    }
}

/// Runs `cp`.
pub fn copy(
    arguments: &CpArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (snapshot, path) = match &arguments.disk.disk {
        Some(_) => (None, arguments.from.as_str()),
        None => {
            let (snapshot, path) = place::split_source(&arguments.from)?;
            (Some(snapshot), path)
        }
    };
    let place = place::Place::parse(path, &arguments.disk)?;
    let disk = place::open_disk(&arguments.disk, snapshot, repository)?;
    let files = place::open_files(&disk, &place, &arguments.disk, output)?;
    copy::run(arguments, files.as_ref(), &place, output)
}

/// Tells what has to be known before the content is trusted.
fn warn(files: &dyn FileSystem, output: &Output) {
    for warning in &files.summary().warnings {
        let text = names::shown(warning.as_bytes());
        if output.is_json() {
            output.json_line(&serde_json::json!({ "warning": text }));
        }
        eprintln!("leeward: warning: the {} file system: {text}", files.summary().kind);
    }
}
