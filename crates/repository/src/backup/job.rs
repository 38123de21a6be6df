//! Reading one disk and storing what the repository lacks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use leeward_disk::{Source, walk_extents};

use crate::id::BlobId;
use crate::repository::Repository;
use crate::tree::Node;
use crate::writer::{Writer, lock};
use crate::{Error, Result};

use super::Control;
use super::storing::{Counters, Hand, Root, Storing};
use super::tree::{Base, Tree};

/// Leaves that wait for a worker, for each worker.
const QUEUE_PER_WORKER: usize = 4;

/// What is read of a disk.
#[derive(Clone, Copy)]
pub(super) enum Read<'a> {
    /// All that the source calls data.
    All,
    /// What may differ from an earlier snapshot, of which the rest is taken over.
    Changed(&'a Base),
}

/// A leaf that a worker makes.
struct LeafTask {
    number: u64,
    part: Part,
}

/// What of a leaf is read.
enum Part {
    /// The stretches that the source calls data; all else reads as zeros.
    Data(Vec<(u64, u64)>),
    /// Chunks by their places, first and end, in order and apart; the others are those of the base.
    Changed(Vec<(u64, u64)>),
}

/// The work on one disk that can be read in any order.
pub(super) struct Job<'a> {
    storing: Storing<'a>,
    source: &'a dyn Source,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        source: &'a dyn Source,
        writer: &'a Writer,
        hint: Option<Tree>,
        control: &'a dyn Control,
    ) -> Self {
        Self { storing: Storing::new(repository, writer, source.virtual_size(), hint, control), source }
    }

    pub(super) fn into_counters(self) -> Counters {
        self.storing.into_counters()
    }
}

impl Job<'_> {
    /// Reads the disk and returns root and level of its tree.
    pub(super) fn run(&self, threads: usize, read: Read<'_>) -> Result<Root> {
        let leaves: Mutex<BTreeMap<u64, Option<BlobId>>> = Mutex::default();
        let (queue, tasks) = sync_channel::<LeafTask>(threads * QUEUE_PER_WORKER);
        // Owned by the workers alone: when all of them have failed the queue is closed, and whoever fills it wakes up.
        let tasks = Arc::new(Mutex::new(tasks));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (tasks, leaves) = (Arc::clone(&tasks), &leaves);
                    scope.spawn(move || {
                        let result = self.work(&tasks, leaves, read);
                        drop(tasks);
                        if result.is_err() {
                            self.storing.failed.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            drop(tasks);
            let hand_out = |task| queue.send(task).is_ok();
            let planned = match read {
                Read::All => self.plan(&hand_out),
                Read::Changed(base) => self.plan_changed(base, &hand_out),
            };
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
        let base = match read {
            Read::All => None,
            Read::Changed(base) => Some(base),
        };
        self.storing.finish_tree(leaves, base)
    }

    /// Walks the extents of the source and hands out a task for each leaf that has data.
    fn plan(&self, hand_out: &dyn Fn(LeafTask) -> bool) -> Result<()> {
        let leaf_bytes = self.storing.repository.config().leaf_bytes();
        let size = self.source.virtual_size();
        let mut task: Option<LeafTask> = None;
        let mut done = 0;
        let mut send = |task: LeafTask| -> Result<()> {
            // Zeros between tasks are done when they are passed.
            let start = task.number * leaf_bytes;
            self.storing.control.advance(start.saturating_sub(done));
            done = (start + leaf_bytes).min(size);
            if hand_out(task) { Ok(()) } else { Err(Error::Interrupted) }
        };
        walk_extents(self.source, 0, size, |extent| {
            if self.storing.control.is_cancelled() || self.storing.failed.load(Ordering::Relaxed) {
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
                    Some(LeafTask { number: last, part: Part::Data(data) }) if *last == number => {
                        data.push((position, end));
                    }
                    _ => {
                        let next = LeafTask { number, part: Part::Data(vec![(position, end)]) };
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
        self.storing.control.advance(size.saturating_sub(done));
        Ok(())
    }

    /// Hands out a task for each leaf that may differ from the base, or whose chunks have to be looked up.
    fn plan_changed(&self, base: &Base, hand_out: &dyn Fn(LeafTask) -> bool) -> Result<()> {
        base.leaves(|number, places| {
            if self.storing.control.is_cancelled() || self.storing.failed.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let task = LeafTask { number, part: Part::Changed(places) };
            if hand_out(task) { Ok(()) } else { Err(Error::Interrupted) }
        })
    }

    fn work(
        &self,
        tasks: &Mutex<std::sync::mpsc::Receiver<LeafTask>>,
        leaves: &Mutex<BTreeMap<u64, Option<BlobId>>>,
        read: Read<'_>,
    ) -> Result<()> {
        let config = self.storing.repository.config();
        let mut worker =
            Worker { hand: Hand::new(self.storing.repository)?, input: vec![0; config.frame_bytes()] };
        loop {
            let task = lock(tasks).recv();
            let Ok(task) = task else { return Ok(()) };
            if self.storing.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if self.storing.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (node, done) = match (task.part, read) {
                (Part::Changed(places), Read::Changed(base)) => {
                    self.changed_leaf(task.number, &places, base, &mut worker)?
                }
                (Part::Data(data) | Part::Changed(data), _) => {
                    let start = task.number * config.leaf_bytes();
                    let hint = self.storing.hint.as_ref().and_then(|tree| tree.hint(task.number));
                    let empty = Node::empty(0, config.fanout_bits);
                    let node = self.read_leaf(task.number, &data, empty, hint.as_ref(), &mut worker)?;
                    (node, (start + config.leaf_bytes()).min(self.source.virtual_size()) - start)
                }
            };
            let id = if node.is_zero() {
                None
            } else {
                Some(self.storing.store_node(&node, &mut worker.hand.encoder)?)
            };
            lock(leaves).insert(task.number, id);
            self.storing.control.advance(done);
        }
    }

    /// A leaf of the base with some of its chunks replaced by what the source has, and how many bytes of the source that
    /// concerns.
    fn changed_leaf(
        &self,
        number: u64,
        places: &[(u64, u64)],
        base: &Base,
        worker: &mut Worker,
    ) -> Result<(Node, u64)> {
        let config = self.storing.repository.config();
        let chunk_bytes = config.chunk_bytes() as u64;
        let leaf_start = number * config.leaf_bytes();
        let before = base.tree.node(0, number)?.unwrap_or_else(|| Node::empty(0, config.fanout_bits));
        let mut node = before.clone();
        let mut is_changed = vec![false; config.fanout()];
        for &(first, end) in places {
            is_changed[first as usize..end as usize].fill(true);
        }
        if !base.is_settled {
            for (child, is_changed) in node.children.iter().zip(&mut is_changed) {
                if let Some(id) = child.filter(|_| !*is_changed) {
                    *is_changed = !self.storing.writer.can_refer(&id)?;
                }
            }
        }
        // Where chunks have changed, what the source calls data is read; the rest of them is zeros.
        let (mut data, mut concerned) = (Vec::new(), 0);
        let mut place = 0;
        while place < is_changed.len() {
            if !is_changed[place] {
                place += 1;
                continue;
            }
            let count = is_changed[place..].iter().take_while(|is_changed| **is_changed).count();
            let chunks = &mut node.children[place..place + count];
            let held = chunks.iter().flatten().count() as u64;
            self.storing.counters.replaced.fetch_add(held * chunk_bytes, Ordering::Relaxed);
            chunks.fill(None);
            let start = leaf_start + place as u64 * chunk_bytes;
            let end = (start + count as u64 * chunk_bytes).min(self.source.virtual_size());
            walk_extents(self.source, start, end - start, |extent| {
                if extent.kind.is_data() {
                    data.push((extent.offset, extent.end()));
                }
                Ok::<(), Error>(())
            })?;
            concerned += end - start;
            place += count;
        }
        Ok((self.read_leaf(number, &data, node, Some(&before), worker)?, concerned))
    }

    /// Reads stretches of a leaf, stores the chunks that the repository lacks, and puts their names into `node`.
    fn read_leaf(
        &self,
        number: u64,
        data: &[(u64, u64)],
        mut node: Node,
        hint: Option<&Node>,
        worker: &mut Worker,
    ) -> Result<Node> {
        let config = self.storing.repository.config();
        let (chunk_bytes, frame_bytes) = (config.chunk_bytes() as u64, config.frame_bytes() as u64);
        let leaf_start = number * config.leaf_bytes();
        let mut stretches = data;
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
                self.storing.counters.read.fetch_add(end - from, Ordering::Relaxed);
                filled = stop;
                if to > unit_end {
                    break;
                }
                stretches = &stretches[1..];
            }
            position = unit_end;
            buffer[filled..].fill(0);
            let first_chunk = ((unit_start - leaf_start) / chunk_bytes) as usize;
            let places = first_chunk..first_chunk + length / chunk_bytes as usize;
            let hint = hint.map(|hint| &hint.children[places.clone()]);
            let names = &mut node.children[places];
            self.storing.store_chunks(&worker.input[..length], names, hint, &mut worker.hand)?;
        }
        Ok(node)
    }
}

/// What a worker keeps from one leaf to the next.
struct Worker {
    hand: Hand,
    input: Vec<u8>,
}
