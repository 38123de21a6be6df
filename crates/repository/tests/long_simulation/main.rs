//! The life of a repository that many machines share: ten writers, two collections, a checker, somebody who forgets and
//! somebody who brings back, all at once and in an order that a seed decides; a quarter of them are killed at some
//! operation, clocks are wrong by hours, and machines get new names.
//!
//! After every round each snapshot that was acknowledged and not forgotten restores byte for byte, and none that was
//! forgotten is in sight. In the end a collection that runs alone leaves nothing that nothing needs.
//!
//! `LEEWARD_ROUNDS=1000` plays so many rounds, `LEEWARD_SEED=7` those of one seed. [`run`] takes any store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod cast;
#[path = "../common/mod.rs"]
mod common;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use cast::{Book, Role, play};
use common::{CHUNK_BYTES, ROOT, at_once, content, image, mutated, restore};
use jiff::{SignedDuration, Timestamp};
use leeward_repository::{CollectOptions, InitOptions, PREFIXES, Process, ReadData, Repository, Unattended};
use leeward_store::simulation::{Random, SimulatedFileSystem};
use leeward_store::{DirectoryStore, SharedStore};
use stage::{Death, Stage, Staged};

const WRITERS: u64 = 10;
const ROUNDS_PER_SEED: u64 = 10;
const DISK_BYTES: usize = 160_000;
/// So many snapshots are left alone by those who forget.
const KEPT_MIN: usize = 12;

/// One repository through its rounds.
struct Life<'a> {
    /// The store as the process of a number sees it.
    store: &'a dyn Fn(u64) -> SharedStore,
    seed: u64,
    random: Random,
    book: Arc<Mutex<Book>>,
    /// Contents that have been there: what is backed up again is what collections would like to delete.
    contents: Vec<Arc<Vec<u8>>>,
    /// Processes so far, and those of them that have ended.
    processes: u64,
    ended: Arc<Mutex<Vec<u32>>>,
    round: u64,
}

/// Plays all rounds of a seed on a repository that is made in the store. `store` gives the view of it that the process
/// of a number has.
fn run(store: &dyn Fn(u64) -> SharedStore, seed: u64) {
    let options = InitOptions {
        chunk_bytes: CHUNK_BYTES as u64,
        pack_bytes: 1 << 20,
        zstd_level: 1,
        ..InitOptions::default()
    };
    Repository::init(store(0), &options).unwrap();
    let mut life = Life {
        store,
        seed,
        random: Random::new(seed),
        book: Arc::default(),
        contents: Vec::new(),
        processes: 0,
        ended: Arc::default(),
        round: 0,
    };
    life.contents = (0..4).map(|_| Arc::new(content(&mut life.random, DISK_BYTES))).collect();
    // Every image has a ref before anybody may die: see `docs/collection.md` on lost refs.
    for name in ["a", "b", "c"] {
        let repository = life.open((life.store)(0), 0);
        let id = common::backup(&repository, name, &life.contents[0]).unwrap();
        life.book.lock().unwrap().kept.push((name.to_owned(), id, Arc::clone(&life.contents[0])));
    }
    for round in 0..ROUNDS_PER_SEED {
        life.round = round;
        life.play();
        life.assert_holds();
    }
    life.assert_no_garbage();
}

impl Life<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!("seed {}, round {}: {what}; LEEWARD_SEED={} plays it again", self.seed, self.round, self.seed)
    }

    /// A repository as a process sees it: on one of three machines, of which one gets a new name every other round,
    /// each with a clock of its own.
    fn open(&mut self, store: SharedStore, number: u64) -> Repository {
        let host = match number % 3 {
            0 => format!("machine-{}", self.round / 2),
            other => format!("host-{other}"),
        };
        let hours = self.random.below(24) as i64 - 12;
        let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let now = start + SignedDuration::from_hours(hours + self.round as i64);
        let pid = u32::try_from(number).unwrap();
        let process = Process { host: host.clone(), boot: "first".to_owned(), pid, started: 1 };
        let ended = Arc::clone(&self.ended);
        Repository::open(store)
            .unwrap_or_else(|error| panic!("seed {}: {error}", self.seed))
            .with_process(
                process,
                Arc::new(move |other| other.host == host && ended.lock().unwrap().contains(&other.pid)),
            )
            .with_clock(Arc::new(move || now))
    }

    fn cast(&mut self) -> Vec<Role> {
        let mut roles = Vec::new();
        for _ in 0..WRITERS {
            roles.push(self.writer());
        }
        let windows = [SignedDuration::ZERO, SignedDuration::from_hours(5)];
        for window in windows {
            roles.push(Role::Collect { revokes: self.random.chance(40), window });
        }
        let (kept, forgotten) = {
            let book = self.book.lock().unwrap();
            (book.kept.clone(), book.forgotten.clone())
        };
        let mut picked = kept;
        for _ in 0..picked.len().saturating_sub(KEPT_MIN) {
            let place = self.random.below(picked.len() as u64) as usize;
            roles.push(Role::Forget(picked.swap_remove(place)));
        }
        if !forgotten.is_empty() {
            let place = self.random.below(forgotten.len() as u64) as usize;
            roles.push(Role::Undelete(forgotten[place].clone()));
        }
        let lets_go = roles.iter().any(|role| matches!(role, Role::Forget(_) | Role::Undelete(_)));
        roles.push(Role::Check { is_alone_with_writers: !lets_go });
        roles
    }

    fn writer(&mut self) -> Role {
        let name = ["a", "b", "c"][self.random.below(3) as usize].to_owned();
        let old = Arc::clone(&self.contents[self.random.below(self.contents.len() as u64) as usize]);
        let content = if self.random.chance(50) { old } else { Arc::new(mutated(&mut self.random, &old)) };
        let base = {
            let book = self.book.lock().unwrap();
            let of_image: Vec<_> = book.kept.iter().filter(|(other, ..)| *other == name).collect();
            of_image.last().map(|(_, id, content)| (*id, Arc::clone(content)))
        };
        let base = base.filter(|_| self.random.chance(40));
        if self.contents.len() < 40 {
            self.contents.push(Arc::clone(&content));
        }
        Role::BackUp { name, content, base }
    }

    /// One round: everybody at once.
    fn play(&mut self) {
        let roles = self.cast();
        let numbers: Vec<u64> = (1..=roles.len() as u64).map(|number| self.processes + number).collect();
        self.processes += roles.len() as u64;
        let mut deaths = BTreeMap::new();
        for number in &numbers {
            if self.random.chance(25) {
                let death = Death { at: 1 + self.random.below(90), after: self.random.chance(50) };
                deaths.insert(*number, death);
            }
        }
        let stage = Stage::new(self.random.number(), &numbers, deaths);
        let mut repositories = Vec::new();
        for number in &numbers {
            let staged = Staged { store: (self.store)(*number), stage: Arc::clone(&stage), process: *number };
            repositories.push((staged, *number));
        }
        // Opened before the turns begin, by the plain store; what they do then is staged.
        let wrongs = Mutex::new(Vec::new());
        let (book, ended) = (Arc::clone(&self.book), Arc::clone(&self.ended));
        let views: Vec<(Repository, u64)> = repositories
            .into_iter()
            .map(|(staged, number)| {
                let plain = Arc::clone(&staged.store);
                let opened = self.open(plain, number);
                (opened.with_store(Arc::new(staged)), number)
            })
            .collect();
        std::thread::scope(|scope| {
            for (role, (repository, number)) in roles.iter().zip(&views) {
                let (stage, wrongs, book, ended) = (&stage, &wrongs, &book, &ended);
                scope.spawn(move || {
                    // Also when it fails, or the others would wait for it.
                    struct End<'a>(&'a Stage, u64);
                    impl Drop for End<'_> {
                        fn drop(&mut self) {
                            self.0.end(self.1);
                        }
                    }
                    let _end = End(stage, *number);
                    if let Some(wrong) = play(role, repository, book, &|| stage.is_dead(*number)) {
                        wrongs.lock().unwrap().push(wrong);
                    }
                    ended.lock().unwrap().push(*number as u32);
                });
            }
        });
        if let Some(wrong) = wrongs.into_inner().unwrap().first() {
            self.fail(wrong);
        }
    }

    fn assert_holds(&mut self) {
        let repository = self.open((self.store)(0), 0);
        let book = Arc::clone(&self.book);
        let book = book.lock().unwrap();
        for (name, id, expected) in &book.kept {
            let found = repository.image(&image(name)).unwrap_or_else(|error| self.fail(&error.to_string()));
            // A dead writer's last steps are taken by whoever comes next; one that was acknowledged is in its ref.
            if found.entry(*id).is_none() {
                self.fail(&format!("{name} lacks its acknowledged snapshot {id}"));
            }
            match restore(&repository, *id) {
                Ok(content) if content == **expected => {}
                Ok(_) => self.fail(&format!("{name}@{id} restores other bytes")),
                Err(error) => self.fail(&format!("{name}@{id}: {error}")),
            }
        }
        for (name, id, _) in &book.forgotten {
            if repository.image(&image(name)).unwrap().entry(*id).is_some() {
                self.fail(&format!("{name}@{id} was forgotten and has come back"));
            }
        }
        let found = repository
            .check(ReadData::All, &Unattended)
            .unwrap_or_else(|error| self.fail(&error.to_string()));
        if !found.findings.is_empty() {
            self.fail(&format!("check finds {:?}", found.findings));
        }
    }

    fn assert_no_garbage(&mut self) {
        let repository = self.open((self.store)(0), 0);
        let revoke = repository.writers().unwrap().into_iter().map(|writer| writer.session).collect();
        let options = CollectOptions { unused_max: 0.0, ..at_once() };
        repository.collect(&CollectOptions { revoke, ..options.clone() }, &Unattended).unwrap();
        repository.collect(&options, &Unattended).unwrap();
        let left = repository.plan_collect(&options).unwrap();
        if (left.unused_packs, left.rewritten_packs, left.unused_manifests, left.forgotten) != (0, 0, 0, 0) {
            self.fail(&format!("a collection that runs alone leaves garbage: {left:?}"));
        }
        for prefix in ["sessions", "condemned"] {
            let found = (self.store)(0).list(prefix).unwrap();
            if !found.is_empty() {
                self.fail(&format!("a collection that runs alone leaves {found:?}"));
            }
        }
        self.assert_holds();
    }
}

/// A directory on a file system in memory; each process has its own view.
fn directory() -> impl Fn(u64) -> SharedStore {
    let (files, made) = (SimulatedFileSystem::new(), Once::new());
    move |_| {
        made.call_once(|| {
            DirectoryStore::create_on(Arc::new(files.clone()), Path::new(ROOT), &PREFIXES).unwrap();
        });
        Arc::new(DirectoryStore::open_on(Arc::new(files.spawn()), Path::new(ROOT)).unwrap())
    }
}

#[test]
fn ten_writers_and_two_collections_that_die_and_disagree_about_time_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let began = std::time::Instant::now();
    let seeds = match number("LEEWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEEWARD_ROUNDS").unwrap_or(60).div_ceil(ROUNDS_PER_SEED),
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        println!("seed {seed}");
        run(&directory(), seed);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{} rounds of {count} seeds in {seconds:.1} s", count * ROUNDS_PER_SEED);
}
