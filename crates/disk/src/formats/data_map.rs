//! Which blocks of a disk hold data: what images that are written as views of a disk are laid out by.

use crate::{Error, Result, Source, walk_extents};

/// Which blocks hold data. A bit and an eighth of a byte for each block.
pub(crate) struct DataMap {
    bits: Vec<u64>,
    /// How many do before each word.
    before: Vec<u64>,
}

impl DataMap {
    /// Looks at all extents of a disk, in blocks of `1 << block_bits` bytes.
    pub(crate) fn of(source: &dyn Source, block_bits: u32) -> Result<Self> {
        let blocks = source.virtual_size().div_ceil(1 << block_bits);
        let mut bits = vec![0_u64; usize::try_from(blocks.div_ceil(64)).unwrap_or(usize::MAX)];
        walk_extents(source, 0, source.virtual_size(), |extent| {
            if extent.kind.is_data() && extent.length > 0 {
                for block in extent.offset >> block_bits..=(extent.end() - 1) >> block_bits {
                    if let Some(word) = bits.get_mut((block / 64) as usize) {
                        *word |= 1 << (block % 64);
                    }
                }
            }
            Ok::<(), Error>(())
        })?;
        let mut total = 0;
        let mut before = Vec::with_capacity(bits.len() + 1);
        for word in &bits {
            before.push(total);
            total += u64::from(word.count_ones());
        }
        before.push(total);
        Ok(Self { bits, before })
    }

    /// How many blocks hold data.
    pub(crate) fn total(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    /// Whether a block does.
    pub(crate) fn holds(&self, block: u64) -> bool {
        self.bits.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// How many blocks before this one hold data.
    pub(crate) fn rank(&self, block: u64) -> u64 {
        let word = (block / 64) as usize;
        match self.bits.get(word) {
            Some(bits) => self.before[word] + u64::from((bits & ((1 << (block % 64)) - 1)).count_ones()),
            None => self.total(),
        }
    }

    /// The block with data before which so many others hold data.
    pub(crate) fn select(&self, rank: u64) -> u64 {
        let word = self.before.partition_point(|before| *before <= rank).saturating_sub(1);
        let mut bits = self.bits.get(word).copied().unwrap_or(0);
        for _ in self.before[word]..rank {
            bits &= bits.wrapping_sub(1);
        }
        word as u64 * 64 + u64::from(bits.trailing_zeros())
    }
}

/// Fills a buffer from a position of a disk on, with zeros behind the disk's end.
pub(crate) fn read_padded(source: &dyn Source, buffer: &mut [u8], offset: u64) -> Result<()> {
    let there = source.virtual_size().saturating_sub(offset).min(buffer.len() as u64) as usize;
    if there > 0 {
        source.read_at(&mut buffer[..there], offset)?;
    }
    buffer[there..].fill(0);
    Ok(())
}

/// Disks for the tests of views.
#[cfg(test)]
pub(crate) mod disks {
    use crate::source::check_range;
    use crate::{Extent, ExtentKind, Format, Info, Result, Source, Storage};

    /// A disk with data in some places, which may be told more coarsely than it is.
    pub(crate) struct Disk {
        pub(crate) size: u64,
        pub(crate) grain: u64,
        pub(crate) is_data: fn(u64) -> bool,
    }

    /// The byte of such a disk at a position.
    pub(crate) fn byte(position: u64) -> u8 {
        (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 | 1
    }

    impl Source for Disk {
        fn virtual_size(&self) -> u64 {
            self.size
        }

        fn info(&self) -> Info {
            Info { format: Format::Raw, virtual_size: self.size, allocated_bytes: None, details: vec![] }
        }

        fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
            let end = (offset / self.grain + 1) * self.grain;
            let length = length.min(end - offset);
            let is_data = (self.is_data)(offset / self.grain);
            let kind = if is_data { ExtentKind::Data } else { ExtentKind::Unallocated };
            Ok(vec![Extent { offset, length, kind }])
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            check_range("disk", offset, buffer.len() as u64, self.size)?;
            for (at, found) in (offset..).zip(buffer) {
                *found = if (self.is_data)(at / self.grain) { byte(at) } else { 0 };
            }
            Ok(())
        }
    }

    /// The whole image, which is the same in parts of any length at any place.
    pub(crate) fn assert_ranged(view: &dyn Storage) -> Vec<u8> {
        let mut whole = vec![0; view.size() as usize];
        view.read_at(&mut whole, 0).unwrap();
        let mut pieces = Vec::new();
        for number in 1_usize.. {
            let length = (number * 37_813 % 300_000).min(whole.len() - pieces.len());
            if length == 0 && pieces.len() == whole.len() {
                break;
            }
            let mut piece = vec![0; length];
            view.read_at(&mut piece, pieces.len() as u64).unwrap();
            pieces.extend(piece);
        }
        assert!(whole == pieces);
        assert!(view.read_at(&mut [0; 2], view.size() - 1).is_err());
        whole
    }
}
