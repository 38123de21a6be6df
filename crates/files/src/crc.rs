//! CRC-32C (Castagnoli), which guards the metadata of ext4, XFS and Btrfs. Eight tables take eight bytes in a step.

const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;

static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL_REVERSED } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
};

/// Goes on with a checksum. Neither the beginning nor the end is inverted here: begin with `u32::MAX`, and invert the
/// result where the format says so.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = seed;
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let low = crc.to_le_bytes();
        crc = 0;
        for (index, &byte) in eight.iter().enumerate() {
            let byte = if index < 4 { byte ^ low[index] } else { byte };
            crc ^= TABLES[7 - index][usize::from(byte)];
        }
    }
    eights.remainder().iter().fold(crc, |crc, byte| TABLES[0][usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// The checksum of `bytes`, where the `length` bytes at `place` count as zeros.
pub(crate) fn crc32c_without(seed: u32, bytes: &[u8], place: usize, length: usize) -> u32 {
    let before = bytes.get(..place).unwrap_or(bytes);
    let after = bytes.get(place + length..).unwrap_or_default();
    let crc = crc32c(seed, before);
    let zeros = length.min(bytes.len().saturating_sub(place));
    crc32c((0..zeros).fold(crc, |crc, _| TABLES[0][usize::from(crc as u8)] ^ (crc >> 8)), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(!crc32c(u32::MAX, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(u32::MAX, &[0_u8; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(u32::MAX, &[0xff_u8; 32]), 0x62a8_ab43);
        assert_eq!(!crc32c(crc32c(u32::MAX, b"1234"), b"56789"), 0xe306_9283);
    }

    #[test]
    fn a_part_counts_as_zeros() {
        let whole = crc32c(u32::MAX, b"abcdefghij\0\0\0\0mnop");
        assert_eq!(crc32c_without(u32::MAX, b"abcdefghijxxxxmnop", 10, 4), whole);
    }
}
