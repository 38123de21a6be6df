//! What every reader must withstand: used by the fuzzers and by the tests of damaged images.

use std::sync::Arc;

use leeward_disk::{Error, Format, OpenOptions, Result, SharedSource, Source, open_storage};

use super::build::{crc32c_field, vhd_checksum_field};
use super::sparse::SparseStorage;

/// Calls of `extents` per input, at most.
const CALLS_MAX: usize = 64;
/// Bytes read per input, at most.
const READ_BYTES_MAX: u64 = 1 << 20;
const READ_BYTES_EACH: u64 = 96 << 10;

/// Opens the input under a format, walks its extents, reads from it, and checks what [`Source`] promises. Formats with
/// checksums are tried twice, the second time with right checksums: else no mutation would get past them.
pub fn exercise(format: Format, input: &[u8]) {
    let _ = exercise_storage(format, SparseStorage::new(input));
    if matches!(format, Format::Vhd | Format::Vhdx) {
        let mut storage = SparseStorage::new(input);
        mend_checksums(format, &mut storage);
        let _ = exercise_storage(format, storage);
    }
}

fn exercise_storage(format: Format, storage: SparseStorage) -> Result<()> {
    let source = open_storage(Arc::new(storage), &OpenOptions::with_format(format))?;
    exercise_source(&source)
}

/// Walks and reads a source; an error is fine, a broken promise panics.
pub fn exercise_source(source: &SharedSource) -> Result<()> {
    let size = source.virtual_size();
    assert_eq!(source.info().virtual_size, size);
    let _ = source.internal_snapshots();
    assert!(source.read_at(&mut [0], size).is_err(), "reads past the end");
    assert!(source.extents(size, 1).is_err(), "extents past the end");
    assert!(source.extents(u64::MAX, 2).is_err(), "offset and length overflow");
    source.read_at(&mut [], size.min(1))?;
    let mut budget = READ_BYTES_MAX;
    let outcome = walk(source.as_ref(), &mut budget);
    for offset in [size / 2, size.saturating_sub(1), size.saturating_sub(70_000)] {
        let length = (size - offset).min(READ_BYTES_EACH);
        let _ = check_extents(source.as_ref(), offset, length);
        let _ = source.read_at(&mut vec![0; length as usize], offset);
    }
    outcome
}

fn walk(source: &dyn Source, budget: &mut u64) -> Result<()> {
    let size = source.virtual_size();
    let mut position = 0;
    for _ in 0..CALLS_MAX {
        if position == size {
            break;
        }
        position = check_extents(source, position, size - position)?;
        // What lies behind the first calls is sampled too.
        if *budget > 0 && position < size {
            read_twice(source, position, (size - position).min(4096), budget)?;
        }
    }
    for extent in source.extents(0, size)?.into_iter().take(64) {
        let length = extent.length.min(READ_BYTES_EACH);
        if *budget < length {
            break;
        }
        let bytes = read_twice(source, extent.offset, length, budget)?;
        assert!(extent.kind.is_data() || bytes.iter().all(|byte| *byte == 0), "{extent:?} holds data");
    }
    Ok(())
}

/// Checks the shape of one answer; returns where it ends.
fn check_extents(source: &dyn Source, offset: u64, length: u64) -> Result<u64> {
    let extents = source.extents(offset, length)?;
    assert!(length == 0 || !extents.is_empty(), "no extent at {offset}");
    let mut position = offset;
    for extent in &extents {
        assert_eq!(extent.offset, position, "a gap");
        assert!(extent.length > 0, "an empty extent");
        position = extent.offset.checked_add(extent.length).expect("extent overflows");
    }
    assert!(position <= offset + length, "reaches past what was asked for");
    assert!(extents.windows(2).all(|pair| pair[0].kind != pair[1].kind), "neighbours of one kind");
    Ok(position)
}

/// Reads a range whole and in two parts, which must be equal.
fn read_twice(source: &dyn Source, offset: u64, length: u64, budget: &mut u64) -> Result<Vec<u8>> {
    *budget = budget.saturating_sub(length);
    let mut whole = vec![0xaa; length as usize];
    source.read_at(&mut whole, offset)?;
    let mut parts = vec![0x55; length as usize];
    let (left, right) = parts.split_at_mut((length / 3) as usize);
    source.read_at(right, offset + left.len() as u64)?;
    source.read_at(left, offset)?;
    assert!(whole == parts, "two reads of {length} bytes at {offset} differ");
    Ok(whole)
}

fn mend_checksums(format: Format, storage: &mut SparseStorage) {
    let size = leeward_disk::Storage::size(storage);
    if format == Format::Vhdx {
        for (offset, length) in
            [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)]
        {
            mend(storage, offset, length, crc32c_field);
        }
        mend_log(storage);
        return;
    }
    for offset in [0, size.saturating_sub(512)] {
        if storage.read(offset, 8).is_some_and(|cookie| cookie == b"conectix") {
            mend(storage, offset, 512, |bytes| vhd_checksum_field(bytes, 64));
        }
        let header = storage.read(offset + 16, 8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        if let Some(header) = header.filter(|header| *header < size) {
            mend(storage, header, 1024, |bytes| vhd_checksum_field(bytes, 36));
        }
    }
}

/// The entries of the log where it usually is.
fn mend_log(storage: &mut SparseStorage) {
    for offset in ((1 << 20)..(1 << 20) + (64 << 10)).step_by(4096) {
        let Some(header) = storage.read(offset, 12).filter(|header| header.starts_with(b"loge")) else {
            continue;
        };
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
        if length <= 1 << 20 {
            mend(storage, offset, length as usize, crc32c_field);
        }
    }
}

fn mend(storage: &mut SparseStorage, offset: u64, length: usize, field: impl Fn(&mut [u8])) {
    if let Some(mut bytes) = storage.read(offset, length).filter(|bytes| bytes.len() >= 68) {
        field(&mut bytes);
        // Only what changed, so that the pieces stay small.
        storage.write(offset, &bytes[..68]);
    }
}

/// Whether an input is refused rather than read: for tests that expect that.
pub fn refusal(format: Format, input: &[u8]) -> Option<Error> {
    exercise_storage(format, SparseStorage::new(input)).err()
}
