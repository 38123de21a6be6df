//! What a repository holds, and what it costs.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::Result;
use crate::blobs::Blobs;
use crate::id::{BlobId, PackId};
use crate::image::{ImageName, REFS};
use crate::index::{Index, visit_sorted};
use crate::mark::Seen;
use crate::repository::{INDEX, PACKS, PREFIXES, Repository, SNAPSHOTS};
use crate::walk::{Stretch, walk};

/// What snapshots hold, alone or together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageStatistics {
    /// Number of snapshots.
    pub snapshots: usize,
    /// Sum of the sizes of the disks, in bytes.
    pub logical_bytes: u64,
    /// Sum of what is not zero in them, in bytes of whole chunks.
    pub data_bytes: u64,
    /// The same, each chunk counted once.
    pub unique_bytes: u64,
    /// What those chunks take in packs: each has an equal share of its pack.
    pub stored_bytes: u64,
}

/// What a repository holds and costs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Statistics {
    /// All images together; a chunk that several share counts once.
    pub total: ImageStatistics,
    /// Each image by itself; a chunk that several share counts in each.
    pub images: Vec<(ImageName, ImageStatistics)>,
    /// Bytes of all objects in the store.
    pub store_bytes: u64,
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Number of packs.
    pub packs: usize,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes of memory that the open index takes.
    pub index_memory_bytes: u64,
    /// Entries of the index.
    pub index_entries: u64,
}

impl Repository {
    /// Counts what the repository holds.
    ///
    /// # Errors
    /// The store fails, or a tree is damaged.
    pub fn statistics(&self) -> Result<Statistics> {
        let blobs = Blobs::open(self)?;
        let index = blobs.index();
        let shares = shares(&index)?;
        let mut statistics = Statistics {
            packs: index.states().present.len(),
            pack_bytes: index.states().present.values().sum(),
            index_memory_bytes: index.memory_bytes(),
            index_entries: index.entry_count(),
            ..Statistics::default()
        };
        for prefix in [PACKS, INDEX, SNAPSHOTS, REFS] {
            let bytes: u64 = self.store().list(prefix)?.iter().map(|entry| entry.size).sum();
            statistics.store_bytes += bytes;
            if prefix == INDEX {
                statistics.index_bytes = bytes;
            }
        }
        let mut all = Counter::new(&index);
        for name in self.images()? {
            let mut own = Counter::new(&index);
            for entry in self.image(&name)?.snapshots {
                let snapshot = self.snapshot(entry.id)?;
                let chunk_bytes = 1_u64 << snapshot.chunk_bits;
                own.add_snapshot(snapshot.virtual_size);
                all.add_snapshot(snapshot.virtual_size);
                walk(&blobs, &snapshot, &mut |stretch| {
                    let Stretch::Leaf { id, .. } = stretch else { return Ok(()) };
                    for counter in [&mut own, &mut all] {
                        counter.add_leaf(&blobs, &index, &shares, id, chunk_bytes)?;
                    }
                    Ok(())
                })?;
            }
            statistics.images.push((name, own.sums));
        }
        statistics.total = all.sums;
        Ok(statistics)
    }
}

impl Repository {
    /// Bytes of all objects of the repository in the store, which are listed for it; of other programs' objects beside them
    /// nothing counts.
    ///
    /// # Errors
    /// The store fails.
    pub fn store_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for prefix in PREFIXES {
            bytes += self.store().list(prefix)?.iter().map(|entry| entry.size).sum::<u64>();
        }
        Ok(bytes)
    }
}

/// The bytes of each pack that fall to one of its blobs.
fn shares(index: &Index) -> Result<HashMap<PackId, u64>> {
    let mut counts: HashMap<PackId, u64> = HashMap::new();
    let mut last = None;
    visit_sorted(index.runs(), |entry, _| {
        *counts.entry(entry.location.pack).or_default() += u64::from(last != Some(entry));
        last = Some(entry);
        Ok(())
    })?;
    let size = |pack: &PackId| index.states().present.get(pack).copied().unwrap_or(0);
    Ok(counts.into_iter().map(|(pack, count)| (pack, size(&pack) / count.max(1))).collect())
}

struct Counter {
    sums: ImageStatistics,
    /// Data bytes of each leaf seen: a leaf that comes again is not read again.
    leaves: HashMap<BlobId, u64>,
    /// One bit for each entry of the index: names would take a GiB for each TiB.
    chunks: Seen,
}

impl Counter {
    fn new(index: &Arc<Index>) -> Self {
        Self { sums: ImageStatistics::default(), leaves: HashMap::new(), chunks: Seen::new(index) }
    }

    fn add_snapshot(&mut self, virtual_size: u64) {
        self.sums.snapshots += 1;
        self.sums.logical_bytes += virtual_size;
    }

    fn add_leaf(
        &mut self,
        blobs: &Blobs,
        index: &Index,
        shares: &HashMap<PackId, u64>,
        leaf: BlobId,
        chunk_bytes: u64,
    ) -> Result<()> {
        if let Some(data) = self.leaves.get(&leaf) {
            self.sums.data_bytes += data;
            return Ok(());
        }
        let node = blobs.node(leaf, 0)?;
        let mut data = 0;
        for chunk in node.children.into_iter().flatten() {
            data += chunk_bytes;
            if self.chunks.insert(&chunk)? {
                self.sums.unique_bytes += chunk_bytes;
                let location = index.locate(&chunk)?;
                self.sums.stored_bytes +=
                    location.and_then(|location| shares.get(&location.pack)).copied().unwrap_or(0);
            }
        }
        self.leaves.insert(leaf, data);
        self.sums.data_bytes += data;
        Ok(())
    }
}
