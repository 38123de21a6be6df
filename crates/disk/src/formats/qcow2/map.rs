//! From guest offsets to the file.

use std::sync::Arc;

use super::corrupt;
use super::entry::{Geometry, Mapping, Taken};
use super::header::{Header, Table};
use super::occupied::Occupied;
use super::snapshots::Snapshots;
use crate::cache::Cache;
use crate::{Result, SharedStorage, Storage};

/// Memory for L2 tables.
const CACHE_BYTES: u64 = 16 << 20;

/// The L2 tables that are read when the image is opened, to find guest clusters that share a host cluster: enough for a
/// full disk of 512 GiB with the usual clusters. Above that opening would take too long; everything else is checked when
/// a table is loaded.
const SCAN_BYTES_MAX: u64 = 64 << 20;

/// The two levels of tables of one state of the disk.
pub(super) struct Map {
    storage: SharedStorage,
    geometry: Geometry,
    version: u32,
    l1: Vec<u64>,
    /// Clusters in which no guest cluster may lie.
    metadata: Occupied,
    tables: Cache<Arc<[u64]>>,
}

/// A stretch of one mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) mapping: Mapping,
    pub(super) length: u64,
}

impl Map {
    /// The map that begins at `l1`, the L1 table of the active state or of a snapshot.
    pub(super) fn open(
        storage: SharedStorage,
        header: &Header,
        snapshots: &Snapshots,
        l1: Table,
    ) -> Result<Self> {
        let geometry = header.geometry;
        let map = Self {
            l1: read_words(storage.as_ref(), l1.offset, l1.bytes)?,
            metadata: fixed_metadata(storage.as_ref(), header, snapshots)?,
            tables: Cache::new((CACHE_BYTES / geometry.cluster_bytes()) as usize),
            version: header.version,
            geometry,
            storage,
        };
        map.with_l2_tables()?.scanned()
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The mapping at `guest`, and how far it goes on within `length` bytes. Never reaches beyond one L2 table or, where
    /// there is none, one entry of the L1 table.
    pub(super) fn run(&self, guest: u64, length: u64) -> Result<Run> {
        let coverage = self.geometry.l2_coverage();
        let within = guest % coverage;
        let limit = length.min(coverage - within);
        let Some(table) = self.table((guest / coverage) as usize)? else {
            return Ok(Run { mapping: Mapping::Unallocated, length: limit });
        };
        let (mapping, mut end) = self.geometry.lookup(&table, within);
        while end < within + limit {
            let (next, next_end) = self.geometry.lookup(&table, end);
            let goes_on = match (mapping, next) {
                (Mapping::Data { host }, Mapping::Data { host: next }) => {
                    next - host.min(next) == end - within
                }
                (Mapping::Zero, Mapping::Zero) | (Mapping::Unallocated, Mapping::Unallocated) => true,
                _ => false,
            };
            if !goes_on {
                break;
            }
            end = next_end;
        }
        Ok(Run { mapping, length: limit.min(end - within) })
    }

    /// Whether an L2 table maps `guest`: without one, a look-up costs nothing.
    pub(super) fn has_table(&self, guest: u64) -> bool {
        let index = (guest / self.geometry.l2_coverage()) as usize;
        self.l1.get(index).is_some_and(|&entry| entry != 0)
    }

    fn table(&self, l1_index: usize) -> Result<Option<Arc<[u64]>>> {
        let Some(host) = self.l2_offset(l1_index)? else { return Ok(None) };
        if let Some(table) = self.tables.get(host >> self.geometry.cluster_bits()) {
            return Ok(Some(table));
        }
        let table: Arc<[u64]> = self.load(l1_index, host)?.into();
        // Two threads may both have loaded it; they then share one of the copies.
        Ok(Some(self.tables.get_or_insert(host >> self.geometry.cluster_bits(), || table)))
    }

    fn l2_offset(&self, l1_index: usize) -> Result<Option<u64>> {
        let entry = self.l1.get(l1_index).copied().unwrap_or(0);
        self.geometry.l1_entry(entry).map_err(|fault| {
            corrupt(self.storage.as_ref(), format!("L1 entry {l1_index} ({entry:#x}): {fault}"))
        })
    }

    /// Reads an L2 table and checks every entry.
    fn load(&self, l1_index: usize, host: u64) -> Result<Vec<u64>> {
        let table = read_words(self.storage.as_ref(), host, self.geometry.cluster_bytes())?;
        for (index, taken) in self.taken(&table).enumerate() {
            let fault = match taken {
                Ok(None) => continue,
                Ok(Some(taken)) => match self.check_taken(taken) {
                    Ok(()) => continue,
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            let entry = table[index * self.geometry.entry_words()];
            return Err(corrupt(
                self.storage.as_ref(),
                format!("L2 table {l1_index}, entry {index} ({entry:#x}): {fault}"),
            ));
        }
        Ok(table)
    }

    fn taken<'a>(
        &'a self,
        table: &'a [u64],
    ) -> impl Iterator<Item = std::result::Result<Option<Taken>, super::entry::Fault>> + 'a {
        table.chunks_exact(self.geometry.entry_words()).map(|entry| {
            let bitmap = entry.get(1).copied().unwrap_or(0);
            if entry[0] == 0 && bitmap as u32 == 0 {
                return Ok(None);
            }
            self.geometry.check(self.version, entry[0], bitmap)
        })
    }

    fn check_taken(&self, taken: Taken) -> std::result::Result<(), super::entry::Fault> {
        if taken.host >= self.storage.size() {
            return Err("it lies behind the end of the file");
        }
        if self.metadata.touches(taken.host, taken.length) {
            return Err("it lies in the image's own tables");
        }
        Ok(())
    }

    /// Adds the L2 tables to the metadata, which they must not overlap.
    fn with_l2_tables(mut self) -> Result<Self> {
        let bytes = self.geometry.cluster_bytes();
        for index in 0..self.l1.len() {
            let Some(host) = self.l2_offset(index)? else { continue };
            let fault = if host.checked_add(bytes).is_none_or(|end| end > self.storage.size()) {
                "outside the file"
            } else if !self.metadata.insert(host, bytes) {
                "where another table lies"
            } else {
                continue;
            };
            return Err(corrupt(
                self.storage.as_ref(),
                format!("L1 entry {index} puts an L2 table at {host}, {fault}"),
            ));
        }
        Ok(self)
    }

    /// Looks for two guest clusters in one host cluster, in images whose tables are read fast enough.
    fn scanned(self) -> Result<Self> {
        let tables = self.l1.iter().filter(|&&entry| entry != 0).count() as u64;
        if tables * self.geometry.cluster_bytes() > SCAN_BYTES_MAX {
            return Ok(self);
        }
        let mut data = Occupied::new(self.storage.as_ref(), self.geometry.cluster_bits())?;
        for index in 0..self.l1.len() {
            let Some(table) = self.table(index)? else { continue };
            for taken in self.taken(&table).flatten().flatten().filter(|taken| !taken.shared) {
                if !data.insert(taken.host, taken.length) {
                    return Err(corrupt(
                        self.storage.as_ref(),
                        format!("two clusters of the disk lie in the cluster at {}", taken.host),
                    ));
                }
            }
        }
        Ok(self)
    }
}

/// The clusters of all tables but the L2 tables; none may overlap.
fn fixed_metadata(storage: &dyn Storage, header: &Header, snapshots: &Snapshots) -> Result<Occupied> {
    let cluster_bytes = header.geometry.cluster_bytes();
    let mut metadata = Occupied::new(storage, header.geometry.cluster_bits())?;
    let tables = [
        ("the header", Table { offset: 0, bytes: cluster_bytes }),
        ("the refcount table", header.refcount_table),
        ("the L1 table", header.l1),
        ("the snapshot table", snapshots.table),
    ];
    let of_snapshots = snapshots.list.iter().map(|snapshot| ("the L1 table of a snapshot", snapshot.l1));
    for (what, table) in tables.into_iter().chain(of_snapshots) {
        if table.bytes > 0 && !metadata.insert(table.offset, table.bytes) {
            return Err(corrupt(storage, format!("{what} at {} overlaps another table", table.offset)));
        }
    }
    let blocks = read_words(storage, header.refcount_table.offset, header.refcount_table.bytes)?;
    for (index, block) in blocks.into_iter().enumerate().filter(|(_, block)| *block != 0) {
        let inside = block.is_multiple_of(cluster_bytes) && block < storage.size();
        if !inside || !metadata.insert(block, cluster_bytes) {
            return Err(corrupt(
                storage,
                format!("refcount block {index} at {block} is not at a free cluster inside the file"),
            ));
        }
    }
    Ok(metadata)
}

fn read_words(storage: &dyn Storage, offset: u64, bytes: u64) -> Result<Vec<u64>> {
    let mut raw = vec![0; bytes as usize];
    storage.read_at(&mut raw, offset)?;
    let (words, _) = raw.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}
