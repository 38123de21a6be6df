//! CRC-32C (Castagnoli), which guards headers, region tables and log entries. A table of one byte is fast enough for
//! the few MiB that it is used on.

const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL_REVERSED } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// The checksum of `bytes`, where the four bytes at 4, which hold it, count as zeros.
pub(super) fn crc32c_without_own(bytes: &[u8]) -> u32 {
    let skipped = 4..8;
    let masked =
        bytes.iter().enumerate().map(|(index, byte)| if skipped.contains(&index) { 0 } else { *byte });
    crc32c(masked)
}

fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        assert_eq!(crc32c([0_u8; 32].into_iter()), 0x8a91_36aa);
        assert_eq!(crc32c([0xff_u8; 32].into_iter()), 0x62a8_ab43);
    }

    #[test]
    fn the_checksum_leaves_itself_out() {
        assert_eq!(crc32c_without_own(b"abcdWXYZefgh"), crc32c_without_own(b"abcd0123efgh"));
        assert_ne!(crc32c_without_own(b"abcdWXYZefgh"), crc32c_without_own(b"abceWXYZefgh"));
    }
}
