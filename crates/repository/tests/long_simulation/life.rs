//! One repository through its rounds, on any store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use leeward_disk::Source;
use leeward_repository::{
    CollectOptions, ImageRef, InitOptions, Process, ReadData, ReadOptions, Repository, SnapshotId,
    SnapshotReader, Unattended,
};
use leeward_store::simulation::Random;

use crate::cast::{Book, Failure, Role, play};
use crate::common::{self, CHUNK_BYTES, at_once, content, image, mutated, restore};
use crate::stage::{Death, Stage};
use crate::worlds::World;

const WRITERS: u64 = 10;
/// Processes are spread over so many machines.
pub const MACHINES: u64 = 3;
const DISK_BYTES: usize = 160_000;
/// So many snapshots are left alone by those who forget.
const KEPT_MIN: usize = 12;
/// Of a hundred that act so many may be told, over a whole life, that something failed in passing.
const FAILED_PERCENT_MAX: u64 = 40;

/// What happened in a life.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Processes that played a role.
    pub processes: u64,
    /// Those among them that were killed.
    pub killed: u64,
    /// Those that were told that something failed in passing.
    pub failed: u64,
    /// Snapshots that were restored and compared.
    pub restored: u64,
}

impl Tally {
    /// Adds what happened in another life.
    pub fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.killed += other.killed;
        self.failed += other.failed;
        self.restored += other.restored;
    }
}

/// One repository through its rounds.
struct Life<'a> {
    world: &'a dyn World,
    seed: u64,
    random: Random,
    book: Arc<Mutex<Book>>,
    /// Contents that have been there: what is backed up again is what collections would like to delete.
    contents: Vec<Arc<Vec<u8>>>,
    /// Processes so far, and those of them that have ended.
    processes: u64,
    ended: Arc<Mutex<Vec<u32>>>,
    round: u64,
    tally: Tally,
}

/// Plays the rounds of a seed on a repository that is made in the store.
pub fn run(world: &dyn World, seed: u64, rounds: u64) -> Tally {
    let options = InitOptions {
        chunk_bytes: CHUNK_BYTES as u64,
        pack_bytes: 1 << 20,
        zstd_level: 1,
        ..InitOptions::default()
    };
    Repository::init(world.plain(), &options).unwrap();
    let mut life = Life {
        world,
        seed,
        random: Random::new(seed),
        book: Arc::default(),
        contents: Vec::new(),
        processes: 0,
        ended: Arc::default(),
        round: 0,
        tally: Tally::default(),
    };
    life.contents = (0..4).map(|_| Arc::new(content(&mut life.random, DISK_BYTES))).collect();
    // Every image has a ref before anybody may die: see `docs/collection.md` on lost refs.
    for name in ["a", "b", "c"] {
        let repository = life.open(0);
        let id = common::backup(&repository, name, &life.contents[0]).unwrap();
        life.book.lock().unwrap().kept.push((name.to_owned(), id, Arc::clone(&life.contents[0])));
    }
    for round in 0..rounds {
        life.round = round;
        world.set_failing(true);
        life.play();
        world.set_failing(false);
        life.assert_holds(false);
    }
    life.assert_no_garbage();
    life.tally
}

/// The whole content of a snapshot.
fn read(reader: &SnapshotReader, id: SnapshotId) -> Result<Vec<u8>, String> {
    let source = reader.source(id).map_err(|error| error.to_string())?;
    let mut content = vec![0; source.virtual_size() as usize];
    source.read_at(&mut content, 0).map_err(|error| error.to_string())?;
    Ok(content)
}

impl Life<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!("seed {}, round {}: {what}; LEEWARD_SEED={} plays it again", self.seed, self.round, self.seed)
    }

    /// A repository as a process sees it: on one of three machines, of which one gets a new name every other round,
    /// each with a clock of its own.
    fn open(&mut self, number: u64) -> Repository {
        let host = match number % MACHINES {
            0 => format!("machine-{}", self.round / 2),
            other => format!("host-{other}"),
        };
        let hours = self.random.below(24) as i64 - 12;
        let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let now = start + SignedDuration::from_hours(hours + self.round as i64);
        let pid = u32::try_from(number).unwrap();
        let process = Process { host: host.clone(), boot: "first".to_owned(), pid, started: 1 };
        let ended = Arc::clone(&self.ended);
        Repository::open(self.world.plain())
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
                let at = 1 + self.random.below(self.world.turns_max());
                deaths.insert(*number, Death { at, after: self.random.chance(50) });
            }
        }
        let stage = Stage::new(self.random.number(), &numbers, deaths);
        let failures = Mutex::new(Vec::new());
        let (book, ended) = (Arc::clone(&self.book), Arc::clone(&self.ended));
        // Opened before the turns begin, by the plain store; what they do then is staged.
        self.world.set_failing(false);
        let views: Vec<(Repository, u64)> = numbers
            .iter()
            .map(|number| (self.open(*number).with_store(self.world.staged(&stage, *number)), *number))
            .collect();
        self.world.set_failing(true);
        std::thread::scope(|scope| {
            for (role, (repository, number)) in roles.iter().zip(&views) {
                let (stage, failures, book, ended) = (&stage, &failures, &book, &ended);
                scope.spawn(move || {
                    // Also when it fails, or the others would wait for it.
                    struct End<'a>(&'a Stage, u64);
                    impl Drop for End<'_> {
                        fn drop(&mut self) {
                            self.0.end(self.1);
                        }
                    }
                    let _end = End(stage, *number);
                    if let Some(failure) = play(role, repository, book, &|| stage.is_dead(*number)) {
                        failures.lock().unwrap().push(failure);
                    }
                    ended.lock().unwrap().push(*number as u32);
                });
            }
        });
        let dead = numbers.iter().filter(|number| stage.is_dead(**number)).count();
        self.account(numbers.len(), dead, &failures.into_inner().unwrap());
    }

    /// Counts what happened in a round, and fails if anything did that may not.
    fn account(&mut self, processes: usize, killed: usize, failures: &[Failure]) {
        let may_pass = |failure: &&Failure| failure.is_passing && self.world.may_fail();
        if let Some(wrong) = failures.iter().find(|failure| !may_pass(failure)) {
            self.fail(&wrong.to_string());
        }
        self.tally.processes += processes as u64;
        self.tally.killed += killed as u64;
        self.tally.failed += failures.len() as u64;
    }

    /// What must be there is there and what must not is not. Each snapshot is read whole and compared; one of them, and in
    /// the end all, by a restore of its own, the others by one look at the index that they share.
    fn assert_holds(&mut self, restores_all: bool) {
        let repository = self.open(0);
        let book = Arc::clone(&self.book);
        let book = book.lock().unwrap();
        let refs: BTreeMap<&str, ImageRef> = ["a", "b", "c"]
            .into_iter()
            .map(|name| {
                (name, repository.image(&image(name)).unwrap_or_else(|error| self.fail(&error.to_string())))
            })
            .collect();
        let reader =
            repository.reader(ReadOptions::default()).unwrap_or_else(|error| self.fail(&error.to_string()));
        let restored = self.random.below(book.kept.len().max(1) as u64) as usize;
        for (number, (name, id, expected)) in book.kept.iter().enumerate() {
            // A dead writer's last steps are taken by whoever comes next; one that was acknowledged is in its ref.
            if refs[name.as_str()].entry(*id).is_none() {
                self.fail(&format!("{name} lacks its acknowledged snapshot {id}"));
            }
            let content = if restores_all || number == restored {
                restore(&repository, *id).map_err(|error| error.to_string())
            } else {
                read(&reader, *id)
            };
            match content {
                Ok(content) if content == **expected => self.tally.restored += 1,
                Ok(_) => self.fail(&format!("{name}@{id} restores other bytes")),
                Err(error) => self.fail(&format!("{name}@{id}: {error}")),
            }
        }
        for (name, id, _) in &book.forgotten {
            if refs[name.as_str()].entry(*id).is_some() {
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
        let repository = self.open(0);
        let revoke = repository.writers().unwrap().into_iter().map(|writer| writer.session).collect();
        let options = CollectOptions { unused_max: 0.0, ..at_once() };
        repository.collect(&CollectOptions { revoke, ..options.clone() }, &Unattended).unwrap();
        repository.collect(&options, &Unattended).unwrap();
        let left = repository.plan_collect(&options).unwrap();
        if (left.unused_packs, left.rewritten_packs, left.unused_manifests, left.forgotten) != (0, 0, 0, 0) {
            self.fail(&format!("a collection that runs alone leaves garbage: {left:?}"));
        }
        for prefix in ["sessions", "condemned"] {
            let found = self.world.plain().list(prefix).unwrap();
            if !found.is_empty() {
                self.fail(&format!("a collection that runs alone leaves {found:?}"));
            }
        }
        self.assert_holds(true);
        let Tally { processes, failed, .. } = self.tally;
        if failed * 100 > processes * FAILED_PERCENT_MAX {
            self.fail(&format!(
                "{failed} of {processes} processes were told that something failed in passing"
            ));
        }
    }
}
