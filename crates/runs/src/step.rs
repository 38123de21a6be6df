//! What a kind of run gives to the engine: the code of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::state::{Claim, Level, LogLine, Progress, State};
use crate::{Failure, Result, Run, RunId};

/// The longest line of a log, in bytes; what is longer is cut.
const LINE_BYTES_MAX: usize = 4 << 10;
/// The most lines that one attempt may write.
const LINES_MAX: u64 = 20_000;
/// How often progress is written down at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// A kind of run: which code executes the steps of its plans.
pub trait Kind: Send + Sync {
    /// Its name, as in [`crate::Plan::kind`].
    fn name(&self) -> &str;

    /// The code of a step, of that version of the kind's plans; `None` where this release no longer knows it.
    fn step(&self, version: u32, name: &str) -> Option<Arc<dyn Step>>;
}

/// The code of a step. It may be called again after a process died at any point of an earlier call: it must then find what
/// that one made and go on from there.
pub trait Step: Send + Sync {
    /// Does the step.
    ///
    /// # Errors
    /// A [`Fault`], which says whether trying again may help.
    fn act(&self, context: &Context) -> Result<Outcome, Fault>;

    /// Undoes what any attempts at the step have made, also those that did not end.
    ///
    /// # Errors
    /// A [`Fault`]; one that is lasting leaves the step in `undo-failed` with its message, which therefore says what is left.
    fn undo(&self, context: &Context) -> Result<(), Fault> {
        let _ = context;
        Ok(())
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done; with what it found or made.
    Done(Value),
    /// Not needed; with the reason.
    Skipped(String),
}

impl Outcome {
    /// Done, with outputs for the steps after it.
    ///
    /// # Errors
    /// The outputs cannot be written as JSON.
    pub fn done(outputs: &impl Serialize) -> Result<Self, Fault> {
        serde_json::to_value(outputs)
            .map(Self::Done)
            .map_err(|error| Fault::lasting(format!("outputs cannot be kept: {error}"), "report this"))
    }
}

/// Why a step did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It failed.
    Failed(Failure),
    /// It was told to stop, and did.
    Stopped,
}

impl Fault {
    /// A failure that may pass by itself.
    #[must_use]
    pub fn passing(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed(Failure { message: message.into(), hint: hint.into(), passing: true, undo: false })
    }

    /// A failure that will be the same the next time.
    #[must_use]
    pub fn lasting(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed(Failure { message: message.into(), hint: hint.into(), passing: false, undo: false })
    }

    /// The same failure, after which what the run has made is undone instead of being held for a person.
    #[must_use]
    pub fn and_undo(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(Failure { undo: true, ..failure }),
            stopped => stopped,
        }
    }
}

impl From<crate::Error> for Fault {
    fn from(error: crate::Error) -> Self {
        let hint = "see that the daemon's database can be written";
        match error.kind() {
            crate::ErrorKind::Passing => Self::passing(error.to_string(), hint),
            _ => Self::lasting(error.to_string(), hint),
        }
    }
}

/// Why a step has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stop {
    /// A person cancelled the run.
    Cancelled = 1,
    /// Its time is over.
    Deadline = 2,
    /// Another engine has the run, or this one ends.
    Lost = 3,
}

/// Until when an engine's hold on a run is sure. A process that was paused learns from it, before anybody tells it, that
/// another engine may have its runs.
#[derive(Debug)]
pub(crate) struct LeaseEnd {
    base: Instant,
    until_ms: AtomicU64,
}

impl LeaseEnd {
    /// Ends one length from `asked`: the moment before the state was asked for the lease.
    pub(crate) fn new(asked: Instant, length: Duration) -> Self {
        let lease = Self { base: asked, until_ms: AtomicU64::new(0) };
        lease.prolong(asked, length);
        lease
    }

    pub(crate) fn prolong(&self, asked: Instant, length: Duration) {
        let until = asked.saturating_duration_since(self.base).saturating_add(length);
        self.until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.base.elapsed().as_millis() > u128::from(self.until_ms.load(Ordering::Acquire))
    }
}

/// Tells a step to stop.
#[derive(Debug)]
pub(crate) struct Signal {
    stop: AtomicU8,
    lease: Arc<LeaseEnd>,
}

impl Signal {
    pub(crate) fn new(lease: Arc<LeaseEnd>) -> Self {
        Self { stop: AtomicU8::new(0), lease }
    }

    pub(crate) fn set(&self, stop: Stop) {
        // The first reason stays.
        let _ = self.stop.compare_exchange(0, stop as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Why it has to stop. What is asked here decides what the step may still do to the world, so the time counts as well.
    pub(crate) fn ask(&self) -> Option<Stop> {
        if self.lease.is_over() {
            self.set(Stop::Lost);
        }
        self.get()
    }

    /// Why it was told to stop.
    pub(crate) fn get(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::Deadline),
            3 => Some(Stop::Lost),
            _ => None,
        }
    }
}

/// What a step knows of its run, and how it speaks.
pub struct Context {
    run: Run,
    step: String,
    claim: Claim,
    state: Arc<dyn State>,
    signal: Arc<Signal>,
    lines: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Context {
    pub(crate) fn new(
        run: Run,
        step: &str,
        claim: Claim,
        state: Arc<dyn State>,
        signal: Arc<Signal>,
    ) -> Self {
        let step = step.to_owned();
        Self { run, step, claim, state, signal, lines: AtomicU64::new(0), told: Mutex::new(None) }
    }

    /// The run's name.
    #[must_use]
    pub fn run_id(&self) -> &RunId {
        &self.run.id
    }

    /// The run as it was when the step began.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The step's name.
    #[must_use]
    pub fn step(&self) -> &str {
        &self.step
    }

    /// A key for what the step makes elsewhere, the same for every attempt: at most 64 characters where the step's name has
    /// at most 34, letters, digits, `-` and `_`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("lw-{}-{}", self.run.id, self.step)
    }

    /// The inputs of the run.
    ///
    /// # Errors
    /// They are not of that form.
    pub fn inputs<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        T::deserialize(&self.run.inputs).map_err(|error| {
            Fault::lasting(format!("the inputs make no sense: {error}"), "edit the inputs and retry the step")
        })
    }

    /// What another step has found or made; `None` where it was skipped or has not ended.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, Fault> {
        let Some(record) = self.run.step(step).filter(|record| !record.outputs.is_null()) else {
            return Ok(None);
        };
        T::deserialize(&record.outputs).map(Some).map_err(|error| {
            Fault::lasting(
                format!("what step {step} left makes no sense: {error}"),
                "retry that step; it may have been written by another release",
            )
        })
    }

    /// The same, of a step that must have left something.
    ///
    /// # Errors
    /// It is not there or not of that form.
    pub fn needed<T: DeserializeOwned>(&self, step: &str) -> Result<T, Fault> {
        self.output(step)?.ok_or_else(|| {
            Fault::lasting(
                format!("step {step} left nothing"),
                format!("retry {step}: this step needs what it finds"),
            )
        })
    }

    /// Whether to stop now. Steps ask often: between requests, between pieces of data.
    ///
    /// # Errors
    /// [`Fault::Stopped`].
    pub fn check(&self) -> Result<(), Fault> {
        match self.is_stopped() {
            true => Err(Fault::Stopped),
            false => Ok(()),
        }
    }

    /// Whether to stop now.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.signal.ask().is_some()
    }

    /// Waits, but not longer than until the step has to stop.
    ///
    /// # Errors
    /// [`Fault::Stopped`].
    pub fn wait(&self, time: Duration) -> Result<(), Fault> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Writes a line of the step's log. A log that cannot be written does not fail a step.
    pub fn log(&self, level: Level, text: &str) {
        let mut texts = Vec::new();
        for text in text.lines() {
            match self.lines.fetch_add(1, Ordering::Relaxed) {
                number if number < LINES_MAX => texts.push(text),
                LINES_MAX => texts.push("more lines are not kept"),
                _ => break,
            }
        }
        if texts.is_empty() {
            return;
        }
        let at = self.state.now().unwrap_or_else(|_| Timestamp::now());
        let line = |text: &str| LogLine {
            run: self.run.id.clone(),
            step: self.step.clone(),
            at,
            level,
            text: cut(text).to_owned(),
        };
        let lines: Vec<_> = texts.into_iter().map(line).collect();
        let _ = self.state.log(&lines);
    }

    /// Writes a line of information.
    pub fn say(&self, text: impl AsRef<str>) {
        self.log(Level::Info, text.as_ref());
    }

    /// Says how far the step is. Cheap to call often: it is written down twice a second, and always at the end.
    pub fn progress(&self, done: u64, total: Option<u64>, note: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_end = total == Some(done);
        if !is_end && told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        *told = Some(Instant::now());
        let at = self.state.now().unwrap_or_else(|_| Timestamp::now());
        let progress = Progress { done, total, note: note.to_owned(), at };
        // What is lost here is told again half a second later.
        let _ = self.state.set_progress(&self.run.id, &self.step, &progress);
    }

    /// Keeps something for the next attempt at this step; it is on disk when this returns.
    ///
    /// # Errors
    /// The state failed, or another engine has the run now.
    pub fn keep(&self, checkpoint: &impl Serialize) -> Result<(), Fault> {
        let value = serde_json::to_value(checkpoint).map_err(|error| {
            Fault::lasting(format!("a checkpoint cannot be kept: {error}"), "report this")
        })?;
        match self.state.set_checkpoint(&self.claim, &self.step, &value)? {
            true => Ok(()),
            false => {
                self.signal.set(Stop::Lost);
                Err(Fault::Stopped)
            }
        }
    }

    /// What an earlier attempt kept. One that is of another form is as good as none: it was another release's.
    ///
    /// # Errors
    /// The state failed.
    pub fn kept<T: DeserializeOwned>(&self) -> Result<Option<T>, Fault> {
        self.kept_by(&self.step)
    }

    /// What another step kept.
    ///
    /// # Errors
    /// The state failed.
    pub fn kept_by<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, Fault> {
        let value = self.state.checkpoint(&self.run.id, step)?;
        Ok(value.and_then(|value| T::deserialize(value).ok()))
    }
}

pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
