//! The first block of a map: what the overlay is. It is written once.

use super::bits::PAGE_GRANULES;
use crate::{Error, Result};

/// Bytes of the header; the slots of the pages follow.
pub(super) const HEADER_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"LWOVMAP\n";
const VERSION: u32 = 1;
const DESCRIPTION_AT: usize = 64;
/// The longest description of a base, in bytes.
const DESCRIPTION_BYTES_MAX: usize = HEADER_BYTES - DESCRIPTION_AT;
/// Granules may have from 512 bytes to 1 MiB.
const GRANULE_BYTES_MAX: u64 = 1 << 20;

/// What the header of a map says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Bytes of a granule: what is local or not as a whole.
    pub granule_bytes: u64,
    /// What the caller said of the base when the overlay was made; its form is the caller's.
    pub base: String,
}

impl Description {
    /// The header's bytes.
    ///
    /// # Errors
    /// The granule is not a power of two in its bounds, or the text is too long.
    pub(super) fn encode(&self, path: &str) -> Result<Vec<u8>> {
        let invalid = |what: String| Error::Invalid { path: path.to_owned(), what };
        if !is_granule(self.granule_bytes) {
            return Err(invalid(format!(
                "a granule of {} bytes: use a power of two from 512 to 1048576",
                self.granule_bytes
            )));
        }
        if self.virtual_size > i64::MAX as u64 {
            return Err(invalid("the disk is too large for a file".to_owned()));
        }
        let text = self.base.as_bytes();
        if text.len() > DESCRIPTION_BYTES_MAX {
            return Err(invalid(format!(
                "the description of the base has more than {DESCRIPTION_BYTES_MAX} bytes"
            )));
        }
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.virtual_size.to_le_bytes());
        bytes[24..28].copy_from_slice(&(self.granule_bytes as u32).to_le_bytes());
        bytes[28..32].copy_from_slice(&(PAGE_GRANULES as u32).to_le_bytes());
        bytes[32..36].copy_from_slice(&(text.len() as u32).to_le_bytes());
        bytes[DESCRIPTION_AT..DESCRIPTION_AT + text.len()].copy_from_slice(text);
        let checksum = crc32fast::hash(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// It is none, of another version, or damaged.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], path: &str) -> Result<Self> {
        let damaged = |what: &str| Error::DamagedMap { path: path.to_owned(), what: what.to_owned() };
        let half = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        if bytes[..8] != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        if half(8) != VERSION {
            return Err(damaged(&format!("version {} is not known here", half(8))));
        }
        let mut plain = *bytes;
        plain[12..16].fill(0);
        if crc32fast::hash(&plain) != half(12) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let virtual_size = bytes[16..24].try_into().map_or(0, u64::from_le_bytes);
        let granule_bytes = u64::from(half(24));
        let length = half(32) as usize;
        let sound = is_granule(granule_bytes)
            && u64::from(half(28)) == PAGE_GRANULES
            && virtual_size <= i64::MAX as u64
            && length <= DESCRIPTION_BYTES_MAX;
        let text = sound.then(|| String::from_utf8(bytes[DESCRIPTION_AT..DESCRIPTION_AT + length].to_vec()));
        match text {
            Some(Ok(base)) => Ok(Self { virtual_size, granule_bytes, base }),
            _ => Err(damaged("its header makes no sense")),
        }
    }
}

fn is_granule(bytes: u64) -> bool {
    bytes.is_power_of_two() && (512..=GRANULE_BYTES_MAX).contains(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_damage_is_seen() {
        let description =
            Description { virtual_size: 1 << 40, granule_bytes: 4096, base: "{\"a\":1}".to_owned() };
        let bytes: [u8; HEADER_BYTES] = description.encode("x").unwrap().try_into().unwrap();
        assert_eq!(Description::decode(&bytes, "x").unwrap(), description);
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert!(Description::decode(&damaged, "x").is_err(), "byte {at}");
        }
        for granule_bytes in [0, 256, 4095, 2 << 20] {
            assert!(Description { granule_bytes, ..description.clone() }.encode("x").is_err());
        }
        assert!(Description { base: "x".repeat(5000), ..description }.encode("x").is_err());
    }
}
