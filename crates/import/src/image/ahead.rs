//! A storage as one stream, fetched ahead by several requests.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use leeward_disk::{Error as DiskError, SharedStorage};

/// What one request fetches, in bytes.
const PART_BYTES: u64 = 2 << 20;
/// Parts that are fetched or wait to be taken, at most, where all is read: 16 MiB.
pub(super) const PARTS_AHEAD: u64 = 8;
/// Requests at once.
const THREADS: u64 = 6;

struct State {
    /// The next part to fetch.
    next: u64,
    /// The part that the reader wants.
    wanted: u64,
    ready: BTreeMap<u64, Result<Vec<u8>, DiskError>>,
    is_over: bool,
}

struct Shared {
    storage: SharedStorage,
    parts_ahead: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Why a stream ended, for who reads it through a decompressor that would only say that it did.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<DiskError>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<DiskError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: DiskError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Reads a storage from its start to its end.
pub(super) struct AheadReader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    part: Vec<u8>,
    taken: usize,
    failure: Failure,
}

impl AheadReader {
    /// Fetches so many parts ahead at most.
    pub(super) fn new(storage: SharedStorage, parts_ahead: u64, failure: Failure) -> io::Result<Self> {
        let state = State { next: 0, wanted: 0, ready: BTreeMap::new(), is_over: false };
        let shared =
            Arc::new(Shared { storage, parts_ahead, state: Mutex::new(state), changed: Condvar::new() });
        let mut reader = Self { shared, threads: Vec::new(), part: Vec::new(), taken: 0, failure };
        for _ in 0..THREADS.min(parts_ahead) {
            let shared = Arc::clone(&reader.shared);
            let name = std::thread::Builder::new().name("fetch ahead".to_owned());
            reader.threads.push(name.spawn(move || shared.fetch())?);
        }
        Ok(reader)
    }

    fn next_part(&mut self) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.wanted * PART_BYTES >= self.shared.storage.size() {
            self.part.clear();
            self.taken = 0;
            return Ok(());
        }
        let wanted = state.wanted;
        let part = loop {
            if let Some(part) = state.ready.remove(&wanted) {
                break part;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.wanted += 1;
        drop(state);
        self.shared.changed.notify_all();
        self.taken = 0;
        self.part = part.map_err(|error| {
            let text = error.to_string();
            self.failure.set(error);
            io::Error::other(text)
        })?;
        Ok(())
    }
}

impl Read for AheadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.part.len() {
            self.next_part()?;
        }
        let rest = &self.part[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl Drop for AheadReader {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // One that has died has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches one part after the other.
    fn fetch(&self) {
        while let Some(number) = self.claim() {
            let offset = number * PART_BYTES;
            let mut part = vec![0; (self.storage.size() - offset).min(PART_BYTES) as usize];
            let read = self.storage.read_at(&mut part, offset).map(|()| part);
            self.state().ready.insert(number, read);
            self.changed.notify_all();
        }
    }

    /// The next part to fetch, when there is room for it.
    fn claim(&self) -> Option<u64> {
        let mut state = self.state();
        loop {
            if state.is_over || state.next * PART_BYTES >= self.storage.size() {
                return None;
            }
            if state.next < state.wanted + self.parts_ahead {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
