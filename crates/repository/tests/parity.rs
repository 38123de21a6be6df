//! Packs that lost a part are mended by their parity, in their place and without any other copy; and parity goes with its
//! pack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Machine, Model, backup, collect, content, image, mutated};
use leeward_repository::{
    KeylessRepository, ReadData, RepairOptions, RepairOutcome, Repository, SnapshotId, Unattended,
};
use leeward_store::simulation::Random;
use leeward_store::{DirectoryStore, FileSystem};

struct Fixture {
    machine: Machine,
    model: Model,
}

fn fixture(seed: u64, percent: u8) -> Fixture {
    let machine = Machine::new();
    let mut repository = machine.init().unwrap();
    repository.set_parity(percent).unwrap();
    let mut fixture = Fixture { machine, model: Model::default() };
    fixture.grow(&repository, seed, 4);
    fixture
}

impl Fixture {
    fn grow(&mut self, repository: &Repository, seed: u64, generations: usize) -> Vec<SnapshotId> {
        let mut random = Random::new(seed);
        let mut disk = content(&mut random, 900_000);
        let mut made = Vec::new();
        for _ in 0..generations {
            disk = mutated(&mut random, &disk);
            let id = backup(repository, "disk", &disk).unwrap();
            let disk = Arc::new(disk.clone());
            self.model.kept.push(("disk".to_owned(), id, Arc::clone(&disk)));
            self.model.contents.push(disk);
            made.push(id);
        }
        made
    }

    fn under(&self, prefix: &str) -> Vec<PathBuf> {
        let is_under = |path: &PathBuf| path.parent().unwrap().file_name().unwrap() == prefix;
        self.machine.files.paths().into_iter().filter(is_under).collect()
    }

    fn names(&self, prefix: &str) -> BTreeSet<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.under(prefix).into_iter().map(name).collect()
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        let file = self.machine.files.open(path).unwrap();
        let mut bytes = vec![0; file.size() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The same files on another machine.
    fn copy(&self) -> Self {
        let machine = Machine { files: self.machine.files.copy(), boot: "second".to_owned() };
        Self { machine, model: Model { kept: self.model.kept.clone(), ..Model::default() } }
    }
}

fn repair(repository: &Repository, peers: &[Repository]) -> RepairOutcome {
    let options = RepairOptions { peers, read: ReadData::All, ..RepairOptions::default() };
    repository.repair(&options, &Unattended).unwrap()
}

fn assert_well(fixture: &Fixture, outcome: &RepairOutcome, context: &str) {
    assert!(outcome.left.findings.is_empty(), "{context}: {:#?}", outcome.left.findings);
    assert!(outcome.plan.cannot.is_empty() && outcome.failed.is_empty(), "{context}: {outcome:#?}");
    let repository = fixture.machine.open().unwrap();
    let found = repository.check(ReadData::All, &Unattended).unwrap();
    assert!(found.findings.is_empty() && found.parity > 0, "{context}: {found:#?}");
    fixture.model.assert_holds(&repository, context);
}

#[test]
fn any_stretch_of_the_promised_length_comes_back_byte_for_byte() {
    let origin = fixture(1, 10);
    assert_eq!(origin.names("packs"), origin.names("parity"));
    let mut random = Random::new(77);
    for round in 0..30 {
        let fixture = origin.copy();
        let mut before = Vec::new();
        for path in fixture.under("packs") {
            let whole = fixture.bytes(&path);
            let stretch = (whole.len() / 10).max(1);
            // Also at both ends, where header and directory lie.
            let start = match round % 4 {
                0 => 0,
                1 => whole.len() - stretch,
                _ => random.below((whole.len() - stretch + 1) as u64) as usize,
            };
            let kind = random.below(3);
            let harm = |bytes: &mut Vec<u8>| match kind {
                0 => bytes[start..start + stretch].iter_mut().for_each(|byte| *byte ^= 0x5a),
                1 => {
                    bytes[start..start + stretch].fill(0);
                    bytes[start] ^= 1;
                }
                _ if round % 4 == 1 => bytes.truncate(start),
                _ => bytes[start] ^= 1,
            };
            fixture.machine.files.corrupt(&path, harm).unwrap();
            before.push((path, whole));
        }
        let repository = fixture.machine.open().unwrap();
        let context = format!("round {round}");
        let outcome = repair(&repository, &[]);
        assert!(!outcome.found.findings.is_empty(), "{context}");
        assert!(outcome.plan.heal_packs.len() + 1 >= before.len(), "{context}: {:#?}", outcome.plan);
        assert_eq!((outcome.stored_blobs, outcome.plan.condemn_packs.len()), (0, 0), "{context}");
        for (path, whole) in before {
            assert!(fixture.bytes(&path) == whole, "{context}: {}", path.display());
        }
        assert_well(&fixture, &outcome, &context);
    }
}

/// Makes a tenth of a pack unreadable, less what is lost with the sectors at both ends; returns its path.
fn spoil(fixture: &Fixture, path: &Path, place: u64) {
    let length = fixture.bytes(path).len() as u64;
    let stretch = length / 10 - 2 * 4096;
    let start = (length - stretch) * place / 2;
    fixture.machine.files.spoil(path, start..start + stretch).unwrap();
}

#[test]
fn a_stretch_that_the_medium_cannot_read_is_mended_and_stops_nothing_else() {
    let origin = fixture(9, 10);
    // At the beginning, in the middle, and at the end, where the directory lies.
    for place in 0..3 {
        let fixture = origin.copy();
        let context = format!("place {place}");
        let mut large: Vec<PathBuf> =
            fixture.under("packs").into_iter().filter(|path| fixture.bytes(path).len() > 100_000).collect();
        let flipped = large.pop().unwrap();
        assert!(!large.is_empty(), "{context}");
        large.iter().for_each(|path| spoil(&fixture, path, place));
        fixture.machine.files.corrupt(&flipped, |bytes| bytes[5000] ^= 1).unwrap();
        let repository = fixture.machine.open().unwrap();
        let options = RepairOptions { read: ReadData::All, ..RepairOptions::default() };
        let (_, plan) = repository.plan_repair(&options, &Unattended).unwrap();
        assert_eq!(plan.heal_packs.len(), large.len() + 1, "{context}: {plan:#?}");
        let outcome = repair(&repository, &[]);
        // What cannot be read cannot be compared either, and so is not replaced in its place.
        assert_eq!(outcome.renewed_packs, large.len(), "{context}: {outcome:#?}");
        let left = fixture.under("packs");
        assert!(large.iter().all(|path| !left.contains(path)) && left.contains(&flipped), "{context}");
        assert_well(&fixture, &outcome, &context);
        assert!(fixture.names("parity").is_superset(&fixture.names("packs")), "{context}");
    }
    // More than parity mends: that is the failure of that pack, and another is mended all the same.
    let fixture = origin.copy();
    let packs = fixture.under("packs");
    let lost = packs.iter().max_by_key(|path| fixture.bytes(path).len()).unwrap();
    fixture.machine.files.spoil(lost, 0..fixture.bytes(lost).len() as u64).unwrap();
    let flipped = packs.iter().find(|path| *path != lost).unwrap();
    fixture.machine.files.corrupt(flipped, |bytes| bytes[100] ^= 1).unwrap();
    let outcome = repair(&fixture.machine.open().unwrap(), &[]);
    assert_eq!((outcome.plan.heal_packs.len(), outcome.plan.unhealed.len()), (1, 1), "{outcome:#?}");
    assert!(!outcome.plan.cannot.is_empty());
    let touched: Vec<&str> = outcome.left.findings.iter().map(|finding| finding.object.as_str()).collect();
    let flipped = format!("packs/{}", flipped.file_name().unwrap().to_str().unwrap());
    assert!(!touched.contains(&flipped.as_str()), "{touched:?}");
}

#[test]
fn parity_that_is_missing_is_counted_and_made() {
    let fixture = fixture(10, 10);
    let parity = fixture.under("parity");
    for path in &parity[1..] {
        fixture.machine.files.remove(path).unwrap();
    }
    let repository = fixture.machine.open().unwrap();
    let found = repository.check(ReadData::No, &Unattended).unwrap();
    assert_eq!((found.packs_without_parity, found.findings.len()), (parity.len() - 1, 0));
    let (_, plan) = repository.plan_repair(&RepairOptions::default(), &Unattended).unwrap();
    assert_eq!(plan.make_parity.len(), parity.len() - 1);
    let size = |name: &String| fixture.bytes(&Path::new(common::ROOT).join("packs").join(name)).len() as u64;
    let lacking: BTreeSet<String> =
        fixture.names("packs").difference(&fixture.names("parity")).cloned().collect();
    assert_eq!(plan.make_parity_bytes, lacking.iter().map(size).sum::<u64>());
    // A pack that cannot be read gets none, and the others do.
    let spoilt =
        Path::new(common::ROOT).join("packs").join(lacking.iter().max_by_key(|name| size(name)).unwrap());
    fixture.machine.files.spoil(&spoilt, 70..71).unwrap();
    let outcome = repository.repair(&RepairOptions::default(), &Unattended).unwrap();
    assert_eq!(outcome.made_parity, parity.len() - 2, "{outcome:#?}");
    let other = fixture.copy();
    other.machine.files.spoil(&spoilt, 0..0).unwrap();
    let outcome = repair(&other.machine.open().unwrap(), &[]);
    assert_eq!((outcome.made_parity, outcome.left.packs_without_parity), (1, 0));
    assert_eq!(other.names("packs"), other.names("parity"));
    assert_well(&other, &outcome, "made");
    // Where none is wanted, none is missing.
    let mut repository = fixture.machine.open().unwrap();
    repository.set_parity(0).unwrap();
    let found = repository.check(ReadData::No, &Unattended).unwrap();
    assert_eq!((found.packs_without_parity, found.findings.len()), (0, 0));
}

#[test]
fn where_parity_is_not_enough_it_says_so_and_a_peer_is_asked() {
    let fixture = fixture(2, 5);
    let peer = fixture.copy();
    let largest = fixture.under("packs").into_iter().max_by_key(|path| fixture.bytes(path).len()).unwrap();
    let length = fixture.bytes(&largest).len();
    fixture.machine.files.corrupt(&largest, |bytes| bytes[length / 4..length / 2].fill(3)).unwrap();
    let repository = fixture.machine.open().unwrap();
    let options = RepairOptions { read: ReadData::All, ..RepairOptions::default() };
    let (_, plan) = repository.plan_repair(&options, &Unattended).unwrap();
    assert!(plan.heal_packs.is_empty() && plan.unhealed.len() == 1, "{plan:#?}");
    assert!(plan.unhealed[0].why.contains("are damaged, and its parity mends"), "{:?}", plan.unhealed);
    assert!(!plan.cannot.is_empty());
    let outcome = repair(&repository, &[peer.machine.open().unwrap()]);
    assert_eq!(outcome.plan.replace_packs.len(), 1);
    assert_well(&fixture, &outcome, "peer");
}

#[test]
fn damaged_parity_is_found_without_keys_and_made_anew() {
    let fixture = fixture(3, 10);
    let mut random = Random::new(5);
    for path in fixture.under("parity") {
        let at = random.below(fixture.bytes(&path).len() as u64) as usize;
        fixture.machine.files.corrupt(&path, |bytes| bytes[at] ^= 1).unwrap();
    }
    let store =
        DirectoryStore::open_on(Arc::new(fixture.machine.files.clone()), Path::new(common::ROOT)).unwrap();
    let found = KeylessRepository::open(Arc::new(store)).unwrap().check(ReadData::All, &Unattended).unwrap();
    let damaged = found.findings.iter().filter(|finding| finding.object.starts_with("parity/")).count();
    assert_eq!(damaged, fixture.under("parity").len(), "{:#?}", found.findings);
    let outcome = repair(&fixture.machine.open().unwrap(), &[]);
    assert_eq!(outcome.plan.remake_parity.len(), damaged);
    assert_well(&fixture, &outcome, "parity");
    // One that was swapped with another is none.
    let paths = fixture.under("parity");
    let other = fixture.bytes(&paths[1]);
    fixture.machine.files.corrupt(&paths[0], |bytes| *bytes = other.clone()).unwrap();
    let outcome = repair(&fixture.machine.open().unwrap(), &[]);
    assert_eq!(outcome.plan.remake_parity.len(), 1);
    assert_well(&fixture, &outcome, "swapped");
}

#[test]
fn parity_goes_with_its_pack_and_rewritten_packs_get_their_own() {
    let mut fixture = fixture(4, 10);
    let repository = fixture.machine.open().unwrap();
    let made = fixture.grow(&repository, 40, 6);
    let packs = fixture.names("packs");
    for id in made.into_iter().take(5) {
        repository.forget(&image("disk"), &[id]).unwrap();
        fixture.model.forget(id);
    }
    let outcome = collect(&repository).unwrap();
    assert!(outcome.deleted_bytes > 0, "{outcome:?}");
    collect(&repository).unwrap();
    assert_ne!(packs, fixture.names("packs"));
    assert_eq!(fixture.names("packs"), fixture.names("parity"));
    fixture.model.assert_holds(&repository, "collected");
}

#[test]
fn parity_is_set_later_for_new_packs_and_taken_back() {
    let machine = Machine::new();
    machine.init().unwrap();
    let mut repository = machine.open().unwrap();
    let mut fixture = Fixture { machine, model: Model::default() };
    fixture.grow(&repository, 6, 1);
    let old = fixture.names("packs");
    assert!(fixture.names("parity").is_empty() && !repository.config().has_parity());
    assert!(repository.set_parity(101).is_err());
    repository.set_parity(7).unwrap();
    let repository = fixture.machine.open().unwrap();
    assert_eq!((repository.config().parity_percent, repository.config().has_parity()), (7, true));
    // Who does not know it may go on.
    assert!(repository.config().features_required.iter().all(|feature| feature != "parity-1"));
    assert!(repository.config().features_to_write.is_empty());
    fixture.grow(&repository, 7, 1);
    let with: BTreeSet<String> = fixture.names("packs").difference(&old).cloned().collect();
    assert!(!with.is_empty());
    assert_eq!(fixture.names("parity"), with);
    let mut repository = repository;
    repository.set_parity(0).unwrap();
    let repository = fixture.machine.open().unwrap();
    fixture.grow(&repository, 8, 1);
    assert_eq!(fixture.names("parity"), with);
    // What is there goes on mending, and a damaged one goes.
    let path = fixture
        .under("packs")
        .into_iter()
        .find(|path| with.contains(path.file_name().unwrap().to_str().unwrap()));
    fixture.machine.files.corrupt(&path.unwrap(), |bytes| bytes[100] ^= 1).unwrap();
    let outcome = repair(&repository, &[]);
    assert_eq!(outcome.plan.heal_packs.len(), 1);
    assert_well(&fixture, &outcome, "taken back");
}

/// Seconds of processor that this process has used, user and system.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// `cargo test --release -p leeward-repository --test parity -- --ignored --nocapture` prints what `docs/benchmarks.md` has.
#[test]
#[ignore = "measures, and takes a while"]
fn what_parity_costs() {
    let mut random = Random::new(2026);
    let disk = common::MemoryDisk::plain(content(&mut random, 768 << 20));
    let mut sums = std::collections::BTreeMap::<u8, Vec<(f64, f64, u64)>>::new();
    for _ in 0..3 {
        for percent in [0, 5, 10] {
            let place =
                tempfile::tempdir_in(std::env::var("LEEWARD_SCRATCH").unwrap_or_else(|_| ".".to_owned()))
                    .unwrap();
            let store = Arc::new(
                DirectoryStore::create(&place.path().join("r"), &leeward_repository::PREFIXES).unwrap(),
            );
            let mut repository =
                Repository::init(store, &leeward_repository::InitOptions::default()).unwrap();
            repository.set_parity(percent).unwrap();
            let (began, used) = (std::time::Instant::now(), processor_seconds());
            let outcome = repository.backup(&disk, &common::backup_options("disk"), &Unattended).unwrap();
            let measured = (
                began.elapsed().as_secs_f64(),
                processor_seconds() - used,
                outcome.snapshot.statistics.stored_bytes,
            );
            println!(
                "parity {percent:>2} %: {:.1} s, {:.1} s of processor, {} bytes",
                measured.0, measured.1, measured.2
            );
            sums.entry(percent).or_default().push(measured);
        }
    }
    let best = |percent: u8| {
        let all = &sums[&percent];
        let least = |pick: fn(&(f64, f64, u64)) -> f64| all.iter().map(pick).fold(f64::MAX, f64::min);
        (least(|one| one.0), least(|one| one.1), all[0].2 as f64)
    };
    let none = best(0);
    for percent in [5, 10] {
        let with = best(percent);
        println!(
            "parity {percent} % against none, best of three: time {:.2}, processor {:.2}, stored {:.4}",
            with.0 / none.0,
            with.1 / none.1,
            with.2 / none.2
        );
    }
}
