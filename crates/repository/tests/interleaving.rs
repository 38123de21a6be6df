//! Operations that run at once: one is stopped before each of its steps while others run to their end, and several take
//! turns as a seed decides. What is published restores, whatever the order.
//!
//! The rules of the protocol that each scenario leans on:
//! - a collection condemns before it waits: `a_collection_within_a_backup`, with the backup stopped at every step;
//! - a writer that was declared dead cannot publish: `a_writer_that_was_declared_dead`;
//! - no collection counts on a copy that another one condemned: `two_collections`, `turns`;
//! - snapshots are looked at before the index: `a_backup_within_a_collection`;
//! - an ended session is durable before its snapshot is forgotten, and all that a deletion rests on before it is made:
//!   `power_loss.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::{Machine, Model, at_once, backup, backup_group, collect, content, image, is_full, mutated};
use leeward_repository::{CollectOptions, Error, Repository, SnapshotId, Unattended};
use leeward_store::simulation::{Operation, Random};

const DISK_BYTES: usize = 1_500_000;

/// What was acknowledged meanwhile.
type Published = Arc<Mutex<Vec<(String, SnapshotId, Arc<Vec<u8>>)>>>;

/// A repository with two images, of which half of the data is not needed any more.
struct Start {
    machine: Machine,
    model: Model,
    disk: Arc<Vec<u8>>,
    /// Content of a snapshot that was forgotten: its chunks are there, condemned by the next collection, and a backup
    /// that has them again would like to refer to them.
    forgotten: Arc<Vec<u8>>,
}

fn start(seed: u64) -> Start {
    let mut random = Random::new(seed);
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut model = Model::default();
    let mut add = |name: &str, content: &Arc<Vec<u8>>| -> SnapshotId {
        let id = backup(&repository, name, content).unwrap();
        model.kept.push((name.to_owned(), id, Arc::clone(content)));
        model.contents.push(Arc::clone(content));
        id
    };
    let forgotten = Arc::new(content(&mut random, DISK_BYTES));
    let disk = Arc::new(mutated(&mut random, &forgotten));
    let first = add("a", &forgotten);
    add("a", &disk);
    let other = Arc::new(content(&mut random, DISK_BYTES / 2));
    let second = add("b", &other);
    add("b", &Arc::new(mutated(&mut random, &other)));
    for (name, id) in [("a", first), ("b", second)] {
        repository.forget(&image(name), &[id]).unwrap();
        model.forget(id);
    }
    Start { machine, model, disk, forgotten }
}

/// Runs `work` in a process of its own, and `intruder` in another before step `at`; returns whether there was such a
/// step.
fn with_intruder(
    machine: &Machine,
    at: u64,
    work: impl FnOnce(&Repository),
    intruder: impl Fn(&Machine) + Send + Sync + 'static,
) -> bool {
    let worker = machine.spawn();
    let done = Arc::new(AtomicBool::new(false));
    let steps = AtomicU64::new(0);
    let repository = worker.open().unwrap();
    machine.files.set_hook(Some(Arc::new({
        let (machine, done, process) = (machine.clone(), Arc::clone(&done), worker.files.process());
        move |operation: Operation<'_>| {
            // While the worker holds a lock the intruder could only wait for it. Reads of a file tell nothing new.
            if operation.process != process || operation.name == "read" || machine.files.is_locked() {
                return;
            }
            if steps.fetch_add(1, Ordering::SeqCst) >= at && !done.swap(true, Ordering::SeqCst) {
                intruder(&machine);
            }
        }
    })));
    work(&repository);
    machine.files.set_hook(None);
    done.load(Ordering::SeqCst)
}

fn every() -> usize {
    if is_full() { 1 } else { 5 }
}

/// Tries an intruder at every step of `work`.
fn at_every_step(scenario: impl Fn(u64) -> bool) -> u64 {
    for at in (0..).step_by(every()) {
        if !scenario(at) {
            assert!(at > 20, "only {at} steps");
            return at;
        }
    }
    unreachable!()
}

#[test]
fn a_collection_within_a_backup() {
    // The backup brings forgotten content back: what it counts on is what the collection would like to delete.
    let steps = at_every_step(|at| {
        let Start { machine, mut model, forgotten, .. } = start(at % 7);
        model.contents.push(Arc::clone(&forgotten));
        let mut id = None;
        let stopped = with_intruder(
            &machine,
            at,
            |repository| id = Some(backup(repository, "c", &forgotten).unwrap()),
            |machine| {
                for _ in 0..2 {
                    collect(&machine.spawn().open().unwrap()).unwrap();
                }
            },
        );
        model.kept.push(("c".to_owned(), id.unwrap(), forgotten));
        let repository = machine.spawn().open().unwrap();
        model.assert_holds(&repository, &format!("collection within step {at} of a backup"));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("collection within step {at} of a backup, and after"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn a_writer_that_was_declared_dead() {
    let steps = at_every_step(|at| {
        let Start { machine, mut model, forgotten, .. } = start(at % 5);
        model.contents.push(Arc::clone(&forgotten));
        let mut result = None;
        let stopped = with_intruder(
            &machine,
            at,
            |repository| result = Some(backup(repository, "c", &forgotten)),
            |machine| {
                let repository = machine.spawn().open().unwrap();
                let sessions = collect(&repository).unwrap().waits_for;
                let revoke = sessions.iter().map(|session| session[..32].to_owned()).collect();
                let options = CollectOptions { unused_max: 0.2, revoke, ..at_once() };
                let outcome = repository.collect(&options, &Unattended).unwrap();
                assert!(outcome.waits_for.is_empty(), "{outcome:?}");
                collect(&repository).unwrap();
            },
        );
        match result.unwrap() {
            Ok(id) => model.kept.push(("c".to_owned(), id, Arc::clone(&forgotten))),
            // It must not be able to publish; what it was reading may have gone under its feet.
            Err(Error::Revoked { .. }) => {}
            Err(error) => assert!(stopped, "{error}"),
        }
        let repository = machine.spawn().open().unwrap();
        model.assert_holds(&repository, &format!("declared dead at step {at}"));
        let id = backup(&repository, "c", &forgotten).unwrap();
        model.kept.push(("c".to_owned(), id, forgotten));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("declared dead at step {at}, and run again"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn a_backup_within_a_collection() {
    let steps = at_every_step(|at| {
        let Start { machine, mut model, forgotten, disk } = start(at % 7);
        let published = Published::default();
        let stopped = with_intruder(
            &machine,
            at,
            |repository| {
                collect(repository).unwrap();
            },
            {
                let published = Arc::clone(&published);
                move |machine| {
                    let repository = machine.spawn().open().unwrap();
                    for (name, content) in [("c", &forgotten), ("a", &disk)] {
                        let id = backup(&repository, name, content).unwrap();
                        published.lock().unwrap().push((name.to_owned(), id, Arc::clone(content)));
                    }
                }
            },
        );
        model.kept.append(&mut published.lock().unwrap());
        let repository = machine.spawn().open().unwrap();
        model.assert_holds(&repository, &format!("backup within step {at} of a collection"));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("backup within step {at} of a collection, and after"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn an_incremental_backup_whose_base_is_forgotten_and_collected_meanwhile() {
    let steps = at_every_step(|at| {
        let Start { machine, mut model, disk, .. } = start(at % 7);
        let (_, base, _) = model.kept.iter().find(|(name, ..)| name == "a").unwrap().clone();
        let after = Arc::new(mutated(&mut Random::new(at), &disk));
        model.contents.push(Arc::clone(&after));
        model.forget(base);
        let mut id = None;
        let stopped = with_intruder(
            &machine,
            at,
            |repository| {
                let outcome = backup_group(repository, &[("a", &after, Some((base, &disk)))]).unwrap();
                id = Some(outcome[0].id);
            },
            move |machine| {
                let repository = machine.spawn().open().unwrap();
                repository.forget(&image("a"), &[base]).unwrap();
                for _ in 0..2 {
                    collect(&repository).unwrap();
                }
            },
        );
        model.kept.push(("a".to_owned(), id.unwrap(), after));
        let repository = machine.spawn().open().unwrap();
        if !stopped {
            repository.forget(&image("a"), &[base]).unwrap();
        }
        model.assert_holds(&repository, &format!("its base forgotten at step {at}"));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("its base forgotten at step {at}, and after"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn an_incremental_backup_within_a_collection() {
    let steps = at_every_step(|at| {
        let Start { machine, mut model, disk, .. } = start(at % 7);
        let (_, base, _) = model.kept.iter().find(|(name, ..)| name == "a").unwrap().clone();
        let after = Arc::new(mutated(&mut Random::new(at), &disk));
        model.contents.push(Arc::clone(&after));
        let published = Published::default();
        let stopped = with_intruder(
            &machine,
            at,
            |repository| {
                collect(repository).unwrap();
            },
            {
                let (published, after) = (Arc::clone(&published), Arc::clone(&after));
                move |machine| {
                    let repository = machine.spawn().open().unwrap();
                    let outcome = backup_group(&repository, &[("a", &after, Some((base, &disk)))]).unwrap();
                    let capture = &outcome[0].snapshot.capture;
                    assert_eq!(*capture, None, "it was read whole");
                    published.lock().unwrap().push(("a".to_owned(), outcome[0].id, Arc::clone(&after)));
                }
            },
        );
        model.kept.append(&mut published.lock().unwrap());
        let repository = machine.spawn().open().unwrap();
        model.assert_holds(&repository, &format!("incremental at step {at} of a collection"));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("incremental at step {at} of a collection, and after"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn two_collections() {
    let steps = at_every_step(|at| {
        let Start { machine, model, .. } = start(at % 7);
        let stopped = with_intruder(
            &machine,
            at,
            |repository| {
                collect(repository).unwrap();
            },
            |machine| {
                collect(&machine.spawn().open().unwrap()).unwrap();
            },
        );
        let repository = machine.spawn().open().unwrap();
        model.assert_holds(&repository, &format!("collection within step {at} of a collection"));
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("collection within step {at} of a collection, and after"));
        stopped
    });
    println!("{steps} steps");
}

#[test]
fn an_index_made_anew_within_a_collection_and_the_other_way_round() {
    for swapped in [false, true] {
        at_every_step(|at| {
            let Start { machine, model, .. } = start(at % 3);
            let rebuild = |repository: &Repository| {
                repository.rebuild_index(&Unattended).unwrap();
            };
            let stopped = if swapped {
                with_intruder(&machine, at, rebuild, |machine| {
                    collect(&machine.spawn().open().unwrap()).unwrap();
                })
            } else {
                let collected = |repository: &Repository| {
                    collect(repository).unwrap();
                };
                with_intruder(&machine, at, collected, move |machine| {
                    rebuild(&machine.spawn().open().unwrap());
                })
            };
            let repository = machine.spawn().open().unwrap();
            model.assert_holds(&repository, &format!("step {at}, swapped {swapped}"));
            collect(&repository).unwrap();
            model.assert_holds(&repository, &format!("step {at}, swapped {swapped}, and after"));
            stopped
        });
    }
}

#[test]
fn a_check_or_restore_within_a_collection_finds_nothing_wrong() {
    let steps = at_every_step(|at| {
        let Start { machine, model, .. } = start(at % 7);
        let seen = model.clone();
        with_intruder(
            &machine,
            at,
            |repository| {
                collect(repository).unwrap();
            },
            move |machine| seen.assert_holds(&machine.spawn().open().unwrap(), &format!("at step {at}")),
        )
    });
    println!("{steps} steps");
    at_every_step(|at| {
        let Start { machine, model, .. } = start(at % 7);
        with_intruder(
            &machine,
            at,
            |repository| model.assert_holds(repository, &format!("collected at step {at}")),
            |machine| {
                collect(&machine.spawn().open().unwrap()).unwrap();
            },
        )
    });
}

/// Lets processes take turns, one operation each, as a seed decides. A process is next only when every other one waits
/// for its turn or has ended, so that a seed gives nearly the same run again (threads of one process may swap).
struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

struct TurnState {
    random: Random,
    /// Processes that have not ended.
    running: BTreeSet<u64>,
    /// Threads that wait, by process.
    waiting: BTreeMap<u64, usize>,
    /// Whose turn it is.
    next: Option<u64>,
    /// The process that goes on for so many turns: others stand still meanwhile.
    burst: Option<(u64, u64)>,
}

impl Turns {
    fn new(seed: u64, processes: &[u64]) -> Arc<Self> {
        let state = TurnState {
            random: Random::new(seed),
            running: processes.iter().copied().collect(),
            waiting: BTreeMap::new(),
            next: None,
            burst: None,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn choose(state: &mut TurnState) {
        let all_wait = state.running.iter().all(|process| state.waiting.get(process).is_some_and(|n| *n > 0));
        if state.next.is_some() || state.running.is_empty() || !all_wait {
            return;
        }
        let burst = state.burst.take().filter(|(process, left)| *left > 0 && state.running.contains(process));
        let next = match burst {
            Some((process, left)) => {
                state.burst = Some((process, left - 1));
                process
            }
            None => {
                let running: Vec<u64> = state.running.iter().copied().collect();
                let process = running[state.random.below(running.len() as u64) as usize];
                let length = [0, 1, 5, 30, 200][state.random.below(5) as usize];
                state.burst = Some((process, length));
                process
            }
        };
        state.next = Some(next);
    }

    fn wait(&self, process: u64) {
        let mut state = self.state.lock().unwrap();
        if !state.running.contains(&process) {
            return;
        }
        *state.waiting.entry(process).or_default() += 1;
        Self::choose(&mut state);
        self.changed.notify_all();
        while state.next != Some(process) {
            state = self.changed.wait(state).unwrap();
        }
        state.next = None;
        *state.waiting.entry(process).or_default() -= 1;
    }

    fn end(&self, process: u64) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&process);
        Self::choose(&mut state);
        self.changed.notify_all();
    }
}

/// What one of the processes does.
#[derive(Clone, Copy, Debug)]
enum Role {
    BackUp,
    Collect,
    Rebuild,
    Revoke,
}

fn play(
    role: Role,
    repository: &Repository,
    contents: &[Arc<Vec<u8>>],
    number: usize,
    published: &Published,
) {
    match role {
        Role::BackUp => {
            let content = &contents[number % contents.len()];
            let name = ["a", "b", "c"][number % 3];
            match backup(repository, name, content) {
                Ok(id) => published.lock().unwrap().push((name.to_owned(), id, Arc::clone(content))),
                Err(Error::Revoked { .. }) => {}
                // A writer that was declared dead may miss what it counted on before it learns of it.
                Err(error) if error.kind() == leeward_repository::ErrorKind::NotFound => {}
                Err(error) => panic!("backup: {error}"),
            }
        }
        Role::Collect => {
            collect(repository).unwrap();
        }
        Role::Rebuild => {
            repository.rebuild_index(&Unattended).unwrap();
        }
        Role::Revoke => {
            let waits_for = collect(repository).unwrap().waits_for;
            let revoke = waits_for.iter().map(|session| session[..32].to_owned()).collect();
            repository
                .collect(&CollectOptions { unused_max: 0.2, revoke, ..at_once() }, &Unattended)
                .unwrap();
        }
    }
}

fn turns(seed: u64) {
    use Role::{BackUp, Collect, Rebuild, Revoke};
    let casts: [&[Role]; 5] = [
        &[BackUp, Collect],
        &[Collect, Collect, BackUp],
        &[Collect, Collect, Collect],
        &[BackUp, BackUp, Revoke],
        &[BackUp, Collect, Rebuild, Collect],
    ];
    let roles = casts[(seed % 5) as usize];
    let Start { machine, mut model, forgotten, disk } = start(seed % 11);
    let contents = [forgotten, disk];
    model.contents.extend(contents.iter().cloned());
    let machines: Vec<Machine> = roles.iter().map(|_| machine.spawn()).collect();
    let repositories: Vec<Repository> = machines.iter().map(|machine| machine.open().unwrap()).collect();
    let processes: Vec<u64> = machines.iter().map(|machine| machine.files.process()).collect();
    let turns = Turns::new(seed, &processes);
    machine.files.set_hook(Some(Arc::new({
        let turns = Arc::clone(&turns);
        move |operation: Operation<'_>| {
            if operation.name != "read" {
                turns.wait(operation.process);
            }
        }
    })));
    let published = Published::default();
    std::thread::scope(|scope| {
        for (number, role) in roles.iter().enumerate() {
            let (repository, process) = (&repositories[number], processes[number]);
            let (turns, published, contents) = (&turns, &published, &contents);
            scope.spawn(move || {
                // Also when it fails, or the others would wait for it.
                struct End<'a>(&'a Turns, u64);
                impl Drop for End<'_> {
                    fn drop(&mut self) {
                        self.0.end(self.1);
                    }
                }
                let _end = End(turns, process);
                play(*role, repository, contents, number, published);
            });
        }
    });
    machine.files.set_hook(None);
    model.kept.append(&mut published.lock().unwrap());
    let repository = machine.spawn().open().unwrap();
    model.assert_holds(&repository, &format!("seed {seed} ({roles:?})"));
    for round in 0..2 {
        collect(&repository).unwrap();
        model.assert_holds(&repository, &format!("seed {seed} ({roles:?}), collection {round} after"));
    }
}

#[test]
fn processes_that_take_turns_lose_nothing() {
    let seeds: Vec<u64> = match std::env::var("LEEWARD_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None if is_full() => (0..3000).collect(),
        // 614 lost a published snapshot while a collection still counted on a copy that another had condemned.
        None => (0..200).chain([614]).collect(),
    };
    for seed in seeds {
        turns(seed);
    }
}
