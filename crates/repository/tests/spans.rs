//! Over a network frames that lie near each other are read together: fewer requests, the same bytes, and damage is found
//! as it is elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{CHUNK_BYTES, Machine, MemoryDisk, MemoryTarget, ROOT, backup, restore};
use leeward_repository::transfer::{Selection, TransferOptions};
use leeward_repository::{
    ErrorKind, InitOptions, PREFIXES, Repository, RestoreMode, RestoreOutcome, SnapshotId, Unattended,
};
use leeward_store::bucket::RequestCounts;
use leeward_store::simulation::Random;
use leeward_store::{DirectoryStore, Entry, Key, Object, Result, SharedStore, Store, Version};

const UNIT_BYTES: usize = 2 << 20;
const UNITS: usize = 32;

/// A store to which each read is a request. Reads of packs are counted.
struct Distant {
    store: SharedStore,
    reads: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

struct DistantObject {
    object: Arc<dyn Object>,
    counters: Option<[Arc<AtomicU64>; 2]>,
}

impl Object for DistantObject {
    fn size(&self) -> u64 {
        self.object.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if let Some([reads, bytes]) = &self.counters {
            reads.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        self.object.read_at(buffer, offset)
    }
}

impl Store for Distant {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        3
    }

    fn requests(&self) -> Option<RequestCounts> {
        Some(RequestCounts::default())
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        let counters =
            key.as_str().starts_with("packs/").then(|| [Arc::clone(&self.reads), Arc::clone(&self.bytes)]);
        Ok(Arc::new(DistantObject { object: self.store.open(key)?, counters }))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        self.store.get(key, size_max)
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.store.put_if_absent(key, parts)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.store.put_if_match(key, content, expected)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.store.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.store.list(prefix)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.store.settle(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.store.sweep_leftovers()
    }
}

/// Two days of a disk, in which some chunks of each unit have changed, more in all than wait to be looked up together, and
/// some chunks are alike; and the repository they are in.
struct Fixture {
    machine: Machine,
    near: Repository,
    days: [Vec<u8>; 2],
    ids: [SnapshotId; 2],
}

fn near(machine: &Machine) -> Repository {
    let store =
        DirectoryStore::create_on(Arc::new(machine.files.clone()), Path::new(ROOT), &PREFIXES).unwrap();
    let options = InitOptions {
        chunk_bytes: CHUNK_BYTES as u64,
        pack_bytes: 32 << 20,
        zstd_level: 1,
        ..InitOptions::default()
    };
    Repository::init(Arc::new(store), &options).unwrap()
}

fn fixture() -> Fixture {
    let mut random = Random::new(11);
    // Not a whole chunk at the end; each chunk is its own, and compresses to an eighth.
    let mut first = vec![5; UNITS * UNIT_BYTES - 1000];
    first.chunks_mut(CHUNK_BYTES).for_each(|chunk| random.fill(&mut chunk[..CHUNK_BYTES / 8]));
    // A hole, and chunks that are elsewhere as well.
    first[3 * UNIT_BYTES..4 * UNIT_BYTES + 5 * CHUNK_BYTES].fill(0);
    first.copy_within(UNIT_BYTES..UNIT_BYTES + 9 * CHUNK_BYTES, 7 * UNIT_BYTES + 3 * CHUNK_BYTES);
    let mut second = first.clone();
    for unit in second.chunks_mut(UNIT_BYTES) {
        for _ in 0..24 {
            let at = random.below((unit.len() / CHUNK_BYTES) as u64) as usize * CHUNK_BYTES;
            random.fill(&mut unit[at..at + 500]);
        }
    }
    let machine = Machine::new();
    let near = near(&machine);
    let ids = [&first, &second].map(|day| backup(&near, "disk", day).unwrap());
    Fixture { machine, near, days: [first, second], ids }
}

/// The repository as seen over a network, and how often and how much of its packs was read.
fn far(near: &Repository) -> (Repository, Arc<AtomicU64>, Arc<AtomicU64>) {
    let (reads, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let far = near
        .clone()
        .map_store(|store| Arc::new(Distant { store, reads: Arc::clone(&reads), bytes: Arc::clone(&bytes) }));
    (far, reads, bytes)
}

fn packs_bytes(repository: &Repository) -> u64 {
    repository.statistics().unwrap().pack_bytes
}

#[test]
fn a_restore_reads_runs_of_frames_by_one_request_each() {
    let fixture = fixture();
    let (far, reads, bytes) = far(&fixture.near);
    for (id, day) in fixture.ids.iter().zip(&fixture.days) {
        assert!(restore(&fixture.near, *id).unwrap() == *day);
        assert!(restore(&far, *id).unwrap() == *day);
    }
    // Two days: 31 frames twice, 32 small ones, and the trees. How threads share the disk differs: some 50 to 66 requests.
    let (reads, bytes) = (reads.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    assert!(reads < 80, "{reads} requests for some 94 frames");
    let stored = packs_bytes(&fixture.near);
    assert!(bytes < 3 * stored, "{bytes} bytes were read for two restores of {stored}");
}

#[test]
fn a_patch_reads_what_differs_and_little_else() {
    let fixture = fixture();
    let (far, reads, bytes) = far(&fixture.near);
    let mut before = fixture.days[1].clone();
    let wrong = [2 * UNIT_BYTES + 17, 9 * UNIT_BYTES + 1, before.len() - 1];
    wrong.iter().for_each(|at| before[*at] ^= 1);
    let target = MemoryTarget::with(before.clone());
    let mode_source = MemoryDisk::plain(before);
    let snapshot = far.snapshot(fixture.ids[1]).unwrap();
    let outcome = far.restore(&snapshot, RestoreMode::Patch(&target, &mode_source), 2, &Unattended).unwrap();
    assert!(target.into_content() == fixture.days[1]);
    let RestoreOutcome { written_bytes, differing_bytes, differing_offsets, .. } = outcome;
    assert_eq!(
        (written_bytes, differing_bytes),
        (3 * CHUNK_BYTES as u64 - 1000, 3 * CHUNK_BYTES as u64 - 1000)
    );
    assert_eq!(differing_offsets.len(), 3);
    assert!(reads.load(Ordering::Relaxed) <= 12, "{reads:?}");
    assert!(bytes.load(Ordering::Relaxed) < packs_bytes(&fixture.near) / 3, "{bytes:?}");
}

#[test]
fn a_copy_from_afar_reads_runs_of_frames_and_nothing_between_them() {
    let fixture = fixture();
    let (far, reads, bytes) = far(&fixture.near);
    let machine = Machine::new();
    let to = near(&machine);
    let outcome = far
        .prepare_transfer(&to, &Selection::All)
        .unwrap()
        .run(&TransferOptions { verify: true, ..TransferOptions::default() }, &Unattended)
        .unwrap();
    assert!(outcome.refused.is_empty(), "{:?}", outcome.refused);
    for (id, day) in fixture.ids.iter().zip(&fixture.days) {
        assert!(restore(&to, *id).unwrap() == *day);
    }
    let (reads, bytes) = (reads.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    assert!(reads < 40, "{reads} requests for some 63 frames");
    let stored = packs_bytes(&fixture.near);
    assert!(bytes < stored + stored / 10, "{bytes} bytes for {stored}");
}

#[test]
fn damage_within_a_span_is_an_error_and_never_wrong_bytes() {
    let fixture = fixture();
    let packs: Vec<_> = fixture
        .machine
        .files
        .paths()
        .into_iter()
        .filter(|path| path.parent().is_some_and(|parent| parent.ends_with("packs")))
        .collect();
    let mut failed = 0;
    for pack in packs {
        let mut sound = Vec::new();
        let damage = |bytes: &mut Vec<u8>| {
            sound.clone_from(bytes);
            let middle = bytes.len() / 2;
            bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
        };
        fixture.machine.files.corrupt(&pack, damage).unwrap();
        for (id, day) in fixture.ids.iter().zip(&fixture.days) {
            let (far, ..) = far(&fixture.near);
            match restore(&far, *id) {
                Ok(restored) => assert!(restored == *day, "wrong bytes from {}", pack.display()),
                Err(error) => {
                    failed += 1;
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                }
            }
        }
        fixture.machine.files.corrupt(&pack, |bytes| bytes.clone_from(&sound)).unwrap();
    }
    assert!(failed > 0);
    let (far, ..) = far(&fixture.near);
    assert!(restore(&far, fixture.ids[1]).unwrap() == fixture.days[1]);
}
