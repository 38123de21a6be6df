//! What a state takes and gives, beside runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Event, RunId, RunState};

/// An engine's hold on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The run.
    pub run: RunId,
    /// The number of this claim among all on the run.
    pub fence: u64,
}

/// Who has a run, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Which engine.
    pub owner: String,
    /// Until when, by the state's clock.
    pub until: Timestamp,
}

/// What became of a new run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is kept.
    New,
    /// There is one with that key.
    Exists(RunId),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is kept.
    Done,
    /// Somebody else changed the run before.
    Changed,
    /// Another engine has the run.
    Fenced,
    /// There is no such run.
    Gone,
}

/// How far a step is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
    /// What it is about.
    pub note: String,
    /// When that was.
    pub at: Timestamp,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed.
    Error,
}

impl Level {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    pub(super) fn of(name: &str) -> Self {
        match name {
            "warning" => Self::Warning,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// A line for a step's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: String,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// A line of a step's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedLine {
    /// Its number; grows.
    pub number: u64,
    /// The step.
    pub step: String,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// Something that happened, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredEvent {
    /// Its number; grows.
    pub number: u64,
    /// The run.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Which runs a listing shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In one of these states; in any where empty.
    pub states: Vec<RunState>,
    /// With this text in the subject.
    pub text: Option<String>,
    /// Made before this one in a listing from new to old, after it otherwise.
    pub past: Option<RunId>,
    /// From which end.
    pub order: Order,
    /// The most entries; 100 where 0.
    pub most: usize,
}

/// From which end a listing begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest run first.
    #[default]
    NewestFirst,
    /// The oldest run first.
    OldestFirst,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    /// The runs.
    pub runs: Vec<Summary>,
    /// Where the next page begins: [`Filter::past`] for it; `None` at the end.
    pub next: Option<RunId>,
}

/// A run as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its name.
    pub id: RunId,
    /// What kind of work.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// Who began it.
    pub by: String,
    /// Where it stands.
    pub state: RunState,
    /// Why it stands there.
    pub reason: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Steps that are done or skipped.
    pub steps_done: u32,
    /// Steps in all.
    pub steps: u32,
}

impl Summary {
    /// What a listing shows of a run.
    #[must_use]
    pub fn of(run: &crate::Run) -> Self {
        let done = run.steps.iter().filter(|step| step.state.is_done()).count();
        Self {
            id: run.id.clone(),
            kind: run.plan.kind.clone(),
            subject: run.subject.clone(),
            by: run.by.clone(),
            state: run.state,
            reason: run.reason.clone(),
            created: run.created,
            finished: run.finished,
            steps_done: u32::try_from(done).unwrap_or(u32::MAX),
            steps: u32::try_from(run.steps.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Page {
    /// A page of at most `most` runs, of a list that has one more where there is another page.
    pub(super) fn cut(mut runs: Vec<Summary>, most: usize) -> Self {
        let is_more = runs.len() > most;
        runs.truncate(most);
        let next = runs.last().filter(|_| is_more).map(|run| run.id.clone());
        Self { runs, next }
    }
}
