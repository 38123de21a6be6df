//! The daemon's own state as snapshots of its repository: with bucket and key a daemon comes back that knows its runs.
//!
//! A copy is a tar archive as the content of a disk: `state.json` (what it is), `site.toml` (the configuration as it was),
//! `tokens` (digests, no tokens), `catalog.sqlite`, `runs.sqlite`. Any `leeward restore` and any `tar` read it.
//!
//! What daemons share in PostgreSQL is copied into such files, all of it of one moment.
//!
//! Otherwise the catalog is copied before the runs. Whatever it says was begun is then among the runs; what it says is still to be
//! done is begun under a key, and is found where it was begun in between.

mod copy;
mod job;
mod moving;
mod restore;
mod shared;
mod tables;

use jiff::Timestamp;
use leeward_protect::job::STATE_IMAGES;
use leeward_repository::ImageName;
use serde::{Deserialize, Serialize};

pub use moving::{Going, Moved, check_state, move_state};
pub use restore::{Restored, Restoring, restore};

pub use job::StateInputs;
pub(crate) use job::{STATE, StateKind, state_plan};

use crate::{Error, Result};

/// The version of the archive; what has another one is not read.
const FORMAT: u32 = 1;

const ABOUT: &str = "state.json";
const CONFIG: &str = "site.toml";
const TOKENS: &str = "tokens";
const CATALOG: &str = "catalog.sqlite";
const RUNS: &str = "runs.sqlite";

/// What a copy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of the archive.
    pub format: u32,
    /// The site.
    pub site: String,
    /// What wrote it.
    pub tool: String,
    /// When its files were copied.
    pub copied: Timestamp,
    /// Where the configuration was.
    pub config: Option<String>,
    /// Where the state was.
    pub state: String,
}

/// The image that holds the state of a site.
///
/// # Errors
/// The site's name cannot be one of an image.
pub(crate) fn image_of(site: &str) -> Result<ImageName> {
    format!("{STATE_IMAGES}{site}").parse().map_err(Error::Repository)
}

#[cfg(test)]
mod tests;
