//! `leeward quickstart`: what Leeward does, from the first backup to the recovered machine, in one command.
//!
//! Everything happens in a temporary folder. A disk that the person names is only ever read.

mod boot;
mod change;
mod digest;
mod ext4;
mod fat;
mod gather;
mod generate;
mod partitions;
mod report;
mod sites;
mod story;
pub mod tools;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leeward_disk::Format;

use self::generate::FileSystem;
use self::workspace::Workspace;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::size;

/// See it work: back a disk up, copy it to a second site, lose the first, recover, compare every byte, boot
#[derive(Args)]
pub struct QuickstartArguments {
    /// A disk to do it with, which is only read; without one, a disk is made of files of this machine
    disk: Option<String>,
    /// Format of the disk: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(short, long)]
    format: Option<Format>,
    /// Follow backing files and extent files that lie in this directory
    #[arg(long, value_name = "DIR")]
    allow_references: Option<PathBuf>,
    /// Make the temporary folder here [default: where TMPDIR says, else /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep the temporary folder: the repository of the second site and the recovered disk
    #[arg(long)]
    keep: bool,
    /// Do not boot the recovered disk
    #[arg(long)]
    no_boot: bool,
    /// Line on the serial console that tells that the guest is up [default: a login prompt]
    #[arg(long, value_name = "TEXT")]
    boot_until: Option<String>,
    /// Seconds to wait for it
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    boot_timeout: u64,
    /// Bytes of files on the disk that is made
    #[arg(long, hide = true, default_value = "400M", value_parser = size::parse, conflicts_with = "disk")]
    size: u64,
    /// File system of the disk that is made
    #[arg(long, hide = true, conflicts_with = "disk")]
    file_system: Option<FileSystem>,
}

/// Runs the verb. Exit code 3 when anything differs, 1 when all is equal but the guest says that it is not well.
pub fn run(arguments: &QuickstartArguments, output: &Output) -> Result<ExitCode, Failure> {
    let workspace = Workspace::new(arguments.dir.as_deref(), arguments.keep)?;
    let told = story::tell(arguments, &workspace, output);
    let folder = workspace.path().to_owned();
    let closed = if arguments.keep { Ok(()) } else { workspace.close() };
    if arguments.keep {
        output.line(format!("\nKept: {}", folder.display()));
    }
    let report = told.map_err(|failure| match failure.code() {
        // A backup's own message would promise that what it stored is kept.
        Code::Interrupted => Failure::new(
            Code::Interrupted,
            if arguments.keep { "interrupted" } else { "interrupted, and cleaned up" },
        ),
        _ => failure,
    })?;
    closed?;
    if output.is_json() {
        output.json_line(&report);
    } else {
        report.print_closing(output);
    }
    Ok(match (report.is_good(), report.is_equal()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => Code::Failed.into(),
        (false, false) => Code::Differs.into(),
    })
}
