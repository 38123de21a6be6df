//! Leftovers, as they are shown and asked for.

use jiff::Timestamp;
use leeward_runs::RunState;
use serde::{Deserialize, Serialize};

/// A thing that no run looks after any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// The provider's name of it.
    pub id: String,
    /// What it is: `volume`, `instance`, or `hold` of a snapshot.
    pub kind: &'static str,
    /// What people call it.
    pub name: String,
    /// The target in which it is; `[repository]` for a hold.
    pub target: String,
    /// Its state, in the provider's word.
    pub state: String,
    /// Its size in bytes, where it has one.
    pub bytes: Option<u64>,
    /// When it was made, where that is told.
    pub created: Option<Timestamp>,
    /// Seconds since then.
    pub age_seconds: Option<i64>,
    /// The run that its tag names.
    pub run: String,
    /// Where that run stands; absent where it is not known.
    pub run_state: Option<RunState>,
    /// The machines to which it is attached; absent where that was not asked, because there are many things.
    pub attached_to: Option<Vec<String>>,
    /// Why it is told of.
    pub why: String,
    /// Whether it is plainly the remains of a run that has ended: it can be removed with all of these, or by policy. Otherwise
    /// a person who knows what it is names it.
    pub removable: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// The things.
    pub leftovers: Vec<Leftover>,
    /// Targets that could not be asked, and why.
    pub problems: Vec<LeftoverProblem>,
}

/// A target that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftoverProblem {
    /// Which.
    pub target: String,
    /// Why.
    pub what: String,
}

/// What is to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Removal {
    /// These, by their names.
    pub ids: Vec<String>,
    /// All that are plainly the remains of runs that have ended.
    pub all_ended: bool,
    /// Only in this target.
    pub target: Option<String>,
}

/// What became of a thing that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its name.
    pub id: String,
    /// The target in which it is, or was.
    pub target: Option<String>,
    /// Whether its removal is begun.
    pub removed: bool,
    /// Why, or why not.
    pub what: String,
}
