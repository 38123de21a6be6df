//! `leeward mount`: the repository as a file system.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use leeward_disk::default_threads;
use leeward_mount::{Options, mount};
use leeward_repository::ReadOptions;

use super::repository::RepositoryArgument;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Output;
use crate::size;

/// How often it is looked whether to stop.
const PACE: Duration = Duration::from_millis(50);
/// Requests that are served at once for each processor: most wait for the cache or the disk.
const THREADS_PER_PROCESSOR: usize = 2;

/// Show every snapshot's disk and partitions as files, until Ctrl-C or fusermount3 -u
#[derive(Args)]
pub struct MountArguments {
    /// An empty directory
    directory: PathBuf,
    /// Let other users look into it; /etc/fuse.conf must have user_allow_other unless root mounts
    #[arg(long)]
    allow_other: bool,
    /// Memory for decoded content
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    cache: u64,
    /// Threads that serve [default: two per processor]
    #[arg(short = 'j', long)]
    threads: Option<usize>,
}

/// Runs the verb.
pub fn run(
    arguments: &MountArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let options = Options {
        allow_other: arguments.allow_other,
        threads: arguments.threads.unwrap_or(THREADS_PER_PROCESSOR * default_threads()),
        read: ReadOptions { cache_bytes: arguments.cache, ..ReadOptions::serving() },
        report: Arc::new(|error| eprintln!("leeward: {}", leeward_store::with_causes(error))),
    };
    let mounted = mount(&repository, &arguments.directory, &options)?;
    if output.is_json() {
        output.json_line(
            &serde_json::json!({ "mounted": mounted.place(), "repository": repository.location() }),
        );
    }
    let stop = if std::io::stdin().is_terminal() { "Ctrl-C" } else { "SIGTERM" };
    output.line(format!(
        "{} is mounted on {}; it ends with {stop} or: fusermount3 -u {}",
        repository.location(),
        mounted.place().display(),
        mounted.place().display()
    ));
    while !mounted.has_ended() {
        if interrupt::is_requested() {
            mounted.unmount()?;
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(PACE);
    }
    mounted.join()?;
    Ok(ExitCode::SUCCESS)
}
