//! Packs that somebody else moves between two stores: what he moves is used, what he only says that he moved is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;

use common::{Machine, Model, backup, collect, content, image, mutated, restore};
use leeward_repository::transfer::{
    Lacking, Relay, Relayed, Selection, TransferOptions, TransferOutcome, WholePack, rename_pack,
};
use leeward_repository::{Control, Error, PackId, Repository, Result, SnapshotId, Unattended};
use leeward_store::simulation::Random;
use leeward_store::{Key, SharedStore};

const DISK_BYTES: usize = 3_000_000;

/// What becomes of a pack.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Moved,
    Left,
    CutOff,
    /// Moved, and he asks whether it has arrived.
    MovedAndSeen,
}

/// Somebody who can reach both stores.
struct Mover<'a> {
    from: SharedStore,
    to: SharedStore,
    fate: &'a (dyn Fn(usize) -> Fate + Sync),
    /// What else happens meanwhile.
    then: &'a (dyn Fn() -> Result<()> + Sync),
    asked: Mutex<Vec<WholePack>>,
}

/// The store of a repository.
fn store_of(repository: &Repository) -> SharedStore {
    let mut found = None;
    let _ = repository.clone().map_store(|store| {
        found = Some(store.clone());
        store
    });
    found.unwrap()
}

impl Relay for Mover<'_> {
    fn relay(&self, packs: &[WholePack], lacking: &Lacking<'_>, _: &dyn Control) -> Result<Relayed> {
        let mut seen = Vec::new();
        for (number, pack) in packs.iter().enumerate() {
            let key = Key::under("packs", &pack.id.to_string()).unwrap();
            let object = self.from.open(&key)?;
            assert_eq!(object.size(), pack.size);
            let mut bytes = vec![0; pack.size as usize];
            object.read_at(&mut bytes, 0)?;
            let key = Key::under("packs", &rename_pack(pack.id, &mut bytes).unwrap().to_string()).unwrap();
            let fate = (self.fate)(number);
            match fate {
                Fate::Moved | Fate::MovedAndSeen => self.to.put_if_absent(&key, &[&bytes])?,
                Fate::CutOff => self.to.put_if_absent(&key, &[&bytes[..bytes.len() / 2]])?,
                Fate::Left => {}
            }
            if fate == Fate::MovedAndSeen {
                seen.push(*pack);
                let left: Vec<_> = packs.iter().filter(|pack| !seen.contains(pack)).copied().collect();
                assert_eq!(lacking(packs)?, left);
            }
        }
        *self.asked.lock().unwrap() = packs.to_vec();
        (self.then)()?;
        // Whatever came of it, this is what he says.
        let bytes = packs.iter().map(|pack| pack.size).sum();
        Ok(Relayed { by: "a test".to_owned(), packs: packs.len() as u64, bytes, ..Relayed::default() })
    }
}

fn send(
    from: &Repository,
    to: &Repository,
    fate: &(dyn Fn(usize) -> Fate + Sync),
    then: &(dyn Fn() -> Result<()> + Sync),
) -> (Result<TransferOutcome>, BTreeSet<PackId>) {
    let (here, there) = (store_of(from), store_of(to));
    let mover = Mover { from: here, to: there, fate, then, asked: Mutex::default() };
    let transfer = from.prepare_transfer(to, &Selection::All).unwrap();
    let options = TransferOptions { verify: true, ..TransferOptions::default() };
    let outcome = transfer.run_with(&options, Some(&mover), &Unattended);
    let asked = mover.asked.into_inner().unwrap().iter().map(|pack| pack.id).collect();
    (outcome, asked)
}

/// A source with a snapshot, and its content.
fn site(seed: u64) -> (Repository, SnapshotId, Vec<u8>) {
    let repository = Machine::new().init().unwrap();
    let disk = content(&mut Random::new(seed), DISK_BYTES);
    let id = backup(&repository, "a", &disk).unwrap();
    (repository, id, disk)
}

fn names(repository: &Repository) -> BTreeSet<String> {
    let listed = store_of(repository).list("packs").unwrap();
    listed.into_iter().map(|entry| entry.key.name().to_owned()).collect()
}

fn is_whole(to: &Repository, id: SnapshotId, disk: &[u8], context: &str) {
    assert!(restore(to, id).unwrap() == disk, "{context}");
    Model::default().assert_clean(to, context);
}

#[test]
fn what_was_moved_is_not_sent_and_the_next_day_only_what_is_new_is_moved() {
    let (from, id, disk) = site(1);
    let to = Machine::new().init().unwrap();
    let estimate = from.prepare_transfer(&to, &Selection::All).unwrap().estimate(&Unattended).unwrap();
    let (outcome, asked) = send(&from, &to, &|_| Fate::Moved, &|| Ok(()));
    let outcome = outcome.unwrap();
    assert_eq!(
        (outcome.chunks_sent, outcome.frames_untouched + outcome.frames_encoded),
        (0, 0),
        "{outcome:?}"
    );
    let relayed = outcome.relayed.unwrap();
    assert_eq!(
        (relayed.packs_wanted, relayed.wanted_bytes),
        (estimate.whole_packs, estimate.whole_pack_bytes)
    );
    assert!(!asked.is_empty() && asked.len() as u64 == relayed.packs);
    is_whole(&to, id, &disk, "after the first day");
    assert!(names(&from).is_disjoint(&names(&to)), "no pack has a name that it had elsewhere");
    let changed = mutated(&mut Random::new(2), &disk);
    let second = backup(&from, "a", &changed).unwrap();
    let (outcome, more) = send(&from, &to, &|_| Fate::Moved, &|| Ok(()));
    assert_eq!(outcome.unwrap().snapshots.len(), 1);
    assert!(more.is_disjoint(&asked), "nothing is moved twice");
    is_whole(&to, second, &changed, "after the second day");
    let (outcome, none) = send(&from, &to, &|_| panic!("nothing is lacking"), &|| Ok(()));
    assert!(outcome.unwrap().relayed.is_none() && none.is_empty());
}

#[test]
fn whoever_moves_less_than_he_says_costs_time_and_nothing_else() {
    for (context, fate) in [
        ("nothing was moved", (|_| Fate::Left) as fn(usize) -> Fate),
        ("every second was moved", |number| if number % 2 == 0 { Fate::Left } else { Fate::Moved }),
    ] {
        let (from, id, disk) = site(3);
        let to = Machine::new().init().unwrap();
        let outcome = send(&from, &to, &fate, &|| Ok(())).0.unwrap();
        assert!(outcome.chunks_sent > 0, "{context}: {outcome:?}");
        is_whole(&to, id, &disk, context);
    }
    // What broke off is not used either; `check` names it.
    let (from, id, disk) = site(4);
    let to = Machine::new().init().unwrap();
    let outcome = send(&from, &to, &|_| Fate::CutOff, &|| Ok(())).0.unwrap();
    assert!(outcome.chunks_sent > 0 && restore(&to, id).unwrap() == disk);
}

#[test]
fn a_look_at_the_target_tells_what_has_arrived() {
    let (from, id, disk) = site(8);
    let to = Machine::new().init().unwrap();
    let outcome = send(&from, &to, &|_| Fate::MovedAndSeen, &|| Ok(())).0.unwrap();
    assert_eq!(outcome.chunks_sent, 0, "{outcome:?}");
    is_whole(&to, id, &disk, "moved one by one");
}

/// A collection has decided to delete a pack and is slow; another goes on with its list and ends it. The snapshot comes back
/// by a transfer, and only then the first one deletes.
#[test]
fn a_collection_that_deletes_late_takes_nothing_of_what_came_back() {
    let (from, id, disk) = site(9);
    let to = Machine::new().init().unwrap();
    send(&from, &to, &|_| Fate::Moved, &|| Ok(())).0.unwrap();
    let old = names(&to);
    to.forget(&image("a"), &[id]).unwrap();
    for _ in 0..3 {
        collect(&to).unwrap();
    }
    assert!(names(&to).is_disjoint(&old), "all of it was deleted");
    send(&from, &to, &|_| Fate::Moved, &|| Ok(())).0.unwrap();
    for name in old.iter().chain(&names(&from)) {
        store_of(&to).delete(&Key::under("packs", name).unwrap()).unwrap();
    }
    is_whole(&to, id, &disk, "after a late deletion");
}

#[test]
fn a_collection_in_between_takes_nothing_away() {
    let (from, id, disk) = site(5);
    let to = Machine::new().init().unwrap();
    let old = content(&mut Random::new(6), DISK_BYTES / 3);
    let forgotten = backup(&to, "old", &old).unwrap();
    to.forget(&image("old"), &[forgotten]).unwrap();
    let collects = || {
        for _ in 0..3 {
            collect(&to)?;
        }
        Ok(())
    };
    let outcome = send(&from, &to, &|_| Fate::Moved, &collects).0.unwrap();
    assert_eq!(outcome.snapshots.len(), 1);
    is_whole(&to, id, &disk, "after collections during the transfer");
    for _ in 0..3 {
        collect(&to).unwrap();
    }
    is_whole(&to, id, &disk, "after collections behind the transfer");
}

#[test]
fn a_mover_that_ends_the_transfer_leaves_what_the_next_one_uses() {
    let (from, id, disk) = site(7);
    let to = Machine::new().init().unwrap();
    let stopped = send(&from, &to, &|_| Fate::Moved, &|| Err(Error::Interrupted)).0;
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(to.images().unwrap().is_empty(), "nothing is published");
    let transfer = from.prepare_transfer(&to, &Selection::All).unwrap();
    let outcome = transfer.run(&TransferOptions::default(), &Unattended).unwrap();
    assert_eq!(outcome.chunks_sent, 0, "what was moved is used: {outcome:?}");
    is_whole(&to, id, &disk, "after the second run");
}
