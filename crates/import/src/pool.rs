//! Threads that work on a disk, with a bound on what a crash can cost.
//!
//! Work is handed out in the order of the disk and done in any. Every now and then what is done is *settled*: made durable
//! and written into a checkpoint, while the other threads go on. No more data is handed out than fits into one window
//! after the last checkpoint, so what has to be done again after a crash is one window at most.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ledger::{Done, Ledger, Settled};
use crate::plan::{Feed, Work};
use crate::{Error, Progress, Result, Watch};

/// Pieces of work that may be done behind one that is not.
const PENDING_MAX: usize = 256;
/// How long a thread waits before it asks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// How the work is done.
pub(crate) struct Pool<'a> {
    pub(crate) threads: usize,
    pub(crate) window_bytes: u64,
    pub(crate) window_time: Duration,
    pub(crate) total_bytes: u64,
    pub(crate) watch: &'a dyn Watch,
}

/// What the threads share, but for the feed.
struct State {
    ledger: Ledger,
    /// Bytes of data that were handed out, from the start of the disk.
    handed: u64,
    /// Those before the last checkpoint.
    durable: u64,
    durable_position: u64,
    last: Instant,
    is_settling: bool,
    has_failed: bool,
}

struct Shared<'a> {
    pool: &'a Pool<'a>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Pool<'_> {
    /// Does all that the feed hands out: `work` does a piece, `settle` makes durable what is settled. Returns what was
    /// settled at the end. When it stops early, what is done by then is settled too, if that can be.
    pub(crate) fn run(
        &self,
        feed: &mut dyn Feed,
        ledger: Ledger,
        work: &(dyn Fn(Work, &mut Vec<u8>) -> Result<Done> + Sync),
        settle: &(dyn Fn(&Settled) -> Result<()> + Sync),
    ) -> Result<Settled> {
        let (position, data) = (ledger.settled().position, ledger.settled().data_bytes);
        let state = State {
            ledger,
            handed: data,
            durable: data,
            durable_position: position,
            last: Instant::now(),
            is_settling: false,
            has_failed: false,
        };
        let shared = Shared { pool: self, state: Mutex::new(state), changed: Condvar::new() };
        let feed = Mutex::new(feed);
        let body = || {
            let result = shared.work(&feed, work, settle);
            if result.is_err() {
                shared.state().has_failed = true;
                shared.changed.notify_all();
            }
            result
        };
        let result = std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads.max(1)).map(|_| scope.spawn(body)).collect();
            let own = body();
            others.into_iter().fold(own, |result, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                first_cause(result, other)
            })
        });
        let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let settled = state.ledger.settled().clone();
        let is_new = settled.position > state.durable_position || settled.position == self.total_bytes;
        let kept = if is_new { settle(&settled) } else { Ok(()) };
        result.and(kept).map(|()| settled)
    }

    fn check(&self) -> Result<()> {
        if self.watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// The first result, or that of another thread if the first is fine or only stopped.
fn first_cause(first: Result<()>, other: Result<()>) -> Result<()> {
    match (first, other) {
        (Ok(()), other) => other,
        (Err(Error::Cancelled), Err(other)) => Err(other),
        (first, _) => first,
    }
}

impl Shared<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(
        &self,
        feed: &Mutex<&mut dyn Feed>,
        work: &(dyn Fn(Work, &mut Vec<u8>) -> Result<Done> + Sync),
        settle: &(dyn Fn(&Settled) -> Result<()> + Sync),
    ) -> Result<()> {
        let mut buffer = Vec::new();
        while let Some(piece) = self.next(feed)? {
            let (offset, length) = piece.range();
            let done = work(piece, &mut buffer)?;
            self.complete(offset, offset + length, done, settle)?;
        }
        Ok(())
    }

    /// The next piece of work, when there is room for it in the window.
    fn next(&self, feed: &Mutex<&mut dyn Feed>) -> Result<Option<Work>> {
        let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        loop {
            self.pool.check()?;
            if state.has_failed {
                return Ok(None);
            }
            let has_room = state.handed - state.durable < self.pool.window_bytes;
            if has_room && state.ledger.pending() < PENDING_MAX {
                break;
            }
            state = self.changed.wait_timeout(state, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let piece = feed.next()?;
        if let Some(piece) = &piece {
            self.state().handed += piece.data_bytes();
        }
        Ok(piece)
    }

    fn complete(
        &self,
        offset: u64,
        end: u64,
        done: Done,
        settle: &(dyn Fn(&Settled) -> Result<()> + Sync),
    ) -> Result<()> {
        let mut state = self.state();
        state.ledger.complete(offset, end, done);
        self.tell(&state);
        while self.is_due(&state) {
            state.is_settling = true;
            let settled = state.ledger.settled().clone();
            drop(state);
            let result = settle(&settled);
            state = self.state();
            state.is_settling = false;
            result?;
            state.durable = settled.data_bytes;
            state.durable_position = settled.position;
            state.last = Instant::now();
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn is_due(&self, state: &State) -> bool {
        let settled = state.ledger.settled();
        let is_full = settled.data_bytes - state.durable >= self.pool.window_bytes.div_ceil(2);
        let is_late =
            state.last.elapsed() >= self.pool.window_time && settled.position > state.durable_position;
        !state.is_settling && !state.has_failed && (is_full || is_late)
    }

    fn tell(&self, state: &State) {
        let settled = state.ledger.settled();
        self.pool.watch.progress(Progress {
            done_bytes: settled.position,
            total_bytes: self.pool.total_bytes,
            data_bytes: settled.data_bytes,
        });
    }
}
