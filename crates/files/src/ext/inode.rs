//! Inodes: metadata, where the content lies, extended attributes.

use crate::disk::{Disk, Run};
use crate::{Error, FileKind, FileType, Metadata, Result, Time, bytes, crc};

use super::superblock::Superblock;

const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_VALUE: u32 = 0x20_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xf30a;
const DEPTH_MAX: u16 = 5;
const ATTRIBUTES_MAGIC: u32 = 0xea02_0000;
/// An attribute's value; Linux allows 64 KiB.
const VALUE_MAX: u64 = 64 << 10;

/// An inode as it lies on the disk.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    number: u32,
    kind: FileKind,
    raw: Vec<u8>,
}

type Attribute = (u8, Vec<u8>, Vec<u8>);

impl Inode {
    pub(super) fn read(disk: &Disk, superblock: &Superblock, number: u32, kind: FileKind) -> Result<Self> {
        let place = superblock.inode_place(disk, number, kind)?;
        let inode = Self { number, kind, raw: disk.bytes(place, superblock.inode_bytes as usize)? };
        if superblock.verifies() && !inode.is_sound(superblock.seed) {
            return Err(inode.corrupt("its checksum does not match"));
        }
        Ok(inode)
    }

    pub(super) fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(self.kind.name(), format!("inode {}: {what}", self.number))
    }

    /// The checksum covers the number, the generation and the inode without the checksum itself.
    fn is_sound(&self, seed: u32) -> bool {
        let seed = crc::crc32c(seed, &self.number.to_le_bytes());
        let seed = crc::crc32c(seed, bytes::part(&self.raw, 0x64, 4));
        let has_high = self.raw.len() > 128 && self.extra() >= 4;
        let mut raw = self.raw.clone();
        raw[0x7c..0x7e].fill(0);
        let mut expected = u32::from(bytes::le16(&self.raw, 0x7c));
        let mut sum = if has_high {
            raw[0x82..0x84].fill(0);
            expected |= u32::from(bytes::le16(&self.raw, 0x82)) << 16;
            crc::crc32c(seed, &raw)
        } else {
            crc::crc32c(seed, &raw)
        };
        if !has_high {
            sum &= 0xffff;
        }
        sum == expected
    }

    fn extra(&self) -> u16 {
        bytes::le16(&self.raw, 0x80)
    }

    fn flags(&self) -> u32 {
        bytes::le32(&self.raw, 0x20)
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_mode(u32::from(bytes::le16(&self.raw, 0)))
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(bytes::le32(&self.raw, 0x6c)) << 32 | u64::from(bytes::le32(&self.raw, 4))
    }

    pub(super) fn is_inline(&self) -> bool {
        self.flags() & FLAG_INLINE != 0
    }

    pub(super) fn refuse_encrypted(&self) -> Result<()> {
        if self.flags() & FLAG_ENCRYPTED != 0 {
            return Err(Error::unsupported(
                self.kind.name(),
                format!("the key of inode {}, which is encrypted", self.number),
            ));
        }
        Ok(())
    }

    pub(super) fn is_used(&self) -> bool {
        bytes::le16(&self.raw, 0) != 0
    }

    pub(super) fn metadata(&self) -> Metadata {
        let file_type = self.file_type();
        let wide = |low: usize, high: usize| {
            u32::from(bytes::le16(&self.raw, high)) << 16 | u32::from(bytes::le16(&self.raw, low))
        };
        let device =
            matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice).then(|| self.device());
        Metadata {
            file_type,
            size: if matches!(file_type, FileType::File | FileType::Directory | FileType::Symlink) {
                self.size()
            } else {
                0
            },
            mode: u32::from(bytes::le16(&self.raw, 0)) & 0o7777,
            uid: wide(2, 0x78),
            gid: wide(0x18, 0x7a),
            modified: self.modified(),
            links: u64::from(bytes::le16(&self.raw, 0x1a)),
            device,
        }
    }

    fn modified(&self) -> Time {
        let seconds = i64::from(bytes::le32(&self.raw, 0x10).cast_signed());
        if self.raw.len() <= 128 || self.extra() < 0x88 + 4 - 128 {
            return Time { seconds, nanoseconds: 0 };
        }
        let extra = bytes::le32(&self.raw, 0x88);
        Time { seconds: seconds + (i64::from(extra & 3) << 32), nanoseconds: (extra >> 2).min(999_999_999) }
    }

    /// The number is in the first word in the old encoding, or in the second in the new one.
    fn device(&self) -> (u32, u32) {
        let (old, new) = (bytes::le32(&self.raw, 0x28), bytes::le32(&self.raw, 0x2c));
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
    }

    /// Where the content at `offset` lies.
    pub(super) fn map(&self, disk: &Disk, superblock: &Superblock, offset: u64, length: u64) -> Result<Run> {
        let block_bytes = superblock.block_bytes;
        let block = offset / block_bytes;
        let within = offset % block_bytes;
        let wanted = (within.saturating_add(length)).div_ceil(block_bytes).max(1);
        let (start, count) = if self.flags() & FLAG_EXTENTS != 0 {
            self.map_extents(disk, superblock, block)?
        } else {
            self.map_blocks(disk, superblock, block, wanted)?
        };
        let length = count.min(wanted).saturating_mul(block_bytes).saturating_sub(within).min(length).max(1);
        let place = match start {
            None => None,
            Some(start) if start.checked_add(count).is_none_or(|end| end > superblock.blocks) => {
                return Err(self.corrupt("its content lies outside the file system"));
            }
            Some(start) => Some(start * block_bytes + within),
        };
        Ok(Run { length, place })
    }

    /// First block on the disk (`None`: a hole) and number of blocks, from `block` of the file on.
    fn map_extents(&self, disk: &Disk, superblock: &Superblock, block: u64) -> Result<(Option<u64>, u64)> {
        let mut node = bytes::part(&self.raw, 0x28, 60).to_vec();
        let mut depth_before = DEPTH_MAX + 1;
        // The first block that belongs to what comes behind this part of the tree.
        let mut end = 1_u64 << 32;
        if block >= end {
            return Ok((None, u64::MAX));
        }
        loop {
            if bytes::le16(&node, 0) != EXTENT_MAGIC {
                return Err(self.corrupt("a node of its extent tree has no signature"));
            }
            let (count, depth) = (usize::from(bytes::le16(&node, 2)), bytes::le16(&node, 6));
            if depth >= depth_before || 12 + count * 12 > node.len() {
                return Err(self.corrupt("a node of its extent tree makes no sense"));
            }
            depth_before = depth;
            let entries: Vec<&[u8]> = bytes::part(&node, 12, count * 12).chunks_exact(12).collect();
            let first = |entry: &&[u8]| u64::from(bytes::le32(entry, 0));
            let after = entries.partition_point(|entry| first(entry) <= block);
            if let Some(next) = entries.get(after) {
                end = end.min(first(next));
            }
            let entry = after.checked_sub(1).and_then(|index| entries.get(index));
            let Some(entry) = entry else {
                return Ok((None, end.saturating_sub(block).max(1)));
            };
            if depth > 0 {
                let child = u64::from(bytes::le16(entry, 8)) << 32 | u64::from(bytes::le32(entry, 4));
                node = disk
                    .bytes(child.saturating_mul(superblock.block_bytes), superblock.block_bytes as usize)?;
                self.check_extent_node(&node, superblock)?;
                continue;
            }
            let (start, raw_length) = (first(entry), u64::from(bytes::le16(entry, 4)));
            let (length, written) =
                if raw_length > 0x8000 { (raw_length - 0x8000, false) } else { (raw_length, true) };
            if block >= start + length {
                return Ok((None, end.saturating_sub(block).max(1)));
            }
            let place = u64::from(bytes::le16(entry, 6)) << 32 | u64::from(bytes::le32(entry, 8));
            let rest = start + length - block;
            return Ok((written.then_some(place + (block - start)), rest));
        }
    }

    fn check_extent_node(&self, node: &[u8], superblock: &Superblock) -> Result<()> {
        if !superblock.verifies() {
            return Ok(());
        }
        let end = 12 + usize::from(bytes::le16(node, 4)) * 12;
        let seed = crc::crc32c(superblock.seed, &self.number.to_le_bytes());
        let seed = crc::crc32c(seed, bytes::part(&self.raw, 0x64, 4));
        if end + 4 > node.len() || crc::crc32c(seed, bytes::part(node, 0, end)) != bytes::le32(node, end) {
            return Err(self.corrupt("the checksum of its extent tree does not match"));
        }
        Ok(())
    }

    /// The same by the map of blocks of ext2 and ext3: twelve direct ones, and trees of one, two and three levels.
    fn map_blocks(
        &self,
        disk: &Disk,
        superblock: &Superblock,
        block: u64,
        wanted: u64,
    ) -> Result<(Option<u64>, u64)> {
        let per_block = superblock.block_bytes / 4;
        let slot = |index: u64| u64::from(bytes::le32(&self.raw, 0x28 + 4 * index as usize));
        if block < 12 {
            let direct: Vec<u64> = (block..12).map(slot).collect();
            return Ok(run(&direct, wanted));
        }
        let mut rest = block - 12;
        for level in 1..=3_u32 {
            let span = per_block.pow(level);
            if rest >= span {
                rest -= span;
                continue;
            }
            let mut pointer = slot(11 + u64::from(level));
            for depth in (0..level).rev() {
                let below = per_block.pow(depth);
                if pointer == 0 {
                    // Nothing below this pointer: a hole up to its end.
                    let whole = below.saturating_mul(per_block);
                    return Ok((None, whole - rest % whole));
                }
                let table = disk
                    .bytes(pointer.saturating_mul(superblock.block_bytes), superblock.block_bytes as usize)?;
                let index = (rest / below % per_block) as usize;
                if depth == 0 {
                    let blocks: Vec<u64> = (index..per_block as usize)
                        .map(|at| u64::from(bytes::le32(&table, at * 4)))
                        .collect();
                    return Ok(run(&blocks, wanted));
                }
                pointer = u64::from(bytes::le32(&table, index * 4));
            }
            return Ok((None, 1));
        }
        Ok((None, u64::MAX))
    }

    /// Content that lies in the inode: sixty bytes, and the rest in an attribute.
    pub(super) fn inline(&self) -> Result<Vec<u8>> {
        let mut content = bytes::part(&self.raw, 0x28, 60).to_vec();
        let rest =
            self.inode_attributes()?.into_iter().find(|(prefix, name, _)| *prefix == 7 && name == b"data");
        content.extend(rest.map(|(_, _, value)| value).unwrap_or_default());
        content.truncate(self.size().min(content.len() as u64) as usize);
        Ok(content)
    }

    /// The target of a short link lies where else the map of blocks is.
    pub(super) fn short_link(&self) -> Option<Vec<u8>> {
        let size = self.size();
        let is_short = size < 60 && self.flags() & FLAG_EXTENTS == 0 && !self.is_inline();
        is_short.then(|| bytes::part(&self.raw, 0x28, size as usize).to_vec())
    }

    fn inode_attributes(&self) -> Result<Vec<Attribute>> {
        let start = 128 + usize::from(self.extra());
        if self.raw.len() <= 128 || bytes::le32(&self.raw, start) != ATTRIBUTES_MAGIC {
            return Ok(Vec::new());
        }
        let area = self.raw.get(start + 4..).unwrap_or_default();
        self.entries(area, area)?.into_iter().map(|entry| self.in_place(entry, area)).collect()
    }

    /// The entries of a list: prefix, name, offset of the value, inode of the value, its length.
    fn entries(&self, list: &[u8], values: &[u8]) -> Result<Vec<Slot>> {
        let (mut place, mut found) = (0, Vec::new());
        while bytes::le32(list, place) != 0 && place + 16 <= list.len() {
            let name_bytes = usize::from(bytes::byte(list, place));
            let slot = Slot {
                prefix: bytes::byte(list, place + 1),
                name: bytes::part(list, place + 16, name_bytes).to_vec(),
                offset: usize::from(bytes::le16(list, place + 2)),
                inode: bytes::le32(list, place + 4),
                length: u64::from(bytes::le32(list, place + 8)),
            };
            if slot.name.len() != name_bytes || slot.length > VALUE_MAX.max(values.len() as u64) {
                return Err(self.corrupt("an extended attribute makes no sense"));
            }
            found.push(slot);
            place += (16 + name_bytes).next_multiple_of(4);
        }
        Ok(found)
    }

    fn in_place(&self, slot: Slot, values: &[u8]) -> Result<Attribute> {
        let value = if slot.inode == 0 {
            bytes::part(values, slot.offset, slot.length as usize).to_vec()
        } else {
            Vec::new()
        };
        if slot.inode == 0 && value.len() as u64 != slot.length {
            return Err(self.corrupt("the value of an extended attribute lies outside its block"));
        }
        Ok((slot.prefix, slot.name, value))
    }

    /// All extended attributes, with their prefixes in words.
    pub(super) fn attributes(&self, disk: &Disk, superblock: &Superblock) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        let start = 128 + usize::from(self.extra());
        if self.raw.len() > 128 && bytes::le32(&self.raw, start) == ATTRIBUTES_MAGIC {
            let area = self.raw.get(start + 4..).unwrap_or_default();
            for slot in self.entries(area, area)? {
                found.push(self.value(slot, area, disk, superblock)?);
            }
        }
        let block = u64::from(bytes::le16(&self.raw, 0x76)) << 32 | u64::from(bytes::le32(&self.raw, 0x68));
        if block != 0 {
            let block =
                disk.bytes(block.saturating_mul(superblock.block_bytes), superblock.block_bytes as usize)?;
            if bytes::le32(&block, 0) != ATTRIBUTES_MAGIC {
                return Err(self.corrupt("its block of extended attributes has no signature"));
            }
            for slot in self.entries(block.get(32..).unwrap_or_default(), &block)? {
                found.push(self.value(slot, &block, disk, superblock)?);
            }
        }
        let named = found.into_iter().filter_map(|(prefix, name, value)| {
            let prefix: &[u8] = match prefix {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                8 => b"system.richacl",
                _ => return None,
            };
            Some(([prefix, &name].concat(), value))
        });
        Ok(named.collect())
    }

    /// A value may have an inode of its own.
    fn value(&self, slot: Slot, values: &[u8], disk: &Disk, superblock: &Superblock) -> Result<Attribute> {
        if slot.inode == 0 {
            return self.in_place(slot, values);
        }
        let inode = Self::read(disk, superblock, slot.inode, self.kind)?;
        if inode.flags() & FLAG_VALUE == 0 || inode.size() < slot.length {
            return Err(self.corrupt("the value of an extended attribute is not where it should be"));
        }
        let mut value = vec![0; slot.length as usize];
        disk.read_runs(&mut value, 0, slot.length, |offset, length| {
            inode.map(disk, superblock, offset, length)
        })?;
        Ok((slot.prefix, slot.name, value))
    }
}

struct Slot {
    prefix: u8,
    name: Vec<u8>,
    offset: usize,
    inode: u32,
    length: u64,
}

/// How many of the blocks follow each other on the disk, or are holes together.
fn run(blocks: &[u64], wanted: u64) -> (Option<u64>, u64) {
    let first = blocks.first().copied().unwrap_or(0);
    let follows = (0_u64..)
        .zip(blocks)
        .take_while(|(index, block)| **block == if first == 0 { 0 } else { first + index });
    let count = (follows.count() as u64).min(wanted).max(1);
    ((first != 0).then_some(first), count)
}
