//! A disk as the bytes of a streamOptimized image, to be had at any position, before anything is written.
//!
//! The source is VMware's "Virtual Disk Format 5.0". Header and descriptor first; then the grains with data in their order, with
//! the table behind the grains that it leads to; then the directory of the tables and the footer, which says where that is. This
//! subformat is what hosts and clouds import; its grains have the form of zlib, and here they are *stored* in it (RFC 1950, RFC 1951):
//! so each takes the same room, and where everything lies follows from which grains hold data. The price is 1 in 128 bytes more than
//! the data; what is compressed would have a place that follows from all that is before it.
//!
//! Memory: a bit and an eighth of a byte for each grain of the disk, which is 4 MiB for 1 TiB, and 8 bytes for each grain table.

use super::SECTOR_BYTES;
use super::header::TABLE_ENTRIES;
use crate::formats::data_map::{DataMap, read_padded};
use crate::source::check_range;
use crate::{Error, Result, SharedSource, Storage};

/// The grain that all programs take: 64 KiB.
const GRAIN_BITS: u32 = 16;
const GRAIN_BYTES: u64 = 1 << GRAIN_BITS;
const GRAIN_SECTORS: u64 = GRAIN_BYTES / SECTOR_BYTES;
/// Number of the first sector, and length: what stands before the data of a grain.
const MARKER_BYTES: usize = 12;
/// The most that a stored block of deflate holds.
const STORED_BYTES_MAX: usize = 65_535;
/// A grain in zlib's form: head, two stored blocks with a head each, checksum.
const PACKED_BYTES: usize = 2 + 2 * 5 + GRAIN_BYTES as usize + 4;
/// Sectors of a grain in the file.
const SLOT_SECTORS: u64 = ((MARKER_BYTES + PACKED_BYTES) as u64).div_ceil(SECTOR_BYTES);
/// Sectors of a grain table with its marker.
const TABLE_SECTORS: u64 = 1 + TABLE_ENTRIES * 4 / SECTOR_BYTES;
/// Sectors before the first grain, and those of the descriptor among them.
const HEAD_SECTORS: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;

/// Places are counted in sectors, in 32 bits.
const FILE_SECTORS_MAX: u64 = u32::MAX as u64;
/// The largest disk that VMware's products take: 62 TiB.
const DISK_BYTES_MAX: u64 = 62 << 40;

/// Line ends can be tested, grains are compressed, and there are markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
/// What VMware writes for streamOptimized images.
const VERSION: u32 = 3;
const DEFLATE: u16 = 1;
const DIRECTORY_IS_AT_END: u64 = u64::MAX;

/// What a marker is in front of.
#[derive(Clone, Copy)]
enum Marker {
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

/// A disk as the bytes of a streamOptimized image.
pub struct VmdkView {
    source: SharedSource,
    name: String,
    map: DataMap,
    /// The numbers of the grain tables that map something, in order.
    tables: Vec<u64>,
    /// Header and descriptor.
    head: Vec<u8>,
    /// The directory, the footer and their markers.
    tail: Vec<u8>,
}

impl VmdkView {
    /// Looks at all extents of a disk, whose data must not change from now on. The image's disk is rounded up to sectors of 512
    /// bytes. `identity` tells this content from others.
    ///
    /// # Errors
    /// The disk cannot be read, is empty, or is larger than the format can express.
    pub fn new(source: SharedSource, name: &str, identity: &[u8; 16]) -> Result<Self> {
        let invalid = |what: String| Error::Invalid { path: name.to_owned(), what };
        let size = source.virtual_size();
        // One of no bytes stands for a descriptor that names other files.
        if size == 0 || size > DISK_BYTES_MAX {
            return Err(invalid(format!(
                "a disk of {size} bytes cannot be a vmdk image, which has one byte at least and 62 TiB at most"
            )));
        }
        let map = DataMap::of(source.as_ref(), GRAIN_BITS)?;
        let entries = size.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
        let tables: Vec<u64> = (0..entries)
            .filter(|table| map.rank(table * TABLE_ENTRIES) < map.rank((table + 1) * TABLE_ENTRIES))
            .collect();
        let sectors = size.div_ceil(SECTOR_BYTES);
        let mut view =
            Self { source, name: name.to_owned(), map, tables, head: Vec::new(), tail: Vec::new() };
        view.head = header(sectors, DIRECTORY_IS_AT_END);
        view.head.extend(descriptor(sectors, identity));
        view.head.resize((HEAD_SECTORS * SECTOR_BYTES) as usize, 0);
        view.tail = view.tail(sectors, entries);
        if view.size() / SECTOR_BYTES > FILE_SECTORS_MAX {
            return Err(invalid(format!(
                "a vmdk image in one file has 2 TiB at most, and the data of this disk, {} bytes, need more",
                view.data_bytes()
            )));
        }
        Ok(view)
    }

    /// Bytes of the disk in grains that hold data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.map.total() << GRAIN_BITS
    }

    /// The sector where the grains begin whose table is number `index` of those that are there.
    fn start(&self, index: usize) -> u64 {
        let before = match self.tables.get(index) {
            Some(table) => self.map.rank(table * TABLE_ENTRIES),
            None => self.map.total(),
        };
        HEAD_SECTORS + before * SLOT_SECTORS + index as u64 * TABLE_SECTORS
    }

    /// How many grains a table leads to.
    fn grains(&self, index: usize) -> u64 {
        let table = self.tables.get(index).copied().unwrap_or(0);
        self.map.rank((table + 1) * TABLE_ENTRIES) - self.map.rank(table * TABLE_ENTRIES)
    }

    /// The sector of a grain table, behind its marker.
    fn table_place(&self, index: usize) -> u64 {
        self.start(index) + self.grains(index) * SLOT_SECTORS + 1
    }

    fn tail(&self, sectors: u64, entries: u64) -> Vec<u8> {
        let directory_sectors = (entries * 4).div_ceil(SECTOR_BYTES);
        let mut bytes = marker(directory_sectors, Marker::GrainDirectory);
        for entry in 0..entries {
            let place = self.tables.binary_search(&entry).map_or(0, |index| self.table_place(index));
            bytes.extend(sector_number(place).to_le_bytes());
        }
        bytes.resize(((1 + directory_sectors) * SECTOR_BYTES) as usize, 0);
        bytes.extend(marker(1, Marker::Footer));
        bytes.extend(header(sectors, self.start(self.tables.len()) + 1));
        // The marker of the end is empty.
        bytes.resize(bytes.len() + SECTOR_BYTES as usize, 0);
        bytes
    }

    /// A grain table with its marker.
    fn table(&self, index: usize) -> Vec<u8> {
        let first = self.tables.get(index).copied().unwrap_or(0) * TABLE_ENTRIES;
        let mut place = self.start(index);
        let mut bytes = marker(TABLE_SECTORS - 1, Marker::GrainTable);
        for grain in first..first + TABLE_ENTRIES {
            let is_there = self.map.holds(grain);
            bytes.extend(if is_there { sector_number(place) } else { 0 }.to_le_bytes());
            place += if is_there { SLOT_SECTORS } else { 0 };
        }
        bytes
    }

    /// A grain with its marker.
    fn grain(&self, grain: u64) -> Result<Vec<u8>> {
        let mut data = vec![0; GRAIN_BYTES as usize];
        read_padded(self.source.as_ref(), &mut data, grain * GRAIN_BYTES)?;
        let mut bytes = Vec::with_capacity((SLOT_SECTORS * SECTOR_BYTES) as usize);
        bytes.extend((grain * GRAIN_SECTORS).to_le_bytes());
        bytes.extend((PACKED_BYTES as u32).to_le_bytes());
        bytes.extend(stored(&data));
        bytes.resize((SLOT_SECTORS * SECTOR_BYTES) as usize, 0);
        Ok(bytes)
    }

    /// The piece of the image that holds a sector between head and tail, and the sector where it begins.
    fn piece(&self, sector: u64) -> Result<(Vec<u8>, u64)> {
        let (mut low, mut high) = (0, self.tables.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.start(middle) <= sector {
                low = middle;
            } else {
                high = middle;
            }
        }
        let start = self.start(low);
        let slot = (sector - start) / SLOT_SECTORS;
        if slot >= self.grains(low) {
            return Ok((self.table(low), self.table_place(low) - 1));
        }
        let first = self.map.rank(self.tables.get(low).copied().unwrap_or(0) * TABLE_ENTRIES);
        Ok((self.grain(self.map.select(first + slot))?, start + slot * SLOT_SECTORS))
    }
}

impl Storage for VmdkView {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.start(self.tables.len()) * SECTOR_BYTES + self.tail.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.size())?;
        let tail = self.start(self.tables.len()) * SECTOR_BYTES;
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let made;
            let (piece, begins) = if at < self.head.len() as u64 {
                (&self.head, 0)
            } else if at >= tail {
                (&self.tail, tail)
            } else {
                let (bytes, sector) = self.piece(at / SECTOR_BYTES)?;
                made = bytes;
                (&made, sector * SECTOR_BYTES)
            };
            let within = (at - begins) as usize;
            let length = (piece.len() - within).min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&piece[within..within + length]);
            done += length;
        }
        Ok(())
    }
}

/// Places fit into 32 bits, as the size of the whole is checked.
fn sector_number(sector: u64) -> u32 {
    u32::try_from(sector).unwrap_or(u32::MAX)
}

/// A sector that says what the sectors behind it are.
fn marker(sectors: u64, kind: Marker) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR_BYTES as usize);
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend((kind as u32).to_le_bytes());
    bytes.resize(SECTOR_BYTES as usize, 0);
    bytes
}

/// The header, and the footer, which says where the directory is.
fn header(sectors: u64, directory: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR_BYTES as usize);
    bytes.extend(super::SPARSE_SIGNATURE);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(FLAGS.to_le_bytes());
    for number in [sectors, GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend((TABLE_ENTRIES as u32).to_le_bytes());
    // There is no second directory; it was closed in order.
    for number in [0, directory, HEAD_SECTORS] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.push(0);
    bytes.extend(b"\n \r\n");
    bytes.extend(DEFLATE.to_le_bytes());
    bytes.resize(SECTOR_BYTES as usize, 0);
    bytes
}

/// The text that describes the disk.
fn descriptor(sectors: u64, identity: &[u8; 16]) -> Vec<u8> {
    let (heads, per_track) = (255, 63);
    let cylinders = sectors.div_ceil(heads * per_track).min(65_535);
    // All ones stand for no parent, and nearly all for one that is not known.
    let content = crc32fast::hash(identity) & 0x7fff_ffff;
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"disk.vmdk\"\n\n\
         # The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{per_track}\"\nddb.adapterType = \"lsilogic\"\n"
    )
    .into_bytes()
}

/// A grain in the form of zlib, not compressed.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PACKED_BYTES);
    bytes.extend([0x78, 0x01]);
    let blocks = data.chunks(STORED_BYTES_MAX);
    let last = blocks.len().saturating_sub(1);
    for (number, block) in blocks.enumerate() {
        let length = block.len() as u16;
        bytes.push(u8::from(number == last));
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(block);
    }
    bytes.extend(adler32(data).to_be_bytes());
    bytes
}

/// The checksum of zlib.
fn adler32(data: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    // So many bytes can be added before a sum overflows.
    const AT_ONCE: usize = 5_552;
    let (mut low, mut high) = (1, 0);
    for chunk in data.chunks(AT_ONCE) {
        for byte in chunk {
            low += u32::from(*byte);
            high += low;
        }
        (low, high) = (low % MODULUS, high % MODULUS);
    }
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::data_map::disks::{Disk, assert_ranged, byte};
    use crate::{Format, MemoryStorage, OpenOptions, open_storage};

    fn every_byte_comes_back(size: u64, grain: u64, is_data: fn(u64) -> bool) {
        let disk: SharedSource = Arc::new(Disk { size, grain, is_data });
        let view = VmdkView::new(Arc::clone(&disk), "view", &[7; 16]).unwrap();
        let whole = assert_ranged(&view);
        let image = open_storage(
            Arc::new(MemoryStorage::new("image", whole)),
            &OpenOptions::with_format(Format::Vmdk),
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
        every_byte_comes_back((96 << 20) + 1, 1 << 17, |place| place % 3 == 1);
        every_byte_comes_back(128 << 20, 4096, |place| place % 12_289 == 12_288);
        every_byte_comes_back(32 << 20, 4096, |_| false);
    }

    #[test]
    fn a_large_and_empty_disk_is_a_small_image_and_one_too_large_is_refused() {
        let disk = |size, is_data| -> SharedSource { Arc::new(Disk { size, grain: 1 << 34, is_data }) };
        let empty = VmdkView::new(disk(1 << 40, |_| false), "view", &[0; 16]).unwrap();
        assert!(empty.size() < 256 << 10, "{}", empty.size());
        let view = VmdkView::new(disk(64 << 34, |place| place == 63), "view", &[0; 16]).unwrap();
        assert_eq!(view.data_bytes(), 1 << 34);
        // The last grain's last byte stands before its checksum and the room that is left, the table, and the tail.
        let end = view.size() - view.tail.len() as u64 - TABLE_SECTORS * SECTOR_BYTES;
        let slack = SLOT_SECTORS * SECTOR_BYTES - (MARKER_BYTES + PACKED_BYTES) as u64;
        let mut last = [0];
        view.read_at(&mut last, end - slack - 5).unwrap();
        assert_eq!(last[0], byte((64 << 34) - 1));
        for (size, is_data) in [(0, false), (2 << 40, true), ((62 << 40) + 1, false)] {
            let refused =
                VmdkView::new(disk(size, if is_data { |_| true } else { |_| false }), "view", &[0; 16]);
            assert!(matches!(refused.err().unwrap(), Error::Invalid { .. }), "{size}");
        }
    }

    #[test]
    fn zlib_unpacks_what_is_stored() {
        use std::io::Read as _;
        for length in [1_usize, 65_535, 65_536] {
            let data: Vec<u8> = (0..length).map(|at| byte(at as u64)).collect();
            let mut unpacked = Vec::new();
            flate2::read::ZlibDecoder::new(stored(&data).as_slice()).read_to_end(&mut unpacked).unwrap();
            assert!(unpacked == data, "{length}");
        }
        assert_eq!(stored(&[0; GRAIN_BYTES as usize]).len(), PACKED_BYTES);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }
}
