//! Digests of an object whose units are read out of order.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::{DigestCheck, HashState, Hasher};
use crate::{Error, Result, Watch};

/// How long a thread waits before it asks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// A hasher that takes each unit when all before it have gone in. Units are handed out in order, so the threads that wait
/// hold no more than they would anyway.
pub(super) struct InOrder {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    hasher: Hasher,
    is_broken: bool,
}

impl InOrder {
    pub(super) fn new(hasher: Hasher) -> Self {
        Self { state: Mutex::new(State { hasher, is_broken: false }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unit will not come: nobody waits for it any more.
    pub(super) fn break_off(&self) {
        self.state().is_broken = true;
        self.changed.notify_all();
    }

    /// Takes the bytes at `offset`, and returns the state behind them.
    pub(super) fn take(&self, bytes: &[u8], offset: u64, watch: &dyn Watch) -> Result<HashState> {
        let mut state = self.state();
        while state.hasher.bytes() != offset {
            if state.is_broken || watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            state = self.changed.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.hasher.update(bytes);
        let behind = state.hasher.state();
        drop(state);
        self.changed.notify_all();
        Ok(behind)
    }

    pub(super) fn finish(self, object: &str) -> Result<DigestCheck> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).hasher.finish(object)
    }
}
