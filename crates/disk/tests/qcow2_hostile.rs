//! Images that were damaged or made to harm: refused with an error, never read wrongly, never costly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/qemu.rs"]
mod qemu;

use std::io::Write;
use std::time::{Duration, Instant};

use leeward_disk::formats::qcow2::{Qcow2Target, WriterOptions};
use leeward_disk::{
    Error, ErrorKind, Format, MemoryStorage, OpenOptions, Result, SharedSource, Target, open_path,
    open_storage, walk_extents,
};
use qemu::*;

const CLUSTER: usize = 4096;
const DISK: usize = 3 << 20;

/// A sound image to be spoiled, and its disk.
fn sample(compress: bool) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    let disk = content(DISK, 77);
    let options = WriterOptions { cluster_bytes: CLUSTER as u64, compress, overwrite: false };
    let target = Qcow2Target::create(&path, DISK as u64, &options).unwrap();
    target.write_at(&disk[..DISK / 2], 0).unwrap();
    target.write_at(&disk[DISK / 2..], DISK as u64 / 2).unwrap();
    target.finish(false).unwrap();
    (std::fs::read(path).unwrap(), disk)
}

fn open_bytes(bytes: &[u8]) -> Result<SharedSource> {
    let storage = MemoryStorage::new("hostile.qcow2", bytes);
    open_storage(std::sync::Arc::new(storage), &OpenOptions::with_format(Format::Qcow2))
}

/// Reads all that an image has, as long as it is not absurdly large.
fn read_all(bytes: &[u8]) -> Result<Vec<u8>> {
    let source = open_bytes(bytes)?;
    let size = source.virtual_size();
    let limit = size.min(64 << 20);
    walk_extents(source.as_ref(), 0, limit, |_| Ok::<(), Error>(()))?;
    let mut disk = vec![0; limit as usize];
    for (index, part) in disk.chunks_mut(100_000).enumerate() {
        source.read_at(part, index as u64 * 100_000)?;
    }
    Ok(disk)
}

fn assert_refused(bytes: &[u8], says: &str) {
    let error = read_all(bytes).err().unwrap_or_else(|| panic!("not refused: {says}"));
    assert!(
        matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Refused),
        "{error} ({says})"
    );
    assert!(error.to_string().contains(says), "{error:?} does not say {says:?}");
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn spoiled(spoil: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let (mut bytes, _) = sample(false);
    spoil(&mut bytes);
    bytes
}

#[test]
fn absurd_headers_are_refused_at_once() {
    let started = Instant::now();
    let cases: [(&str, usize, &[u8]); 16] = [
        ("version 9", 4, &9_u32.to_be_bytes()),
        ("cluster_bits is 64", 20, &64_u32.to_be_bytes()),
        ("cluster_bits is 0", 20, &0_u32.to_be_bytes()),
        ("entries, and a disk of", 24, &(1_u64 << 63).to_be_bytes()),
        ("entries, and a disk of", 24, &u64::MAX.to_be_bytes()),
        ("decryption (AES)", 32, &1_u32.to_be_bytes()),
        ("decryption (LUKS)", 32, &2_u32.to_be_bytes()),
        ("crypt_method is 7", 32, &7_u32.to_be_bytes()),
        ("an L1 table of", 36, &u32::MAX.to_be_bytes()),
        ("the L1 table", 40, &(u64::MAX - 4095).to_be_bytes()),
        ("the refcount table", 48, &4097_u64.to_be_bytes()),
        ("a refcount table of", 56, &u32::MAX.to_be_bytes()),
        ("a table of 4294967295 snapshots", 60, &u32::MAX.to_be_bytes()),
        ("refcount_order is 7", 96, &7_u32.to_be_bytes()),
        ("the header says that it is", 100, &u32::MAX.to_be_bytes()),
        ("compression type", 104, &[1]),
    ];
    for (says, at, value) in cases {
        let bytes = spoiled(|bytes| bytes[at..at + value.len()].copy_from_slice(value));
        assert_refused(&bytes, says);
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn unknown_features_are_named() {
    let feature = |bit: u32| spoiled(move |bytes| put64(bytes, 72, 1 << bit));
    assert_refused(&feature(17), "feature bit 17");
    assert_refused(&feature(1), "marked corrupt");
    assert!(read_all(&feature(0)).is_ok(), "stale refcounts do not matter to a reader");
    let named = spoiled(|bytes| {
        put64(bytes, 72, 1 << 33);
        put32(bytes, 112, 0x6803_f857);
        put32(bytes, 116, 48);
        bytes[120] = 0;
        bytes[121] = 33;
        bytes[122..130].copy_from_slice(b"time bac");
    });
    assert_refused(&named, "\"time bac\" (feature bit 33)");
}

#[test]
fn overlapping_tables_are_refused() {
    let l1 = |bytes: &[u8]| get64(bytes, 40) as usize;
    let l2 = |bytes: &[u8]| (get64(bytes, l1(bytes)) & !(1 << 63)) as usize;
    let cluster = CLUSTER as u64;
    let changed = |change: &dyn Fn(&[u8]) -> (usize, u64)| {
        spoiled(|bytes| {
            let (at, value) = change(bytes);
            put64(bytes, at, value);
        })
    };
    let header = |at: usize, value: &dyn Fn(&[u8]) -> u64| changed(&|bytes| (at, value(bytes)));
    assert_refused(&header(40, &|_| 0), "the L1 table at 0 overlaps");
    assert_refused(&header(48, &|bytes| get64(bytes, 40)), "overlaps another table");
    let l1_entry =
        |index: usize, value: &dyn Fn(&[u8]) -> u64| changed(&|bytes| (l1(bytes) + 8 * index, value(bytes)));
    assert_refused(&l1_entry(0, &|_| cluster + 512), "not that of a cluster");
    assert_refused(&l1_entry(0, &|_| 1 << 50), "outside the file");
    assert_refused(&l1_entry(0, &|_| 1 << 60), "reserved bits");
    assert_refused(&l1_entry(0, &|bytes| get64(bytes, 40)), "where another table lies");
    assert_refused(&l1_entry(1, &|bytes| get64(bytes, l1(bytes))), "where another table lies");
    let l2_entry = |value: &dyn Fn(&[u8]) -> u64| changed(&|bytes| (l2(bytes) + 16, value(bytes)));
    assert_refused(&l2_entry(&|bytes| get64(bytes, 40)), "own tables");
    assert_refused(&l2_entry(&|bytes| get64(bytes, 48)), "own tables");
    assert_refused(&l2_entry(&|bytes| l2(bytes) as u64), "own tables");
    assert_refused(&l2_entry(&|_| 1 << 62 | 100), "own tables");
    assert_refused(&l2_entry(&|_| 1 << 40), "behind the end");
    assert_refused(&l2_entry(&|_| 4096 + 512), "not that of a cluster");
    assert_refused(&l2_entry(&|_| 4096 | 4), "reserved bits");
    assert_refused(&l2_entry(&|bytes| get64(bytes, l2(bytes) + 24)), "two clusters of the disk");
}

#[test]
fn what_inflates_to_the_wrong_length_is_refused() {
    let (bytes, disk) = sample(true);
    assert_eq!(read_all(&bytes).unwrap(), disk);
    // Damage anywhere gives an error or, in bytes that nobody reads, the same disk; zstd has no checksum here, so that a
    // changed literal may go unnoticed, but lengths may not change.
    let mut random = Random(9);
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        let at = random.below(bytes.len() as u64) as usize;
        damaged[at] ^= 1 << random.below(8);
        if let Ok(read) = read_all(&damaged) {
            assert!(read.len() == disk.len() || at < CLUSTER);
        }
    }
}

#[test]
fn truncated_files_are_errors_never_wrong_content() {
    for compress in [false, true] {
        let (bytes, disk) = sample(compress);
        for length in (0..bytes.len()).step_by(512) {
            if let Ok(read) = read_all(&bytes[..length]) {
                assert!(read == disk, "cut at {length} of {}", bytes.len());
            }
        }
    }
    if !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (raw, image) = (directory.path().join("a.raw"), directory.path().join("a.qcow2"));
    let disk = write_content(&raw, 700_416, 4);
    for options in ["cluster_size=512", "cluster_size=64k,extended_l2=on"] {
        run("qemu-img", &["convert", "-O", "qcow2", "-o", options, text(&raw), text(&image)]);
        let bytes = std::fs::read(&image).unwrap();
        for length in (0..bytes.len()).step_by(512) {
            if let Ok(read) = read_all(&bytes[..length]) {
                assert!(read == disk, "{options}: cut at {length} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn damage_in_the_tables_never_panics_or_hangs() {
    let (bytes, _) = sample(false);
    let mut random = Random(31);
    let tables = get64(&bytes, 40) as usize - 2 * CLUSTER;
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + random.below(3) {
            let at = if random.below(2) == 0 {
                random.below(160) as usize
            } else {
                tables + random.below((bytes.len() - tables) as u64) as usize
            };
            damaged[at] = random.next() as u8;
        }
        let _ = read_all(&damaged);
    }
}

#[test]
fn a_backing_file_elsewhere_is_neither_read_nor_hidden() {
    let bytes = spoiled(|bytes| {
        put64(bytes, 8, 512);
        put32(bytes, 16, 11);
        bytes[512..523].copy_from_slice(b"/etc/passwd");
    });
    assert_refused(&bytes, "/etc/passwd");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.qcow2");
    std::fs::write(&path, &bytes).unwrap();
    let refused = open_path(&path, &OpenOptions::default()).err().unwrap();
    assert!(matches!(&refused, Error::ReferenceRefused { reference, .. } if reference == "/etc/passwd"));
    let refused = open_path(&path, &within(directory.path())).err().unwrap();
    assert!(matches!(refused, Error::ReferenceUnusable { .. }), "{refused}");
}

#[test]
fn names_outside_the_header_are_refused() {
    for (offset, length) in [(u64::MAX, 10), (4096, 10), (4090, 100), (512, 5000)] {
        let bytes = spoiled(|bytes| {
            put64(bytes, 8, offset);
            put32(bytes, 16, length);
        });
        assert_refused(&bytes, "a backing file name of");
    }
    let extension = spoiled(|bytes| {
        put32(bytes, 112, 0xe279_2aca);
        put32(bytes, 116, u32::MAX);
    });
    assert_refused(&extension, "header extension 0xe2792aca");
}

#[test]
fn snapshot_tables_are_bounded() {
    let snapshots = |count: u32, entry: &[u8]| {
        let entry = entry.to_vec();
        spoiled(move |bytes| {
            let at = bytes.len();
            put32(bytes, 60, count);
            put64(bytes, 64, at as u64);
            bytes.extend(&entry);
            bytes.resize(at + CLUSTER, 0);
        })
    };
    let mut entry = [0; 40];
    assert!(read_all(&snapshots(1, &entry)).is_ok(), "a snapshot of nothing");
    assert_refused(&snapshots(1000, &entry), "snapshot 102 of the table");
    put32(&mut entry, 36, u32::MAX);
    assert_refused(&snapshots(1, &entry), "snapshot 0 of the table");
    put32(&mut entry, 36, 0);
    entry[12..16].fill(0xff);
    assert_refused(&snapshots(1, &entry), "snapshot 0 of the table");
    let mut entry = [0; 40];
    put64(&mut entry, 0, u64::MAX - 4095);
    put32(&mut entry, 8, 4);
    let bytes = snapshots(1, &entry);
    let options = OpenOptions { snapshot: Some(String::new()), ..OpenOptions::with_format(Format::Qcow2) };
    let storage = MemoryStorage::new("hostile.qcow2", bytes);
    assert!(open_storage(std::sync::Arc::new(storage), &options).is_err());
}

#[test]
fn a_huge_sparse_file_is_refused_quickly() {
    let (bytes, _) = sample(false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("huge.qcow2");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&bytes).unwrap();
    if file.set_len(15 << 40).is_err() {
        eprintln!("\n*** SKIPPED: the file system has no files of 15 TiB ***\n");
        return;
    }
    let started = Instant::now();
    let error = open_path(&path, &OpenOptions::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_image_that_is_two_formats_is_refused() {
    let bytes = spoiled(|bytes| {
        let footer = vhd_footer(DISK as u64);
        bytes.extend(footer);
    });
    let storage = || std::sync::Arc::new(MemoryStorage::new("both.qcow2", bytes.clone()));
    assert_eq!(leeward_disk::detect(storage().as_ref()).unwrap().len(), 2);
    let error = open_storage(storage(), &OpenOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
}

/// The footer of a fixed vhd, with its checksum.
fn vhd_footer(size: u64) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    put32(&mut footer, 8, 2);
    put32(&mut footer, 12, 0x0001_0000);
    put64(&mut footer, 16, u64::MAX);
    put64(&mut footer, 40, size);
    put64(&mut footer, 48, size);
    put32(&mut footer, 60, 2);
    let sum = footer.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    put32(&mut footer, 64, !sum);
    footer
}
