//! A snapshot as a disk that can be read: what compares, copies, converts and serves disks then works on snapshots.
//!
//! Extents come from the tree alone, without reading any chunk: a chunk that is there is data, one that is not is
//! unallocated. Every chunk that is read is compared with its name, also when only a part of it is asked for.

use std::sync::{Arc, Mutex};

use leeward_disk::{
    Error as DiskError, ErrorKind as DiskErrorKind, Extent, ExtentKind, Format, Info, Source,
};

use crate::blobs::{Blobs, Recent};
use crate::id::{BlobId, SnapshotId};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::tree::{Node, chunks_under};
use crate::writer::lock;
use crate::{Error, ErrorKind, Result};

/// Tree nodes that one call for extents reads, at most, beyond the way down to the first leaf.
const NODES_PER_CALL: usize = 64;
/// Bytes of decoded frames that are kept unless told otherwise.
const CACHE_BYTES: u64 = 64 << 20;
/// Leaves that are remembered; one spans 8 MiB of disk by default and takes about 4 KiB.
const LEAVES_MAX: usize = 64;

/// A leaf, or `None` where the disk reads as zeros.
type Leaf = Option<Arc<Node>>;

/// A snapshot of a repository, read as a disk, from many threads.
pub struct SnapshotSource {
    blobs: Blobs,
    snapshot: Snapshot,
    name: String,
    chunk_bytes: u64,
    leaves: Mutex<Recent<u64, Leaf>>,
}

impl Repository {
    /// Opens a snapshot as a disk. It stays readable while the snapshot is kept; one that is forgotten meanwhile until a
    /// collection ends.
    ///
    /// # Errors
    /// The manifest is missing or damaged, or the store fails.
    pub fn source(&self, id: SnapshotId) -> Result<SnapshotSource> {
        self.source_with_cache(id, CACHE_BYTES)
    }

    /// As [`Repository::source`], with about so many bytes of decoded frames kept in memory. Small reads all over a disk
    /// are faster with more; a frame is read and decoded as a whole.
    ///
    /// # Errors
    /// As [`Repository::source`].
    pub fn source_with_cache(&self, id: SnapshotId, cache_bytes: u64) -> Result<SnapshotSource> {
        let snapshot = self.snapshot(id)?;
        let config = self.config();
        if (snapshot.chunk_bits, snapshot.fanout_bits) != (config.chunk_bits, config.fanout_bits) {
            return Err(self.damaged("snapshots", "the snapshot was cut otherwise than this repository"));
        }
        Ok(SnapshotSource {
            blobs: Blobs::open(self)?.with_cache(cache_bytes),
            name: format!("{}: snapshot {} of {}", self.location(), id.short(), snapshot.image),
            chunk_bytes: config.chunk_bytes() as u64,
            leaves: Mutex::new(Recent::new(LEAVES_MAX)),
            snapshot,
        })
    }
}

impl SnapshotSource {
    /// The manifest of the snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

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
        if let Some(leaf) = lock(&self.leaves).get(&number) {
            return Ok(leaf);
        }
        let leaf = self.find_leaf(number)?;
        lock(&self.leaves).put(number, leaf.clone());
        Ok(leaf)
    }

    fn find_leaf(&self, number: u64) -> Result<Leaf> {
        let fanout_bits = u32::from(self.snapshot.fanout_bits);
        let mut id = self.snapshot.root;
        for level in (1..=self.snapshot.root_level).rev() {
            let Some(node) = id else { return Ok(None) };
            let index = number >> ((u32::from(level) - 1) * fanout_bits) & ((1 << fanout_bits) - 1);
            id = self.blobs.node(node, level)?.children.get(index as usize).copied().flatten();
        }
        id.map(|id| self.read_leaf(id, number << fanout_bits)).transpose()
    }

    fn read_leaf(&self, id: BlobId, first: u64) -> Result<Arc<Node>> {
        let node = self.blobs.node(id, 0)?;
        let within = self.snapshot.chunk_count().saturating_sub(first);
        // A child beyond the end of the disk can only come from a hostile writer.
        if node.children.iter().skip(usize::try_from(within).unwrap_or(usize::MAX)).any(Option::is_some) {
            let what = format!("tree node {id} has chunks beyond the end of the disk");
            return Err(self.blobs.repository().damaged("snapshots", what));
        }
        Ok(Arc::new(node))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let fanout = 1 << self.snapshot.fanout_bits;
        let (mut position, mut rest) = (offset, buffer);
        let mut current: Option<(u64, Leaf)> = None;
        while !rest.is_empty() {
            let (chunk, within) = (position / self.chunk_bytes, (position % self.chunk_bytes) as usize);
            let length = rest.len().min(self.chunk_bytes as usize - within);
            let (part, after) = rest.split_at_mut(length);
            let number = chunk / fanout;
            let leaf = match current.take() {
                Some((of, leaf)) if of == number => leaf,
                _ => self.leaf(number)?,
            };
            let child = leaf.as_ref().and_then(|node| node.children.get((chunk % fanout) as usize));
            match child.copied().flatten() {
                None => part.fill(0),
                Some(id) => {
                    self.blobs.chunk(id, |bytes| part.copy_from_slice(&bytes[within..within + length]))?;
                }
            }
            current = Some((number, leaf));
            (position, rest) = (position + length as u64, after);
        }
        Ok(())
    }
}

impl Source for SnapshotSource {
    fn virtual_size(&self) -> u64 {
        self.snapshot.virtual_size
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.snapshot.virtual_size,
            allocated_bytes: None,
            details: vec![
                ("snapshot of", self.snapshot.image.clone()),
                ("created", self.snapshot.created.clone()),
            ],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> leeward_disk::Result<Vec<Extent>> {
        self.check_range(offset, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let end = (offset + length).div_ceil(self.chunk_bytes).min(self.snapshot.chunk_count());
        let mut map = Mapper {
            source: self,
            first: offset / self.chunk_bytes,
            end,
            range: (offset, offset + length),
            nodes_left: NODES_PER_CALL,
            extents: Vec::new(),
        };
        map.descend(self.snapshot.root, self.snapshot.root_level, 0)
            .map_err(|error| self.failed(offset, length, error))?;
        Ok(map.extents)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> leeward_disk::Result<()> {
        let length = buffer.len() as u64;
        self.check_range(offset, length)?;
        self.read(buffer, offset).map_err(|error| self.failed(offset, length, error))
    }
}

/// Collects the extents of the chunks from `first` to `end`, in order, until the nodes are used up.
struct Mapper<'a> {
    source: &'a SnapshotSource,
    first: u64,
    end: u64,
    /// The bytes that were asked for: the first and last chunk may be cut by it.
    range: (u64, u64),
    nodes_left: usize,
    extents: Vec<Extent>,
}

impl Mapper<'_> {
    fn descend(&mut self, id: Option<BlobId>, level: u8, start: u64) -> Result<()> {
        let fanout_bits = self.source.snapshot.fanout_bits;
        let Some(id) = id else {
            self.push(start, start.saturating_add(chunks_under(level, fanout_bits)), ExtentKind::Unallocated);
            return Ok(());
        };
        self.nodes_left = self.nodes_left.saturating_sub(1);
        if level == 0 {
            let node = self.source.read_leaf(id, start)?;
            for (index, child) in node.children.iter().enumerate() {
                let kind = if child.is_some() { ExtentKind::Data } else { ExtentKind::Unallocated };
                self.push(start + index as u64, start + index as u64 + 1, kind);
            }
            return Ok(());
        }
        let node = self.source.blobs.node(id, level)?;
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
        let offset = (first * self.source.chunk_bytes).max(self.range.0);
        let end = end.saturating_mul(self.source.chunk_bytes).min(self.range.1);
        Extent { offset, length: end.saturating_sub(offset), kind }.push_merged(&mut self.extents);
    }
}

#[cfg(test)]
mod tests;
