//! A run: the document that is stored.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Plan, RunId};

/// One execution of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// What it is about, for people: an object, an image.
    pub subject: String,
    /// What is executed.
    pub plan: Plan,
    /// What it was given.
    pub inputs: Value,
    /// Facts for finding it again, as `cause` and `site`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Who began it.
    pub by: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// Where it stands.
    pub state: RunState,
    /// Why it stands there, where that is not plain.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether a person has cancelled it.
    #[serde(default)]
    pub cancelled: bool,
    /// Whether each step waits until it is released by name: for runs that somebody else conducts.
    #[serde(default)]
    pub gated: bool,
    /// The steps, as the plan has them.
    pub steps: Vec<StepRecord>,
    /// Counts the engines that have held it; results of an earlier one are refused.
    #[serde(default)]
    pub fence: u64,
    /// Counts its changes.
    #[serde(default)]
    pub sequence: u64,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Waits for an engine, or for a place in a pool.
    Queued,
    /// An engine has it.
    Running,
    /// A step failed; a person has to say what next.
    Held,
    /// Running steps are being stopped.
    Cancelling,
    /// What was made is being undone.
    Undoing,
    /// All steps ended well or were skipped.
    Succeeded,
    /// A step failed and what was made is undone.
    Failed,
    /// A person cancelled it.
    Cancelled,
    /// Something that was made could not be undone; the steps say what.
    UndoFailed,
}

impl RunState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::Held,
        Self::Cancelling,
        Self::Undoing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::UndoFailed,
    ];

    /// Its name, as in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Held => "held",
            Self::Cancelling => "cancelling",
            Self::Undoing => "undoing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::UndoFailed => "undo-failed",
        }
    }

    /// Whether an engine has something to do for it.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Queued | Self::Running | Self::Cancelling | Self::Undoing)
    }

    /// Whether an engine takes back what was made: such a run waits for no place in a pool.
    #[must_use]
    pub fn is_cleaning(self) -> bool {
        matches!(self, Self::Cancelling | Self::Undoing)
    }

    /// Whether nothing will happen to it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl std::str::FromStr for RunState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.name()).collect();
            format!("{text:?} is no state of a run: use one of {}", names.join(", "))
        })
    }
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: StepState,
    /// Attempts begun since it was last set back to pending by a person.
    #[serde(default)]
    pub attempts: u32,
    /// Attempts begun in all; tells the result of one attempt from that of another.
    #[serde(default)]
    pub tries: u32,
    /// Attempts begun in all when the run last succeeded: what these made is the run's result, and no longer undone with it.
    #[serde(default)]
    pub delivered: u32,
    /// Attempts whose engine was lost; those that were handed on do not count.
    #[serde(default)]
    pub interruptions: u32,
    /// Attempts at undoing.
    #[serde(default)]
    pub undo_attempts: u32,
    /// When the first attempt of these began.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub finished: Option<Timestamp>,
    /// When it is tried again.
    #[serde(default)]
    pub next_at: Option<Timestamp>,
    /// What it found or made, for the steps after it.
    #[serde(default)]
    pub outputs: Value,
    /// Why it failed, or why it will be tried again.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Why it was skipped.
    #[serde(default)]
    pub skipped: Option<String>,
    /// Whether it may begin, in a gated run.
    #[serde(default)]
    pub released: bool,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Not begun, or to be begun again.
    Pending,
    /// Under way.
    Running,
    /// Failed in a way that may pass; waits to be tried again.
    Waiting,
    /// Done.
    Succeeded,
    /// Not needed.
    Skipped,
    /// Failed for good.
    Failed,
    /// Being undone.
    Undoing,
    /// Undoing failed in a way that may pass.
    UndoWaiting,
    /// Undone.
    Undone,
    /// Could not be undone.
    UndoFailed,
}

impl StepState {
    /// Whether the steps after it may begin.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped)
    }

    /// Whether a thread is at it.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Undoing)
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, where.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// Whether trying again may help.
    pub passing: bool,
    /// Whether what the run has made is undone because of it, whatever the plan says of failures.
    #[serde(default)]
    pub undo: bool,
}

impl StepRecord {
    /// A step that has not begun.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: StepState::Pending,
            attempts: 0,
            tries: 0,
            delivered: 0,
            interruptions: 0,
            undo_attempts: 0,
            started: None,
            finished: None,
            next_at: None,
            outputs: Value::Null,
            failure: None,
            skipped: None,
            released: false,
        }
    }
}

impl Run {
    /// A run that has not begun.
    #[must_use]
    pub fn new(id: RunId, subject: &str, plan: Plan, inputs: Value, by: &str, now: Timestamp) -> Self {
        let steps = plan.steps.iter().map(|step| StepRecord::new(&step.name)).collect();
        Self {
            id,
            subject: subject.to_owned(),
            plan,
            inputs,
            labels: BTreeMap::new(),
            by: by.to_owned(),
            created: now,
            finished: None,
            state: RunState::Queued,
            reason: None,
            cancelled: false,
            gated: false,
            steps,
            fence: 0,
            sequence: 0,
        }
    }

    /// A step by its name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Whether a thread is at one of its steps.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.steps.iter().any(|step| step.state.is_active())
    }
}
