//! What was done, in the order of the disk, and its digests.
//!
//! A disk is done in units of [`UNIT_BYTES`], by many threads and so out of order. The ledger takes each when it is done
//! and moves its *frontier* over those without a gap: all before the frontier is done. On the way it folds the digests of
//! the units into one for each *range*: `chain = BLAKE3(chain ‖ BLAKE3(unit))`, from 32 zero bytes at the start of each
//! range. A range is 64 MiB, or more on large disks, so that there are at most 1024: a checkpoint stays small, and
//! a difference is still found to within a thousandth of the disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{HashState, hex, unhex};

/// What is read, written and compared at once, in bytes.
pub(crate) const UNIT_BYTES: u64 = 2 << 20;
/// The smallest range, in bytes.
const RANGE_BYTES_MIN: u64 = 64 << 20;
/// Ranges of a disk, at most.
const RANGES_MAX: u64 = 1024;

/// A digest of 32 bytes; 64 hexadecimal digits where it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        hex(&digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        unhex(&text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or("a digest is 64 hexadecimal digits")
    }
}

impl Digest {
    /// The digest of a unit.
    pub(crate) fn of(unit: &[u8]) -> Self {
        Self(blake3::hash(unit).into())
    }

    /// The digest of a chain of units, and another unit.
    pub(crate) fn then(self, unit: Self) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&unit.0);
        Self(hasher.finalize().into())
    }
}

/// The digests of a disk's ranges, as far as it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeDigests {
    /// Length of a range in bytes; the last one may be shorter.
    pub range_bytes: u64,
    /// Those of whole ranges, in order.
    pub ranges: Vec<Digest>,
    /// That of the range at the frontier, as far as it goes.
    pub chain: Digest,
}

impl RangeDigests {
    pub(crate) fn new(disk_bytes: u64) -> Self {
        let range_bytes = disk_bytes.div_ceil(RANGES_MAX).next_power_of_two().max(RANGE_BYTES_MIN);
        Self { range_bytes, ranges: Vec::new(), chain: Digest::default() }
    }

    /// Takes the next unit, which ends at `end`.
    fn push(&mut self, unit: Digest, end: u64, disk_bytes: u64) {
        self.chain = self.chain.then(unit);
        if end == disk_bytes || end.is_multiple_of(self.range_bytes) {
            self.ranges.push(std::mem::take(&mut self.chain));
        }
    }

    /// Whether these are the digests of a disk that is done up to `position`.
    pub(crate) fn are_of(&self, position: u64, disk_bytes: u64) -> bool {
        let whole = if position == disk_bytes {
            disk_bytes.div_ceil(self.range_bytes.max(1))
        } else {
            position / self.range_bytes.max(1)
        };
        self.range_bytes == Self::new(disk_bytes).range_bytes && self.ranges.len() as u64 == whole
    }
}

/// What came of a piece of work.
pub(crate) enum Done {
    /// A unit with data.
    Data {
        /// Of the whole unit.
        digest: Digest,
        /// How far the digests of the object were when this unit had gone in.
        hash: Option<HashState>,
    },
    /// Whole units of zeros.
    Zeros,
}

/// All that is before the frontier.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) position: u64,
    pub(crate) digests: RangeDigests,
    /// Bytes of units with data.
    pub(crate) data_bytes: u64,
    pub(crate) hash: Option<HashState>,
}

/// What was done.
pub(crate) struct Ledger {
    disk_bytes: u64,
    settled: Settled,
    /// By offset: where it ends, and what it is.
    pending: BTreeMap<u64, (u64, Done)>,
    zero_unit: Digest,
}

impl Ledger {
    /// A ledger that goes on from what is settled.
    pub(crate) fn new(disk_bytes: u64, settled: Settled) -> Self {
        let zero_unit = Digest::of(&vec![0; UNIT_BYTES as usize]);
        Self { disk_bytes, settled, pending: BTreeMap::new(), zero_unit }
    }

    pub(crate) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// How many pieces of work are done behind a gap.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes what was done from `offset` to `end`, which are multiples of a unit or the end of the disk.
    pub(crate) fn complete(&mut self, offset: u64, end: u64, done: Done) {
        self.pending.insert(offset, (end, done));
        while let Some((end, done)) = self.pending.remove(&self.settled.position) {
            self.settle(end, done);
        }
    }

    fn settle(&mut self, end: u64, done: Done) {
        let settled = &mut self.settled;
        match done {
            Done::Data { digest, hash } => {
                settled.digests.push(digest, end, self.disk_bytes);
                settled.data_bytes += end - settled.position;
                settled.hash = hash.or(settled.hash.take());
            }
            Done::Zeros => {
                let mut position = settled.position;
                while position < end {
                    let next = (position + UNIT_BYTES).min(end);
                    let digest = if next - position == UNIT_BYTES {
                        self.zero_unit
                    } else {
                        Digest::of(&vec![0; (next - position) as usize])
                    };
                    settled.digests.push(digest, next, self.disk_bytes);
                    position = next;
                }
            }
        }
        settled.position = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(disk_bytes: u64) -> Ledger {
        let digests = RangeDigests::new(disk_bytes);
        Ledger::new(disk_bytes, Settled { position: 0, digests, data_bytes: 0, hash: None })
    }

    #[test]
    fn zeros_have_the_digests_of_zeros_in_whatever_order_they_come() {
        let bytes = RANGE_BYTES_MIN + UNIT_BYTES + 512;
        let mut one = ledger(bytes);
        one.complete(0, bytes, Done::Zeros);
        let mut other = ledger(bytes);
        let zero = |length: u64| Done::Data { digest: Digest::of(&vec![0; length as usize]), hash: None };
        let starts: Vec<u64> = (0..bytes).step_by(UNIT_BYTES as usize).collect();
        for &offset in starts.iter().rev() {
            assert_eq!(other.settled().position, 0);
            let end = (offset + UNIT_BYTES).min(bytes);
            other.complete(offset, end, zero(end - offset));
        }
        assert_eq!((one.settled().position, other.settled().position), (bytes, bytes));
        assert_eq!(one.settled().digests, other.settled().digests);
        assert_eq!(one.settled().digests.ranges.len(), 2);
        assert!(one.settled().digests.are_of(bytes, bytes));
        assert_eq!((one.settled().data_bytes, other.settled().data_bytes), (0, bytes));
    }

    #[test]
    fn a_disk_of_many_terabytes_has_few_ranges() {
        let digests = RangeDigests::new(32 << 40);
        assert_eq!(digests.range_bytes, 32 << 30);
    }
}
