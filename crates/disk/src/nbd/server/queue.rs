//! Requests of one connection that wait to be served.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Requests that wait at most; beyond, the client is not listened to for a while.
const JOBS_MAX: usize = 128;
/// Bytes to be written that have come and are not written yet, at most.
pub(super) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// A queue with one thread that fills it and several that serve it.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    room: Condvar,
    workers_max: usize,
}

struct State<T> {
    jobs: VecDeque<T>,
    /// Workers that wait and were not called yet.
    idle: usize,
    workers: usize,
    payload_bytes: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(workers_max: usize) -> Self {
        let state = State { jobs: VecDeque::new(), idle: 0, workers: 0, payload_bytes: 0, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), room: Condvar::new(), workers_max }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_room(&self, full: impl Fn(&State<T>) -> bool) -> MutexGuard<'_, State<T>> {
        self.room.wait_while(self.state(), |state| full(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a job, once there is room. Returns whether another worker should be started for it.
    pub(super) fn push(&self, job: T) -> bool {
        let mut state = self.wait_for_room(|state| state.jobs.len() >= JOBS_MAX);
        state.jobs.push_back(job);
        if state.idle > 0 {
            state.idle -= 1;
            drop(state);
            self.filled.notify_one();
            return false;
        }
        let more = state.workers < self.workers_max;
        state.workers += usize::from(more);
        more
    }

    /// Whether nothing waits and nothing is being served.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.jobs.is_empty() && state.idle == state.workers
    }

    /// The next job; `None` when no more will come.
    pub(super) fn take(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                let was_full = state.jobs.len() + 1 == JOBS_MAX;
                drop(state);
                if was_full {
                    self.room.notify_one();
                }
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a worker could not be started; returns whether there is another.
    pub(super) fn worker_failed(&self) -> bool {
        let mut state = self.state();
        state.workers -= 1;
        state.workers > 0
    }

    /// Waits until `bytes` of payload may be received. There is always room for some when nothing waits.
    pub(super) fn reserve(&self, bytes: usize) {
        let mut state = self.wait_for_room(|state| {
            state.payload_bytes > 0 && state.payload_bytes + bytes > PAYLOAD_BYTES_MAX
        });
        state.payload_bytes += bytes;
    }

    /// Gives back what was reserved.
    pub(super) fn release(&self, bytes: usize) {
        self.state().payload_bytes -= bytes;
        self.room.notify_one();
    }

    /// No more jobs will come; workers end when those that are there are served.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }
}
