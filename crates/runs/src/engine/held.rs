//! A run that an engine has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::work::Finished;
use crate::state::Claim;
use crate::step::{Signal, Stop};

/// A run under this engine's lease.
pub(super) struct Held {
    pub claim: Claim,
    /// When to look at it; `None`: not before something happens.
    pub due: Option<Instant>,
    /// The steps that have a thread, by name.
    pub working: BTreeMap<String, Working>,
    /// Results that are not written down yet.
    pub results: Vec<Finished>,
    /// The change of the run that was seen last.
    pub seen: Option<u64>,
    /// Whether steps that the run calls active were begun by this claim.
    pub is_adopted: bool,
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
    pub fn new(claim: Claim) -> Self {
        Self {
            claim,
            due: Some(Instant::now()),
            working: BTreeMap::new(),
            results: Vec::new(),
            seen: None,
            is_adopted: false,
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
