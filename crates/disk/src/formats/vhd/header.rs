//! The header of dynamic and differencing images.
//!
//! | offset | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 8 | `cxsparse` |
//! | 16 | 8 | place of the block table |
//! | 24 | 4 | version: major, minor |
//! | 28 | 4 | entries of the block table |
//! | 32 | 4 | bytes per block, without its bitmap |
//! | 36 | 4 | checksum |
//! | 40 | 16 | UUID of the parent |
//! | 64 | 512 | name of the parent, UTF-16 |
//! | 576 | 8 × 24 | where the parent may be found: platform, (4), length, (4), place |

use super::super::bytes::{array, be16, be32, be64};
use super::super::image_file::ImageFile;
use super::footer::{Footer, checksum, names_header};
use crate::Result;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 1024;
const SECTOR_BYTES: u64 = 512;
const LOCATORS: usize = 8;
/// Blocks are 2 MiB by default, 512 KiB in older images.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 512..=256 << 20;

/// Where a parent may be found, in the words of one platform.
pub(super) struct Locator {
    /// `W2ru`, `W2ku`, `MacX` …
    pub(super) platform: [u8; 4],
    /// Bytes of the text.
    pub(super) length: u32,
    /// Place of the text in the file.
    pub(super) offset: u64,
}

/// What a header says, checked.
pub(super) struct Header {
    /// Place of the block table.
    pub(super) table_offset: u64,
    /// Blocks that the disk needs; entries of the table beyond them mean nothing.
    pub(super) blocks: u64,
    /// Bytes per block, without its bitmap.
    pub(super) block_bytes: u64,
    /// Bytes of a block's bitmap: whole sectors.
    pub(super) bitmap_bytes: u64,
    /// UUID of the parent.
    pub(super) parent_uuid: [u8; 16],
    /// Name of the parent, as UTF-16.
    pub(super) parent_name: Vec<u16>,
    /// Where to look for the parent.
    pub(super) locators: Vec<Locator>,
}

impl Header {
    /// Reads and checks the header that `footer` points to.
    pub(super) fn read(file: &ImageFile, footer: &Footer) -> Result<Self> {
        if !names_header(footer.header_offset) {
            return Err(
                file.corrupt(format!("the footer puts the header at offset {}", footer.header_offset))
            );
        }
        let bytes = file.read("the header", footer.header_offset, HEADER_BYTES)?;
        if !bytes.starts_with(b"cxsparse") || checksum(&bytes, 36) != be32(&bytes, 36) {
            return Err(file.corrupt(format!(
                "the header at offset {} has a wrong cookie or checksum — copy the image again",
                footer.header_offset
            )));
        }
        if be16(&bytes, 24) != 1 {
            return Err(file.unsupported(format!(
                "header version {}.{}",
                be16(&bytes, 24),
                be16(&bytes, 26)
            )));
        }
        Self::parse(file, &bytes, footer.disk_bytes)
    }

    fn parse(file: &ImageFile, bytes: &[u8], disk_bytes: u64) -> Result<Self> {
        let block_bytes = u64::from(be32(bytes, 32));
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(file.unsupported(format!("blocks of {block_bytes} bytes")));
        }
        let (blocks, entries) = (disk_bytes.div_ceil(block_bytes), u64::from(be32(bytes, 28)));
        if entries < blocks {
            return Err(file.corrupt(format!(
                "a disk of {disk_bytes} bytes needs {blocks} blocks of {block_bytes} bytes, but the table has {entries} entries"
            )));
        }
        Ok(Self {
            table_offset: be64(bytes, 16),
            blocks,
            block_bytes,
            bitmap_bytes: (block_bytes / SECTOR_BYTES).div_ceil(8).next_multiple_of(SECTOR_BYTES),
            parent_uuid: array(bytes, 40).unwrap_or_default(),
            parent_name: (64..576)
                .step_by(2)
                .map(|at| be16(bytes, at))
                .take_while(|unit| *unit != 0)
                .collect(),
            locators: (0..LOCATORS).map(|index| locator(bytes, 576 + 24 * index)).collect(),
        })
    }
}

fn locator(bytes: &[u8], at: usize) -> Locator {
    Locator {
        platform: array(bytes, at).unwrap_or_default(),
        length: be32(bytes, at + 8),
        offset: be64(bytes, at + 16),
    }
}
