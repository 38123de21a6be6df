//! A store that goes back in time is found out.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;

use leeward_api::witness::WitnessStore;
use leeward_repository::{ImageName, InitOptions, PREFIXES, Repository};
use leeward_store::{DirectoryStore, ErrorKind, Key, SharedStore};

fn record(generation: u64, image: &str, mark: &str) -> Vec<u8> {
    let value = serde_json::json!({"ref_version": 1, "image": image, "generation": generation, "snapshots": [], "mark": mark});
    let payload = serde_json::to_vec(&value).unwrap();
    let mut bytes = b"LEEWARDR\x01\x00\x03\x00".to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(payload);
    let digest = blake3::derive_key("leeward v1 stored record", &bytes);
    bytes.extend(digest);
    bytes
}

fn new(root: &Path) -> (SharedStore, SharedStore) {
    let store: SharedStore = Arc::new(DirectoryStore::create(&root.join("store"), &PREFIXES).unwrap());
    Repository::init(store.clone(), &InitOptions::default()).unwrap();
    let witnessed = WitnessStore::wrap(store.clone(), &root.join("witness"));
    (store, witnessed)
}

/// Puts a state of the ref into the store behind the witness.
fn show(store: &SharedStore, key: &Key, bytes: &[u8]) {
    store.delete(key).unwrap();
    store.put_if_absent(key, &[bytes]).unwrap();
}

#[test]
fn an_old_ref_is_told_and_can_be_accepted() {
    let root = tempfile::tempdir().unwrap();
    let (store, witnessed) = new(root.path());
    let key = Key::new("refs/web%2Froot").unwrap();
    for generation in 1..=3 {
        show(&store, &key, &record(generation, "web/root", ""));
        witnessed.get(&key, u64::MAX).unwrap();
    }
    show(&store, &key, &record(2, "web/root", ""));
    let error = witnessed.get(&key, u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let text = error.to_string();
    for part in [store.name(), "refs/web%2Froot", "generation 2 is shown, and 3 was seen", "removing "] {
        assert!(text.contains(part), "{text}");
    }
    let error = Repository::open(witnessed.clone()).unwrap().image(&"web/root".parse::<ImageName>().unwrap());
    assert!(error.is_err(), "the repository hears of it");
    // Another process of the same user knows it as well.
    let again = WitnessStore::wrap(store.clone(), &root.path().join("witness"));
    assert!(again.get(&key, u64::MAX).is_err());
    // The message says which file to remove.
    let file = text.split("removing ").nth(1).unwrap();
    std::fs::remove_file(file).unwrap();
    witnessed.get(&key, u64::MAX).unwrap();
}

#[test]
fn a_ref_with_two_faces_and_one_that_is_gone_are_told() {
    let root = tempfile::tempdir().unwrap();
    let (store, witnessed) = new(root.path());
    let key = Key::new("refs/a").unwrap();
    let bytes = record(1, "a", "");
    witnessed.put_if_absent(&key, &[&bytes]).unwrap();
    let next = record(2, "a", "");
    witnessed.put_if_match(&key, &next, &leeward_store::Version::of(&bytes)).unwrap();
    show(&store, &key, &record(2, "a", "another face"));
    let error = witnessed.get(&key, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("other content"), "{error}");
    store.delete(&key).unwrap();
    let error = witnessed.get(&key, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("no ref is ever deleted"), "{error}");
    let error = witnessed.list("refs").unwrap_err();
    assert!(error.to_string().contains("no ref is ever deleted"), "{error}");
}

#[test]
fn another_repository_has_another_witness() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, first) = new(one.path());
    let (store, _) = new(two.path());
    let second = WitnessStore::wrap(store, &one.path().join("witness"));
    let key = Key::new("refs/a").unwrap();
    first.put_if_absent(&key, &[&record(1, "a", "")]).unwrap();
    assert_eq!(second.get(&key, u64::MAX).unwrap_err().kind(), ErrorKind::NotFound);
}
