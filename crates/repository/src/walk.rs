//! Walking extent trees: leaf by leaf, and two trees side by side.

use crate::Result;
use crate::blobs::Blobs;
use crate::id::BlobId;
use crate::snapshot::Snapshot;
use crate::tree::chunks_under;

/// A leaf of a tree, or a stretch without leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// The node at `id` has the chunks from number `first` on.
    Leaf { first: u64, id: BlobId },
    /// Chunks `first` to `end` (not included) read as zeros.
    Zero { first: u64, end: u64 },
}

/// Calls `visit` for the leaves of a snapshot and the zeros between them, in order, over the whole disk.
pub(crate) fn walk(
    blobs: &Blobs,
    snapshot: &Snapshot,
    visit: &mut dyn FnMut(Stretch) -> Result<()>,
) -> Result<()> {
    let end = snapshot.chunk_count();
    if end == 0 {
        return Ok(());
    }
    let mut walker = Walker { blobs, fanout_bits: snapshot.fanout_bits, end, visit };
    walker.descend(snapshot.root, snapshot.root_level, 0)
}

struct Walker<'a> {
    blobs: &'a Blobs,
    fanout_bits: u8,
    end: u64,
    visit: &'a mut dyn FnMut(Stretch) -> Result<()>,
}

impl Walker<'_> {
    fn descend(&mut self, id: Option<BlobId>, level: u8, first: u64) -> Result<()> {
        let Some(id) = id else {
            let end = first.saturating_add(chunks_under(level, self.fanout_bits)).min(self.end);
            return (self.visit)(Stretch::Zero { first, end });
        };
        if level == 0 {
            return (self.visit)(Stretch::Leaf { first, id });
        }
        let node = self.blobs.node(id, level)?;
        let span = chunks_under(level - 1, self.fanout_bits);
        for (index, child) in node.children.iter().enumerate() {
            let start = first + index as u64 * span;
            if start >= self.end {
                break;
            }
            self.descend(*child, level - 1, start)?;
        }
        Ok(())
    }
}

/// A stretch of two disks that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// First byte.
    pub offset: u64,
    /// Length in bytes; whole chunks but for the end of the disk.
    pub length: u64,
}

/// Finds where two snapshots differ, through their trees, without reading any chunk. The snapshots must be
/// comparable. Neighbouring differences are joined.
pub(crate) fn diff(
    blobs: &Blobs,
    a: &Snapshot,
    b: &Snapshot,
    visit: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    let size = a.virtual_size.max(b.virtual_size);
    let mut differ = Differ {
        blobs,
        fanout_bits: a.fanout_bits,
        chunk_bits: a.chunk_bits,
        size,
        end: size.div_ceil(1 << a.chunk_bits),
        open: None,
        visit,
    };
    // The lower tree is lifted: its root is the first child of a node above it.
    let level = a.root_level.max(b.root_level);
    differ.compare(Side::of(a), Side::of(b), level, 0)?;
    differ.close()
}

/// One of two subtrees that are compared.
#[derive(Clone, Copy)]
struct Side {
    id: Option<BlobId>,
    /// The level of the node `id`; below the level that is being compared while the tree is lifted.
    level: u8,
}

impl Side {
    fn of(snapshot: &Snapshot) -> Self {
        Self { id: snapshot.root, level: snapshot.root_level }
    }
}

struct Differ<'a> {
    blobs: &'a Blobs,
    fanout_bits: u8,
    chunk_bits: u8,
    size: u64,
    end: u64,
    open: Option<(u64, u64)>,
    visit: &'a mut dyn FnMut(Difference) -> Result<()>,
}

impl Differ<'_> {
    fn compare(&mut self, a: Side, b: Side, level: u8, first: u64) -> Result<()> {
        if a.id == b.id && (a.level == b.level || a.id.is_none()) {
            return Ok(());
        }
        let (left, right) = (self.children(a, level)?, self.children(b, level)?);
        for index in 0..1_usize << self.fanout_bits {
            let (left, right) = (child(&left, index, a, level), child(&right, index, b, level));
            if level == 0 {
                if left.id != right.id {
                    self.mark(first + index as u64)?;
                }
                continue;
            }
            let start = first + index as u64 * chunks_under(level - 1, self.fanout_bits);
            if start >= self.end {
                break;
            }
            self.compare(left, right, level - 1, start)?;
        }
        Ok(())
    }

    fn children(&self, side: Side, level: u8) -> Result<Vec<Option<BlobId>>> {
        match side.id {
            Some(id) if side.level == level => Ok(self.blobs.node(id, level)?.children),
            _ => Ok(Vec::new()),
        }
    }

    fn mark(&mut self, chunk: u64) -> Result<()> {
        match &mut self.open {
            Some((_, end)) if *end == chunk => {
                *end += 1;
                Ok(())
            }
            _ => {
                self.close()?;
                self.open = Some((chunk, chunk + 1));
                Ok(())
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        let Some((first, end)) = self.open.take() else { return Ok(()) };
        let offset = first << self.chunk_bits;
        let end = (end << self.chunk_bits).min(self.size);
        (self.visit)(Difference { offset, length: end.saturating_sub(offset) })
    }
}

/// The child of a side at an index of a node of `level`.
fn child(children: &[Option<BlobId>], index: usize, side: Side, level: u8) -> Side {
    if side.level < level {
        // Lifted: everything lies under the first child.
        return Side { id: side.id.filter(|_| index == 0), level: side.level };
    }
    Side { id: children.get(index).copied().flatten(), level: level.saturating_sub(1) }
}
