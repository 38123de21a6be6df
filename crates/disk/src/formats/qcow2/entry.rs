//! Sizes that follow from the cluster size, and the meaning of table entries.

/// Subclusters of a cluster with extended L2 entries.
const SUBCLUSTERS: u32 = 32;

/// Bits of an L1 entry or a standard L2 entry that hold the host offset, and those that must be 0.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Cluster size and kind of L2 entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    cluster_bits: u32,
    extended: bool,
}

/// Where the bytes of a guest offset are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the file, at this offset.
    Data { host: u64 },
    /// In this stretch of the file, compressed; it holds the whole cluster.
    Compressed { host: u64, length: u32 },
    /// Nowhere: zeros.
    Zero,
    /// Nowhere: what the backing image holds, or zeros.
    Unallocated,
}

/// What is wrong with an entry.
pub(super) type Fault = &'static str;

impl Geometry {
    pub(super) fn new(cluster_bits: u32, extended: bool) -> Self {
        Self { cluster_bits, extended }
    }

    pub(super) fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn is_extended(&self) -> bool {
        self.extended
    }

    /// 64 bit words of an L2 entry.
    pub(super) fn entry_words(&self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    /// Entries of an L2 table, which takes a cluster.
    pub(super) fn l2_entries(&self) -> u64 {
        (self.cluster_bytes() / 8) >> u32::from(self.extended)
    }

    /// Bytes of the disk that an L2 table maps.
    pub(super) fn l2_coverage(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// The smallest stretch that is mapped on its own.
    fn unit_bits(&self) -> u32 {
        if self.extended { self.cluster_bits - SUBCLUSTERS.ilog2() } else { self.cluster_bits }
    }

    /// The host offset of the L2 table in an L1 entry; `None` where there is none.
    pub(super) fn l1_entry(&self, entry: u64) -> Result<Option<u64>, Fault> {
        if entry & !(OFFSET_MASK | COPIED) != 0 {
            return Err("reserved bits are set");
        }
        self.aligned(entry & OFFSET_MASK)
    }

    /// The host cluster of a standard entry; `None` where there is none.
    fn aligned(&self, host: u64) -> Result<Option<u64>, Fault> {
        if host & (self.cluster_bytes() - 1) != 0 {
            return Err("the offset is not that of a cluster");
        }
        Ok((host != 0).then_some(host))
    }

    /// The mapping at `within` bytes from the start of the table's coverage, and where it ends. The entry was checked by
    /// [`Geometry::check`].
    pub(super) fn lookup(&self, table: &[u64], within: u64) -> (Mapping, u64) {
        let index = (within >> self.cluster_bits) as usize * self.entry_words();
        let entry = table[index];
        let cluster = within & !(self.cluster_bytes() - 1);
        if entry & COMPRESSED != 0 {
            return (self.compressed(entry), cluster + self.cluster_bytes());
        }
        let host = entry & OFFSET_MASK;
        let data = Mapping::Data { host: host + (within - cluster) };
        let mapping = if self.extended {
            let subcluster = (within - cluster) >> self.unit_bits();
            let bitmap = table[index + 1];
            match (bitmap >> subcluster & 1, bitmap >> (32 + subcluster) & 1) {
                (1, _) => data,
                (_, 1) => Mapping::Zero,
                _ => Mapping::Unallocated,
            }
        } else if entry & ZERO != 0 {
            Mapping::Zero
        } else if host != 0 {
            data
        } else {
            Mapping::Unallocated
        };
        let unit = 1 << self.unit_bits();
        (mapping, (within & !(unit - 1)) + unit)
    }

    fn compressed(&self, entry: u64) -> Mapping {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let host = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & !(COPIED | COMPRESSED)) >> offset_bits;
        // The first sector counts from the offset on, which need not begin a sector.
        let length = (sectors + 1) * 512 - (host & 511);
        Mapping::Compressed { host, length: length as u32 }
    }

    /// Checks an entry, and returns the stretch of the file that it takes, if it takes one. `bitmap` is 0 in standard
    /// entries.
    pub(super) fn check(&self, version: u32, entry: u64, bitmap: u64) -> Result<Option<Taken>, Fault> {
        if entry & COMPRESSED != 0 {
            return match self.compressed(entry) {
                Mapping::Compressed { host, length } => {
                    Ok(Some(Taken { host, length: u64::from(length), shared: true }))
                }
                _ => Ok(None),
            };
        }
        let flags = if self.extended || version < 3 { 0 } else { ZERO };
        if entry & !(OFFSET_MASK | COPIED | flags) != 0 {
            return Err("reserved bits are set");
        }
        let (allocated, zero) = (bitmap as u32, (bitmap >> 32) as u32);
        if allocated & zero != 0 {
            return Err("a subcluster is both allocated and zero");
        }
        let host = self.aligned(entry & OFFSET_MASK)?;
        if allocated != 0 && host.is_none() {
            return Err("subclusters are allocated in no cluster");
        }
        Ok(host.map(|host| Taken { host, length: self.cluster_bytes(), shared: false }))
    }
}

/// A stretch of the file that an entry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) host: u64,
    pub(super) length: u64,
    /// Compressed clusters lie close together and share host clusters.
    pub(super) shared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_descriptor_counts_whole_sectors_from_an_odd_offset() {
        let geometry = Geometry::new(16, false);
        let entry = COMPRESSED | 3 << 54 | 0x1_2345;
        assert_eq!(
            geometry.lookup(&[entry], 5),
            (Mapping::Compressed { host: 0x1_2345, length: 4 * 512 - 0x145 }, 65536)
        );
    }

    #[test]
    fn subclusters_are_mapped_on_their_own() {
        let geometry = Geometry::new(16, true);
        let table = [0x50000, 1 << 1 | 1 << (32 + 2)];
        assert_eq!(geometry.lookup(&table, 0), (Mapping::Unallocated, 2048));
        assert_eq!(geometry.lookup(&table, 2049), (Mapping::Data { host: 0x50000 + 2049 }, 4096));
        assert_eq!(geometry.lookup(&table, 4096), (Mapping::Zero, 6144));
    }

    #[test]
    fn odd_entries_are_refused() {
        let geometry = Geometry::new(16, false);
        assert!(geometry.check(3, 0x50200, 0).is_err(), "not a cluster");
        assert!(geometry.check(2, 0x50001, 0).is_err(), "zero flag before version 3");
        assert!(geometry.check(3, 0x50002, 0).is_err(), "reserved bit");
        assert!(Geometry::new(16, true).check(3, 0, 1).is_err(), "subcluster of nothing");
        assert!(Geometry::new(16, true).check(3, 0x50000, 1 | 1 << 32).is_err(), "two states");
        assert!(geometry.l1_entry(0x50001).is_err());
    }
}
