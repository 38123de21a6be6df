//! The directory store keeps its promises, on a real disk and on the simulated one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::path::Path;
use std::sync::Arc;

use leeward_store::simulation::conformance::{PREFIXES, run};
use leeward_store::simulation::{Faults, SimulatedFileSystem};
use leeward_store::{DirectoryStore, ErrorKind, Key, SharedStore, Store, Version};

#[test]
fn a_directory_of_this_machine_is_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let store: SharedStore =
        Arc::new(DirectoryStore::create(&directory.path().join("new"), &PREFIXES).unwrap());
    run(&store);
}

fn simulated() -> (SimulatedFileSystem, DirectoryStore) {
    let files = SimulatedFileSystem::new();
    let store = DirectoryStore::create_on(Arc::new(files.clone()), Path::new("/store"), &PREFIXES).unwrap();
    (files, store)
}

#[test]
fn a_simulated_directory_is_a_store() {
    let store: SharedStore = Arc::new(simulated().1);
    run(&store);
}

fn reopen(files: &SimulatedFileSystem) -> DirectoryStore {
    DirectoryStore::open_on(Arc::new(files.clone()), Path::new("/store")).unwrap()
}

fn key(name: &str) -> Key {
    Key::under("things", name).unwrap()
}

/// Creates and replaces objects, in this order; returns how many steps returned without an error.
fn script(store: &DirectoryStore) -> usize {
    let large = vec![1; 300_000];
    let steps: [&dyn Fn() -> leeward_store::Result<()>; 5] = [
        &|| store.put_if_absent(&key("a"), &[b"first"]),
        &|| store.put_if_absent(&key("b"), &[&large]),
        &|| store.put_if_match(&key("a"), b"second", &Version::of(b"first")),
        &|| store.put_if_match(&key("a"), b"third", &Version::of(b"second")),
        &|| store.delete(&key("b")).map(|_| ()),
    ];
    steps.iter().take_while(|step| step().is_ok()).count()
}

/// What a reader may find of `a` and `b` when so many steps were acknowledged and the next may or may not be done.
fn check(store: &DirectoryStore, done: usize, context: &str) {
    let found = |name| match store.get(&key(name), u64::MAX) {
        Ok((content, _)) => Some(content),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{context}");
            None
        }
    };
    let texts: [Option<&[u8]>; 6] =
        [None, Some(b"first"), Some(b"first"), Some(b"second"), Some(b"third"), Some(b"third")];
    let a = found("a");
    assert!(a.as_deref() == texts[done] || a.as_deref() == texts[(done + 1).min(5)], "{context}: {a:?}");
    let b = found("b");
    assert!(b.as_ref().is_none_or(|content| *content == vec![1; 300_000]), "{context}: b is torn");
    // A deletion may come undone until the prefix is settled; a creation may not.
    assert!(b.is_some() || !(2..=3).contains(&done), "{context}: b is lost");
}

#[test]
fn objects_are_whole_and_durable_whenever_the_power_fails() {
    let (files, store) = simulated();
    files.set_faults(Faults::default());
    assert_eq!(script(&store), 5);
    let changes = files.counts().changes;
    assert!(changes > 15);
    for at in 0..=changes {
        for seed in 0..40 {
            let (files, store) = simulated();
            files.set_faults(Faults { power_fails_at_change: Some(at), ..Faults::default() });
            let done = script(&store);
            let after = files.crash(seed);
            check(&reopen(&after), done, &format!("change {at}, seed {seed}"));
        }
    }
}

#[test]
fn a_failed_change_leaves_objects_whole() {
    let (files, store) = simulated();
    files.set_faults(Faults::default());
    script(&store);
    let counts = files.counts();
    let mut faults: Vec<Faults> = Vec::new();
    for at in 0..counts.changes {
        faults.push(Faults { change_fails_at: Some(at), ..Faults::default() });
        faults.push(Faults { change_lies_at: Some(at), ..Faults::default() });
    }
    for at in 0..counts.writes {
        faults.push(Faults { full_at_write: Some(at), ..Faults::default() });
    }
    for fault in faults {
        let (files, store) = simulated();
        files.set_faults(fault);
        let done = script(&store);
        files.set_faults(Faults::default());
        check(&reopen(&files), done, &format!("{fault:?}"));
    }
}

#[test]
fn a_full_medium_is_told_as_such() {
    let (files, store) = simulated();
    store.put_if_absent(&key("a"), &[b"first"]).unwrap();
    files.set_faults(Faults { bytes_max: Some(1000), ..Faults::default() });
    let error = store.put_if_absent(&key("b"), &[&[0; 2000]]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let error = store.put_if_match(&key("a"), &[0; 2000], &Version::of(b"first")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(store.get(&key("a"), 10).unwrap().0, b"first");
    assert_eq!(files.paths(), [Path::new("/store/things/a")], "what did not fit is removed again");
}

#[test]
fn leftovers_go_when_they_are_old() {
    let (files, store) = simulated();
    let temporary = Path::new("/store/tmp/left");
    leeward_store::FileSystem::create_synced(&files, temporary, &[b"abc"]).unwrap();
    assert_eq!(store.sweep_leftovers().unwrap(), 0);
    files.let_time_pass(std::time::Duration::from_secs(25 * 60 * 60));
    assert_eq!(store.sweep_leftovers().unwrap(), 3);
    assert!(files.paths().is_empty());
}
