//! A disk as the bytes of a qcow2 image, to be had at any position, before anything is written.
//!
//! Where everything lies follows from which clusters of the disk hold data, which its extents say: header, L1 table, refcounts
//! and L2 tables first, then the clusters with data, in their order. So an image can be sent somewhere from its first byte to
//! its last, several parts of it at once, and one part again, without a file of it anywhere. The data is not compressed: its
//! place would then follow from all that is before it.
//!
//! Memory: a bit and an eighth of a byte for each cluster of the disk; clusters are larger on large disks, so this is about
//! 1 MiB up to 8 TiB.

use crate::formats::data_map::{DataMap, read_padded};
use crate::formats::qcow2::head::{COPIED, Head};
use crate::source::check_range;
use crate::{Result, SharedSource, Storage};

/// The smallest cluster, which is also QEMU's usual one: 64 KiB.
const CLUSTER_BITS_MIN: u32 = 16;
/// The largest that there is: 2 MiB.
const CLUSTER_BITS_MAX: u32 = 21;
/// Clusters of a disk, at most, before they are made larger.
const CLUSTERS_MAX: u64 = 1 << 22;

/// Where the parts of the image begin, in clusters of it.
struct Layout {
    l1: u64,
    refcount_table: u64,
    refcount_blocks: u64,
    l2: u64,
    data: u64,
    end: u64,
}

/// A disk as the bytes of a qcow2 image of version 3.
pub struct Qcow2View {
    source: SharedSource,
    name: String,
    cluster_bits: u32,
    map: DataMap,
    /// The numbers of the L2 tables that map something, in order.
    tables: Vec<u64>,
    l1_entries: u64,
    layout: Layout,
}

impl Qcow2View {
    /// Looks at all extents of a disk, whose data must not change from now on. The image's disk is rounded up to sectors of 512
    /// bytes, because QEMU cuts off what does not fill one.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn new(source: SharedSource, name: &str) -> Result<Self> {
        let size = source.virtual_size();
        let fits = |bits: &u32| size >> bits <= CLUSTERS_MAX;
        let cluster_bits = (CLUSTER_BITS_MIN..CLUSTER_BITS_MAX).find(fits).unwrap_or(CLUSTER_BITS_MAX);
        let map = DataMap::of(source.as_ref(), cluster_bits)?;
        let (cluster, per_table) = (1_u64 << cluster_bits, 1_u64 << (cluster_bits - 3));
        let l1_entries = size.div_ceil(cluster * per_table).max(1);
        let tables: Vec<u64> = (0..l1_entries)
            .filter(|table| map.rank(table * per_table) < map.rank((table + 1) * per_table))
            .collect();
        let l1_clusters = (l1_entries * 8).div_ceil(cluster);
        let rest = 1 + l1_clusters + tables.len() as u64 + map.total();
        // The refcounts count themselves, so their size is raised until it suffices.
        let (mut blocks, mut table) = (1, 1);
        loop {
            let blocks_needed = (rest + blocks + table).div_ceil(cluster / 2);
            let table_needed = (blocks_needed * 8).div_ceil(cluster);
            if blocks_needed <= blocks && table_needed <= table {
                break;
            }
            (blocks, table) = (blocks.max(blocks_needed), table.max(table_needed));
        }
        let refcount_table = 1 + l1_clusters;
        let refcount_blocks = refcount_table + table;
        let l2 = refcount_blocks + blocks;
        let data = l2 + tables.len() as u64;
        let layout = Layout { l1: 1, refcount_table, refcount_blocks, l2, data, end: data + map.total() };
        Ok(Self { source, name: name.to_owned(), cluster_bits, map, tables, l1_entries, layout })
    }

    /// Bytes of the disk in clusters that hold data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.map.total() << self.cluster_bits
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The bytes of a cluster that is no data.
    fn table(&self, cluster: u64) -> Vec<u8> {
        let words = self.cluster_bytes() / 8;
        let Layout { l1, refcount_table, refcount_blocks, l2, data, end } = self.layout;
        let of_words = |word: &dyn Fn(u64) -> u64| -> Vec<u8> {
            (0..words).flat_map(|index| word(index).to_be_bytes()).collect()
        };
        if cluster < l1 {
            let head = Head {
                cluster_bits: self.cluster_bits,
                virtual_size: self.source.virtual_size().next_multiple_of(512),
                l1_entries: u32::try_from(self.l1_entries).unwrap_or(u32::MAX),
                l1: l1 << self.cluster_bits,
                refcount_table: refcount_table << self.cluster_bits,
                refcount_table_clusters: u32::try_from(refcount_blocks - refcount_table).unwrap_or(u32::MAX),
                is_compressed: false,
            };
            let mut bytes = head.bytes();
            bytes.resize(self.cluster_bytes() as usize, 0);
            bytes
        } else if cluster < refcount_table {
            let first = (cluster - l1) * words;
            of_words(&|index| match self.tables.binary_search(&(first + index)) {
                Ok(place) => (l2 + place as u64) << self.cluster_bits | COPIED,
                Err(_) => 0,
            })
        } else if cluster < refcount_blocks {
            let first = (cluster - refcount_table) * words;
            of_words(&|index| match refcount_blocks + first + index {
                block if block < l2 => block << self.cluster_bits,
                _ => 0,
            })
        } else if cluster < l2 {
            let first = (cluster - refcount_blocks) * (self.cluster_bytes() / 2);
            let count = |index: u64| u16::from(first + index < end).to_be_bytes();
            (0..self.cluster_bytes() / 2).flat_map(count).collect()
        } else {
            let table = self.tables.get((cluster - l2) as usize).copied().unwrap_or(0);
            let mut place = data + self.map.rank(table * words);
            let mut bytes = Vec::with_capacity(self.cluster_bytes() as usize);
            for index in 0..words {
                let is_there = self.map.holds(table * words + index);
                bytes.extend(if is_there { place << self.cluster_bits | COPIED } else { 0 }.to_be_bytes());
                place += u64::from(is_there);
            }
            bytes
        }
    }

    /// Fills a stretch of data, in which clusters that follow each other on the disk are read at once.
    fn read_data(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let (bits, cluster) = (self.cluster_bits, self.cluster_bytes());
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let first = self.map.select((at >> bits) - self.layout.data);
            let within = at % cluster;
            let wanted = (buffer.len() - done) as u64;
            let mut length = cluster - within;
            while length < wanted && self.map.holds(first + (within + length) / cluster) {
                length += cluster;
            }
            let length = length.min(wanted);
            let position = first * cluster + within;
            let part = &mut buffer[done..done + length as usize];
            // The last cluster may reach past the end of the disk.
            read_padded(self.source.as_ref(), part, position)?;
            done += length as usize;
        }
        Ok(())
    }
}

impl Storage for Qcow2View {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.layout.end << self.cluster_bits
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(&self.name, offset, buffer.len() as u64, self.size())?;
        let data = self.layout.data << self.cluster_bits;
        let mut done = 0;
        while done < buffer.len() && offset + (done as u64) < data {
            let at = offset + done as u64;
            let within = (at % self.cluster_bytes()) as usize;
            let table = self.table(at >> self.cluster_bits);
            let length = (table.len() - within).min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&table[within..within + length]);
            done += length;
        }
        let at = offset + done as u64;
        self.read_data(&mut buffer[done..], at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::data_map::disks::{Disk, assert_ranged, byte};
    use crate::{Format, MemoryStorage, OpenOptions, open_storage};

    fn every_byte_comes_back(size: u64, grain: u64, is_data: fn(u64) -> bool) {
        let disk: SharedSource = Arc::new(Disk { size, grain, is_data });
        let view = Qcow2View::new(Arc::clone(&disk), "view").unwrap();
        let whole = assert_ranged(&view);
        let image = open_storage(
            Arc::new(MemoryStorage::new("image", whole)),
            &OpenOptions::with_format(Format::Qcow2),
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
        every_byte_comes_back(0, 4096, |_| true);
        every_byte_comes_back(512, 4096, |_| true);
        every_byte_comes_back((7 << 20) + 4095, 1 << 16, |_| true);
        every_byte_comes_back((64 << 20) + 1, 1 << 17, |place| place % 3 == 1);
        every_byte_comes_back(32 << 20, 4096, |place| place % 61 == 0);
        every_byte_comes_back(32 << 20, 4096, |_| false);
    }

    #[test]
    fn a_large_and_empty_disk_is_a_small_image() {
        let whole: fn(u64) -> bool = |place| place == 63;
        let disk: SharedSource = Arc::new(Disk { size: 64 << 34, grain: 1 << 34, is_data: |_| false });
        assert!(Qcow2View::new(disk, "view").unwrap().size() < 4 << 20);
        let disk: SharedSource = Arc::new(Disk { size: 64 << 34, grain: 1 << 34, is_data: whole });
        let view = Qcow2View::new(disk, "view").unwrap();
        assert_eq!(view.data_bytes(), 1 << 34);
        let mut last = [0; 100];
        view.read_at(&mut last, view.size() - 100).unwrap();
        assert_eq!(last[99], byte((64 << 34) - 1));
    }
}
