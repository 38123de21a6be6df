//! What happens to a run, and what it makes of it: the one place where a run changes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Failure, Run, RunState, StepRecord, StepState};

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// It was made.
    Created,
    /// An engine has it now.
    Claimed {
        /// Which.
        owner: String,
    },
    /// A step is about to act.
    Started {
        /// Which.
        step: String,
    },
    /// The engine that was at a step went away, or told it to stop.
    Interrupted {
        /// Which.
        step: String,
        /// Whether the engine was lost: killed, or cut off for longer than its lease. One that ends well hands its steps on.
        #[serde(default)]
        lost: bool,
    },
    /// A step ended well.
    Succeeded {
        /// Which.
        step: String,
        /// What it found or made.
        outputs: Value,
    },
    /// A step was not needed, or a person said so.
    Skipped {
        /// Which.
        step: String,
        /// Why.
        reason: String,
    },
    /// A step failed and will be tried again.
    WillRetry {
        /// Which.
        step: String,
        /// Why.
        failure: Failure,
        /// When.
        at: Timestamp,
    },
    /// A step failed for good.
    Failed {
        /// Which.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// A person lets a step begin.
    Released {
        /// Which.
        step: String,
    },
    /// A step is to be done anew.
    Cleared {
        /// Which.
        step: String,
    },
    /// The inputs were changed.
    Edited {
        /// What they are now.
        inputs: Value,
    },
    /// Undoing a step begins.
    UndoStarted {
        /// Which.
        step: String,
    },
    /// A step is undone.
    Undone {
        /// Which.
        step: String,
    },
    /// Undoing failed and will be tried again.
    UndoWillRetry {
        /// Which.
        step: String,
        /// Why.
        failure: Failure,
        /// When.
        at: Timestamp,
    },
    /// Undoing failed for good.
    UndoFailed {
        /// Which.
        step: String,
        /// Why, and what is left.
        failure: Failure,
    },
    /// The run stands elsewhere now.
    Moved {
        /// Where.
        state: RunState,
        /// Why.
        reason: Option<String>,
    },
}

impl Event {
    /// The step that it is about.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Created | Self::Claimed { .. } | Self::Edited { .. } | Self::Moved { .. } => None,
            Self::Started { step }
            | Self::Interrupted { step, .. }
            | Self::Succeeded { step, .. }
            | Self::Skipped { step, .. }
            | Self::WillRetry { step, .. }
            | Self::Failed { step, .. }
            | Self::Released { step }
            | Self::Cleared { step }
            | Self::UndoStarted { step }
            | Self::Undone { step }
            | Self::UndoWillRetry { step, .. }
            | Self::UndoFailed { step, .. } => Some(step),
        }
    }
}

/// Makes of a run what an event makes of it. Events about steps that the run does not have change nothing.
pub fn apply(run: &mut Run, event: &Event, now: Timestamp) {
    if let Some(step) = event.step().and_then(|name| run.steps.iter_mut().find(|step| step.name == name)) {
        apply_to_step(step, event, now);
    }
    match event {
        Event::Edited { inputs } => run.inputs.clone_from(inputs),
        Event::Moved { state, reason } => {
            run.state = *state;
            run.reason.clone_from(reason);
            run.cancelled |= *state == RunState::Cancelling;
            if *state == RunState::Succeeded {
                run.steps.iter_mut().for_each(|step| step.delivered = step.tries);
            }
            run.finished = (state.is_final() || *state == RunState::UndoFailed).then_some(now);
        }
        _ => {}
    }
}

fn apply_to_step(step: &mut StepRecord, event: &Event, now: Timestamp) {
    match event {
        Event::Started { .. } => {
            step.state = StepState::Running;
            step.attempts += 1;
            step.tries += 1;
            step.started.get_or_insert(now);
            step.next_at = None;
            step.failure = None;
        }
        Event::Interrupted { lost, .. } if step.state == StepState::Undoing => {
            step.state = StepState::UndoWaiting;
            step.next_at = None;
            step.undo_attempts = step.undo_attempts.saturating_sub(1);
            step.interruptions += u32::from(*lost);
        }
        Event::Interrupted { lost, .. } => {
            step.state = StepState::Pending;
            step.attempts = step.attempts.saturating_sub(1);
            step.interruptions += u32::from(*lost);
        }
        Event::Succeeded { outputs, .. } => {
            step.outputs.clone_from(outputs);
            step.failure = None;
            end(step, StepState::Succeeded, now);
        }
        Event::Skipped { reason, .. } => {
            step.skipped = Some(reason.clone());
            step.failure = None;
            end(step, StepState::Skipped, now);
        }
        Event::WillRetry { failure, at, .. } => wait(step, StepState::Waiting, failure, *at),
        Event::Failed { failure, .. } => {
            step.failure = Some(failure.clone());
            end(step, StepState::Failed, now);
        }
        Event::Released { .. } => step.released = true,
        Event::Cleared { .. } => {
            *step =
                StepRecord { tries: step.tries, delivered: step.delivered, ..StepRecord::new(&step.name) };
        }
        Event::UndoStarted { .. } => {
            step.state = StepState::Undoing;
            step.undo_attempts += 1;
            step.tries += 1;
            step.next_at = None;
        }
        Event::Undone { .. } => end(step, StepState::Undone, now),
        Event::UndoWillRetry { failure, at, .. } if step.state == StepState::UndoFailed => {
            // A person has it undone again: with all its attempts.
            step.undo_attempts = 0;
            step.interruptions = 0;
            wait(step, StepState::UndoWaiting, failure, *at);
        }
        Event::UndoWillRetry { failure, at, .. } => wait(step, StepState::UndoWaiting, failure, *at),
        Event::UndoFailed { failure, .. } => {
            step.failure = Some(failure.clone());
            end(step, StepState::UndoFailed, now);
        }
        Event::Created | Event::Claimed { .. } | Event::Edited { .. } | Event::Moved { .. } => {}
    }
}

fn end(step: &mut StepRecord, state: StepState, now: Timestamp) {
    step.state = state;
    step.finished = Some(now);
    step.next_at = None;
}

fn wait(step: &mut StepRecord, state: StepState, failure: &Failure, at: Timestamp) {
    step.state = state;
    step.failure = Some(failure.clone());
    step.next_at = Some(at);
}
