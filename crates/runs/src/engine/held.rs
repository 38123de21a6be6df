//! A run that an engine has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::work::Finished;
use crate::StepRecord;
use crate::state::Claim;
use crate::step::{LeaseEnd, Signal, Stop};

/// A run under this engine's lease.
pub(super) struct Held {
    pub claim: Claim,
    /// Until when it is surely ours.
    pub lease: Arc<LeaseEnd>,
    /// When to look at it; `None`: not before something happens.
    pub due: Option<Instant>,
    /// The steps that have a thread, by name.
    pub working: BTreeMap<String, Working>,
    /// Results that are not written down yet.
    pub results: Vec<Finished>,
    /// The change of the run that was seen last.
    pub seen: Option<u64>,
}

/// A step that has a thread.
pub(super) struct Working {
    pub try_number: u32,
    pub signal: Arc<Signal>,
    /// When it has to end.
    pub deadline: Option<Instant>,
    /// When it was told to stop.
    pub stopped: Option<Instant>,
}

impl Held {
    pub fn new(claim: Claim, lease: LeaseEnd) -> Self {
        Self {
            claim,
            lease: Arc::new(lease),
            due: Some(Instant::now()),
            working: BTreeMap::new(),
            results: Vec::new(),
            seen: None,
        }
    }

    /// Learns what a renewal said: the run's sequence while it is still ours. Returns whether it is.
    pub fn keep(&mut self, sequence: Option<u64>) -> bool {
        match sequence {
            None => self.lose(),
            Some(sequence) if self.seen != Some(sequence) => self.due = Some(Instant::now()),
            Some(_) => {}
        }
        sequence.is_some()
    }

    /// Tells all steps to stop because the run is somebody else's now.
    pub fn lose(&self) {
        self.working.values().for_each(|working| working.signal.set(Stop::Lost));
    }

    /// Whether a step that the run calls active is in these hands: it has a thread, or a result that is not kept yet. One that
    /// is not was begun by an engine that is gone, or by this one in a change of which it did not learn that it was kept.
    pub fn has(&self, step: &StepRecord) -> bool {
        let is_working = self.working.get(&step.name).is_some_and(|working| working.try_number == step.tries);
        let is_this = |finished: &Finished| finished.step == step.name && finished.try_number == step.tries;
        is_working || self.results.iter().any(is_this)
    }

    pub fn is_busy(&self) -> bool {
        !self.working.is_empty()
    }

    /// Takes a result; false where it is one of an attempt that was given up.
    pub fn settle(&mut self, finished: Finished) -> bool {
        let is_present =
            self.working.get(&finished.step).is_some_and(|working| working.try_number == finished.try_number);
        if is_present {
            self.working.remove(&finished.step);
            self.results.push(finished);
        }
        is_present
    }

    /// Tells all steps to stop.
    pub fn stop_all(&mut self, stop: Stop) {
        for working in self.working.values_mut() {
            working.signal.set(stop);
            working.stopped.get_or_insert_with(Instant::now);
        }
    }
}
