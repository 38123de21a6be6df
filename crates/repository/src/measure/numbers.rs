//! Names for chunks that nobody has: spread evenly over all names, in an order that can be gone through without sorting.
//!
//! Each chunk has a number, its place on the disks, and a rank, its place among the names. Ranks are a permutation of
//! numbers that can be computed both ways, so that the index is written in order of its names and the trees in order of
//! their disks, with no table between them.

use crate::id::BlobId;

const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

/// The number that gives 1 when it is multiplied with an odd one, modulo 2^64.
const fn inverse(odd: u64) -> u64 {
    // Newton's method: each step doubles the number of bits that are right, beginning with three.
    let (mut found, mut step) = (odd, 0);
    while step < 5 {
        found = found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found)));
        step += 1;
    }
    found
}

/// Random bits of a number.
pub(super) fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(ODD[0]);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The names of so many chunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) count: u64,
    bits: u32,
}

impl Numbers {
    pub(super) fn new(count: u64) -> Self {
        Self { count, bits: count.next_power_of_two().trailing_zeros().max(2) }
    }

    fn mask(self) -> u64 {
        (1 << self.bits) - 1
    }

    /// A permutation of all numbers of so many bits: each step can be taken back.
    fn stir(self, mut number: u64) -> u64 {
        for odd in ODD {
            number ^= number >> self.bits.div_ceil(2);
            number = number.wrapping_mul(odd) & self.mask();
        }
        number ^ number >> self.bits.div_ceil(2)
    }

    fn unstir(self, mut number: u64) -> u64 {
        number ^= number >> self.bits.div_ceil(2);
        for odd in ODD.iter().rev() {
            number = number.wrapping_mul(inverse(*odd)) & self.mask();
            number ^= number >> self.bits.div_ceil(2);
        }
        number
    }

    /// The rank of a chunk among the names.
    pub(super) fn rank(self, number: u64) -> u64 {
        // Those beyond the count are passed through, so that what is left is a permutation as well.
        let mut rank = self.stir(number);
        while rank >= self.count {
            rank = self.stir(rank);
        }
        rank
    }

    /// The chunk of a rank.
    pub(super) fn number(self, rank: u64) -> u64 {
        let mut number = self.unstir(rank);
        while number >= self.count {
            number = self.unstir(number);
        }
        number
    }

    /// The name of a chunk whose rank is known.
    pub(super) fn name_at(self, rank: u64, number: u64) -> BlobId {
        let span = u64::MAX / self.count;
        let words = [
            (rank * span + mix(number) % span).to_be(),
            mix(number ^ 1 << 60),
            mix(number ^ 1 << 61),
            mix(number ^ 1 << 62),
        ];
        let mut name = [0; 32];
        for (bytes, word) in name.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
        BlobId(name)
    }

    /// The name of a chunk.
    pub(super) fn name(self, number: u64) -> BlobId {
        self.name_at(self.rank(number), number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_a_rank_of_its_own_and_names_are_in_the_order_of_ranks() {
        for count in [1, 2, 3, 100, 128, 1000] {
            let numbers = Numbers::new(count);
            let mut ranks: Vec<u64> = (0..count).map(|number| numbers.rank(number)).collect();
            assert!((0..count).all(|number| numbers.number(numbers.rank(number)) == number));
            ranks.sort_unstable();
            assert!(ranks.into_iter().eq(0..count));
            let names: Vec<BlobId> = (0..count).map(|rank| numbers.name(numbers.number(rank))).collect();
            assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
