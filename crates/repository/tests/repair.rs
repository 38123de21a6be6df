//! Damage of every kind is mended: from peers, from what is here, beside others who work, and after kills; and nothing
//! wrong is ever taken over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{CHUNK_BYTES, Machine, Model, backup, backup_group, collect, content, image, mutated, restore};
use leeward_repository::{ReadData, RepairOptions, RepairOutcome, Repository, SnapshotId, Unattended};
use leeward_store::FileSystem;
use leeward_store::simulation::Random;

/// A repository that has grown over time, and what must be in it.
struct Fixture {
    machine: Machine,
    model: Model,
    /// All objects but the configuration, in the order in which they were made.
    objects: Vec<PathBuf>,
}

fn stored(machine: &Machine) -> Vec<PathBuf> {
    let is_object = |path: &PathBuf| {
        let parent = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        ["packs", "index", "snapshots", "refs", "sessions", "condemned"].contains(&parent)
    };
    machine.files.paths().into_iter().filter(is_object).collect()
}

fn fixture(seed: u64, images: usize, generations: usize, size: usize) -> Fixture {
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut random = Random::new(seed);
    let mut fixture = Fixture { machine, model: Model::default(), objects: Vec::new() };
    let mut disks: Vec<Vec<u8>> = (0..images).map(|_| content(&mut random, size)).collect();
    for _ in 0..generations {
        for (number, disk) in disks.iter_mut().enumerate() {
            *disk = mutated(&mut random, disk);
            let (name, disk) = (format!("disk-{number}"), Arc::new(disk.clone()));
            let id = backup(&repository, &name, &disk).unwrap();
            fixture.model.kept.push((name, id, Arc::clone(&disk)));
            fixture.model.contents.push(disk);
            let new: Vec<PathBuf> =
                stored(&fixture.machine).into_iter().filter(|path| !fixture.objects.contains(path)).collect();
            fixture.objects.extend(new);
        }
    }
    fixture
}

impl Fixture {
    /// The same files on another machine.
    fn copy(&self) -> Machine {
        Machine { files: self.machine.files.copy(), boot: "second".to_owned() }
    }

    /// A repository with the same snapshots in other packs, as one has to which they were pushed.
    fn peer(&self) -> Machine {
        let machine = Machine::new();
        let repository = machine.init().unwrap();
        for (number, (_, _, disk)) in self.model.kept.iter().enumerate() {
            backup(&repository, &format!("scratch-{number}"), disk).unwrap();
        }
        for path in stored(&self.machine) {
            if ["snapshots", "refs"].contains(&directory(&path)) {
                machine.files.create_synced(&path, &[&bytes(&self.machine, &path)]).unwrap();
            }
        }
        machine
    }

    fn of_kind(&self, kind: &str) -> Vec<PathBuf> {
        self.objects.iter().filter(|path| directory(path) == kind).cloned().collect()
    }

    fn chunk_packs(&self) -> Vec<PathBuf> {
        let packs = self.of_kind("packs").into_iter();
        packs.filter(|path| bytes(&self.machine, path)[10] == 1).collect()
    }
}

fn directory(path: &Path) -> &str {
    path.parent().unwrap().file_name().unwrap().to_str().unwrap()
}

fn bytes(machine: &Machine, path: &Path) -> Vec<u8> {
    let file = machine.files.open(path).unwrap();
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn damage(machine: &Machine, path: &Path, other: &Path, random: &mut Random) {
    let place = random.number();
    match random.below(5) {
        0 => {
            let flip = |bytes: &mut Vec<u8>| {
                let at = (place % bytes.len() as u64) as usize;
                bytes[at] ^= 1 << (place >> 32 & 7);
            };
            machine.files.corrupt(path, flip).unwrap();
        }
        1 => {
            machine
                .files
                .corrupt(path, |bytes| bytes.truncate((place % bytes.len() as u64) as usize))
                .unwrap();
        }
        2 => {
            machine.files.remove(path).unwrap();
        }
        3 => {
            let (one, two) = (bytes(machine, path), bytes(machine, other));
            machine.files.corrupt(path, |bytes| *bytes = two.clone()).unwrap();
            machine.files.corrupt(other, |bytes| *bytes = one.clone()).unwrap();
        }
        _ => {
            let zero = |bytes: &mut Vec<u8>| {
                let from = (place % bytes.len() as u64) as usize;
                let to = (from + 4096).min(bytes.len());
                bytes[from..to].fill(0);
                // Where there were zeros before, it is no damage.
                bytes[from] ^= 0x55;
            };
            machine.files.corrupt(path, zero).unwrap();
        }
    }
}

fn repair(repository: &Repository, peers: &[Repository]) -> leeward_repository::Result<RepairOutcome> {
    let options = RepairOptions {
        peers,
        read: ReadData::All,
        no_collect_runs: true,
        whole_refs: true,
        incomplete_refs: false,
    };
    repository.repair(&options, &Unattended)
}

/// Repairs, and says that nothing is left to mend.
fn assert_repaired(repository: &Repository, peers: &[Repository], context: &str) -> RepairOutcome {
    let outcome = repair(repository, peers).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(outcome.left.findings.is_empty(), "{context}: {:#?}\n{:#?}", outcome.left.findings, outcome.plan);
    assert!(outcome.plan.cannot.is_empty() && outcome.failed.is_empty(), "{context}: {outcome:#?}");
    outcome
}

/// Restores give the right bytes or an error, whatever was done to the repository.
fn assert_nothing_wrong(repository: &Repository, model: &Model, context: &str) -> Vec<SnapshotId> {
    let mut well = Vec::new();
    for (name, id, expected) in &model.kept {
        if let Ok(found) = restore(repository, *id) {
            assert!(found == **expected, "{context}: {name}@{id} restores other bytes");
            well.push(*id);
        }
    }
    well
}

#[test]
fn a_hundred_damaged_objects_are_repaired_from_a_peer() {
    for seed in 1..if common::is_full() { 40 } else { 4 } {
        let fixture = fixture(seed, 6, 11, 500_000);
        let peer = fixture.peer();
        assert!(fixture.objects.len() > 200, "{} objects", fixture.objects.len());
        let mut random = Random::new(seed);
        let mut left: Vec<&PathBuf> = fixture.objects.iter().collect();
        let mut kinds = std::collections::BTreeSet::new();
        let mut count = 0;
        while count < 100 {
            let mut take = || left.swap_remove(random.below(left.len() as u64) as usize);
            let (path, other) = (take(), take());
            kinds.insert(directory(path));
            damage(&fixture.machine, path, other, &mut random);
            count += 1;
        }
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        let context = format!("seed {seed}");
        let repository = fixture.machine.open().unwrap();
        assert_nothing_wrong(&repository, &fixture.model, &context);
        let peers = [peer.open().unwrap()];
        assert_repaired(&repository, &peers, &context);
        fixture.model.assert_holds(&repository, &context);
        // And again there is nothing to do.
        let again = assert_repaired(&repository, &peers, &context);
        assert!(again.plan.is_empty() && again.found.findings.is_empty(), "{context}: {again:#?}");
        collect(&repository).unwrap();
        fixture.model.assert_holds(&repository, &format!("{context}, collected"));
    }
}

#[test]
fn a_plan_changes_nothing() {
    let fixture = fixture(5, 2, 3, 600_000);
    let peer = fixture.peer();
    for path in fixture.objects.iter().step_by(2) {
        fixture.machine.files.corrupt(path, |bytes| bytes[40] ^= 1).unwrap();
    }
    let before: Vec<(PathBuf, Vec<u8>)> = stored(&fixture.machine)
        .into_iter()
        .map(|path| (path.clone(), bytes(&fixture.machine, &path)))
        .collect();
    let repository = fixture.machine.open().unwrap();
    let peers = [peer.open().unwrap()];
    let options = RepairOptions { peers: &peers, read: ReadData::All, ..RepairOptions::default() };
    let (found, plan) = repository.plan_repair(&options, &Unattended).unwrap();
    assert!(!found.findings.is_empty() && !plan.is_empty());
    let after: Vec<(PathBuf, Vec<u8>)> = stored(&fixture.machine)
        .into_iter()
        .map(|path| (path.clone(), bytes(&fixture.machine, &path)))
        .collect();
    assert!(before == after);
    assert_eq!(repository.plan_repair(&options, &Unattended).unwrap().1, plan);
}

#[test]
fn a_copy_of_the_files_gives_damaged_packs_back_whole() {
    let fixture = fixture(6, 2, 4, 900_000);
    let peer = fixture.copy();
    let packs = fixture.chunk_packs();
    for path in packs.iter().take(4) {
        fixture.machine.files.corrupt(path, |bytes| bytes[200] ^= 1).unwrap();
    }
    let repository = fixture.machine.open().unwrap();
    let outcome = assert_repaired(&repository, &[peer.open().unwrap()], "copy");
    assert_eq!((outcome.plan.replace_packs.len(), outcome.stored_blobs), (4, 0));
    for path in &packs {
        assert!(bytes(&fixture.machine, path) == bytes(&peer, path));
    }
    fixture.model.assert_holds(&repository, "copy");
}

#[test]
fn without_a_peer_what_is_here_is_mended() {
    let fixture = fixture(7, 3, 3, 900_000);
    let machine = &fixture.machine;
    // A directory that cannot be read: all frames are sound, and the index knows where they are.
    for path in fixture.of_kind("packs").iter().take(5) {
        machine.files.corrupt(path, |bytes| bytes[40] ^= 1).unwrap();
    }
    // A lost ref, a damaged one, a damaged session.
    let refs = fixture.of_kind("refs");
    machine.files.remove(&refs[0]).unwrap();
    machine.files.corrupt(&refs[1], |bytes| bytes.truncate(60)).unwrap();
    let session = Path::new(common::ROOT).join("sessions").join("ab".repeat(16));
    machine.files.create_synced(&session, &[b"nothing"]).unwrap();
    let repository = machine.open().unwrap();
    let outcome = assert_repaired(&repository, &[], "no peer");
    assert!(outcome.plan.copied_blobs > 0 && outcome.plan.condemn_packs.len() == 5, "{:#?}", outcome.plan);
    fixture.model.assert_holds(&repository, "no peer");
    // A damaged run.
    machine.files.corrupt(&stored_of(machine, "index")[0], |bytes| bytes[80] ^= 1).unwrap();
    assert!(assert_repaired(&repository, &[], "run").plan.rebuild_index);
    fixture.model.assert_holds(&repository, "run");
}

fn stored_of(machine: &Machine, kind: &str) -> Vec<PathBuf> {
    stored(machine).into_iter().filter(|path| directory(path) == kind).collect()
}

#[test]
fn what_cannot_be_had_is_listed_by_snapshot_and_the_rest_is_mended() {
    let fixture = fixture(8, 3, 2, 900_000);
    let packs = fixture.chunk_packs();
    fixture.machine.files.remove(&packs[0]).unwrap();
    fixture.machine.files.corrupt(&packs[2], |bytes| bytes[45] ^= 1).unwrap();
    let repository = fixture.machine.open().unwrap();
    let well = assert_nothing_wrong(&repository, &fixture.model, "before");
    let outcome = repair(&repository, &[]).unwrap();
    let touched: Vec<&String> = outcome.plan.cannot.iter().flat_map(|left| &left.touches).collect();
    for (name, id, _) in &fixture.model.kept {
        let label = format!("{name}@{}", id.short());
        assert_eq!(
            touched.contains(&&label),
            restore(&repository, *id).is_err(),
            "{label}: {:#?}",
            outcome.plan
        );
    }
    assert!(!touched.is_empty() && !outcome.left.findings.is_empty());
    let after = assert_nothing_wrong(&repository, &fixture.model, "after");
    assert!(well.iter().all(|id| after.contains(id)));
    // Later there is a peer.
    assert_repaired(&repository, &[fixture.peer().open().unwrap()], "peer");
    fixture.model.assert_holds(&repository, "peer");
}

/// What a peer gives is compared with names that come from here.
#[test]
fn a_peer_that_is_damaged_or_lies_gives_nothing_wrong() {
    let fixture = fixture(9, 3, 3, 900_000);
    let good = fixture.peer();
    let mut random = Random::new(9);
    for round in 0..6 {
        let context = format!("round {round}");
        let machine = fixture.copy();
        for path in fixture.objects.iter().step_by(3) {
            machine.files.corrupt(path, |bytes| bytes[50] ^= 4).unwrap();
        }
        // The liar has the same keys with other content: objects of the same kind changed round, and records written
        // anew with a sound digest.
        let liar = Machine { files: good.files.copy(), boot: "third".to_owned() };
        for kind in ["packs", "snapshots", "index", "refs"] {
            let paths = stored_of(&liar, kind);
            let contents: Vec<Vec<u8>> = paths.iter().map(|path| bytes(&liar, path)).collect();
            for (number, path) in paths.iter().enumerate() {
                if random.chance(60) {
                    let other = contents[(number + 1 + round) % contents.len()].clone();
                    liar.files.corrupt(path, |bytes| *bytes = other.clone()).unwrap();
                }
            }
        }
        let repository = machine.open().unwrap();
        let (bad, well) = (liar.open().unwrap(), good.open().unwrap());
        repair(&repository, std::slice::from_ref(&bad)).unwrap();
        assert_nothing_wrong(&repository, &fixture.model, &context);
        assert_repaired(&repository, &[bad, well], &context);
        fixture.model.assert_holds(&repository, &context);
    }
}

/// An incremental backup takes over what has not changed by name, and trusts that it is there until a check.
#[test]
fn an_incremental_backup_on_damaged_chunks_is_well_after_a_repair() {
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut first = vec![0; 100 * CHUNK_BYTES];
    Random::new(11).fill(&mut first);
    let base = backup_group(&repository, &[("a", &first, None)]).unwrap()[0].id;
    let packs = stored_of(&machine, "packs");
    let chunks = packs.iter().find(|path| bytes(&machine, path)[10] == 1).unwrap();
    let peer = Machine { files: machine.files.copy(), boot: "peer".to_owned() };
    machine.files.corrupt(chunks, |bytes| bytes[700_000] ^= 1).unwrap();
    let mut second = first.clone();
    second[..CHUNK_BYTES].fill(7);
    let next = backup_group(&repository, &[("a", &second, Some((base, &first)))]).unwrap()[0].id;
    assert!(restore(&repository, base).is_err() && restore(&repository, next).is_err());
    for peers in [vec![peer.open().unwrap()], Vec::new()] {
        let repository = machine.open().unwrap();
        assert_repaired(&repository, &peers, "incremental");
        assert!(restore(&repository, base).unwrap() == first);
        assert!(restore(&repository, next).unwrap() == second);
    }
}

fn damaged_everywhere(fixture: &Fixture) -> Machine {
    let machine = fixture.copy();
    for (number, path) in fixture.objects.iter().enumerate() {
        match number % 5 {
            0 => machine.files.corrupt(path, |bytes| bytes[44] ^= 1).unwrap(),
            2 => machine.files.corrupt(path, |bytes| *bytes.last_mut().unwrap() ^= 1).unwrap(),
            3 if number % 2 == 0 => machine.files.remove(path).unwrap(),
            _ => {}
        }
    }
    machine
}

#[test]
fn a_repair_that_is_killed_at_any_change_is_completed_by_the_next() {
    let fixture = fixture(12, 2, 3, 700_000);
    let peer = fixture.peer();
    let step = if common::is_full() { 1 } else { 5 };
    for kill_at in (1_u64..).step_by(step) {
        let machine = damaged_everywhere(&fixture);
        let worker = machine.spawn();
        let steps = Arc::new(AtomicU64::new(0));
        worker.files.set_hook(Some(Arc::new({
            let (worker, steps) = (worker.clone(), Arc::clone(&steps));
            move |operation| {
                if operation.process == worker.files.process()
                    && operation.is_change
                    && steps.fetch_add(1, Ordering::SeqCst) + 1 == kill_at
                {
                    worker.files.kill();
                }
            }
        })));
        let peers = [peer.open().unwrap()];
        let killed = worker.open().and_then(|repository| repair(&repository, &peers));
        machine.files.set_hook(None);
        let was_killed = steps.load(Ordering::SeqCst) >= kill_at;
        let context = format!("killed at change {kill_at}: {}", killed.is_err());
        let repository = machine.open().unwrap();
        assert_nothing_wrong(&repository, &fixture.model, &context);
        repair(&repository, &peers).unwrap_or_else(|error| panic!("{context}: {error}"));
        // The session of the killed one held the packs back; by now a collection knows that it is dead.
        collect(&repository).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_repaired(&repository, &peers, &context);
        fixture.model.assert_holds(&repository, &context);
        if !was_killed {
            return;
        }
    }
}

#[test]
fn backups_and_collections_beside_a_repair_lose_nothing() {
    let fixture = fixture(13, 2, 3, 700_000);
    let peer = fixture.peer();
    let mut random = Random::new(13);
    for at in 1..if common::is_full() { 20 } else { 6 } {
        let context = format!("others work at change {at}");
        let machine = fixture.copy();
        // Packs alone, so that the others can work as well.
        for path in fixture.of_kind("packs").iter().step_by(2) {
            machine.files.corrupt(path, |bytes| bytes[90] ^= 1).unwrap();
        }
        let worker = machine.spawn();
        let steps = AtomicU64::new(0);
        let disk = Arc::new(mutated(&mut random, &fixture.model.kept[1].2));
        let made: Arc<std::sync::Mutex<Vec<SnapshotId>>> = Arc::default();
        worker.files.set_hook(Some(Arc::new({
            let (machine, worker, disk, made) =
                (machine.clone(), worker.clone(), Arc::clone(&disk), Arc::clone(&made));
            move |operation| {
                if operation.process == worker.files.process()
                    // Not while the lock of the store is held, for which the others would wait.
                    && operation.name == "rename"
                    && ["packs", "index"].contains(&directory(operation.path))
                    && steps.fetch_add(1, Ordering::SeqCst) + 1 == at
                {
                    let other = machine.spawn();
                    let repository = other.open().unwrap();
                    made.lock().unwrap().push(backup(&repository, "disk-0", &disk).unwrap());
                    // It may find that something is damaged, and then deletes nothing.
                    let _ = collect(&repository);
                    other.files.kill();
                }
            }
        })));
        let peers = [peer.open().unwrap()];
        repair(&worker.open().unwrap(), &peers).unwrap_or_else(|error| panic!("{context}: {error}"));
        machine.files.set_hook(None);
        let mut model = fixture.model.clone();
        let repository = machine.open().unwrap();
        for id in made.lock().unwrap().iter() {
            model.kept.push(("disk-0".to_owned(), *id, Arc::clone(&disk)));
        }
        // What the backup referred to in damaged packs is had by the next repair.
        let _ = collect(&repository);
        repair(&repository, &peers).unwrap_or_else(|error| panic!("{context}: {error}"));
        collect(&repository).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_repaired(&repository, &peers, &context);
        for name in ["disk-0", "disk-1"] {
            assert!(repository.image(&image(name)).is_ok());
        }
        model.assert_holds(&repository, &context);
    }
}

/// Reads of files that a check makes.
fn reads_of_check(repository: &Repository, machine: &Machine) -> u64 {
    let before = machine.files.counts().reads;
    repository.check(ReadData::No, &Unattended).unwrap();
    machine.files.counts().reads - before
}

#[test]
fn many_missing_packs_cost_a_check_one_pass_over_the_index() {
    let fixture = fixture(12, 8, 6, 400_000);
    let machine = &fixture.machine;
    let repository = machine.open().unwrap();
    // Nothing needs what these hold, so no tree leads there.
    for path in fixture.of_kind("refs").iter().chain(&fixture.of_kind("snapshots")).skip(1) {
        machine.files.remove(path).unwrap();
    }
    machine.files.remove(&fixture.of_kind("refs")[0]).unwrap();
    let runs = fixture.of_kind("index").len() as u64;
    let packs = fixture.chunk_packs();
    assert!(runs > 40 && packs.len() > 24, "{runs} runs, {} packs", packs.len());
    machine.files.remove(&packs[0]).unwrap();
    let one = reads_of_check(&repository, machine);
    for path in &packs[1..21] {
        machine.files.remove(path).unwrap();
    }
    let many = reads_of_check(&repository, machine);
    // 20 more passes would be at least as many reads as runs, each.
    assert!(many < one + 3 * runs, "{one} reads with one missing pack, {many} with 21; {runs} runs");
}

/// A bad sector below a small object is damage like any other: it stops neither what else there is to look at nor to mend, nor
/// backups of other images.
#[test]
fn a_small_object_that_the_medium_cannot_read_stops_nothing_else() {
    let origin = fixture(31, 2, 2, 200_000);
    let peer = origin.peer();
    for kind in ["snapshots", "index", "refs"] {
        let machine = origin.copy();
        let lost = origin.of_kind(kind).into_iter().find(|path| machine.files.open(path).is_ok()).unwrap();
        let length = bytes(&machine, &lost).len() as u64;
        machine.files.spoil(&lost, 0..length).unwrap();
        // Something else is broken besides.
        let pack = origin.chunk_packs().into_iter().find(|path| machine.files.open(path).is_ok()).unwrap();
        let end = bytes(&machine, &pack).len() as u64;
        match kind {
            // The directory, which the index would be made of.
            "index" => machine.files.spoil(&pack, end - 4096..end).unwrap(),
            _ => machine.files.corrupt(&pack, |bytes| bytes[200] ^= 1).unwrap(),
        }
        let repository = machine.open().unwrap();
        let peers = [peer.open().unwrap()];
        let outcome = repair(&repository, &peers).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let named = |text: &str| lost.ends_with(text);
        let found = outcome.found.findings.iter().find(|finding| named(&finding.object));
        assert!(found.is_some_and(|finding| finding.what.contains("medium")), "{kind}: {outcome:#?}");
        if kind == "refs" {
            // It cannot be replaced by comparison, so somebody has to move it away.
            assert_eq!(outcome.failed.len(), 1, "{outcome:#?}");
            assert!(named(&outcome.failed[0].object) && outcome.failed[0].why.contains("move the file away"));
            // What else is left belongs to no snapshot that is known.
            let is_lone = |finding: &leeward_repository::Finding| finding.touches.is_empty();
            let left = &outcome.left.findings;
            assert!(left.iter().all(|finding| named(&finding.object) || is_lone(finding)), "{outcome:#?}");
            machine.files.remove(&lost).unwrap();
        }
        let repository = machine.open().unwrap();
        assert_repaired(&repository, &peers, kind);
        origin.model.assert_holds(&repository, kind);
    }
    // A session of somebody else is the same, and a backup goes on.
    let machine = origin.copy();
    let session = origin.objects[0].parent().unwrap().parent().unwrap().join("sessions");
    let strange = session.join("0123456789abcdef0123456789abcdef");
    machine.files.create_synced(&strange, &[b"nothing that is known"]).unwrap();
    machine.files.spoil(&strange, 0..10).unwrap();
    let repository = machine.open().unwrap();
    let id = backup(&repository, "disk-0", &origin.model.contents[0]).unwrap();
    assert!(restore(&repository, id).unwrap() == *origin.model.contents[0]);
    assert_repaired(&repository, &[], "session");
    assert!(machine.files.open(&strange).is_err(), "it is dropped");
}
