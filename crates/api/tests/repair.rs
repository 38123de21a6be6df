//! Repairs through a server, which lets nobody replace a pack.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Served, Setup, impatient};
use leeward_api::client::{HttpStore, Location, Trust};
use leeward_api::token::Role;
use leeward_disk::{OpenOptions, open_source};
use leeward_repository::{
    BackupOptions, Consistency, ReadData, RepairOptions, Repository, SourceRecord, Unattended,
};

#[test]
fn what_parity_mends_goes_into_a_new_pack_where_nobody_may_replace_one() {
    let served = Served::new(Setup::default());
    let mut bytes = vec![0; 3 << 20];
    leeward_store::simulation::Random::new(11).fill(&mut bytes);
    let path = served.directory.path().join("disk.raw");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let source = open_source(path, &OpenOptions::default()).unwrap();
    let options = BackupOptions {
        image: "web/root".parse().unwrap(),
        source: SourceRecord { location: path.to_owned(), format: "raw".to_owned(), host: "here".to_owned() },
        consistency: Consistency::AtRest,
        tags: BTreeMap::default(),
        threads: 2,
    };
    let mut local = Repository::open(served.store.clone()).unwrap();
    local.set_parity(10).unwrap();
    local.backup(source.as_ref(), &options, &Unattended).unwrap();

    let packs = served.directory.path().join("store/packs");
    let all: Vec<_> = std::fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let damaged = all.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut pack = std::fs::read(damaged).unwrap();
    pack[5000..9000].fill(0x55);
    std::fs::write(damaged, pack).unwrap();

    let location = Location::parse(&served.url()).unwrap();
    let token = served.token("operator", Role::Operator, &[]);
    let store = HttpStore::new(&location, token, &Trust::default(), impatient()).unwrap();
    let remote = Repository::open(Arc::new(store)).unwrap();
    let options = RepairOptions { read: ReadData::All, ..RepairOptions::default() };
    let outcome = remote.repair(&options, &Unattended).unwrap();
    assert_eq!((outcome.plan.heal_packs.len(), outcome.renewed_packs), (1, 1), "{outcome:#?}");
    assert!(outcome.failed.is_empty() && outcome.left.findings.is_empty(), "{outcome:#?}");
    assert!(!damaged.exists(), "the damaged one is gone");
    assert_eq!(std::fs::read_dir(&packs).unwrap().count(), all.len());
    let found = Repository::open(served.store.clone()).unwrap().check(ReadData::All, &Unattended).unwrap();
    assert!(found.findings.is_empty() && found.packs_without_parity == 0, "{found:#?}");
}
