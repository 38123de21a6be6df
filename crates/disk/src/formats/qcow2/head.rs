//! The header of an image that is written here: version 3, no backing file, 16 bit refcounts.

use super::{MAGIC, features};

/// Set in an entry of a table whose cluster nobody else refers to.
pub(super) const COPIED: u64 = 1 << 63;

const HEADER_BYTES: u32 = 112;
const REFCOUNT_ORDER: u32 = 4;
const FEATURE_NAMES: u32 = 0x6803_f857;

/// What the header says. Places are offsets in the file.
pub(super) struct Head {
    pub cluster_bits: u32,
    pub virtual_size: u64,
    pub l1_entries: u32,
    pub l1: u64,
    pub refcount_table: u64,
    pub refcount_table_clusters: u32,
    /// Whether clusters may be compressed, with zstd.
    pub is_compressed: bool,
}

impl Head {
    /// The header with its extensions.
    pub fn bytes(&self) -> Vec<u8> {
        let incompatible = if self.is_compressed { features::COMPRESSION } else { 0 };
        let mut header = Vec::with_capacity(HEADER_BYTES as usize + 64);
        header.extend(MAGIC);
        put32(&mut header, &[3]);
        put64(&mut header, &[0]); // no backing file
        put32(&mut header, &[0, self.cluster_bits]);
        put64(&mut header, &[self.virtual_size]);
        put32(&mut header, &[0, self.l1_entries]); // not encrypted
        put64(&mut header, &[self.l1, self.refcount_table]);
        put32(&mut header, &[self.refcount_table_clusters, 0]); // no snapshots
        put64(&mut header, &[0]);
        put64(&mut header, &[incompatible, 0, 0]);
        put32(&mut header, &[REFCOUNT_ORDER, HEADER_BYTES]);
        header.extend([u8::from(self.is_compressed), 0, 0, 0, 0, 0, 0, 0]);
        if self.is_compressed {
            // An older reader can then say what it lacks.
            put32(&mut header, &[FEATURE_NAMES, 48]);
            let mut name = [0; 48];
            name[1] = features::COMPRESSION.trailing_zeros() as u8;
            name[2..18].copy_from_slice(b"compression type");
            header.extend(name);
        }
        put64(&mut header, &[0]); // end of the extensions
        header
    }
}

fn put32(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

fn put64(bytes: &mut Vec<u8>, words: &[u64]) {
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}
