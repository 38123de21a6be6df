//! Records of the master file table and the attributes in them.

use crate::{Error, Result, bytes};

pub(super) const KIND: &str = "NTFS";
const SECTOR: usize = 512;
const ATTRIBUTES_MAX: usize = 1024;

pub(super) const STANDARD: u32 = 0x10;
pub(super) const LIST: u32 = 0x20;
pub(super) const VOLUME_NAME: u32 = 0x60;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xa0;
pub(super) const BITMAP: u32 = 0xb0;
pub(super) const REPARSE: u32 = 0xc0;

pub(super) const COMPRESSED: u16 = 0x1;
pub(super) const ENCRYPTED: u16 = 0x4000;

/// Clusters that follow each other; `None` is a hole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// First one, counted within the attribute.
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) cluster: Option<u64>,
}

/// Where the value of an attribute is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// In the record.
    Resident(Vec<u8>),
    /// In clusters.
    Clusters {
        pieces: Vec<Piece>,
        size: u64,
        /// Bytes that were written; what lies behind reads as zeros.
        valid: u64,
        /// Clusters that are compressed together, as a power of two; 0 without compression.
        unit_bits: u16,
    },
}

/// An attribute, or a part of one that is spread over several records.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    pub(super) name: Vec<u8>,
    pub(super) flags: u16,
    pub(super) first_cluster: u64,
    pub(super) value: Value,
}

/// A record.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) sequence: u16,
    pub(super) links: u16,
    pub(super) is_used: bool,
    pub(super) is_directory: bool,
    /// The record that this one belongs to, if it is not a file's first.
    pub(super) base: u64,
    pub(super) attributes: Vec<Attribute>,
}

pub(super) fn corrupt(what: String) -> Error {
    Error::corrupt(KIND, what)
}

/// Puts back the last two bytes of every sector, which lie in a list, and hold a number that shows torn writes.
pub(super) fn fix(block: &mut [u8], signature: &[u8], what: &str) -> Result<()> {
    if !block.starts_with(signature) {
        return Err(corrupt(format!("{what} has no signature")));
    }
    let (place, count) = (usize::from(bytes::le16(block, 4)), usize::from(bytes::le16(block, 6)));
    if count != block.len() / SECTOR + 1 || bytes::part(block, place, count * 2).is_empty() {
        return Err(corrupt(format!("the list of sectors of {what} makes no sense")));
    }
    let list = bytes::part(block, place, count * 2).to_vec();
    for (index, sector) in block.chunks_exact_mut(SECTOR).enumerate() {
        let end = &mut sector[SECTOR - 2..];
        if end != &list[..2] {
            return Err(corrupt(format!("{what} was written in part only")));
        }
        end.copy_from_slice(bytes::part(&list, 2 + index * 2, 2));
    }
    Ok(())
}

impl Record {
    /// Reads a record whose sectors are put back.
    pub(super) fn read(block: &[u8], number: u64) -> Result<Self> {
        let flags = bytes::le16(block, 22);
        let mut record = Self {
            sequence: bytes::le16(block, 16),
            links: bytes::le16(block, 18),
            is_used: flags & 1 != 0,
            is_directory: flags & 2 != 0,
            base: bytes::le64(block, 32) & 0xffff_ffff_ffff,
            attributes: Vec::new(),
        };
        let mut place = usize::from(bytes::le16(block, 20));
        let used = (bytes::le32(block, 24) as usize).min(block.len());
        while place + 8 <= used && bytes::le32(block, place) != u32::MAX {
            let length = bytes::le32(block, place + 4) as usize;
            let raw = bytes::part(block, place, length.min(used));
            if length < 24
                || raw.len() != length
                || place + length > used
                || record.attributes.len() >= ATTRIBUTES_MAX
            {
                return Err(corrupt(format!("an attribute of record {number} makes no sense")));
            }
            record.attributes.push(attribute(raw, number)?);
            place += length;
        }
        Ok(record)
    }
}

fn attribute(raw: &[u8], number: u64) -> Result<Attribute> {
    let wrong = || corrupt(format!("an attribute of record {number} makes no sense"));
    let name_bytes = usize::from(bytes::byte(raw, 9)) * 2;
    let name = bytes::part(raw, usize::from(bytes::le16(raw, 10)), name_bytes);
    if name.len() != name_bytes {
        return Err(wrong());
    }
    let is_resident = bytes::byte(raw, 8) == 0;
    let value = if is_resident {
        let length = bytes::le32(raw, 16) as usize;
        let value = bytes::part(raw, usize::from(bytes::le16(raw, 20)), length);
        if value.len() != length {
            return Err(wrong());
        }
        Value::Resident(value.to_vec())
    } else {
        let runs = raw.get(usize::from(bytes::le16(raw, 32))..).ok_or_else(wrong)?;
        let size = bytes::le64(raw, 48);
        Value::Clusters {
            pieces: pieces(runs, bytes::le64(raw, 16)).ok_or_else(wrong)?,
            size,
            valid: bytes::le64(raw, 56).min(size),
            unit_bits: bytes::le16(raw, 34),
        }
    };
    Ok(Attribute {
        kind: bytes::le32(raw, 0),
        name: name.to_vec(),
        flags: bytes::le16(raw, 12),
        first_cluster: if is_resident { 0 } else { bytes::le64(raw, 16) },
        value,
    })
}

/// Reads runs: a byte with two lengths, then the count and the distance from the run before, signed.
fn pieces(runs: &[u8], first: u64) -> Option<Vec<Piece>> {
    let (mut place, mut pieces) = (0, Vec::new());
    let (mut at, mut cluster) = (first, 0_i64);
    loop {
        let head = bytes::byte(runs, place);
        if head == 0 {
            return Some(pieces);
        }
        let (count_bytes, distance_bytes) = (usize::from(head & 15), usize::from(head >> 4));
        if count_bytes == 0 || count_bytes > 8 || distance_bytes > 8 {
            return None;
        }
        let count = signed(bytes::part(runs, place + 1, count_bytes))?;
        let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
        place += 1 + count_bytes;
        let piece = if distance_bytes == 0 {
            None
        } else {
            cluster = cluster.checked_add(signed(bytes::part(runs, place, distance_bytes))?)?;
            Some(u64::try_from(cluster).ok()?)
        };
        place += distance_bytes;
        pieces.push(Piece { first: at, count, cluster: piece });
        at = at.checked_add(count).filter(|at| *at < 1 << 52)?;
    }
}

fn signed(bytes: &[u8]) -> Option<i64> {
    let last = *bytes.last()?;
    let start = if last & 0x80 != 0 { -1 } else { 0 };
    Some(bytes.iter().rev().fold(start, |value: i64, &byte| value << 8 | i64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_with_holes_and_steps_back() {
        let runs = [0x21, 0x18, 0x34, 0x56, 0x01, 0x04, 0x11, 0x02, 0xfe, 0x00];
        let found: Vec<_> =
            pieces(&runs, 0).unwrap().iter().map(|piece| (piece.first, piece.count, piece.cluster)).collect();
        assert_eq!(found, [(0, 0x18, Some(0x5634)), (0x18, 4, None), (0x1c, 2, Some(0x5632))]);
        assert!(pieces(&[0x11, 0x01, 0x80], 0).is_none());
    }
}
