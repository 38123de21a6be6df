//! A repository in a bucket that does not compare, of whose objects somebody else deleted or overwrote parts: each kind of
//! damage is found, told, and mended, and what was published stays what it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::{CHUNK_BYTES, Model, backup, content, image, mutated};
use leeward_repository::{
    InitOptions, ReadData, RepairOptions, RepairOutcome, Repository, SnapshotId, Unattended,
};
use leeward_store::bucket::{Bucket, Comparison, Condition, VersionedStore};
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::{Habits, MemoryBucket};
use leeward_store::{Key, SharedStore};

struct Site {
    bucket: Arc<MemoryBucket>,
    model: Model,
}

impl Site {
    fn store(&self) -> SharedStore {
        let store = VersionedStore::new(Arc::clone(&self.bucket) as _, Comparison::None).unwrap();
        Arc::new(store.with_surroundings(Arc::clone(&self.bucket) as _))
    }

    fn open(&self) -> Repository {
        Repository::open(self.store()).unwrap()
    }

    /// Two images of three snapshots; the first has a tag.
    fn new(seed: u64) -> Self {
        let bucket = Arc::new(MemoryBucket::new(Comparison::None, Habits::default(), seed));
        let mut site = Self { bucket, model: Model::default() };
        let options =
            InitOptions { chunk_bytes: CHUNK_BYTES as u64, pack_bytes: 1 << 20, ..InitOptions::default() };
        let repository = Repository::init(site.store(), &options).unwrap();
        let mut random = Random::new(seed);
        let mut disk = content(&mut random, 300_000);
        for number in 0..6 {
            disk = mutated(&mut random, &disk);
            let name = format!("disk-{}", number % 2);
            let id = backup(&repository, &name, &disk).unwrap();
            site.model.kept.push((name, id, Arc::new(disk.clone())));
            site.model.contents.push(Arc::new(disk.clone()));
        }
        repository.hold(&image("disk-0"), site.first(), "kept", "for the auditor").unwrap();
        site
    }

    fn first(&self) -> SnapshotId {
        self.model.kept[0].1
    }

    /// The same objects in another bucket.
    fn copy(&self) -> Self {
        let bucket = Arc::new(MemoryBucket::new(Comparison::None, Habits::default(), 99));
        for key in self.bucket.keys() {
            let bytes = self.bucket.read(&key, None, u64::MAX).unwrap().content;
            bucket.write(&key, &[&bytes], Condition::Always).unwrap();
        }
        let model = Model {
            kept: self.model.kept.clone(),
            contents: self.model.contents.clone(),
            ..Model::default()
        };
        Self { bucket, model }
    }

    /// The part of the latest version of an object.
    fn part(&self, object: &str, letter: char) -> Key {
        let is_it = |key: &Key| {
            key.as_str().starts_with(&format!("{object}%3A/r"))
                && key.as_str().rsplit('.').next().unwrap().starts_with(letter)
        };
        self.bucket.keys().into_iter().rfind(is_it).unwrap()
    }

    fn lose(&self, object: &str, letter: char) {
        self.bucket.delete(&self.part(object, letter)).unwrap();
    }

    fn overwrite(&self, object: &str, with: &[u8]) {
        self.bucket.write(&self.part(object, 'a'), &[with], Condition::Always).unwrap();
    }

    /// What is left of an object whose writer has not ended.
    fn put(&self, object: &str, content: &[u8]) {
        self.store().put_if_absent(&Key::new(object).unwrap(), &[content]).unwrap();
    }
}

fn repair(repository: &Repository, peers: &[Repository]) -> RepairOutcome {
    let options = RepairOptions {
        peers,
        read: ReadData::All,
        no_collect_runs: true,
        whole_refs: true,
        incomplete_refs: false,
    };
    repository.repair(&options, &Unattended).unwrap()
}

fn assert_well(repository: &Repository, outcome: &RepairOutcome, model: &Model, context: &str) {
    assert!(outcome.left.findings.is_empty(), "{context}: {:#?}", outcome.left.findings);
    assert!(outcome.plan.cannot.is_empty() && outcome.failed.is_empty(), "{context}: {outcome:#?}");
    model.assert_holds(repository, context);
}

fn holds(repository: &Repository, id: SnapshotId) -> usize {
    let image = repository.image(&image("disk-0")).unwrap();
    image.entry(id).unwrap().holds.len()
}

const REF: &str = "refs/disk-0";

#[test]
fn a_ref_that_lost_a_part_comes_back_without_any_peer() {
    for letter in ['p', 'd'] {
        let site = Site::new(1);
        let before = site.open().image(&image("disk-0")).unwrap();
        site.lose(REF, letter);
        let repository = site.open();
        let found = repository.check(ReadData::No, &Unattended).unwrap();
        let about: Vec<_> = found.findings.iter().filter(|finding| finding.object == REF).collect();
        assert_eq!(about.len(), 1, "{letter}: {:#?}", found.findings);
        assert!(
            about[0].what.contains("is missing") && about[0].advice.contains("check --repair"),
            "{about:?}"
        );
        // A plan says so and changes nothing.
        let keys = site.bucket.keys();
        let options = RepairOptions { read: ReadData::All, ..RepairOptions::default() };
        let (_, plan) = repository.plan_repair(&options, &Unattended).unwrap();
        assert!(plan.chains.len() == 1 && plan.refs.is_empty(), "{plan:#?}");
        assert!(keys == site.bucket.keys());
        let outcome = repair(&repository, &[]);
        assert_well(&repository, &outcome, &site.model, &format!("part {letter}"));
        assert_eq!(outcome.plan.chains.len(), 1);
        let told = outcome.plan.chains[0].value.as_ref().unwrap();
        assert!(told.starts_with(&format!("generation {}, 3 snapshots", before.generation)), "{told}");
        assert!(repository.image(&image("disk-0")).unwrap() == before, "part {letter}");
    }
}

#[test]
fn a_ref_whose_value_is_lost_is_made_again_from_manifests_and_from_a_peer() {
    type Harm = (&'static str, fn(&Site));
    let harms: [Harm; 5] = [
        ("missing", |site| site.lose(REF, 'a')),
        ("overwritten", |site| site.overwrite(REF, b"encrypted by bad people")),
        ("garbage with a header", |site| site.overwrite(REF, &[&b"LEEWARDV"[..], &[9; 900]].concat())),
        ("empty", |site| site.overwrite(REF, b"")),
        ("all parts", |site| "pad".chars().for_each(|letter| site.lose(REF, letter))),
    ];
    for (name, harm) in harms {
        for has_peer in [false, true] {
            let context = format!("{name}, peer {has_peer}");
            let site = Site::new(2);
            let peer = site.copy();
            harm(&site);
            let repository = site.open();
            let peers = if has_peer { vec![peer.open()] } else { Vec::new() };
            let found = repository.check(ReadData::No, &Unattended).unwrap();
            assert!(found.findings.iter().any(|finding| finding.object == REF), "{context}: {found:#?}");
            let outcome = repair(&repository, &peers);
            assert_well(&repository, &outcome, &site.model, &context);
            assert!(
                outcome.plan.chains.is_empty() && outcome.plan.refs.len() == 1,
                "{context}: {outcome:#?}"
            );
            assert_eq!(outcome.plan.refs[0].snapshots.len(), 3, "{context}");
            // Holds stand in refs alone.
            assert_eq!(holds(&repository, site.first()), usize::from(has_peer), "{context}");
            assert!(repair(&repository, &peers).plan.is_empty(), "{context}");
        }
    }
}

#[test]
fn sessions_and_lists_that_lost_parts_stop_nobody_after_a_repair() {
    let (session, list) = (format!("sessions/{}", "ab".repeat(16)), format!("condemned/{}", "cd".repeat(16)));
    for letter in ['p', 'a'] {
        let site = Site::new(3);
        for object in [&session, &list] {
            site.put(object, b"a record that nobody can read");
            site.lose(object, letter);
        }
        let repository = site.open();
        let found = repository.check(ReadData::No, &Unattended).unwrap();
        assert_eq!(found.findings.len(), 2, "{letter}: {:#?}", found.findings);
        let outcome = repair(&repository, &[]);
        assert_well(&repository, &outcome, &site.model, &format!("part {letter}"));
        assert_eq!(outcome.plan.drop.len(), 2, "{letter}: {:#?}", outcome.plan);
        let left = site.bucket.keys();
        assert!(
            !left
                .iter()
                .any(|key| key.as_str().starts_with("sessions") || key.as_str().starts_with("condemned"))
        );
    }
}

#[test]
fn a_configuration_that_lost_a_part_is_mended_before_the_repository_is_opened() {
    for letter in ['p', 'd'] {
        let site = Site::new(4);
        site.lose("config", letter);
        assert!(Repository::open(site.store()).is_err(), "{letter}");
        let mended = Repository::mend_chains(site.store().as_ref()).unwrap();
        assert!(mended.len() == 1 && mended[0].object == "config", "{letter}: {mended:?}");
        site.model.assert_holds(&site.open(), &format!("part {letter}"));
    }
    let site = Site::new(4);
    site.lose("config", 'a');
    assert!(Repository::mend_chains(site.store().as_ref()).unwrap().is_empty());
    let error = Repository::open(site.store()).err().unwrap();
    assert!(
        error.to_string().contains("config is damaged: the value of its version 1 is missing"),
        "{error}"
    );
}

/// Random parts, of all objects that change.
#[test]
fn whatever_single_part_is_lost_a_copy_of_the_bucket_mends_it() {
    let mut mended = 0;
    for seed in 10..14 {
        let origin = Site::new(seed);
        let changing: Vec<Key> =
            origin.bucket.keys().into_iter().filter(|key| key.as_str().contains("%3A/r")).collect();
        for part in changing.iter().filter(|key| key.as_str().starts_with("refs")) {
            for is_overwritten in [false, true] {
                let site = origin.copy();
                match is_overwritten {
                    true => site.bucket.write(part, &[b"garbage"], Condition::Always).unwrap(),
                    false => site.bucket.delete(part).unwrap(),
                }
                let (repository, context) = (site.open(), format!("seed {seed}, {part}, {is_overwritten}"));
                let outcome = repair(&repository, &[origin.open()]);
                assert_well(&repository, &outcome, &site.model, &context);
                assert_eq!(holds(&repository, site.first()), 1, "{context}");
                mended += usize::from(!outcome.found.findings.is_empty() || !outcome.plan.chains.is_empty());
            }
        }
    }
    assert!(mended >= 4 * 2 * 4, "{mended}");
}
