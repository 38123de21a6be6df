//! `leeward cancel`: stops a backup that runs elsewhere on this machine, or takes its right to publish.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use leeward_repository::{Repository, WriterInfo, host_name};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::interrupt;
use crate::output::Output;

const POLL: Duration = Duration::from_millis(50);

/// Cancel running backups, or list them
///
/// A cancelled backup publishes nothing, cleans up in the machine that it reads, and what it has stored is used by the
/// next run.
#[derive(Args)]
pub struct CancelArguments {
    /// Which: an image, or the first digits of a session; without it the running backups are listed
    backup: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "backup")]
    all: bool,
    /// Kill what does not end by itself, and take the right to publish from a backup on another machine
    #[arg(long)]
    force: bool,
    /// How long to wait for a backup to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Runs the verb.
pub fn run(
    arguments: &CancelArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let repository = repository.open()?;
    let writers = repository.writers()?;
    if arguments.backup.is_empty() && !arguments.all {
        list(&writers, output);
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen: Vec<&WriterInfo> = Vec::new();
    for wanted in &arguments.backup {
        let found: Vec<&WriterInfo> = writers.iter().filter(|writer| is_meant(writer, wanted)).collect();
        if found.is_empty() {
            return Err(Failure::new(Code::NotFound, format!("no backup of {wanted} is running"))
                .hint("see what runs with: leeward cancel"));
        }
        chosen.extend(found);
    }
    if arguments.all {
        chosen.extend(&writers);
    }
    chosen.sort_by(|a, b| a.session.cmp(&b.session));
    chosen.dedup_by(|a, b| a.session == b.session);
    let mut left = 0;
    for writer in &chosen {
        let result = cancel(&repository, writer, arguments)?;
        left += u32::from(result == Cancelled::No);
        let text = match result {
            Cancelled::Ended => "ended",
            Cancelled::Killed => "killed",
            Cancelled::Revoked => "may not publish any more",
            Cancelled::Gone => "had ended before",
            Cancelled::No => "is still running",
        };
        if output.is_json() {
            output.json_line(&serde_json::json!({ "session": writer.session, "result": text }));
        }
        output.line(format!("{} ({}): {text}", writer.purpose, &writer.session[..12]));
    }
    if left == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(Code::Conflict, format!("{left} of {} backups are still running", chosen.len()))
        .hint("with --force they are killed, or, on another machine, may not publish any more"))
}

fn list(writers: &[WriterInfo], output: &Output) {
    for writer in writers {
        if output.is_json() {
            output.json_line(writer);
        }
        let process = &writer.process;
        let state = if writer.has_ended { "has died" } else { "runs" };
        output.line(format!(
            "{}  {state} as process {} on {} since {}: {}",
            &writer.session[..12],
            process.pid,
            process.host,
            writer.created,
            writer.purpose
        ));
    }
    if writers.is_empty() {
        output.line("No backup is running.");
    }
}

/// Whether a person who says `wanted` means this backup: an image of it, a machine of whose disks it has one, or digits.
fn is_meant(writer: &WriterInfo, wanted: &str) -> bool {
    let is_digits = wanted.len() >= 4 && writer.session.starts_with(wanted);
    let images = writer.purpose.strip_prefix("backup of ").unwrap_or_default();
    let is_image =
        |image: &str| image.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_digits || images.split(", ").any(is_image)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    Ended,
    Killed,
    Revoked,
    Gone,
    No,
}

fn cancel(
    repository: &Repository,
    writer: &WriterInfo,
    arguments: &CancelArguments,
) -> Result<Cancelled, Failure> {
    if writer.process.host != host_name() {
        if !arguments.force {
            return Ok(Cancelled::No);
        }
        return Ok(if repository.revoke_writer(&writer.session)? {
            Cancelled::Revoked
        } else {
            Cancelled::Gone
        });
    }
    let cannot = |error: rustix::io::Errno| {
        Failure::new(Code::Refused, format!("cannot signal process {}: {error}", writer.process.pid))
            .hint("cancel as the user who runs the backup, or as root")
    };
    let pid = i32::try_from(writer.process.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(Cancelled::Gone) };
    // The descriptor stays with this process; then its identity is looked at: a later one of the same number is spared.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Cancelled::Gone),
        Err(error) => return Err(cannot(error)),
    };
    if writer.process.has_ended() {
        return Ok(Cancelled::Gone);
    }
    match pidfd_send_signal(&process, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(cannot(error)),
    }
    if wait_for(writer, Duration::from_secs(arguments.wait)) {
        return Ok(Cancelled::Ended);
    }
    if !arguments.force {
        return Ok(Cancelled::No);
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(cannot(error)),
    }
    wait_for(writer, Duration::from_secs(10));
    repository.revoke_writer(&writer.session)?;
    Ok(Cancelled::Killed)
}

/// Whether the process has ended in time.
fn wait_for(writer: &WriterInfo, limit: Duration) -> bool {
    let started = Instant::now();
    while !writer.process.has_ended() {
        if started.elapsed() >= limit || interrupt::is_requested() {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use leeward_repository::Process;

    #[test]
    fn a_backup_is_named_by_image_machine_or_digits() {
        let writer = WriterInfo {
            session: "00ff".repeat(8),
            process: Process::current(),
            purpose: "backup of web-01/root, web-01/data".to_owned(),
            created: String::new(),
            has_ended: false,
        };
        for good in ["web-01", "web-01/root", "web-01/data", "00ff", "00ff00"] {
            assert!(is_meant(&writer, good), "{good}");
        }
        for bad in ["web", "web-01/roo", "root", "00f", "ff00", ""] {
            assert!(!is_meant(&writer, bad), "{bad}");
        }
    }
}
