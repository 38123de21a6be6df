//! Which bytes of an image file are spoken for, so that no two parts of an image share any.
//!
//! An image whose table sends many blocks to one place turns a small file into a huge disk, and one whose blocks lie
//! over its own tables means different things to different readers. Both are refused.
//!
//! Images hold millions of blocks, nearly always of one size and a whole number of blocks apart. Those take one bit
//! each; what lies off that grid is kept as ranges. Both are capped, so memory is bounded whatever the file says.

use std::collections::{BTreeMap, HashMap};

/// Blocks in one page of the bit map.
const PAGE_BLOCKS: u64 = 4096;
/// Pages of 512 bytes, at most: 128 MiB.
const PAGES_MAX: usize = 1 << 18;
/// Ranges off the grid, at most: some 40 MiB.
const RANGES_MAX: usize = 1 << 20;

/// The claimed bytes of one file.
pub(crate) struct Claims {
    /// Distance between blocks in bytes, not 0.
    unit: u64,
    /// Where the grid begins, modulo `unit`: the place of the first block claimed.
    phase: Option<u64>,
    pages: HashMap<u64, Box<[u64; 64]>>,
    /// Start to end of what lies off the grid; disjoint, and apart by at least a byte.
    ranges: BTreeMap<u64, u64>,
}

impl Claims {
    /// Nothing is claimed. Most blocks will be of `unit` bytes, or of a multiple of that.
    pub(crate) fn new(unit: u64) -> Self {
        Self { unit: unit.max(1), phase: None, pages: HashMap::new(), ranges: BTreeMap::new() }
    }

    /// Claims a block, or says why it cannot be had.
    pub(crate) fn block(&mut self, what: &str, offset: u64, length: u64) -> Result<(), String> {
        let phase = *self.phase.get_or_insert(offset % self.unit);
        if offset % self.unit != phase || !length.is_multiple_of(self.unit) || length == 0 {
            return self.area(what, offset, length);
        }
        if self.meets_range(offset, offset.saturating_add(length)) {
            return Err(overlap(what, offset, length));
        }
        let first = self.index(offset);
        for index in first..first + length / self.unit {
            if !self.pages.contains_key(&(index / PAGE_BLOCKS)) && self.pages.len() >= PAGES_MAX {
                return Err(scattered(what));
            }
            let page = self.pages.entry(index / PAGE_BLOCKS).or_insert_with(|| Box::new([0; 64]));
            let word = &mut page[(index % PAGE_BLOCKS / 64) as usize];
            if *word & (1 << (index % 64)) != 0 {
                return Err(overlap(what, offset, length));
            }
            *word |= 1 << (index % 64);
        }
        Ok(())
    }

    /// Claims a table, a header or anything else, or says why it cannot be had.
    pub(crate) fn area(&mut self, what: &str, offset: u64, length: u64) -> Result<(), String> {
        let end = offset.saturating_add(length);
        if length == 0 {
            return Ok(());
        }
        if self.meets_range(offset, end) || self.meets_block(offset, end) {
            return Err(overlap(what, offset, length));
        }
        let mut start = offset;
        let mut stop = end;
        if let Some((&before, &touching)) = self.ranges.range(..offset).next_back()
            && touching == offset
        {
            start = before;
        }
        if let Some(after) = self.ranges.remove(&end) {
            stop = after;
        }
        self.ranges.insert(start, stop);
        if self.ranges.len() > RANGES_MAX { Err(scattered(what)) } else { Ok(()) }
    }

    fn meets_range(&self, start: u64, end: u64) -> bool {
        self.ranges.range(..end).next_back().is_some_and(|(_, &stop)| stop > start)
    }

    fn meets_block(&self, start: u64, end: u64) -> bool {
        if self.pages.is_empty() {
            return false;
        }
        (self.index(start)..=self.index(end - 1)).any(|index| {
            self.pages
                .get(&(index / PAGE_BLOCKS))
                .is_some_and(|page| page[(index % PAGE_BLOCKS / 64) as usize] & (1 << (index % 64)) != 0)
        })
    }

    /// Number of the grid's block that holds the byte at `offset`. The part before the first whole block is number 0.
    fn index(&self, offset: u64) -> u64 {
        offset.saturating_add(self.unit - self.phase.unwrap_or(0)) / self.unit
    }
}

fn overlap(what: &str, offset: u64, length: u64) -> String {
    format!("{what} at offset {offset} ({length} bytes) lies over another part of the image")
}

fn scattered(what: &str) -> String {
    format!("{what}: the blocks lie too scattered over the file to be kept apart")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_at_one_place_are_refused() {
        let mut claims = Claims::new(4096);
        claims.block("a", 512, 4096).unwrap();
        claims.block("b", 512 + 4096, 4096).unwrap();
        assert!(claims.block("c", 512, 4096).unwrap_err().contains("offset 512 "));
    }

    #[test]
    fn a_block_off_the_grid_must_not_touch_one_on_it() {
        let mut claims = Claims::new(4096);
        claims.block("a", 8192, 4096).unwrap();
        assert!(claims.block("b", 8192 + 512, 4096).is_err());
        assert!(claims.block("b", 8192 - 512, 4096).is_err());
        claims.block("b", 512, 4096).unwrap();
        assert!(claims.block("c", 4096, 4096).is_err());
        claims.block("c", 12288, 4096).unwrap();
    }

    #[test]
    fn blocks_must_not_lie_over_areas_nor_areas_over_blocks() {
        let mut claims = Claims::new(4096);
        claims.area("header", 0, 512).unwrap();
        claims.area("table", 512, 512).unwrap();
        assert_eq!(claims.ranges.len(), 1, "areas that touch are one range");
        assert!(claims.block("a", 0, 4096).is_err());
        let mut claims = Claims::new(4096);
        claims.block("a", 4096, 8192).unwrap();
        assert!(claims.area("table", 12287, 10).is_err());
        assert!(claims.area("table", 0, 4097).is_err());
        claims.area("table", 0, 4096).unwrap();
        claims.area("table", 12288, 10).unwrap();
    }

    #[test]
    fn places_near_the_end_of_all_numbers_do_not_overflow() {
        let mut claims = Claims::new(1 << 20);
        let _ = claims.block("a", u64::MAX - 5, 1 << 20);
        let _ = claims.area("b", u64::MAX - 5, u64::MAX);
        let _ = claims.block("c", u64::MAX - 5 - (1 << 20), 3 << 20);
    }

    #[test]
    fn claims_agree_with_a_list_of_bytes() {
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..2000 {
            let mut claims = Claims::new(8);
            let mut taken = [false; 256];
            for _ in 0..40 {
                let (offset, length) = (next(200), [8, 8, 8, 16, 3][next(5) as usize]);
                let range = offset as usize..(offset + length) as usize;
                let free = taken[range.clone()].iter().all(|taken| !taken);
                let result = if next(4) == 0 {
                    claims.area("x", offset, length)
                } else {
                    claims.block("x", offset, length)
                };
                assert_eq!(result.is_ok(), free);
                if !free {
                    break; // a refused image is not read further
                }
                taken[range].fill(true);
            }
        }
    }
}
