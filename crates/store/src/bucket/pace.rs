//! How many requests are in flight: as many as the service bears.
//!
//! The limit grows by one for each full round of answers and is halved when the service says that it is asked too much,
//! once for all requests that were then in flight. So clients that share a service come to share it evenly.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{Bucket, Condition, Head, Read, RequestCounts, SharedBucket};
use crate::lock::unsupported;
use crate::{Entry, Error, Key, Lock, Locks, Result};

/// The bounds of the limit.
#[derive(Debug, Clone, Copy)]
pub struct PacePolicy {
    /// The limit at first.
    pub first: usize,
    /// The lowest.
    pub least: usize,
    /// The highest.
    pub most: usize,
}

impl Default for PacePolicy {
    fn default() -> Self {
        Self { first: 16, least: 1, most: 128 }
    }
}

#[derive(Debug)]
struct State {
    limit: f64,
    in_flight: usize,
    /// Counts the reductions: a request that began before the last one tells nothing new.
    reductions: u64,
}

/// The gate through which requests go.
#[derive(Debug)]
pub struct Pace {
    policy: PacePolicy,
    state: Mutex<State>,
    freed: Condvar,
}

/// A place in flight.
struct Place<'a> {
    pace: &'a Pace,
    reductions: u64,
    was_throttled: Option<bool>,
}

impl Pace {
    /// A gate at its first limit.
    #[must_use]
    pub fn new(policy: PacePolicy) -> Self {
        let limit = policy.first.clamp(policy.least.max(1), policy.most.max(1)) as f64;
        let state = Mutex::new(State { limit, in_flight: 0, reductions: 0 });
        Self { policy, state, freed: Condvar::new() }
    }

    /// How many requests may be in flight now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.state().limit as usize
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it when there is a place, and learns from what comes of it.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn run<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut place = self.enter();
        let result = act();
        place.was_throttled = match &result {
            Err(Error::Throttled { .. }) => Some(true),
            Err(error) if error.is_transient() => None,
            _ => Some(false),
        };
        result
    }

    fn enter(&self) -> Place<'_> {
        let is_full = |state: &mut State| state.in_flight >= state.limit as usize;
        let mut state = self.freed.wait_while(self.state(), is_full).unwrap_or_else(PoisonError::into_inner);
        state.in_flight += 1;
        Place { pace: self, reductions: state.reductions, was_throttled: None }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let (least, most) = (self.pace.policy.least.max(1) as f64, self.pace.policy.most.max(1) as f64);
        let mut state = self.pace.state();
        let was_full = state.in_flight >= state.limit as usize;
        state.in_flight -= 1;
        match self.was_throttled {
            Some(true) if self.reductions == state.reductions => {
                state.reductions += 1;
                state.limit = (state.limit / 2.0).max(least);
            }
            // A limit that nobody reaches is not proven, so it does not grow.
            Some(false) if was_full => state.limit = (state.limit + 1.0 / state.limit).min(most),
            _ => {}
        }
        drop(state);
        self.pace.freed.notify_all();
    }
}

/// A bucket that is asked at a pace it bears.
pub struct PacedBucket {
    inner: SharedBucket,
    pace: Pace,
}

impl PacedBucket {
    /// Paces the requests to `inner`.
    #[must_use]
    pub fn new(inner: SharedBucket, policy: PacePolicy) -> Self {
        Self { inner, pace: Pace::new(policy) }
    }
}

impl Bucket for PacedBucket {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.inner.requests()
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        self.pace.run(|| self.inner.read(key, range, size_max))
    }

    fn head(&self, key: &Key) -> Result<Head> {
        self.pace.run(|| self.inner.head(key))
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        self.pace.run(|| self.inner.write(key, parts, condition))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.pace.run(|| self.inner.delete(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.pace.run(|| self.inner.list(prefix))
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as &dyn Locks)
    }
}

/// Nobody asks unless there are locks below; should they be gone then, nothing is locked.
impl Locks for PacedBucket {
    fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        match self.inner.locks() {
            Some(locks) => self.pace.run(|| locks.lock_of(key)),
            None => Ok(None),
        }
    }

    fn lock(&self, key: &Key, lock: Lock) -> Result<()> {
        match self.inner.locks() {
            Some(locks) => self.pace.run(|| locks.lock(key, lock)),
            None => Err(unsupported(self.inner.name())),
        }
    }

    fn clock(&self) -> SystemTime {
        self.inner.locks().map_or_else(SystemTime::now, Locks::clock)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Pace, PacePolicy};
    use crate::{Error, Result};

    fn throttled() -> Result<()> {
        Err(Error::Throttled {
            store: "s".into(),
            action: "read",
            key: "k".into(),
            what: "503".into(),
            wait: None,
        })
    }

    #[test]
    fn throttling_halves_the_limit_down_to_the_least() {
        let pace = Pace::new(PacePolicy { first: 16, least: 2, most: 64 });
        let limits: Vec<usize> = (0..5)
            .map(|_| {
                assert!(pace.run(throttled).is_err());
                pace.limit()
            })
            .collect();
        assert_eq!(limits, [8, 4, 2, 2, 2]);
    }

    #[test]
    fn requests_in_flight_together_are_throttled_once() {
        let pace = Pace::new(PacePolicy { first: 16, least: 1, most: 64 });
        assert!(pace.run(|| pace.run(|| pace.run(throttled))).is_err());
        assert_eq!(pace.limit(), 8, "the outer two had begun before the reduction");
    }

    #[test]
    fn the_limit_grows_only_where_it_is_reached_and_is_never_passed() {
        let pace = Pace::new(PacePolicy { first: 2, least: 1, most: 5 });
        for _ in 0..100 {
            pace.run(|| Ok(())).unwrap();
        }
        assert_eq!(pace.limit(), 2, "one at a time proves nothing");
        let (now, highest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pace.run(|| {
                            highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(1, Ordering::SeqCst);
                            Ok(())
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert!(highest.into_inner() <= 5);
        assert!(pace.limit() > 2, "{}", pace.limit());
    }
}
