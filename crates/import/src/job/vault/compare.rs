//! A snapshot read back from the repository, and compared with what was read of the object.
//!
//! While a disk goes into the repository, the digests of its ranges are made of the bytes as they come from the object, beside the
//! names that its chunks get. Afterwards the snapshot is read as a restore reads it, and the digests of the ranges are made again: so
//! what is compared has gone through packs, index and tree, and nothing that was made on the way in is believed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use leeward_disk::Source;

use crate::ledger::{Digest, RangeDigests, UNIT_BYTES};
use crate::plan::read_unit;
use crate::{Error, Progress, Result, Watch};

/// Threads that read back.
const THREADS: usize = 3;

/// Ranges of a disk, by number.
pub(super) type Ranges = Vec<usize>;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Compared {
    /// Bytes that were read; zeros that nothing is stored of are not.
    pub read_bytes: u64,
    /// The first range that differs: where it begins, in bytes.
    pub differs_at: Option<u64>,
}

/// The ranges in which something lies, of stretches given by offset and length in bytes.
pub(super) fn ranges_of(digests: &RangeDigests, stretches: impl Iterator<Item = (u64, u64)>) -> Ranges {
    let mut ranges = Ranges::new();
    for (offset, length) in stretches.filter(|(_, length)| *length > 0) {
        let first = (offset / digests.range_bytes) as usize;
        let last = ((offset + length - 1) / digests.range_bytes) as usize;
        let from = ranges.last().map_or(first, |last| first.max(last + 1));
        ranges.extend(from..=last);
    }
    ranges
}

/// Compares some ranges of a disk with their digests, or all of them.
///
/// # Errors
/// The disk cannot be read, or the caller cancelled.
pub(super) fn compare(
    source: &dyn Source,
    digests: &RangeDigests,
    ranges: Option<&Ranges>,
    watch: &dyn Watch,
) -> Result<Compared> {
    let all: Ranges;
    let ranges = match ranges {
        Some(ranges) => ranges,
        None => {
            all = (0..digests.ranges.len()).collect();
            &all
        }
    };
    let work = Work {
        source,
        digests,
        ranges,
        watch,
        next: AtomicUsize::new(0),
        done: AtomicU64::new(0),
        read: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        differs: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(ranges.len())).map(|_| scope.spawn(|| work.run())).collect();
        let mut result = Ok(());
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // One that was stopped because of another says less.
            if !matches!((&result, &ended), (Err(error), _) if !matches!(error, Error::Cancelled))
                && ended.is_err()
            {
                result = ended;
            }
        }
        result
    })?;
    Ok(Compared {
        read_bytes: work.read.into_inner(),
        differs_at: work.differs.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

struct Work<'a> {
    source: &'a dyn Source,
    digests: &'a RangeDigests,
    ranges: &'a Ranges,
    watch: &'a dyn Watch,
    next: AtomicUsize,
    done: AtomicU64,
    read: AtomicU64,
    is_over: AtomicBool,
    differs: Mutex<Option<u64>>,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let mut buffer = Vec::new();
        let zero_unit = Digest::of(&vec![0; UNIT_BYTES as usize]);
        while let Some(&range) = self.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let done = self.one(range, &mut buffer, zero_unit);
            if done.is_err() {
                self.is_over.store(true, Ordering::Relaxed);
            }
            done?;
        }
        Ok(())
    }

    fn one(&self, range: usize, buffer: &mut Vec<u8>, zero_unit: Digest) -> Result<()> {
        let size = self.source.virtual_size();
        let start = (range as u64).saturating_mul(self.digests.range_bytes);
        let end = start.saturating_add(self.digests.range_bytes).min(size);
        let mut chain = Digest::default();
        let mut position = start;
        while position < end {
            if self.watch.is_cancelled() || self.is_over.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let length = UNIT_BYTES.min(end - position);
            let unit = self.unit(position, length, buffer, zero_unit)?;
            chain = chain.then(unit);
            position += length;
            let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
            self.watch.progress(Progress {
                done_bytes: done,
                total_bytes: self.ranges.len() as u64 * self.digests.range_bytes.min(size),
                data_bytes: self.read.load(Ordering::Relaxed),
            });
        }
        if self.digests.ranges.get(range) != Some(&chain) {
            let mut differs = self.differs.lock().unwrap_or_else(PoisonError::into_inner);
            *differs = Some(differs.map_or(start, |other| other.min(start)));
        }
        Ok(())
    }

    fn unit(&self, offset: u64, length: u64, buffer: &mut Vec<u8>, zero_unit: Digest) -> Result<Digest> {
        if length == UNIT_BYTES && !self.has_data(offset, length)? {
            return Ok(zero_unit);
        }
        buffer.resize(length as usize, 0);
        let pay = |bytes: u64| {
            self.read.fetch_add(bytes, Ordering::Relaxed);
            Ok(())
        };
        read_unit(self.source, buffer, offset, &pay)?;
        Ok(Digest::of(buffer))
    }

    fn has_data(&self, offset: u64, length: u64) -> Result<bool> {
        let (mut position, end) = (offset, offset + length);
        while position < end {
            for extent in self.source.extents(position, end - position)? {
                if extent.kind.is_data() {
                    return Ok(true);
                }
                position = extent.end();
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leeward_disk::{FileStorage, Format, OpenOptions, open_storage};

    use super::*;
    use crate::Quiet;
    use crate::ledger::{Done, Ledger, Settled};

    #[test]
    fn what_differs_is_found_in_the_ranges_that_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let bytes = (128 << 20) + 5000_u64;
        let mut content = vec![0; bytes as usize];
        content[70 << 20..71 << 20].fill(7);
        content[bytes as usize - 10..].fill(9);
        std::fs::write(&path, &content).unwrap();
        let begin = Settled { position: 0, digests: RangeDigests::new(bytes), data_bytes: 0, hash: None };
        let mut ledger = Ledger::new(bytes, begin);
        for (number, unit) in content.chunks(UNIT_BYTES as usize).enumerate() {
            let offset = number as u64 * UNIT_BYTES;
            let done = Done::Data { digest: Digest::of(unit), hash: None };
            ledger.complete(offset, offset + unit.len() as u64, done);
        }
        let digests = ledger.settled().digests.clone();
        let open = || {
            let storage = Arc::new(FileStorage::open(&path).unwrap());
            open_storage(storage, &OpenOptions::with_format(Format::Raw)).unwrap()
        };
        let of = |ranges: Option<&Ranges>| compare(open().as_ref(), &digests, ranges, &Quiet).unwrap();
        assert_eq!(of(None).differs_at, None);
        content[(128 << 20) + 20] = 1;
        std::fs::write(&path, &content).unwrap();
        assert_eq!(of(None).differs_at, Some(128 << 20));
        assert_eq!(of(Some(&vec![1])).differs_at, None);
        let last = ranges_of(&digests, [(bytes - 1, 1)].into_iter());
        assert_eq!(last, [2]);
        assert_eq!(of(Some(&last)).differs_at, Some(128 << 20));
        let stretches = [(0, 1), (10, 5), (60 << 20, 8 << 20), (65 << 20, 1), (70 << 20, 0)];
        assert_eq!(ranges_of(&digests, stretches.into_iter()), [0, 1]);
    }
}
