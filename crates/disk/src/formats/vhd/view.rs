//! A disk as the bytes of a VHD, to be had at any position, before anything is written.
//!
//! The source is Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0. Where everything lies follows from which
//! blocks of the disk hold data: in a *dynamic* image, a copy of the footer, the header and the block table come first, then the
//! blocks with data in their order, then the footer; a *fixed* one is the disk with a footer behind it.

use super::footer::{FOOTER_BYTES, GEOMETRY_MAX, Kind, NO_HEADER, checksum};
use super::header::HEADER_BYTES;
use crate::formats::data_map::{DataMap, read_padded};
use crate::source::check_range;
use crate::{Error, Result, SharedSource, Storage};

const SECTOR_BYTES: u64 = 512;
/// Blocks of 2 MiB, the usual ones.
const BLOCK_BITS: u32 = 21;
const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;
/// A bit for each of their sectors.
const BITMAP_BYTES: u64 = BLOCK_BYTES / SECTOR_BYTES / 8;
/// A block with its bitmap.
const SLOT_BYTES: u64 = BITMAP_BYTES + BLOCK_BYTES;
/// The block table stands behind the copy of the footer and the header.
const TABLE_OFFSET: u64 = FOOTER_BYTES + HEADER_BYTES as u64;
/// The largest disk: 2040 GiB.
const DISK_BYTES_MAX: u64 = 2040 << 30;
/// Azure takes disks of whole MiB only.
const FIXED_ALIGNMENT: u64 = 1 << 20;

/// Version 1.0, of the footer and of the header.
const VERSION: u32 = 0x1_0000;
/// Which program made it. Readers know by this whether the size counts or the geometry, which cannot express every size: the size
/// does in what Windows writes, so what is to be read like that is marked like that.
const CREATOR: &[u8; 4] = b"win ";
const CREATOR_VERSION: u32 = 0xa_0000;
const CREATOR_HOST: &[u8; 4] = b"Wi2k";
/// The feature bit that is always set.
const FEATURES: u32 = 2;

/// A disk as the bytes of a dynamic VHD. Memory: 8 bytes for each MiB of data, at most.
pub struct VhdView {
    source: SharedSource,
    name: String,
    map: DataMap,
    /// The copy of the footer, the header and the block table.
    head: Vec<u8>,
    footer: Vec<u8>,
}

impl VhdView {
    /// Looks at all extents of a disk, whose data must not change from now on. The image's disk is rounded up to sectors of 512
    /// bytes. `identity` tells this content from others.
    ///
    /// # Errors
    /// The disk cannot be read, is empty, or is larger than 2040 GiB.
    pub fn new(source: SharedSource, name: &str, identity: &[u8; 16]) -> Result<Self> {
        let disk_bytes = sized(name, source.virtual_size(), SECTOR_BYTES)?;
        let map = DataMap::of(source.as_ref(), BLOCK_BITS)?;
        let blocks = disk_bytes.div_ceil(BLOCK_BYTES);
        let data = (TABLE_OFFSET + blocks * 4).next_multiple_of(SECTOR_BYTES);
        let footer = footer(Kind::Dynamic, disk_bytes, identity);
        let mut head = footer.clone();
        head.extend(header(blocks));
        let mut place = data;
        for block in 0..blocks {
            let is_there = map.holds(block);
            let entry =
                if is_there { u32::try_from(place / SECTOR_BYTES).unwrap_or(u32::MAX) } else { u32::MAX };
            head.extend(entry.to_be_bytes());
            place += if is_there { SLOT_BYTES } else { 0 };
        }
        head.resize(data as usize, 0xff);
        Ok(Self { source, name: name.to_owned(), map, head, footer })
    }

    /// Bytes of the disk in blocks that hold data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.map.total() << BLOCK_BITS
    }

    fn footer_offset(&self) -> u64 {
        self.head.len() as u64 + self.map.total() * SLOT_BYTES
    }

    /// Fills what it can of a buffer from a position among the blocks on; returns how much that was.
    fn read_block(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let block = self.map.select(at / SLOT_BYTES);
        let within = at % SLOT_BYTES;
        let (is_bitmap, left) = match within.checked_sub(BITMAP_BYTES) {
            None => (true, BITMAP_BYTES - within),
            Some(_) => (false, SLOT_BYTES - within),
        };
        let length = left.min(buffer.len() as u64) as usize;
        let part = &mut buffer[..length];
        if is_bitmap {
            // All sectors of a block are there.
            part.fill(0xff);
        } else {
            read_padded(self.source.as_ref(), part, block * BLOCK_BYTES + within - BITMAP_BYTES)?;
        }
        Ok(length)
    }
}

impl Storage for VhdView {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.footer_offset() + FOOTER_BYTES
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.size())?;
        let (data, end) = (self.head.len() as u64, self.footer_offset());
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = &mut buffer[done..];
            done += match at {
                _ if at < data => copy(rest, &self.head, at),
                _ if at >= end => copy(rest, &self.footer, at - end),
                _ => {
                    let most = rest.len().min((end - at) as usize);
                    self.read_block(&mut rest[..most], at - data)?
                }
            };
        }
        Ok(())
    }
}

/// A disk as the bytes of a fixed VHD.
pub struct FixedVhdView {
    source: SharedSource,
    name: String,
    disk_bytes: u64,
    footer: Vec<u8>,
}

impl FixedVhdView {
    /// The disk of the image is rounded up to whole MiB, as Azure wants it. `identity` tells this content from others.
    ///
    /// # Errors
    /// The disk is empty, or larger than 2040 GiB.
    pub fn new(source: SharedSource, name: &str, identity: &[u8; 16]) -> Result<Self> {
        let disk_bytes = sized(name, source.virtual_size(), FIXED_ALIGNMENT)?;
        let footer = footer(Kind::Fixed, disk_bytes, identity);
        Ok(Self { source, name: name.to_owned(), disk_bytes, footer })
    }
}

impl Storage for FixedVhdView {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.disk_bytes + FOOTER_BYTES
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.size())?;
        let of_disk = self.disk_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (disk, rest) = buffer.split_at_mut(of_disk);
        read_padded(self.source.as_ref(), disk, offset)?;
        copy(rest, &self.footer, (offset + of_disk as u64).saturating_sub(self.disk_bytes));
        Ok(())
    }
}

/// Copies what stands at an offset of some bytes; returns how much that was.
fn copy(buffer: &mut [u8], bytes: &[u8], offset: u64) -> usize {
    let there = bytes.get(offset as usize..).unwrap_or_default();
    let length = there.len().min(buffer.len());
    buffer[..length].copy_from_slice(&there[..length]);
    length
}

/// The size of the image's disk.
fn sized(name: &str, size: u64, alignment: u64) -> Result<u64> {
    match size.next_multiple_of(alignment) {
        aligned if (1..=DISK_BYTES_MAX).contains(&aligned) => Ok(aligned),
        _ => Err(Error::Invalid {
            path: name.to_owned(),
            what: format!(
                "a disk of {size} bytes cannot be a VHD, which has one byte at least and 2040 GiB at most"
            ),
        }),
    }
}

fn put32(bytes: &mut [u8], offset: usize, number: u32) {
    bytes[offset..offset + 4].copy_from_slice(&number.to_be_bytes());
}

fn put64(bytes: &mut [u8], offset: usize, number: u64) {
    bytes[offset..offset + 8].copy_from_slice(&number.to_be_bytes());
}

/// The footer. Its layout is in `footer.rs`. The time is left open: the same disk is the same image.
fn footer(kind: Kind, disk_bytes: u64, identity: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; FOOTER_BYTES as usize];
    bytes[..8].copy_from_slice(b"conectix");
    put32(&mut bytes, 8, FEATURES);
    put32(&mut bytes, 12, VERSION);
    put64(&mut bytes, 16, if kind == Kind::Fixed { NO_HEADER } else { FOOTER_BYTES });
    bytes[28..32].copy_from_slice(CREATOR);
    put32(&mut bytes, 32, CREATOR_VERSION);
    bytes[36..40].copy_from_slice(CREATOR_HOST);
    put64(&mut bytes, 40, disk_bytes);
    put64(&mut bytes, 48, disk_bytes);
    let (cylinders, heads, per_track) = geometry(disk_bytes / SECTOR_BYTES);
    bytes[56..58].copy_from_slice(&cylinders.to_be_bytes());
    bytes[58..60].copy_from_slice(&[heads, per_track]);
    put32(&mut bytes, 60, if kind == Kind::Fixed { 2 } else { 3 });
    bytes[68..84].copy_from_slice(identity);
    // A UUID of version 8 (RFC 9562): what it is made of is its maker's own.
    bytes[74] = bytes[74] & 0x0f | 0x80;
    bytes[76] = bytes[76] & 0x3f | 0x80;
    let sum = checksum(&bytes, 64);
    put32(&mut bytes, 64, sum);
    bytes
}

/// The header of a dynamic image. Its layout is in `header.rs`.
fn header(blocks: u64) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..8].copy_from_slice(b"cxsparse");
    put64(&mut bytes, 8, u64::MAX);
    put64(&mut bytes, 16, TABLE_OFFSET);
    put32(&mut bytes, 24, VERSION);
    put32(&mut bytes, 28, u32::try_from(blocks).unwrap_or(u32::MAX));
    put32(&mut bytes, 32, BLOCK_BYTES as u32);
    let sum = checksum(&bytes, 36);
    put32(&mut bytes, 36, sum);
    bytes
}

/// Cylinders, heads and sectors per track for a number of sectors, as the specification's appendix computes them.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(GEOMETRY_MAX);
    let (per_track, heads) = if sectors >= 65_535 * 16 * 63 {
        (255, 16)
    } else {
        let (tracks, heads) = (sectors / 17, (sectors / 17).div_ceil(1024).max(4));
        let is_too_small = |tracks: u64, heads: u64| tracks >= heads * 1024;
        if !is_too_small(tracks, heads) && heads <= 16 {
            (17, heads)
        } else if !is_too_small(sectors / 31, 16) {
            (31, 16)
        } else {
            (63, 16)
        }
    };
    let cylinders = sectors / per_track / heads;
    (u16::try_from(cylinders).unwrap_or(u16::MAX), heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::data_map::disks::{Disk, assert_ranged, byte};
    use crate::{Format, MemoryStorage, OpenOptions, Source, open_storage};

    fn assert_holds(view: &dyn Storage, disk: &dyn Source, expected_size: u64) {
        let whole = assert_ranged(view);
        let image = open_storage(
            Arc::new(MemoryStorage::new("image", whole)),
            &OpenOptions::with_format(Format::Vhd),
        )
        .unwrap();
        assert_eq!(image.virtual_size(), expected_size);
        let (mut expected, mut found) = (vec![0; expected_size as usize], vec![1; expected_size as usize]);
        disk.read_at(&mut expected[..disk.virtual_size() as usize], 0).unwrap();
        image.read_at(&mut found, 0).unwrap();
        assert!(expected == found);
    }

    fn every_byte_comes_back(size: u64, grain: u64, is_data: fn(u64) -> bool) {
        let disk: SharedSource = Arc::new(Disk { size, grain, is_data });
        let dynamic = VhdView::new(Arc::clone(&disk), "view", &[7; 16]).unwrap();
        assert_holds(&dynamic, disk.as_ref(), size.next_multiple_of(512));
        let fixed = FixedVhdView::new(Arc::clone(&disk), "view", &[7; 16]).unwrap();
        assert_holds(&fixed, disk.as_ref(), size.next_multiple_of(1 << 20));
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
    fn a_large_and_empty_disk_is_a_small_image_and_one_too_large_is_refused() {
        let disk = |size, is_data| -> SharedSource { Arc::new(Disk { size, grain: 1 << 34, is_data }) };
        let empty = VhdView::new(disk(1 << 40, |_| false), "view", &[0; 16]).unwrap();
        assert!(empty.size() < 4 << 20, "{}", empty.size());
        let full = VhdView::new(disk(DISK_BYTES_MAX, |_| true), "view", &[0; 16]).unwrap();
        assert_eq!(full.data_bytes(), DISK_BYTES_MAX);
        assert!(full.size() / SECTOR_BYTES < u64::from(u32::MAX), "each place fits into the table");
        let mut last = [0];
        full.read_at(&mut last, full.size() - FOOTER_BYTES - 1).unwrap();
        assert_eq!(last[0], byte(DISK_BYTES_MAX - 1));
        for size in [0, DISK_BYTES_MAX + 1] {
            let dynamic = VhdView::new(disk(size, |_| false), "view", &[0; 16]).err();
            let fixed = FixedVhdView::new(disk(size, |_| false), "view", &[0; 16]).err();
            for refused in [dynamic, fixed] {
                assert!(matches!(refused.unwrap(), Error::Invalid { .. }), "{size}");
            }
        }
    }

    #[test]
    fn geometries_are_those_of_the_specification() {
        for (sectors, expected) in [
            (1, (0, 4, 17)),
            (68 * 100, (100, 4, 17)),
            (2 << 20, (2080, 16, 63)),
            (65_535 * 16 * 63, (16_191, 16, 255)),
            (u64::MAX, (65_535, 16, 255)),
        ] {
            assert_eq!(geometry(sectors), expected, "{sectors}");
        }
    }
}
