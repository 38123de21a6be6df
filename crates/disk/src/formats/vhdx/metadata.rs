//! The metadata: what the disk is; [MS-VHDX] 2.6.

use super::super::bytes::{le16, le32, le64};
use super::super::image_file::ImageFile;
use super::MIB;
use super::guid::Guid;
use super::region::Region;
use crate::Result;

const TABLE_BYTES: u64 = 64 << 10;
const ENTRIES_MAX: u16 = 2047;
/// The largest item that is kept: the parent locator is the only one of more than 16 bytes.
const ITEM_BYTES_MAX: u32 = 1 << 20;
pub(super) const DISK_BYTES_MAX: u64 = 64 << 40;
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = MIB..=256 * MIB;
const REQUIRED: u32 = 4;

pub(super) const FILE_PARAMETERS: Guid =
    Guid::new(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
pub(super) const DISK_SIZE: Guid =
    Guid::new(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
pub(super) const DISK_ID: Guid =
    Guid::new(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
pub(super) const LOGICAL_SECTOR: Guid =
    Guid::new(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
pub(super) const PHYSICAL_SECTOR: Guid =
    Guid::new(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const PARENT_LOCATOR: Guid =
    Guid::new(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);

/// What the metadata says, checked.
pub(super) struct Metadata {
    /// Size of the disk.
    pub(super) disk_bytes: u64,
    /// Bytes per block.
    pub(super) block_bytes: u64,
    /// Bytes per sector, as the guest sees it and bitmaps count it.
    pub(super) sector_bytes: u64,
    /// Whether blocks stay where they are: a fixed image.
    pub(super) fixed: bool,
    /// The parent locator of a differencing image.
    pub(super) parent: Option<Vec<u8>>,
}

impl Metadata {
    /// Reads and checks the metadata.
    pub(super) fn read(file: &ImageFile, region: Region) -> Result<Self> {
        let items = Items {
            file,
            region,
            table: file.read("the metadata table", region.offset, TABLE_BYTES as usize)?,
        };
        items.check()?;
        let parameters = items.required(FILE_PARAMETERS, "file parameters", 8)?;
        let flags = le32(&parameters, 4);
        let metadata = Self {
            disk_bytes: le64(&items.required(DISK_SIZE, "disk size", 8)?, 0),
            block_bytes: le32(&parameters, 0).into(),
            sector_bytes: le32(&items.required(LOGICAL_SECTOR, "logical sector size", 4)?, 0).into(),
            fixed: flags & 1 != 0,
            parent: match flags & 2 {
                0 => None,
                _ => Some(items.required(PARENT_LOCATOR, "parent locator", 20)?),
            },
        };
        metadata.check(file)?;
        Ok(metadata)
    }

    fn check(&self, file: &ImageFile) -> Result<()> {
        if !self.block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&self.block_bytes) {
            return Err(file.corrupt(format!("blocks of {} bytes", self.block_bytes)));
        }
        if self.sector_bytes != 512 && self.sector_bytes != 4096 {
            return Err(file.corrupt(format!("sectors of {} bytes", self.sector_bytes)));
        }
        if self.disk_bytes > DISK_BYTES_MAX || !self.disk_bytes.is_multiple_of(self.sector_bytes) {
            return Err(file.corrupt(format!("the size of the disk is {} bytes", self.disk_bytes)));
        }
        Ok(())
    }
}

struct Items<'a> {
    file: &'a ImageFile,
    region: Region,
    table: Vec<u8>,
}

impl Items<'_> {
    fn places(&self) -> impl Iterator<Item = usize> {
        (32..).step_by(32).take(le16(&self.table, 10).into())
    }

    fn check(&self) -> Result<()> {
        if !self.table.starts_with(b"metadata") || le16(&self.table, 10) > ENTRIES_MAX {
            return Err(self.file.corrupt(format!(
                "the metadata table at offset {} has a wrong signature or count",
                self.region.offset
            )));
        }
        let known = [FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR];
        for at in self.places() {
            let guid = Guid::at(&self.table, at);
            if le32(&self.table, at + 24) & REQUIRED != 0 && !known.contains(&guid) {
                return Err(self.file.unsupported(format!("the metadata item {guid}")));
            }
        }
        Ok(())
    }

    /// An item of at least `least` bytes.
    fn required(&self, guid: Guid, name: &str, least: u32) -> Result<Vec<u8>> {
        let mut found = self.places().filter(|at| Guid::at(&self.table, *at) == guid);
        let (Some(at), None) = (found.next(), found.next()) else {
            return Err(self.file.corrupt(format!("the metadata has no {name}, or more than one")));
        };
        let (offset, length) = (u64::from(le32(&self.table, at + 16)), le32(&self.table, at + 20));
        let fits = offset >= TABLE_BYTES && offset + u64::from(length) <= self.region.length;
        if !fits || length < least || length > ITEM_BYTES_MAX {
            return Err(self.file.corrupt(format!(
                "the {name} at offset {offset} of the metadata ({length} bytes) does not lie inside it"
            )));
        }
        self.file.read(name, self.region.offset + offset, length as usize)
    }
}
