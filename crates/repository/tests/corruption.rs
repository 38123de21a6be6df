//! One stored object of each kind is damaged or lost: a check names it and the snapshots that it touches, a restore
//! gives the right bytes or an error, a collection deletes nothing that is needed, and making the index anew mends an
//! index.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Machine, Model, backup, collect, content, image, mutated, restore};
use leeward_repository::{Error, ErrorKind, Finding, ReadData, Repository, SnapshotId, Unattended};
use leeward_store::FileSystem;
use leeward_store::simulation::Random;

/// A repository with every kind of object, and which is which.
struct Fixture {
    machine: Machine,
    model: Model,
    objects: BTreeMap<&'static str, Vec<PathBuf>>,
}

fn fixture() -> Fixture {
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut model = Model::default();
    let mut random = Random::new(7);
    let mut add = |name: &str, content: Vec<u8>| {
        let content = Arc::new(content);
        let id = backup(&repository, name, &content).unwrap();
        model.kept.push((name.to_owned(), id, Arc::clone(&content)));
        model.contents.push(content);
        id
    };
    let first = content(&mut random, 2_500_000);
    let second = mutated(&mut random, &first);
    let forgotten = add("a", content(&mut random, 600_000));
    add("a", first);
    add("a", second);
    add("b", content(&mut random, 900_000));
    repository.forget(&image("a"), &[forgotten]).unwrap();
    model.forget(forgotten);
    leave_session_and_list(&machine);
    let objects = kinds(&machine);
    for kind in ["config", "refs", "sessions", "condemned", "snapshots", "index", "chunk packs", "node packs"]
    {
        assert!(objects.contains_key(kind), "no {kind}: {objects:?}");
    }
    Fixture { machine, model, objects }
}

/// A backup stands still while a collection condemns what nobody needs: so there are a session and a list.
fn leave_session_and_list(machine: &Machine) {
    let writer = machine.spawn();
    let repository = writer.open().unwrap();
    let steps = std::sync::atomic::AtomicU64::new(0);
    writer.files.set_hook(Some(Arc::new({
        let (machine, writer) = (machine.clone(), writer.clone());
        move |operation| {
            let step = steps.fetch_add(u64::from(operation.is_change), std::sync::atomic::Ordering::SeqCst);
            if operation.process == writer.files.process() && step == 20 {
                collect(&machine.spawn().open().unwrap()).unwrap();
                writer.files.kill();
            }
        }
    })));
    assert!(backup(&repository, "c", &content(&mut Random::new(8), 400_000)).is_err());
    machine.files.set_hook(None);
}

fn bytes(machine: &Machine, path: &Path) -> Vec<u8> {
    let file = machine.files.open(path).unwrap();
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn kinds(machine: &Machine) -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut kinds: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
    for path in machine.files.paths() {
        let directory = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let kind = match directory {
            "packs" if bytes(machine, &path)[10] == 1 => "chunk packs",
            "packs" => "node packs",
            "repository" => "config",
            "refs" => "refs",
            "sessions" => "sessions",
            "condemned" => "condemned",
            "snapshots" => "snapshots",
            "index" => "index",
            _ => continue,
        };
        kinds.entry(kind).or_default().push(path);
    }
    kinds
}

fn key(path: &Path) -> String {
    path.strip_prefix(common::ROOT).unwrap().to_str().unwrap().to_owned()
}

/// Which of the kept snapshots do not come back. Wrong bytes are a failure.
fn lost(repository: &Repository, model: &Model, context: &str) -> Vec<(String, SnapshotId)> {
    let mut lost = Vec::new();
    for (name, id, expected) in &model.kept {
        match restore(repository, *id) {
            Ok(content) => assert!(content == **expected, "{context}: {name}@{id} restores wrong bytes"),
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::Damaged | ErrorKind::NotFound), "{context}: {error}");
                lost.push((name.clone(), *id));
            }
        }
    }
    lost
}

fn findings(repository: &Repository, context: &str) -> Vec<Finding> {
    match repository.check(ReadData::All, &Unattended) {
        Ok(outcome) => outcome.findings,
        Err(error) => panic!("{context}: check: {error}"),
    }
}

/// What every damage must come to. Returns what was found.
fn judge(fixture: &Fixture, machine: &Machine, context: &str) -> Vec<Finding> {
    let repository = match machine.open() {
        Ok(repository) => repository,
        Err(error) => {
            assert!(context.starts_with("config"), "{context}: {error}");
            assert!(
                matches!(error, Error::Damaged { .. } | Error::NoRepository { .. }),
                "{context}: {error}"
            );
            return Vec::new();
        }
    };
    let lost = lost(&repository, &fixture.model, context);
    let findings = findings(&repository, context);
    let touched: Vec<&String> = findings.iter().flat_map(|finding| &finding.touches).collect();
    for (name, id) in &lost {
        let label = format!("{name}@{}", id.short());
        assert!(
            touched.contains(&&label),
            "{context}: {label} is lost, but the check says only {findings:#?}"
        );
    }
    // A snapshot that comes back as it was is not said to be touched, unless the way to it is at fault: the ref, the
    // index, or a pack that cannot be read as one any more though some of its frames can.
    if !["refs", "index", "chunk packs", "node packs"].iter().any(|kind| context.starts_with(kind)) {
        for label in &touched {
            let is_lost = lost.iter().any(|(name, id)| **label == format!("{name}@{}", id.short()));
            assert!(is_lost || label.ends_with("(all of its snapshots)"), "{context}: {label} is well");
        }
    }
    // Whatever a collection says, it must not make things worse. (It may make them better: it takes packs that no run
    // speaks of into the index.)
    let collected = collect(&repository);
    let after = self::lost(&repository, &fixture.model, &format!("{context}, collected ({collected:?})"));
    let is_worse = after.iter().any(|snapshot| !lost.contains(snapshot));
    assert!(!is_worse, "{context}: a collection lost more: {collected:?}, {lost:?} and then {after:?}");
    findings
}

fn positions(length: usize) -> Vec<usize> {
    let mut random = Random::new(length as u64);
    let mut positions: Vec<usize> = [0, 8, 11, 16, 23, 24, 31, 33, 64, 70, 100].to_vec();
    positions.extend((0..12).map(|_| random.below(length as u64) as usize));
    positions.extend([1, 20, 40, 60, 64, 65, 120].iter().filter_map(|back| length.checked_sub(*back)));
    positions.retain(|position| *position < length);
    positions.sort_unstable();
    positions.dedup();
    positions
}

fn damaged(fixture: &Fixture) -> Machine {
    Machine { files: fixture.machine.files.copy(), boot: "second".to_owned() }
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let fixture = fixture();
    for (kind, paths) in &fixture.objects {
        for path in paths.iter().take(3) {
            for position in positions(bytes(&fixture.machine, path).len()) {
                for flip in [0x80, 0x01] {
                    let machine = damaged(&fixture);
                    machine.files.corrupt(path, |bytes| bytes[position] ^= flip).unwrap();
                    let context = format!("{kind}: {} at {position} ^ {flip:#x}", key(path));
                    let findings = judge(&fixture, &machine, &context);
                    let is_named = findings.iter().any(|finding| finding.object.contains(&key(path)));
                    assert!(is_named || *kind == "config", "{context}: {findings:#?}");
                }
            }
        }
    }
}

#[test]
fn a_cut_or_emptied_object_is_found() {
    let fixture = fixture();
    for (kind, paths) in &fixture.objects {
        for path in paths.iter().take(3) {
            let length = bytes(&fixture.machine, path).len();
            for left in [0, 1, 40, 63, 64, length / 2, length - 1] {
                let machine = damaged(&fixture);
                machine.files.corrupt(path, |bytes| bytes.truncate(left)).unwrap();
                let context = format!("{kind}: {} cut to {left}", key(path));
                let findings = judge(&fixture, &machine, &context);
                let is_named = findings.iter().any(|finding| finding.object.contains(&key(path)));
                assert!(is_named || *kind == "config", "{context}: {findings:#?}");
            }
        }
    }
}

#[test]
fn a_lost_object_is_named_with_the_snapshots_that_need_it() {
    let fixture = fixture();
    for (kind, paths) in &fixture.objects {
        for path in paths {
            let machine = damaged(&fixture);
            machine.files.remove(path).unwrap();
            let context = format!("{kind}: {} lost", key(path));
            let repository = machine.open();
            let lost = repository.as_ref().map(|repository| lost(repository, &fixture.model, &context));
            let findings = judge(&fixture, &machine, &context);
            let is_named = findings.iter().any(|finding| finding.object.contains(&key(path)));
            match *kind {
                // Told when the repository is opened.
                "config" => {}
                // A session or a list that is gone is one that has come to its end.
                "sessions" | "condemned" => assert!(findings.is_empty(), "{context}: {findings:#?}"),
                // A run that is gone leaves no trace but the blobs that cannot be found and the packs it spoke of.
                // Packs describe themselves, so nothing is lost.
                "index" => assert!(lost.unwrap().is_empty(), "{context}"),
                _ if lost.unwrap().is_empty() && *kind != "refs" => {}
                _ => assert!(is_named, "{context}: {findings:#?}"),
            }
        }
    }
}

#[test]
fn an_index_made_anew_is_as_good_as_it_was() {
    let fixture = fixture();
    let all = &fixture.objects["index"];
    for path in all {
        let length = bytes(&fixture.machine, path).len();
        let mut damages: Vec<(String, Machine)> = Vec::new();
        for position in positions(length) {
            let machine = damaged(&fixture);
            machine.files.corrupt(path, |bytes| bytes[position] ^= 0x40).unwrap();
            damages.push((format!("flipped at {position}"), machine));
        }
        for left in [0, 10, 64, length / 2] {
            let machine = damaged(&fixture);
            machine.files.corrupt(path, |bytes| bytes.truncate(left)).unwrap();
            damages.push((format!("cut to {left}"), machine));
        }
        let machine = damaged(&fixture);
        for path in all {
            machine.files.remove(path).unwrap();
        }
        damages.push(("all lost".to_owned(), machine));
        for (damage, machine) in damages {
            let context = format!("{} {damage}", key(path));
            let repository = machine.open().unwrap();
            // Packs describe themselves: a restore needs no index.
            assert!(lost(&repository, &fixture.model, &context).is_empty(), "{context}");
            repository.rebuild_index(&Unattended).unwrap_or_else(|error| panic!("{context}: {error}"));
            fixture.model.assert_holds(&repository, &context);
            collect(&repository).unwrap_or_else(|error| panic!("{context}: {error}"));
            fixture.model.assert_holds(&repository, &format!("{context}, collected"));
        }
    }
}

#[test]
fn the_next_backup_stores_what_was_lost() {
    let fixture = fixture();
    for path in fixture.objects["chunk packs"].iter().chain(&fixture.objects["node packs"]) {
        let machine = damaged(&fixture);
        machine.files.remove(path).unwrap();
        let repository = machine.open().unwrap();
        let (name, _, content) = &fixture.model.kept[1];
        let id = backup(&repository, name, content).unwrap();
        let restored = restore(&repository, id).unwrap_or_else(|error| panic!("{}: {error}", key(path)));
        assert!(restored == **content, "{}", key(path));
    }
}

/// A damaged copy of a chunk is no harm while there is another.
#[test]
fn a_second_copy_saves_a_restore() {
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut disk = vec![0; 1_000_000];
    Random::new(3).fill(&mut disk);
    let first = backup(&repository, "a", &disk).unwrap();
    // Without the index the same chunks are stored again.
    let runs: Vec<PathBuf> = kinds(&machine)["index"].clone();
    let packs: Vec<PathBuf> = kinds(&machine)["chunk packs"].clone();
    let hidden: Vec<(PathBuf, Vec<u8>)> =
        runs.iter().chain(&packs).map(|path| (path.clone(), bytes(&machine, path))).collect();
    for (path, _) in &hidden {
        machine.files.remove(path).unwrap();
    }
    let second = backup(&repository, "b", &disk).unwrap();
    for (path, content) in &hidden {
        machine.files.create_synced(path, &[content]).unwrap();
    }
    let all = kinds(&machine)["chunk packs"].clone();
    assert_eq!(all.len(), 2 * packs.len());
    for path in all {
        let machine = Machine { files: machine.files.copy(), boot: "first".to_owned() };
        let length = bytes(&machine, &path).len();
        machine.files.corrupt(&path, |bytes| bytes[length / 3] ^= 1).unwrap();
        let repository = machine.open().unwrap();
        for id in [first, second] {
            assert!(restore(&repository, id).unwrap() == disk);
        }
        let findings = findings(&repository, "two copies");
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(findings[0].object == key(&path) && findings[0].touches.is_empty(), "{findings:#?}");
    }
}
