//! Storing a disk that comes from its first byte to its last: what cannot be read here and there.
//!
//! What is given is cut into stretches of one frame each, which workers name and store. A leaf becomes a node when all of its
//! stretches are stored. Memory: two stretches for each worker, and the names of the leaves at the frontier; it does not grow
//! with the disk but for one name per leaf, nor with the size of a leaf.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::id::BlobId;
use crate::tree::Node;
use crate::writer::lock;
use crate::{Error, Result};

use super::storing::{Hand, Root, Storing};

/// The next bytes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// These.
    Data(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
}

/// Takes the next bytes of a disk. Who is told that this failed gives no more.
pub type Take<'a> = dyn FnMut(Given) -> Result<()> + 'a;

/// Gives all bytes of a disk, in order.
pub type Give<'a> = dyn FnMut(&mut Take<'_>) -> Result<()> + 'a;

/// Bytes of whole chunks, within one leaf, at most a frame of them.
struct Stretch {
    leaf: u64,
    first_chunk: usize,
    bytes: Vec<u8>,
}

/// A leaf that is not stored yet.
struct OpenLeaf {
    node: Node,
    /// Stretches that are given to workers and not stored yet.
    pending: usize,
    /// Whether all that it has was given to workers.
    is_passed: bool,
}

/// The leaves of the disk, as far as it was given.
struct Leaves<'a> {
    storing: &'a Storing<'a>,
    open: Mutex<BTreeMap<u64, OpenLeaf>>,
    stored: Mutex<BTreeMap<u64, Option<BlobId>>>,
}

impl Leaves<'_> {
    /// Changes an open leaf, and stores it if that was the last.
    fn change(
        &self,
        number: u64,
        hand: &mut Hand,
        change: impl FnOnce(&mut OpenLeaf) -> Result<()>,
    ) -> Result<()> {
        let complete = {
            let mut open = lock(&self.open);
            let fanout_bits = self.storing.repository.config().fanout_bits;
            let leaf = open.entry(number).or_insert_with(|| OpenLeaf {
                node: Node::empty(0, fanout_bits),
                pending: 0,
                is_passed: false,
            });
            change(leaf)?;
            let is_complete = leaf.is_passed && leaf.pending == 0;
            is_complete.then(|| open.remove(&number)).flatten()
        };
        if let Some(OpenLeaf { node, .. }) = complete.filter(|leaf| !leaf.node.is_zero()) {
            let id = self.storing.store_node(&node, &mut hand.encoder)?;
            lock(&self.stored).insert(number, Some(id));
        }
        Ok(())
    }
}

/// Stores all that `give` gives, and returns root and level of its tree.
pub(super) fn store(storing: &Storing<'_>, threads: usize, give: &mut Give<'_>) -> Result<Root> {
    let leaves = Leaves { storing, open: Mutex::default(), stored: Mutex::default() };
    let (queue, tasks) = sync_channel::<Stretch>(threads);
    // Owned by the workers alone: when all of them have failed the queue is closed, and whoever fills it wakes up.
    let tasks = Arc::new(Mutex::new(tasks));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (tasks, leaves) = (Arc::clone(&tasks), &leaves);
                scope.spawn(move || {
                    let result = work(leaves, &tasks);
                    drop(tasks);
                    if result.is_err() {
                        storing.failed.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        drop(tasks);
        let mut result = Hand::new(storing.repository).and_then(|hand| {
            let mut cutter = Cutter { leaves: &leaves, queue, hand, position: 0, begun: Vec::new() };
            give(&mut |given| cutter.take(given))?;
            cutter.finish()
        });
        for worker in workers {
            let worked =
                worker.join().unwrap_or_else(|_| Err(Error::Invalid("a worker thread has died".to_owned())));
            // A worker's error says more than that of who gives, which may only have seen that the workers had stopped.
            if matches!((&result, &worked), (Ok(()) | Err(Error::Interrupted), Err(_))) {
                result = worked;
            }
        }
        result
    })?;
    storing.finish_tree(std::mem::take(&mut *lock(&leaves.stored)), None)
}

fn work(leaves: &Leaves<'_>, tasks: &Mutex<Receiver<Stretch>>) -> Result<()> {
    let storing = leaves.storing;
    let chunk_bytes = storing.repository.config().chunk_bytes();
    let mut hand = Hand::new(storing.repository)?;
    // Of the leaf that was looked at last: its stretches come one after the other.
    let mut hint: Option<(u64, Option<Node>)> = None;
    loop {
        let task = lock(tasks).recv();
        let Ok(Stretch { leaf, first_chunk, bytes }) = task else { return Ok(()) };
        if storing.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if hint.as_ref().is_none_or(|(number, _)| *number != leaf) {
            hint = Some((leaf, storing.hint.as_ref().and_then(|tree| tree.hint(leaf))));
        }
        let places = first_chunk..first_chunk + bytes.len() / chunk_bytes;
        let before = hint.as_ref().and_then(|(_, node)| node.as_ref());
        let before = before.map(|node| &node.children[places.clone()]);
        let mut names = vec![None; places.len()];
        storing.store_chunks(&bytes, &mut names, before, &mut hand)?;
        leaves.change(leaf, &mut hand, |open| {
            open.node.children[places].copy_from_slice(&names);
            open.pending -= 1;
            Ok(())
        })?;
    }
}

/// Cuts what is given.
struct Cutter<'a> {
    leaves: &'a Leaves<'a>,
    queue: SyncSender<Stretch>,
    hand: Hand,
    /// How much was given, in bytes.
    position: u64,
    /// The bytes of the stretch at the position, up to it; none where all of it is zeros so far.
    begun: Vec<u8>,
}

impl Cutter<'_> {
    fn take(&mut self, given: Given) -> Result<()> {
        let storing = self.leaves.storing;
        if storing.control.is_cancelled() || storing.failed.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let length = match &given {
            Given::Data(bytes) => bytes.len() as u64,
            Given::Zeros(length) => *length,
        };
        if length > storing.size - self.position {
            return Err(Error::Invalid(format!(
                "the disk was said to have {} bytes, and has more",
                storing.size
            )));
        }
        match given {
            Given::Data(bytes) => {
                storing.counters.read.fetch_add(length, Ordering::Relaxed);
                self.data(bytes)?;
            }
            Given::Zeros(length) => self.zeros(length)?,
        }
        storing.control.advance(length);
        Ok(())
    }

    /// Where the stretch at the position begins and ends.
    fn bounds(&self) -> (u64, u64) {
        let config = self.leaves.storing.repository.config();
        let (leaf_bytes, frame_bytes) = (config.leaf_bytes(), config.frame_bytes() as u64);
        let within = self.position % leaf_bytes;
        let leaf_start = self.position - within;
        let start = leaf_start + within - within % frame_bytes;
        (start, (start + frame_bytes).min(leaf_start + leaf_bytes))
    }

    fn data(&mut self, bytes: Vec<u8>) -> Result<()> {
        let (start, end) = self.bounds();
        if self.position == start && bytes.len() as u64 == end - start {
            // A whole stretch as it came.
            self.begun = bytes;
            return self.pass(end);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (start, end) = self.bounds();
            let (part, behind) = rest.split_at(rest.len().min((end - self.position) as usize));
            self.begun.resize((self.position - start) as usize, 0);
            self.begun.extend_from_slice(part);
            self.pass(self.position + part.len() as u64)?;
            rest = behind;
        }
        Ok(())
    }

    fn zeros(&mut self, length: u64) -> Result<()> {
        let end = self.position + length;
        while self.position < end {
            let (start, stretch_end) = self.bounds();
            let part_end = stretch_end.min(end);
            if !self.begun.is_empty() {
                self.begun.resize((part_end - start) as usize, 0);
            } else if self.position == start {
                // Whole leaves, and stretches, of zeros: nothing is made of them.
                let whole = self.leaves.storing.repository.config().leaf_bytes();
                if start.is_multiple_of(whole) && end - start >= whole {
                    self.position = end - end % whole;
                    continue;
                }
            }
            self.pass(part_end)?;
        }
        Ok(())
    }

    /// Moves the position within its stretch; at the end of it, the stretch goes to a worker.
    fn pass(&mut self, to: u64) -> Result<()> {
        let (start, end) = self.bounds();
        self.position = to;
        if to < end {
            return Ok(());
        }
        self.hand_out(start)
    }

    /// Hands the begun stretch out, if there is anything in it; at the end of its leaf, that is passed.
    fn hand_out(&mut self, start: u64) -> Result<()> {
        let config = self.leaves.storing.repository.config();
        let leaf = start / config.leaf_bytes();
        if !self.begun.is_empty() {
            let first_chunk = (start % config.leaf_bytes()) as usize / config.chunk_bytes();
            let bytes = std::mem::take(&mut self.begun);
            self.leaves.change(leaf, &mut self.hand, |open| {
                open.pending += 1;
                Ok(())
            })?;
            let stretch = Stretch { leaf, first_chunk, bytes };
            self.queue.send(stretch).map_err(|_| Error::Interrupted)?;
        }
        let is_last = self.position == self.leaves.storing.size;
        if self.position.is_multiple_of(config.leaf_bytes()) || is_last {
            self.leaves.change(leaf, &mut self.hand, |open| {
                open.is_passed = true;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends the disk, which must be whole.
    fn finish(mut self) -> Result<()> {
        let storing = self.leaves.storing;
        if self.position < storing.size {
            return Err(Error::Invalid(format!(
                "the disk was said to have {} bytes, and {} of them came",
                storing.size, self.position
            )));
        }
        let (start, _) = self.bounds();
        if self.position > start {
            // The last chunk of a disk may be short; the rest of it is zeros.
            let chunk_bytes = storing.repository.config().chunk_bytes();
            if !self.begun.is_empty() {
                self.begun.resize(self.begun.len().next_multiple_of(chunk_bytes), 0);
            }
            self.hand_out(start)?;
        }
        Ok(())
    }
}
