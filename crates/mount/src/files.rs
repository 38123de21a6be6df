//! The files of a snapshot: its disk, its partitions, its manifest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use leeward_disk::{PartitionTable, SharedSource, Source, partitions};
use leeward_repository::{Error, Result, SnapshotId, SnapshotReader, SnapshotSource};

/// Snapshots that stay open though none of their files is, at most.
const OPEN_MAX: usize = 8;

/// A snapshot that is open.
pub(crate) struct OpenSnapshot {
    source: Arc<SnapshotSource>,
    table: OnceLock<PartitionTable>,
}

impl OpenSnapshot {
    /// Its disk.
    pub(crate) fn disk(&self) -> SharedSource {
        Arc::clone(&self.source) as SharedSource
    }

    /// Bytes of it that are not zero, as its backup counted them.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.source.snapshot().statistics.data_bytes.min(self.source.virtual_size())
    }

    /// Its partition table. The beginning of the disk is read for it once.
    pub(crate) fn table(&self) -> Result<&PartitionTable> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let table = partitions(self.source.as_ref()).map_err(Error::Disk)?;
        Ok(self.table.get_or_init(|| table))
    }

    /// A partition as a disk; `None` where there is no such partition, or it cannot be trusted.
    pub(crate) fn partition(&self, number: u32) -> Result<Option<SharedSource>> {
        let found = self.table()?.usable().find(|partition| partition.number == number);
        found.map(|partition| partition.open(&self.disk()).map_err(Error::Disk)).transpose()
    }

    /// Its manifest as text.
    pub(crate) fn manifest(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self.source.snapshot())
            .map_err(|error| Error::Invalid(format!("the manifest cannot be written: {error}")))?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Opens snapshots, and keeps the last few open.
pub(crate) struct Files {
    reader: SnapshotReader,
    open: Mutex<VecDeque<(SnapshotId, Arc<OpenSnapshot>)>>,
}

impl Files {
    pub(crate) fn new(reader: SnapshotReader) -> Self {
        Self { reader, open: Mutex::default() }
    }

    /// The snapshot, open.
    pub(crate) fn snapshot(&self, id: SnapshotId) -> Result<Arc<OpenSnapshot>> {
        if let Some(found) = self.keep(id, None) {
            return Ok(found);
        }
        let source = Arc::new(self.reader.source(id)?);
        let snapshot = Arc::new(OpenSnapshot { source, table: OnceLock::new() });
        Ok(self.keep(id, Some(Arc::clone(&snapshot))).unwrap_or(snapshot))
    }

    /// Makes a snapshot the last used one; one that is open already is better than a second one.
    fn keep(&self, id: SnapshotId, new: Option<Arc<OpenSnapshot>>) -> Option<Arc<OpenSnapshot>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.iter().position(|(other, _)| *other == id).and_then(|index| open.remove(index));
        let snapshot = known.map(|(_, snapshot)| snapshot).or(new)?;
        open.push_back((id, Arc::clone(&snapshot)));
        let closed = if open.len() > OPEN_MAX { open.pop_front() } else { None };
        drop(open);
        // Its threads may have to be waited for, so not under the lock.
        drop(closed);
        Some(snapshot)
    }
}
