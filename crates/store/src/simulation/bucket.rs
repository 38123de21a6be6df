//! A bucket in memory with the habits of real services: it compares, only creates, or ignores conditions; its reads and
//! listings lag; a listing is no picture of one moment; requests fail before or after they took effect, or take effect
//! long after they have failed.
//!
//! Time is virtual: every request takes a millisecond, a pause takes what it is told, and nobody waits for long. What a seed
//! chooses is chosen in the order in which requests come, so that with a [`Hook`] that orders them a seed gives the
//! same run again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Random;
use crate::bucket::{Bucket, Comparison, Condition, Head, Read, Surroundings, Tag};
use crate::{Entry, Error, Key, Result};

/// How long a request takes.
const REQUEST: Duration = Duration::from_millis(1);
/// How much faster than real time pauses are.
const PACE: u32 = 100;

/// What the service does to those who use it. The default is the best of all services.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// Reads, listings and looks show each object as it was at some moment of so much time before.
    pub lag: Duration,
    /// Whether a listing shows some objects as they were before it, and others as they were after.
    pub has_torn_listings: bool,
    /// Of a hundred requests so many fail before they take effect.
    pub refused_percent: u64,
    /// Of a hundred writes so many take effect and fail all the same.
    pub lost_percent: u64,
    /// Of a hundred writes so many fail and take effect later, within a minute.
    pub late_percent: u64,
}

/// A request, or a pause, that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Number of the client.
    pub client: u64,
    /// `read`, `head`, `write`, `delete`, `list`, `list further`, `pause`.
    pub name: &'static str,
    /// The key or the prefix; nothing for a pause.
    pub key: &'a str,
}

/// Called before every request, in the thread that makes it, while nothing is locked: it may block to let others go
/// first.
pub type Hook = Arc<dyn Fn(Request<'_>) + Send + Sync>;

type Content = Option<(Arc<Vec<u8>>, u64)>;

struct State {
    now: Duration,
    random: Random,
    /// What each object was, since when; the last one is what it is.
    objects: BTreeMap<Key, Vec<(Duration, Content)>>,
    late: Vec<(Duration, Key, Arc<Vec<u8>>)>,
    tags: u64,
    habits: Habits,
}

struct Shared {
    comparison: Comparison,
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    clients: AtomicU64,
    requests: AtomicU64,
}

/// One client's view of a bucket in memory.
pub struct MemoryBucket {
    shared: Arc<Shared>,
    client: u64,
    numbers: Mutex<Random>,
}

impl MemoryBucket {
    /// An empty bucket of a service that compares like this.
    #[must_use]
    pub fn new(comparison: Comparison, habits: Habits, seed: u64) -> Self {
        let state = State {
            now: Duration::from_secs(1000),
            random: Random::new(seed),
            objects: BTreeMap::new(),
            late: Vec::new(),
            tags: 0,
            habits,
        };
        let shared = Shared {
            comparison,
            state: Mutex::new(state),
            hook: Mutex::new(None),
            clients: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), client: 0, numbers: Mutex::new(Random::new(seed ^ 1)) }
    }

    /// Another client of the same bucket.
    #[must_use]
    pub fn client(&self) -> Self {
        let client = self.shared.clients.fetch_add(1, Ordering::SeqCst) + 1;
        let seed = self.state().random.number();
        Self { shared: Arc::clone(&self.shared), client, numbers: Mutex::new(Random::new(seed ^ client)) }
    }

    /// The number of this client; the first is 0.
    #[must_use]
    pub fn number_of_client(&self) -> u64 {
        self.client
    }

    /// Sets or removes what is called before every request.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Replaces the service's habits.
    pub fn set_habits(&self, habits: Habits) {
        self.state().habits = habits;
    }

    /// How many requests all clients have made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The objects that are there, whatever a reader may see.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        let mut state = self.state();
        state.land(true);
        let is_there = |history: &[(Duration, Content)]| history.last().is_some_and(|(_, now)| now.is_some());
        state.objects.iter().filter(|(_, history)| is_there(history)).map(|(key, _)| key.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ordered(&self) -> bool {
        self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn tell(&self, name: &'static str, key: &str) {
        let hook = self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(Request { client: self.client, name, key });
        }
    }

    /// Begins a request: the others go first if they like, time passes, and it may fail.
    fn begin(&self, name: &'static str, key: &str) -> Result<MutexGuard<'_, State>> {
        self.tell(name, key);
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state();
        state.now += REQUEST;
        state.land(false);
        let refused = state.habits.refused_percent;
        if state.random.chance(refused) {
            return Err(self.failed(name, key, "the service was busy"));
        }
        Ok(state)
    }

    fn failed(&self, action: &'static str, key: &str, what: &str) -> Error {
        Error::Remote {
            store: self.name().to_owned(),
            action,
            key: key.to_owned(),
            what: what.to_owned(),
            is_transient: true,
        }
    }

    fn seen(&self, state: &mut State, key: &Key) -> Result<(Arc<Vec<u8>>, u64)> {
        state.view(key).ok_or_else(|| Error::NotFound { store: self.name().to_owned(), key: key.to_string() })
    }

    fn tag(&self, number: u64) -> Option<Tag> {
        (self.shared.comparison == Comparison::Native).then(|| Tag(number.to_string()))
    }
}

impl State {
    /// Lets late writes take effect that are due, or all of them.
    fn land(&mut self, all: bool) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| all || *at <= self.now);
        self.late = later;
        for (_, key, content) in due {
            self.change(&key, Some(content));
        }
    }

    fn change(&mut self, key: &Key, content: Option<Arc<Vec<u8>>>) {
        self.tags += 1;
        let (now, tag, lag) = (self.now, self.tags, self.habits.lag);
        let history = self.objects.entry(key.clone()).or_default();
        history.push((now, content.map(|content| (content, tag))));
        // Only what somebody may still be shown is kept.
        let shown = history.iter().rposition(|(since, _)| *since + lag < now).unwrap_or(0);
        history.drain(..shown);
        if history.iter().all(|(_, content)| content.is_none()) && lag.is_zero() {
            self.objects.remove(key);
        }
    }

    fn present(&self, key: &Key) -> Content {
        self.objects.get(key).and_then(|history| history.last()).and_then(|(_, content)| content.clone())
    }

    /// What a reader is shown of an object.
    fn view(&mut self, key: &Key) -> Content {
        let lag = u64::try_from(self.habits.lag.as_nanos()).unwrap_or(u64::MAX);
        let back = if lag == 0 { 0 } else { self.random.below(lag.saturating_add(1)) };
        let moment = self.now.saturating_sub(Duration::from_nanos(back));
        let history = self.objects.get(key)?;
        history.iter().rev().find(|(since, _)| *since <= moment).and_then(|(_, content)| content.clone())
    }

    /// Forgets an object that nobody can be shown any more.
    fn forget(&mut self, key: &Key) {
        let (now, lag) = (self.now, self.habits.lag);
        let history = self.objects.get(key).map(Vec::as_slice).unwrap_or_default();
        if matches!(history.last(), Some((since, None)) if *since + lag < now) {
            self.objects.remove(key);
        }
    }

    fn listed(&mut self, prefix: &str) -> BTreeMap<Key, u64> {
        let start = format!("{prefix}/");
        let Some(first) = Key::new(format!("{prefix}/0")) else { return BTreeMap::new() };
        // Keys that begin with `-`, `.` or `%` after the slash sort before those with a digit.
        let before = self.objects.range(..first.clone()).rev();
        let before = before.take_while(|(key, _)| key.as_str().starts_with(&start));
        let after = self.objects.range(first..).take_while(|(key, _)| key.as_str().starts_with(&start));
        let keys: Vec<Key> = before.chain(after).map(|(key, _)| key.clone()).collect();
        let mut listed = BTreeMap::new();
        for key in keys {
            if let Some((content, _)) = self.view(&key) {
                listed.insert(key, content.len() as u64);
            } else {
                self.forget(&key);
            }
        }
        listed
    }
}

impl Bucket for MemoryBucket {
    fn name(&self) -> &str {
        "memory:"
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read> {
        let mut state = self.begin("read", key.as_str())?;
        let (content, tag) = self.seen(&mut state, key)?;
        let size = content.len() as u64;
        if range.is_none() && size > size_max {
            let (store, key) = (self.name().to_owned(), key.to_string());
            return Err(Error::TooLarge { store, key, size, size_max });
        }
        let range = range.unwrap_or(0..size);
        let part = range.start.min(size) as usize..range.end.min(size) as usize;
        Ok(Read { content: content[part].to_vec(), size, tag: self.tag(tag) })
    }

    fn head(&self, key: &Key) -> Result<Head> {
        let mut state = self.begin("head", key.as_str())?;
        let (content, tag) = self.seen(&mut state, key)?;
        Ok(Head { size: content.len() as u64, tag: self.tag(tag) })
    }

    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        let mut state = self.begin("write", key.as_str())?;
        let present = state.present(key);
        let (store, name) = (self.name().to_owned(), key.to_string());
        match (condition, self.shared.comparison) {
            (Condition::Absent, Comparison::Native | Comparison::CreateOnly) if present.is_some() => {
                return Err(Error::AlreadyExists { store, key: name });
            }
            (Condition::Matches(tag), Comparison::Native)
                if present.as_ref().and_then(|(_, number)| self.tag(*number)).as_ref() != Some(tag) =>
            {
                return Err(Error::Conflict { store, key: name });
            }
            // As Garage does: a condition that is not known is not an error.
            _ => {}
        }
        let content = Arc::new(parts.concat());
        let (late, lost) = (state.habits.late_percent, state.habits.lost_percent);
        if state.random.chance(late) {
            let at = state.now + Duration::from_millis(state.random.below(60_000));
            state.late.push((at, key.clone(), content));
            return Err(self.failed("write", key.as_str(), "the connection was cut"));
        }
        state.change(key, Some(content));
        if state.random.chance(lost) {
            return Err(self.failed("write", key.as_str(), "the answer was lost"));
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let mut state = self.begin("delete", key.as_str())?;
        if state.present(key).is_some() {
            state.change(key, None);
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut state = self.begin("list", prefix)?;
        let mut shown = state.listed(prefix);
        if state.habits.has_torn_listings {
            drop(state);
            self.tell("list further", prefix);
            let mut state = self.state();
            state.now += REQUEST;
            state.land(false);
            let after = state.listed(prefix);
            let keys: BTreeSet<Key> = shown.keys().chain(after.keys()).cloned().collect();
            for key in keys {
                if state.random.chance(50) {
                    match after.get(&key) {
                        Some(size) => shown.insert(key, *size),
                        None => shown.remove(&key),
                    };
                }
            }
        }
        Ok(shown.into_iter().map(|(key, size)| Entry { key, size }).collect())
    }
}

impl Surroundings for MemoryBucket {
    fn number(&self) -> Result<u64> {
        // Clients draw from sequences of their own, so that threads do not swap numbers; the lowest bit keeps off 0.
        Ok(self.numbers.lock().unwrap_or_else(PoisonError::into_inner).number() | 1)
    }

    fn pause(&self, time: Duration) {
        if !time.is_zero() {
            self.tell("pause", "");
            self.state().now += time;
            if !self.is_ordered() {
                // Threads that nobody orders must really step aside, or they are in each other's way for ever.
                std::thread::sleep(time / PACE);
            }
        }
    }

    fn time(&self) -> Duration {
        self.state().now
    }
}
