//! Everything that can be done with a repository, whatever is in it.

use leeward_repository::{
    CollectOptions, Credential, Identity, KeylessRepository, Passphrase, ReadData, Repository, RestoreMode,
    SnapshotId, Unattended,
};
use leeward_store::SharedStore;
use leeward_store::simulation::Random;

use crate::common::{MemoryTarget, at_once, image};

/// The largest disk that is restored whole: the target is in memory.
const RESTORED_MAX: u64 = 8 << 20;

/// Reads and checks all there is, then changes it. What comes of it does not matter, only that something does.
pub fn exercise(store: &SharedStore, random: &mut Random) {
    if let Ok(locked) = KeylessRepository::open(std::sync::Arc::clone(store)) {
        let _ = (locked.wrapped_keys(), locked.pack_bytes(), locked.check(ReadData::All, &Unattended));
    }
    let Ok(repository) = Repository::open(std::sync::Arc::clone(store)) else { return };
    let _ = (repository.groups(), repository.writers(), repository.statistics());
    for name in repository.images().unwrap_or_default() {
        let Ok(found) = repository.image(&name) else { continue };
        found.snapshots.iter().take(3).for_each(|entry| read(&repository, entry.id));
    }
    let _ = repository.check(ReadData::No, &Unattended);
    let _ = repository.check(ReadData::All, &Unattended);
    let options = CollectOptions { unused_max: 0.0, trust_clock: random.chance(50), ..at_once() };
    let _ = repository.plan_collect(&options);
    if random.chance(50) {
        let _ = repository.rebuild_index(&Unattended);
    }
    let _ = crate::common::backup(&repository, "a", &[7; 50_000]);
    let _ = repository.collect(&options, &Unattended);
    if let Ok(found) = repository.image(&image("a")) {
        let ids: Vec<SnapshotId> = found.snapshots.iter().map(|entry| entry.id).take(1).collect();
        let _ = repository.forget(&image("a"), &ids);
    }
    let _ = repository.collect(&options, &Unattended);
    let _ = repository.check(ReadData::All, &Unattended);
}

fn read(repository: &Repository, id: SnapshotId) {
    let Ok(snapshot) = repository.snapshot(id) else { return };
    if snapshot.virtual_size <= RESTORED_MAX {
        let target = MemoryTarget::blank(snapshot.virtual_size as usize);
        let _ = repository.restore(&snapshot, RestoreMode::Write(&target), 2, &Unattended);
    }
    let Ok(source) = repository.source(id) else { return };
    let mut buffer = [0; 5000];
    for offset in [0, 100_000, snapshot.virtual_size.saturating_sub(5000)] {
        if offset.checked_add(5000).is_some_and(|end| end <= snapshot.virtual_size) {
            let _ = leeward_disk::Source::read_at(&source, &mut buffer, offset);
            let _ = leeward_disk::Source::extents(&source, offset, 5000);
        }
    }
}

/// Tries to open an encrypted repository, with and without keys.
pub fn exercise_locked(store: &SharedStore, identity: &Identity) {
    let open = |credential| Repository::open_with(std::sync::Arc::clone(store), &credential);
    if let Ok(repository) = open(Credential::Identity(identity.clone())) {
        let _ = (repository.wrapped_keys(), repository.check(ReadData::All, &Unattended));
    }
    let _ = open(Credential::Passphrase(Passphrase::new("a passphrase").unwrap()));
    if let Ok(locked) = KeylessRepository::open(std::sync::Arc::clone(store)) {
        let _ = (locked.wrapped_keys(), locked.check(ReadData::All, &Unattended));
    }
}
