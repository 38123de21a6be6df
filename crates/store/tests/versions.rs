//! Stores in buckets keep their promises, whatever the service's habits.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::sync::Arc;
use std::time::Duration;

use leeward_store::bucket::{BucketStore, Comparison, VersionedStore};
use leeward_store::simulation::bucket::{Habits, MemoryBucket};
use leeward_store::simulation::conformance::{Deletion, run, run_with};
use leeward_store::{ErrorKind, SharedStore};

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
    run(&store);
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
fn each_layout_is_refused_for_the_other_kind_of_service() {
    let bucket = || Arc::new(MemoryBucket::new(Comparison::Native, Habits::default(), 1));
    let error = VersionedStore::new(bucket(), Comparison::Native).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = BucketStore::new(bucket(), Comparison::None).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
