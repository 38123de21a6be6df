//! Holds that runs have left on snapshots: a restore or an export holds what it reads, under its own name, and lets it go at its
//! end. One whose daemon's state was lost never does, and its snapshot would be kept for ever.

use jiff::{SignedDuration, Timestamp};
use leeward_import::job::HOLD_STEP;
use leeward_repository::{ErrorKind, Hold, ImageName, SnapshotId};
use leeward_runs::state::State;
use leeward_runs::{OnCancel, Run, RunId, RunState, StepRecord, StepState};
use leeward_store::with_causes;

use super::judge::Verdict;
use super::view::{Leftover, LeftoverProblem};
use crate::site::Inner;
use crate::{Error, Result};

/// Where holds are, beside the targets. No target has such a name.
pub(super) const REPOSITORY: &str = "[repository]";
/// What holds of runs are named by, before the run.
const PREFIX: &str = "run-";

/// A hold by a run.
struct Held {
    image: ImageName,
    snapshot: SnapshotId,
    hold: Hold,
    run: RunId,
}

impl Held {
    fn id(&self) -> String {
        format!("{}@{}:{}", self.image, self.snapshot, self.hold.name)
    }
}

/// What is known of the run that has made a hold.
enum Holder {
    Unknown,
    Unreadable,
    Run { state: RunState, finished: Option<Timestamp>, counts_on_it: bool },
}

impl Holder {
    fn look(state: &dyn State, run: &RunId) -> Result<Self> {
        Ok(match state.load(run) {
            Ok(Some((run, _))) => {
                Self::Run { state: run.state, finished: run.finished, counts_on_it: counts_on_it(&run) }
            }
            Ok(None) => Self::Unknown,
            Err(error) if error.kind() == leeward_runs::ErrorKind::Lasting => Self::Unreadable,
            Err(error) => return Err(error.into()),
        })
    }

    fn state(&self) -> Option<RunState> {
        match self {
            Self::Run { state, .. } => Some(*state),
            Self::Unknown | Self::Unreadable => None,
        }
    }
}

/// Whether a run that is retried would go on without holding the snapshot once more.
fn counts_on_it(run: &Run) -> bool {
    let is_done = |step: &StepRecord| step.name == HOLD_STEP && step.state == StepState::Succeeded;
    let leaves = run.state == RunState::Cancelled && run.plan.on_cancel == OnCancel::Leave;
    run.state != RunState::Succeeded && (leaves || run.steps.iter().any(is_done))
}

/// Judges a hold. What is let go in error may be forgotten, and then be collected; what is kept costs bytes.
fn judge(created: Option<Timestamp>, holder: &Holder, now: Timestamp, age_min: SignedDuration) -> Verdict {
    let (state, finished, counts_on_it) = match holder {
        Holder::Unknown => {
            return Verdict::Offered(
                "no run of that name is known here: its history is forgotten, or it is another site's that uses this repository",
            );
        }
        Holder::Unreadable => return Verdict::Stays("the document of its run cannot be read"),
        Holder::Run { state, finished, counts_on_it } => (*state, *finished, *counts_on_it),
    };
    if state == RunState::UndoFailed {
        return Verdict::Stays("its run could not let it go: mend that and retry the run");
    }
    if !state.is_final() {
        return Verdict::Stays("its run is not over");
    }
    if counts_on_it {
        return Verdict::Offered("its run has ended, and would count on it if it were retried");
    }
    let is_old = |time: Option<Timestamp>| time.is_some_and(|time| now.duration_since(time) >= age_min);
    match is_old(created) && is_old(finished) {
        true => Verdict::Removable("its run has ended without letting it go"),
        false => Verdict::Offered("its run has ended without letting it go, not long ago or not known when"),
    }
}

impl Inner {
    /// The holds of runs on the snapshots of an image; of one that is gone there are none.
    fn held(&self, image: &ImageName) -> Result<Vec<Held>> {
        let found = match self.repository()?.image(image) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?,
        };
        let mut held = Vec::new();
        for entry in found.snapshots {
            for hold in entry.holds {
                let run = hold.name.strip_prefix(PREFIX).map(|run| RunId::try_from(run.to_owned()));
                if let Some(Ok(run)) = run {
                    held.push(Held { image: image.clone(), snapshot: entry.id, hold, run });
                }
            }
        }
        Ok(held)
    }

    fn judged_hold(&self, held: &Held) -> Result<std::result::Result<Leftover, &'static str>> {
        let state = self.runs.state();
        let holder = Holder::look(state.as_ref(), &held.run)?;
        let created: Option<Timestamp> = held.hold.created.parse().ok();
        let now = state.now()?;
        let (why, removable) = match judge(created, &holder, now, self.config.runs.sweep_age()) {
            Verdict::Stays(why) => return Ok(Err(why)),
            Verdict::Offered(why) => (why, false),
            Verdict::Removable(why) => (why, true),
        };
        Ok(Ok(Leftover {
            id: held.id(),
            kind: "hold",
            name: format!("{}@{}", held.image, held.snapshot.short()),
            target: REPOSITORY.to_owned(),
            state: "held".to_owned(),
            bytes: None,
            created,
            age_seconds: created.map(|created| now.duration_since(created).as_secs()),
            run: held.run.to_string(),
            run_state: holder.state(),
            attached_to: Some(Vec::new()),
            why: why.to_owned(),
            removable,
        }))
    }

    /// The holds that no run lets go any more. An image whose ref cannot be read keeps nobody from seeing those of the others.
    pub(super) fn holds_left(&self, problems: &mut Vec<LeftoverProblem>) -> Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for image in self.repository()?.images()? {
            match self.held(&image) {
                Ok(held) => {
                    for held in held {
                        leftovers.extend(self.judged_hold(&held)?.ok());
                    }
                }
                Err(Error::Repository(error)) if error.kind() == ErrorKind::Damaged => {
                    problems
                        .push(LeftoverProblem { target: REPOSITORY.to_owned(), what: with_causes(&error) });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(leftovers)
    }

    /// Lets a snapshot go, after its hold was looked at again.
    pub(super) fn remove_hold(&self, id: &str, unasked: bool) -> Result<std::result::Result<String, String>> {
        let image = id.rsplit_once(':').and_then(|(snapshot, _)| snapshot.rsplit_once('@'));
        let held = match image.map(|(image, _)| image.parse::<ImageName>()) {
            Some(Ok(image)) => self.held(&image)?.into_iter().find(|held| held.id() == id),
            _ => None,
        };
        let Some(held) = held else {
            return Ok(Err("there is no such hold of a run".to_owned()));
        };
        let leftover = match self.judged_hold(&held)? {
            Err(why) => return Ok(Err(why.to_owned())),
            Ok(leftover) => leftover,
        };
        if unasked && !leftover.removable {
            return Ok(Err(leftover.why));
        }
        match self.repository()?.release(&held.image, held.snapshot, &held.hold.name) {
            // Somebody was faster.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Usage) => {}
            released => drop(released.map_err(Error::from)?),
        }
        Ok(Ok(leftover.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn no_hold_goes_unasked_that_a_run_may_need() {
        let now = at(1_000_000).unwrap();
        let day = SignedDuration::from_hours(24);
        assert!(matches!(judge(at(0), &Holder::Unknown, now, day), Verdict::Offered(_)));
        assert!(matches!(judge(at(0), &Holder::Unreadable, now, day), Verdict::Stays(_)));
        let mut removable = 0;
        for state in RunState::ALL {
            for finished in [None, at(0), at(999_000)] {
                for created in [None, at(0), at(999_000), at(2_000_000)] {
                    for counts_on_it in [false, true] {
                        let holder = Holder::Run { state, finished, counts_on_it };
                        let verdict = judge(created, &holder, now, day);
                        let stays = matches!(verdict, Verdict::Stays(_));
                        assert_eq!(stays, !state.is_final() || state == RunState::UndoFailed, "{state:?}");
                        if let Verdict::Removable(_) = verdict {
                            removable += 1;
                            assert!(!counts_on_it && created == at(0) && finished == at(0), "{state:?}");
                        }
                    }
                }
            }
        }
        assert!(removable > 0);
    }
}
