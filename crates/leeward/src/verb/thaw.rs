//! `leeward thaw-orphan`: what a backup starts beside itself, so that a guest is thawed even if the backup is killed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use leeward_cloud::qemu::{GuardianProgram, stand_guard};

use crate::failure::Failure;

/// Thaw a guest when standard input ends without a word; not for people
#[derive(Args)]
pub struct ThawArguments {
    /// Socket of the guest's agent
    agent: PathBuf,
}

/// Runs the verb.
pub fn run(arguments: &ThawArguments) -> Result<ExitCode, Failure> {
    stand_guard(std::io::stdin().lock(), &arguments.agent)?;
    Ok(ExitCode::SUCCESS)
}

/// This very program, also if its file was replaced since it was started.
pub fn guardian() -> GuardianProgram {
    GuardianProgram { program: "/proc/self/exe".into(), arguments: vec!["thaw-orphan".into()] }
}
