//! The real store, its requests taking turns as a seed decides, in a bucket with bad habits: what callers are told is the
//! history of a register with comparison. A failing seed is printed; `LEEWARD_SEED` runs it alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use history::{Answer, Call, Event, is_linearizable};
use leeward_store::bucket::{Comparison, VersionedStore};
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::{ErrorKind, Key, Store, Version};

/// Lets clients take turns, one request each. A client is next only when every other one waits or has ended.
struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

struct TurnState {
    random: Random,
    running: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    next: Option<u64>,
    /// Who goes on for so many turns: the others stand still meanwhile.
    burst: (u64, u64),
}

impl Turns {
    fn choose(state: &mut TurnState) {
        if state.next.is_some() || state.running.is_empty() || state.waiting != state.running {
            return;
        }
        let (client, left) = state.burst;
        if left > 0 && state.running.contains(&client) {
            state.burst = (client, left - 1);
        } else {
            let running: Vec<u64> = state.running.iter().copied().collect();
            let client = running[state.random.below(running.len() as u64) as usize];
            state.burst = (client, [0, 1, 3, 10, 60][state.random.below(5) as usize]);
        }
        state.next = Some(state.burst.0);
    }

    fn wait(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        state.waiting.insert(client);
        Self::choose(&mut state);
        self.changed.notify_all();
        while state.next != Some(client) {
            state = self.changed.wait(state).unwrap();
        }
        state.next = None;
        state.waiting.remove(&client);
    }

    fn end(&self, client: u64) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&client);
        Self::choose(&mut state);
        self.changed.notify_all();
    }
}

fn answer(result: leeward_store::Result<()>, context: &str) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::NotFound => Answer::Refused,
            ErrorKind::Io => Answer::Unknown,
            other => panic!("{context}: {other:?}: {error}"),
        },
    }
}

fn call(store: &dyn Store, key: &Key, call: &Call, context: &str) -> Answer {
    match call {
        Call::Create(new) => answer(store.put_if_absent(key, &[&new.to_le_bytes()]), context),
        Call::Replace(old, new) => {
            let expected = Version::of(&old.to_le_bytes());
            answer(store.put_if_match(key, &new.to_le_bytes(), &expected), context)
        }
        Call::Delete => match store.delete(key) {
            Ok(true) => Answer::Done,
            Ok(false) => Answer::Refused,
            Err(error) => answer(Err(error), context),
        },
        Call::Get => match store.get(key, 8) {
            Ok((content, _)) => Answer::Found(u64::from_le_bytes(content.try_into().unwrap())),
            Err(error) => answer(Err(error), context),
        },
    }
}

/// What a client does next: mostly what has a chance, sometimes not.
fn choose(random: &mut Random, known: Option<u64>, new: u64) -> Call {
    match (random.below(10), known) {
        (0..=1, _) => Call::Delete,
        (2..=3, _) => Call::Get,
        (4..=8, Some(old)) => Call::Replace(old, new),
        _ => Call::Create(new),
    }
}

fn habits(seed: u64) -> Habits {
    let base = Habits { has_torn_listings: seed.is_multiple_of(2), ..Habits::default() };
    match seed % 5 {
        0 | 1 => base,
        2 => Habits { refused_percent: 3, lost_percent: 5, late_percent: 5, ..base },
        3 => Habits { lag: Duration::from_millis(40), ..base },
        _ => Habits {
            lag: Duration::from_millis(40),
            refused_percent: 3,
            lost_percent: 4,
            late_percent: 4,
            ..base
        },
    }
}

/// Runs a seed; returns how many calls there were, and how many of them were left open.
fn play(seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let clients = 2 + random.below(3);
    let habits = habits(seed);
    let bucket = MemoryBucket::new(Comparison::None, habits, seed);
    let buckets: Vec<Arc<MemoryBucket>> = (0..clients).map(|_| Arc::new(bucket.client())).collect();
    let turns = Arc::new(Turns {
        state: Mutex::new(TurnState {
            random: Random::new(seed ^ 0x5eed),
            running: buckets.iter().map(|bucket| bucket.number_of_client()).collect(),
            waiting: BTreeSet::new(),
            next: None,
            burst: (0, 0),
        }),
        changed: Condvar::new(),
    });
    let hooked = Arc::clone(&turns);
    bucket.set_hook(Some(Arc::new(move |request: Request<'_>| hooked.wait(request.client))));
    let (events, clock) = (Mutex::new(BTreeMap::new()), AtomicU64::new(0));
    let key = Key::new("refs/web-01%2Froot").unwrap();
    std::thread::scope(|scope| {
        for bucket in &buckets {
            let (turns, events, clock, key) = (&turns, &events, &clock, &key);
            let mut random = Random::new(random.number());
            let calls = 2 + random.below(4);
            scope.spawn(move || {
                // Also when it fails, or the others would wait for it.
                struct End<'a>(&'a Turns, u64);
                impl Drop for End<'_> {
                    fn drop(&mut self) {
                        self.0.end(self.1);
                    }
                }
                let client = bucket.number_of_client();
                let _end = End(turns, client);
                let store = VersionedStore::new(Arc::clone(bucket) as _, Comparison::None).unwrap();
                let store = store.with_lag(habits.lag).with_surroundings(Arc::clone(bucket) as _);
                let mut known = None;
                for number in 0..calls {
                    turns.wait(client);
                    let what = choose(&mut random, known, client * 100 + number);
                    let began = clock.fetch_add(1, Ordering::SeqCst);
                    let answer = call(&store, key, &what, &format!("seed {seed}"));
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    known = match (&what, &answer) {
                        (_, Answer::Found(value)) => Some(*value),
                        (Call::Create(new) | Call::Replace(_, new), Answer::Done) => Some(*new),
                        _ => known,
                    };
                    events.lock().unwrap().insert(began, Event { call: what, answer, began, ended });
                }
            });
        }
    });
    bucket.set_hook(None);
    bucket.set_habits(Habits { lag: habits.lag, ..Habits::default() });
    // What is late comes now, and must not be seen.
    let _ = bucket.keys();
    let bucket = Arc::new(bucket);
    let store = VersionedStore::new(Arc::clone(&bucket) as _, Comparison::None).unwrap();
    let store = store.with_lag(habits.lag).with_surroundings(bucket);
    let mut events: Vec<Event> = events.into_inner().unwrap().into_values().collect();
    let began = clock.fetch_add(2, Ordering::SeqCst);
    let answer = call(&store, &key, &Call::Get, "in the end");
    events.push(Event { call: Call::Get, answer, began, ended: began + 1 });
    let list: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    assert!(is_linearizable(&events), "seed {seed}, {habits:?}:\n{}", list.join("\n"));
    (events.len(), events.iter().filter(|event| event.answer == Answer::Unknown).count())
}

#[test]
fn whatever_the_order_of_requests_a_changing_object_is_a_register_with_comparison() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEEWARD_ROUNDS").unwrap_or(1500),
    };
    let rounds = seeds.end - seeds.start;
    let (mut calls, mut open) = (0, 0);
    for seed in seeds {
        let (more, unknown) = play(seed);
        (calls, open) = (calls + more, open + unknown);
    }
    println!("{rounds} rounds, {calls} calls, of which {open} were left open");
    assert!(open * 10 < calls, "{open} of {calls} calls were left open");
}
