//! `leeward disk`: looks at and converts disk images, without a repository.

mod compare;
mod convert;
mod info;
mod map;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use leeward_disk::{Format, OpenOptions, References, SharedSource};

use crate::failure::Failure;
use crate::output::Output;
use crate::place::open_source;

/// Look at, compare and convert disk images
#[derive(Subcommand)]
pub enum DiskVerb {
    /// Show format, sizes and facts of an image
    Info(info::Info),
    /// List which parts of a disk hold data
    Map(map::Map),
    /// Convert an image to another format
    Convert(convert::Convert),
    /// Compare what a guest reads from two images
    Compare(compare::Compare),
}

/// Runs a `disk` verb.
pub fn run(verb: DiskVerb, output: &Output) -> Result<ExitCode, Failure> {
    match verb {
        DiskVerb::Info(verb) => verb.run(output),
        DiskVerb::Map(verb) => verb.run(output),
        DiskVerb::Convert(verb) => verb.run(output),
        DiskVerb::Compare(verb) => verb.run(output),
    }
}

/// How an image is opened.
#[derive(Args, Clone)]
pub struct OpenArguments {
    /// Format of the image: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(short, long)]
    format: Option<Format>,
    /// Read this internal snapshot instead of the present state; its id or name
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Follow backing files and extent files that lie in this directory
    #[arg(long, value_name = "DIR")]
    allow_references: Option<PathBuf>,
}

impl OpenArguments {
    fn options(&self) -> OpenOptions {
        let references = self.allow_references.clone().map_or(References::Refuse, References::Within);
        OpenOptions {
            format: self.format,
            references,
            snapshot: self.snapshot.clone(),
            ..OpenOptions::default()
        }
    }

    /// Opens an image as they say.
    pub fn open(&self, spec: &str) -> Result<SharedSource, Failure> {
        open_source(spec, &self.options())
    }
}
