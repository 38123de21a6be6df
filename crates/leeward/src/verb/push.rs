//! `leeward push` and `pull`: snapshots travel between two repositories.

pub mod carry;
pub mod direct;
pub mod pick;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use leeward_repository::transfer::{Near, Selection, TransferOptions};

use super::repository::RepositoryArgument;
use crate::failure::{Code, Failure};
use crate::limit;
use crate::output::Output;
use crate::servers::Side;
use crate::unlock::OtherArguments;
use carry::{Carry, Sides};

/// What concerns every transfer.
#[derive(Args, Debug, Clone)]
pub struct TransferArguments {
    /// Show what would travel, and send nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Store no faster than this at the target: bytes per second, as in 20M
    #[arg(long, value_name = "RATE", value_parser = limit::parse_rate)]
    pub limit: Option<u64>,
    /// Frames that are read, checked and passed on at once; each takes three times the size of a frame
    #[arg(short = 'j', long, value_name = "N", default_value_t = TransferOptions::default().in_flight)]
    pub threads: usize,
    /// Packs that are sent at once, each over a connection of its own and with its size of memory; more of them pay where
    /// packets are lost on a long way [default: what the target proposes: 1 for a directory, 6 over a network]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub streams: Option<u16>,
    /// Walk the new snapshots once more at the target when they are published
    #[arg(long)]
    pub verify: bool,
    /// Between two servers: whether packs go from one to the other and not through this machine. For that one of them has the
    /// other as a --peer
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Direct::Auto)]
    pub direct: Direct,
    #[command(flatten)]
    pub other: OtherArguments,
}

/// Whether packs go from server to server.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Where the servers can; else through this machine
    Auto,
    /// Or nothing travels
    Must,
    /// Everything goes through this machine
    Never,
}

impl TransferArguments {
    /// The options of the library.
    pub fn options(&self, near: Near) -> TransferOptions {
        TransferOptions {
            near,
            in_flight: self.threads.clamp(1, THREADS_MAX),
            verify: self.verify,
            ..TransferOptions::default()
        }
    }
}

/// More threads than this only take memory.
const THREADS_MAX: usize = 1024;

/// Send snapshots to another repository, as far as it lacks them
///
/// IMAGE stands for all of its snapshots, IMAGE@SPEC for one; MACHINE or MACHINE@~1 for groups of snapshots of one moment.
#[derive(Args)]
pub struct PushArguments {
    /// What to send, and last the repository to send it to
    #[arg(value_name = "IMAGE[@SPEC]... TO", required = true)]
    what: Vec<String>,
    /// Send all snapshots of all images
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Fetch snapshots from another repository, as far as this one lacks them
///
/// IMAGE stands for all of its snapshots, IMAGE@SPEC for one; MACHINE or MACHINE@~1 for groups of snapshots of one moment.
#[derive(Args)]
pub struct PullArguments {
    /// What to fetch, and last the repository to fetch it from
    #[arg(value_name = "IMAGE[@SPEC]... FROM", required = true)]
    what: Vec<String>,
    /// Fetch all snapshots of all images
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    transfer: TransferArguments,
}

/// Runs `push`.
pub fn push(
    arguments: &PushArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (what, to) = split(&arguments.what, arguments.all, "push -r FROM IMAGE[@SPEC]... TO")?;
    let sides = Sides::new(
        (repository.open()?, Side::Own),
        (repository.open_other(to, &arguments.transfer.other)?, repository.other_side()),
        &arguments.transfer,
        output,
    )?;
    run(&sides, what, arguments.all, &arguments.transfer, Near::From, output)
}

/// Runs `pull`.
pub fn pull(
    arguments: &PullArguments,
    repository: &RepositoryArgument,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (what, from) = split(&arguments.what, arguments.all, "pull -r TO IMAGE[@SPEC]... FROM")?;
    let sides = Sides::new(
        (repository.open_other(from, &arguments.transfer.other)?, repository.other_side()),
        (repository.open()?, Side::Own),
        &arguments.transfer,
        output,
    )?;
    run(&sides, what, arguments.all, &arguments.transfer, Near::To, output)
}

fn run(
    sides: &Sides,
    what: &[String],
    all: bool,
    arguments: &TransferArguments,
    near: Near,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let selection = if all { Selection::All } else { pick::selection(&sides.from, what)? };
    let verb = if near == Near::From { "push" } else { "pull" };
    let carry = Carry { verb, options: arguments.options(near), dry_run: arguments.dry_run };
    Ok(carry.run(sides, &selection, output)?.code())
}

/// The images and, last, the other repository.
fn split<'a>(what: &'a [String], all: bool, usage: &str) -> Result<(&'a [String], &'a str), Failure> {
    let usage = format!("leeward {usage}, or --all in place of the images");
    match what.split_last() {
        Some((location, images)) if images.is_empty() == all => Ok((images, location)),
        Some((_, [])) => {
            Err(Failure::new(Code::Usage, "name images and the other repository, or give --all").hint(usage))
        }
        _ => Err(Failure::new(Code::Usage, "either name images or give --all, not both").hint(usage)),
    }
}
