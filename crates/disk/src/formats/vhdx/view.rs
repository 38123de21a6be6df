//! A disk as the bytes of a dynamic VHDX, to be had at any position, before anything is written.
//!
//! The source is [MS-VHDX]. Where everything lies follows from which blocks of the disk hold data: headers, region tables, an empty
//! log, the metadata and the block table come first, then the blocks with data in their order. Blocks are larger on large disks, so
//! the block table has 8 MiB at most.

use super::MIB;
use super::crc32c::crc32c_without_own;
use super::guid::Guid;
use super::metadata::{DISK_BYTES_MAX, DISK_ID, DISK_SIZE, FILE_PARAMETERS, LOGICAL_SECTOR, PHYSICAL_SECTOR};
use super::region::{BLOCK_TABLE, METADATA};
use crate::formats::data_map::{DataMap, read_padded};
use crate::source::check_range;
use crate::{Error, Result, SharedSource, Storage};

/// The smallest block: 2 MiB.
const BLOCK_BITS_MIN: u32 = 21;
/// The largest that there is: 256 MiB.
const BLOCK_BITS_MAX: u32 = 28;
/// Blocks of a disk, at most, before they are made larger.
const BLOCKS_MAX: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;
/// Sectors of a chunk, behind whose blocks the table has an entry for another kind of block.
const CHUNK_SECTORS: u64 = 1 << 23;

const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;
const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];
const TABLE_BYTES: usize = 64 << 10;
const LOG_OFFSET: u64 = MIB;
const METADATA_OFFSET: u64 = 2 * MIB;
const BLOCK_TABLE_OFFSET: u64 = 3 * MIB;

/// State of a block that is there with all its sectors.
const PRESENT: u64 = 6;
const IS_REQUIRED: u32 = 4;
const IS_OF_DISK: u32 = 2;

/// A disk as the bytes of a dynamic VHDX.
pub struct VhdxView {
    source: SharedSource,
    name: String,
    block_bits: u32,
    map: DataMap,
    /// All that comes before the blocks.
    head: Vec<u8>,
}

impl VhdxView {
    /// Looks at all extents of a disk, whose data must not change from now on. The image's disk is rounded up to sectors of 512
    /// bytes. `identity` tells this content from others.
    ///
    /// # Errors
    /// The disk cannot be read, is empty, or is larger than 64 TiB.
    pub fn new(source: SharedSource, name: &str, identity: &[u8; 16]) -> Result<Self> {
        let size = source.virtual_size();
        if size == 0 || size > DISK_BYTES_MAX {
            return Err(Error::Invalid {
                path: name.to_owned(),
                what: format!(
                    "a disk of {size} bytes cannot be a VHDX, which has one byte at least and 64 TiB at most"
                ),
            });
        }
        let fits = |bits: &u32| size.div_ceil(1_u64 << bits) <= BLOCKS_MAX;
        let block_bits = (BLOCK_BITS_MIN..BLOCK_BITS_MAX).find(fits).unwrap_or(BLOCK_BITS_MAX);
        let map = DataMap::of(source.as_ref(), block_bits)?;
        let blocks = size.div_ceil(1 << block_bits);
        let table = block_table(&map, blocks, block_bits);
        let mut head = vec![0; BLOCK_TABLE_OFFSET as usize];
        head[..8].copy_from_slice(b"vhdxfile");
        for (sequence, place) in (1..).zip(HEADERS) {
            head[place..place + HEADER_BYTES].copy_from_slice(&header(sequence, identity));
        }
        for place in REGION_TABLES {
            head[place..place + TABLE_BYTES].copy_from_slice(&region_table(table.len() as u64));
        }
        let metadata = metadata(size.next_multiple_of(SECTOR_BYTES), 1 << block_bits, identity);
        let place = METADATA_OFFSET as usize;
        head[place..place + metadata.len()].copy_from_slice(&metadata);
        head.extend(table);
        Ok(Self { source, name: name.to_owned(), block_bits, map, head })
    }

    /// Bytes of the disk in blocks that hold data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.map.total() << self.block_bits
    }
}

impl Storage for VhdxView {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.head.len() as u64 + self.data_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.size())?;
        let (head, block_bytes) = (self.head.len() as u64, 1 << self.block_bits);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = &mut buffer[done..];
            done += if let Some(in_blocks) = at.checked_sub(head) {
                let within = in_blocks % block_bytes;
                let length = rest.len().min((block_bytes - within) as usize);
                let block = self.map.select(in_blocks >> self.block_bits);
                read_padded(self.source.as_ref(), &mut rest[..length], block * block_bytes + within)?;
                length
            } else {
                let there = &self.head[at as usize..];
                let length = there.len().min(rest.len());
                rest[..length].copy_from_slice(&there[..length]);
                length
            };
        }
        Ok(())
    }
}

/// The block table, on whole MiB.
fn block_table(map: &DataMap, blocks: u64, block_bits: u32) -> Vec<u8> {
    let ratio = (CHUNK_SECTORS * SECTOR_BYTES) >> block_bits;
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    let length = (entries * 8).next_multiple_of(MIB);
    let mut place = BLOCK_TABLE_OFFSET + length;
    let mut bytes = Vec::with_capacity(length as usize);
    for block in 0..blocks {
        let is_there = map.holds(block);
        bytes.extend(if is_there { place | PRESENT } else { 0 }.to_le_bytes());
        place += if is_there { 1 << block_bits } else { 0 };
        if (block + 1) % ratio == 0 {
            // Bitmaps of sectors are for images with a parent.
            bytes.extend([0; 8]);
        }
    }
    bytes.resize(length as usize, 0);
    bytes
}

fn put(bytes: &mut [u8], offset: usize, content: &[u8]) {
    bytes[offset..offset + content.len()].copy_from_slice(content);
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c_without_own(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// A GUID of this content: they differ by `kind`.
fn guid(identity: &[u8; 16], kind: u8) -> [u8; 16] {
    let mut bytes = *identity;
    bytes[0] ^= kind;
    // Of version 8 (RFC 9562): what it is made of is its maker's own.
    bytes[7] = bytes[7] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

/// A header. Its layout is in `header.rs`. No entry of the log counts.
fn header(sequence: u64, identity: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    put(&mut bytes, 0, b"head");
    put(&mut bytes, 8, &sequence.to_le_bytes());
    put(&mut bytes, 16, &guid(identity, 1));
    put(&mut bytes, 32, &guid(identity, 2));
    put(&mut bytes, 66, &1_u16.to_le_bytes());
    put(&mut bytes, 68, &(MIB as u32).to_le_bytes());
    put(&mut bytes, 72, &LOG_OFFSET.to_le_bytes());
    sealed(bytes)
}

fn region_table(block_table_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![0; TABLE_BYTES];
    put(&mut bytes, 0, b"regi");
    put(&mut bytes, 8, &2_u32.to_le_bytes());
    let regions = [(BLOCK_TABLE, BLOCK_TABLE_OFFSET, block_table_bytes), (METADATA, METADATA_OFFSET, MIB)];
    for (at, (guid, offset, length)) in (16..).step_by(32).zip(regions) {
        put(&mut bytes, at, &guid.0);
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &(length as u32).to_le_bytes());
        put(&mut bytes, at + 28, &1_u32.to_le_bytes());
    }
    sealed(bytes)
}

/// The table of the metadata and its items, behind each other.
fn metadata(disk_bytes: u64, block_bytes: u64, identity: &[u8; 16]) -> Vec<u8> {
    // Blocks may move, and there is no parent.
    let parameters = [(block_bytes as u32).to_le_bytes(), [0; 4]].concat();
    let sector = (SECTOR_BYTES as u32).to_le_bytes().to_vec();
    let items: [(Guid, Vec<u8>, u32); 5] = [
        (FILE_PARAMETERS, parameters, IS_REQUIRED),
        (DISK_SIZE, disk_bytes.to_le_bytes().to_vec(), IS_REQUIRED | IS_OF_DISK),
        (DISK_ID, guid(identity, 0).to_vec(), IS_REQUIRED | IS_OF_DISK),
        (LOGICAL_SECTOR, sector.clone(), IS_REQUIRED | IS_OF_DISK),
        (PHYSICAL_SECTOR, sector, IS_REQUIRED | IS_OF_DISK),
    ];
    let mut bytes = vec![0; TABLE_BYTES];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    for (at, (guid, content, flags)) in (32..).step_by(32).zip(items) {
        let offset = bytes.len() as u32;
        put(&mut bytes, at, &guid.0);
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 20, &(content.len() as u32).to_le_bytes());
        put(&mut bytes, at + 24, &flags.to_le_bytes());
        bytes.extend(content);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::data_map::disks::{Disk, assert_ranged, byte};
    use crate::{Format, MemoryStorage, OpenOptions, open_storage};

    fn every_byte_comes_back(size: u64, grain: u64, is_data: fn(u64) -> bool) {
        let disk: SharedSource = Arc::new(Disk { size, grain, is_data });
        let view = VhdxView::new(Arc::clone(&disk), "view", &[7; 16]).unwrap();
        let whole = assert_ranged(&view);
        let image = open_storage(
            Arc::new(MemoryStorage::new("image", whole)),
            &OpenOptions::with_format(Format::Vhdx),
        )
        .unwrap();
        assert_eq!(image.virtual_size(), size.next_multiple_of(512));
        let (mut expected, mut found) = (vec![0; size as usize], vec![0; size as usize]);
        disk.read_at(&mut expected, 0).unwrap();
        image.read_at(&mut found, 0).unwrap();
        assert!(expected == found);
    }

    #[test]
    fn a_disk_of_any_shape_comes_back() {
        every_byte_comes_back(1, 4096, |_| true);
        every_byte_comes_back(512, 4096, |_| false);
        every_byte_comes_back((7 << 20) + 4095, 1 << 16, |_| true);
        every_byte_comes_back((64 << 20) + 1, 1 << 21, |place| place % 3 == 1);
        every_byte_comes_back(32 << 20, 4096, |place| place % 1531 == 0);
    }

    #[test]
    fn a_large_disk_is_a_small_image_and_one_too_large_is_refused() {
        let disk = |size, is_data| -> SharedSource { Arc::new(Disk { size, grain: 1 << 34, is_data }) };
        for size in [1 << 40, DISK_BYTES_MAX] {
            let empty = VhdxView::new(disk(size, |_| false), "view", &[0; 16]).unwrap();
            assert!(empty.size() <= 13 << 20, "{}", empty.size());
            let full = VhdxView::new(disk(size, |_| true), "view", &[0; 16]).unwrap();
            let mut last = [0];
            full.read_at(&mut last, full.size() - 1).unwrap();
            assert_eq!((full.data_bytes(), last[0]), (size, byte(size - 1)));
        }
        for size in [0, DISK_BYTES_MAX + 1] {
            let refused = VhdxView::new(disk(size, |_| false), "view", &[0; 16]).err().unwrap();
            assert!(matches!(refused, Error::Invalid { .. }), "{size}");
        }
    }
}
