//! Stores in buckets keep their promises, whatever the service's habits.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::sync::Arc;
use std::time::Duration;

use leeward_store::bucket::{Bucket, BucketStore, Comparison, Condition, SharedBucket, VersionedStore};
use leeward_store::simulation::bucket::{Habits, MemoryBucket, Request};
use leeward_store::simulation::conformance::{Deletion, run_with};
use leeward_store::{ErrorKind, Key, SharedStore, Version};

fn versioned(comparison: Comparison, habits: Habits, seed: u64) -> (Arc<MemoryBucket>, SharedStore) {
    let bucket = Arc::new(MemoryBucket::new(comparison, habits, seed));
    let store = VersionedStore::new(Arc::clone(&bucket) as _, comparison)
        .unwrap()
        .with_lag(habits.lag)
        .with_surroundings(Arc::clone(&bucket) as _);
    (bucket, Arc::new(store))
}

#[test]
fn a_bucket_that_compares_is_a_store() {
    let bucket = Arc::new(MemoryBucket::new(Comparison::Native, Habits::default(), 1));
    let store: SharedStore = Arc::new(BucketStore::new(bucket, Comparison::Native).unwrap());
    run_with(&store, Deletion::IsToldToSome);
}

#[test]
fn a_bucket_that_only_creates_is_a_store() {
    run_with(&versioned(Comparison::CreateOnly, Habits::default(), 2).1, Deletion::IsToldToSome);
}

#[test]
fn a_bucket_that_knows_no_condition_is_a_store() {
    let (bucket, store) = versioned(Comparison::None, Habits::default(), 3);
    run_with(&store, Deletion::IsToldToSome);
    assert!(bucket.keys().is_empty(), "something was left over: {:?}", bucket.keys());
}

#[test]
fn a_bucket_that_fails_and_lags_is_a_store() {
    let habits = Habits {
        lag: Duration::from_millis(20),
        has_torn_listings: true,
        refused_percent: 2,
        lost_percent: 2,
        late_percent: 2,
    };
    run_with(&versioned(Comparison::None, habits, 4).1, Deletion::IsToldToSome);
}

#[test]
fn what_was_put_is_read_by_ranges_though_reads_lag_and_fail() {
    let habits = Habits { lag: Duration::from_secs(3), refused_percent: 5, ..Habits::default() };
    let (bucket, store) = versioned(Comparison::None, habits, 5);
    bucket.set_hook(Some(Arc::new(|_| {})));
    for number in 0..50 {
        let key = Key::under("index", &number.to_string()).unwrap();
        store.put_if_absent(&key, &[b"0123456789"]).unwrap();
        let object = store.open(&key).unwrap();
        for _ in 0..10 {
            let mut buffer = [0; 4];
            object.read_at(&mut buffer, 3).unwrap();
            assert_eq!(&buffer, b"3456");
        }
    }
    let key = Key::new("packs/none").unwrap();
    assert_eq!(store.open(&key).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn each_layout_is_refused_for_the_other_kind_of_service() {
    let bucket = || Arc::new(MemoryBucket::new(Comparison::Native, Habits::default(), 1));
    let error = VersionedStore::new(bucket(), Comparison::Native).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = BucketStore::new(bucket(), Comparison::None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn each_operation_takes_as_many_requests_as_the_documents_say() {
    let (bucket, store) = versioned(Comparison::None, Habits::default(), 5);
    let key = Key::new("refs/web-01").unwrap();
    let counted = |act: &dyn Fn()| {
        let before = bucket.requests();
        act();
        bucket.requests() - before
    };
    assert_eq!(counted(&|| store.put_if_absent(&key, &[b"one"]).unwrap()), 8);
    assert_eq!(counted(&|| assert_eq!(store.get(&key, 10).unwrap().0, b"one")), 2);
    assert_eq!(counted(&|| store.put_if_match(&key, b"two", &Version::of(b"one")).unwrap()), 12);
    assert_eq!(counted(&|| store.put_if_match(&key, b"three", &Version::of(b"two")).unwrap()), 14);
    assert_eq!(counted(&|| assert_eq!(store.list("refs").unwrap().len(), 1)), 1);
    assert_eq!(counted(&|| assert!(store.delete(&key).unwrap())), 20);
    assert!(bucket.keys().is_empty());
    assert_eq!(counted(&|| store.put_if_absent(&Key::new("packs/00").unwrap(), &[b"x"]).unwrap()), 1);
}

#[test]
fn an_object_at_the_root_is_found_by_its_layout() {
    let (bucket, store) = versioned(Comparison::CreateOnly, Habits::default(), 6);
    let key = Key::new("config").unwrap();
    let bucket: SharedBucket = bucket;
    assert!(!VersionedStore::is_layout_of(&bucket, &key).unwrap());
    store.put_if_absent(&key, &[b"settings"]).unwrap();
    assert!(VersionedStore::is_layout_of(&bucket, &key).unwrap());
    assert_eq!(
        bucket.head(&key).unwrap_err().kind(),
        ErrorKind::NotFound,
        "who compares finds nothing to spoil"
    );
}

#[test]
fn what_a_dead_deleter_and_dead_writers_left_is_swept() {
    let (bucket, store) = versioned(Comparison::None, Habits::default(), 7);
    let key = Key::new("sessions/0a").unwrap();
    store.put_if_absent(&key, &[b"open"]).unwrap();
    // The deleter dies when it has marked the tombstone: everything after that is removal.
    let dies = std::sync::atomic::AtomicBool::new(false);
    bucket.set_hook(Some(Arc::new(move |request: Request<'_>| {
        if request.name == "delete" && !dies.swap(true, std::sync::atomic::Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("killed"));
        }
    })));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.delete(&key)));
    assert!(outcome.is_err());
    bucket.set_hook(None);
    assert_eq!(store.get(&key, 100).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.list("sessions").unwrap().is_empty());
    assert_eq!(bucket.keys().len(), 6);
    let debris = "sessions/0b%3A/r00000001.00000001.00000000000000aa.a00000000000000bbv";
    let plain: SharedBucket = Arc::clone(&bucket) as _;
    plain.write(&Key::new(debris).unwrap(), &[&[0; 600]], Condition::Always).unwrap();
    assert!(store.list("sessions").unwrap().is_empty(), "a value that comes late is none");
    assert!(store.sweep_leftovers().unwrap() >= 600);
    assert!(bucket.keys().is_empty(), "{:?}", bucket.keys());
}

#[test]
fn a_part_that_somebody_else_replaced_is_damage_and_is_named() {
    let (bucket, store) = versioned(Comparison::None, Habits::default(), 9);
    let key = Key::new("refs/web").unwrap();
    store.put_if_absent(&key, &[b"content"]).unwrap();
    for entry in bucket.list("refs").unwrap() {
        bucket.write(&entry.key, &[b"encrypted by bad people"], Condition::Always).unwrap();
    }
    let error = store.get(&key, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("object refs/web is damaged: refs/web%3A/r00000001."), "{error}");
}
