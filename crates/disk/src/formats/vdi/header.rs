//! The header of a VDI.
//!
//! | offset | bytes | meaning |
//! | --- | --- | --- |
//! | 0 | 64 | text for people |
//! | 64 | 4 | signature |
//! | 68 | 4 | version: minor, major |
//! | 72 | 4 | bytes of the header from here on |
//! | 76 | 4 | kind: 1 dynamic, 2 fixed, 3 undo, 4 differencing |
//! | 340 | 4 | place of the block table |
//! | 344 | 4 | place of the blocks |
//! | 368 | 8 | size of the disk in bytes |
//! | 376 | 4 | bytes per block |
//! | 380 | 4 | bytes before each block (never used by known writers) |
//! | 384 | 4 | blocks of the disk |
//! | 424, 440 | 16, 16 | UUIDs of the parent and of its last change; zero in a base image |

use super::super::bytes::{array, le16, le32, le64};
use super::super::image_file::ImageFile;
use crate::Result;

/// Place of the signature in the file.
pub(super) const SIGNATURE_OFFSET: u64 = 64;
/// The signature.
pub(super) const SIGNATURE: u32 = 0xbeda_107f;

const KIND_DYNAMIC: u32 = 1;
const KIND_FIXED: u32 = 2;
/// What is read of the header: all that matters lies before it.
const HEADER_BYTES: usize = 456;
/// Smallest and largest block that makes sense; VirtualBox and qemu write 1 MiB.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 4096..=256 << 20;
const SECTOR_BYTES: u64 = 512;

/// What a header says, checked.
pub(super) struct Header {
    /// First byte after the header.
    pub(super) end: u64,
    /// `dynamic` or `fixed`.
    pub(super) kind: &'static str,
    /// Place of the block table.
    pub(super) table_offset: u64,
    /// Place of the first block.
    pub(super) data_offset: u64,
    /// Size of the disk: whole sectors.
    pub(super) disk_bytes: u64,
    /// Bytes per block.
    pub(super) block_bytes: u64,
    /// Blocks that the disk needs; entries of the table beyond them mean nothing.
    pub(super) blocks: u64,
}

impl Header {
    /// Reads and checks the header.
    pub(super) fn read(file: &ImageFile) -> Result<Self> {
        let bytes = file.read("the header", 0, HEADER_BYTES)?;
        let (minor, major) = (le16(&bytes, 68), le16(&bytes, 70));
        if (major, minor) != (1, 1) {
            return Err(file.unsupported(format!("version {major}.{minor}")));
        }
        let kind = kind(file, &bytes)?;
        let block_bytes = u64::from(le32(&bytes, 376));
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(file.unsupported(format!("blocks of {block_bytes} bytes")));
        }
        if le32(&bytes, 380) != 0 {
            return Err(file.unsupported(format!("{} bytes before each block", le32(&bytes, 380))));
        }
        let mut header = Self {
            end: 72 + u64::from(le32(&bytes, 72)),
            kind,
            table_offset: le32(&bytes, 340).into(),
            data_offset: le32(&bytes, 344).into(),
            disk_bytes: disk_bytes(file, le64(&bytes, 368))?,
            block_bytes,
            blocks: le32(&bytes, 384).into(),
        };
        header.check(file)?;
        header.blocks = header.disk_bytes.div_ceil(block_bytes);
        Ok(header)
    }

    fn check(&self, file: &ImageFile) -> Result<()> {
        let needed = self.disk_bytes.div_ceil(self.block_bytes);
        if self.blocks < needed {
            return Err(file.corrupt(format!(
                "a disk of {} bytes needs {needed} blocks of {} bytes, but the header counts {}",
                self.disk_bytes, self.block_bytes, self.blocks
            )));
        }
        if self.end < HEADER_BYTES as u64
            || self.table_offset < self.end
            || self.data_offset < self.table_offset
        {
            return Err(file.corrupt(format!(
                "header, block table and blocks do not follow each other: the header ends at {}, the table is at {}, the blocks at {}",
                self.end, self.table_offset, self.data_offset
            )));
        }
        Ok(())
    }
}

fn kind(file: &ImageFile, bytes: &[u8]) -> Result<&'static str> {
    let kind = match le32(bytes, 76) {
        KIND_DYNAMIC => "dynamic",
        KIND_FIXED => "fixed",
        3 => return Err(file.unsupported("its parent (it is an undo image)")),
        4 => {
            return Err(
                file.unsupported("its parent (it is a differencing image): merge the snapshots first")
            );
        }
        other => return Err(file.unsupported(format!("image type {other}"))),
    };
    let no_uuid = |offset| array::<16>(bytes, offset) == Some([0; 16]);
    if no_uuid(424) && no_uuid(440) {
        Ok(kind)
    } else {
        Err(file.unsupported("its parent (it has the UUID of one): merge the snapshots first"))
    }
}

/// `VBoxManage convertfromraw` writes sizes that end inside a sector; a guest sees the whole sector.
fn disk_bytes(file: &ImageFile, bytes: u64) -> Result<u64> {
    bytes
        .checked_next_multiple_of(SECTOR_BYTES)
        .ok_or_else(|| file.corrupt(format!("the size of the disk is {bytes} bytes")))
}
