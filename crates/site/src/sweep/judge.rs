//! What is a leftover, and what may be removed without asking: decided from values.
//!
//! A volume that was removed in error is lost, one that was left costs a little. So whatever is not plainly the remains of a run
//! that ended without delivering anything stays, or is left to a person.

use jiff::{SignedDuration, Timestamp};
use leeward_runs::RunState;

/// A thing with the tag of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    /// When it was made, where the provider tells.
    pub created: Option<Timestamp>,
    /// Whether it is being removed already, or gone.
    pub is_going: bool,
    /// Whether it is attached to a machine, or is one that others may use.
    pub is_in_use: bool,
}

/// What is known of the run that a tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The tag names no run of this daemon.
    Unknown,
    /// The tag names no run of this daemon any more, but it was seen before that its run had delivered the thing.
    Remembered,
    /// The run's document makes no sense.
    Unreadable,
    /// There is such a run.
    Run(RunFacts),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunFacts {
    pub state: RunState,
    pub finished: Option<Timestamp>,
    /// Whether it has ever succeeded: it may have been retried since.
    pub has_delivered: bool,
    /// Whether the run's own document or notes name the thing.
    pub names_it: bool,
    /// Whether its plan says that what it made stays when it is cancelled.
    pub leaves_it: bool,
}

/// What is to be done with a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays, whoever asks.
    Stays(&'static str),
    /// A person may have it removed by its name.
    Offered(&'static str),
    /// It may be removed without asking.
    Removable(&'static str),
}

/// Why what a run has delivered stays.
pub(super) const DELIVERED: &str = "its run has delivered it";

/// Judges a thing. `age_min` is how long ago both the thing must have been made and its run have ended: what a cloud was asked
/// for last may appear late, and a person may still want to look into it.
pub(super) fn judge(thing: &Thing, run: &Known, now: Timestamp, age_min: SignedDuration) -> Verdict {
    if thing.is_going {
        return Verdict::Stays("it is going already");
    }
    let run = match run {
        Known::Unknown => {
            return Verdict::Offered(
                "no run of that name is known here: its history is forgotten, or it is another daemon's; it may be what it delivered",
            );
        }
        Known::Remembered => return Verdict::Stays("a run that is forgotten has delivered it"),
        Known::Unreadable => return Verdict::Stays("the document of its run cannot be read"),
        Known::Run(run) => run,
    };
    if run.state == RunState::UndoFailed {
        return Verdict::Stays("its run could not undo it: mend that and retry the run");
    }
    if !run.state.is_final() {
        return Verdict::Stays("its run is not over");
    }
    if run.state == RunState::Succeeded || run.has_delivered {
        return match run.names_it {
            true => Verdict::Stays(DELIVERED),
            false => Verdict::Offered(
                "its run has succeeded and does not know of it: it may be a copy that somebody made, with its tags",
            ),
        };
    }
    if run.leaves_it && run.state == RunState::Cancelled {
        return Verdict::Offered("its run was cancelled, and leaves what it made");
    }
    if thing.is_in_use {
        return Verdict::Offered("its run has ended without it, but it is in use");
    }
    let is_old = |time: Option<Timestamp>| time.is_some_and(|time| now.duration_since(time) >= age_min);
    match is_old(thing.created) && is_old(run.finished) {
        true => Verdict::Removable("its run has ended without it"),
        false => Verdict::Offered("its run has ended without it, not long ago or not known when"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn run(state: RunState) -> RunFacts {
        RunFacts { state, finished: at(0), has_delivered: false, names_it: true, leaves_it: false }
    }

    fn of(thing: &Thing, run: &Known) -> Verdict {
        judge(thing, run, at(NOW).unwrap(), DAY)
    }

    #[test]
    fn what_becomes_of_which() {
        let thing = Thing { created: at(0), is_going: false, is_in_use: false };
        let failed = run(RunState::Failed);
        let verdict = |thing: &Thing, run: &RunFacts| match of(thing, &Known::Run(run.clone())) {
            Verdict::Stays(_) => "stays",
            Verdict::Offered(_) => "offered",
            Verdict::Removable(_) => "removable",
        };
        let table: Vec<(&str, Thing, RunFacts, &str)> = vec![
            ("failed", thing.clone(), failed.clone(), "removable"),
            ("cancelled", thing.clone(), run(RunState::Cancelled), "removable"),
            (
                "and nobody knows of it",
                thing.clone(),
                RunFacts { names_it: false, ..failed.clone() },
                "removable",
            ),
            (
                "left on purpose",
                thing.clone(),
                RunFacts { leaves_it: true, ..run(RunState::Cancelled) },
                "offered",
            ),
            ("attached", Thing { is_in_use: true, ..thing.clone() }, failed.clone(), "offered"),
            ("just made", Thing { created: at(NOW - 3600), ..thing.clone() }, failed.clone(), "offered"),
            ("made nobody knows when", Thing { created: None, ..thing.clone() }, failed.clone(), "offered"),
            (
                "made in the future",
                Thing { created: at(NOW + 3600), ..thing.clone() },
                failed.clone(),
                "offered",
            ),
            ("just ended", thing.clone(), RunFacts { finished: at(NOW - 3600), ..failed.clone() }, "offered"),
            ("going", Thing { is_going: true, ..thing.clone() }, failed.clone(), "stays"),
            ("delivered", thing.clone(), run(RunState::Succeeded), "stays"),
            (
                "delivered, then retried",
                thing.clone(),
                RunFacts { has_delivered: true, ..failed.clone() },
                "stays",
            ),
            ("a copy", thing.clone(), RunFacts { names_it: false, ..run(RunState::Succeeded) }, "offered"),
            ("held", thing.clone(), run(RunState::Held), "stays"),
            ("undo failed", thing.clone(), run(RunState::UndoFailed), "stays"),
        ];
        for (name, thing, run, wanted) in &table {
            assert_eq!(verdict(thing, run), *wanted, "{name}");
        }
        assert!(matches!(of(&thing, &Known::Unknown), Verdict::Offered(_)));
        assert!(matches!(of(&thing, &Known::Unreadable), Verdict::Stays(_)));
        assert!(matches!(of(&thing, &Known::Remembered), Verdict::Stays(_)));
    }

    /// All that there can be: nothing of a run that goes on, that is delivered, or that is not known is ever removed unasked,
    /// and by name only what is not of a run that goes on and not delivered.
    #[test]
    fn nothing_is_removed_that_somebody_may_need() {
        let times = [None, at(0), at(NOW - 3600), at(NOW + 3600)];
        let flags = [false, true];
        let mut runs = vec![Known::Unknown, Known::Unreadable, Known::Remembered];
        for state in RunState::ALL {
            for finished in times {
                for bits in 0..8 {
                    let bit = |number: u32| bits & (1 << number) != 0;
                    let facts = RunFacts {
                        state,
                        finished,
                        has_delivered: bit(0),
                        names_it: bit(1),
                        leaves_it: bit(2),
                    };
                    runs.push(Known::Run(facts));
                }
            }
        }
        let mut removable = 0;
        for known in &runs {
            for created in times {
                for (is_going, is_in_use) in flags.into_iter().flat_map(|a| flags.map(|b| (a, b))) {
                    let thing = Thing { created, is_going, is_in_use };
                    let verdict = of(&thing, known);
                    let Known::Run(run) = known else {
                        assert!(!matches!(verdict, Verdict::Removable(_)), "{thing:?} {known:?}");
                        continue;
                    };
                    let is_live = !run.state.is_final();
                    let is_delivered =
                        run.names_it && (run.has_delivered || run.state == RunState::Succeeded);
                    if is_live || is_delivered {
                        assert!(matches!(verdict, Verdict::Stays(_)), "{thing:?} {known:?}: {verdict:?}");
                    }
                    if let Verdict::Removable(_) = verdict {
                        removable += 1;
                        assert!(!run.has_delivered && run.state != RunState::Succeeded);
                        assert!(!is_going && !is_in_use && created == at(0) && run.finished == at(0));
                    }
                }
            }
        }
        assert!(removable > 0);
    }
}
