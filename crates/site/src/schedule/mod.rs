//! Schedules: runs that are begun by the clock.
//!
//! What is due is decided from values ([`when`]); a run is begun under a key of its schedule and slot, so that two daemons
//! that share a state, and one that died in the middle, begin one. Times are those of the state's clock.

mod book;
mod job;
mod when;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_runs::engine::Runs;
use leeward_runs::state::{Filter, Inserted};
use leeward_runs::{Run, RunId, RunState, StepState};
use serde::Serialize;

pub use when::CatchUp;

pub(crate) use book::{Entry, TABLES};
pub(crate) use job::Job;
pub(crate) use when::{Times, Trigger};

use crate::catalog::Catalog;
use crate::notify::Notifier;
use crate::site::Inner;
use crate::{Config, Error, Result};
use when::Due;

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long is waited after a state or catalog that failed.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Where a run stands that keeps the next one of its schedule from beginning.
const OPEN: [RunState; 6] = [
    RunState::Queued,
    RunState::Running,
    RunState::Held,
    RunState::Cancelling,
    RunState::Undoing,
    RunState::UndoFailed,
];

/// A schedule, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// The kind of run that it begins.
    pub job: &'static str,
    /// Its times.
    pub times: String,
    /// How many seconds later than its time a run may begin.
    pub jitter_seconds: i64,
    /// What becomes of missed times.
    pub catch_up: CatchUp,
    /// Whether a person stopped it.
    pub paused: bool,
    /// Who.
    pub paused_by: Option<String>,
    /// When the next run begins.
    pub next: Option<Timestamp>,
    /// The last slot that was decided.
    pub last_slot: Option<Timestamp>,
    /// The last run.
    pub last_run: Option<RunId>,
    /// Where that stands; absent where it is forgotten.
    pub last_state: Option<RunState>,
    /// Why it stands there.
    pub last_reason: Option<String>,
    /// What else there is to say of the last slot, as why there was no run.
    pub note: Option<String>,
}

/// A schedule, ready to be worked by.
struct Prepared {
    times: Times,
    job: Job,
    text: String,
}

/// Works by the schedules of a site.
pub(crate) struct Scheduler {
    schedules: BTreeMap<String, Prepared>,
    runs: Runs,
    catalog: Arc<Catalog>,
    notifier: Arc<Notifier>,
    /// Held while it is decided and begun: a person and the clock take turns.
    turn: Mutex<()>,
}

impl Scheduler {
    pub fn new(config: &Config, runs: Runs, catalog: Arc<Catalog>, notifier: Arc<Notifier>) -> Result<Self> {
        let mut schedules = BTreeMap::new();
        for (name, schedule) in config.schedules.iter().filter(|(_, schedule)| schedule.enabled) {
            let invalid = |what: String| Error::Invalid(format!("[schedule.{name}]: {what}"));
            let prepared = Prepared {
                times: schedule.times(&config.name, name).map_err(invalid)?,
                job: schedule.job(config).map_err(invalid)?,
                text: schedule.text(),
            };
            schedules.insert(name.clone(), prepared);
        }
        // Another daemon may have it already, or still: with its pause.
        if !catalog.is_shared() {
            for name in catalog.schedules()?.into_keys().filter(|name| !schedules.contains_key(name)) {
                catalog.forget_schedule(&name)?;
            }
        }
        Ok(Self { schedules, runs, catalog, notifier, turn: Mutex::new(()) })
    }

    /// Begins what is due. What one schedule fails at does not keep another one from its time.
    pub fn tick(&self, now: Timestamp) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.catalog.schedules()?;
        let mut failed = Ok(());
        for (name, schedule) in &self.schedules {
            let done = self.work_by(name, schedule, known.remove(name), now);
            failed = failed.and(done);
        }
        failed
    }

    fn work_by(&self, name: &str, schedule: &Prepared, known: Option<Entry>, now: Timestamp) -> Result<()> {
        let before = known.clone();
        let mut entry = known.unwrap_or_else(|| Entry::new(&schedule.text, now));
        if entry.definition != schedule.text {
            entry.definition.clone_from(&schedule.text);
            entry.handled = now;
        }
        // The clock was set back. What was begun in the hours that come again has its key and is not begun twice.
        entry.handled = entry.handled.min(now);
        if let Some(due) = schedule.times.due(entry.handled, now).filter(|_| !entry.paused) {
            self.act(name, schedule, &mut entry, &due)?;
            self.tell(name, schedule, before.as_ref(), &entry)?;
        }
        if before.as_ref() != Some(&entry) {
            // Where another daemon has decided something meanwhile, this is decided again by the next look. The run is there.
            self.catalog.keep_schedule(name, before.as_ref(), &entry)?;
        }
        Ok(())
    }

    /// Begins the run of a slot, or says why there is none.
    fn act(&self, name: &str, schedule: &Prepared, entry: &mut Entry, due: &Due) -> Result<()> {
        let full = due.is_full || entry.full_due || self.has_lost_full(entry)?;
        let missed = match (due.is_late, due.missed) {
            (false, 0) => None,
            (false, 1) => Some("one time before it was missed".to_owned()),
            (false, times) => Some(format!("{times} times before it were missed")),
            (true, 0) => Some("its time was missed".to_owned()),
            (true, times) => Some(format!("its time was missed, and {times} before it")),
        };
        if due.is_late && schedule.times.catch_up == CatchUp::None {
            entry.note = Some(format!("no run: {}", missed.unwrap_or_default()));
            entry.full_due = full;
        } else if let Some(open) = self.open_run(name, schedule, Some(due.slot))? {
            entry.note = Some(format!("{NO_RUN_YET} {} is {}", open.0, open.1.name()));
            entry.run = Some(open.0);
            entry.full_due = full;
        } else {
            let unique = format!("schedule\n{name}\n{}", due.slot.as_second());
            let (run, _) = self.begin(name, schedule, full, "schedule", Some(due.slot), Some(&unique))?;
            entry.run = Some(run);
            entry.note = missed;
            entry.full_due = false;
        }
        entry.slot = Some(due.slot);
        entry.handled = due.slot;
        Ok(())
    }

    /// Tells whoever wants to know that a slot has passed without its run. It is told before the slot is written down as
    /// decided: who dies between the two tells it again under the same name.
    fn tell(&self, name: &str, schedule: &Prepared, before: Option<&Entry>, entry: &Entry) -> Result<()> {
        let (Some(note), Some(slot)) = (&entry.note, entry.slot) else { return Ok(()) };
        // A run that takes longer than the distance of two slots, or is held, is told once and not with each slot.
        let was_told =
            before.is_some_and(|before| before.note.as_ref() == Some(note) && before.run == entry.run);
        if was_told && note.starts_with(NO_RUN_YET) {
            return Ok(());
        }
        self.notifier.missed(name, schedule.job.kind(), slot, note, entry.run.as_ref())
    }

    fn begin(
        &self,
        name: &str,
        schedule: &Prepared,
        full: bool,
        by: &str,
        slot: Option<Timestamp>,
        unique: Option<&str>,
    ) -> Result<(RunId, bool)> {
        let mut draft = schedule.job.draft(full).map_err(Error::Other)?;
        // However many begin one, they are done one after the other.
        draft.plan.pools.insert(pool(name));
        let now = self.runs.state().now()?;
        let id = RunId::new(now).map_err(leeward_runs::Error::Random)?;
        let mut run = Run::new(id.clone(), &draft.subject, draft.plan, draft.inputs, by, now);
        run.labels.insert("schedule".to_owned(), name.to_owned());
        if let Some(slot) = slot {
            run.labels.insert("slot".to_owned(), slot.to_string());
        }
        if let Some(unique) = unique {
            run.labels.insert(KEY_LABEL.to_owned(), digest(unique));
        }
        Ok(match self.runs.begin(&run, unique)? {
            Inserted::New => (id, true),
            Inserted::Exists(found) => (found, false),
        })
    }

    /// Whether the last run was a full one in which nothing was backed up: then the next one is full.
    fn has_lost_full(&self, entry: &Entry) -> Result<bool> {
        let Some(run) = &entry.run else { return Ok(false) };
        let Some((run, _)) = self.runs.state().load(run)? else { return Ok(false) };
        let was_full = run.inputs.get("full").and_then(serde_json::Value::as_bool).unwrap_or_default();
        let has_ended = matches!(run.state, RunState::Failed | RunState::Cancelled);
        Ok(was_full && has_ended && run.steps.iter().all(|step| step.state != StepState::Succeeded))
    }

    /// A run of the schedule that is not over, except that of a slot.
    fn open_run(
        &self,
        name: &str,
        schedule: &Prepared,
        except: Option<Timestamp>,
    ) -> Result<Option<(RunId, RunState)>> {
        let state = self.runs.state();
        let except = except.map(|slot| slot.to_string());
        let mut filter =
            Filter { kind: Some(schedule.job.kind().to_owned()), states: OPEN.to_vec(), ..Filter::default() };
        loop {
            let page = state.list(&filter)?;
            for found in page.runs {
                let Some((run, _)) = state.load(&found.id)? else { continue };
                let is_its_own = run.labels.get("schedule").is_some_and(|of| of == name);
                let is_excepted = except.is_some() && run.labels.get("slot") == except.as_ref();
                if is_its_own && !is_excepted && OPEN.contains(&run.state) {
                    return Ok(Some((run.id, run.state)));
                }
            }
            match page.next {
                Some(next) => filter.past = Some(next),
                None => return Ok(None),
            }
        }
    }

    fn schedule(&self, name: &str) -> Result<&Prepared> {
        self.schedules.get(name).ok_or_else(|| Error::NotFound(format!("this site has no schedule {name}")))
    }

    fn entry(&self, name: &str, schedule: &Prepared) -> Result<Entry> {
        let known = self.catalog.schedules()?.remove(name);
        Ok(known.unwrap_or(Entry::new(&schedule.text, self.runs.state().now()?)))
    }

    /// Changes what is remembered of a schedule, however many daemons do; returns what is remembered now.
    fn change(&self, name: &str, schedule: &Prepared, change: impl Fn(&mut Entry)) -> Result<Entry> {
        for _ in 0..CHANGES_MAX {
            let was = self.catalog.schedules()?.remove(name);
            let mut entry = match &was {
                Some(known) => known.clone(),
                None => Entry::new(&schedule.text, self.runs.state().now()?),
            };
            change(&mut entry);
            if was.as_ref() == Some(&entry) || self.catalog.keep_schedule(name, was.as_ref(), &entry)? {
                return Ok(entry);
            }
        }
        Err(Error::Other(format!("schedule {name} is being changed by others all the time; try again")))
    }

    fn fire(&self, name: &str, full: bool, by: &str, unique: Option<&str>) -> Result<(RunId, bool)> {
        let schedule = self.schedule(name)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let unique = unique.map(|key| format!("fire\n{name}\n{key}"));
        if let Some((run, state)) = self.open_run(name, schedule, None)? {
            // Who asks a second time is told what he has begun.
            let key = unique.as_deref().map(digest);
            let found = self.runs.state().load(&run)?;
            if key.is_some() && found.is_some_and(|(found, _)| found.labels.get(KEY_LABEL) == key.as_ref()) {
                return Ok((run, false));
            }
            let what = format!("it is {}, and schedule {name} begins one run at a time", state.name());
            return Err(leeward_runs::Error::NotNow { run, what }.into());
        }
        let entry = self.entry(name, schedule)?;
        let full = full || entry.full_due || self.has_lost_full(&entry)?;
        let begun = self.begin(name, schedule, full, by, None, unique.as_deref())?;
        if !begun.1 {
            return Ok(begun);
        }
        self.change(name, schedule, |entry| {
            entry.run = Some(begun.0.clone());
            entry.note = Some(format!("begun by {by}"));
            entry.full_due = false;
        })?;
        Ok(begun)
    }

    fn pause(&self, name: &str, paused: bool, by: &str) -> Result<ScheduleView> {
        let schedule = self.schedule(name)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.runs.state().now()?;
        let entry = self.change(name, schedule, |entry| {
            if entry.paused != paused {
                entry.paused = paused;
                entry.paused_by = paused.then(|| by.to_owned());
                // What passed meanwhile was not missed: somebody did not want it.
                entry.handled = now;
            }
        })?;
        self.view(name, schedule, Some(entry))
    }

    fn views(&self) -> Result<Vec<ScheduleView>> {
        let mut known = self.catalog.schedules()?;
        let view = |(name, schedule): (&String, &Prepared)| self.view(name, schedule, known.remove(name));
        self.schedules.iter().map(view).collect()
    }

    fn view(&self, name: &str, schedule: &Prepared, entry: Option<Entry>) -> Result<ScheduleView> {
        let entry = match entry {
            Some(entry) => entry,
            None => self.entry(name, schedule)?,
        };
        let run = match &entry.run {
            Some(run) => self.runs.state().load(run)?.map(|(run, _)| run),
            None => None,
        };
        let next = schedule.times.next(entry.handled).map(|(_, begins)| begins);
        Ok(ScheduleView {
            name: name.to_owned(),
            job: schedule.job.kind(),
            times: schedule.text.clone(),
            jitter_seconds: schedule.times.jitter.as_secs(),
            catch_up: schedule.times.catch_up,
            paused: entry.paused,
            paused_by: entry.paused_by,
            next: next.filter(|_| !entry.paused),
            last_slot: entry.slot,
            last_run: entry.run,
            last_state: run.as_ref().map(|run| run.state),
            last_reason: run.and_then(|run| run.reason),
            note: entry.note,
        })
    }
}

/// How often a change is tried that others come before.
const CHANGES_MAX: u32 = 20;

/// How the note of a slot begins that has no run because an earlier one is not over.
const NO_RUN_YET: &str = "no run: run";

/// The label of a run that tells the key under which it was begun.
const KEY_LABEL: &str = "key";

fn digest(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().to_string()
}

/// The pool in which the runs of a schedule take turns.
fn pool(name: &str) -> String {
    format!("schedule:{name}")
}

/// The pools of all schedules, each with one place.
pub(crate) fn pools(config: &Config) -> BTreeMap<String, u32> {
    config.schedules.keys().map(|name| (pool(name), 1)).collect()
}

/// Works by the schedules until the site ends.
pub(crate) fn work(site: &Arc<Inner>, stop: &AtomicBool) {
    let mut not_before = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if Instant::now() >= not_before && site.leads() {
            let done = site.runs.state().now().map_err(Error::from).and_then(|now| site.scheduler.tick(now));
            not_before = Instant::now() + LOOK_EVERY;
            if let Err(error) = done {
                site.complain(&format!("schedules cannot be worked by: {error}"));
                not_before = Instant::now() + WAIT_AFTER_FAILURE;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl crate::Site {
    /// The schedules, by name.
    ///
    /// # Errors
    /// The catalog or the state of runs fails.
    pub fn schedules(&self) -> Result<Vec<ScheduleView>> {
        self.inner().scheduler.views()
    }

    /// Begins a run of a schedule now; returns it, and whether it is new. `full` asks for the whole work. Under the same
    /// `unique` key it is begun once only.
    ///
    /// # Errors
    /// There is no such schedule, a run of it is not over, or the state fails.
    pub fn fire(&self, name: &str, full: bool, by: &str, unique: Option<&str>) -> Result<(RunId, bool)> {
        self.inner().scheduler.fire(name, full, by, unique)
    }

    /// Has a schedule begin nothing by the clock any more, or again. What passes while it is paused is not made up for.
    ///
    /// # Errors
    /// There is no such schedule, or the catalog fails.
    pub fn pause(&self, name: &str, paused: bool, by: &str) -> Result<ScheduleView> {
        self.inner().scheduler.pause(name, paused, by)
    }
}

#[cfg(test)]
mod tests;
