//! The superblock and the group descriptors.

use crate::disk::Disk;
use crate::{Error, FileKind, OpenOptions, Result, bytes, crc};

pub(super) const COMPAT_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE2: u32 = 0x200;
const INCOMPAT_FILE_TYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_GROUPS: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_SEED: u32 = 0x2000;
/// File types, recovery, meta groups, extents, 64 bit, multiple mount protection, flexible groups, values of
/// attributes in inodes, seed of checksums, large directories, inline data, encryption (of single files), casefold.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;
const RO_SPARSE: u32 = 0x1;
const RO_CHECKSUMS: u32 = 0x400;

/// What the superblock says.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    inodes_per_group: u32,
    blocks_per_group: u64,
    first_data_block: u64,
    pub(super) inode_bytes: u64,
    descriptor_bytes: u64,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    first_meta_group: u64,
    backup_groups: (u32, u32),
    pub(super) uuid: [u8; 16],
    pub(super) label: Option<String>,
    pub(super) journal_inode: u32,
    pub(super) seed: u32,
    verify: bool,
}

/// The format that the features of a superblock make.
pub(crate) fn kind(block: &[u8]) -> FileKind {
    let (compat, incompat, ro) =
        (bytes::le32(block, 0x5c), bytes::le32(block, 0x60), bytes::le32(block, 0x64));
    if incompat & !0x16 != 0 || ro & !0x7 != 0 {
        FileKind::Ext4
    } else if compat & COMPAT_JOURNAL != 0 {
        FileKind::Ext3
    } else {
        FileKind::Ext2
    }
}

impl Superblock {
    /// Reads the superblock, at 1024 of every ext file system.
    pub(super) fn read(disk: &Disk, options: OpenOptions) -> Result<(Self, FileKind)> {
        let block = disk.bytes(1024, 1024)?;
        let kind = kind(&block);
        let corrupt = |what: String| Error::corrupt(kind.name(), what);
        if bytes::le16(&block, 0x38) != 0xef53 {
            return Err(corrupt("its superblock has no signature".to_owned()));
        }
        let incompat = bytes::le32(&block, 0x60);
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Error::unsupported(
                kind.name(),
                format!("the incompatible features {:#x}", incompat & !INCOMPAT_KNOWN),
            ));
        }
        let ro_compat = bytes::le32(&block, 0x64);
        let uuid = bytes::array(&block, 0x68).unwrap_or_default();
        let seed = if incompat & INCOMPAT_SEED != 0 {
            bytes::le32(&block, 0x270)
        } else {
            crc::crc32c(u32::MAX, &uuid)
        };
        let checked = ro_compat & RO_CHECKSUMS != 0;
        let verify = checked && !options.ignore_checksums;
        if verify && crc::crc32c(u32::MAX, bytes::part(&block, 0, 0x3fc)) != bytes::le32(&block, 0x3fc) {
            return Err(corrupt("the checksum of its superblock does not match".to_owned()));
        }
        let exponent = bytes::le32(&block, 0x18);
        if exponent > 6 {
            return Err(corrupt(format!("blocks of 2^{exponent} KiB")));
        }
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let high = if is_64bit { u64::from(bytes::le32(&block, 0x150)) << 32 } else { 0 };
        let dynamic = bytes::le32(&block, 0x4c) > 0;
        let superblock = Self {
            block_bytes: 1024 << exponent,
            blocks: high | u64::from(bytes::le32(&block, 4)),
            inodes: bytes::le32(&block, 0),
            inodes_per_group: bytes::le32(&block, 0x28),
            blocks_per_group: u64::from(bytes::le32(&block, 0x20)),
            first_data_block: u64::from(bytes::le32(&block, 0x14)),
            inode_bytes: if dynamic { u64::from(bytes::le16(&block, 0x58)) } else { 128 },
            descriptor_bytes: if is_64bit { u64::from(bytes::le16(&block, 0xfe)) } else { 32 },
            compat: bytes::le32(&block, 0x5c),
            incompat,
            ro_compat,
            first_meta_group: u64::from(bytes::le32(&block, 0x104)),
            backup_groups: (bytes::le32(&block, 0x24c), bytes::le32(&block, 0x250)),
            uuid,
            label: bytes::label(bytes::part(&block, 0x78, 16)),
            journal_inode: bytes::le32(&block, 0xe0),
            seed,
            verify,
        };
        if superblock.inodes_per_group == 0 || superblock.blocks_per_group == 0 {
            return Err(corrupt("groups without blocks or inodes".to_owned()));
        }
        if superblock.blocks.checked_mul(superblock.block_bytes).is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(corrupt(format!("{} blocks", superblock.blocks)));
        }
        let inode_bytes = superblock.inode_bytes;
        if !(128..=superblock.block_bytes).contains(&inode_bytes) || !inode_bytes.is_power_of_two() {
            return Err(corrupt(format!("inodes of {inode_bytes} bytes")));
        }
        if superblock.descriptor_bytes < 32 || superblock.descriptor_bytes > superblock.block_bytes {
            return Err(corrupt(format!("group descriptors of {} bytes", superblock.descriptor_bytes)));
        }
        Ok((superblock, kind))
    }

    pub(super) fn has_file_types(&self) -> bool {
        self.incompat & INCOMPAT_FILE_TYPE != 0
    }

    /// Whether checksums of metadata are there and to be looked at.
    pub(super) fn verifies(&self) -> bool {
        self.verify
    }

    /// Whether the journal holds changes that are not yet in their places.
    pub(super) fn needs_recovery(&self) -> bool {
        self.incompat & INCOMPAT_RECOVER != 0
    }

    pub(super) fn has_journal(&self) -> bool {
        self.compat & COMPAT_JOURNAL != 0
    }

    /// Where an inode lies on the disk.
    pub(super) fn inode_place(&self, disk: &Disk, number: u32, kind: FileKind) -> Result<u64> {
        if number == 0 || number > self.inodes {
            return Err(Error::corrupt(kind.name(), format!("there is no inode {number}")));
        }
        let group = u64::from((number - 1) / self.inodes_per_group);
        let index = u64::from((number - 1) % self.inodes_per_group);
        let descriptor = disk.bytes(self.descriptor_place(group), self.descriptor_bytes as usize)?;
        let high =
            if self.descriptor_bytes >= 64 { u64::from(bytes::le32(&descriptor, 0x28)) << 32 } else { 0 };
        let table = high | u64::from(bytes::le32(&descriptor, 8));
        let place =
            table.checked_mul(self.block_bytes).and_then(|place| place.checked_add(index * self.inode_bytes));
        place.ok_or_else(|| Error::corrupt(kind.name(), format!("group {group} has no table of inodes")))
    }

    fn descriptor_place(&self, group: u64) -> u64 {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let block = if self.incompat & INCOMPAT_META_GROUPS != 0 && group / per_block >= self.first_meta_group
        {
            let first = group / per_block * per_block;
            let behind = u64::from(self.has_superblock(first));
            first.saturating_mul(self.blocks_per_group).saturating_add(self.first_data_block + behind)
        } else {
            self.first_data_block + 1 + group / per_block
        };
        block.saturating_mul(self.block_bytes).saturating_add(group % per_block * self.descriptor_bytes)
    }

    fn has_superblock(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut value = base;
            while value < group {
                value *= base;
            }
            value == group
        };
        if group == 0 {
            true
        } else if self.compat & COMPAT_SPARSE2 != 0 {
            group == u64::from(self.backup_groups.0) || group == u64::from(self.backup_groups.1)
        } else if self.ro_compat & RO_SPARSE != 0 {
            group == 1 || is_power(3) || is_power(5) || is_power(7)
        } else {
            true
        }
    }
}
