//! Bitmaps that say which sectors of a block are there.

/// Which bit of a byte stands for the first sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitOrder {
    /// The highest.
    HighFirst,
    /// The lowest.
    LowFirst,
}

/// The bit at `first`, and how many bits from there on, before `end`, are the same; at least 1. Bits past the end of the
/// map are 0.
pub(crate) fn same_bits(bitmap: &[u8], order: BitOrder, first: u64, end: u64) -> (bool, u64) {
    let byte = |index: u64| bitmap.get((index / 8) as usize).copied().unwrap_or(0);
    let bit = |index: u64| match order {
        BitOrder::HighFirst => byte(index) & (0x80 >> (index % 8)) != 0,
        BitOrder::LowFirst => byte(index) & (1 << (index % 8)) != 0,
    };
    let value = bit(first);
    let whole = if value { 0xff } else { 0 };
    let mut index = first + 1;
    while index < end {
        if index.is_multiple_of(8) && byte(index) == whole {
            index += 8;
        } else if bit(index) == value {
            index += 1;
        } else {
            break;
        }
    }
    (value, index.min(end).max(first + 1) - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_end_where_the_bits_change() {
        for (order, bitmap) in [
            (BitOrder::HighFirst, [0xff, 0xff, 0b1110_0000, 0, 0, 1]),
            (BitOrder::LowFirst, [0xff, 0xff, 0b0000_0111, 0, 0, 0x80]),
        ] {
            assert_eq!(same_bits(&bitmap, order, 0, 48), (true, 19));
            assert_eq!(same_bits(&bitmap, order, 5, 12), (true, 7));
            assert_eq!(same_bits(&bitmap, order, 19, 48), (false, 28));
            assert_eq!(same_bits(&bitmap, order, 47, 48), (true, 1));
        }
    }
}
