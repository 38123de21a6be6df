//! Reads and writes past the page cache.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Offsets, lengths and addresses of reads and writes past the page cache are multiples of this: the largest block of a device.
pub(crate) const BLOCK: u64 = 4096;

/// A part of a buffer, of that length, that begins where reads and writes past the page cache may begin in memory; the buffer is
/// grown to what is needed, and holds what it held.
pub(crate) fn aligned(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    buffer.resize(buffer.len().max(length + BLOCK as usize), 0);
    // The allocation has room for any alignment; were none to be had, the page cache takes it.
    let start = buffer.as_ptr().align_offset(BLOCK as usize);
    let start = if start < BLOCK as usize { start } else { 0 };
    &mut buffer[start..start + length]
}

/// Opens a volume past the page cache, where the system lets that be done.
pub(crate) fn open(options: &mut OpenOptions, path: &Path) -> Option<File> {
    let file = options.custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path).ok()?;
    // Opening is not proof: some file systems take the flag and refuse the reads.
    file.read_at(aligned(&mut Vec::new(), BLOCK as usize), 0).ok()?;
    Some(file)
}

/// Whether two descriptors are of one file or device.
pub(crate) fn is_same(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino(), a.rdev()) == (b.dev(), b.ino(), b.rdev()),
        _ => false,
    }
}

/// Writes what can be written past the page cache inside of the first `end` bytes, and returns how much that was, in bytes. What
/// fails is left to the way through the cache: either it is better liked there, or it fails there too, and says how.
pub(crate) fn write(file: &File, data: &[u8], offset: u64, end: u64) -> usize {
    let whole = data.len() - data.len() % BLOCK as usize;
    let is_aligned = offset.is_multiple_of(BLOCK) && data.as_ptr().align_offset(BLOCK as usize) == 0;
    let is_inside = offset.checked_add(data.len() as u64).is_some_and(|last| last <= end);
    match is_aligned && is_inside && whole > 0 {
        true => file.write_all_at(&data[..whole], offset).map_or(0, |()| whole),
        false => 0,
    }
}
