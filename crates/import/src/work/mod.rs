//! Work that is done elsewhere: by a worker, a process on another machine, to which the volume is attached.
//!
//! The daemon plans, asks the provider, keeps what is known; a worker moves bytes, and knows nothing of the cloud. It asks for
//! work (nothing listens at its side), gets an [`Order`], reads the object through the daemon, does the same as the daemon
//! would do itself ([`perform()`]), and tells how it goes by [`Report`]s, each of which is kept before it is answered.
//!
//! What always holds:
//! - an order is one worker's at a time, and of one process of it; who has it is found on a [`Board`] in memory. A daemon that
//!   begins again knows none of the old orders, refuses what is told of them, and gives new ones from the last checkpoint;
//! - a worker that does not get through to the daemon for [`Order::lease_seconds`] stops by itself; the daemon waits longer
//!   than that before it believes that a worker is lost;
//! - clocks prove nothing about a machine that was paused: that an old worker cannot write any more while another one does is
//!   for the kernel (one machine: devices are opened by one process only) and for the provider (two machines: a volume is
//!   attached to one of them). See `docs/workers.md`.

mod bench;
mod board;
mod perform;
pub mod program;
pub mod token;

use std::collections::BTreeMap;
use std::path::PathBuf;

use leeward_disk::Format;
use leeward_remote::objects::ObjectHead;
use leeward_runs::Failure;
use leeward_runs::state::Level;
use serde::{Deserialize, Serialize};

pub use bench::{Bench, Finished};
pub(crate) use bench::{check_disk, is_of, say_report, write_disk};
pub use board::{Board, Grant, Patience, Refused, Writer};
pub(crate) use board::{Gone, Offered};
pub use perform::perform;

pub use crate::Progress;
use crate::filesystem::FileSystemReport;
use crate::image::Expanded;
use crate::verify::VerifyCheckpoint;
use crate::write::Checkpoint;

/// A piece of work for a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Names it; another one each time that the work is given.
    pub task: String,
    /// The run, for people.
    pub run: String,
    /// The step of it, for people.
    pub step: String,
    /// How long a worker that does not get through to the daemon may go on, in seconds.
    pub lease_seconds: u64,
    /// What is to be done.
    pub work: Work,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A disk onto its volume, and the volume read back.
    Write(Box<WriteWork>),
    /// The partition table, where asked, and the file systems.
    Check(CheckWork),
}

/// A disk onto its volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteWork {
    /// Where the object is: what checkpoints call it.
    pub place: String,
    /// The object.
    pub object: String,
    /// Its state that is meant.
    pub head: ObjectHead,
    /// Its format, where the content is not to decide.
    pub format: Option<Format>,
    /// What was measured of wrapped disks.
    pub expanded: BTreeMap<String, Expanded>,
    /// Which disk of it.
    pub disk: String,
    /// The volume, as the provider calls it.
    pub volume: String,
    /// The device as which it shows.
    pub device: PathBuf,
    /// From where to go on.
    pub kept: Kept,
    /// How fast the object may be read.
    pub bytes_per_second: Option<u64>,
}

/// What is on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckWork {
    /// The volume, as the provider calls it.
    pub volume: String,
    /// The device as which it shows.
    pub device: PathBuf,
    /// Whether the backup of a GPT is moved to the end first.
    pub move_gpt: bool,
}

/// How far the work on one disk is. Without anything: what is on the volume cannot be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What is written.
    pub write: Option<Checkpoint>,
    /// How far that was compared.
    pub verify: Option<VerifyCheckpoint>,
}

/// What a worker tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Counts the reports of an order, from 1: one whose answer was lost is sent again, and counts once.
    pub sequence: u64,
    /// What it is at.
    pub note: String,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Lines for the step's log.
    pub lines: Vec<Line>,
    /// A checkpoint to be kept.
    pub kept: Option<Kept>,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// A line for the step's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// A disk is written and compared.
    Written(Box<Finished>),
    /// A volume is checked.
    Checked(FileSystemReport),
    /// It failed.
    Failed(Failure),
    /// It was told to stop, and did.
    Stopped,
}

/// What a worker is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it is to stop, and to say when it has.
    pub stop: bool,
}
