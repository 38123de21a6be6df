//! The power fails at every change that a day in the life of a repository makes; after each, what was acknowledged is
//! there, all is sound, and work goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{Machine, Model, backup, backup_group, collect, content, image, is_full, mutated};
use leeward_repository::{Repository, Unattended};
use leeward_store::simulation::Random;

type Shared = Arc<Mutex<Model>>;

fn acknowledged_backup(repository: &Repository, model: &Shared, name: &str, content: Vec<u8>) {
    let content = Arc::new(content);
    model.lock().unwrap().contents.push(Arc::clone(&content));
    let id = backup(repository, name, &content).unwrap();
    model.lock().unwrap().kept.push((name.to_owned(), id, content));
}

/// The next snapshots of both images, as one group, by what has changed.
fn acknowledged_group(repository: &Repository, model: &Shared, random: &mut Random) {
    let last = |name: &str| {
        let model = model.lock().unwrap();
        let (_, id, content) = model.kept.iter().rev().find(|(image, ..)| image == name).unwrap();
        (*id, Arc::clone(content))
    };
    let names = ["a", "b"];
    let before = names.map(last);
    let after = before.each_ref().map(|(_, content)| Arc::new(mutated(random, content)));
    model.lock().unwrap().contents.extend(after.iter().cloned());
    let disks: Vec<common::Disk<'_>> = (0..names.len())
        .map(|index| {
            let (id, old) = &before[index];
            (names[index], after[index].as_slice(), Some((*id, old.as_slice())))
        })
        .collect();
    let outcomes = backup_group(repository, &disks).unwrap();
    let mut model = model.lock().unwrap();
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.snapshot.capture, None, "it was read whole");
        model.kept.push((names[index].to_owned(), outcome.id, Arc::clone(&after[index])));
    }
}

/// Either all snapshots of a group are there or none.
fn assert_groups_are_whole(repository: &Repository, context: &str) {
    let count = |name: &str| {
        let found = repository.image(&image(name)).map(|image| image.snapshots).unwrap_or_default();
        found.iter().filter(|entry| entry.group.is_some()).count()
    };
    assert_eq!(count("a"), count("b"), "{context}: a part of a group");
}

fn acknowledged_forget(repository: &Repository, model: &Shared, name: &str) {
    let id = repository.image(&image(name)).unwrap().snapshots[0].id;
    // While it is being forgotten it may or may not be there.
    model.lock().unwrap().kept.retain(|(_, other, _)| *other != id);
    repository.forget(&image(name), &[id]).unwrap();
    model.lock().unwrap().gone.push(id);
}

/// A day in the life of a repository. Each backup is another process, so its session ends in every way there is.
fn script(machine: &Machine, model: &Shared, seed: u64) {
    let mut random = Random::new(seed);
    let repository = machine.init().unwrap();
    let first = content(&mut random, 2_500_000);
    let second = mutated(&mut random, &first);
    let other = content(&mut random, 1_200_000);
    acknowledged_backup(&repository, model, "a", first.clone());
    acknowledged_backup(&repository, model, "a", second.clone());
    acknowledged_backup(&repository, model, "b", other);
    acknowledged_forget(&repository, model, "a");
    collect(&repository).unwrap();
    acknowledged_group(&repository, model, &mut random);
    repository.rebuild_index(&Unattended).unwrap();
    acknowledged_forget(&repository, model, "b");
    collect(&repository).unwrap();
}

fn survives(machine: &Machine, model: &Model, was_initialised: bool, context: &str) {
    let repository = match machine.open() {
        Ok(repository) => repository,
        Err(error) => {
            assert!(!was_initialised, "{context}: cannot be opened: {error}");
            machine.init().unwrap_or_else(|error| panic!("{context}: init again: {error}"))
        }
    };
    model.assert_holds(&repository, context);
    // Opened anew: a group that was being published is completed by whoever comes next.
    let mut model = model.clone();
    let more = Arc::new(content(&mut Random::new(99), 700_000));
    let id = backup(&repository, "a", &more).unwrap_or_else(|error| panic!("{context}: backup: {error}"));
    model.kept.push(("a".to_owned(), id, Arc::clone(&more)));
    model.contents.push(more);
    let outcome = collect(&repository).unwrap_or_else(|error| panic!("{context}: collect: {error}"));
    assert_eq!(outcome.pending_packs, 0, "{context}: dead writers hold a collection up: {outcome:?}");
    assert_groups_are_whole(&repository, context);
    model.assert_holds(&repository, &format!("{context}, after a backup and a collection"));
}

#[test]
fn whatever_was_acknowledged_survives_a_loss_of_power_at_any_change() {
    let (seeds, every, losses) = if is_full() { (6, 1, 10) } else { (3, 1, 1) };
    for seed in 0..seeds {
        let machine = Machine::new();
        let model = Shared::default();
        let number = Arc::new(AtomicU64::new(0));
        let tried = Arc::new(AtomicU64::new(0));
        machine.files.set_hook(Some(Arc::new({
            let (files, model, number, tried) =
                (machine.files.clone(), Arc::clone(&model), Arc::clone(&number), Arc::clone(&tried));
            move |operation| {
                if !operation.is_change {
                    return;
                }
                let at = number.fetch_add(1, Ordering::SeqCst);
                if (at + seed) % every != 0 {
                    return;
                }
                tried.fetch_add(1, Ordering::SeqCst);
                let model = model.lock().unwrap().clone();
                let was_initialised = !model.contents.is_empty();
                for loss in 0..losses {
                    let after = files.after_power_loss((seed * 10_000 + at) * losses + loss);
                    let (name, path) = (operation.name, operation.path);
                    let context = format!("seed {seed}, change {at} ({name} {path:?}), loss {loss}");
                    survives(&Machine::rebooted(after), &model, was_initialised, &context);
                }
            }
        })));
        script(&machine, &model, seed);
        machine.files.set_hook(None);
        let (changes, tried) = (number.load(Ordering::SeqCst), tried.load(Ordering::SeqCst));
        println!("seed {seed}: {changes} changes, power lost at {tried}");
        assert!(changes > 200 && tried > changes / every - 2);
        model.lock().unwrap().assert_holds(&machine.open().unwrap(), "at the end");
    }
}
