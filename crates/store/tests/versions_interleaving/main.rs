//! The real store, its requests taking turns as a seed decides, in a bucket with bad habits: what callers are told is the
//! history of a register with comparison. A failing seed is printed; `LEEWARD_SEED` runs it alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod harm;
mod history;
mod turns;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harm::{harm, has_doubtful};
use history::{Answer, Call, Event, Mend, is_explained};
use leeward_store::bucket::{Comparison, Surroundings, VersionedStore};
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::{Chains, ErrorKind, Key, Store, Version};
use turns::Turns;

fn answer(result: leeward_store::Result<()>, context: &str) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::NotFound => Answer::Refused,
            ErrorKind::Io => Answer::Unknown,
            ErrorKind::Damaged => Answer::Damaged,
            other => panic!("{context}: {other:?}: {error}"),
        },
    }
}

/// Makes a call.
fn call(store: &VersionedStore, key: &Key, call: &Call, context: &str) -> Answer {
    let done = |result: leeward_store::Result<()>| answer(result, context);
    match call {
        Call::Create(new) => done(store.put_if_absent(key, &[&new.to_le_bytes()])),
        Call::Replace(old, new) => {
            let expected = Version::of(&old.to_le_bytes());
            done(store.put_if_match(key, &new.to_le_bytes(), &expected))
        }
        Call::Delete => match store.delete(key) {
            Ok(true) => Answer::Done,
            Ok(false) => Answer::Refused,
            Err(error) => done(Err(error)),
        },
        Call::Get => match store.get(key, 8) {
            Ok((content, _)) => Answer::Found(u64::from_le_bytes(content.try_into().unwrap())),
            Err(error) => done(Err(error)),
        },
        Call::Remake(new) => done(store.replace_lost(key, &new.to_le_bytes())),
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
    /// Those after which what was left did not tell the value.
    remade: u32,
}

/// How often an object is tried to be mended before it is given another value.
const MENDS_MAX: u32 = 10;

/// Repeats a call until it does not fail in passing.
fn until_done<T>(seed: u64, call: impl Fn() -> leeward_store::Result<T>) -> T {
    loop {
        match call() {
            Ok(done) => return done,
            Err(error) => assert!(error.is_transient(), "seed {seed}: {error}"),
        }
    }
}

/// Runs a seed; meanwhile somebody takes so many parts of the object, each after the one before was mended.
fn play(seed: u64, harms: u32) -> Played {
    let mut random = Random::new(seed);
    let clients = 2 + random.below(3);
    let (mends, remade) = (Mutex::new(Vec::new()), AtomicU32::new(0));
    let habits = habits(seed);
    let bucket = MemoryBucket::new(Comparison::None, habits, seed);
    let spoilers = u64::from(harms > 0);
    let buckets: Vec<Arc<MemoryBucket>> =
        (0..clients + spoilers).map(|_| Arc::new(bucket.client())).collect();
    let turns = Arc::new(Turns::new(seed ^ 0x5eed, buckets.iter().map(|bucket| bucket.number_of_client())));
    let hooked = Arc::clone(&turns);
    bucket.set_hook(Some(Arc::new(move |request: Request<'_>| {
        hooked.wait(request.client);
        let part = request.key.rsplit('/').next().unwrap_or_default();
        hooked.note(request.client, &format!("    {} {part}", request.name));
    })));
    let (events, clock) = (Mutex::new(BTreeMap::new()), AtomicU64::new(0));
    let key = Key::new("refs/web-01%2Froot").unwrap();
    std::thread::scope(|scope| {
        for (number, bucket) in buckets.iter().enumerate() {
            let spoils = number as u64 >= clients;
            let (turns, events, mends, remade, clock, key) = (&turns, &events, &mends, &remade, &clock, &key);
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
                let tell = |what: Call| {
                    let began = clock.fetch_add(1, Ordering::SeqCst);
                    turns.note(client, &format!("{what:?}"));
                    let answer = call(&store, key, &what, &format!("seed {seed}"));
                    turns.note(client, &format!("{what:?}: {answer:?}"));
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    let event = Event { call: what, answer, began, ended };
                    events.lock().unwrap().insert(began, event.clone());
                    event
                };
                for number in 0..if spoils { harms } else { 0 } {
                    turns.wait(client);
                    let began = clock.fetch_add(1, Ordering::SeqCst);
                    let Some(lost) = harm(bucket, key, &mut random) else { continue };
                    bucket.pause(habits.lag);
                    let mend = || {
                        let mended = until_done(seed, || store.mend(key));
                        turns.note(client, &format!("mended: {mended}"));
                        mended || !until_done(seed, || store.damaged()).iter().any(|chain| chain.key == *key)
                    };
                    // What a slow writer wrote late, or has not removed yet, may as well be all that is left of a later
                    // version: then what is left of this one is not taken for the value.
                    if !(0..MENDS_MAX).any(|_| mend()) {
                        let what = "the value is there, and is not found";
                        assert!(has_doubtful(bucket, key, lost), "seed {seed}: {what}\n{}", turns.story());
                        remade.fetch_add(1, Ordering::SeqCst);
                        while tell(Call::Remake(client * 100 + u64::from(number))).answer == Answer::Unknown {
                        }
                    }
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    mends.lock().unwrap().push(Mend { began, ended });
                }
                let mut known = None;
                for number in 0..if spoils { 0 } else { calls } {
                    turns.wait(client);
                    let what = choose(&mut random, known, client * 100 + number);
                    let event = tell(what);
                    known = match (&event.call, &event.answer) {
                        (_, Answer::Found(value)) => Some(*value),
                        (Call::Create(new) | Call::Replace(_, new), Answer::Done) => Some(*new),
                        _ => known,
                    };
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
    let answer = call(&store, &key, &Call::Get, &format!("seed {seed}, in the end"));
    events.push(Event { call: Call::Get, answer, began, ended: began + 1 });
    let mends = mends.into_inner().unwrap();
    let list: Vec<String> = events.iter().map(|event| format!("{event:?}")).collect();
    assert!(
        is_explained(&events, &mends),
        "seed {seed}, {habits:?}:\n{}\n{mends:?}\n{}",
        list.join("\n"),
        turns.story()
    );
    let open = events.iter().filter(|event| event.answer == Answer::Unknown).count();
    Played { calls: events.len(), open, harms: mends.len() as u32, remade: remade.into_inner() }
}

/// Plays so many seeds, or those that were asked for.
fn play_all(seeds: u64, harms: u32) -> Played {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEEWARD_ROUNDS").unwrap_or(seeds),
    };
    let mut all = Played::default();
    for seed in seeds.clone() {
        let more = play(seed, harms);
        all.calls += more.calls;
        all.open += more.open;
        all.harms += more.harms;
        all.remade += more.remade;
    }
    println!(
        "{seeds:?}: {} calls, of which {} were left open; {} parts lost, {} values made anew",
        all.calls, all.open, all.harms, all.remade
    );
    all
}

#[test]
fn whatever_the_order_of_requests_a_changing_object_is_a_register_with_comparison() {
    let all = play_all(1500, 0);
    assert!(all.open * 10 < all.calls, "{} of {} calls were left open", all.open, all.calls);
}

/// Whoever mends is one of those who change the object, and no value that was decided becomes another.
#[test]
fn it_is_one_though_parts_are_lost_and_mended_meanwhile() {
    let all = play_all(1000, 3);
    if std::env::var("LEEWARD_SEED").is_err() {
        assert!(all.harms > 100, "{} parts", all.harms);
        assert!(all.remade * 20 < all.harms, "{} of {} values were not found", all.remade, all.harms);
    }
}
