//! `leeward disk compare`.

use std::process::ExitCode;

use clap::Args;
use leeward_disk::{Comparison, Format, WorkOptions, compare, default_threads};
use serde::Serialize;

use super::OpenArguments;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;
use crate::progress::Progress;

#[derive(Args)]
#[command(after_help = "Exits with 0 if both read the same, and with 3 if they differ.")]
pub struct Compare {
    /// Image file, block device or NBD URL
    first: String,
    /// The one to compare with
    second: String,
    #[command(flatten)]
    open: OpenArguments,
    /// Format of the second image
    #[arg(short = 'F', long, value_name = "FORMAT")]
    second_format: Option<Format>,
    /// Threads; as many as there are processors unless said
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Serialize)]
struct Report {
    equal: bool,
    #[serde(flatten)]
    comparison: Comparison,
}

impl Compare {
    pub fn run(self, output: &Output) -> Result<ExitCode, Failure> {
        let first = self.open.open(&self.first)?;
        let second = OpenArguments { format: self.second_format, snapshot: None, ..self.open.clone() }
            .open(&self.second)?;
        let progress = Progress::new(output, first.virtual_size().max(second.virtual_size()), "comparing");
        let options = WorkOptions {
            threads: self.threads.unwrap_or_else(default_threads),
            progress: &|bytes| progress.add(bytes),
            cancel: interrupt::flag(),
        };
        let comparison = compare(first.as_ref(), second.as_ref(), &options)?;
        progress.finish();
        if output.is_json() {
            output.json_line(&Report { equal: comparison.is_equal(), comparison });
        } else {
            output.line(describe(&comparison));
        }
        Ok(if comparison.is_equal() { ExitCode::SUCCESS } else { Code::Differs.into() })
    }
}

fn describe(comparison: &Comparison) -> String {
    let sizes = if comparison.first_size == comparison.second_size {
        String::new()
    } else {
        format!(" (sizes: {} and {} bytes)", comparison.first_size, comparison.second_size)
    };
    match comparison.first_difference {
        None if sizes.is_empty() => "The disks are equal.".to_owned(),
        None => format!("The disks are equal but for zeros behind the end of the shorter{sizes}."),
        Some(offset) => format!(
            "The disks differ: {} bytes, the first at offset {offset}{sizes}.",
            comparison.different_bytes
        ),
    }
}
