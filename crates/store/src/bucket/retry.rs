//! Trying again.
//!
//! [`RetryBucket`] repeats what may be repeated without a thought: reads, looks, listings, deletions, and writes without a
//! condition. A conditional write whose answer was lost may have been made, and a repetition of it would then be refused
//! by its own first attempt; so it passes through here, and whoever knows what it means ([`BucketStore`]) settles it.
//!
//! [`BucketStore`]: super::BucketStore

use std::ops::Range;
use std::thread;
use std::time::{Duration, SystemTime};

use super::{Bucket, Condition, Head, Read, RequestCounts, SharedBucket};
use crate::lock::unsupported;
use crate::{Entry, Error, Key, Lock, Locks, Result};

/// How often, and how long in between.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How often at most, after the first attempt.
    pub times_max: u32,
    /// The longest first pause; it doubles with each.
    pub first: Duration,
    /// The longest pause of all.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    /// Bears a service that is away for half a minute.
    fn default() -> Self {
        Self { times_max: 10, first: Duration::from_millis(100), longest: Duration::from_secs(10) }
    }
}

/// The pauses of one operation: each is between half and all of a bound that doubles, at random, so that many clients
/// that were turned away together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    policy: RetryPolicy,
    times: u32,
}

impl Backoff {
    /// No pause made yet.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, times: 0 }
    }

    /// How long to pause after this error; `None` when it will not pass, or it was tried often enough.
    #[must_use]
    pub fn after(&mut self, error: &Error) -> Option<Duration> {
        if !error.is_transient() || self.times >= self.policy.times_max {
            return None;
        }
        let bound = self.policy.first.saturating_mul(1 << self.times.min(20)).min(self.policy.longest);
        self.times += 1;
        let asked = match error {
            Error::Throttled { wait, .. } => wait.unwrap_or_default().min(self.policy.longest),
            _ => Duration::ZERO,
        };
        Some(jittered(bound).max(asked))
    }

    /// Pauses after this error and says `true`, or says `false` at once when there is no use.
    #[must_use]
    pub fn pause(&mut self, error: &Error) -> bool {
        self.after(error).inspect(|pause| thread::sleep(*pause)).is_some()
    }
}

fn jittered(bound: Duration) -> Duration {
    let mut byte = [0; 2];
    // Without randomness the pause is the longest.
    let part = getrandom::fill(&mut byte).map_or(1.0, |()| f64::from(u16::from_le_bytes(byte)) / 65535.0);
    bound.mul_f64(0.5 + 0.5 * part)
}

/// A bucket that repeats what failed in passing.
pub struct RetryBucket {
    inner: SharedBucket,
    policy: RetryPolicy,
}

impl RetryBucket {
    /// Repeats on `inner` as the policy has it.
    #[must_use]
    pub fn new(inner: SharedBucket, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    fn repeat<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        let mut backoff = Backoff::new(self.policy);
        loop {
            match act() {
                Err(error) if backoff.pause(&error) => {}
                other => return other,
            }
        }
    }
}

impl Bucket for RetryBucket {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.inner.requests()
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        self.repeat(|| self.inner.read(key, range.clone(), size_max))
    }

    fn head(&self, key: &Key) -> Result<Head> {
        self.repeat(|| self.inner.head(key))
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        match condition {
            Condition::Always => self.repeat(|| self.inner.write(key, parts, condition)),
            Condition::Absent | Condition::Matches(_) => self.inner.write(key, parts, condition),
        }
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.repeat(|| self.inner.delete(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.repeat(|| self.inner.list(prefix))
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.inner.locks().map(|_| self as &dyn Locks)
    }
}

/// Nobody asks unless there are locks below; should they be gone then, nothing is locked.
impl Locks for RetryBucket {
    fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        match self.inner.locks() {
            Some(locks) => self.repeat(|| locks.lock_of(key)),
            None => Ok(None),
        }
    }

    fn lock(&self, key: &Key, lock: Lock) -> Result<()> {
        match self.inner.locks() {
            Some(locks) => self.repeat(|| locks.lock(key, lock)),
            None => Err(unsupported(self.inner.name())),
        }
    }

    fn clock(&self) -> SystemTime {
        self.inner.locks().map_or_else(SystemTime::now, Locks::clock)
    }
}
