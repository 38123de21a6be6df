//! A snapshot read as a disk equals the disk that was backed up.

use std::sync::Arc;

use leeward_disk::{
    Error as DiskError, ErrorKind, Extent, ExtentKind, Format, MemoryStorage, OpenOptions, SharedSource,
    Source, open_storage, walk_extents,
};
use leeward_store::DirectoryStore;

use super::NODES_PER_CALL;
use crate::{
    BackupOptions, Consistency, InitOptions, PREFIXES, Repository, SnapshotId, SourceRecord, Unattended,
};

const CHUNK: usize = 16 << 10;
/// What a leaf spans with the smallest chunks and the usual fan-out of 128.
const LEAF: usize = CHUNK * 128;

fn repository(directory: &std::path::Path) -> Repository {
    let store = DirectoryStore::create(directory, &PREFIXES).unwrap();
    let options = InitOptions { chunk_bytes: CHUNK as u64, ..InitOptions::default() };
    Repository::init(Arc::new(store), &options).unwrap()
}

fn disk(bytes: Vec<u8>) -> SharedSource {
    let storage = Arc::new(MemoryStorage::new("memory", bytes));
    open_storage(storage, &OpenOptions::with_format(Format::Raw)).unwrap()
}

fn backup(repository: &Repository, source: &dyn Source) -> SnapshotId {
    let options = BackupOptions {
        image: "disk".parse().unwrap(),
        source: SourceRecord { location: "memory".into(), format: "raw".into(), host: "test".into() },
        consistency: Consistency::AtRest,
        tags: Default::default(),
        threads: 2,
    };
    repository.backup(source, &options, &Unattended).unwrap().id
}

/// Numbers that are the same in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A disk over several leaves with a tail that is no whole chunk, with data in about one chunk of three.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; 3 * LEAF + 5 * CHUNK + 512];
    let mut state = 7;
    for chunk in bytes.chunks_mut(CHUNK) {
        if random(&mut state).is_multiple_of(3) {
            chunk.iter_mut().for_each(|byte| *byte = random(&mut state) as u8);
        }
    }
    bytes[2 * LEAF..3 * LEAF].fill(0);
    bytes.last_mut().map(|byte| *byte = 9).unwrap();
    bytes
}

/// The extents that a disk of these bytes has, cut to a range.
fn expected(bytes: &[u8], from: usize, to: usize) -> Vec<Extent> {
    let mut extents = Vec::new();
    for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
        let kind = if leeward_disk::is_zero(chunk) { ExtentKind::Unallocated } else { ExtentKind::Data };
        let (start, end) = ((index * CHUNK).max(from), (index * CHUNK + chunk.len()).min(to));
        let length = end.saturating_sub(start) as u64;
        Extent { offset: start as u64, length, kind }.push_merged(&mut extents);
    }
    extents
}

fn extents(source: &dyn Source, from: usize, to: usize) -> Vec<Extent> {
    let mut list = Vec::new();
    walk_extents(source, from as u64, (to - from) as u64, |extent| {
        extent.push_merged(&mut list);
        Ok::<_, DiskError>(())
    })
    .unwrap();
    list
}

#[test]
fn content_and_extents_are_those_of_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = content();
    let source = repository.source(backup(&repository, disk(bytes.clone()).as_ref())).unwrap();
    assert_eq!(source.virtual_size(), bytes.len() as u64);
    let mut read = vec![1; bytes.len()];
    source.read_at(&mut read, 0).unwrap();
    assert!(read == bytes);
    assert_eq!(extents(&source, 0, bytes.len()), expected(&bytes, 0, bytes.len()));
    let mut state = 11;
    for _ in 0..300 {
        let from = random(&mut state) as usize % bytes.len();
        let to = from + 1 + random(&mut state) as usize % (bytes.len() - from).min(5 * CHUNK);
        assert_eq!(extents(&source, from, to), expected(&bytes, from, to), "{from}..{to}");
        let mut part = vec![1; to - from];
        source.read_at(&mut part, from as u64).unwrap();
        assert!(part == bytes[from..to], "{from}..{to}");
    }
}

#[test]
fn many_threads_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = content();
    let source = repository.source(backup(&repository, disk(bytes.clone()).as_ref())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (source, bytes) = (&source, &bytes);
            scope.spawn(move || {
                let mut state = 100 + thread;
                for _ in 0..100 {
                    let from = random(&mut state) as usize % bytes.len();
                    let length = (random(&mut state) as usize % (3 * CHUNK)).min(bytes.len() - from);
                    let mut part = vec![1; length];
                    source.read_at(&mut part, from as u64).unwrap();
                    assert!(part == bytes[from..from + length]);
                }
            });
        }
    });
}

#[test]
fn a_copy_through_it_has_the_same_tree() {
    let (east, west) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (east, west) = (repository(east.path()), repository(west.path()));
    let id = backup(&east, disk(content()).as_ref());
    let copy = backup(&west, &east.source(id).unwrap());
    assert_eq!(east.snapshot(id).unwrap().root, west.snapshot(copy).unwrap().root);
}

#[test]
fn empty_and_blank_disks_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let empty = repository.source(backup(&repository, disk(Vec::new()).as_ref())).unwrap();
    assert_eq!(empty.extents(0, 0).unwrap(), []);
    empty.read_at(&mut [], 0).unwrap();
    let size = 2 * LEAF + 7;
    let blank = repository.source(backup(&repository, disk(vec![0; size]).as_ref())).unwrap();
    let whole = Extent { offset: 0, length: size as u64, kind: ExtentKind::Unallocated };
    assert_eq!(blank.extents(0, size as u64).unwrap(), [whole]);
    assert!(matches!(blank.extents(1, size as u64), Err(DiskError::OutOfRange { .. })));
    assert!(matches!(blank.read_at(&mut [0; 2], size as u64 - 1), Err(DiskError::OutOfRange { .. })));
}

#[test]
fn one_call_for_extents_does_a_bounded_amount_of_work() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    // One byte in each of many leaves.
    let leaves = 3 * NODES_PER_CALL;
    let mut bytes = vec![0; leaves * LEAF];
    (0..leaves).for_each(|leaf| bytes[leaf * LEAF + 5] = leaf as u8 | 1);
    let source = repository.source(backup(&repository, disk(bytes.clone()).as_ref())).unwrap();
    let first = source.extents(0, bytes.len() as u64).unwrap();
    let reached = first.last().unwrap().end() as usize;
    assert!((LEAF..=(NODES_PER_CALL + 2) * LEAF).contains(&reached), "{reached}");
    assert_eq!(extents(&source, 0, bytes.len()), expected(&bytes, 0, bytes.len()));
    // From the far end it takes no more.
    assert_eq!(source.extents((bytes.len() - 9) as u64, 9).unwrap().len(), 1);
}

#[test]
fn a_damaged_chunk_is_an_error_and_never_wrong_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = content();
    let source = repository.source(backup(&repository, disk(bytes.clone()).as_ref())).unwrap();
    for pack in directory.path().join("packs").read_dir().unwrap().flatten() {
        let mut content = std::fs::read(pack.path()).unwrap();
        let middle = content.len() / 4;
        content[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
        let mut permissions = std::fs::metadata(pack.path()).unwrap().permissions();
        #[allow(clippy::permissions_set_readonly_false)]
        permissions.set_readonly(false);
        std::fs::set_permissions(pack.path(), permissions).unwrap();
        std::fs::write(pack.path(), content).unwrap();
    }
    let mut failures = 0;
    for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
        let mut read = vec![0; chunk.len()];
        match source.read_at(&mut read, (index * CHUNK) as u64) {
            Ok(()) => assert!(read == chunk),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                failures += 1;
            }
        }
    }
    assert!(failures > 0);
}
