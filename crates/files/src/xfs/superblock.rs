//! The superblock, and where numbers of blocks and inodes lead.

use crate::disk::Disk;
use crate::{Error, OpenOptions, Result, bytes, crc};

pub(super) const KIND: &str = "XFS";
const INCOMPAT_FILE_TYPES: u32 = 0x1;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// File types, sparse inodes, another UUID, times beyond 2038, needed repair, large counters of extents, exchange of
/// ranges, parent pointers.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80;
const VERSION_DIR2: u16 = 0x2000;
const VERSION_MORE: u16 = 0x8000;
const FEATURES2_FILE_TYPES: u32 = 0x200;

/// What the superblock says.
pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) root: u64,
    group_blocks: u64,
    groups: u64,
    pub(super) inode_bytes: u64,
    inodes_per_block_bits: u32,
    group_block_bits: u32,
    pub(super) directory_block_bytes: u64,
    pub(super) log_start: u64,
    pub(super) log_blocks: u64,
    pub(super) has_file_types: bool,
    /// Version 5: metadata describes itself and has checksums.
    pub(super) is_v5: bool,
    pub(super) needs_repair: bool,
    pub(super) uuid: [u8; 16],
    pub(super) label: Option<String>,
    verify: bool,
}

impl Superblock {
    pub(super) fn read(disk: &Disk, options: OpenOptions) -> Result<Self> {
        let block = disk.bytes(0, 512)?;
        let corrupt = |what: &str| Error::corrupt(KIND, what);
        let version = bytes::be16(&block, 100);
        let is_v5 = version & 0xf == 5;
        if !matches!(version & 0xf, 4 | 5) || (!is_v5 && version & VERSION_DIR2 == 0) {
            return Err(Error::unsupported(KIND, format!("version {} of the format", version & 0xf)));
        }
        let incompat = if is_v5 { bytes::be32(&block, 216) } else { 0 };
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Error::unsupported(
                KIND,
                format!("the incompatible features {:#x}", incompat & !INCOMPAT_KNOWN),
            ));
        }
        let block_bits = u32::from(bytes::byte(&block, 120));
        let inode_bits = u32::from(bytes::byte(&block, 122));
        let directory_bits = u32::from(bytes::byte(&block, 192));
        if !(9..=16).contains(&block_bits)
            || !(8..=11).contains(&inode_bits)
            || directory_bits > 16 - block_bits.min(16)
        {
            return Err(corrupt("blocks or inodes of an impossible size"));
        }
        let (inodes_per_block_bits, group_block_bits) =
            (u32::from(bytes::byte(&block, 123)), u32::from(bytes::byte(&block, 124)));
        if inodes_per_block_bits > 8 || !(1..=32).contains(&group_block_bits) {
            return Err(corrupt("groups of an impossible size"));
        }
        let has_file_types = if is_v5 {
            incompat & INCOMPAT_FILE_TYPES != 0
        } else {
            version & VERSION_MORE != 0 && bytes::be32(&block, 200) & FEATURES2_FILE_TYPES != 0
        };
        let superblock = Self {
            block_bytes: 1 << block_bits,
            blocks: bytes::be64(&block, 8),
            root: bytes::be64(&block, 56),
            group_blocks: u64::from(bytes::be32(&block, 84)),
            groups: u64::from(bytes::be32(&block, 88)),
            inode_bytes: 1 << inode_bits,
            inodes_per_block_bits,
            group_block_bits,
            directory_block_bytes: 1 << (block_bits + directory_bits),
            log_start: bytes::be64(&block, 48),
            log_blocks: u64::from(bytes::be32(&block, 96)),
            has_file_types,
            is_v5,
            needs_repair: incompat & INCOMPAT_NEEDS_REPAIR != 0,
            uuid: bytes::array(&block, 32).unwrap_or_default(),
            label: bytes::label(bytes::part(&block, 108, 12)),
            verify: is_v5 && !options.ignore_checksums,
        };
        if superblock.blocks > (i64::MAX as u64) >> block_bits {
            return Err(corrupt("more blocks than there can be"));
        }
        let sector_bytes = bytes::be16(&block, 102);
        if superblock.verify && sector_bytes.is_power_of_two() && (512..=32768).contains(&sector_bytes) {
            let sector = disk.bytes(0, usize::from(sector_bytes))?;
            superblock.check(&sector, 224, || "its superblock".to_owned())?;
        }
        Ok(superblock)
    }

    /// Compares the checksum of a piece of metadata, which lies at `place` in it.
    pub(super) fn check(&self, block: &[u8], place: usize, what: impl FnOnce() -> String) -> Result<()> {
        if self.verify && !crc::crc32c_without(u32::MAX, block, place, 4) != bytes::le32(block, place) {
            return Err(Error::corrupt(KIND, format!("the checksum of {} does not match", what())));
        }
        Ok(())
    }

    fn place(&self, group: u64, block: u64) -> Result<u64> {
        let whole = group.checked_mul(self.group_blocks).and_then(|first| first.checked_add(block));
        match whole {
            Some(whole) if group < self.groups && block < self.group_blocks && whole < self.blocks => {
                Ok(whole * self.block_bytes)
            }
            _ => Err(Error::corrupt(KIND, format!("there is no block {block} in group {group}"))),
        }
    }

    /// Where the block with this number, which holds its group, lies on the disk.
    pub(super) fn block_place(&self, number: u64) -> Result<u64> {
        self.place(number >> self.group_block_bits, number & ((1 << self.group_block_bits) - 1))
    }

    /// Where an inode lies on the disk.
    pub(super) fn inode_place(&self, number: u64) -> Result<u64> {
        let bits = self.group_block_bits + self.inodes_per_block_bits;
        let within = number & ((1 << bits) - 1);
        let index = within & ((1 << self.inodes_per_block_bits) - 1);
        let block = self.place(number >> bits, within >> self.inodes_per_block_bits)?;
        Ok(block + index * self.inode_bytes)
    }
}
