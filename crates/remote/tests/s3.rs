//! S3 on real servers: every promise of a store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod beds;

use std::sync::Arc;

use beds::{Server, extent};
use leeward_store::SharedStore;
use leeward_store::bucket::{BucketStore, Comparison};
use leeward_store::simulation::conformance::{Deletion, run_to, run_with};

fn conforms(server: &Server, bare_tags: bool) {
    let connection = server.connect();
    connection.bare.use_bare_tags(bare_tags);
    let store: SharedStore = Arc::new(BucketStore::new(connection.bucket, Comparison::Native).unwrap());
    run_with(&store, Deletion::IsToldToSome);
    println!("requests: {}", connection.requests.counts());
}

#[test]
fn the_gateway_of_ceph_is_a_store() {
    if let Some(server) = Server::ceph() {
        conforms(&server, true);
    }
}

#[test]
fn motos_s3_is_a_store() {
    if let Some(server) = Server::s3("moto") {
        conforms(&server, false);
    }
}

/// Garage answers conditional writes as if it had kept the condition, so changes are decided by chains of versions;
/// `LEEWARD_ROUNDS=1` plays the whole suite.
#[test]
fn garages_s3_is_a_store_all_the_same() {
    let Some(server) = Server::s3("garage") else { return };
    let connection = server.connect();
    let abilities = leeward_remote::probe::probe(connection.bare.as_ref()).unwrap();
    assert_eq!(abilities.comparison(), Comparison::None, "{abilities:?}");
    let store = leeward_remote::store(&connection, abilities.comparison()).unwrap();
    run_to(&store, Deletion::IsToldToSome, extent());
    println!("requests: {}", connection.requests.counts());
}
