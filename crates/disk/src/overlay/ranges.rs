//! Ranges that one thread at a time works on.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The ranges that are held. There are as many as threads, so a list serves.
#[derive(Default)]
pub(super) struct RangeLocks {
    held: Mutex<Vec<Range<u64>>>,
    released: Condvar,
}

/// A range that is held until this is dropped.
pub(super) struct Held<'a> {
    locks: &'a RangeLocks,
    range: Range<u64>,
}

impl RangeLocks {
    /// Waits until nobody holds any part of the range, and holds it.
    pub(super) fn hold(&self, range: Range<u64>) -> Held<'_> {
        let mut held = self.list();
        while held.iter().any(|other| other.start < range.end && range.start < other.end) {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.push(range.clone());
        Held { locks: self, range }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.list();
        if let Some(index) = held.iter().position(|other| *other == self.range) {
            held.swap_remove(index);
        }
        drop(held);
        self.locks.released.notify_all();
    }
}
