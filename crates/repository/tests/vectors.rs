//! Test vectors of the format: names that every implementation must compute alike. A change here is a new format.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use leeward_disk::{MemoryStorage, OpenOptions, open_storage};
use leeward_repository::{
    BackupOptions, Consistency, InitOptions, PREFIXES, Repository, SourceRecord, Unattended,
};
use leeward_store::DirectoryStore;

fn root_of(disk: Vec<u8>, chunk_bytes: u64) -> (String, u8) {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::create(&directory.path().join("r"), &PREFIXES).unwrap();
    let options = InitOptions { chunk_bytes, ..InitOptions::default() };
    let repository = Repository::init(Arc::new(store), &options).unwrap();
    let source = open_storage(
        Arc::new(MemoryStorage::new("disk", disk)),
        &OpenOptions::with_format(leeward_disk::Format::Raw),
    )
    .unwrap();
    let options = BackupOptions {
        image: "vector".parse().unwrap(),
        source: SourceRecord { location: String::new(), format: "raw".into(), host: String::new() },
        consistency: Consistency::AtRest,
        tags: Default::default(),
        threads: 2,
    };
    let snapshot = repository.backup(source.as_ref(), &options, &Unattended).unwrap().snapshot;
    (snapshot.root.map_or_else(|| "none".to_owned(), |root| root.to_string()), snapshot.root_level)
}

/// A chunk's name, computed here from the specification alone.
fn chunk_name(content: &[u8]) -> [u8; 32] {
    let key = blake3::derive_key("leeward v1 chunk id key", &[0; 32]);
    *blake3::keyed_hash(&key, content).as_bytes()
}

/// A node's name with these children present, computed here from the specification alone.
fn node_name(level: u8, children: &[(usize, [u8; 32])]) -> [u8; 32] {
    let mut bytes = vec![1, level, 7, 0];
    bytes.resize(4 + 16, 0);
    for (index, _) in children {
        bytes[4 + index / 8] |= 1 << (index % 8);
    }
    for (_, id) in children {
        bytes.extend_from_slice(id);
    }
    let key = blake3::derive_key("leeward v1 tree node id key", &[0; 32]);
    *blake3::keyed_hash(&key, &bytes).as_bytes()
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_disk_of_zeros_has_no_root() {
    assert_eq!(root_of(vec![0; 3 << 20], 64 << 10), ("none".to_owned(), 0));
}

#[test]
fn the_last_chunk_is_filled_up_with_zeros() {
    let mut disk = vec![0; (64 << 10) + 5];
    disk[(64 << 10) + 4] = 7;
    let mut last = vec![0; 64 << 10];
    last[4] = 7;
    let expected = hex(node_name(0, &[(1, chunk_name(&last))]));
    assert_eq!(root_of(disk, 64 << 10), (expected.clone(), 0));
    assert_eq!(expected, "e6941ce2835d3b16a1038500d562b15e9f4157d573b9eb91ce8f6355c2d235c2");
}

#[test]
fn a_disk_beyond_one_leaf_has_a_root_above_it() {
    let chunk = 64 << 10;
    let mut disk = vec![0; 130 * chunk];
    disk[..chunk].fill(1);
    disk[129 * chunk..].fill(2);
    let first = node_name(0, &[(0, chunk_name(&vec![1; chunk]))]);
    let second = node_name(0, &[(1, chunk_name(&vec![2; chunk]))]);
    let expected = hex(node_name(1, &[(0, first), (1, second)]));
    assert_eq!(root_of(disk, chunk as u64), (expected.clone(), 1));
    assert_eq!(expected, "1b6725200dcdbfed7a638e2c94f82805fb033caebd6335cb50321d52e631bb1b");
}
