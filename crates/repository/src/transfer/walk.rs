//! Which nodes and chunks of a snapshot the target lacks.
//!
//! The wanted tree is walked beside a tree of which everything is known to be at the target. An equal node there means
//! an equal subtree: it is skipped. A node that merely lies in the target's index proves nothing of what is below it (an
//! interrupted transfer may have left it), so everything else is looked up one by one, down to the chunks.

use std::collections::HashSet;

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::BlobId;
use crate::snapshot::Snapshot;
use crate::tree::{Node, chunks_under};
use crate::{Error, Result};

/// Nodes that are read at once before a walk goes down to them.
const NODES_AT_ONCE: usize = 8;

/// Why a walk stopped.
pub(super) enum Stop {
    /// What the snapshot needs cannot be had at the source. Other snapshots may travel.
    Source(Error),
    /// The transfer as a whole cannot go on.
    Fatal(Error),
}

impl Stop {
    /// Of an error at the source.
    pub(super) fn of_source(error: Error) -> Self {
        if super::is_damage(&error) { Self::Source(error) } else { Self::Fatal(error) }
    }
}

/// Where what is missing goes.
pub(super) trait Sink {
    /// Whether the target lacks a blob. When the answer is yes, every later question is answered with no.
    ///
    /// # Errors
    /// The target's index cannot be read.
    fn lacks(&mut self, id: &BlobId) -> Result<bool>;

    /// A node that the target lacks, encoded.
    fn node(&mut self, id: BlobId, bytes: Vec<u8>) -> Result<(), Stop>;

    /// A chunk that the target lacks.
    fn chunk(&mut self, id: BlobId) -> Result<(), Stop>;

    /// All chunks of a leaf were looked at.
    fn end_leaf(&mut self) -> Result<(), Stop>;
}

/// A tree of which everything is at the target, and will stay there until the transfer ends.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    /// Where its nodes are read.
    pub(super) blobs: &'a Blobs,
    root: Option<BlobId>,
    level: u8,
}

impl<'a> Base<'a> {
    pub(super) fn new(blobs: &'a Blobs, snapshot: &Snapshot) -> Self {
        Self { blobs, root: snapshot.root, level: snapshot.root_level }
    }

    /// Its node above the beginning of the disk at a level; none where it does not reach so high.
    fn lowered(&self, level: u8) -> Option<BlobId> {
        let (mut id, mut at) = (self.root?, self.level);
        while at > level {
            id = self.blobs.node(id, at).ok()?.children.first().copied().flatten()?;
            at -= 1;
        }
        (at == level).then_some(id)
    }
}

/// Walks the trees of one snapshot after the other.
pub(super) struct Walker<'a> {
    from: &'a Blobs,
    control: &'a dyn Control,
    /// Nodes of which everything is at the target or was handed to the sink.
    complete: HashSet<BlobId>,
    /// Those of the walk that is under way.
    fresh: Vec<BlobId>,
    /// Nodes read.
    pub(super) nodes: u64,
    /// Chunks looked up or compared.
    pub(super) chunks: u64,
    chunk_bytes: u64,
    fanout_bits: u8,
}

/// The part of a tree that is walked.
#[derive(Clone, Copy)]
struct Subtree {
    id: BlobId,
    level: u8,
    /// Its first chunk.
    first: u64,
    /// What the base has at its place.
    base: Option<BlobId>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(from: &'a Blobs, control: &'a dyn Control) -> Self {
        let config = from.repository().config();
        Self {
            from,
            control,
            complete: HashSet::new(),
            fresh: Vec::new(),
            nodes: 0,
            chunks: 0,
            chunk_bytes: config.chunk_bytes() as u64,
            fanout_bits: config.fanout_bits,
        }
    }

    /// Hands everything that the target lacks of a snapshot to the sink.
    pub(super) fn walk(
        &mut self,
        snapshot: &Snapshot,
        base: Option<Base<'_>>,
        sink: &mut dyn Sink,
    ) -> Result<(), Stop> {
        self.fresh.clear();
        let config = self.from.repository().config();
        if (snapshot.chunk_bits, snapshot.fanout_bits) != (config.chunk_bits, config.fanout_bits) {
            let what = "the snapshot was cut otherwise than this repository";
            return Err(Stop::Source(self.from.repository().damaged("snapshots", what)));
        }
        let level = snapshot.root_level;
        match snapshot.root {
            None => self.cover(snapshot, 0, level),
            Some(id) => {
                let at = base.and_then(|base| base.lowered(level));
                self.descend(snapshot, Subtree { id, level, first: 0, base: at }, base, sink)?;
            }
        }
        Ok(())
    }

    /// From now on the nodes of the last walk count as complete: everything that it handed out has arrived.
    pub(super) fn settle(&mut self) {
        self.complete.extend(self.fresh.drain(..));
    }

    fn descend(
        &mut self,
        snapshot: &Snapshot,
        tree: Subtree,
        base: Option<Base<'_>>,
        sink: &mut dyn Sink,
    ) -> Result<(), Stop> {
        if self.control.is_cancelled() {
            return Err(Stop::Fatal(Error::Interrupted));
        }
        if tree.base == Some(tree.id) || self.complete.contains(&tree.id) {
            self.cover(snapshot, tree.first, tree.level);
            return Ok(());
        }
        let node = self.from.node(tree.id, tree.level).map_err(Stop::of_source)?;
        self.nodes += 1;
        self.check_end(snapshot, &tree, &node)?;
        // What cannot be read of the base is looked up instead.
        let other = base.zip(tree.base).and_then(|(base, id)| base.blobs.node(id, tree.level).ok());
        let beside =
            |index: usize| other.as_ref().and_then(|node| node.children.get(index).copied().flatten());
        if tree.level == 0 {
            for (index, id) in
                node.children.iter().enumerate().filter_map(|(index, id)| Some((index, (*id)?)))
            {
                self.chunks += 1;
                if beside(index) != Some(id) && sink.lacks(&id).map_err(Stop::Fatal)? {
                    sink.chunk(id)?;
                }
            }
            self.cover(snapshot, tree.first, 0);
            sink.end_leaf()?;
        } else {
            let mut children = Vec::with_capacity(node.children.len());
            let span = chunks_under(tree.level - 1, self.fanout_bits);
            for (index, id) in node.children.iter().enumerate() {
                let first = tree.first.saturating_add((index as u64).saturating_mul(span));
                match id {
                    None => self.cover(snapshot, first, tree.level - 1),
                    Some(id) => {
                        let base = beside(index);
                        children.push(Subtree { id: *id, level: tree.level - 1, first, base });
                    }
                }
            }
            self.fetch_ahead(&children)?;
            for child in children {
                self.descend(snapshot, child, base, sink)?;
            }
        }
        if sink.lacks(&tree.id).map_err(Stop::Fatal)? {
            sink.node(tree.id, node.encode())?;
        }
        self.fresh.push(tree.id);
        Ok(())
    }

    /// A child beyond the end of the disk can only come from a hostile writer.
    fn check_end(&self, snapshot: &Snapshot, tree: &Subtree, node: &Node) -> Result<(), Stop> {
        let span = match tree.level {
            0 => 1,
            level => chunks_under(level - 1, self.fanout_bits),
        };
        let within = snapshot.chunk_count().saturating_sub(tree.first).div_ceil(span);
        let beyond = usize::try_from(within).unwrap_or(usize::MAX);
        if node.children.iter().skip(beyond).any(Option::is_some) {
            let what = format!("tree node {} has children beyond the end of the disk", tree.id);
            return Err(Stop::Source(self.from.repository().damaged("snapshots", what)));
        }
        Ok(())
    }

    /// Reads the frames of the children together: over a network one after the other would take its delay each.
    fn fetch_ahead(&self, children: &[Subtree]) -> Result<(), Stop> {
        let mut locations = Vec::new();
        for child in children.iter().filter(|child| child.base != Some(child.id)) {
            if self.complete.contains(&child.id) {
                continue;
            }
            if let Some(location) = self.from.index().locate(&child.id).map_err(Stop::of_source)? {
                locations.push((location.pack, location.offset, location));
            }
        }
        locations.sort_unstable_by_key(|(pack, offset, _)| (*pack, *offset));
        locations.dedup_by_key(|(pack, offset, _)| (*pack, *offset));
        if locations.len() > 1 {
            std::thread::scope(|scope| {
                for (.., location) in locations.iter().take(NODES_AT_ONCE) {
                    // What fails here fails again where the node is needed, with its name.
                    scope.spawn(|| self.from.frame(BlobKind::Node, location).is_ok());
                }
            });
        }
        Ok(())
    }

    /// Notes that a stretch of the disk is dealt with.
    fn cover(&self, snapshot: &Snapshot, first: u64, level: u8) {
        let start = first.saturating_mul(self.chunk_bytes).min(snapshot.virtual_size);
        let end = first
            .saturating_add(chunks_under(level, self.fanout_bits))
            .saturating_mul(self.chunk_bytes)
            .min(snapshot.virtual_size);
        if end > start {
            self.control.advance(end - start);
        }
    }
}
