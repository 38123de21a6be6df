//! `leeward disk convert`.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use leeward_disk::{CreateOptions, Format, WorkOptions, copy, default_threads};
use serde::Serialize;

use super::OpenArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::place::create_target;
use crate::progress::Progress;
use crate::{interrupt, size};

#[derive(Args)]
#[command(after_help = "A new image appears under its name only when it is complete.")]
pub struct Convert {
    /// Image file, block device or NBD URL
    source: String,
    /// New image file, block device or NBD URL
    target: String,
    #[command(flatten)]
    open: OpenArguments,
    /// Format of the new image: raw or qcow2; what its name says unless given
    #[arg(short = 'O', long, value_name = "FORMAT")]
    target_format: Option<Format>,
    /// Compress the clusters of a qcow2 image
    #[arg(long, value_name = "METHOD")]
    compress: Option<Compression>,
    /// Cluster size of a qcow2 image, for example 64K
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    cluster_size: Option<u64>,
    /// Do not wait until everything is on stable storage
    #[arg(long)]
    no_sync: bool,
    /// Replace an existing file, or what a device holds
    #[arg(long)]
    force: bool,
    /// Threads; as many as there are processors unless said
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// How clusters are compressed.
#[derive(Clone, Copy, ValueEnum)]
enum Compression {
    Zstd,
}

#[derive(Serialize)]
struct Report {
    virtual_size: u64,
    data_bytes: u64,
    zero_bytes: u64,
    seconds: f64,
}

impl Convert {
    pub fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let started = Instant::now();
        let source = self.open.open(&self.source)?;
        let virtual_size = source.virtual_size();
        let target = create_target(&self.target, virtual_size, &self.create_options())?;
        let progress = Progress::new(output, virtual_size, "converting");
        let options = WorkOptions {
            threads: self.threads.unwrap_or_else(default_threads),
            progress: &|bytes| progress.add(bytes),
            cancel: interrupt::flag(),
        };
        let copied = copy(source.as_ref(), target.as_ref(), &options)?;
        target.finish(!self.no_sync)?;
        progress.finish();
        let report = Report {
            virtual_size,
            data_bytes: copied.data_bytes,
            zero_bytes: copied.zero_bytes,
            seconds: started.elapsed().as_secs_f64(),
        };
        if output.is_json() {
            output.json_line(&report);
        } else {
            output.line(format!(
                "Converted {} ({} data, {} zeros) in {:.1} s.",
                size::show(virtual_size),
                size::show(report.data_bytes),
                size::show(report.zero_bytes),
                report.seconds
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn create_options(&self) -> CreateOptions {
        CreateOptions {
            format: self.target_format,
            cluster_bytes: self.cluster_size,
            compress: self.compress.is_some(),
            overwrite: self.force,
        }
    }
}
