//! What became of runs in a stretch of time: by kind and schedule, and by image.
//!
//! What a run counts as is decided from its document alone ([`tally`]); here the documents are gathered. `docs/runs.md` says
//! exactly what each figure means.

mod csv;
mod tally;

use jiff::{SignedDuration, Timestamp};
use leeward_runs::RunId;
use leeward_runs::state::{Filter, State};
use serde::{Deserialize, Serialize};

use tally::Tally;

use crate::config::RpoTargets;
use crate::{Result, Site};

/// Runs that one report is made of, at most.
const RUNS_MAX: usize = 20_000;
/// Runs that are listed at once.
const PAGE: usize = 500;

/// Which runs are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportQuestion {
    /// Those begun at this moment or later.
    pub from: Timestamp,
    /// Those begun before this moment.
    pub to: Timestamp,
    /// Those of this kind.
    pub kind: Option<String>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The question's.
    pub from: Timestamp,
    /// The question's.
    pub to: Timestamp,
    /// From when on the history is whole: what ended earlier than so many days ago is forgotten.
    pub since: Timestamp,
    /// Whether all runs were counted; there is a bound, and then the oldest ones are left out.
    pub complete: bool,
    /// How many were counted.
    pub runs: usize,
    /// By kind and schedule.
    pub groups: Vec<ReportGroup>,
    /// By image.
    pub images: Vec<ImageReport>,
}

/// What became of the runs of a kind and schedule. Each is counted once between `succeeded` and `running`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportGroup {
    /// The kind.
    pub kind: String,
    /// The schedule that began them; none for those that somebody or something else began.
    pub schedule: Option<String>,
    /// All.
    pub begun: u64,
    /// Those that did all that they should.
    pub succeeded: u64,
    /// Backups of several disks or machines that ended, or wait for a person, with some of these backed up.
    pub partial: u64,
    /// Those that failed, and what they made is undone.
    pub failed: u64,
    /// Those that somebody cancelled.
    pub cancelled: u64,
    /// Those that wait for a person.
    pub held: u64,
    /// Those of which something could not be undone.
    pub undo_failed: u64,
    /// Those that wait for their turn.
    pub waiting: u64,
    /// Those that are under way.
    pub running: u64,
    /// Bytes that backups read.
    pub read_bytes: u64,
    /// Bytes that backups and imports added to the repository.
    pub stored_bytes: u64,
    /// Bytes of data that were written to volumes.
    pub written_bytes: u64,
    /// Seconds from when it was begun to its end that half of those which succeeded needed at most.
    pub median_seconds: Option<f64>,
    /// The most that one which succeeded needed.
    pub longest_seconds: Option<f64>,
}

/// Backups of an image, and imports into the repository that added to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageReport {
    /// Its name.
    pub image: String,
    /// Backups of it that ended well.
    pub backups: u64,
    /// Bytes that they added to the repository.
    pub stored_bytes: u64,
    /// When the last one ended.
    pub last: Timestamp,
    /// The longest time without a new snapshot, in seconds: between two of these backups, or from the last one to the end of
    /// the stretch of time. What there was before the first one is not known here.
    pub longest_gap_seconds: i64,
    /// How long that may be, where the configuration says so, in seconds.
    pub rpo_target_seconds: Option<i64>,
    /// How many of these times were longer.
    pub rpo_misses: Option<u64>,
}

impl Site {
    /// What became of the runs that were begun in a stretch of time. `goes_on` is asked on the way whether somebody still wants
    /// to know; the report is not complete where nobody does.
    ///
    /// # Errors
    /// The state of runs fails.
    pub fn report(&self, question: &ReportQuestion, goes_on: &dyn Fn() -> bool) -> Result<Report> {
        let keep = SignedDuration::from_hours(24 * i64::from(self.config().runs.keep_days));
        gather(self.runs().state().as_ref(), keep, &self.config().rpo, question, goes_on, RUNS_MAX)
    }
}

fn gather(
    state: &dyn State,
    keep: SignedDuration,
    rpo: &RpoTargets,
    question: &ReportQuestion,
    goes_on: &dyn Fn() -> bool,
    most: usize,
) -> Result<Report> {
    let ReportQuestion { from, to, kind } = question.clone();
    let now = state.now()?;
    let known = now.checked_sub(keep).unwrap_or(Timestamp::MIN);
    let mut tally = Tally::default();
    let (mut runs, mut oldest, mut complete) = (0, to, true);
    // Names sort by age, to the millisecond.
    let behind = to.checked_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX);
    let past = RunId::new(behind).map_err(leeward_runs::Error::Random)?;
    let mut filter = Filter { kind, past: Some(past), most: PAGE, ..Filter::default() };
    'pages: loop {
        let page = state.list(&filter)?;
        for found in page.runs.iter().filter(|found| found.created < to) {
            if found.created < from {
                break 'pages;
            }
            if runs == most || !goes_on() {
                complete = false;
                break 'pages;
            }
            // None where it was forgotten in between.
            if let Some((run, _)) = state.load(&found.id)? {
                tally.add(&run);
                runs += 1;
                oldest = found.created;
            }
        }
        match page.next {
            Some(next) => filter.past = Some(next),
            None => break,
        }
    }
    let since = if complete { from.max(known) } else { oldest.max(known) };
    let (groups, images) = tally.end(to.min(now), rpo);
    Ok(Report { from, to, since, complete, runs, groups, images })
}

#[cfg(test)]
mod tests;
