//! Disks that come from their first byte to their last: the same tree as of a disk that is read, however they are cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{CHUNK_BYTES, Machine, MemoryDisk, Model, backup_options, content, image, mutated, restore};
use leeward_repository::{
    BackupOutcome, Consistency, Control, Error, Give, Given, GroupOptions, GroupRecord, Repository, Stream,
    Take, Unattended,
};
use leeward_store::simulation::Random;

fn options() -> GroupOptions {
    GroupOptions {
        group: None,
        consistency: Consistency::AtRest,
        tags: BTreeMap::from([("all".to_owned(), "1".to_owned())]),
        threads: 3,
    }
}

/// Gives content in pieces of any length; zeros as such where there are some, or as data.
fn give(content: &[u8], random: &mut Random, take: &mut Take<'_>) -> leeward_repository::Result<()> {
    let mut position = 0;
    while position < content.len() {
        let rest = &content[position..];
        let most = [7, 5000, 3 * CHUNK_BYTES as u64, 9 << 20][random.below(4) as usize];
        let length = (1 + random.below(most) as usize).min(rest.len());
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        let (given, length) = match zeros {
            1.. if random.chance(80) => (Given::Zeros(zeros as u64), zeros),
            _ => (Given::Data(rest[..length].to_vec()), length),
        };
        take(given)?;
        position += length;
    }
    Ok(())
}

fn stream<'a>(name: &str, size: u64, give: Box<Give<'a>>) -> Stream<'a> {
    let tags = BTreeMap::from([("disk".to_owned(), name.to_owned())]);
    Stream { image: image(name), virtual_size: size, record: backup_options(name).source, tags, give }
}

fn store(
    repository: &Repository,
    disks: &[(&str, &[u8])],
    options: &GroupOptions,
    seed: u64,
) -> leeward_repository::Result<Vec<BackupOutcome>> {
    let mut streams: Vec<_> = disks
        .iter()
        .map(|(name, content)| {
            let mut random = Random::new(seed);
            stream(name, content.len() as u64, Box::new(move |take| give(content, &mut random, take)))
        })
        .collect();
    repository.backup_streams(&mut streams, options, &Unattended)
}

#[test]
fn the_tree_is_the_same_as_of_a_disk_that_is_read() {
    let leaf = 128 * CHUNK_BYTES;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let repository = Machine::new().init().unwrap();
        let size = [0, 1, CHUNK_BYTES, 200_000, 3_000_000, leaf, 3 * leaf, 5 * leaf + 7][seed as usize % 8];
        let mut before = content(&mut random, size);
        if seed % 3 == 0 {
            // Leaves without anything.
            let (from, to) = (size / 5, size / 5 * 4);
            before[from..to].fill(0);
        }
        for _ in 0..3 {
            let made = store(&repository, &[("a", &before)], &options(), seed).unwrap();
            let whole = repository
                .backup(&MemoryDisk::plain(before.clone()), &backup_options("b"), &Unattended)
                .unwrap();
            assert_eq!(made[0].snapshot.root, whole.snapshot.root, "seed {seed}");
            assert_eq!(made[0].snapshot.root_level, whole.snapshot.root_level, "seed {seed}");
            assert_eq!(whole.snapshot.statistics.new_bytes, 0, "seed {seed}");
            assert_eq!(made[0].snapshot.statistics.data_bytes, whole.snapshot.statistics.data_bytes);
            assert!(restore(&repository, made[0].id).unwrap() == before, "seed {seed}");
            let entry = repository.image(&image("a")).unwrap().snapshots.last().unwrap().clone();
            assert_eq!((entry.tags["all"].as_str(), entry.tags["disk"].as_str()), ("1", "a"));
            assert_eq!(made[0].snapshot.tags, entry.tags);
            before = mutated(&mut random, &before);
        }
        Model::default().assert_clean(&repository, "after all");
    }
}

#[test]
fn a_second_stream_stores_what_is_new_and_a_group_is_published_at_once() {
    let mut random = Random::new(3);
    let repository = Machine::new().init().unwrap();
    let mut disk = vec![0; 10 * 128 * CHUNK_BYTES];
    random.fill(&mut disk);
    store(&repository, &[("a", &disk)], &options(), 1).unwrap();
    random.fill(&mut disk[100 * CHUNK_BYTES + 5..101 * CHUNK_BYTES + 9]);
    let group = GroupRecord { id: "0123456789abcdef".repeat(2), images: Vec::new(), machine: None };
    let options = GroupOptions { group: Some(group), ..options() };
    let made = store(&repository, &[("a", &disk), ("c", &disk)], &options, 2).unwrap();
    assert_eq!(made[0].snapshot.statistics.new_bytes, 2 * CHUNK_BYTES as u64);
    assert_eq!(made[1].snapshot.statistics.new_bytes, 0);
    assert_eq!(made[0].snapshot.parents.len(), 1);
    let groups = repository.groups().unwrap();
    assert_eq!(groups.len(), 1);
    Model::default().assert_clean(&repository, "after all");
}

/// Asks for an end after so many bytes.
struct Until(AtomicU64, u64);

impl Control for Until {
    fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > self.1
    }
}

#[test]
fn what_is_not_whole_is_not_published() {
    let mut random = Random::new(5);
    let repository = Machine::new().init().unwrap();
    let disk = content(&mut random, 20 * 128 * CHUNK_BYTES);
    let size = disk.len() as u64;
    let with = |said: u64, give: Box<Give<'_>>, control: &dyn Control| {
        repository.backup_streams(&mut [stream("a", said, give)], &options(), control).unwrap_err()
    };
    let of = |seed| {
        let (disk, mut random) = (&disk, Random::new(seed));
        let give: Box<Give<'_>> = Box::new(move |take| give(disk, &mut random, take));
        give
    };
    assert!(
        matches!(with(size + 1, of(1), &Unattended), Error::Invalid(what) if what.contains("of them came"))
    );
    assert!(matches!(with(size - 1, of(2), &Unattended), Error::Invalid(what) if what.contains("has more")));
    assert!(matches!(with(size, of(3), &Until(AtomicU64::new(0), size / 2)), Error::Interrupted));
    let fails: Box<Give<'_>> = Box::new(|take| {
        take(Given::Data(disk[..3 << 20].to_vec()))?;
        Err(Error::Invalid("the source failed".to_owned()))
    });
    assert!(matches!(with(size, fails, &Unattended), Error::Invalid(what) if what == "the source failed"));
    assert!(repository.images().unwrap().is_empty());
    // What was stored until then is used.
    let made = store(&repository, &[("a", &disk)], &options(), 4).unwrap();
    assert!(made[0].snapshot.statistics.new_bytes < made[0].snapshot.statistics.data_bytes);
    assert!(restore(&repository, made[0].id).unwrap() == disk);
    Model::default().assert_clean(&repository, "after all");
}
