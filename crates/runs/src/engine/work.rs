//! What an engine does with one run: one turn of reading, deciding, writing, doing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::held::{Held, Working};
use super::trouble::Work;
use super::{Message, TRIES, Worker};
use crate::state::{Claim, Level, LogLine, Replaced};
use crate::step::{Context, Fault, Outcome, Signal, Step, Stop, cut};
use crate::{Action, ErrorKind, Event, Failure, Result, Run, RunState, StepRecord, StepState, apply, next};

/// The longest outputs of a step, in bytes of JSON.
const OUTPUTS_BYTES_MAX: usize = 256 << 10;

/// What became of an attempt at a step.
pub(super) struct Finished {
    pub claim: Claim,
    pub step: String,
    pub try_number: u32,
    pub result: Result<Outcome, Fault>,
    /// Why it was told to stop, where it was.
    pub stop: Option<Stop>,
}

/// What one turn leads to.
struct Turn {
    run: Run,
    events: Vec<Event>,
    /// Steps to begin once the events are kept: name, and whether to undo.
    begin: Vec<(String, bool)>,
    stop: bool,
    due: Option<Timestamp>,
}

impl Worker {
    /// One turn for a run; false where the run is no longer this engine's.
    pub(super) fn advance_one(&mut self, held: &mut Held) -> bool {
        held.due = None;
        self.watch_deadlines(held);
        let work = Work::Run(held.claim.run.clone());
        for _ in 0..TRIES {
            let turn = match self.decide(held) {
                Ok(Some(turn)) => turn,
                Ok(None) => {
                    self.troubles.passed(&work);
                    return false;
                }
                Err(error) => {
                    self.troubles.met(work, &error);
                    if error.kind() == ErrorKind::Lasting {
                        self.leave_alone(held);
                        return false;
                    }
                    break;
                }
            };
            match self.keep(held, &turn) {
                Ok(Replaced::Done) => {
                    self.troubles.passed(&work);
                    self.log_failures(&turn);
                    return self.carry_out(held, turn);
                }
                Ok(Replaced::Changed) => {}
                Ok(Replaced::Fenced | Replaced::Gone) => {
                    self.troubles.passed(&work);
                    held.lose();
                    return false;
                }
                Err(error) => {
                    self.troubles.met(work, &error);
                    break;
                }
            }
        }
        held.due = Some(Instant::now() + self.options.poll);
        true
    }

    /// Writes down what steps have said, without beginning new ones.
    pub(super) fn write_results(&mut self, held: &mut Held) {
        for _ in 0..TRIES {
            match self.write_results_once(held) {
                Ok(Replaced::Changed) => {}
                Ok(_) => return,
                Err(error) => return self.troubles.met(Work::Run(held.claim.run.clone()), &error),
            }
        }
    }

    fn write_results_once(&self, held: &Held) -> Result<Replaced> {
        let Some((run, _)) = self.state.load(&held.claim.run)? else { return Ok(Replaced::Gone) };
        let now = self.state.now()?;
        let mut turn = Turn { run, events: Vec::new(), begin: Vec::new(), stop: false, due: None };
        turn.take_results(held, now);
        self.keep(held, &turn)
    }

    fn keep(&self, held: &Held, turn: &Turn) -> Result<Replaced> {
        match turn.events.is_empty() {
            true => Ok(Replaced::Done),
            false => self.state.replace(&turn.run, turn.run.sequence, Some(held.claim.fence), &turn.events),
        }
    }

    fn log_failures(&self, turn: &Turn) {
        let lines = failure_lines(&turn.run, &turn.events, Timestamp::now());
        if !lines.is_empty() {
            // The failures themselves are kept with the run.
            let _ = self.state.log(&lines);
        }
    }

    /// Reads the run and decides; `None` where it is somebody else's or has nothing more to do.
    fn decide(&self, held: &Held) -> Result<Option<Turn>> {
        let Some((run, _)) = self.state.load(&held.claim.run)? else { return Ok(None) };
        if run.fence != held.claim.fence || (!run.state.is_live() && held.results.is_empty()) {
            held.lose();
            return Ok(None);
        }
        let now = self.state.now()?;
        let mut turn = Turn { run, events: Vec::new(), begin: Vec::new(), stop: false, due: None };
        turn.adopt(held, now, self.options.interruptions);
        turn.take_results(held, now);
        let others: usize = self.held.values().map(|held| held.working.len()).sum();
        let free = self.options.steps.saturating_sub(others + held.working.len());
        turn.act(held, now, free);
        Ok(Some(turn))
    }

    fn carry_out(&mut self, held: &mut Held, turn: Turn) -> bool {
        held.results.clear();
        held.seen = Some(turn.run.sequence + u64::from(!turn.events.is_empty()));
        if turn.stop {
            held.stop_all(Stop::Cancelled);
        }
        let begun_none = turn.begin.is_empty();
        for (step, is_undo) in &turn.begin {
            self.begin(held, &turn.run, step, *is_undo);
        }
        if !turn.run.state.is_live() {
            return false;
        }
        let due = turn.due.map(|at| self.instant_of(at));
        let watch = held.working.values().filter_map(|working| match working.stopped {
            Some(stopped) => Some(stopped + self.options.patience),
            None => working.deadline,
        });
        held.due = due.into_iter().chain(watch).min();
        // Moving the run is a turn of its own, and so is what was left because all threads were busy.
        if (begun_none && !turn.events.is_empty()) || !held.results.is_empty() {
            held.due = Some(Instant::now());
        }
        true
    }

    fn instant_of(&self, at: Timestamp) -> Instant {
        let now = self.state.now().unwrap_or_else(|_| Timestamp::now());
        let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        Instant::now() + wait
    }

    fn watch_deadlines(&self, held: &mut Held) {
        let now = Instant::now();
        let mut given_up = Vec::new();
        for (step, working) in &mut held.working {
            if working.deadline.is_some_and(|deadline| deadline <= now) {
                working.signal.set(Stop::Deadline);
                working.stopped.get_or_insert(now);
            }
            if working.stopped.is_some_and(|stopped| stopped + self.options.patience <= now) {
                given_up.push((step.clone(), working.try_number, working.signal.get()));
            }
        }
        for (step, try_number, stop) in given_up {
            let failure = Fault::lasting(
                format!("did not stop within {} s and was given up", self.options.patience.as_secs()),
                "see the step's log; something it waits for does not answer",
            );
            let claim = held.claim.clone();
            held.settle(Finished { claim, step, try_number, result: Err(failure), stop });
        }
    }

    fn begin(&self, held: &mut Held, run: &Run, step: &str, is_undo: bool) {
        let signal = Arc::new(Signal::new(Arc::clone(&held.lease)));
        let try_number = run.step(step).map_or(0, |record| record.tries);
        let deadline = if is_undo { time_to_undo(run, step) } else { self.deadline_of(run, step) };
        held.working.insert(
            step.to_owned(),
            Working { try_number, signal: Arc::clone(&signal), deadline, stopped: None },
        );
        let code = self.kinds.get(&run.plan.kind).and_then(|kind| kind.step(run.plan.version, step));
        let context =
            Context::new(run.clone(), step, held.claim.clone(), Arc::clone(&self.state), Arc::clone(&signal));
        let claim = held.claim.clone();
        let sender = self.sender.clone();
        let name = step.to_owned();
        let work = move || {
            let result = perform(code.as_deref(), &context, is_undo);
            let finished = Finished { claim, step: name, try_number, result, stop: signal.get() };
            // An engine that has ended needs no result: the next one finds the step begun and does it again.
            let _ = sender.send(Message::Finished(finished));
        };
        if let Err(error) = std::thread::Builder::new().name(format!("step {step}")).spawn(work) {
            let fault = Fault::passing(format!("no thread for the step: {error}"), "it is tried again");
            let claim = held.claim.clone();
            let step = step.to_owned();
            held.settle(Finished { claim, step, try_number, result: Err(fault), stop: None });
        }
    }

    fn deadline_of(&self, run: &Run, step: &str) -> Option<Instant> {
        let seconds = run.plan.step(step)?.deadline_seconds?;
        let started = run.step(step)?.started?;
        let end = started.checked_add(jiff::SignedDuration::from_secs(i64::try_from(seconds).ok()?)).ok()?;
        Some(self.instant_of(end))
    }
}

/// Each attempt at undoing has the time that the step had.
fn time_to_undo(run: &Run, step: &str) -> Option<Instant> {
    let seconds = run.plan.step(step)?.deadline_seconds?;
    Instant::now().checked_add(Duration::from_secs(seconds))
}

/// Calls the step's code, and makes a failure of whatever may go wrong in it.
fn perform(code: Option<&dyn Step>, context: &Context, is_undo: bool) -> Result<Outcome, Fault> {
    let Some(code) = code else {
        let plan = &context.run().plan;
        return Err(Fault::lasting(
            format!(
                "this release does not know step {} of {} version {}",
                context.step(),
                plan.kind,
                plan.version
            ),
            "finish the run with the release that began it, or cancel it and begin a new one",
        ));
    };
    let call = || match is_undo {
        true => code.undo(context).map(|()| Outcome::Done(serde_json::Value::Null)),
        false => code.act(context),
    };
    let result = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Fault::lasting("the step crashed", "see the daemon's log, and report this")));
    bounded(result)
}

/// What a step says is kept in the run's document, which is read and written at each change.
fn bounded(result: Result<Outcome, Fault>) -> Result<Outcome, Fault> {
    match result {
        Ok(Outcome::Done(outputs)) if outputs.to_string().len() > OUTPUTS_BYTES_MAX => Err(Fault::lasting(
            format!("the step's outputs are longer than {OUTPUTS_BYTES_MAX} bytes"),
            "report this: what is long belongs into a checkpoint or the log",
        )),
        Err(Fault::Failed(failure)) => Err(Fault::Failed(Failure {
            message: cut(&failure.message).to_owned(),
            hint: cut(&failure.hint).to_owned(),
            ..failure
        })),
        other => other,
    }
}

impl Turn {
    fn add(&mut self, event: Event, now: Timestamp) {
        apply(&mut self.run, &event, now);
        self.events.push(event);
    }

    /// Steps that were begun and are in nobody's hands are to be begun again.
    fn adopt(&mut self, held: &Held, now: Timestamp, most: u32) {
        let lost = |step: &&StepRecord| step.state.is_active() && !held.has(step);
        let lost: Vec<_> = self.run.steps.iter().filter(lost).cloned().collect();
        for step in lost {
            self.add(Event::Interrupted { step: step.name.clone(), lost: true }, now);
            if step.interruptions >= most {
                let failure = Failure {
                    message: format!("lost its engine {} times", step.interruptions + 1),
                    hint: "the step may be what ends the daemon: see the daemon's log before you retry it"
                        .to_owned(),
                    passing: false,
                    undo: false,
                };
                let step_name = step.name;
                let event = match step.state {
                    StepState::Undoing => Event::UndoFailed { step: step_name, failure },
                    _ => Event::Failed { step: step_name, failure },
                };
                self.add(event, now);
            }
        }
    }

    fn take_results(&mut self, held: &Held, now: Timestamp) {
        for finished in &held.results {
            let is_present = self
                .run
                .step(&finished.step)
                .is_some_and(|step| step.tries == finished.try_number && step.state.is_active());
            if is_present && let Some(event) = self.event_of(finished, now) {
                self.add(event, now);
            }
        }
    }

    fn event_of(&self, finished: &Finished, now: Timestamp) -> Option<Event> {
        let step = finished.step.clone();
        let is_undo = self.run.step(&step).is_some_and(|record| record.state == StepState::Undoing);
        Some(match (&finished.result, finished.stop) {
            (Ok(_), _) if is_undo => Event::Undone { step },
            (Ok(Outcome::Done(outputs)), _) => Event::Succeeded { step, outputs: outputs.clone() },
            (Ok(Outcome::Skipped(reason)), _) => Event::Skipped { step, reason: reason.clone() },
            (Err(Fault::Failed(failure)), _) => self.failed(step, failure.clone(), is_undo, now),
            (Err(Fault::Stopped), Some(Stop::Deadline)) => {
                let failure = Failure {
                    message: "its time was over".to_owned(),
                    hint: "see the step's log for what it waited for; retrying it gives it its time again"
                        .to_owned(),
                    passing: is_undo,
                    undo: false,
                };
                self.failed(step, failure, is_undo, now)
            }
            // Cancelled, or handed on by an engine that ends: begun, not done.
            (Err(Fault::Stopped), _) => Event::Interrupted { step, lost: false },
        })
    }

    fn failed(&self, step: String, failure: Failure, is_undo: bool, now: Timestamp) -> Event {
        let plan = self.run.plan.step(&step);
        let record = self.run.step(&step);
        let retry = plan.map(|plan| plan.retry.clone()).unwrap_or_default();
        let attempt = record.map_or(0, |record| if is_undo { record.undo_attempts } else { record.attempts });
        let overdue = !is_undo && self.is_overdue(&step, now);
        let again = failure.passing && attempt < retry.attempts && !overdue;
        let at = now + Duration::from_millis(retry.wait_ms(attempt, chance(now)));
        match (again, is_undo) {
            (true, false) => Event::WillRetry { step, failure, at },
            (true, true) => Event::UndoWillRetry { step, failure, at },
            (false, false) => Event::Failed { step, failure },
            (false, true) => Event::UndoFailed { step, failure },
        }
    }

    fn is_overdue(&self, step: &str, now: Timestamp) -> bool {
        let seconds = self.run.plan.step(step).and_then(|plan| plan.deadline_seconds);
        let started = self.run.step(step).and_then(|record| record.started);
        match (seconds, started) {
            (Some(seconds), Some(started)) => now.duration_since(started).as_secs().unsigned_abs() >= seconds,
            _ => false,
        }
    }

    /// Adds what is next. A move of the run leads to more: that is kept in the same change.
    fn act(&mut self, held: &Held, now: Timestamp, free: usize) {
        while self.act_once(held, now, free) {}
    }

    /// Returns whether the run was moved. Moves lead forward only, so there is an end to them.
    fn act_once(&mut self, held: &Held, now: Timestamp, free: usize) -> bool {
        let state = self.run.state;
        for action in next(&self.run, now) {
            match action {
                Action::Start(_) | Action::Undo(_) if self.begin.len() >= free => {
                    let soon = now + Duration::from_millis(200);
                    self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
                }
                Action::Start(step) if !held.working.contains_key(&step) => {
                    self.add(Event::Started { step: step.clone() }, now);
                    self.begin.push((step, false));
                }
                Action::Undo(step) if !held.working.contains_key(&step) => {
                    self.add(Event::UndoStarted { step: step.clone() }, now);
                    self.begin.push((step, true));
                }
                Action::Start(_) | Action::Undo(_) => {}
                Action::Stop => self.stop = true,
                Action::Move(state, reason) => {
                    let reason =
                        reason.or_else(|| self.run.reason.clone().filter(|_| state == RunState::Cancelled));
                    self.add(Worker::move_event(state, reason), now);
                }
                Action::Wait(at) => self.due = Some(self.due.map_or(at, |due| due.min(at))),
            }
        }
        self.run.state != state
    }
}

/// A number that differs from moment to moment: enough to keep many runs from trying again at once.
fn chance(now: Timestamp) -> u8 {
    (now.as_nanosecond() / 1_000 % 256) as u8
}

/// The lines of the log that tell of failures, so that a person finds them where the step's own words are.
fn failure_lines(run: &Run, events: &[Event], at: Timestamp) -> Vec<LogLine> {
    let line = |event: &Event| {
        let (step, failure, level, then) = match event {
            Event::WillRetry { step, failure, at } => {
                (step, failure, Level::Warning, format!("trying again at {at:.0}"))
            }
            Event::UndoWillRetry { step, failure, at } => {
                (step, failure, Level::Warning, format!("trying to undo it again at {at:.0}"))
            }
            Event::Failed { step, failure } => (step, failure, Level::Error, failure.hint.clone()),
            Event::UndoFailed { step, failure } => (step, failure, Level::Error, failure.hint.clone()),
            _ => return None,
        };
        let text = format!("{} — {then}", failure.message);
        Some(LogLine { run: run.id.clone(), step: step.clone(), at, level, text })
    };
    events.iter().filter_map(line).collect()
}

#[cfg(test)]
mod simulation;
