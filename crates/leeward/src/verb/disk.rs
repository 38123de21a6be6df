//! `leeward disk`: looks at and converts disk images, without a repository.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use leeward_disk::{Format, OpenOptions, References};

use crate::failure::Failure;
use crate::output::Output;

/// Look at, compare and convert disk images
#[derive(Subcommand)]
pub enum DiskVerb {
    /// Show format, sizes and facts of an image
    Info {
        /// Image file, block device
        image: PathBuf,
        /// Format of the image: raw, qcow2, vmdk, vhd, vhdx or vdi
        #[arg(short, long)]
        format: Option<Format>,
        /// Follow backing files and extent files that lie in this directory
        #[arg(long, value_name = "DIR")]
        allow_references: Option<PathBuf>,
    },
}

/// Runs a `disk` verb.
pub fn run(verb: DiskVerb, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        DiskVerb::Info { image, format, allow_references } => {
            let references = allow_references.map_or(References::Refuse, References::Within);
            let options = OpenOptions { format, references, ..OpenOptions::default() };
            let source = leeward_disk::open_path(&image, &options)?;
            let info = source.info();
            if output.is_json() {
                output.json_line(&info);
            } else {
                output.line(format!("format: {}", info.format));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
