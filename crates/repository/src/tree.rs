//! The extent tree: from a snapshot's root to its chunks.
//!
//! A node has a fixed number of children, `fanout`; the children of a node of level 0 are chunks, those of a node of
//! level n are nodes of level n - 1. A child that reads as zeros throughout is absent. So a disk has exactly one tree,
//! equal content has equal names, and two disks are compared without reading what they share. Layout:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0 | version, 1 |
//! | 1 | level |
//! | 2 | fan-out as a power of two |
//! | 3 | 0 |
//! | 4.. | one bit for each child, lowest bit first: present |
//! | after | names of the present children, 32 bytes each, in order |

use crate::id::{BlobId, DIGEST_BYTES};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 4;

/// A node of an extent tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// 0 for a node whose children are chunks.
    pub(crate) level: u8,
    /// Its children; `None` reads as zeros.
    pub(crate) children: Vec<Option<BlobId>>,
}

impl Node {
    /// A node without children.
    pub(crate) fn empty(level: u8, fanout_bits: u8) -> Self {
        Self { level, children: vec![None; 1 << fanout_bits] }
    }

    /// Whether all of it reads as zeros. Such a node is never stored.
    pub(crate) fn is_zero(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }

    /// Its stored form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fanout = self.children.len();
        let mut bytes = vec![VERSION, self.level, fanout.trailing_zeros() as u8, 0];
        bytes.resize(HEADER_BYTES + fanout / 8, 0);
        for (index, child) in self.children.iter().enumerate() {
            if let Some(id) = child {
                bytes[HEADER_BYTES + index / 8] |= 1 << (index % 8);
                bytes.extend_from_slice(id.as_bytes());
            }
        }
        bytes
    }

    /// Reads a node at the start of `bytes`; returns it with the length that it takes, or says what is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), String> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or("a tree node is cut off")?;
        let [version, level, fanout_bits, reserved] = *header;
        if version != VERSION || reserved != 0 || !(4..=12).contains(&fanout_bits) || level > LEVEL_MAX {
            return Err(format!("a tree node begins with {header:?}, which is not known here"));
        }
        let fanout = 1_usize << fanout_bits;
        let bitmap = rest.get(..fanout / 8).ok_or("a tree node is cut off")?;
        let mut ids = rest[fanout / 8..].as_chunks::<DIGEST_BYTES>().0.iter();
        let mut children = Vec::with_capacity(fanout);
        let mut count = 0;
        for index in 0..fanout {
            let child = if bitmap[index / 8] >> (index % 8) & 1 == 1 {
                count += 1;
                Some(BlobId(*ids.next().ok_or("a tree node is cut off")?))
            } else {
                None
            };
            children.push(child);
        }
        if count == 0 {
            return Err("a tree node has no children".to_owned());
        }
        Ok((Self { level, children }, HEADER_BYTES + fanout / 8 + count * DIGEST_BYTES))
    }
}

/// The highest level that a node can have: with 16 children a node of level 15 spans more than any disk.
pub(crate) const LEVEL_MAX: u8 = 15;

/// Chunks under a node of `level`.
pub(crate) fn chunks_under(level: u8, fanout_bits: u8) -> u64 {
    1_u64.checked_shl(u32::from(level + 1) * u32::from(fanout_bits)).unwrap_or(u64::MAX)
}

/// The level of the root of a tree over so many chunks.
pub(crate) fn root_level(chunks: u64, fanout_bits: u8) -> u8 {
    (0..LEVEL_MAX).find(|level| chunks_under(*level, fanout_bits) >= chunks).unwrap_or(LEVEL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_survive_being_stored() {
        let mut node = Node::empty(3, 7);
        assert!(node.is_zero());
        for index in [0, 1, 63, 127] {
            node.children[index] = Some(BlobId([index as u8; 32]));
        }
        let bytes = node.encode();
        assert_eq!(bytes.len(), 4 + 16 + 4 * 32);
        let mut followed = bytes.clone();
        followed.extend_from_slice(b"more");
        assert_eq!(Node::decode(&followed), Ok((node, bytes.len())));
        for length in 0..bytes.len() {
            assert!(Node::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn the_root_is_as_low_as_it_can_be() {
        assert_eq!(root_level(0, 7), 0);
        assert_eq!(root_level(128, 7), 0);
        assert_eq!(root_level(129, 7), 1);
        assert_eq!(root_level(1 << 28, 7), 3);
        assert_eq!(root_level(u64::MAX, 4), LEVEL_MAX);
    }
}
