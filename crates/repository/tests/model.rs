//! Random operations against a model that knows only names and bytes; a failing case shrinks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{
    CHUNK_BYTES, Machine, MemoryDisk, MemoryTarget, Model, backup, backup_group, backup_options, collect,
    content, image, is_full, mutated, restore,
};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use leeward_repository::{
    Difference, Error, KeepRules, Repository, RestoreMode, SnapshotEntry, SnapshotId, Unattended,
    plan_retention,
};
use leeward_store::simulation::Random;
use proptest::prelude::*;

const IMAGES: [&str; 3] = ["a", "b/root", "b/data"];

#[derive(Clone, Debug)]
enum Operation {
    /// A new disk of so many bytes.
    BackUpNew {
        image: usize,
        size: usize,
        seed: u64,
    },
    /// A known disk after some writes, perhaps larger or smaller.
    BackUpChanged {
        image: usize,
        disk: usize,
        grow: i32,
        seed: u64,
    },
    /// A known disk as it was.
    BackUpAgain {
        image: usize,
        disk: usize,
    },
    Forget {
        snapshot: usize,
    },
    Tag {
        snapshot: usize,
    },
    Hold {
        snapshot: usize,
    },
    Release {
        snapshot: usize,
    },
    Collect,
    Rebuild,
    /// The process ends in the middle of a backup.
    Die {
        image: usize,
        at: u64,
        seed: u64,
    },
    Reboot {
        seed: u64,
    },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::{
        BackUpAgain, BackUpChanged, BackUpNew, Collect, Die, Forget, Hold, Reboot, Rebuild, Release, Tag,
    };
    let chunk = CHUNK_BYTES as i32;
    let size = prop_oneof![
        0..4_usize,
        Just(CHUNK_BYTES - 1),
        Just(CHUNK_BYTES),
        Just(128 * CHUNK_BYTES),
        Just(128 * CHUNK_BYTES + 1),
        0..3_000_000_usize,
    ];
    let (image, any, seed) = (0..IMAGES.len(), 0..1000_usize, any::<u64>());
    let operation = prop_oneof![
        3 => (image.clone(), size, seed).prop_map(|(image, size, seed)| BackUpNew { image, size, seed }),
        4 => (image.clone(), any.clone(), -3 * chunk..3 * chunk, seed)
            .prop_map(|(image, disk, grow, seed)| BackUpChanged { image, disk, grow, seed }),
        1 => (image.clone(), any.clone()).prop_map(|(image, disk)| BackUpAgain { image, disk }),
        4 => any.clone().prop_map(|snapshot| Forget { snapshot }),
        1 => any.clone().prop_map(|snapshot| Tag { snapshot }),
        1 => any.clone().prop_map(|snapshot| Hold { snapshot }),
        1 => any.prop_map(|snapshot| Release { snapshot }),
        3 => Just(Collect),
        1 => Just(Rebuild),
        1 => (image, 0..60_u64, seed).prop_map(|(image, at, seed)| Die { image, at, seed }),
        1 => seed.prop_map(|seed| Reboot { seed }),
    ];
    prop::collection::vec(operation, 1..14)
}

#[derive(Default)]
struct Expected {
    model: Model,
    tags: BTreeMap<SnapshotId, u32>,
    holds: Vec<SnapshotId>,
}

fn back_up(repository: &Repository, expected: &mut Expected, name: &str, content: Arc<Vec<u8>>) {
    // Where there is a snapshot of the same size, by what has changed since.
    let kept = expected.model.kept.iter().rev();
    let before = kept.into_iter().find(|(image, _, old)| image == name && old.len() == content.len());
    let id = match before {
        Some((_, base, old)) => {
            let outcomes = backup_group(repository, &[(name, &content, Some((*base, old)))]).unwrap();
            assert_eq!(outcomes[0].snapshot.parents, [*base]);
            assert_eq!(outcomes[0].snapshot.capture, None, "it was read whole");
            outcomes[0].id
        }
        None => backup(repository, name, &content).unwrap(),
    };
    expected.model.contents.push(Arc::clone(&content));
    expected.model.kept.push((name.to_owned(), id, content));
}

fn run(operations: &[Operation]) {
    let mut machine = Machine::new();
    machine.init().unwrap();
    let mut expected = Expected::default();
    for operation in operations {
        step(operation, &mut machine, &mut expected);
        // What a listing says.
        let repository = machine.spawn().open().unwrap();
        let listed: usize = repository
            .images()
            .unwrap()
            .iter()
            .map(|name| repository.image(name).unwrap().snapshots.len())
            .sum();
        assert_eq!(listed, expected.model.kept.len(), "after {operation:?}");
    }
    let repository = machine.spawn().open().unwrap();
    expected.model.assert_holds(&repository, "at the end");
    for (name, id, _) in &expected.model.kept {
        let image = repository.image(&image(name)).unwrap();
        let entry = image.entry(*id).unwrap();
        assert_eq!(entry.tags.len(), usize::from(expected.tags.contains_key(id)));
        assert_eq!(!entry.holds.is_empty(), expected.holds.contains(id));
    }
    collect(&repository).unwrap();
    expected.model.assert_holds(&repository, "collected");
}

fn step(operation: &Operation, machine: &mut Machine, expected: &mut Expected) {
    let repository = machine.spawn().open().unwrap();
    let pick = |snapshot: &usize| {
        let kept = &expected.model.kept;
        kept.get(snapshot % kept.len().max(1)).map(|(name, id, _)| (image(name), *id))
    };
    let disk = |number: &usize| {
        let contents = &expected.model.contents;
        contents.get(number % contents.len().max(1)).cloned().unwrap_or_default()
    };
    match operation {
        Operation::BackUpNew { image, size, seed } => {
            let content = Arc::new(content(&mut Random::new(*seed), *size));
            back_up(&repository, expected, IMAGES[*image], content);
        }
        Operation::BackUpChanged { image, disk: number, grow, seed } => {
            let mut content = disk(number).to_vec();
            let size = (content.len() as i64 + i64::from(*grow)).max(0) as usize;
            content.resize(size, 0);
            let content = Arc::new(mutated(&mut Random::new(*seed), &content));
            back_up(&repository, expected, IMAGES[*image], content);
        }
        Operation::BackUpAgain { image, disk: number } => {
            let content = disk(number);
            back_up(&repository, expected, IMAGES[*image], content);
        }
        Operation::Forget { snapshot } => {
            let Some((name, id)) = pick(snapshot) else { return };
            match repository.forget(&name, &[id]) {
                Ok(_) => expected.model.forget(id),
                Err(Error::Held { .. }) => assert!(expected.holds.contains(&id)),
                Err(error) => panic!("{error}"),
            }
        }
        Operation::Tag { snapshot } => {
            let Some((name, id)) = pick(snapshot) else { return };
            let set = BTreeMap::from([("tag".to_owned(), "value".to_owned())]);
            repository.tag(&name, id, &set, &[]).unwrap();
            expected.tags.insert(id, 1);
        }
        Operation::Hold { snapshot } => {
            let Some((name, id)) = pick(snapshot) else { return };
            let result = repository.hold(&name, id, "hold", "why");
            assert_eq!(result.is_err(), expected.holds.contains(&id));
            if result.is_ok() {
                expected.holds.push(id);
            }
        }
        Operation::Release { snapshot } => {
            let Some((name, id)) = pick(snapshot) else { return };
            let result = repository.release(&name, id, "hold");
            assert_eq!(result.is_ok(), expected.holds.contains(&id));
            expected.holds.retain(|other| *other != id);
        }
        Operation::Collect => {
            collect(&repository).unwrap();
        }
        Operation::Rebuild => {
            repository.rebuild_index(&Unattended).unwrap();
        }
        Operation::Die { image, at, seed } => {
            let content = Arc::new(content(&mut Random::new(*seed), 300_000));
            let process = machine.spawn();
            let repository = process.open().unwrap();
            let steps = std::sync::atomic::AtomicU64::new(0);
            process.files.set_hook(Some(Arc::new({
                let (files, at) = (process.files.clone(), *at);
                move |operation| {
                    let is_own = operation.process == files.process() && operation.is_change;
                    if is_own && steps.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= at {
                        files.kill();
                    }
                }
            })));
            let result = backup(&repository, IMAGES[*image], &content);
            process.files.set_hook(None);
            process.files.kill();
            // Whether it was published shows when the next writer comes.
            let next = machine.spawn().open().unwrap();
            next.collect(&common::at_once(), &Unattended).unwrap();
            expected.model.contents.push(Arc::clone(&content));
            if let Ok(found) = next.image(&common::image(IMAGES[*image])) {
                let known = |id| expected.model.kept.iter().any(|(_, other, _)| *other == id);
                let new: Vec<_> = found.snapshots.iter().filter(|entry| !known(entry.id)).collect();
                assert!(new.len() <= 1 && (result.is_err() || new.len() == 1));
                for entry in new {
                    expected.model.kept.push((IMAGES[*image].to_owned(), entry.id, Arc::clone(&content)));
                }
            }
        }
        Operation::Reboot { seed } => {
            let files = machine.files.crash(*seed);
            *machine = Machine { files, boot: format!("{} again", machine.boot) };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_full() { 1000 } else { 100 }, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_repository_does_what_its_model_says(operations in operations()) {
        run(&operations);
    }

    #[test]
    fn a_difference_of_trees_is_the_difference_of_chunks(
        (first, second, changes, seed) in (0..5_000_000_usize, 0..5_000_000_usize, 0..4_u32, any::<u64>())
    ) {
        let mut random = Random::new(seed);
        let a = content(&mut random, first);
        let mut b = a.clone();
        b.resize(second, 0);
        for _ in 0..changes {
            b = mutated(&mut random, &b);
        }
        let repository = Machine::new().init().unwrap();
        let ids = [backup(&repository, "a", &a).unwrap(), backup(&repository, "b", &b).unwrap()];
        let [x, y] = ids.map(|id| repository.snapshot(id).unwrap());
        let mut found = Vec::new();
        repository.diff(&x, &y, |Difference { offset, length }| found.push((offset, length))).unwrap();
        prop_assert_eq!(found, naive_difference(&a, &b));
    }

    #[test]
    fn neither_extents_nor_threads_matter_for_the_tree(size in 0..3_000_000_usize, seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let content = content(&mut random, size);
        let repository = Machine::new().init().unwrap();
        let mut roots = Vec::new();
        for threads in [1, 2, 3] {
            let disk = match threads {
                1 => MemoryDisk::plain(content.clone()),
                _ => MemoryDisk::with_holes(content.clone(), &mut random),
            };
            let options = leeward_repository::BackupOptions { threads, ..backup_options("a") };
            // In a repository of its own, too: what is there already must not matter either.
            for repository in [&repository, &Machine::new().init().unwrap()] {
                roots.push(repository.backup(&disk, &options, &Unattended).unwrap().snapshot.root);
            }
        }
        prop_assert!(roots.iter().all(|root| *root == roots[0]), "{:?}", roots);
    }

    #[test]
    fn a_patch_makes_any_disk_equal(size in 1..2_500_000_usize, more in 0..200_000_usize, seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let wanted = content(&mut random, size);
        let mut there = if random.chance(50) { content(&mut random, size) } else { mutated(&mut random, &wanted) };
        there.resize(size + more, 0xaa);
        let repository = Machine::new().init().unwrap();
        let id = backup(&repository, "a", &wanted).unwrap();
        let snapshot = repository.snapshot(id).unwrap();
        let before = MemoryDisk::with_holes(there.clone(), &mut random);
        let target = MemoryTarget::with(there.clone());
        let compared = repository.restore(&snapshot, RestoreMode::Compare(&before), 2, &Unattended).unwrap();
        let patched =
            repository.restore(&snapshot, RestoreMode::Patch(&target, &before), 2, &Unattended).unwrap();
        let mut expected = wanted.clone();
        expected.resize(size + more, 0);
        let restored = target.into_content();
        prop_assert!(restored == expected);
        prop_assert_eq!(compared.differing_bytes == 0, there == expected);
        prop_assert_eq!(compared.differing_bytes, patched.differing_bytes);
        // Writing over a disk that is not blank leaves nothing of it.
        let target = MemoryTarget::with(there);
        repository.restore(&snapshot, RestoreMode::Write(&target), 2, &Unattended).unwrap();
        prop_assert!(target.into_content() == expected);
        prop_assert!(restore(&repository, id).unwrap() == wanted);
    }

    #[test]
    fn retention_keeps_what_its_rules_promise(
        (times, counts, within, seed) in (
            prop::collection::vec(-100_000..4000_i64, 0..60),
            prop::array::uniform6(0..5_usize),
            prop::option::of(1..2000_i64),
            any::<u64>(),
        )
    ) {
        retention(&times, counts, within, seed)?;
    }
}

fn naive_difference(a: &[u8], b: &[u8]) -> Vec<(u64, u64)> {
    let size = a.len().max(b.len());
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    let whole = size.next_multiple_of(CHUNK_BYTES);
    a.resize(whole, 0);
    b.resize(whole, 0);
    let mut found: Vec<(u64, u64)> = Vec::new();
    for start in (0..whole).step_by(CHUNK_BYTES) {
        let (end, start_byte) = ((start + CHUNK_BYTES).min(size), start as u64);
        if a[start..start + CHUNK_BYTES] == b[start..start + CHUNK_BYTES] {
            continue;
        }
        let length = (end - start) as u64;
        match found.last_mut() {
            Some((offset, before)) if *offset + *before == start_byte => *before += length,
            _ => found.push((start_byte, length)),
        }
    }
    found
}

/// Times are in minutes from now.
fn retention(times: &[i64], counts: [usize; 6], within: Option<i64>, seed: u64) -> Result<(), TestCaseError> {
    let now: Timestamp = "2026-03-29T01:30:00Z".parse().unwrap();
    let mut random = Random::new(seed);
    let entries: Vec<SnapshotEntry> = times
        .iter()
        .enumerate()
        .map(|(number, minutes)| SnapshotEntry {
            id: SnapshotId([number as u8; 32]),
            created: now + Span::new().minutes(*minutes),
            virtual_size: 0,
            group: None,
            tags: if random.chance(10) {
                [("keep".to_owned(), String::new())].into()
            } else {
                BTreeMap::new()
            },
            holds: Vec::new(),
            origin: None,
        })
        .collect();
    let [last, hourly, daily, weekly, monthly, yearly] = counts;
    let within = within.map(|hours| Span::new().hours(hours));
    let tags = vec!["keep".to_owned()];
    let rules = KeepRules { last, hourly, daily, weekly, monthly, yearly, within, tags };
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let plan = plan_retention(&entries, &rules, now, &zone).unwrap();
    prop_assert_eq!(plan.len(), entries.len());
    prop_assert!(plan.is_sorted_by(|a, b| a.created >= b.created));
    prop_assert!(plan.iter().all(|decision| decision.keep != decision.reasons.is_empty()));
    let past: Vec<_> = plan.iter().filter(|decision| decision.created <= now).collect();
    prop_assert!(past.iter().take(last).all(|decision| decision.keep));
    let because = |reason: &str| past.iter().filter(|d| d.reasons.iter().any(|r| r == reason)).count();
    for (count, name, format) in [
        (hourly, "hourly", "%Y-%m-%d %H %z"),
        (daily, "daily", "%Y-%m-%d"),
        (weekly, "weekly", "%G-%V"),
        (monthly, "monthly", "%Y-%m"),
        (yearly, "yearly", "%Y"),
    ] {
        // One for each period that has one, the newest of it, and no period left out before an older one.
        let mut periods: Vec<String> = Vec::new();
        for decision in &past {
            let period = decision.created.to_zoned(zone.clone()).strftime(format).to_string();
            let is_first = !periods.contains(&period);
            let is_kept = decision.reasons.iter().any(|reason| reason == name);
            if is_first {
                periods.push(period);
            }
            prop_assert_eq!(is_kept, is_first && periods.len() <= count, "{}", name);
        }
        prop_assert_eq!(because(name), count.min(periods.len()));
    }
    let expected_within = |decision: &&&leeward_repository::Decision| {
        within
            .is_some_and(|span| decision.created.to_zoned(zone.clone()) >= now.to_zoned(zone.clone()) - span)
    };
    prop_assert_eq!(because("within"), past.iter().filter(expected_within).count());
    prop_assert!(plan.iter().filter(|decision| decision.created > now).all(|decision| decision.keep));
    // Order does not matter.
    let mut shuffled = entries;
    shuffled.reverse();
    prop_assert_eq!(plan, plan_retention(&shuffled, &rules, now, &zone).unwrap());
    Ok(())
}
