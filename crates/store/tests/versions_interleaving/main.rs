//! The real store, its requests taking turns as a seed decides, in a bucket with bad habits: what callers are told is the
//! history of a register with comparison. A failing seed is printed; `LEEWARD_SEED` runs it alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use history::{Answer, Call, Event, is_linearizable};
use leeward_store::bucket::{Bucket, Comparison, Surroundings, VersionedStore};
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::{Chains, ErrorKind, Key, Store, Version};

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

/// Makes a call; nothing when it was refused because the object is damaged: then it was not made, and read nothing.
fn call(store: &dyn Store, key: &Key, call: &Call, context: &str) -> Option<Answer> {
    let is_damaged = |error: &leeward_store::Error| error.kind() == ErrorKind::Damaged;
    let done = |result: leeward_store::Result<()>| match result {
        Err(error) if is_damaged(&error) => None,
        other => Some(answer(other, context)),
    };
    match call {
        Call::Create(new) => done(store.put_if_absent(key, &[&new.to_le_bytes()])),
        Call::Replace(old, new) => {
            let expected = Version::of(&old.to_le_bytes());
            done(store.put_if_match(key, &new.to_le_bytes(), &expected))
        }
        Call::Delete => match store.delete(key) {
            Ok(true) => Some(Answer::Done),
            Ok(false) => Some(Answer::Refused),
            Err(error) => done(Err(error)),
        },
        Call::Get => match store.get(key, 8) {
            Ok((content, _)) => Some(Answer::Found(u64::from_le_bytes(content.try_into().unwrap()))),
            Err(error) => done(Err(error)),
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

/// What came of a seed.
#[derive(Default)]
struct Played {
    calls: usize,
    /// Calls that were left open.
    open: usize,
    /// Parts that were taken from the object, and mended.
    harms: u32,
}

/// Takes a part from the version that counts, such that the others tell its value; whether there was one to take.
fn harm(bucket: &MemoryBucket, key: &Key, random: &mut Random) -> bool {
    let folder = format!("{key}%3A");
    let parts: Vec<String> = bucket
        .keys()
        .into_iter()
        .map(|part| part.to_string())
        .filter(|part| part.starts_with(&folder))
        .collect();
    let ballot = |part: &String| part.rsplit_once('.').unwrap().0.to_owned();
    let letters = |ballot: &String| -> String {
        parts
            .iter()
            .filter(|part| part.starts_with(ballot.as_str()))
            .map(|part| part.rsplit('.').next().unwrap())
            .map(|end| &end[..1])
            .collect()
    };
    let counting: BTreeSet<String> =
        parts.iter().map(ballot).filter(|ballot| letters(ballot) == "adp").collect();
    // While an older version counts beside it, the object would only seem to go back.
    let [current] = &counting.into_iter().collect::<Vec<_>>()[..] else { return false };
    let is_first = current.contains("/r00000001.");
    let letter = if is_first || random.chance(50) { 'p' } else { 'd' };
    let is_it = |part: &&String| {
        part.starts_with(current.as_str()) && part.rsplit('.').next().unwrap().starts_with(letter)
    };
    let part = Key::new(parts.iter().find(is_it).unwrap().clone()).unwrap();
    // Also when the answer is lost it may be gone.
    let _ = bucket.delete(&part);
    true
}

/// Runs a seed; meanwhile somebody takes so many parts of the object, each after the one before was mended.
fn play(seed: u64, harms: u32) -> Played {
    let mut random = Random::new(seed);
    let clients = 2 + random.below(3);
    let harmed = AtomicU64::new(0);
    let habits = habits(seed);
    let bucket = MemoryBucket::new(Comparison::None, habits, seed);
    let spoilers = u64::from(harms > 0);
    let buckets: Vec<Arc<MemoryBucket>> =
        (0..clients + spoilers).map(|_| Arc::new(bucket.client())).collect();
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
        for (number, bucket) in buckets.iter().enumerate() {
            let spoils = number as u64 >= clients;
            let harmed = &harmed;
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
                for _ in 0..if spoils { harms } else { 0 } {
                    turns.wait(client);
                    if harm(bucket, key, &mut random) {
                        harmed.fetch_add(1, Ordering::SeqCst);
                        bucket.pause(habits.lag);
                        while let Err(error) = store.mend(key) {
                            assert!(error.is_transient(), "seed {seed}: {error}");
                        }
                    }
                }
                let mut known = None;
                for number in 0..if spoils { 0 } else { calls } {
                    turns.wait(client);
                    let what = choose(&mut random, known, client * 100 + number);
                    let began = clock.fetch_add(1, Ordering::SeqCst);
                    let answer = call(&store, key, &what, &format!("seed {seed}"));
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    let Some(answer) = answer else { continue };
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
    let answer =
        call(&store, &key, &Call::Get, "in the end").unwrap_or_else(|| panic!("seed {seed}: damaged"));
    events.push(Event { call: Call::Get, answer, began, ended: began + 1 });
    let list: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    if harms > 0 {
        // Whoever mends decides the same value as a new version: who meant to replace the version before is refused, though
        // the value is the one it knows. It reads again. That a refused call did change something would still be seen.
        events.retain(|event| !matches!((&event.call, &event.answer), (Call::Replace(..), Answer::Refused)));
    }
    assert!(is_linearizable(&events), "seed {seed}, {habits:?}:\n{}", list.join("\n"));
    let open = events.iter().filter(|event| event.answer == Answer::Unknown).count();
    Played { calls: events.len(), open, harms: harmed.load(Ordering::SeqCst) as u32 }
}

/// Plays 1,500 seeds, or those that were asked for.
fn play_all(harms: u32) -> Played {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEEWARD_ROUNDS").unwrap_or(1500),
    };
    let mut all = Played::default();
    for seed in seeds.clone() {
        let more = play(seed, harms);
        (all.calls, all.open, all.harms) =
            (all.calls + more.calls, all.open + more.open, all.harms + more.harms);
    }
    println!(
        "{seeds:?}: {} calls, of which {} were left open; {} parts lost",
        all.calls, all.open, all.harms
    );
    all
}

#[test]
fn whatever_the_order_of_requests_a_changing_object_is_a_register_with_comparison() {
    let all = play_all(0);
    assert!(all.open * 10 < all.calls, "{} of {} calls were left open", all.open, all.calls);
}

/// Whoever mends is one of those who change the object, and no value that was decided becomes another.
#[test]
#[ignore = "open: seed 35 has a history that no order explains; until then chains are mended while nobody writes"]
fn it_is_one_though_parts_are_lost_and_mended_meanwhile() {
    let all = play_all(3);
    assert!(all.harms > 100 || std::env::var("LEEWARD_SEED").is_ok(), "{} parts", all.harms);
}
