//! What is to be done for a run now: a function of the run and the time.

use std::time::Duration;

use jiff::Timestamp;

use crate::{OnCancel, OnFailure, Run, RunState, StepRecord, StepState};

/// Something an engine should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a step.
    Start(String),
    /// Begin to undo a step.
    Undo(String),
    /// Tell running steps to stop.
    Stop,
    /// Move the run.
    Move(RunState, Option<String>),
    /// Nothing before this time.
    Wait(Timestamp),
}

/// What is to be done now. Empty: nothing until a step ends or a person speaks.
#[must_use]
pub fn next(run: &Run, now: Timestamp) -> Vec<Action> {
    match run.state {
        RunState::Queued => vec![Action::Move(RunState::Running, None)],
        RunState::Running => forward(run, now),
        RunState::Cancelling if run.is_active() => vec![Action::Stop],
        RunState::Cancelling => vec![after_cancel(run)],
        RunState::Undoing => backward(run, now),
        _ => Vec::new(),
    }
}

fn forward(run: &Run, now: Timestamp) -> Vec<Action> {
    let failed = run.steps.iter().find(|step| step.state == StepState::Failed);
    if let Some(failed) = failed {
        // What runs beside the failed step is let to its end: it is not at fault, and stopping it could only lose work.
        return match run.is_active() {
            true => Vec::new(),
            false => vec![after_failure(run, failed)],
        };
    }
    if run.steps.iter().all(|step| step.state.is_done()) {
        return vec![Action::Move(RunState::Succeeded, None)];
    }
    let ready = run.steps.iter().filter(|step| may_start(run, step));
    due(run, ready, now, |name| Action::Start(name.to_owned()))
}

fn after_failure(run: &Run, failed: &StepRecord) -> Action {
    let reason = |failed: &StepRecord| {
        let what = failed.failure.as_ref().map_or("", |failure| failure.message.as_str());
        Some(format!("{}: {what}", failed.name))
    };
    // Of several that failed beside each other, one may ask it.
    let asks = |step: &&StepRecord| {
        step.state == StepState::Failed && step.failure.as_ref().is_some_and(|failure| failure.undo)
    };
    match (run.plan.on_failure, run.steps.iter().find(asks)) {
        (OnFailure::Undo, None) => Action::Move(RunState::Undoing, reason(failed)),
        (OnFailure::Hold, None) => Action::Move(RunState::Held, reason(failed)),
        (_, Some(asks)) => Action::Move(RunState::Undoing, reason(asks)),
    }
}

fn after_cancel(run: &Run) -> Action {
    match run.plan.on_cancel {
        OnCancel::Undo => Action::Move(RunState::Undoing, Some("cancelled".to_owned())),
        OnCancel::Leave => Action::Move(RunState::Cancelled, run.reason.clone()),
    }
}

fn may_start(run: &Run, step: &StepRecord) -> bool {
    let waits = matches!(step.state, StepState::Pending | StepState::Waiting);
    let let_go = !run.gated || step.released;
    let is_done = |name: &String| run.step(name).is_some_and(|before| before.state.is_done());
    waits && let_go && run.plan.step(&step.name).is_some_and(|plan| plan.after.iter().all(is_done))
}

/// Those whose time has come, or else when the first one's comes.
fn due<'a>(
    run: &Run,
    steps: impl Iterator<Item = &'a StepRecord>,
    now: Timestamp,
    act: impl Fn(&str) -> Action,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut first: Option<Timestamp> = None;
    for step in steps {
        match not_before(run, step, now) {
            Some(at) => first = Some(first.map_or(at, |first| first.min(at))),
            None => actions.push(act(&step.name)),
        }
    }
    actions.extend(first.map(Action::Wait));
    actions
}

/// The time before which a step is not tried again. One that is further away than the plan ever waits was written before the
/// clock was set back: it counts for nothing.
fn not_before(run: &Run, step: &StepRecord, now: Timestamp) -> Option<Timestamp> {
    let at = step.next_at.filter(|at| *at > now)?;
    let longest = Duration::from_millis(run.plan.step(&step.name)?.retry.longest_wait_ms());
    (at.duration_since(now).unsigned_abs() <= longest).then_some(at)
}

/// Whether something of a step may be left in the world.
fn has_traces(run: &Run, step: &StepRecord) -> bool {
    let has_undo = run.plan.step(&step.name).is_some_and(|plan| plan.has_undo);
    // A step that was begun may have acted, whatever it said in the end, and also where it was skipped after an attempt that
    // failed: its undo has to look. What was made before the run succeeded is in use: it stays.
    let begun = step.tries > step.delivered && step.state != StepState::Undone;
    has_undo && begun
}

fn backward(run: &Run, now: Timestamp) -> Vec<Action> {
    let left: Vec<&StepRecord> = run.steps.iter().filter(|step| has_traces(run, step)).collect();
    let is_free = |step: &&StepRecord| {
        let followers = run.plan.followers(&step.name);
        !left.iter().any(|other| followers.contains(&other.name))
    };
    let open = |step: &&StepRecord| !matches!(step.state, StepState::Undoing | StepState::UndoFailed);
    let ready = left.iter().copied().filter(is_free).filter(open);
    let actions = due(run, ready, now, |name| Action::Undo(name.to_owned()));
    match actions.is_empty() && !run.is_active() {
        true => vec![after_undo(run, &left)],
        false => actions,
    }
}

fn after_undo(run: &Run, left: &[&StepRecord]) -> Action {
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(|step| step.name.as_str()).collect();
        let reason = format!("not undone: {}", names.join(", "));
        return Action::Move(RunState::UndoFailed, Some(reason));
    }
    let has_failed = run.steps.iter().any(|step| step.failure.is_some());
    match has_failed && !run.cancelled {
        true => Action::Move(RunState::Failed, run.reason.clone()),
        false => Action::Move(RunState::Cancelled, run.reason.clone()),
    }
}
