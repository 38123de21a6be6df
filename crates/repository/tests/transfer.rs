//! Snapshots travel between repositories: nothing is lost, nothing is sent twice, what is damaged is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{
    CHUNK_BYTES, Machine, Model, ROOT, backup, backup_group, collect, content, image, is_full, mutated,
    restore,
};
use leeward_repository::transfer::{
    CountedStore, Near, Pick, Selection, Traffic, TrafficReport, TransferOptions, TransferOutcome,
};
use leeward_repository::{
    Control, Error, ErrorKind, InitOptions, PREFIXES, Repository, Result, SnapshotId, Unattended,
};
use leeward_store::DirectoryStore;
use leeward_store::simulation::{Faults, Random};

const DISK_BYTES: usize = 1_500_000;

fn options() -> TransferOptions {
    TransferOptions { verify: true, ..TransferOptions::default() }
}

fn send(from: &Repository, to: &Repository, selection: &Selection) -> Result<TransferOutcome> {
    from.prepare_transfer(to, selection)?.run(&options(), &Unattended)
}

fn send_all(from: &Repository, to: &Repository) -> TransferOutcome {
    let outcome = send(from, to, &Selection::All).unwrap();
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
    outcome
}

/// A repository that cuts disks into larger chunks, and so names everything otherwise.
fn init_otherwise(machine: &Machine) -> Repository {
    let store =
        DirectoryStore::create_on(Arc::new(machine.files.clone()), Path::new(ROOT), &PREFIXES).unwrap();
    let options = InitOptions {
        chunk_bytes: 2 * CHUNK_BYTES as u64,
        pack_bytes: 1 << 20,
        zstd_level: 1,
        ..InitOptions::default()
    };
    Repository::init(Arc::new(store), &options).unwrap()
}

fn counted(repository: &Repository) -> (Repository, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let repository = repository.clone().map_store(|store| CountedStore::wrap(store, &traffic));
    (repository, traffic)
}

/// What a transfer moves at the source and at the target.
fn measured(
    from: &Repository,
    to: &Repository,
    options: &TransferOptions,
) -> (TransferOutcome, [TrafficReport; 2]) {
    let ((from, read), (to, written)) = (counted(from), counted(to));
    let outcome = from.prepare_transfer(&to, &Selection::All).unwrap().run(options, &Unattended).unwrap();
    (outcome, [read.report(), written.report()])
}

fn ids(repository: &Repository, name: &str) -> Vec<SnapshotId> {
    repository.image(&image(name)).unwrap().snapshots.iter().map(|entry| entry.id).collect()
}

fn assert_clean(repository: &Repository, context: &str) {
    Model::default().assert_clean(repository, context);
}

/// A source with three snapshots of an image, and their contents.
fn line(seed: u64) -> (Machine, Repository, Vec<(SnapshotId, Vec<u8>)>) {
    let machine = Machine::new();
    let repository = machine.init().unwrap();
    let mut random = Random::new(seed);
    let mut disk = content(&mut random, DISK_BYTES);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push((backup(&repository, "a", &disk).unwrap(), disk.clone()));
        disk = mutated(&mut random, &disk);
    }
    (machine, repository, made)
}

#[test]
fn snapshots_keep_their_names_and_restore_equal() {
    for near in [Near::From, Near::To] {
        let (_, from, made) = line(1);
        let to = Machine::new().init().unwrap();
        let first = Selection::Picks(vec![Pick { image: image("a"), snapshot: Some(made[0].0) }]);
        let options = TransferOptions { near, ..options() };
        let outcome = from.prepare_transfer(&to, &first).unwrap().run(&options, &Unattended).unwrap();
        assert_eq!(outcome.snapshots.len(), 1);
        assert!(outcome.frames_untouched > 0, "{outcome:?}");
        let rest = from.prepare_transfer(&to, &Selection::All).unwrap();
        assert_eq!((rest.missing().len(), rest.present()), (2, 1));
        let estimate = rest.estimate(&Unattended).unwrap();
        let outcome = rest.run(&options, &Unattended).unwrap();
        assert_eq!(estimate.chunks, outcome.chunks_sent);
        let (low, high) = (outcome.stored_bytes * 9 / 10, outcome.stored_bytes * 11 / 10);
        assert!((low..=high).contains(&estimate.bytes), "{} for {}", estimate.bytes, outcome.stored_bytes);
        assert_eq!(ids(&to, "a"), ids(&from, "a"));
        for (id, disk) in &made {
            assert!(restore(&to, *id).unwrap() == *disk, "{near:?}");
            assert_eq!(to.snapshot(*id).unwrap(), from.snapshot(*id).unwrap());
        }
        assert_clean(&to, "after a push");
    }
}

#[test]
fn the_second_snapshot_costs_what_is_new_in_it() {
    let (_, from, made) = line(2);
    let to = Machine::new().init().unwrap();
    let picks = vec![Pick { image: image("a"), snapshot: Some(made[0].0) }];
    send(&from, &to, &Selection::Picks(picks)).unwrap();
    for near in [Near::From, Near::To] {
        let to = {
            let to = Machine::new().init().unwrap();
            let picks = vec![Pick { image: image("a"), snapshot: Some(made[0].0) }];
            send(&from, &to, &Selection::Picks(picks)).unwrap();
            to
        };
        let (outcome, [read, written]) =
            measured(&from, &to, &TransferOptions { near, verify: false, ..options() });
        let new: u64 =
            made[1..].iter().map(|(id, _)| from.snapshot(*id).unwrap().statistics.stored_bytes).sum();
        let allowed =
            |new: u64| (new as f64 * 1.02) as u64 + (64 << 10) * outcome.chunks_examined.div_ceil(1000);
        // What goes over the wire: all that the far side is asked for and told.
        let far = if near == Near::From { &written } else { &read };
        let wire = far.total.sent_bytes + far.total.received_bytes;
        assert!(wire <= allowed(new), "{near:?}: {wire} for {new} new bytes, {outcome:?} {far:?}");
    }
}

#[test]
fn nothing_to_send_is_known_from_refs_alone() {
    let (_, from, _) = line(3);
    let to = Machine::new().init().unwrap();
    let other = init_otherwise(&Machine::new());
    for to in [&to, &other] {
        assert_eq!(send_all(&from, to).snapshots.len(), 3);
        let (outcome, traffic) = measured(&from, to, &options());
        assert_eq!((outcome.snapshots.len(), outcome.present), (0, 3));
        for side in traffic {
            let read: Vec<&str> = side.by_class.keys().copied().collect();
            assert_eq!(read, ["refs", "sessions"]);
            assert_eq!(side.total.sent_bytes, 0);
            assert!(side.total.received_bytes < 50_000, "{side:?}");
        }
    }
}

#[test]
fn tags_and_holds_travel_and_those_of_both_sides_stay() {
    let (_, from, made) = line(4);
    let to = Machine::new().init().unwrap();
    let id = made[1].0;
    let tag = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    from.tag(&image("a"), id, &tag("one", "1"), &[]).unwrap();
    from.hold(&image("a"), id, "audit", "a person asked").unwrap();
    send_all(&from, &to);
    let entry = |repository: &Repository| repository.image(&image("a")).unwrap().entry(id).unwrap().clone();
    assert_eq!((entry(&to).tags, entry(&to).holds), (entry(&from).tags, entry(&from).holds));
    to.tag(&image("a"), id, &tag("two", "there"), &[]).unwrap();
    from.tag(&image("a"), id, &tag("two", "here"), &[]).unwrap();
    from.tag(&image("a"), id, &tag("three", "3"), &[]).unwrap();
    to.release(&image("a"), id, "audit").unwrap();
    assert_eq!(send_all(&from, &to).labelled, 1);
    let found: Vec<(String, String)> = entry(&to).tags.into_iter().collect();
    let expected = [("one", "1"), ("three", "3"), ("two", "there")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(entry(&to).holds.len(), 1);
    assert_eq!(send_all(&from, &to).labelled, 0);
}

#[test]
fn backups_of_one_image_at_two_sites_become_two_heads() {
    let (_, east, made) = line(5);
    let west = Machine::new().init().unwrap();
    send_all(&east, &west);
    let mut random = Random::new(5);
    let at_west = mutated(&mut random, &made[2].1);
    let at_east = mutated(&mut random, &made[2].1);
    let west_id = backup(&west, "a", &at_west).unwrap();
    let east_id = backup(&east, "a", &at_east).unwrap();
    send_all(&east, &west);
    send_all(&west, &east);
    let expected: Vec<SnapshotId> = made.iter().map(|(id, _)| *id).chain([west_id, east_id]).collect();
    for site in [&east, &west] {
        assert_eq!(ids(site, "a"), expected, "in the order of time on both sides");
        for id in [west_id, east_id] {
            assert_eq!(site.snapshot(id).unwrap().parents, [made[2].0]);
        }
        assert!(restore(site, west_id).unwrap() == at_west && restore(site, east_id).unwrap() == at_east);
    }
}

#[test]
fn a_repository_with_other_names_gets_the_content_and_remembers_where_it_was() {
    let (_, from, made) = line(6);
    let middle = init_otherwise(&Machine::new());
    let end = Machine::new().init().unwrap();
    let outcome = send_all(&from, &middle);
    assert!(outcome.is_renamed && outcome.snapshots.len() == 3);
    for (sent, (id, disk)) in outcome.snapshots.iter().zip(&made) {
        let copy = middle.snapshot(sent.copy).unwrap();
        assert_eq!((sent.snapshot, copy.origin.as_ref().unwrap().snapshot), (*id, *id));
        assert_eq!(copy.created, from.snapshot(*id).unwrap().created);
        assert!(restore(&middle, sent.copy).unwrap() == *disk);
    }
    // The second and third were read as what differs from their parents.
    let parents: Vec<_> =
        outcome.snapshots.iter().map(|sent| middle.snapshot(sent.copy).unwrap().parents).collect();
    assert_eq!(parents, [vec![], vec![outcome.snapshots[0].copy], vec![outcome.snapshots[1].copy]]);
    // By way of another repository they are still known for what they are.
    assert_eq!(send_all(&middle, &end).snapshots.len(), 3);
    for (a, b) in [(&from, &end), (&end, &middle), (&end, &from), (&middle, &from)] {
        assert_eq!(send_all(a, b).snapshots.len(), 0);
    }
    assert_clean(&middle, "renamed");
    assert_clean(&end, "renamed twice");
}

#[test]
fn what_is_damaged_is_named_and_the_rest_travels() {
    let (machine, from, made) = line(7);
    let mut random = Random::new(70);
    let other = content(&mut random, DISK_BYTES);
    let good = backup(&from, "b", &other).unwrap();
    // The pack of chunks of the second snapshot: it is the first that appeared after the first backup.
    let last = made[2].0;
    let alone = Machine::new().init().unwrap();
    let picks = made[..2].iter().map(|(id, _)| Pick { image: image("a"), snapshot: Some(*id) }).collect();
    send(&from, &alone, &Selection::Picks(picks)).unwrap();
    let (_, [read, _]) = measured(&from, &alone, &options());
    assert!(read.total.received_bytes > 0);
    let packs: Vec<_> =
        machine.files.paths().into_iter().filter(|path| path.starts_with("/repository/packs")).collect();
    for pack in &packs {
        let files = Machine { files: machine.files.copy(), boot: machine.boot.clone() };
        files.files.corrupt(pack, |bytes| bytes[100] ^= 1).unwrap();
        let from = files.open().unwrap();
        for to in [Machine::new().init().unwrap(), init_otherwise(&Machine::new())] {
            let outcome = send(&from, &to, &Selection::All).unwrap();
            assert!(!outcome.refused.is_empty());
            for refused in &outcome.refused {
                let reason = &refused.reason;
                assert!(
                    reason.contains("pack") || reason.contains("chunk") || reason.contains("node"),
                    "{reason}"
                );
            }
            assert_eq!(outcome.refused.len() + outcome.snapshots.len(), 4);
            assert_clean(&to, "after a refusal");
            for sent in &outcome.snapshots {
                let expected = if sent.snapshot == good {
                    &other
                } else {
                    &made.iter().find(|(id, _)| *id == sent.snapshot).unwrap().1
                };
                assert!(restore(&to, sent.copy).unwrap() == *expected);
            }
            // From a sound source the rest follows.
            let sound = machine.open().unwrap();
            assert_eq!(send_all(&sound, &to).snapshots.len(), outcome.refused.len());
            assert_clean(&to, "after all");
        }
    }
    assert!(packs.len() >= 4 && restore(&alone, last).is_ok());
}

#[test]
fn a_group_travels_whole_or_not_at_all() {
    let machine = Machine::new();
    let from = machine.init().unwrap();
    let mut random = Random::new(8);
    let disks = [content(&mut random, DISK_BYTES), content(&mut random, DISK_BYTES)];
    let made = backup_group(&from, &[("vm/a", &disks[0], None), ("vm/b", &disks[1], None)]).unwrap();
    let packs: Vec<_> =
        machine.files.paths().into_iter().filter(|path| path.starts_with("/repository/packs")).collect();
    for pack in packs {
        let files = Machine { files: machine.files.copy(), boot: machine.boot.clone() };
        files.files.corrupt(&pack, |bytes| bytes[100] ^= 1).unwrap();
        let to = Machine::new().init().unwrap();
        let outcome = send(&files.open().unwrap(), &to, &Selection::All).unwrap();
        assert_eq!((outcome.snapshots.len(), outcome.refused.len()), (0, 2), "{outcome:?}");
        assert!(to.groups().unwrap().is_empty());
        assert_clean(&to, "a torn group");
        assert_eq!(send_all(&from, &to).snapshots.len(), 2);
        assert_eq!(to.groups().unwrap()[0].members.len(), 2);
        for (outcome, disk) in made.iter().zip(&disks) {
            assert!(restore(&to, outcome.id).unwrap() == *disk);
        }
    }
}

#[test]
fn only_copies_that_came_from_here_and_were_forgotten_here_are_stale() {
    let (_, from, made) = line(9);
    let to = Machine::new().init().unwrap();
    send_all(&from, &to);
    let elsewhere = Machine::new().init().unwrap();
    let mut random = Random::new(90);
    let disk = content(&mut random, DISK_BYTES);
    let foreign = backup(&elsewhere, "a", &disk).unwrap();
    send_all(&elsewhere, &to);
    let own = backup(&to, "a", &disk).unwrap();
    assert!(from.stale_copies(&to, &|_| true).unwrap().is_empty());
    from.forget(&image("a"), &[made[0].0, made[1].0]).unwrap();
    to.hold(&image("a"), made[1].0, "law", "keep it").unwrap();
    assert!(from.stale_copies(&to, &|_| false).unwrap().is_empty());
    let stale = from.stale_copies(&to, &|_| true).unwrap();
    let found: Vec<_> = stale.iter().map(|copy| (copy.snapshot, copy.kept_because.is_some())).collect();
    assert_eq!(found, [(made[0].0, false), (made[1].0, true)]);
    let forgotten = from.forget_stale(&stale).unwrap_err();
    assert_eq!(forgotten.kind(), ErrorKind::NotFound, "at the source they are gone already");
    assert_eq!(to.forget_stale(&stale).unwrap().len(), 1);
    let kept: BTreeSet<_> = ids(&to, "a").into_iter().collect();
    assert_eq!(kept, BTreeSet::from([made[1].0, made[2].0, foreign, own]));
    // An image of which nothing is left may as well have been lost.
    to.release(&image("a"), made[1].0, "law").unwrap();
    from.forget(&image("a"), &[made[2].0]).unwrap();
    let stale = from.stale_copies(&to, &|_| true).unwrap();
    assert!(stale.len() == 2 && stale.iter().all(|copy| copy.kept_because.is_some()));
}

/// Bytes of packs that a side was sent.
fn pack_bytes(traffic: &Traffic) -> u64 {
    traffic.report().by_class.get("packs").map_or(0, |class| class.sent_bytes)
}

/// Chunks that fill many packs.
fn large(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 6 << 20];
    Random::new(seed).fill(&mut disk);
    disk
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_stopped() {
    let from = Machine::new().init().unwrap();
    let disk = large(10);
    let id = backup(&from, "a", &disk).unwrap();
    let whole = {
        let (to, traffic) = counted(&Machine::new().init().unwrap());
        send_all(&from, &to);
        pack_bytes(&traffic)
    };
    let changes = {
        let to = Machine::new();
        let repository = to.init().unwrap();
        to.files.set_faults(Faults::default());
        send_all(&from, &repository);
        to.files.counts().changes
    };
    // One pack is under way when it stops: here it is a frame of 2 MiB and its directory.
    let window = (2 << 20) + (64 << 10);
    let step = if is_full() { 1 } else { 7 };
    for at in (0..changes).step_by(step) {
        for power in [false, true] {
            let mut machine = Machine::new();
            machine.init().unwrap();
            let faults = if power {
                Faults { power_fails_at_change: Some(at), ..Faults::default() }
            } else {
                Faults { change_fails_at: Some(at), ..Faults::default() }
            };
            machine.files.set_faults(faults);
            let traffic = Arc::new(Traffic::default());
            let count =
                |repository: Repository| repository.map_store(|store| CountedStore::wrap(store, &traffic));
            let broken = machine.open().map(count).and_then(|to| send(&from, &to, &Selection::All));
            if power {
                machine = Machine::rebooted(machine.files.crash(at));
            }
            machine.files.set_faults(Faults::default());
            let to = count(machine.spawn().open().unwrap());
            let outcome = send_all(&from, &to);
            assert!(broken.is_err() || outcome.snapshots.is_empty() || at + 20 > changes);
            assert!(restore(&to, id).unwrap() == disk);
            let sent = pack_bytes(&traffic);
            assert!(sent <= whole + window, "change {at}, power {power}: {sent} instead of {whole}");
            assert_clean(&to, "after an interruption");
            collect(&to).unwrap();
            assert!(restore(&to, id).unwrap() == disk);
            assert_clean(&to, "after a collection");
        }
    }
    println!("{changes} changes, {whole} bytes of packs");
}

/// Stops after some bytes.
struct StopsAfter(AtomicU64);

impl Control for StopsAfter {
    fn advance(&self, _bytes: u64) {
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1)));
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_transfer_that_is_told_to_stop_keeps_what_it_has_stored() {
    let (_, from, made) = line(11);
    let to = Machine::new().init().unwrap();
    let (to, traffic) = counted(&to);
    let whole = {
        let (to, traffic) = counted(&Machine::new().init().unwrap());
        send_all(&from, &to);
        pack_bytes(&traffic)
    };
    for after in 1.. {
        let transfer = from.prepare_transfer(&to, &Selection::All).unwrap();
        match transfer.run(&options(), &StopsAfter(AtomicU64::new(after))) {
            Err(Error::Interrupted) => assert!(transfer.missing().len() == 3),
            Ok(outcome) => {
                assert_eq!(outcome.snapshots.len(), 3);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    // Packs that were not full when it stopped have a directory each.
    assert!(pack_bytes(&traffic) < whole + whole / 4, "{} instead of {whole}", pack_bytes(&traffic));
    for (id, disk) in &made {
        assert!(restore(&to, *id).unwrap() == *disk);
    }
    assert_clean(&to, "stopped again and again");
}

/// A site of the random rounds: what must be there, by the name that each snapshot was made under.
struct Site {
    repository: Repository,
    kept: BTreeMap<SnapshotId, (String, Arc<Vec<u8>>)>,
    /// Forgotten here; may come back by a transfer only.
    forgotten: BTreeSet<SnapshotId>,
}

impl Site {
    fn assert_holds(&self, context: &str) {
        let mut found = BTreeSet::new();
        for name in self.repository.images().unwrap() {
            let entries = self.repository.image(&name).unwrap().snapshots;
            for entry in entries {
                let (image, disk) = self
                    .kept
                    .get(&entry.first_name())
                    .unwrap_or_else(|| panic!("{context}: {name}@{}", entry.id));
                assert_eq!(image, name.as_str());
                assert!(
                    restore(&self.repository, entry.id).unwrap() == **disk,
                    "{context}: {name}@{}",
                    entry.id
                );
                assert!(found.insert(entry.first_name()), "{context}: {name}@{} is there twice", entry.id);
            }
        }
        let expected: BTreeSet<SnapshotId> = self.kept.keys().copied().collect();
        assert_eq!(found, expected, "{context}");
        assert_clean(&self.repository, context);
    }
}

fn round(seed: u64) {
    let mut random = Random::new(seed);
    let site = |repository| Site { repository, kept: BTreeMap::new(), forgotten: BTreeSet::new() };
    let mut sites = vec![
        site(Machine::new().init().unwrap()),
        site(Machine::new().init().unwrap()),
        site(if random.chance(50) {
            init_otherwise(&Machine::new())
        } else {
            Machine::new().init().unwrap()
        }),
    ];
    let mut disks: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let push = |sites: &mut Vec<Site>, from: usize, to: usize, selection: &Selection, images: &[&str]| {
        send(&sites[from].repository, &sites[to].repository, selection).unwrap();
        let moved = sites[from].kept.clone();
        for (id, kept) in moved.into_iter().filter(|(_, (image, _))| images.contains(&image.as_str())) {
            sites[to].forgotten.remove(&id);
            sites[to].kept.insert(id, kept);
        }
    };
    for step in 0..14 {
        let at = random.below(3) as usize;
        let name = ["a", "b/c"][random.below(2) as usize];
        match random.below(10) {
            0..4 => {
                let before = disks.entry(name).or_insert_with(|| content(&mut Random::new(seed), 600_000));
                let disk = mutated(&mut random, before);
                if random.chance(60) {
                    before.clone_from(&disk);
                }
                let id = backup(&sites[at].repository, name, &disk).unwrap();
                sites[at].kept.insert(id, (name.to_owned(), Arc::new(disk)));
            }
            4..7 => {
                let to = (at + 1 + random.below(2) as usize) % 3;
                let is_there = sites[at].repository.images().unwrap().contains(&image(name));
                if random.chance(50) && is_there {
                    let picks = Selection::Picks(vec![Pick { image: image(name), snapshot: None }]);
                    push(&mut sites, at, to, &picks, &[name]);
                } else {
                    push(&mut sites, at, to, &Selection::All, &["a", "b/c"]);
                }
            }
            7 => {
                let entries =
                    sites[at].repository.image(&image(name)).map_or(Vec::new(), |image| image.snapshots);
                if !entries.is_empty() {
                    let entry = &entries[random.below(entries.len() as u64) as usize];
                    sites[at].repository.forget(&image(name), &[entry.id]).unwrap();
                    sites[at].kept.remove(&entry.first_name());
                    sites[at].forgotten.insert(entry.first_name());
                }
            }
            _ => {
                collect(&sites[at].repository).unwrap();
            }
        }
        if step % 5 == 4 {
            sites[at].assert_holds(&format!("seed {seed}, step {step}, site {at}"));
        }
    }
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
        push(&mut sites, from, to, &Selection::All, &["a", "b/c"]);
    }
    for site in &sites {
        collect(&site.repository).unwrap();
        site.assert_holds(&format!("seed {seed}, at the end"));
    }
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        assert!(sites[a].kept.keys().eq(sites[b].kept.keys()), "seed {seed}: {a} and {b}");
        if sites[a].repository.shares_names_with(&sites[b].repository) {
            let names = |site: &Site| -> BTreeSet<SnapshotId> {
                let images = site.repository.images().unwrap();
                images.iter().flat_map(|image| ids(&site.repository, image.as_str())).collect()
            };
            // By way of a third one with names of its own a snapshot may have got another name.
            if sites[2].repository.shares_names_with(&sites[0].repository) {
                assert_eq!(names(&sites[a]), names(&sites[b]), "seed {seed}");
            }
        }
    }
}

#[test]
fn random_graphs_of_snapshots_end_up_equal_everywhere() {
    let seeds: Vec<u64> = match std::env::var("LEEWARD_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None if is_full() => (0..1000).collect(),
        None => (0..40).collect(),
    };
    seeds.into_iter().for_each(round);
}
