//! What the tests of the formats share.
#![allow(dead_code, missing_docs, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub mod build;
pub mod corpus;
pub mod exercise;
pub mod mutate;
pub mod sparse;

use std::path::{Path, PathBuf};
use std::process::Command;

use leeward_disk::{Extent, Format, OpenOptions, References, SharedSource, Source, open_path, walk_extents};

/// Whether qemu-img is there. Says so loudly when it is not: the caller then skips.
pub fn has_qemu_img(test: &str) -> bool {
    let found =
        Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED {test}: qemu-img, the oracle, is not on the PATH");
    }
    found
}

pub fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What qemu-img calls a format.
pub fn qemu_name(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}

/// What qemu-img reads from an image.
pub fn as_qemu_reads(image: &Path, format: Format) -> Vec<u8> {
    let raw = image.with_extension("oracle");
    qemu_img(&["convert", "-f", qemu_name(format), "-O", "raw", text(image), text(&raw)]);
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn options(format: Format, references: Option<&Path>) -> OpenOptions {
    let references =
        references.map_or(References::Refuse, |directory| References::Within(directory.to_owned()));
    OpenOptions { format: Some(format), references, ..OpenOptions::default() }
}

pub fn open(image: &Path, format: Format) -> SharedSource {
    open_path(image, &options(format, image.parent())).unwrap()
}

pub fn read_all(source: &dyn Source) -> Vec<u8> {
    let mut bytes = vec![0xee; source.virtual_size() as usize];
    source.read_at(&mut bytes, 0).unwrap();
    bytes
}

pub fn all_extents(source: &dyn Source) -> Vec<Extent> {
    let mut extents = Vec::new();
    walk_extents::<leeward_disk::Error>(source, 0, source.virtual_size(), |extent| {
        extents.push(extent);
        Ok(())
    })
    .unwrap();
    extents
}

pub fn data_bytes(source: &dyn Source) -> u64 {
    all_extents(source).iter().filter(|extent| extent.kind.is_data()).map(|extent| extent.length).sum()
}

/// Checks content against `expected`, whole and in pieces, and that no data is called a hole.
pub fn assert_reads_as(source: &dyn Source, expected: &[u8]) {
    assert_eq!(source.virtual_size(), expected.len() as u64, "virtual size");
    assert!(read_all(source) == expected, "content differs");
    let mut position = 0;
    for extent in all_extents(source) {
        assert_eq!(extent.offset, position, "extents have a gap");
        position = extent.end();
        let range = extent.offset as usize..position as usize;
        assert!(
            extent.kind.is_data() || expected[range].iter().all(|byte| *byte == 0),
            "{extent:?} holds data"
        );
    }
    assert_eq!(position, expected.len() as u64, "extents end early");
    let mut random = Random(expected.len() as u64);
    for _ in 0..if expected.is_empty() { 0 } else { 200 } {
        let start = random.below(expected.len() as u64) as usize;
        let length = random.below(200_000).min((expected.len() - start) as u64) as usize;
        let mut bytes = vec![0xee; length];
        source.read_at(&mut bytes, start as u64).unwrap();
        assert!(bytes == expected[start..start + length], "{length} bytes at {start} differ");
        if length > 0 {
            let extents = source.extents(start as u64, length as u64).unwrap();
            assert_eq!(extents[0].offset, start as u64);
            assert!(extents.iter().all(|extent| extent.end() <= (start + length) as u64));
        }
    }
}

/// Small numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let value = self.next().to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }
}

/// A disk with data of several shapes: a byte here and there, runs that end inside blocks, whole blocks, and its last
/// bytes.
pub fn sparse_disk(size: usize) -> Vec<u8> {
    let mut disk = vec![0; size];
    let mut random = Random(42);
    for (start, length) in [
        (0, 100),
        (70_000, 3000),
        ((1 << 20) - 10, 20),
        (3 << 20, 1 << 20),
        (size / 2 + 4096, 4096),
        (size.saturating_sub(700), 700),
    ] {
        let end = (start + length).min(size);
        if start < end {
            random.fill(&mut disk[start..end]);
        }
    }
    disk
}

pub fn full_disk(size: usize) -> Vec<u8> {
    let mut disk = vec![0; size];
    Random(7).fill(&mut disk);
    disk
}

/// The directory of the large images, if it is there. Says so loudly when it is not.
pub fn testbed_images(test: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("TESTBED_DIR").map_or_else(|| PathBuf::from("/var/tmp/testbeds"), PathBuf::from);
    let images = root.join("vm/images");
    if images.is_dir() {
        return Some(images);
    }
    eprintln!("SKIPPED {test}: {} is not there (set TESTBED_DIR)", images.display());
    None
}
