//! On what occasions people are told something.

use leeward_runs::RunState;
use serde::{Deserialize, Serialize};

/// Something that people may want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A run failed, and what it had made is undone.
    Failed,
    /// A run waits for a person.
    Held,
    /// What a run made could not be undone.
    UndoFailed,
    /// A run succeeded.
    Succeeded,
    /// A person cancelled a run, and that is done.
    Cancelled,
    /// A time of a schedule passed without its run.
    Missed,
    /// Something keeps the daemon from its work, or does so no more.
    Trouble,
}

impl Occasion {
    /// Those that nobody wants.
    pub const UNWANTED: [Self; 5] = [Self::Failed, Self::Held, Self::UndoFailed, Self::Missed, Self::Trouble];

    /// Its name, as in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Held => "held",
            Self::UndoFailed => "undo-failed",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Missed => "missed",
            Self::Trouble => "trouble",
        }
    }

    /// That of a run which has come to a state.
    pub(super) fn of(state: RunState) -> Option<Self> {
        match state {
            RunState::Failed => Some(Self::Failed),
            RunState::Held => Some(Self::Held),
            RunState::UndoFailed => Some(Self::UndoFailed),
            RunState::Succeeded => Some(Self::Succeeded),
            RunState::Cancelled => Some(Self::Cancelled),
            RunState::Queued | RunState::Running | RunState::Cancelling | RunState::Undoing => None,
        }
    }
}
