//! From a disk to a snapshot.
//!
//! The disk is cut into leaves (the chunks under one node of the lowest level, 8 MiB by default), which workers take one
//! after the other. A worker reads what the source calls data, leaves out what is zero, names every chunk, and stores
//! the ones that the repository lacks: those of one stretch together, as a frame. Chunk names of a leaf become its node
//! at once, so memory does not grow with the disk but for one name per leaf.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use leeward_disk::{Source, is_zero, walk_extents};

use crate::blobs::Blobs;
use crate::frame::{BlobKind, FrameEncoder};
use crate::id::{BlobId, SnapshotId};
use crate::image::{ImageName, SnapshotEntry};
use crate::repository::Repository;
use crate::snapshot::{
    BackupStatistics, Consistency, MANIFEST_VERSION, Snapshot, SourceRecord, VIRTUAL_SIZE_MAX,
};
use crate::tree::{Node, root_level};
use crate::writer::{Writer, lock};
use crate::{Error, Result};

/// Tree nodes are stored together up to this many bytes.
const NODE_FRAME_BYTES: usize = 256 << 10;
/// Leaves that wait for a worker, for each worker.
const QUEUE_PER_WORKER: usize = 4;

/// What is to be backed up, and how.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The image to which the snapshot is added.
    pub image: ImageName,
    /// Where the content comes from, for the manifest.
    pub source: SourceRecord,
    /// How far the content agrees with itself.
    pub consistency: Consistency,
    /// Names and values given by the person.
    pub tags: BTreeMap<String, String>,
    /// Number of threads that read, hash and compress.
    pub threads: usize,
}

/// Watches and stops long work.
pub trait Control: Sync {
    /// So many more bytes of the disk are done.
    fn advance(&self, bytes: u64);

    /// Whether to stop as soon as possible.
    fn is_cancelled(&self) -> bool;
}

/// Watches nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unattended;

impl Control for Unattended {
    fn advance(&self, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What a backup made.
#[derive(Debug, Clone)]
pub struct BackupOutcome {
    /// The new snapshot.
    pub id: SnapshotId,
    /// Its manifest.
    pub snapshot: Snapshot,
}

/// The stretches of one leaf that the source calls data.
struct LeafTask {
    number: u64,
    data: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Counters {
    data: AtomicU64,
    read: AtomicU64,
    new: AtomicU64,
}

struct Job<'a> {
    repository: &'a Repository,
    source: &'a dyn Source,
    writer: &'a Writer,
    parent: Option<ParentLeaves>,
    counters: Counters,
    /// Nodes that wait to be stored together.
    nodes: Mutex<NodeBatch>,
    failed: AtomicBool,
    control: &'a dyn Control,
}

/// The leaves of the parent snapshot: a hint that saves lookups, never believed about content.
struct ParentLeaves {
    blobs: Blobs,
    root: Option<BlobId>,
    level: u8,
    chunk_count: u64,
}

#[derive(Default)]
struct NodeBatch {
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

impl Repository {
    /// Backs a disk up as a new snapshot of an image. When this returns, the snapshot survives anything.
    ///
    /// # Errors
    /// The source or the store fails, the work is cancelled, or a collection declared this writer dead. What was
    /// stored until then is used by the next backup.
    pub fn backup(
        &self,
        source: &dyn Source,
        options: &BackupOptions,
        control: &dyn Control,
    ) -> Result<BackupOutcome> {
        let created = Timestamp::now();
        if source.virtual_size() > VIRTUAL_SIZE_MAX {
            return Err(Error::Invalid(format!(
                "the disk says that it has {} bytes, more than any disk can have",
                source.virtual_size()
            )));
        }
        let mut writer = Writer::begin(self, format!("backup of {}", options.image))?;
        self.complete_sessions_leniently()?;
        // Read after the session was registered: what this ref holds cannot be collected from here on.
        let parent = match self.read_ref(&options.image)? {
            Some((image, _)) => image.snapshots.last().map(|entry| entry.id),
            None => None,
        };
        let job = Job {
            repository: self,
            source,
            writer: &writer,
            parent: self.parent_leaves(parent, &writer)?,
            counters: Counters::default(),
            nodes: Mutex::default(),
            failed: AtomicBool::new(false),
            control,
        };
        let tree = job.run(options.threads.max(1));
        let counters = job.counters;
        let (root, level) = match tree {
            Ok(tree) => tree,
            Err(error) => {
                // What is stored so far is kept for the next run; the first error is the one to tell.
                let _ = writer.abandon();
                return Err(error);
            }
        };
        writer.flush()?;
        let snapshot = Snapshot {
            manifest_version: MANIFEST_VERSION,
            image: options.image.to_string(),
            virtual_size: source.virtual_size(),
            chunk_bits: self.config().chunk_bits,
            fanout_bits: self.config().fanout_bits,
            root_level: level,
            root,
            parents: parent.into_iter().collect(),
            group: None,
            source: options.source.clone(),
            consistency: options.consistency,
            tags: options.tags.clone(),
            created: created.to_string(),
            session: writer.session_id().unwrap_or_default().to_owned(),
            tool: crate::config::tool(),
            statistics: BackupStatistics {
                data_bytes: counters.data.into_inner(),
                read_bytes: counters.read.into_inner(),
                new_bytes: counters.new.into_inner(),
                stored_bytes: writer.stored_bytes(),
            },
        };
        let id = self.put_snapshot(&snapshot)?;
        let entry = SnapshotEntry {
            id,
            created,
            virtual_size: snapshot.virtual_size,
            tags: options.tags.clone(),
            holds: Vec::new(),
        };
        writer.commit(&options.image, &entry)?;
        Ok(BackupOutcome { id, snapshot })
    }

    /// As [`Repository::complete_sessions`], but a damaged record of somebody else does not stop a backup.
    fn complete_sessions_leniently(&self) -> Result<()> {
        match self.complete_sessions() {
            Err(Error::Damaged { .. }) => Ok(()),
            other => other,
        }
    }

    fn parent_leaves(&self, parent: Option<SnapshotId>, writer: &Writer) -> Result<Option<ParentLeaves>> {
        // While something is condemned every reuse has to be looked up, and the hint saves nothing. When a pack is
        // missing, the parent may be damaged: only the lookup tells what has to be stored again.
        let Some(parent) = parent.filter(|_| writer.is_settled()) else { return Ok(None) };
        let config = self.config();
        match self.snapshot(parent) {
            Ok(snapshot)
                if snapshot.chunk_bits == config.chunk_bits && snapshot.fanout_bits == config.fanout_bits =>
            {
                Ok(Some(ParentLeaves {
                    blobs: Blobs::open(self)?,
                    root: snapshot.root,
                    level: snapshot.root_level,
                    chunk_count: snapshot.chunk_count(),
                }))
            }
            // A damaged parent must not stop a backup: the backup then mends what it can.
            Ok(_) | Err(Error::Damaged { .. }) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl ParentLeaves {
    /// The leaf node at a place; none where it is zero, damaged, or beyond the end.
    fn leaf(&self, number: u64, fanout_bits: u8) -> Option<Node> {
        if number << fanout_bits >= self.chunk_count {
            return None;
        }
        let mut id = self.root?;
        for level in (0..=self.level).rev() {
            let node = self.blobs.node(id, level).ok()?;
            if level == 0 {
                return Some(node);
            }
            let shift = u32::from(level - 1) * u32::from(fanout_bits);
            let index = (number >> shift) as usize % node.children.len();
            id = node.children[index]?;
        }
        None
    }
}

impl Job<'_> {
    /// Reads the whole disk and returns root and level of its tree.
    fn run(&self, threads: usize) -> Result<(Option<BlobId>, u8)> {
        let config = self.repository.config();
        let leaf_count = self.source.virtual_size().div_ceil(config.leaf_bytes());
        let leaves: Mutex<BTreeMap<u64, BlobId>> = Mutex::default();
        let (queue, tasks) = sync_channel::<LeafTask>(threads * QUEUE_PER_WORKER);
        // Owned by the workers alone: when all of them have failed the queue is closed, and whoever fills it wakes up.
        let tasks = Arc::new(Mutex::new(tasks));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (tasks, leaves) = (Arc::clone(&tasks), &leaves);
                    scope.spawn(move || {
                        let result = self.work(&tasks, leaves);
                        drop(tasks);
                        if result.is_err() {
                            self.failed.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            drop(tasks);
            let planned = self.plan(&|task| queue.send(task).is_ok());
            drop(queue);
            let mut result = planned;
            for worker in workers {
                let worked = worker
                    .join()
                    .unwrap_or_else(|_| Err(Error::Invalid("a worker thread has died".to_owned())));
                // A worker's error says more than the planner's, which only saw that the workers had stopped.
                if matches!((&result, &worked), (Ok(()) | Err(Error::Interrupted), Err(_))) {
                    result = worked;
                }
            }
            result
        })?;
        let leaves = leaves.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.finish_tree(leaves, leaf_count)
    }

    /// Walks the extents of the source and hands out a task for each leaf that has data.
    fn plan(&self, hand_out: &dyn Fn(LeafTask) -> bool) -> Result<()> {
        let leaf_bytes = self.repository.config().leaf_bytes();
        let size = self.source.virtual_size();
        let mut task: Option<LeafTask> = None;
        let mut done = 0;
        let mut send = |task: LeafTask| -> Result<()> {
            // Zeros between tasks are done when they are passed.
            let start = task.number * leaf_bytes;
            self.control.advance(start.saturating_sub(done));
            done = (start + leaf_bytes).min(size);
            if hand_out(task) { Ok(()) } else { Err(Error::Interrupted) }
        };
        walk_extents(self.source, 0, size, |extent| {
            if self.control.is_cancelled() || self.failed.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if !extent.kind.is_data() {
                return Ok(());
            }
            let mut position = extent.offset;
            while position < extent.end() {
                let number = position / leaf_bytes;
                let end = extent.end().min((number + 1) * leaf_bytes);
                match &mut task {
                    Some(task) if task.number == number => task.data.push((position, end)),
                    _ => {
                        let next = LeafTask { number, data: vec![(position, end)] };
                        if let Some(full) = task.replace(next) {
                            send(full)?;
                        }
                    }
                }
                position = end;
            }
            Ok(())
        })?;
        if let Some(task) = task {
            send(task)?;
        }
        self.control.advance(size.saturating_sub(done));
        Ok(())
    }

    fn work(
        &self,
        tasks: &Mutex<std::sync::mpsc::Receiver<LeafTask>>,
        leaves: &Mutex<BTreeMap<u64, BlobId>>,
    ) -> Result<()> {
        let config = self.repository.config();
        let mut worker = Worker {
            encoder: FrameEncoder::new(config.zstd_level)?,
            input: vec![0; config.frame_bytes()],
            fresh: Vec::with_capacity(config.frame_bytes()),
            fresh_ids: Vec::new(),
        };
        loop {
            let task = lock(tasks).recv();
            let Ok(task) = task else { return Ok(()) };
            if self.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let node = self.read_leaf(&task, &mut worker)?;
            if !node.is_zero() {
                let id = self.store_node(&node, &mut worker.encoder)?;
                lock(leaves).insert(task.number, id);
            }
            let start = task.number * config.leaf_bytes();
            self.control.advance((start + config.leaf_bytes()).min(self.source.virtual_size()) - start);
        }
    }

    fn read_leaf(&self, task: &LeafTask, worker: &mut Worker) -> Result<Node> {
        let config = self.repository.config();
        let (chunk_bytes, frame_bytes) = (config.chunk_bytes() as u64, config.frame_bytes() as u64);
        let hint = self.parent.as_ref().and_then(|parent| parent.leaf(task.number, config.fanout_bits));
        let leaf_start = task.number * config.leaf_bytes();
        let mut node = Node::empty(0, config.fanout_bits);
        let mut stretches = task.data.as_slice();
        let mut position = leaf_start;
        while let Some(&(first, _)) = stretches.first() {
            // A unit is what one frame may hold. Bytes that the source does not call data read as zeros.
            let first = first.max(position);
            let unit_start = first - (first - leaf_start) % frame_bytes;
            let unit_end = (unit_start + frame_bytes).min(leaf_start + config.leaf_bytes());
            let length = (unit_end - unit_start) as usize;
            let buffer = &mut worker.input[..length];
            let mut filled = 0;
            while let Some(&(from, to)) = stretches.first().filter(|(from, _)| *from < unit_end) {
                let (from, end) = (from.max(unit_start), to.min(unit_end));
                let (start, stop) = ((from - unit_start) as usize, (end - unit_start) as usize);
                buffer[filled..start].fill(0);
                self.source.read_at(&mut buffer[start..stop], from)?;
                self.counters.read.fetch_add(end - from, Ordering::Relaxed);
                filled = stop;
                if to > unit_end {
                    break;
                }
                stretches = &stretches[1..];
            }
            position = unit_end;
            buffer[filled..].fill(0);
            let first_chunk = ((unit_start - leaf_start) / chunk_bytes) as usize;
            for (index, chunk) in worker.input[..length].chunks_exact(chunk_bytes as usize).enumerate() {
                if is_zero(chunk) {
                    continue;
                }
                let place = first_chunk + index;
                let id = self.repository.keys().chunk(chunk);
                self.counters.data.fetch_add(chunk_bytes, Ordering::Relaxed);
                node.children[place] = Some(id);
                let unchanged = hint.as_ref().is_some_and(|hint| hint.children[place] == Some(id));
                if unchanged && self.writer.may_contain(&id) {
                    continue;
                }
                if self.writer.claim(&id)? {
                    self.counters.new.fetch_add(chunk_bytes, Ordering::Relaxed);
                    worker.fresh.extend_from_slice(chunk);
                    worker.fresh_ids.push(id);
                }
            }
            if !worker.fresh.is_empty() {
                let frame = worker.encoder.encode(BlobKind::Chunk, &worker.fresh)?;
                worker.fresh.clear();
                self.writer.push_chunks(&frame, std::mem::take(&mut worker.fresh_ids))?;
            }
        }
        Ok(node)
    }

    /// Stores a node with others, unless the repository has it.
    fn store_node(&self, node: &Node, encoder: &mut FrameEncoder) -> Result<BlobId> {
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

    /// Builds the levels above the leaves.
    fn finish_tree(&self, leaves: BTreeMap<u64, BlobId>, leaf_count: u64) -> Result<(Option<BlobId>, u8)> {
        let config = self.repository.config();
        let mut encoder = FrameEncoder::new(config.zstd_level)?;
        let chunks = self.source.virtual_size().div_ceil(config.chunk_bytes() as u64);
        let top = root_level(chunks, config.fanout_bits);
        let mut below = leaves;
        for level in 1..=top {
            let mut above = BTreeMap::new();
            let mut entries = below.into_iter().peekable();
            while let Some(&(number, _)) = entries.peek() {
                let parent = number >> config.fanout_bits;
                let mut node = Node::empty(level, config.fanout_bits);
                while let Some((number, id)) =
                    entries.next_if(|(number, _)| number >> config.fanout_bits == parent)
                {
                    node.children[number as usize % config.fanout()] = Some(id);
                }
                above.insert(parent, self.store_node(&node, &mut encoder)?);
            }
            below = above;
        }
        debug_assert!(below.len() <= 1, "a tree over {leaf_count} leaves has one root");
        let batch = std::mem::take(&mut *lock(&self.nodes));
        if !batch.ids.is_empty() {
            self.store_nodes(batch, &mut encoder)?;
        }
        Ok((below.into_values().next(), top))
    }
}

/// What a worker keeps from one leaf to the next.
struct Worker {
    encoder: FrameEncoder,
    input: Vec<u8>,
    fresh: Vec<u8>,
    fresh_ids: Vec<BlobId>,
}
