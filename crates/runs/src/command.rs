//! What a person may ask of a run, and whether that is possible: functions of values.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Event, Result, Run, RunState, StepState};

/// What a person asks of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Do a step again and what comes after it; without a name, all that failed.
    Retry {
        /// Which step.
        #[serde(default)]
        step: Option<String>,
        /// Inputs to change: an object whose members replace those of the same name, and remove them where null.
        #[serde(default)]
        inputs: Option<Value>,
    },
    /// Go on as if a step were not needed.
    Skip {
        /// Which step.
        step: String,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Stop, and undo where the plan says so.
    Cancel,
    /// Undo what a held run has made, or try that again.
    Undo,
    /// Let a step of a gated run begin.
    Release {
        /// Which step.
        step: String,
    },
}

/// The events that a command leads to.
///
/// # Errors
/// [`Error::NotNow`] where the run or the step is in no state for it, [`Error::Invalid`] where the run has no such step or
/// the inputs are no object.
pub fn decide(run: &Run, command: &Command) -> Result<Vec<Event>> {
    match command {
        Command::Retry { step, inputs } => retry(run, step.as_deref(), inputs.as_ref()),
        Command::Skip { step, reason } => skip(run, step, reason.as_deref()),
        Command::Cancel => cancel(run),
        Command::Undo => undo(run),
        Command::Release { step } => release(run, step),
    }
}

fn not_now<T>(run: &Run, what: impl Into<String>) -> Result<T> {
    Err(Error::NotNow { run: run.id.clone(), what: what.into() })
}

fn known<'a>(run: &Run, step: &'a str) -> Result<&'a str> {
    match run.step(step) {
        Some(_) => Ok(step),
        None => Err(Error::NoStep { run: run.id.clone(), step: step.to_owned() }),
    }
}

fn moved(state: RunState) -> Event {
    Event::Moved { state, reason: None }
}

fn retry(run: &Run, step: Option<&str>, inputs: Option<&Value>) -> Result<Vec<Event>> {
    let is_open = matches!(run.state, RunState::Held | RunState::Succeeded);
    if run.gated && run.state == RunState::Running && !run.is_active() {
        // Who conducts a gated run may have a step done again while the run waits for the next release.
    } else if !is_open {
        return not_now(
            run,
            format!("it is {}; only a run that is held or has succeeded can be retried", run.state.name()),
        );
    }
    let mut events = Vec::new();
    if let Some(patch) = inputs {
        events.push(Event::Edited { inputs: patched(&run.inputs, patch)? });
    }
    let names = match step {
        Some(step) => {
            let mut names = run.plan.followers(known(run, step)?);
            names.insert(step.to_owned());
            names
        }
        None => failed_steps(run),
    };
    if names.is_empty() {
        return not_now(run, "no step of it has failed; name the step to do again");
    }
    // Only what was begun has anything to clear.
    let begun = |name: &String| run.step(name).is_some_and(|step| step.state != StepState::Pending);
    events.extend(names.into_iter().filter(begun).map(|step| Event::Cleared { step }));
    events.push(moved(RunState::Queued));
    Ok(events)
}

fn failed_steps(run: &Run) -> std::collections::BTreeSet<String> {
    let failed = run.steps.iter().filter(|step| step.state == StepState::Failed);
    failed.map(|step| step.name.clone()).collect()
}

fn patched(inputs: &Value, patch: &Value) -> Result<Value> {
    let Value::Object(patch) = patch else {
        return Err(Error::Invalid("inputs to change are no JSON object".to_owned()));
    };
    let mut result = inputs.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        match value {
            Value::Null => drop(result.remove(name)),
            value => drop(result.insert(name.clone(), value.clone())),
        }
    }
    Ok(Value::Object(result))
}

fn skip(run: &Run, step: &str, reason: Option<&str>) -> Result<Vec<Event>> {
    let known = known(run, step)?;
    if !run.plan.step(known).is_some_and(|plan| plan.may_skip) {
        return not_now(run, format!("step {step} cannot be skipped: what comes after needs it"));
    }
    let state = run.step(known).map(|step| step.state);
    if !matches!(state, Some(StepState::Pending | StepState::Waiting | StepState::Failed)) {
        return not_now(
            run,
            format!("step {step} is under way or over; only one that waits or failed can be skipped"),
        );
    }
    let reason = reason.unwrap_or("a person said so").to_owned();
    let mut events = vec![Event::Skipped { step: step.to_owned(), reason }];
    match run.state {
        RunState::Held => events.push(moved(RunState::Queued)),
        RunState::Queued | RunState::Running => {}
        other => return not_now(run, format!("it is {}", other.name())),
    }
    Ok(events)
}

fn cancel(run: &Run) -> Result<Vec<Event>> {
    match run.state {
        RunState::Queued | RunState::Running | RunState::Held => {
            Ok(vec![Event::Moved { state: RunState::Cancelling, reason: Some("cancelled".to_owned()) }])
        }
        other => not_now(run, format!("it is {}; there is nothing to cancel", other.name())),
    }
}

fn undo(run: &Run) -> Result<Vec<Event>> {
    match run.state {
        RunState::Held => Ok(vec![Event::Moved { state: RunState::Undoing, reason: run.reason.clone() }]),
        RunState::UndoFailed => {
            let stuck = run.steps.iter().filter(|step| step.state == StepState::UndoFailed);
            let mut events: Vec<_> = stuck
                .filter_map(|step| {
                    let failure = step.failure.clone()?;
                    Some(Event::UndoWillRetry { step: step.name.clone(), failure, at: run.created })
                })
                .collect();
            events.push(moved(RunState::Undoing));
            Ok(events)
        }
        other => not_now(run, format!("it is {}; a run is undone when it is held", other.name())),
    }
}

fn release(run: &Run, step: &str) -> Result<Vec<Event>> {
    let step = known(run, step)?;
    match run.gated && matches!(run.state, RunState::Queued | RunState::Running) {
        true => Ok(vec![Event::Released { step: step.to_owned() }]),
        false => not_now(run, "its steps do not wait to be released"),
    }
}
