//! What keeps an engine from its work, for whoever has to mend it. The engine itself only tries again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::{Error, ErrorKind, RunId};

/// Something that keeps an engine from its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The run, where it is the only one concerned: its document makes no sense. Otherwise the state fails.
    pub run: Option<RunId>,
    /// What failed last, with its causes.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
    /// When it failed last.
    pub last: Timestamp,
}

impl Trouble {
    fn new(run: Option<RunId>, what: String) -> Self {
        let now = Timestamp::now();
        Self { run, what, since: now, last: now }
    }

    fn again(&mut self, what: String) {
        self.what = what;
        self.last = Timestamp::now();
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (since {:.0})", self.what, self.since)
    }
}

/// What an engine asks of its state. What failed is in order again when the same was done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Prolonging leases.
    Leases,
    /// Looking for runs.
    Looking,
    /// Reading and changing a run.
    Run(RunId),
}

/// The troubles of an engine at present.
#[derive(Default)]
pub(super) struct Troubles(Mutex<Present>);

#[derive(Default)]
struct Present {
    failing: BTreeSet<Work>,
    state: Option<Trouble>,
    damaged: BTreeMap<RunId, Trouble>,
}

impl Troubles {
    pub fn now(&self) -> Vec<Trouble> {
        let present = self.lock();
        present.state.iter().chain(present.damaged.values()).cloned().collect()
    }

    pub fn is_damaged(&self, run: &RunId) -> bool {
        self.lock().damaged.contains_key(run)
    }

    pub fn met(&self, work: Work, error: &Error) {
        let what = with_causes(error);
        let mut present = self.lock();
        let trouble = match work {
            Work::Run(run) if error.kind() == ErrorKind::Lasting => {
                present.damaged.entry(run.clone()).or_insert_with(|| Trouble::new(Some(run), what.clone()))
            }
            work => {
                present.failing.insert(work);
                present.state.get_or_insert_with(|| Trouble::new(None, what.clone()))
            }
        };
        trouble.again(what);
    }

    pub fn passed(&self, work: &Work) {
        let mut present = self.lock();
        if let Work::Run(run) = work {
            present.damaged.remove(run);
        }
        present.retain(|failing| failing != work);
    }

    /// Looking for runs went well: what failed with runs that are no longer held is nothing to wait for.
    pub fn looked(&self, is_held: impl Fn(&RunId) -> bool, has_any: bool) {
        self.lock().retain(|failing| match failing {
            Work::Looking => false,
            Work::Leases => has_any,
            Work::Run(run) => is_held(run),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn retain(&mut self, keep: impl Fn(&Work) -> bool) {
        self.failing.retain(keep);
        if self.failing.is_empty() {
            self.state = None;
        }
    }
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
