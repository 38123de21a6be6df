//! A snapshot as a disk that can be read: what compares, copies, converts and serves disks then works on snapshots.
//!
//! Extents come from the tree alone, without reading any chunk: a chunk that is there is data, one that is not is
//! unallocated. Every chunk is compared with its name when it is first read, also when only a part of it is asked for;
//! then it stays in a bounded cache ([`cache`]), and what leaves that may go to a file ([`spill`]). Random reads decode no more of a frame than pays ([`chunks`]);
//! ahead of sequential reads a few threads decode what comes next ([`ahead`]).

mod ahead;
mod cache;
mod chunks;
mod flights;
mod options;
mod spill;

use std::sync::{Arc, Mutex};

use leeward_disk::{
    Error as DiskError, ErrorKind as DiskErrorKind, Extent, ExtentKind, Format, Info, Source,
};

use ahead::Ahead;
use chunks::{Chunks, Reader};
pub use options::ReadOptions;
pub use spill::SpillOptions;

use crate::blobs::{Blobs, Recent};
use crate::id::{BlobId, SnapshotId};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::tree::{Node, chunks_under};
use crate::writer::lock;
use crate::{Error, ErrorKind, Result};

/// Tree nodes that one call for extents reads, at most, beyond the way down to the first leaf.
const NODES_PER_CALL: usize = 64;
/// Leaves that are remembered, at least; one spans 8 MiB of disk by default and takes about 4 KiB.
const LEAVES_MIN: usize = 64;
/// Bytes of the cache for each leaf that is remembered: so many leaves span 32 times as much as the cache holds.
const CACHE_BYTES_PER_LEAF: u64 = 256 << 10;
/// Parts of the remembered leaves with a lock each.
const LEAF_SHARDS: usize = 8;

/// A leaf, or `None` where the disk reads as zeros.
type Leaf = Option<Arc<Node>>;

/// A snapshot of a repository, read as a disk, from many threads.
pub struct SnapshotSource {
    // First, so that its threads have ended when the rest goes.
    ahead: Option<Ahead>,
    disk: Arc<Disk>,
}

/// What reads need, shared with the threads that read ahead.
struct Disk {
    chunks: Arc<Chunks>,
    snapshot: Snapshot,
    name: String,
    chunk_bytes: u64,
    leaves: [Mutex<Recent<u64, Leaf>>; LEAF_SHARDS],
}

impl Repository {
    /// Opens a snapshot as a disk. It stays readable while the snapshot is kept; one that is forgotten meanwhile until a
    /// collection ends.
    ///
    /// # Errors
    /// The manifest is missing or damaged, or the store fails.
    pub fn source(&self, id: SnapshotId) -> Result<SnapshotSource> {
        self.source_with(id, ReadOptions::default())
    }

    /// As [`Repository::source`], with so much memory and so many threads.
    ///
    /// # Errors
    /// Those of [`Repository::source`].
    pub fn source_with(&self, id: SnapshotId, options: ReadOptions) -> Result<SnapshotSource> {
        self.reader(options)?.source(id)
    }

    /// Opens the index once for any number of snapshots, which then share one cache.
    ///
    /// # Errors
    /// The store fails, or the file for decoded chunks cannot be made.
    pub fn reader(&self, options: ReadOptions) -> Result<SnapshotReader> {
        self.require_chunk_access()?;
        let chunks = Arc::new(Chunks::new(Blobs::open(self)?, &options)?);
        Ok(SnapshotReader { chunks, options })
    }
}

/// Opens snapshots as disks that share an index and a cache: what two of them have in common is decoded once.
#[derive(Clone)]
pub struct SnapshotReader {
    chunks: Arc<Chunks>,
    options: ReadOptions,
}

impl SnapshotReader {
    /// Opens a snapshot as a disk, also one that was published after the reader was opened. It reads ahead on threads of
    /// its own.
    ///
    /// # Errors
    /// Those of [`Repository::source`].
    pub fn source(&self, id: SnapshotId) -> Result<SnapshotSource> {
        let (repository, options) = (self.chunks.blobs.repository(), &self.options);
        let snapshot = repository.snapshot(id)?;
        let config = repository.config();
        if (snapshot.chunk_bits, snapshot.fanout_bits) != (config.chunk_bits, config.fanout_bits) {
            let what = "the snapshot was cut otherwise than this repository";
            return Err(repository.damaged("snapshots", what));
        }
        let leaves = usize::try_from(options.cache_bytes / CACHE_BYTES_PER_LEAF).unwrap_or(usize::MAX);
        let leaves = leaves.max(LEAVES_MIN) / LEAF_SHARDS;
        let disk = Arc::new(Disk {
            chunks: Arc::clone(&self.chunks),
            name: format!("{}: snapshot {} of {}", repository.location(), id.short(), snapshot.image),
            chunk_bytes: config.chunk_bytes() as u64,
            leaves: std::array::from_fn(|_| Mutex::new(Recent::new(leaves))),
            snapshot,
        });
        let window = options.read_ahead_bytes.min(options.cache_bytes / 4);
        let ahead = (window > 0 && options.threads > 0).then(|| {
            let disk = Arc::clone(&disk);
            Ahead::new(window, options.threads, Arc::new(move |from, to| disk.load(from, to)))
        });
        Ok(SnapshotSource { ahead, disk })
    }
}

impl SnapshotSource {
    /// The manifest of the snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.disk.snapshot
    }
}

impl Disk {
    fn check_range(&self, offset: u64, length: u64) -> leeward_disk::Result<()> {
        let virtual_size = self.snapshot.virtual_size;
        match offset.checked_add(length) {
            Some(end) if end <= virtual_size => Ok(()),
            _ => Err(DiskError::OutOfRange { path: self.name.clone(), offset, length, virtual_size }),
        }
    }

    fn failed(&self, offset: u64, length: u64, error: Error) -> DiskError {
        let kind = match error.kind() {
            ErrorKind::Damaged => DiskErrorKind::Corrupt,
            ErrorKind::Interrupted => DiskErrorKind::Cancelled,
            _ => DiskErrorKind::Io,
        };
        DiskError::Backend { path: self.name.clone(), offset, length, kind, source: Box::new(error) }
    }

    /// The leaf of a number, by way of the tree unless it was used lately.
    fn leaf(&self, number: u64) -> Result<Leaf> {
        let shard = &self.leaves[number as usize % LEAF_SHARDS];
        if let Some(leaf) = lock(shard).get(&number) {
            return Ok(leaf);
        }
        let leaf = self.find_leaf(number)?;
        lock(shard).put(number, leaf.clone());
        Ok(leaf)
    }

    fn find_leaf(&self, number: u64) -> Result<Leaf> {
        let fanout_bits = u32::from(self.snapshot.fanout_bits);
        let mut id = self.snapshot.root;
        for level in (1..=self.snapshot.root_level).rev() {
            let Some(node) = id else { return Ok(None) };
            let index = number >> ((u32::from(level) - 1) * fanout_bits) & ((1 << fanout_bits) - 1);
            id = self.chunks.blobs.node(node, level)?.children.get(index as usize).copied().flatten();
        }
        id.map(|id| self.read_leaf(id, number << fanout_bits)).transpose()
    }

    fn read_leaf(&self, id: BlobId, first: u64) -> Result<Arc<Node>> {
        let node = self.chunks.blobs.node(id, 0)?;
        let within = self.snapshot.chunk_count().saturating_sub(first);
        // A child beyond the end of the disk can only come from a hostile writer.
        if node.children.iter().skip(usize::try_from(within).unwrap_or(usize::MAX)).any(Option::is_some) {
            let what = format!("tree node {id} has chunks beyond the end of the disk");
            return Err(self.chunks.blobs.repository().damaged("snapshots", what));
        }
        Ok(Arc::new(node))
    }

    fn read(&self, buffer: &mut [u8], offset: u64, reader: Reader) -> Result<()> {
        let mut rest = buffer;
        self.each_chunk(offset, rest.len() as u64, |id, within, length| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            match id {
                None => part.fill(0),
                Some(id) => {
                    let chunk = self.chunks.chunk(id, reader)?;
                    part.copy_from_slice(&chunk.bytes()[within..within + length]);
                }
            }
            Ok(())
        })
    }

    /// Decodes what somebody will soon ask for. What fails is found again by whoever asks.
    fn load(&self, from: u64, to: u64) {
        let to = to.min(self.snapshot.virtual_size);
        let _ = self.each_chunk(from, to.saturating_sub(from), |id, _, _| {
            if let Some(id) = id.filter(|id| !self.chunks.is_cached(id)) {
                self.chunks.chunk(id, Reader::Stream)?;
            }
            Ok(())
        });
    }

    /// Calls `visit` for each chunk of a range with its name, and which bytes of it are in the range: the first and how many.
    fn each_chunk(
        &self,
        offset: u64,
        length: u64,
        mut visit: impl FnMut(Option<BlobId>, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let fanout = 1 << self.snapshot.fanout_bits;
        let (mut position, end) = (offset, offset.saturating_add(length));
        let mut current: Option<(u64, Leaf)> = None;
        while position < end {
            let (chunk, within) = (position / self.chunk_bytes, position % self.chunk_bytes);
            let length = (end - position).min(self.chunk_bytes - within);
            let number = chunk / fanout;
            let leaf = match current.take() {
                Some((of, leaf)) if of == number => leaf,
                _ => self.leaf(number)?,
            };
            let child = leaf.as_ref().and_then(|node| node.children.get((chunk % fanout) as usize));
            visit(child.copied().flatten(), within as usize, length as usize)?;
            current = Some((number, leaf));
            position += length;
        }
        Ok(())
    }
}

impl Source for SnapshotSource {
    fn virtual_size(&self) -> u64 {
        self.disk.snapshot.virtual_size
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.disk.snapshot.virtual_size,
            allocated_bytes: None,
            details: vec![
                ("snapshot of", self.disk.snapshot.image.clone()),
                ("created", self.disk.snapshot.created.clone()),
            ],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.disk.check_range(offset, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let end = (offset + length).div_ceil(self.disk.chunk_bytes).min(self.disk.snapshot.chunk_count());
        let mut map = Mapper {
            disk: &self.disk,
            first: offset / self.disk.chunk_bytes,
            end,
            range: (offset, offset + length),
            nodes_left: NODES_PER_CALL,
            extents: Vec::new(),
        };
        map.descend(self.disk.snapshot.root, self.disk.snapshot.root_level, 0)
            .map_err(|error| self.disk.failed(offset, length, error))?;
        Ok(map.extents)
    }

    fn is_at_hand(&self, offset: u64, length: u64) -> bool {
        let leaf_bytes = self.disk.chunk_bytes << self.disk.snapshot.fanout_bits;
        let last = offset.saturating_add(length.saturating_sub(1));
        let has_leaf = |number| lock(&self.disk.leaves[number as usize % LEAF_SHARDS]).get(&number).is_some();
        if !(offset / leaf_bytes..=last / leaf_bytes).all(has_leaf) {
            return false;
        }
        let mut are_cached = true;
        // With its leaves at hand the walk reads nothing.
        let walked = self.disk.each_chunk(offset, length, |id, _, _| {
            are_cached &= id.is_none_or(|id| self.disk.chunks.is_cached(&id));
            Ok(())
        });
        walked.is_ok() && are_cached
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let length = buffer.len() as u64;
        self.disk.check_range(offset, length)?;
        let is_stream = self.ahead.as_ref().is_some_and(|ahead| ahead.note(offset, length));
        let reader = if is_stream { Reader::Stream } else { Reader::Random };
        self.disk.read(buffer, offset, reader).map_err(|error| self.disk.failed(offset, length, error))
    }
}

/// Collects the extents of the chunks from `first` to `end`, in order, until the nodes are used up.
struct Mapper<'a> {
    disk: &'a Disk,
    first: u64,
    end: u64,
    /// The bytes that were asked for: the first and last chunk may be cut by it.
    range: (u64, u64),
    nodes_left: usize,
    extents: Vec<Extent>,
}

impl Mapper<'_> {
    fn descend(&mut self, id: Option<BlobId>, level: u8, start: u64) -> Result<()> {
        let fanout_bits = self.disk.snapshot.fanout_bits;
        let Some(id) = id else {
            self.push(start, start.saturating_add(chunks_under(level, fanout_bits)), ExtentKind::Unallocated);
            return Ok(());
        };
        self.nodes_left = self.nodes_left.saturating_sub(1);
        if level == 0 {
            let node = self.disk.read_leaf(id, start)?;
            for (index, child) in node.children.iter().enumerate() {
                let kind = if child.is_some() { ExtentKind::Data } else { ExtentKind::Unallocated };
                self.push(start + index as u64, start + index as u64 + 1, kind);
            }
            return Ok(());
        }
        let node = self.disk.chunks.blobs.node(id, level)?;
        let span = chunks_under(level - 1, fanout_bits);
        for (index, child) in node.children.iter().enumerate() {
            let start = start.saturating_add((index as u64).saturating_mul(span));
            if start >= self.end || (self.nodes_left == 0 && !self.extents.is_empty()) {
                break;
            }
            if start.saturating_add(span) > self.first {
                self.descend(*child, level - 1, start)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, first: u64, end: u64, kind: ExtentKind) {
        let (first, end) = (first.max(self.first), end.min(self.end));
        if first >= end {
            return;
        }
        let offset = (first * self.disk.chunk_bytes).max(self.range.0);
        let end = end.saturating_mul(self.disk.chunk_bytes).min(self.range.1);
        Extent { offset, length: end.saturating_sub(offset), kind }.push_merged(&mut self.extents);
    }
}

#[cfg(test)]
mod tests;
