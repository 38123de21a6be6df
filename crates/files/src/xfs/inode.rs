//! Inodes: metadata, and where the content lies.

use crate::disk::{Disk, Run};
use crate::{Error, FileType, Metadata, Result, Time, bytes};

use super::superblock::{KIND, Superblock};

const FORMAT_LOCAL: u8 = 1;
const FORMAT_EXTENTS: u8 = 2;
const FORMAT_TREE: u8 = 3;
const FLAG_REALTIME: u16 = 1;
const FLAG2_BIG_TIME: u64 = 1 << 3;
const FLAG2_BIG_COUNTS: u64 = 1 << 4;
const LEVELS_MAX: u16 = 9;

/// An inode as it lies on the disk.
pub(super) struct Inode {
    pub(super) number: u64,
    raw: Vec<u8>,
}

/// A record of where some blocks of a file lie.
struct Record {
    first: u64,
    start: u64,
    count: u64,
    written: bool,
}

impl Record {
    /// 1 bit unwritten, 54 bits block of the file, 52 bits block of the disk, 21 bits length.
    fn read(bytes: &[u8]) -> Self {
        let (high, low) = (bytes::be64(bytes, 0), bytes::be64(bytes, 8));
        Self {
            first: high << 1 >> 10,
            start: (high & 0x1ff) << 43 | low >> 21,
            count: low & 0x1f_ffff,
            written: high >> 63 == 0,
        }
    }
}

impl Inode {
    pub(super) fn read(disk: &Disk, superblock: &Superblock, number: u64) -> Result<Self> {
        let place = superblock.inode_place(number)?;
        let inode = Self { number, raw: disk.bytes(place, superblock.inode_bytes as usize)? };
        if !inode.raw.starts_with(b"IN") {
            return Err(inode.corrupt("it has no signature"));
        }
        if superblock.is_v5 {
            superblock.check(&inode.raw, 100, || format!("inode {number}"))?;
            if bytes::byte(&inode.raw, 4) >= 3 && bytes::be64(&inode.raw, 152) != number {
                return Err(inode.corrupt("another one lies in its place"));
            }
        }
        if bytes::be16(&inode.raw, 2) == 0 {
            return Err(inode.corrupt("it is not in use"));
        }
        Ok(inode)
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(KIND, format!("inode {}: {what}", self.number))
    }

    fn version(&self) -> u8 {
        bytes::byte(&self.raw, 4)
    }

    fn flags2(&self) -> u64 {
        if self.version() >= 3 { bytes::be64(&self.raw, 120) } else { 0 }
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_mode(u32::from(bytes::be16(&self.raw, 2)))
    }

    pub(super) fn size(&self) -> u64 {
        bytes::be64(&self.raw, 56)
    }

    pub(super) fn metadata(&self) -> Metadata {
        let file_type = self.file_type();
        let old_links = u32::from(bytes::be16(&self.raw, 6));
        let links = if self.version() == 1 { old_links } else { bytes::be32(&self.raw, 16) };
        let device = matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice).then(|| {
            let number = bytes::be32(self.fork(), 0);
            (number >> 18, number & 0x3_ffff)
        });
        Metadata {
            file_type,
            size: if matches!(file_type, FileType::File | FileType::Directory | FileType::Symlink) {
                self.size()
            } else {
                0
            },
            mode: u32::from(bytes::be16(&self.raw, 2)) & 0o7777,
            uid: bytes::be32(&self.raw, 8),
            gid: bytes::be32(&self.raw, 12),
            modified: self.modified(),
            links: u64::from(links),
            device,
        }
    }

    fn modified(&self) -> Time {
        if self.flags2() & FLAG2_BIG_TIME != 0 {
            // Nanoseconds since the smallest moment of 32 bits.
            let value = bytes::be64(&self.raw, 40);
            let seconds = (value / 1_000_000_000) as i64 + i64::from(i32::MIN);
            return Time { seconds, nanoseconds: (value % 1_000_000_000) as u32 };
        }
        let seconds = i64::from(bytes::be32(&self.raw, 40).cast_signed());
        Time { seconds, nanoseconds: bytes::be32(&self.raw, 44).min(999_999_999) }
    }

    /// The part of the inode that says where the content is, or holds it.
    fn fork(&self) -> &[u8] {
        let start = if self.version() >= 3 { 176 } else { 100 };
        let attributes = usize::from(bytes::byte(&self.raw, 82)) * 8;
        let whole = self.raw.get(start..).unwrap_or_default();
        if attributes == 0 { whole } else { whole.get(..attributes).unwrap_or(whole) }
    }

    /// The content, if it lies in the inode.
    pub(super) fn local(&self) -> Result<Option<&[u8]>> {
        if bytes::byte(&self.raw, 5) != FORMAT_LOCAL {
            return Ok(None);
        }
        let length = usize::try_from(self.size()).unwrap_or(usize::MAX);
        self.fork()
            .get(..length)
            .map(Some)
            .ok_or_else(|| self.corrupt("its content is longer than the inode"))
    }

    fn extent_count(&self) -> u64 {
        if self.flags2() & FLAG2_BIG_COUNTS != 0 {
            bytes::be64(&self.raw, 24)
        } else {
            u64::from(bytes::be32(&self.raw, 76))
        }
    }

    /// Where the content at `offset` lies.
    pub(super) fn map(&self, disk: &Disk, superblock: &Superblock, offset: u64, length: u64) -> Result<Run> {
        if bytes::be16(&self.raw, 90) & FLAG_REALTIME != 0 && self.file_type() == FileType::File {
            return Err(Error::unsupported(KIND, format!("its realtime disk for inode {}", self.number)));
        }
        let (block, within) = (offset / superblock.block_bytes, offset % superblock.block_bytes);
        let (record, end) = self.record(disk, superblock, block)?;
        let bytes_to = |end: u64| (end - block).saturating_mul(superblock.block_bytes).saturating_sub(within);
        let Some(record) = record.filter(|record| block < record.first + record.count) else {
            return Ok(Run { length: bytes_to(end.max(block + 1)).min(length).max(1), place: None });
        };
        let length = bytes_to(record.first + record.count).min(length).max(1);
        if !record.written {
            return Ok(Run { length, place: None });
        }
        let place = superblock.block_place(record.start)?;
        let last = superblock.block_place(record.start + record.count - 1)?;
        if last - place.min(last) != (record.count - 1) * superblock.block_bytes {
            return Err(self.corrupt("its content crosses the end of a group"));
        }
        Ok(Run { length, place: Some(place + (block - record.first) * superblock.block_bytes + within) })
    }

    /// The last record that begins at or before `block`, and the first block of the one after it.
    fn record(&self, disk: &Disk, superblock: &Superblock, block: u64) -> Result<(Option<Record>, u64)> {
        let fork = self.fork();
        let none = 1 << 55;
        match bytes::byte(&self.raw, 5) {
            FORMAT_EXTENTS => {
                let count = usize::try_from(self.extent_count()).unwrap_or(usize::MAX);
                if count > fork.len() / 16 {
                    return Err(self.corrupt("more extents than the inode can hold"));
                }
                Ok(search(bytes::part(fork, 0, count * 16), block, none))
            }
            FORMAT_TREE => {
                let (mut level, mut count) = (bytes::be16(fork, 0), usize::from(bytes::be16(fork, 2)));
                if level == 0 || level > LEVELS_MAX {
                    return Err(self.corrupt("its tree of extents has an impossible height"));
                }
                let mut end = none;
                let mut node = fork.to_vec();
                let mut keys = 4;
                loop {
                    let most = node.len().saturating_sub(keys) / 16;
                    if count == 0 || count > most {
                        return Err(self.corrupt("a node of its tree of extents makes no sense"));
                    }
                    let key = |index: usize| bytes::be64(&node, keys + index * 8);
                    let after = partition(count, |index| key(index) <= block);
                    if after < count {
                        end = end.min(key(after));
                    }
                    let Some(index) = after.checked_sub(1) else { return Ok((None, end)) };
                    let child = bytes::be64(&node, keys + most * 8 + index * 8);
                    node = self.tree_block(disk, superblock, child)?;
                    keys = if superblock.is_v5 { 72 } else { 24 };
                    let below = bytes::be16(&node, 4);
                    count = usize::from(bytes::be16(&node, 6));
                    if below != level - 1 {
                        return Err(
                            self.corrupt("the levels of its tree of extents do not follow each other")
                        );
                    }
                    level = below;
                    if level == 0 {
                        let records = bytes::part(&node, keys, count * 16);
                        if records.is_empty() {
                            return Err(self.corrupt("a leaf of its tree of extents makes no sense"));
                        }
                        return Ok(search(records, block, end));
                    }
                }
            }
            _ => Err(self.corrupt("it has no content on the disk")),
        }
    }

    fn tree_block(&self, disk: &Disk, superblock: &Superblock, number: u64) -> Result<Vec<u8>> {
        let place = superblock.block_place(number)?;
        let block = disk.bytes(place, superblock.block_bytes as usize)?;
        let signature: &[u8] = if superblock.is_v5 { b"BMA3" } else { b"BMAP" };
        if !block.starts_with(signature) {
            return Err(self.corrupt("a block of its tree of extents has no signature"));
        }
        if superblock.is_v5 {
            superblock.check(&block, 64, || format!("the tree of extents of inode {}", self.number))?;
        }
        Ok(block)
    }
}

/// The number of leading indexes for which `is_before` holds; it must hold for a leading part only.
fn partition(count: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn search(records: &[u8], block: u64, end: u64) -> (Option<Record>, u64) {
    let record = |index: usize| Record::read(bytes::part(records, index * 16, 16));
    let count = records.len() / 16;
    let after = partition(count, |index| record(index).first <= block);
    let end = if after < count { end.min(record(after).first) } else { end };
    // A record of no blocks holds none.
    (after.checked_sub(1).map(record).filter(|record| record.count > 0), end)
}
