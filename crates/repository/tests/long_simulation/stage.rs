//! A stage on which processes take turns, one operation of the store or one request to a bucket each, as a seed decides, and
//! on which some of them are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use leeward_store::bucket::{Bucket, Condition, Head, Read, SharedBucket};
use leeward_store::simulation::Random;
use leeward_store::{Entry, Error, Key, Object, Result, SharedStore, Store, Version};

/// Where a process dies.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// Before its operation of this number, counted from 0.
    pub at: u64,
    /// That operation is done all the same, and nobody learns of it.
    pub after: bool,
}

struct State {
    random: Random,
    /// Processes that have not ended.
    running: BTreeSet<u64>,
    /// Threads that wait, by process.
    waiting: BTreeMap<u64, usize>,
    /// Whose turn it is.
    next: Option<u64>,
    /// Whether somebody is taking a turn.
    is_busy: bool,
    /// Who goes on for so many turns, so that others stand still meanwhile.
    burst: (u64, u64),
    /// Operations done, by process.
    done: BTreeMap<u64, u64>,
    deaths: BTreeMap<u64, Death>,
    dead: BTreeSet<u64>,
}

/// The turns of one round.
pub struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a process may do when its turn has come.
enum Fate {
    /// The turns are over for it.
    IsAlone,
    Lives,
    DiesBefore,
    DiesAfter,
}

impl Stage {
    pub fn new(seed: u64, processes: &[u64], deaths: BTreeMap<u64, Death>) -> Arc<Self> {
        let state = State {
            random: Random::new(seed),
            running: processes.iter().copied().collect(),
            waiting: BTreeMap::new(),
            next: None,
            is_busy: false,
            burst: (0, 0),
            done: BTreeMap::new(),
            deaths,
            dead: BTreeSet::new(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Whether a process was killed.
    pub fn is_dead(&self, process: u64) -> bool {
        self.state.lock().unwrap().dead.contains(&process)
    }

    /// A process has ended by itself, or noticed that it is dead.
    pub fn end(&self, process: u64) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&process);
        state.choose();
        self.changed.notify_all();
    }

    fn wait(&self, process: u64) -> Fate {
        let mut state = self.state.lock().unwrap();
        if !state.running.contains(&process) {
            return Fate::IsAlone;
        }
        *state.waiting.entry(process).or_default() += 1;
        state.choose();
        self.changed.notify_all();
        while state.next != Some(process) {
            state = self.changed.wait(state).unwrap();
        }
        (state.next, state.is_busy) = (None, true);
        *state.waiting.entry(process).or_default() -= 1;
        state.fate(process)
    }
}

impl State {
    /// Chooses who is next, when everybody who has not ended waits: so a seed gives nearly the same run again.
    fn choose(&mut self) {
        let all_wait =
            self.running.iter().all(|process| self.waiting.get(process).is_some_and(|count| *count > 0));
        if self.next.is_some() || self.is_busy || self.running.is_empty() || !all_wait {
            return;
        }
        let (process, left) = self.burst;
        if left > 0 && self.running.contains(&process) {
            (self.next, self.burst) = (Some(process), (process, left - 1));
            return;
        }
        let running: Vec<u64> = self.running.iter().copied().collect();
        let process = running[self.random.below(running.len() as u64) as usize];
        let length = if self.random.chance(10) { self.random.below(120) } else { self.random.below(4) };
        (self.next, self.burst) = (Some(process), (process, length));
    }

    fn fate(&mut self, process: u64) -> Fate {
        if self.dead.contains(&process) {
            return Fate::DiesBefore;
        }
        let done = self.done.entry(process).or_default();
        let number = *done;
        *done += 1;
        match self.deaths.get(&process) {
            Some(death) if number >= death.at => {
                self.dead.insert(process);
                if death.after { Fate::DiesAfter } else { Fate::DiesBefore }
            }
            _ => Fate::Lives,
        }
    }
}

impl Stage {
    /// Does what a process means to do, when its turn has come and as far as it lives.
    fn act<T>(&self, process: u64, place: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = match self.wait(process) {
            Fate::IsAlone => return action(),
            Fate::Lives => action(),
            Fate::DiesBefore => Err(death(place)),
            Fate::DiesAfter => {
                // What comes of it nobody learns.
                let _ = action();
                Err(death(place))
            }
        };
        self.finish();
        result
    }

    /// A turn is over. The thread that took it may never ask for another one: then it waits for a thread of its process that
    /// has asked already.
    fn finish(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_busy = false;
        state.choose();
        self.changed.notify_all();
    }
}

/// What a process is told that is dead. Nothing tries again after that.
fn death(place: &str) -> Error {
    Error::Io {
        store: place.to_owned(),
        action: "reach",
        key: "anything".to_owned(),
        source: std::io::Error::other("the process was killed"),
    }
}

/// A bucket as a process on a stage sees it.
pub struct StagedBucket {
    pub bucket: SharedBucket,
    pub stage: Arc<Stage>,
    pub process: u64,
}

impl StagedBucket {
    fn act<T>(&self, action: impl FnOnce(&dyn Bucket) -> Result<T>) -> Result<T> {
        self.stage.act(self.process, self.bucket.name(), || action(self.bucket.as_ref()))
    }
}

impl Bucket for StagedBucket {
    fn name(&self) -> &str {
        self.bucket.name()
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        self.act(|bucket| bucket.read(key, range, size_max))
    }

    fn head(&self, key: &Key) -> Result<Head> {
        self.act(|bucket| bucket.head(key))
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        self.act(|bucket| bucket.write(key, parts, condition))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.act(|bucket| bucket.delete(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.act(|bucket| bucket.list(prefix))
    }
}

/// A store as a process on a stage sees it.
pub struct Staged {
    pub store: SharedStore,
    pub stage: Arc<Stage>,
    pub process: u64,
}

impl Staged {
    fn act<T>(&self, action: impl FnOnce(&dyn Store) -> Result<T>) -> Result<T> {
        self.stage.act(self.process, self.store.name(), || action(self.store.as_ref()))
    }
}

impl Store for Staged {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        self.store.requests_at_once()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        self.act(|store| store.open(key))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        self.act(|store| store.get(key, size_max))
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.act(|store| store.put_if_absent(key, parts))
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.act(|store| store.put_if_match(key, content, expected))
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.act(|store| store.delete(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.act(|store| store.list(prefix))
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.act(|store| store.settle(prefix))
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.act(|store| store.sweep_leftovers())
    }
}
