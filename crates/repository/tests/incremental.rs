//! Backups by what has changed: the same tree as by reading everything, and a reason where that is not possible.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{
    CHUNK_BYTES, Machine, MemoryDisk, Model, backup, backup_group, backup_options, content, image, mutated,
    restore,
};
use leeward_disk::{Extent, Info, Source};
use leeward_repository::{
    CaptureMode, Changed, Consistency, Control, Error, GroupOptions, Member, Unattended,
};
use leeward_store::simulation::Random;

/// Notes what is asked for.
struct Watched {
    disk: MemoryDisk,
    asked: Mutex<Vec<(u64, u64)>>,
}

impl Source for Watched {
    fn virtual_size(&self) -> u64 {
        self.disk.virtual_size()
    }

    fn info(&self) -> Info {
        self.disk.info()
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.asked.lock().unwrap().push((offset, length));
        self.disk.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        self.asked.lock().unwrap().push((offset, buffer.len() as u64));
        self.disk.read_at(buffer, offset)
    }
}

fn options() -> GroupOptions {
    GroupOptions {
        group: None,
        consistency: Consistency::Crash,
        tags: std::collections::BTreeMap::new(),
        threads: 2,
    }
}

fn member<'a>(name: &str, source: &'a dyn Source, changed: Option<Changed>) -> Member<'a> {
    Member { image: image(name), source, record: backup_options(name).source, changed, capture: None }
}

#[test]
fn the_tree_is_the_same_as_of_a_full_backup() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let repository = Machine::new().init().unwrap();
        // One, two and three levels of the tree.
        let size = [200_000, 3_000_000, 5 * 128 * CHUNK_BYTES + 7][seed as usize % 3];
        let mut before = content(&mut random, size);
        let mut base = backup(&repository, "a", &before).unwrap();
        for _ in 0..4 {
            let after = mutated(&mut random, &before);
            let partly = backup_group(&repository, &[("a", &after, Some((base, &before)))]).unwrap();
            let whole = backup(&repository, "b", &after).unwrap();
            let whole = repository.snapshot(whole).unwrap();
            assert_eq!(partly[0].snapshot.capture, None);
            assert_eq!(partly[0].snapshot.root, whole.root, "seed {seed}");
            assert_eq!(whole.statistics.new_bytes, 0, "seed {seed}");
            assert_eq!(partly[0].snapshot.statistics.data_bytes, whole.statistics.data_bytes, "seed {seed}");
            assert!(restore(&repository, partly[0].id).unwrap() == after, "seed {seed}");
            (before, base) = (after, partly[0].id);
        }
        Model::default().assert_clean(&repository, "after all");
    }
}

#[test]
fn nothing_else_is_read_than_what_has_changed() {
    let mut random = Random::new(1);
    let repository = Machine::new().init().unwrap();
    let mut disk = vec![0; 20 * 128 * CHUNK_BYTES];
    random.fill(&mut disk);
    let base = backup(&repository, "a", &disk).unwrap();
    let chunk = CHUNK_BYTES as u64;
    let ranges = vec![(3 * chunk + 100, 10), (700 * chunk, 3 * chunk), (2000 * chunk - 1, 2)];
    let wanted = [(3 * chunk, chunk), (700 * chunk, 3 * chunk), (1999 * chunk, 2 * chunk)];
    for (offset, length) in &ranges {
        random.fill(&mut disk[*offset as usize..(*offset + *length) as usize]);
    }
    let source = Watched { disk: MemoryDisk::plain(disk.clone()), asked: Mutex::default() };
    let changed = Changed { base, ranges };
    let outcome =
        repository.backup_group(&[member("a", &source, Some(changed))], &options(), &Unattended).unwrap();
    assert_eq!(outcome[0].snapshot.statistics.read_bytes, 6 * chunk);
    assert_eq!(outcome[0].snapshot.statistics.new_bytes, 6 * chunk);
    assert!(outcome[0].snapshot.statistics.stored_bytes > 6 * chunk, "noise does not compress");
    assert_eq!(outcome[0].snapshot.parents, [base]);
    for (offset, length) in source.asked.into_inner().unwrap() {
        let is_wanted = wanted.iter().any(|(from, size)| *from <= offset && offset + length <= from + size);
        assert!(is_wanted, "{length} bytes at {offset} were asked for");
    }
    assert!(restore(&repository, outcome[0].id).unwrap() == disk);
    // And nothing at all when nothing has changed.
    let source = Watched { disk: MemoryDisk::plain(disk), asked: Mutex::default() };
    let changed = Changed { base: outcome[0].id, ranges: Vec::new() };
    let again =
        repository.backup_group(&[member("a", &source, Some(changed))], &options(), &Unattended).unwrap();
    assert_eq!(again[0].snapshot.root, outcome[0].snapshot.root);
    assert!(source.asked.into_inner().unwrap().is_empty());
}

#[test]
fn what_cannot_be_built_on_is_read_whole_with_the_reason() {
    let mut random = Random::new(2);
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let disk = content(&mut random, 2_000_000);
    let base = backup(&repository, "a", &disk).unwrap();
    let check = |name: &str, disk: &[u8], base, reason: &str| {
        let source = MemoryDisk::plain(disk.to_vec());
        let changed = Changed { base, ranges: Vec::new() };
        let members = [member(name, &source, Some(changed))];
        let outcome = repository.backup_group(&members, &options(), &Unattended).unwrap();
        let capture = outcome[0].snapshot.capture.clone().unwrap();
        assert_eq!(capture.mode, CaptureMode::Full);
        let given = capture.reason.unwrap();
        assert!(given.contains(reason), "{given}");
        assert!(restore(&repository, outcome[0].id).unwrap() == disk);
        outcome[0].id
    };
    check("a", &content(&mut random, 1_000_000), base, "another size");
    // The map belongs to a snapshot of another image.
    check("b", &content(&mut random, 2_000_000), base, "not kept any more");
    let last = check(
        "a",
        &content(&mut random, 2_000_000),
        repository.image(&image("b")).unwrap().snapshots[0].id,
        "not kept",
    );
    repository.forget(&image("a"), &[last]).unwrap();
    check("a", &content(&mut random, 2_000_000), last, "not kept any more");
}

#[test]
fn a_group_is_published_whole_or_not_at_all() {
    struct Doubtful;
    impl Control for Doubtful {
        fn advance(&self, _bytes: u64) {}

        fn is_cancelled(&self) -> bool {
            false
        }

        fn confirm(&self) -> leeward_repository::Result<()> {
            Err(Error::Unconfirmed { source: "the overlay was full".into() })
        }
    }
    let mut random = Random::new(3);
    let repository = Machine::new().init().unwrap();
    let disks = [content(&mut random, 900_000), content(&mut random, 400_000)];
    let sources = disks.clone().map(MemoryDisk::plain);
    let members = [member("m/a", &sources[0], None), member("m/b", &sources[1], None)];
    let refused = repository.backup_group(&members, &options(), &Doubtful).unwrap_err();
    assert!(refused.to_string().contains("the overlay was full"), "{refused}");
    assert!(repository.images().unwrap().is_empty());
    Model::default().assert_clean(&repository, "after a refused group");
    let outcomes = backup_group(&repository, &[("m/a", &disks[0], None), ("m/b", &disks[1], None)]).unwrap();
    for (outcome, disk) in outcomes.iter().zip(&disks) {
        assert!(restore(&repository, outcome.id).unwrap() == *disk);
        let group = outcome.snapshot.group.clone().unwrap();
        assert_eq!(group.images, ["m/a", "m/b"]);
        let name = outcome.snapshot.image.parse().unwrap();
        assert_eq!(repository.image(&name).unwrap().snapshots[0].group, Some(group.id));
    }
    let twice = [member("x", &sources[0], None), member("x", &sources[1], None)];
    assert!(repository.backup_group(&twice, &options(), &Unattended).is_err());
}

#[test]
fn who_cancels_when_all_is_read_gets_nothing_published() {
    struct Late(AtomicU64);
    impl Control for Late {
        fn advance(&self, bytes: u64) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }

        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed) == 0
        }
    }
    let mut random = Random::new(4);
    let repository = Machine::new().init().unwrap();
    let disk = MemoryDisk::plain(content(&mut random, 900_000));
    let late = Late(AtomicU64::new(900_000));
    let stopped = repository.backup_group(&[member("late", &disk, None)], &options(), &late).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted), "{stopped}");
    assert!(late.is_cancelled() && repository.images().unwrap().is_empty());
    Model::default().assert_clean(&repository, "after a backup that was cancelled at its end");
}
