//! What vouches for an object without a request.
//!
//! A listing vouches for each object that it shows, for one open, and an own write does so for the object written. Any
//! other question that is put to the store, and any answer of it, ends that. So whoever opens an object by a voucher has
//! learnt nothing through this store since the listing, and cannot tell that open from one at the moment of the listing:
//! the order in which a collection and its writers look at things is kept, whatever time has passed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Entry, Key};

/// A longer listing vouches for nothing: its objects would not be opened in one go.
const ENTRIES_MAX: usize = 1 << 16;
/// How long a voucher is good. No promise rests on it: what was learnt elsewhere shall not be contradicted for long.
const TIME_MAX: Duration = Duration::from_secs(60);

/// The vouchers of one process.
#[derive(Default)]
pub(super) struct Vouchers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counts what ends vouchers.
    epoch: u64,
    sizes: HashMap<Key, (u64, Instant)>,
}

/// A listing that is under way.
pub(super) struct Listing {
    epoch: u64,
}

/// A question that is under way; its answer ends vouchers as well, because a listing may have been faster.
pub(super) struct Passing<'a> {
    vouchers: &'a Vouchers,
}

/// The moment at which a question was answered.
pub(super) struct End {
    epoch: u64,
}

impl Passing<'_> {
    /// The question is answered.
    pub(super) fn end(self) -> End {
        let epoch = self.vouchers.withdraw();
        // What dropping would do is done.
        std::mem::forget(self);
        End { epoch }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.vouchers.withdraw();
    }
}

impl Vouchers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all vouchers, and those of listings that are under way. Returns the new epoch.
    pub(super) fn withdraw(&self) -> u64 {
        let mut state = self.state();
        state.epoch += 1;
        state.sizes.clear();
        state.epoch
    }

    /// A question to the store begins; it ends when what is returned is dropped.
    pub(super) fn pass(&self) -> Passing<'_> {
        self.withdraw();
        Passing { vouchers: self }
    }

    /// A listing begins.
    pub(super) fn begin(&self) -> Listing {
        Listing { epoch: self.withdraw() }
    }

    /// A listing has shown these objects.
    pub(super) fn show(&self, listing: &Listing, entries: &[Entry]) {
        let mut state = self.state();
        let is_alone = state.epoch == listing.epoch;
        state.epoch += 1;
        state.sizes.clear();
        if is_alone && entries.len() <= ENTRIES_MAX {
            let now = Instant::now();
            state.sizes.extend(entries.iter().map(|entry| (entry.key.clone(), (entry.size, now))));
        }
    }

    /// An object was written with so many bytes, by the question that this is the end of. It vouches unless somebody has
    /// asked something since: that may have been a deletion.
    pub(super) fn add(&self, end: &End, key: &Key, size: u64) {
        let mut state = self.state();
        if state.epoch == end.epoch {
            state.sizes.insert(key.clone(), (size, Instant::now()));
        }
    }

    /// Takes the voucher for an object: its size.
    pub(super) fn take(&self, key: &Key) -> Option<u64> {
        let (size, since) = self.state().sizes.remove(key)?;
        (since.elapsed() <= TIME_MAX).then_some(size)
    }
}
