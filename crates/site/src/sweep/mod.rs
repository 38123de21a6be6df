//! Leftovers: things in a cloud that carry the tag of a run, and that no run looks after any more; and holds of snapshots that
//! carry its name ([`holds`]).
//!
//! A run undoes what it made. What is left was made while nobody looked: its creation was asked for and appeared after the
//! run had given it up, or the daemon's state was lost. What may be removed is decided in [`judge`], twice: when it is looked for,
//! and again right before it is removed.

mod book;
mod find;
mod holds;
mod judge;
mod remove;
mod view;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leeward_store::with_causes;

pub(crate) use book::TABLES;
pub use view::{Leftover, LeftoverProblem, Leftovers, Removal, Removed};

use crate::Result;
use crate::config::SweepPolicy;
use crate::site::Inner;

/// The most things that are removed at once.
const REMOVED_MAX: usize = 100;
/// How often it is said again that a target cannot be asked.
const SAY_EVERY: Duration = Duration::from_secs(3600);

/// What was found when it was looked for last, by the clock.
#[derive(Default)]
pub(crate) struct LastLook(Mutex<Option<(Timestamp, Leftovers)>>);

impl Inner {
    /// Looks by the clock; removes what may be removed, where that is the policy.
    fn sweep(&self) -> Result<()> {
        let mut found = self.leftovers(None)?;
        if self.config.runs.sweep == SweepPolicy::Remove {
            let removable: Vec<_> =
                found.leftovers.iter().filter(|leftover| leftover.removable).cloned().collect();
            for leftover in removable.into_iter().take(REMOVED_MAX) {
                let what =
                    format!("{} {} ({}) of run {}", leftover.kind, leftover.id, leftover.name, leftover.run);
                match self.remove(&leftover.target, &leftover.id, true) {
                    Ok(Ok(why)) => {
                        self.complain(&format!("{what} is removed: {why}"));
                        found.leftovers.retain(|other| other.id != leftover.id);
                    }
                    Ok(Err(why)) => self.complain(&format!("{what} is not removed: {why}")),
                    Err(error) => {
                        self.complain(&format!("{what} cannot be removed: {}", with_causes(&error)))
                    }
                }
            }
        }
        let mut last = self.last_look.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |id: &str| last.iter().any(|(_, before)| before.leftovers.iter().any(|old| old.id == id));
        let new: Vec<_> = found.leftovers.iter().filter(|leftover| !known(&leftover.id)).collect();
        for leftover in new.iter().filter(|leftover| leftover.run_state.is_some()) {
            self.complain(&format!(
                "{} {} in target {} is left of run {}: {}; see `leeward sweep`",
                leftover.kind, leftover.id, leftover.target, leftover.run, leftover.why
            ));
        }
        // There may be many, of other daemons.
        let strange = new.iter().filter(|leftover| leftover.run_state.is_none()).count();
        if strange > 0 {
            self.complain(&format!(
                "{strange} more things are of runs that are not known here; see `leeward sweep`"
            ));
        }
        *last = Some((Timestamp::now(), found));
        Ok(())
    }
}

/// Looks for leftovers by the clock until the site ends.
pub(crate) fn work(site: &Arc<Inner>, stop: &AtomicBool) {
    let every = site.config.runs.sweep_every();
    if site.config.runs.sweep == SweepPolicy::Off {
        return;
    }
    // Not at once: a daemon that begins has better things to ask its clouds.
    let mut due = Instant::now() + every.min(Duration::from_secs(60));
    let mut said: Option<Instant> = None;
    while !stop.load(Ordering::Acquire) {
        if Instant::now() >= due && site.leads() {
            let failed = site.sweep().err().map(|error| with_causes(&error));
            let problems = site.last_problems();
            let is_to_be_said = said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
            if (failed.is_some() || !problems.is_empty()) && is_to_be_said {
                said = Some(Instant::now());
                problems.iter().chain(failed.iter()).for_each(|problem| {
                    site.complain(&format!("leftovers cannot be looked for: {problem}"));
                });
            }
            due = Instant::now() + every;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Inner {
    fn last_problems(&self) -> Vec<String> {
        let last = self.last_look.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problems = last.iter().flat_map(|(_, found)| &found.problems);
        problems.map(|problem| format!("target {}: {}", problem.target, problem.what)).collect()
    }
}

impl crate::Site {
    /// What is left of runs in the targets, or in one: asked of the providers now.
    ///
    /// # Errors
    /// There is no such target, or the state of runs fails. A provider that fails is told of in the answer.
    pub fn leftovers(&self, target: Option<&str>) -> Result<Leftovers> {
        self.inner().leftovers(target)
    }

    /// Has leftovers removed: those that are named, or all that are plainly the remains of runs that have ended. Each is looked
    /// at again right before.
    ///
    /// # Errors
    /// It is not said what, there is no such target, or the state of runs fails.
    pub fn remove_leftovers(&self, removal: &Removal) -> Result<Vec<Removed>> {
        self.inner().remove_all(removal)
    }

    /// What was found when leftovers were looked for last by the clock, and when that was.
    #[must_use]
    pub fn last_leftovers(&self) -> Option<(Timestamp, Leftovers)> {
        self.inner().last_look.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
