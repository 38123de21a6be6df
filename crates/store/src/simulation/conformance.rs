//! What every store must do, for the tests of each implementation.
//!
//! A store passes when [`run`] returns; what it does wrong is told by a failed assertion.
#![allow(clippy::unwrap_used, reason = "support of tests: a failure ends the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::Random;
use crate::{Error, ErrorKind, Key, Store, Version};

/// The prefixes that the store under test must have; it must be empty.
pub const PREFIXES: [&str; 2] = ["things", "names"];

const THREADS: usize = 8;

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

/// What a store tells several callers that delete one object at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Exactly one hears that it was there.
    IsToldOnce,
    /// At least one does: object stores do not tell. Nor do they always tell whether a replacement was made for a while.
    IsToldToSome,
}

/// How often the suite does what it does; it leaves nothing out.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Objects in a listing.
    objects: usize,
    /// Times that something is raced for.
    races: u8,
    /// Times that each of the racing threads adds to what they all change.
    marks: u8,
    /// Contents that an object has one after the other: so many tens.
    tens: u8,
}

impl Extent {
    /// As much as shows what happens one time in hundreds.
    pub const WHOLE: Self = Self { objects: 300, races: 20, marks: 10, tens: 6 };
    /// For services at which each change of an object takes many requests: a tenth of them.
    pub const SMALL: Self = Self { objects: 24, races: 2, marks: 2, tens: 1 };
}

/// Runs the whole suite on a store that tells a deletion once.
pub fn run(store: &Arc<dyn Store>) {
    run_with(store, Deletion::IsToldOnce);
}

/// Runs the whole suite.
pub fn run_with(store: &Arc<dyn Store>, deletion: Deletion) {
    run_to(store, deletion, Extent::WHOLE);
}

/// Runs the suite to some extent, and prints how long each promise takes.
pub fn run_to(store: &Arc<dyn Store>, deletion: Deletion, extent: Extent) {
    let store = store.as_ref();
    timed("objects come back", || objects_come_back(store));
    timed("absence and size are told", || absence_and_size_are_told(store));
    timed("listings are in order and complete", || listings_are_in_order_and_complete(store, extent));
    timed("deleting is told", || deleting_is_told(store, deletion, extent));
    timed("one creator wins", || one_creator_wins(store, extent));
    timed("one replacement wins", || one_replacement_wins(store, deletion, extent));
    timed("collecting by replacement loses nothing", || {
        collecting_by_replacement_loses_nothing(store, deletion, extent);
    });
    timed("no part of an object is ever seen", || no_part_of_an_object_is_ever_seen(store, extent));
    timed("creating and deleting race", || creating_and_deleting_race(store, deletion, extent));
    store.settle("things").unwrap();
    store.sweep_leftovers().unwrap();
}

fn timed(promise: &str, check: impl FnOnce()) {
    let began = Instant::now();
    check();
    println!("{promise}: {:.1} s", began.elapsed().as_secs_f64());
}

fn all(store: &dyn Store, key: &Key) -> Vec<u8> {
    store.get(key, u64::MAX).unwrap().0
}

fn objects_come_back(store: &dyn Store) {
    let mut large = vec![0; 3 << 20];
    Random::new(1).fill(&mut large);
    let cases: [(&str, Vec<&[u8]>); 4] = [
        ("empty", vec![]),
        ("empty-parts", vec![b"", b""]),
        ("parts", vec![b"one", b"", b"two"]),
        ("large.1_-%2F", vec![&large[..10], &large[10..]]),
    ];
    for (name, parts) in cases {
        let whole = parts.concat();
        store.put_if_absent(&key(name), &parts).unwrap();
        let (content, version) = store.get(&key(name), whole.len() as u64).unwrap();
        assert!(content == whole, "{name}");
        assert_eq!(version, Version::of(&whole));
        let object = store.open(&key(name)).unwrap();
        assert_eq!(object.size(), whole.len() as u64);
        if whole.len() > 100 {
            let mut part = [0; 50];
            object.read_at(&mut part, 40).unwrap();
            assert_eq!(part, whole[40..90]);
            assert!(object.read_at(&mut part, whole.len() as u64 - 49).is_err(), "past the end");
        }
        assert!(store.delete(&key(name)).unwrap());
    }
}

fn absence_and_size_are_told(store: &dyn Store) {
    let absent = key("absent");
    assert_eq!(store.get(&absent, 10).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.open(&absent).err().unwrap().kind(), ErrorKind::NotFound);
    let unwritten = store.put_if_match(&absent, b"x", &Version::of(b""));
    assert_eq!(unwritten.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.get(&absent, 10).unwrap_err().kind(), ErrorKind::NotFound);
    store.put_if_absent(&absent, &[&[1; 100]]).unwrap();
    assert_eq!(store.get(&absent, 99).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(store.put_if_absent(&absent, &[b"other"]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(all(store, &absent), [1; 100], "a refused write changes nothing");
    let stale = store.put_if_match(&absent, b"x", &Version::of(b"never"));
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(all(store, &absent), [1; 100]);
    store.put_if_match(&absent, b"shorter", &Version::of(&[1; 100])).unwrap();
    assert_eq!(all(store, &absent), b"shorter");
    assert!(store.delete(&absent).unwrap());
}

fn listings_are_in_order_and_complete(store: &dyn Store, extent: Extent) {
    assert!(store.list("things").unwrap().is_empty());
    let mut random = Random::new(2);
    let mut names: Vec<String> = (0..extent.objects).map(|_| format!("{:016x}", random.number())).collect();
    for name in &names {
        store.put_if_absent(&key(name), &[name.as_bytes()]).unwrap();
    }
    store.put_if_absent(&Key::under("names", "other").unwrap(), &[b"x"]).unwrap();
    names.sort();
    let listed = store.list("things").unwrap();
    assert!(listed.iter().map(|entry| entry.key.name()).eq(names.iter().map(String::as_str)));
    assert!(listed.iter().all(|entry| entry.size == 16 && entry.key.as_str().starts_with("things/")));
    for name in &names {
        assert!(store.delete(&key(name)).unwrap());
    }
    assert!(store.list("things").unwrap().is_empty());
    assert_eq!(store.list("names").unwrap().len(), 1);
    assert!(store.delete(&Key::under("names", "other").unwrap()).unwrap());
}

fn deleting_is_told(store: &dyn Store, deletion: Deletion, extent: Extent) {
    for round in 0..extent.races {
        let key = key("deleted");
        store.put_if_absent(&key, &[&[round]]).unwrap();
        let winners = race(|_| store.delete(&key).unwrap());
        match deletion {
            Deletion::IsToldOnce => assert_eq!(winners, 1, "round {round}"),
            Deletion::IsToldToSome => assert!(winners >= 1, "round {round}"),
        }
        assert_eq!(store.get(&key, 10).unwrap_err().kind(), ErrorKind::NotFound, "round {round}");
        assert!(!store.delete(&key).unwrap(), "what is gone is not deleted again");
    }
}

fn race(act: impl Fn(usize) -> bool + Sync) -> usize {
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (act, winners) = (&act, &winners);
            scope.spawn(move || winners.fetch_add(usize::from(act(thread)), Ordering::SeqCst));
        }
    });
    winners.into_inner()
}

fn one_creator_wins(store: &dyn Store, extent: Extent) {
    for round in 0..extent.races {
        let key = key(&format!("race-{round}"));
        let winner = AtomicUsize::new(THREADS);
        let winners = race(|thread| match store.put_if_absent(&key, &[&[thread as u8; 5000]]) {
            Ok(()) => {
                winner.store(thread, Ordering::SeqCst);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                assert_eq!(all(store, &key).len(), 5000, "who lost sees the winner's object");
                false
            }
        });
        assert_eq!(winners, 1, "round {round}");
        assert_eq!(all(store, &key), [winner.into_inner() as u8; 5000]);
        store.delete(&key).unwrap();
    }
}

fn one_replacement_wins(store: &dyn Store, deletion: Deletion, extent: Extent) {
    let key = key("replaced");
    store.put_if_absent(&key, &[b"start"]).unwrap();
    for round in 0..extent.races {
        let (before, version) = store.get(&key, 100).unwrap();
        let winner = AtomicUsize::new(THREADS);
        let winners = race(|thread| match store.put_if_match(&key, &[round, thread as u8], &version) {
            Ok(()) => {
                winner.store(thread, Ordering::SeqCst);
                true
            }
            Err(error) => {
                assert!(is_refusal(&error, deletion), "{error}");
                false
            }
        });
        assert_eq!(winners, 1, "round {round} from {before:?}");
        assert_eq!(all(store, &key), [round, winner.into_inner() as u8]);
    }
    store.delete(&key).unwrap();
}

fn is_refusal(error: &Error, deletion: Deletion) -> bool {
    error.kind() == ErrorKind::Conflict
        || (error.kind() == ErrorKind::Uncertain && deletion == Deletion::IsToldToSome)
}

/// Every thread adds its own marks to one object. Who is not certain looks whether the mark is there.
fn collecting_by_replacement_loses_nothing(store: &dyn Store, deletion: Deletion, extent: Extent) {
    let key = key("marks");
    store.put_if_absent(&key, &[]).unwrap();
    race(|thread| {
        for time in 0..extent.marks {
            let mark = [thread as u8, time];
            loop {
                let (marks, version) = store.get(&key, 1000).unwrap();
                if marks.chunks(2).any(|found| found == mark) {
                    break;
                }
                match store.put_if_match(&key, &[&marks[..], &mark].concat(), &version) {
                    Ok(()) => break,
                    Err(error) => assert!(is_refusal(&error, deletion), "{error}"),
                }
            }
        }
        true
    });
    let mut marks: Vec<[u8; 2]> = all(store, &key).chunks(2).map(|mark| [mark[0], mark[1]]).collect();
    marks.sort_unstable();
    let expected = (0..THREADS as u8).flat_map(|thread| (0..extent.marks).map(move |time| [thread, time]));
    assert!(marks.into_iter().eq(expected), "each mark is there once");
    store.delete(&key).unwrap();
}

/// Objects whose bytes are all equal to the first, and whose length follows from it.
fn uniform(value: u8) -> Vec<u8> {
    vec![value; 1000 + 4096 * usize::from(value)]
}

fn no_part_of_an_object_is_ever_seen(store: &dyn Store, extent: Extent) {
    let key = key("whole");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    match store.get(&key, u64::MAX) {
                        Ok((content, version)) => {
                            assert!(content == uniform(content[0]), "a part of an object was seen");
                            assert_eq!(version, Version::of(&content));
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                    }
                    for entry in store.list("things").unwrap() {
                        assert!(entry.size >= 1000, "a part of an object was listed");
                    }
                }
            });
        }
        for value in 0..10 * extent.tens {
            if value % 10 == 0 {
                store.put_if_absent(&key, &[&uniform(value)]).unwrap();
            } else {
                store.put_if_match(&key, &uniform(value), &Version::of(&uniform(value - 1))).unwrap();
            }
            if value % 10 == 9 {
                assert!(store.delete(&key).unwrap());
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}

fn creating_and_deleting_race(store: &dyn Store, deletion: Deletion, extent: Extent) {
    let key = key("to-and-fro");
    let (created, deleted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    race(|thread| {
        for _ in 0..extent.races {
            if thread % 2 == 0 {
                if store.put_if_absent(&key, &[b"x"]).is_ok() {
                    created.fetch_add(1, Ordering::SeqCst);
                }
            } else if store.delete(&key).unwrap() {
                deleted.fetch_add(1, Ordering::SeqCst);
            }
        }
        true
    });
    let is_there = store.delete(&key).unwrap();
    let (created, deleted) = (created.into_inner(), deleted.into_inner() + usize::from(is_there));
    match deletion {
        Deletion::IsToldOnce => assert_eq!(created, deleted, "every creation is deleted once"),
        Deletion::IsToldToSome => assert!(created <= deleted, "every creation is deleted"),
    }
    assert_eq!(store.get(&key, 10).unwrap_err().kind(), ErrorKind::NotFound);
}
