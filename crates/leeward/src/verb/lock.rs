//! `leeward lock`, `check --locks`: objects that the service itself keeps from being deleted.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use leeward_repository::{LockMode, LockOptions, LockOutcome, Repository};

use super::repository::{RepositoryArgument, Watch};
use super::retain::span;
use crate::failure::{Code, Failure};
use crate::output::Output;

/// Lock what snapshots need against deletion, whoever asks for it; in a bucket that was made with object lock
///
/// For so long after a snapshot was made, and for a held one as long from now, the service deletes nothing that it needs. Run
/// it after each backup. What was deleted or replaced all the same is seen again with at=TIME in the location.
#[derive(Args)]
pub struct LockArguments {
    /// How long after it was made a snapshot is locked, as in 30d
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    period: SignedDuration,
    /// Who may take a lock away: with governance who has a special permission, with compliance nobody
    #[arg(long, value_enum, default_value_t = Mode::Governance)]
    mode: Mode,
    /// Show what would be locked, and lock nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Governance,
    Compliance,
}

impl From<Mode> for LockMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Governance => Self::Governance,
            Mode::Compliance => Self::Compliance,
        }
    }
}

/// Runs `lock`.
pub fn lock(
    arguments: &LockArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    if arguments.period.is_zero() {
        return Err(Failure::new(Code::Usage, "--for takes a time, as in 30d"));
    }
    let repository = repository.open()?;
    let options =
        LockOptions { period: arguments.period, mode: arguments.mode.into(), dry_run: arguments.dry_run };
    let watch = Watch::new(output, 0, "lock");
    let result = repository.lock(&options, &watch);
    watch.finish();
    let outcome = result?;
    if output.is_json() {
        output.json_line(&serde_json::json!({"lock": outcome, "dry_run": arguments.dry_run}));
    }
    let did = if arguments.dry_run { "are to be locked" } else { "were locked" };
    output.line(format!(
        "{} snapshots need {} objects: {} are locked long enough, {} {did}",
        outcome.snapshots,
        outcome.objects,
        outcome.sufficient,
        outcome.short.len()
    ));
    if outcome.expired > 0 {
        output.line(format!("{} snapshots are older than that: nothing is locked for them", outcome.expired));
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks whether everything is locked that should be, and tells of what is not; `false` when something is not.
pub fn look(repository: &Repository, period: SignedDuration, output: &Output) -> Result<bool, Failure> {
    let options = LockOptions { period, mode: LockMode::Governance, dry_run: true };
    let watch = Watch::new(output, 0, "locks");
    let result = repository.lock(&options, &watch);
    watch.finish();
    let outcome: LockOutcome = result?;
    if output.is_json() {
        output.json_line(&serde_json::json!({"locks": outcome}));
    }
    for short in &outcome.short {
        let until = short
            .until
            .as_ref()
            .map_or_else(|| "not locked".to_owned(), |until| format!("locked until {until}"));
        output.line(format!("UNLOCKED {}: {until}, wanted until {}", short.object, short.wanted));
    }
    match outcome.short.len() {
        0 => output.line(format!("All {} objects are locked long enough", outcome.objects)),
        short => output.line(format!(
            "{short} of {} objects are not locked long enough; hint: leeward lock --for SPAN",
            outcome.objects
        )),
    }
    Ok(outcome.short.is_empty())
}
