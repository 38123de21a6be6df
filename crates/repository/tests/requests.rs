//! What a collection asks a service for that is far away, through the local cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::{CHUNK_BYTES, at_once, backup, content, image, restore};
use leeward_repository::{InitOptions, Repository, Unattended};
use leeward_store::bucket::{BucketStore, Comparison};
use leeward_store::simulation::Random;
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::{CACHE_BYTES_MAX, CacheOptions, CachedStore, Key, SharedStore};

fn is_sound(key: &Key, content: &[u8]) -> bool {
    leeward_repository::verify::verify_object(key.as_str(), content).is_ok()
}

fn cached(bucket: &MemoryBucket, directory: &std::path::Path) -> SharedStore {
    let store = BucketStore::new(Arc::new(bucket.client()), Comparison::Native).unwrap();
    let options = CacheOptions {
        directory: directory.to_owned(),
        bytes_max: CACHE_BYTES_MAX,
        keeps_writes: true,
        is_sound,
    };
    CachedStore::wrap(Arc::new(store), &options)
}

/// Requests of a kind, by the prefix of what they ask for.
fn count(bucket: &MemoryBucket, act: impl FnOnce()) -> BTreeMap<(String, String), u64> {
    let counts: Arc<Mutex<BTreeMap<(String, String), u64>>> = Arc::default();
    let noted = Arc::clone(&counts);
    bucket.set_hook(Some(Arc::new(move |request: Request<'_>| {
        let prefix = request.key.split('/').next().unwrap_or_default().to_owned();
        *noted.lock().unwrap().entry((request.name.to_owned(), prefix)).or_default() += 1;
    })));
    act();
    bucket.set_hook(None);
    counts.lock().unwrap().clone()
}

#[test]
fn a_collection_asks_for_no_manifest_that_the_cache_has() {
    const SNAPSHOTS: u64 = 12;
    let bucket = MemoryBucket::new(Comparison::Native, Habits::default(), 1);
    let directory = tempfile::tempdir().unwrap();
    let store = cached(&bucket, directory.path());
    let options =
        InitOptions { chunk_bytes: CHUNK_BYTES as u64, pack_bytes: 1 << 20, ..InitOptions::default() };
    let repository = Repository::init(store, &options).unwrap();
    let mut random = Random::new(3);
    let disks: Vec<Vec<u8>> = (0..SNAPSHOTS).map(|_| content(&mut random, 5 * CHUNK_BYTES)).collect();
    let ids: Vec<_> = disks.iter().map(|disk| backup(&repository, "disk", disk).unwrap()).collect();
    repository.forget(&image("disk"), &ids[..2]).unwrap();

    let counts = count(&bucket, || {
        let outcome = repository.collect(&at_once(), &Unattended).unwrap();
        assert!(outcome.waits_for.is_empty());
    });
    let of = |name: &str| counts.get(&(name.to_owned(), "snapshots".to_owned())).copied().unwrap_or(0);
    // The two that are deleted are looked at, and perhaps one that its writer has just put.
    assert!(of("head") + of("read") <= 4, "{counts:?}");
    assert!(of("list") >= 1, "{counts:?}");
    for (id, disk) in ids.iter().zip(&disks).skip(2) {
        assert!(restore(&repository, *id).unwrap() == *disk, "what is kept is whole");
    }
}
