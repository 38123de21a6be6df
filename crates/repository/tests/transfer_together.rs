//! Transfers beside other work on the target: stopped before each of their steps while others run to their end, and the
//! other way round. What is published restores, whatever the order.
//!
//! What each scenario leans on:
//! - a copied manifest may have been there before, and be about to be deleted: `a_transfer_within_a_collection`,
//!   `a_transfer_that_crosses_a_collection`;
//! - a manifest that a dead transfer left is no lost ref: `a_transfer_that_was_killed`;
//! - a target whose snapshots are forgotten meanwhile is no base to build on: `a_base_that_is_forgotten`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{Machine, Model, backup, collect, content, image, is_full, mutated};
use leeward_repository::transfer::{Selection, TransferOptions, TransferOutcome};
use leeward_repository::{CollectOptions, Error, Repository, Result, SnapshotId, Unattended};
use leeward_store::simulation::{Operation, Random};

const DISK_BYTES: usize = 1_200_000;

/// Two repositories. The target had all that the source has, and forgot the last two snapshots of it: their chunks and
/// manifests are there, and condemned by the next collection.
struct Start {
    from: Repository,
    machine: Machine,
    model: Model,
    /// What the target forgot, with its content.
    forgotten: Vec<(SnapshotId, Arc<Vec<u8>>)>,
    /// What it kept.
    first: SnapshotId,
}

fn start(seed: u64) -> Start {
    let mut random = Random::new(seed);
    let from = Machine::new().init().unwrap();
    let machine = Machine::new();
    let to = machine.init().unwrap();
    let mut model = Model::default();
    let mut disk = Arc::new(content(&mut random, DISK_BYTES));
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push((backup(&from, "a", &disk).unwrap(), Arc::clone(&disk)));
        model.contents.push(Arc::clone(&disk));
        disk = Arc::new(mutated(&mut random, &disk));
    }
    send(&from, &to).unwrap();
    let forgotten = made.split_off(1);
    to.forget(&image("a"), &[forgotten[0].0, forgotten[1].0]).unwrap();
    let first = made[0].0;
    model.kept.push(("a".to_owned(), first, Arc::clone(&made[0].1)));
    Start { from, machine, model, forgotten, first }
}

fn send(from: &Repository, to: &Repository) -> Result<TransferOutcome> {
    // The other one stands still: to wait for it would be to wait for ever.
    let options = TransferOptions { patience: Duration::ZERO, in_flight: 2, ..TransferOptions::default() };
    from.prepare_transfer(to, &Selection::All)?.run(&options, &Unattended)
}

impl Start {
    /// What was forgotten is kept again.
    fn expect_all(&mut self) {
        for (id, disk) in &self.forgotten {
            self.model.kept.push(("a".to_owned(), *id, Arc::clone(disk)));
        }
    }

    fn assert_holds(&self, context: &str) {
        self.model.assert_holds(&self.machine.spawn().open().unwrap(), context);
    }
}

/// Runs `work` in a process of its own, and `intruder` in another before step `at`; returns whether there was such a step.
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

/// Tries an intruder at every step of `work`, or at every third.
fn at_every_step(scenario: impl Fn(u64) -> bool) {
    let every = if is_full() { 1 } else { 3 };
    for at in (0..).step_by(every) {
        if !scenario(at) {
            assert!(at > 20, "only {at} steps");
            println!("{at} steps");
            return;
        }
    }
}

#[test]
fn a_collection_within_a_transfer() {
    at_every_step(|at| {
        let mut start = start(at % 5);
        let mut result = None;
        let stopped = with_intruder(
            &start.machine,
            at,
            |to| result = Some(send(&start.from, to)),
            |machine| {
                for _ in 0..2 {
                    collect(&machine.spawn().open().unwrap()).unwrap();
                }
            },
        );
        assert_eq!(result.unwrap().unwrap().snapshots.len(), 2);
        start.expect_all();
        start.assert_holds(&format!("collection within step {at} of a transfer"));
        collect(&start.machine.spawn().open().unwrap()).unwrap();
        start.assert_holds(&format!("collection within step {at} of a transfer, and after"));
        stopped
    });
}

#[test]
fn a_transfer_within_a_collection() {
    at_every_step(|at| {
        let mut start = start(at % 5);
        let has_arrived = Arc::new(AtomicBool::new(false));
        let stopped = with_intruder(
            &start.machine,
            at,
            |to| {
                collect(to).unwrap();
            },
            {
                let (from, has_arrived) = (start.from.clone(), Arc::clone(&has_arrived));
                move |machine| match send(&from, &machine.spawn().open().unwrap()) {
                    Ok(outcome) => has_arrived.store(outcome.snapshots.len() == 2, Ordering::SeqCst),
                    // It is just deleting manifests, perhaps of the same names.
                    Err(Error::Contended { key, .. }) => assert!(key.contains("deletes"), "{key}"),
                    Err(error) => panic!("step {at}: {error}"),
                }
            },
        );
        if has_arrived.load(Ordering::SeqCst) {
            start.expect_all();
        }
        start.assert_holds(&format!("transfer within step {at} of a collection"));
        let to = start.machine.spawn().open().unwrap();
        send(&start.from, &to).unwrap();
        if !has_arrived.load(Ordering::SeqCst) {
            start.expect_all();
        }
        collect(&to).unwrap();
        start.assert_holds(&format!("transfer within step {at} of a collection, and after"));
        stopped
    });
}

#[test]
fn a_transfer_that_was_killed() {
    at_every_step(|at| {
        // Half of the time the image is new to the target: then nothing tells its manifests from those of a lost ref but
        // the ref that was made for them.
        let mut start = start(at % 5);
        if at % 2 == 0 {
            let machine = Machine::new();
            machine.init().unwrap();
            (start.machine, start.model.kept) = (machine, Vec::new());
        }
        let victim = Arc::new(Mutex::new(None::<u64>));
        let worker = start.machine.spawn();
        *victim.lock().unwrap() = Some(worker.files.process());
        let repository = worker.open().unwrap();
        let steps = AtomicU64::new(0);
        let files = worker.files.clone();
        start.machine.files.set_hook(Some(Arc::new({
            let process = worker.files.process();
            move |operation: Operation<'_>| {
                let is_step = operation.process == process && operation.is_change;
                if is_step && steps.fetch_add(1, Ordering::SeqCst) == at {
                    files.kill();
                }
            }
        })));
        let sent = send(&start.from, &repository);
        start.machine.files.set_hook(None);
        drop(repository);
        let stopped = sent.is_err();
        let context = format!("killed at change {at}");
        let to = start.machine.spawn().open().unwrap();
        // Not even before a collection: nothing was lost.
        start.model.assert_clean(&to, &context);
        collect(&to).unwrap();
        start.assert_holds(&context);
        let left =
            start.machine.files.paths().into_iter().filter(|path| path.starts_with("/repository/snapshots"));
        let published: usize =
            to.images().unwrap().iter().map(|name| to.image(name).unwrap().snapshots.len()).sum();
        assert_eq!(left.count(), published, "{context}: manifests are left");
        send(&start.from, &to).unwrap();
        let found = to.image(&image("a")).unwrap().snapshots.len();
        assert_eq!(found, 3, "{context}");
        start.assert_holds(&format!("{context}, and run again"));
        stopped
    });
}

#[test]
fn a_transfer_that_was_declared_dead() {
    at_every_step(|at| {
        let mut start = start(at % 5);
        let mut result = None;
        let stopped = with_intruder(
            &start.machine,
            at,
            |to| result = Some(send(&start.from, to)),
            |machine| {
                let repository = machine.spawn().open().unwrap();
                let sessions = collect(&repository).unwrap().waits_for;
                let revoke = sessions.iter().map(|session| session[..32].to_owned()).collect();
                repository
                    .collect(
                        &CollectOptions {
                            unused_max: 0.2,
                            revoke,
                            window: jiff::SignedDuration::ZERO,
                            ..CollectOptions::default()
                        },
                        &Unattended,
                    )
                    .unwrap();
                collect(&repository).unwrap();
            },
        );
        match result.unwrap() {
            Ok(_) => start.expect_all(),
            Err(Error::Revoked { .. }) => {}
            Err(error) => assert!(stopped, "{error}"),
        }
        start.assert_holds(&format!("declared dead at step {at}"));
        let to = start.machine.spawn().open().unwrap();
        if send(&start.from, &to).unwrap().snapshots.len() == 2 {
            start.expect_all();
        }
        collect(&to).unwrap();
        start.assert_holds(&format!("declared dead at step {at}, and run again"));
        stopped
    });
}

#[test]
fn a_base_that_is_forgotten() {
    at_every_step(|at| {
        let mut start = start(at % 5);
        let first = start.first;
        start.model.forget(first);
        let stopped = with_intruder(
            &start.machine,
            at,
            |to| {
                // What was forgotten before the refs were read comes back: the source still has it.
                send(&start.from, to).unwrap();
            },
            move |machine| {
                let repository = machine.spawn().open().unwrap();
                repository.forget(&image("a"), &[first]).unwrap();
                for _ in 0..2 {
                    collect(&repository).unwrap();
                }
            },
        );
        let to = start.machine.spawn().open().unwrap();
        if !stopped {
            to.forget(&image("a"), &[first]).unwrap();
        }
        if to.image(&image("a")).unwrap().entry(first).is_some() {
            start.model.gone.clear();
        }
        start.expect_all();
        start.assert_holds(&format!("its base forgotten at step {at}"));
        collect(&to).unwrap();
        start.assert_holds(&format!("its base forgotten at step {at}, and after"));
        stopped
    });
}

#[test]
fn two_transfers_and_a_backup_at_once() {
    at_every_step(|at| {
        let mut start = start(at % 5);
        let mut random = Random::new(at);
        let disk = Arc::new(mutated(&mut random, &start.forgotten[1].1));
        start.model.contents.push(Arc::clone(&disk));
        let made = Arc::new(Mutex::new(None));
        let stopped = with_intruder(
            &start.machine,
            at,
            |to| {
                send(&start.from, to).unwrap();
            },
            {
                let (from, disk, made) = (start.from.clone(), Arc::clone(&disk), Arc::clone(&made));
                move |machine| {
                    let repository = machine.spawn().open().unwrap();
                    *made.lock().unwrap() = Some(backup(&repository, "a", &disk).unwrap());
                    send(&from, &repository).unwrap();
                    collect(&repository).unwrap();
                }
            },
        );
        start.expect_all();
        if let Some(id) = *made.lock().unwrap() {
            start.model.kept.push(("a".to_owned(), id, disk));
        }
        start.assert_holds(&format!("two transfers, step {at}"));
        let to = start.machine.spawn().open().unwrap();
        collect(&to).unwrap();
        start.assert_holds(&format!("two transfers, step {at}, and after"));
        let entries = to.image(&image("a")).unwrap().snapshots.len();
        assert_eq!(entries, 3 + usize::from(made.lock().unwrap().is_some()));
        stopped
    });
}

/// Where each of two processes stands still.
struct Crossing {
    state: Mutex<CrossingState>,
    changed: Condvar,
}

#[derive(Default)]
struct CrossingState {
    steps: [u64; 2],
    stands: [bool; 2],
    has_ended: [bool; 2],
}

impl Crossing {
    fn update(&self, change: impl FnOnce(&mut CrossingState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait(&self, until: impl Fn(&CrossingState) -> bool) {
        let mut state = self.state.lock().unwrap();
        while !until(&state) {
            let (next, time) = self.changed.wait_timeout(state, Duration::from_secs(60)).unwrap();
            assert!(!time.timed_out(), "the two wait for each other");
            state = next;
        }
    }

    /// The first goes on when the second stands or has ended, the second when the first has ended.
    fn step(&self, who: usize, at: u64) {
        let mut is_here = false;
        self.update(|state| {
            is_here = state.steps[who] >= at && !state.stands[who];
            state.stands[who] |= is_here;
            state.steps[who] += 1;
        });
        if is_here && who == 0 {
            self.wait(|state| state.stands[1] || state.has_ended[1]);
        } else if is_here {
            self.wait(|state| state.has_ended[0]);
        }
    }
}

/// One process comes to step `at[0]`, then the other to step `at[1]`, then the first ends, then the other. Returns how many
/// steps each took.
fn cross(
    machine: &Machine,
    at: [u64; 2],
    first: impl FnOnce(&Repository) + Send,
    second: impl FnOnce(&Repository) + Send,
) -> [u64; 2] {
    let crossing = Arc::new(Crossing { state: Mutex::default(), changed: Condvar::new() });
    let workers = [machine.spawn(), machine.spawn()];
    let repositories = [workers[0].open().unwrap(), workers[1].open().unwrap()];
    let processes = [workers[0].files.process(), workers[1].files.process()];
    machine.files.set_hook(Some(Arc::new({
        let (machine, crossing) = (machine.clone(), Arc::clone(&crossing));
        move |operation: Operation<'_>| {
            let who = processes.iter().position(|process| *process == operation.process);
            if let Some(who) = who.filter(|_| operation.name != "read" && !machine.files.is_locked()) {
                crossing.step(who, at[who]);
            }
        }
    })));
    struct End<'a>(&'a Crossing, usize);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.update(|state| state.has_ended[self.1] = true);
        }
    }
    std::thread::scope(|scope| {
        let [one, other] = &repositories;
        let crossing = &crossing;
        scope.spawn(move || {
            let _end = End(crossing, 0);
            first(one);
        });
        scope.spawn(move || {
            let _end = End(crossing, 1);
            crossing.wait(|state| state.stands[0] || state.has_ended[0]);
            second(other);
        });
    });
    machine.files.set_hook(None);
    crossing.state.lock().unwrap().steps
}

#[test]
fn a_transfer_that_crosses_a_collection() {
    let play = |seed: u64, at: [u64; 2]| -> [u64; 2] {
        let mut start = start(seed);
        let sent = Mutex::new(None);
        let from = start.from.clone();
        let steps = cross(
            &start.machine,
            at,
            |to| {
                collect(to).unwrap();
            },
            |to| *sent.lock().unwrap() = Some(send(&from, to)),
        );
        let context = format!("seed {seed}, collection at {}, transfer at {}", at[0], at[1]);
        let sent = sent.into_inner().unwrap().unwrap();
        match &sent {
            Ok(outcome) => {
                assert_eq!(outcome.snapshots.len(), 2, "{context}");
                start.expect_all();
            }
            Err(Error::Contended { key, .. }) => assert!(key.contains("deletes"), "{context}: {key}"),
            Err(error) => panic!("{context}: {error}"),
        }
        start.assert_holds(&context);
        let to = start.machine.spawn().open().unwrap();
        send(&start.from, &to).unwrap();
        if sent.is_err() {
            start.expect_all();
        }
        collect(&to).unwrap();
        start.assert_holds(&format!("{context}, and after"));
        steps
    };
    // How many steps there are, with nobody in between.
    let [collection, transfer] = play(0, [u64::MAX, u64::MAX]);
    assert!(collection > 50 && transfer > 50);
    let mut random = Random::new(12);
    for round in 0..if is_full() { 5000 } else { 250 } {
        // Deciding and deleting come in the second half of a collection.
        let at = [collection / 2 + random.below(collection / 2), random.below(transfer)];
        play(round % 5, at);
    }
}
