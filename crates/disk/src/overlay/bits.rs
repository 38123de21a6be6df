//! One bit for each granule of a page of the map.

use std::ops::Range;

/// Granules of a page. With granules of 4 KiB a page speaks for 32 MiB of disk.
pub(super) const PAGE_GRANULES: u64 = 8192;
/// Bytes of the bits of a page.
pub(super) const BITMAP_BYTES: usize = PAGE_GRANULES as usize / 8;
const WORDS: usize = PAGE_GRANULES as usize / 64;

/// The bits. They are only ever set: that is what makes every older state of a map a sound one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bits {
    /// None is set.
    Empty,
    /// All are.
    Full,
    /// Some are.
    Mixed(Box<[u64; WORDS]>),
}

impl Bits {
    /// Sets the bits of a range, and returns how many were not set before.
    pub(super) fn set(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() || *self == Self::Full {
            return 0;
        }
        let words = match self {
            Self::Mixed(words) => words,
            _ if range.end - range.start == PAGE_GRANULES => {
                *self = Self::Full;
                return PAGE_GRANULES;
            }
            _ => {
                *self = Self::Mixed(Box::new([0; WORDS]));
                let Self::Mixed(words) = self else { return 0 };
                words
            }
        };
        let mut added = 0;
        for (index, mask) in masks(range) {
            added += u64::from((mask & !words[index]).count_ones());
            words[index] |= mask;
        }
        if added > 0 && words.iter().all(|word| *word == u64::MAX) {
            *self = Self::Full;
        }
        added
    }

    /// Whether the first bit of a range is set, and where in the range that changes first.
    pub(super) fn run(&self, range: Range<u64>) -> (bool, u64) {
        let words = match self {
            Self::Empty => return (false, range.end),
            Self::Full => return (true, range.end),
            Self::Mixed(words) => words,
        };
        let value = words[(range.start / 64) as usize] >> (range.start % 64) & 1 == 1;
        for (index, mask) in masks(range.clone()) {
            let other = if value { !words[index] } else { words[index] } & mask;
            if other != 0 {
                return (value, index as u64 * 64 + u64::from(other.trailing_zeros()));
            }
        }
        (value, range.end)
    }

    /// Whether all bits of a range are set.
    pub(super) fn all(&self, range: Range<u64>) -> bool {
        let end = range.end;
        range.is_empty() || self.run(range) == (true, end)
    }

    /// Bits that are set.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => PAGE_GRANULES,
            Self::Mixed(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    /// Sets every bit that is set in another.
    pub(super) fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Empty) | (Self::Full, _) => {}
            (Self::Mixed(words), Self::Mixed(more)) => {
                words.iter_mut().zip(more.iter()).for_each(|(word, more)| *word |= more);
            }
            (_, more) => *self = more.clone(),
        }
    }

    /// Whether every bit that is set here is set in another.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let mut sum = other.clone();
        sum.add(self);
        sum.count() == other.count()
    }

    /// Writes the bits as the file has them: the lowest bit of the first byte is the first granule.
    pub(super) fn encode(&self, bytes: &mut [u8]) {
        match self {
            Self::Empty => bytes.fill(0),
            Self::Full => bytes.fill(0xff),
            Self::Mixed(words) => {
                for (part, word) in bytes.chunks_exact_mut(8).zip(words.iter()) {
                    part.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// The bits in [`BITMAP_BYTES`] bytes of a file.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut words = Box::new([0; WORDS]);
        let (parts, _) = bytes.as_chunks::<8>();
        for (word, part) in words.iter_mut().zip(parts) {
            *word = u64::from_le_bytes(*part);
        }
        if words.iter().all(|word| *word == 0) {
            Self::Empty
        } else if words.iter().all(|word| *word == u64::MAX) {
            Self::Full
        } else {
            Self::Mixed(words)
        }
    }
}

/// The words that a range of bits touches, with the bits of each.
fn masks(range: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = range.start / 64..range.end.div_ceil(64);
    words.map(move |index| {
        let first = range.start.saturating_sub(index * 64).min(64);
        let end = (range.end - index * 64).min(64);
        let low = if end == 64 { u64::MAX } else { (1 << end) - 1 };
        (index as usize, low & u64::MAX << first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behave_as_a_list_of_flags() {
        let mut bits = Bits::Empty;
        let mut flags = vec![false; PAGE_GRANULES as usize];
        let mut seed = 1_u64;
        let mut next = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        for round in 0..400 {
            let first = next(PAGE_GRANULES);
            let end = (first + next(if round % 50 == 0 { 8192 } else { 100 })).min(PAGE_GRANULES);
            let expected = flags[first as usize..end as usize].iter().filter(|flag| !**flag).count();
            assert_eq!(bits.set(first..end), expected as u64, "{first}..{end}");
            flags[first as usize..end as usize].fill(true);
            let at = next(PAGE_GRANULES);
            let to = at + 1 + next(PAGE_GRANULES - at);
            let value = flags[at as usize];
            let change = flags[at as usize..to as usize].iter().position(|flag| *flag != value);
            assert_eq!(bits.run(at..to), (value, change.map_or(to, |change| at + change as u64)));
            assert_eq!(bits.count(), flags.iter().filter(|flag| **flag).count() as u64);
            let mut bytes = [0; BITMAP_BYTES];
            bits.encode(&mut bytes);
            assert_eq!(Bits::decode(&bytes), bits);
        }
        bits.set(0..PAGE_GRANULES);
        assert_eq!(bits, Bits::Full);
        assert!(Bits::Empty.is_within(&bits) && !bits.is_within(&Bits::Empty));
    }
}
