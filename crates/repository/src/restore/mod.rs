//! From a snapshot to a disk: writing it, patching an existing disk into it, comparing a disk with it.
//!
//! One thread walks the tree, workers take leaves, over a network several at a time. A worker finds out which chunks of
//! them are to be written, and [`fetch`] does that.

mod fetch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use leeward_disk::{Source, Target, is_zero, walk_extents};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::id::BlobId;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::walk::{Stretch, walk};
use crate::writer::lock;
use crate::{Error, Result};

use fetch::{Fetch, Wanted};

/// Differences that a comparison remembers by offset, at most.
const DIFFERENCES_MAX: usize = 16;
/// Zeros that one task covers, at most, so that progress moves and workers share.
const ZERO_TASK_BYTES: u64 = 1 << 30;
/// Disk that one task covers where frames are read together, unless a leaf covers more: enough that several requests of
/// full length come of it, and little enough that small disks give every worker something to do.
const GROUP_BYTES: u64 = 32 << 20;
/// Tasks that there should be for each worker, where the disk is small.
const GROUPS_PER_WORKER: u64 = 4;

/// What to do with a disk.
#[derive(Clone, Copy)]
pub enum RestoreMode<'a> {
    /// Write all of it.
    Write(&'a dyn Target),
    /// Read what is there and write only what differs.
    Patch(&'a dyn Target, &'a dyn Source),
    /// Read what is there and compare.
    Compare(&'a dyn Source),
}

/// What a restore or comparison did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RestoreOutcome {
    /// Size of the disk, in bytes.
    pub virtual_size: u64,
    /// Bytes of the snapshot that are not zero, in whole chunks.
    pub data_bytes: u64,
    /// Bytes written, zeros not counted.
    pub written_bytes: u64,
    /// Bytes that were made zero on a target that was not blank, where that was needed.
    pub zeroed_bytes: u64,
    /// Bytes that did not agree with the snapshot, in whole chunks; only when something was compared.
    pub differing_bytes: u64,
    /// Offsets of the first chunks that did not agree.
    pub differing_offsets: Vec<u64>,
}

impl Repository {
    /// Restores or compares a snapshot. The caller finishes the target.
    ///
    /// # Errors
    /// A stored object is missing or damaged (never are wrong bytes written), the target is too small or fails, or the
    /// work is cancelled.
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        mode: RestoreMode<'_>,
        threads: usize,
        control: &dyn Control,
    ) -> Result<RestoreOutcome> {
        if !matches!(mode, RestoreMode::Compare(_)) {
            // Before anything is written. Comparing needs names alone.
            self.require_chunk_access()?;
        }
        let blobs = Blobs::open(self)?;
        let size = match mode {
            RestoreMode::Write(target) => target.virtual_size(),
            RestoreMode::Patch(target, source) => target.virtual_size().min(source.virtual_size()),
            RestoreMode::Compare(source) => source.virtual_size(),
        };
        if size < snapshot.virtual_size {
            return Err(Error::Invalid(format!(
                "the target has {size} bytes, but the snapshot needs {}",
                snapshot.virtual_size
            )));
        }
        if snapshot.chunk_bits != self.config().chunk_bits
            || snapshot.fanout_bits != self.config().fanout_bits
        {
            return Err(self.damaged("snapshots", "the snapshot was cut otherwise than this repository"));
        }
        let fetch = match mode {
            RestoreMode::Write(target) | RestoreMode::Patch(target, _) => {
                Some(Fetch::new(&blobs, target, snapshot.virtual_size, control))
            }
            RestoreMode::Compare(_) => None,
        };
        let job = Restore {
            blobs: &blobs,
            mode,
            fetch,
            disk_size: snapshot.virtual_size,
            chunk_bytes: self.config().chunk_bytes() as u64,
            data: AtomicU64::new(0),
            written: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            differing: AtomicU64::new(0),
            offsets: Mutex::default(),
            failed: AtomicBool::new(false),
            control,
        };
        // A worker that waits for a network leaves its core to others.
        job.run(snapshot, threads.max(self.store().requests_at_once()).max(1))?;
        job.zero_tail(size)?;
        let mut offsets = job.offsets.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        offsets.sort_unstable();
        offsets.truncate(DIFFERENCES_MAX);
        Ok(RestoreOutcome {
            virtual_size: snapshot.virtual_size,
            data_bytes: job.data.into_inner(),
            written_bytes: job.written.into_inner(),
            zeroed_bytes: job.zeroed.into_inner(),
            differing_bytes: job.differing.into_inner(),
            differing_offsets: offsets,
        })
    }
}

/// A part of the work.
enum Task {
    /// Leaves of the tree: the number of the first chunk, and the node.
    Leaves(Vec<(u64, BlobId)>),
    /// Chunks `first` to `end` (not included) read as zeros.
    Zeros { first: u64, end: u64 },
}

struct Restore<'a> {
    blobs: &'a Blobs,
    mode: RestoreMode<'a>,
    /// What writes chunks; nothing does when a disk is only compared.
    fetch: Option<Fetch<'a>>,
    disk_size: u64,
    chunk_bytes: u64,
    data: AtomicU64,
    written: AtomicU64,
    zeroed: AtomicU64,
    differing: AtomicU64,
    offsets: Mutex<Vec<u64>>,
    failed: AtomicBool,
    control: &'a dyn Control,
}

impl Restore<'_> {
    fn run(&self, snapshot: &Snapshot, threads: usize) -> Result<()> {
        let (queue, tasks) = sync_channel::<Task>(threads * 4);
        // Owned by the workers alone: when all of them have failed the queue is closed, and whoever fills it wakes up.
        let tasks = Arc::new(Mutex::new(tasks));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let tasks = Arc::clone(&tasks);
                    scope.spawn(move || {
                        let result = self.work(&tasks);
                        drop(tasks);
                        if result.is_err() {
                            self.failed.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            drop(tasks);
            let hand_out = |task| {
                let stop = self.control.is_cancelled() || self.failed.load(Ordering::Relaxed);
                if stop || queue.send(task).is_err() { Err(Error::Interrupted) } else { Ok(()) }
            };
            let walked = self.plan(snapshot, self.leaves_per_task(threads), &hand_out);
            drop(queue);
            let mut result = walked;
            for worker in workers {
                let worked = worker
                    .join()
                    .unwrap_or_else(|_| Err(Error::Invalid("a worker thread has died".to_owned())));
                if matches!((&result, &worked), (Ok(()) | Err(Error::Interrupted), Err(_))) {
                    result = worked;
                }
            }
            result
        })
    }

    /// Leaves that one task has.
    fn leaves_per_task(&self, threads: usize) -> usize {
        if !self.blobs.reach().joins() {
            return 1;
        }
        let leaf_bytes = self.blobs.repository().config().leaf_bytes();
        let share = self.disk_size / (threads as u64 * GROUPS_PER_WORKER).max(1);
        (GROUP_BYTES.min(share) / leaf_bytes).max(1) as usize
    }

    /// Cuts the disk into tasks.
    fn plan(
        &self,
        snapshot: &Snapshot,
        leaves_max: usize,
        hand_out: &dyn Fn(Task) -> Result<()>,
    ) -> Result<()> {
        let zero_chunks = (ZERO_TASK_BYTES / self.chunk_bytes).max(1);
        let mut leaves = Vec::new();
        walk(self.blobs, snapshot, &mut |stretch| match stretch {
            Stretch::Leaf { first, id } => {
                leaves.push((first, id));
                if leaves.len() < leaves_max {
                    return Ok(());
                }
                hand_out(Task::Leaves(std::mem::take(&mut leaves)))
            }
            Stretch::Zero { first, end } => (first..end)
                .step_by(zero_chunks as usize)
                .try_for_each(|first| hand_out(Task::Zeros { first, end: end.min(first + zero_chunks) })),
        })?;
        if leaves.is_empty() { Ok(()) } else { hand_out(Task::Leaves(leaves)) }
    }

    fn work(&self, tasks: &Mutex<Receiver<Task>>) -> Result<()> {
        let mut existing = vec![0; self.chunk_bytes as usize];
        loop {
            let task = lock(tasks).recv();
            let Ok(task) = task else { break };
            if self.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            match task {
                Task::Zeros { first, end } => {
                    let (start, end) =
                        (first * self.chunk_bytes, (end * self.chunk_bytes).min(self.disk_size));
                    self.zeros(start, end)?;
                    self.control.advance(end - start);
                }
                Task::Leaves(leaves) => self.leaves(&leaves, &mut existing)?,
            }
        }
        // Whoever comes to the end last finds all that is left.
        match &self.fetch {
            Some(fetch) => fetch.finish(&mut |length| self.written(length)),
            None => Ok(()),
        }
    }

    /// Deals with the disk under these leaves.
    fn leaves(&self, leaves: &[(u64, BlobId)], existing: &mut [u8]) -> Result<()> {
        let mut wanted = Vec::new();
        let mut bytes = 0;
        for &(first, id) in leaves {
            bytes += self.leaf(first, id, existing, &mut wanted)?;
        }
        // What is written is told when it is.
        let wanted_bytes: u64 =
            wanted.iter().map(|chunk| self.chunk_length(chunk.number * self.chunk_bytes) as u64).sum();
        self.control.advance(bytes.saturating_sub(wanted_bytes));
        match &self.fetch {
            Some(fetch) => fetch.write(&wanted, &mut |length| self.written(length)),
            None => Ok(()),
        }
    }

    fn written(&self, length: usize) {
        self.written.fetch_add(length as u64, Ordering::Relaxed);
        self.control.advance(length as u64);
    }

    /// A stretch that is to read as zeros.
    fn zeros(&self, start: u64, end: u64) -> Result<()> {
        match self.mode {
            RestoreMode::Write(target) => {
                if !target.is_blank() && end > start {
                    target.zero_at(start, end - start)?;
                    self.zeroed.fetch_add(end - start, Ordering::Relaxed);
                }
                Ok(())
            }
            RestoreMode::Patch(_, source) | RestoreMode::Compare(source) => {
                let mut buffer = vec![0; self.chunk_bytes as usize];
                walk_extents(source, start, end - start, |extent| {
                    if !extent.kind.is_data() {
                        return Ok(());
                    }
                    let mut position = extent.offset;
                    while position < extent.end() {
                        // Cut at chunk boundaries, so that differences are counted in whole chunks.
                        let next = (position / self.chunk_bytes + 1) * self.chunk_bytes;
                        let part = &mut buffer[..(next.min(extent.end()) - position) as usize];
                        source.read_at(part, position)?;
                        if !is_zero(part) {
                            self.differs(position, part.len() as u64);
                            if let RestoreMode::Patch(target, _) = self.mode {
                                target.zero_at(position, part.len() as u64)?;
                                self.zeroed.fetch_add(part.len() as u64, Ordering::Relaxed);
                            }
                        }
                        position += part.len() as u64;
                    }
                    Ok::<(), Error>(())
                })
            }
        }
    }

    fn differs(&self, offset: u64, length: u64) {
        self.differing.fetch_add(length, Ordering::Relaxed);
        let mut offsets = lock(&self.offsets);
        offsets.push(offset);
        if offsets.len() > 2 * DIFFERENCES_MAX {
            offsets.sort_unstable();
            offsets.truncate(DIFFERENCES_MAX);
        }
    }

    /// Bytes of the chunk at `offset` that lie within the disk.
    fn chunk_length(&self, offset: u64) -> usize {
        self.chunk_bytes.min(self.disk_size - offset) as usize
    }

    /// Makes zeros what is to read as zeros under a leaf, and adds to `wanted` the chunks that are to be written. Returns
    /// how many bytes of disk the leaf has.
    fn leaf(&self, first: u64, id: BlobId, existing: &mut [u8], wanted: &mut Vec<Wanted>) -> Result<u64> {
        let node = self.blobs.node(id, 0).map_err(|error| needed_at(error, first * self.chunk_bytes))?;
        let start = first * self.chunk_bytes;
        let end = (start + node.children.len() as u64 * self.chunk_bytes).min(self.disk_size);
        let within = (end.saturating_sub(start)).div_ceil(self.chunk_bytes) as usize;
        // A child beyond the end of the disk can only come from a hostile writer.
        if node.children.iter().skip(within).any(Option::is_some) {
            return Err(self
                .blobs
                .repository()
                .damaged("snapshots", format!("tree node {id} has chunks beyond the end of the disk")));
        }
        let mut number = first;
        for run in node.children[..within].chunk_by(|a, b| a.is_none() && b.is_none()) {
            let offset = number * self.chunk_bytes;
            match run.first() {
                Some(Some(id)) if self.lacks(*id, offset, existing)? => {
                    wanted.push(Wanted { id: *id, number })
                }
                Some(Some(_)) => {}
                _ => self.zeros(offset, (offset + run.len() as u64 * self.chunk_bytes).min(end))?,
            }
            number += run.len() as u64;
        }
        Ok(end.saturating_sub(start))
    }

    /// Whether a chunk of the snapshot is to be written. Where there is something to compare it with, that is done here.
    fn lacks(&self, id: BlobId, offset: u64, existing: &mut [u8]) -> Result<bool> {
        let length = self.chunk_length(offset);
        self.data.fetch_add(length as u64, Ordering::Relaxed);
        let (RestoreMode::Patch(_, source) | RestoreMode::Compare(source)) = self.mode else {
            return Ok(true);
        };
        source.read_at(&mut existing[..length], offset)?;
        existing[length..].fill(0);
        if self.blobs.repository().keys().chunk(existing) == id {
            return Ok(false);
        }
        self.differs(offset, length as u64);
        Ok(matches!(self.mode, RestoreMode::Patch(..)))
    }

    /// What a larger target has beyond the end of the snapshot must not keep what was there before.
    fn zero_tail(&self, size: u64) -> Result<()> {
        let start = self.disk_size;
        if size > start { self.zeros(start, size) } else { Ok(()) }
    }
}

/// Says for what of the disk a blob was needed.
fn needed_at(error: Error, offset: u64) -> Error {
    match error {
        Error::MissingBlob { store, kind, id, .. } => Error::MissingBlob {
            store,
            kind,
            id,
            whom: format!(
                ", which offset {offset} of the disk needs — run check; another copy of the repository may have it"
            ),
        },
        other => other,
    }
}
