//! Naming and storing what was read of a disk: chunks, and the tree above them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use leeward_disk::is_zero;

use crate::Result;
use crate::frame::{BlobKind, FrameEncoder};
use crate::id::BlobId;
use crate::repository::Repository;
use crate::tree::{Node, root_level};
use crate::writer::{Writer, lock};

use super::Control;
use super::tree::{Base, Tree};

/// Tree nodes are stored together up to this many bytes.
const NODE_FRAME_BYTES: usize = 256 << 10;

/// Root and level of a tree.
pub(super) type Root = (Option<BlobId>, u8);

#[derive(Default)]
pub(super) struct AtomicCounters {
    pub(super) data: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) read: AtomicU64,
    pub(super) new: AtomicU64,
}

/// What was read and stored, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    /// What was read and held something other than zeros, in whole chunks.
    pub(super) data: u64,
    /// Chunks of the base that were replaced.
    pub(super) replaced: u64,
    /// Read from the source.
    pub(super) read: u64,
    /// Not in the repository before.
    pub(super) new: u64,
}

/// The storing of one disk.
pub(super) struct Storing<'a> {
    pub(super) repository: &'a Repository,
    pub(super) writer: &'a Writer,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) hint: Option<Tree>,
    pub(super) counters: AtomicCounters,
    /// Nodes that wait to be stored together.
    nodes: Mutex<NodeBatch>,
    pub(super) failed: AtomicBool,
    pub(super) control: &'a dyn Control,
}

#[derive(Default)]
struct NodeBatch {
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

/// What a thread that stores keeps from one stretch to the next.
pub(super) struct Hand {
    pub(super) encoder: FrameEncoder,
    fresh: Vec<u8>,
    fresh_ids: Vec<BlobId>,
}

impl Hand {
    pub(super) fn new(repository: &Repository) -> Result<Self> {
        let encoder = repository.frame_encoder()?;
        let fresh = Vec::with_capacity(repository.config().frame_bytes());
        Ok(Self { encoder, fresh, fresh_ids: Vec::new() })
    }
}

impl<'a> Storing<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        writer: &'a Writer,
        size: u64,
        hint: Option<Tree>,
        control: &'a dyn Control,
    ) -> Self {
        Self {
            repository,
            writer,
            size,
            hint,
            counters: AtomicCounters::default(),
            nodes: Mutex::default(),
            failed: AtomicBool::new(false),
            control,
        }
    }

    pub(super) fn into_counters(self) -> Counters {
        Counters {
            data: self.counters.data.into_inner(),
            replaced: self.counters.replaced.into_inner(),
            read: self.counters.read.into_inner(),
            new: self.counters.new.into_inner(),
        }
    }

    /// Names the chunks of a stretch of whole chunks, at most a frame of them, and stores those that the repository lacks.
    /// `hint` has the names that stood in these places before.
    pub(super) fn store_chunks(
        &self,
        stretch: &[u8],
        names: &mut [Option<BlobId>],
        hint: Option<&[Option<BlobId>]>,
        hand: &mut Hand,
    ) -> Result<()> {
        let chunk_bytes = self.repository.config().chunk_bytes();
        for (place, chunk) in stretch.chunks_exact(chunk_bytes).enumerate() {
            if is_zero(chunk) {
                continue;
            }
            let id = self.repository.keys().chunk(chunk);
            self.counters.data.fetch_add(chunk_bytes as u64, Ordering::Relaxed);
            names[place] = Some(id);
            let unchanged = hint.is_some_and(|hint| hint[place] == Some(id));
            if unchanged && self.writer.may_contain(&id) {
                continue;
            }
            if self.writer.claim(&id)? {
                self.counters.new.fetch_add(chunk_bytes as u64, Ordering::Relaxed);
                hand.fresh.extend_from_slice(chunk);
                hand.fresh_ids.push(id);
            }
        }
        if !hand.fresh.is_empty() {
            let frame = hand.encoder.encode(BlobKind::Chunk, &hand.fresh)?;
            hand.fresh.clear();
            self.writer.push_chunks(&frame, std::mem::take(&mut hand.fresh_ids))?;
        }
        Ok(())
    }

    /// Stores a node with others, unless the repository has it.
    pub(super) fn store_node(&self, node: &Node, encoder: &mut FrameEncoder) -> Result<BlobId> {
        let bytes = node.encode();
        let id = self.repository.keys().node(&bytes);
        if self.writer.claim(&id)? {
            let full = {
                let mut batch = lock(&self.nodes);
                batch.lengths.push(bytes.len() as u32);
                batch.ids.push(id);
                batch.content.extend_from_slice(&bytes);
                (batch.content.len() >= NODE_FRAME_BYTES).then(|| std::mem::take(&mut *batch))
            };
            if let Some(full) = full {
                self.store_nodes(full, encoder)?;
            }
        }
        Ok(id)
    }

    fn store_nodes(&self, batch: NodeBatch, encoder: &mut FrameEncoder) -> Result<()> {
        let frame = encoder.encode(BlobKind::Node, &batch.content)?;
        self.writer.push_nodes(&frame, batch.ids, batch.lengths)
    }

    /// Builds the levels above the leaves that were made; where there is a base, the other nodes are its own.
    pub(super) fn finish_tree(
        &self,
        leaves: BTreeMap<u64, Option<BlobId>>,
        base: Option<&Base>,
    ) -> Result<Root> {
        let config = self.repository.config();
        let mut encoder = self.repository.frame_encoder()?;
        let chunks = self.size.div_ceil(config.chunk_bytes() as u64);
        let top = root_level(chunks, config.fanout_bits);
        if let Some(base) = base.filter(|_| leaves.is_empty()) {
            return Ok((base.tree.root(), top));
        }
        let mut below = leaves;
        for level in 1..=top {
            let mut above = BTreeMap::new();
            let mut entries = below.into_iter().peekable();
            while let Some(&(number, _)) = entries.peek() {
                let parent = number >> config.fanout_bits;
                let before = base.map(|base| base.tree.node(level, parent)).transpose()?.flatten();
                let mut node = before.unwrap_or_else(|| Node::empty(level, config.fanout_bits));
                while let Some((number, id)) =
                    entries.next_if(|(number, _)| number >> config.fanout_bits == parent)
                {
                    node.children[number as usize % config.fanout()] = id;
                }
                let id = if node.is_zero() { None } else { Some(self.store_node(&node, &mut encoder)?) };
                above.insert(parent, id);
            }
            below = above;
        }
        debug_assert!(below.len() <= 1, "a tree has one root");
        let batch = std::mem::take(&mut *lock(&self.nodes));
        if !batch.ids.is_empty() {
            self.store_nodes(batch, &mut encoder)?;
        }
        Ok((below.into_values().next().flatten(), top))
    }
}
