//! A snapshot read as a disk equals the disk that was backed up.

use std::sync::Arc;

use leeward_disk::{
    Error as DiskError, ErrorKind, Extent, ExtentKind, Format, MemoryStorage, OpenOptions, SharedSource,
    Source, open_storage, walk_extents,
};
use leeward_store::DirectoryStore;

use super::NODES_PER_CALL;
use crate::{
    BackupOptions, Consistency, InitOptions, PREFIXES, ReadOptions, Repository, SnapshotId, SourceRecord,
    SpillOptions, Unattended,
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

/// A disk of several frames whose every chunk differs and compresses.
fn full(frames: usize) -> Vec<u8> {
    let mut state = 3;
    (0..frames * (2 << 20) / 8).flat_map(|_| (random(&mut state) & 0xffff_ffff).to_le_bytes()).collect()
}

fn small_options(cache_bytes: u64, read_ahead_bytes: u64) -> ReadOptions {
    ReadOptions { cache_bytes, read_ahead_bytes, threads: 2, spill: None }
}

#[test]
fn caches_of_all_sizes_with_and_without_reading_ahead_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = full(6);
    let id = backup(&repository, disk(bytes.clone()).as_ref());
    let spill = |bytes| Some(SpillOptions { directory: directory.path().to_owned(), bytes });
    let sizes = [(0, 0, None), (1 << 20, 1 << 20, None), (8 << 20, 2 << 20, None), (64 << 20, 8 << 20, None)];
    let spilled = [(0, 0, spill(1)), (1 << 20, 1 << 20, spill(3 << 20)), (1 << 20, 1 << 20, spill(1 << 30))];
    for (cache, ahead, spill) in sizes.into_iter().chain(spilled) {
        let options = ReadOptions { spill, ..small_options(cache, ahead) };
        let source = repository.source_with(id, options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (source, bytes) = (&source, &bytes);
                scope.spawn(move || {
                    let mut state = thread + 1;
                    for step in 0..bytes.len() / 65536 {
                        // Two read in order, two anywhere.
                        let length = 65536;
                        let from = match thread % 2 {
                            0 => step * length,
                            _ => random(&mut state) as usize % (bytes.len() - length),
                        };
                        let mut part = vec![1; length];
                        source.read_at(&mut part, from as u64).unwrap();
                        assert!(part == bytes[from..from + length], "{cache} {ahead} {from}");
                    }
                });
            }
        });
    }
}

#[test]
fn what_memory_has_no_room_for_is_decoded_once_where_there_is_a_file_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = full(4);
    let id = backup(&repository, disk(bytes.clone()).as_ref());
    let spill = Some(SpillOptions { directory: directory.path().to_owned(), bytes: 1 << 30 });
    let source = repository.source_with(id, ReadOptions { spill, ..small_options(0, 0) }).unwrap();
    let mut part = vec![0; CHUNK];
    for offset in (0..bytes.len()).step_by(CHUNK) {
        source.read_at(&mut part, offset as u64).unwrap();
    }
    // From now on nothing can be decoded; only what is in memory or in the file is there.
    for pack in std::fs::read_dir(directory.path().join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let metadata = std::fs::metadata(&path).unwrap();
        let mut permissions = metadata.permissions();
        #[allow(clippy::permissions_set_readonly_false, reason = "a file in a temporary directory")]
        permissions.set_readonly(false);
        std::fs::set_permissions(&path, permissions).unwrap();
        std::fs::write(&path, vec![0; metadata.len() as usize]).unwrap();
    }
    for offset in (0..bytes.len()).step_by(CHUNK) {
        source.read_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + CHUNK], "{offset}");
        assert!(source.is_at_hand(offset as u64, CHUNK as u64), "{offset}");
    }
    assert!(!source.is_at_hand(0, bytes.len() as u64), "memory has room for a few");
}

#[test]
fn reading_ahead_loads_what_comes_next_and_meets_damage_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let bytes = full(4);
    let id = backup(&repository, disk(bytes.clone()).as_ref());
    let source = repository.source_with(id, small_options(64 << 20, 8 << 20)).unwrap();
    let last = (bytes.len() - CHUNK) as u64;
    let mut part = vec![0; CHUNK];
    let read = |offset: usize, part: &mut Vec<u8>| source.read_at(part, offset as u64);
    for offset in (0..2 << 20).step_by(CHUNK) {
        read(offset, &mut part).unwrap();
    }
    // What was read ahead is there without its pack; the wait is for the threads.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut name = None;
    source
        .disk
        .each_chunk(last, CHUNK as u64, |id, _, _| {
            name = id;
            Ok(())
        })
        .unwrap();
    while !source.disk.chunks.is_cached(&name.unwrap()) {
        assert!(std::time::Instant::now() < deadline, "nothing was read ahead");
        std::thread::yield_now();
    }
    assert_eq!(repository.keys().chunk(&bytes[last as usize..]), name.unwrap());

    // The same with every chunk's pack damaged: the first request fails, and no thread minds.
    for pack in std::fs::read_dir(directory.path().join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        // Beyond what the first frame of chunks takes; packs of nodes are shorter.
        let from = content.len() / 2;
        if content.len() > 1 << 20 {
            content[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
            let mut permissions = std::fs::metadata(&path).unwrap().permissions();
            #[allow(clippy::permissions_set_readonly_false, reason = "a file in a temporary directory")]
            permissions.set_readonly(false);
            std::fs::set_permissions(&path, permissions).unwrap();
            std::fs::write(&path, content).unwrap();
        }
    }
    let source = repository.source_with(id, small_options(64 << 20, 8 << 20)).unwrap();
    let mut failed = 0;
    for offset in (0..bytes.len()).step_by(CHUNK) {
        match source.read_at(&mut part, offset as u64) {
            Ok(()) => assert!(part == bytes[offset..offset + CHUNK]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && failed < bytes.len() / CHUNK, "{failed}");
}

#[test]
fn a_source_that_is_dropped_while_it_reads_ahead_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(directory.path());
    let id = backup(&repository, disk(full(4)).as_ref());
    for _ in 0..20 {
        let source = repository.source_with(id, small_options(64 << 20, 8 << 20)).unwrap();
        for offset in (0..512 << 10).step_by(CHUNK) {
            source.read_at(&mut vec![0; CHUNK], offset).unwrap();
        }
        let disk = Arc::downgrade(&source.disk);
        drop(source);
        // The threads held the only other handles, and they have ended.
        assert_eq!(disk.strong_count(), 0);
    }
}
