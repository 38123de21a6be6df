//! From a snapshot to a disk: writing it, patching an existing disk into it, comparing a disk with it.
//!
//! One thread walks the tree, workers take leaves. A worker reads the frames that its chunks lie in, compares every
//! chunk with its name, and writes runs of neighbours in one go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use leeward_disk::{Source, Target, is_zero, walk_extents};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::BlobId;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::walk::{Stretch, walk};
use crate::writer::lock;
use crate::{Error, Result};

/// Differences that a comparison remembers by offset, at most.
const DIFFERENCES_MAX: usize = 16;
/// Zeros that one task covers, at most, so that progress moves and workers share.
const ZERO_TASK_BYTES: u64 = 1 << 30;

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
        let job = Restore {
            blobs: &blobs,
            mode,
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

struct Restore<'a> {
    blobs: &'a Blobs,
    mode: RestoreMode<'a>,
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
        let (queue, tasks) = sync_channel::<Stretch>(threads * 4);
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
            let zero_chunks = (ZERO_TASK_BYTES / self.chunk_bytes).max(1);
            let walked = walk(self.blobs, snapshot, &mut |stretch| {
                let parts = match stretch {
                    Stretch::Leaf { .. } => vec![stretch],
                    Stretch::Zero { first, end } => (first..end)
                        .step_by(zero_chunks as usize)
                        .map(|first| Stretch::Zero { first, end: end.min(first + zero_chunks) })
                        .collect(),
                };
                for part in parts {
                    let stop = self.control.is_cancelled() || self.failed.load(Ordering::Relaxed);
                    if stop || queue.send(part).is_err() {
                        return Err(Error::Interrupted);
                    }
                }
                Ok(())
            });
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

    fn work(&self, tasks: &Mutex<Receiver<Stretch>>) -> Result<()> {
        let mut existing = vec![0; self.chunk_bytes as usize];
        loop {
            let task = lock(tasks).recv();
            let Ok(task) = task else { return Ok(()) };
            if self.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            match task {
                Stretch::Zero { first, end } => {
                    let (start, end) =
                        (first * self.chunk_bytes, (end * self.chunk_bytes).min(self.disk_size));
                    self.zeros(start, end)?;
                    self.control.advance(end - start);
                }
                Stretch::Leaf { first, id } => self.leaf(first, id, &mut existing)?,
            }
        }
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

    fn leaf(&self, first: u64, id: BlobId, existing: &mut [u8]) -> Result<()> {
        let node = self.blobs.node(id, 0).map_err(|error| self.needed_at(error, first * self.chunk_bytes))?;
        let start = first * self.chunk_bytes;
        let end = (start + node.children.len() as u64 * self.chunk_bytes).min(self.disk_size);
        let mut index = 0;
        while index < node.children.len() {
            let offset = start + index as u64 * self.chunk_bytes;
            let rest = &node.children[index..];
            if offset >= end {
                // A child beyond the end of the disk can only come from a hostile writer.
                if rest.iter().any(Option::is_some) {
                    return Err(self.blobs.repository().damaged(
                        "snapshots",
                        format!("tree node {id} has chunks beyond the end of the disk"),
                    ));
                }
                break;
            }
            match rest[0] {
                None => {
                    let count = rest.iter().take_while(|child| child.is_none()).count();
                    self.zeros(offset, (offset + count as u64 * self.chunk_bytes).min(end))?;
                    index += count;
                }
                Some(chunk) => {
                    index += match self.mode {
                        RestoreMode::Write(target) => self.write_run(target, rest, offset, end)?,
                        RestoreMode::Patch(..) | RestoreMode::Compare(_) => {
                            self.compare_chunk(chunk, offset, existing)?;
                            1
                        }
                    };
                }
            }
        }
        self.control.advance(end - start);
        Ok(())
    }

    fn needed_at(&self, error: Error, offset: u64) -> Error {
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

    /// Writes the chunks at the start of `children` that follow each other in one frame; returns how many.
    fn write_run(
        &self,
        target: &dyn Target,
        children: &[Option<BlobId>],
        offset: u64,
        end: u64,
    ) -> Result<usize> {
        let Some(first) = children[0] else { return Ok(1) };
        match self.run_in_frame(target, children, first, offset, end) {
            Ok(count) => Ok(count),
            Err(Error::Disk(error)) => Err(error.into()),
            // The pack has gone, moved or is damaged: one chunk by the way that looks again and tries other copies.
            Err(_) => {
                let length = self.chunk_length(offset);
                self.blobs
                    .chunk(first, |bytes| target.write_at(&bytes[..length], offset))
                    .map_err(|error| self.needed_at(error, offset))??;
                self.count(length);
                Ok(1)
            }
        }
    }

    fn count(&self, written: usize) {
        self.data.fetch_add(written as u64, Ordering::Relaxed);
        self.written.fetch_add(written as u64, Ordering::Relaxed);
    }

    fn run_in_frame(
        &self,
        target: &dyn Target,
        children: &[Option<BlobId>],
        first: BlobId,
        offset: u64,
        end: u64,
    ) -> Result<usize> {
        let place = self.blobs.locate(BlobKind::Chunk, first)?;
        let content = self.blobs.frame(BlobKind::Chunk, &place)?;
        self.blobs.chunk_in(&content, &place, first)?;
        let mut count = 1;
        for child in &children[1..] {
            let Some(id) = child else { break };
            if offset + count as u64 * self.chunk_bytes >= end {
                break;
            }
            // Most neighbours follow in the same frame; a digest tells at once, without asking the index.
            let mut next = place;
            next.content_offset += (count as u64 * self.chunk_bytes) as u32;
            let Some(bytes) = content
                .get(next.content_offset as usize..)
                .and_then(|rest| rest.get(..self.chunk_bytes as usize))
            else {
                break;
            };
            if self.blobs.repository().keys().chunk(bytes) != *id {
                break;
            }
            count += 1;
        }
        let from = place.content_offset as usize;
        let length = (count as u64 * self.chunk_bytes).min(end - offset) as usize;
        target.write_at(&content[from..from + length], offset)?;
        self.count(length);
        Ok(count)
    }

    /// Compares a chunk of the disk that is there with the snapshot's; writes it where that is the mode.
    fn compare_chunk(&self, id: BlobId, offset: u64, existing: &mut [u8]) -> Result<()> {
        let (RestoreMode::Patch(_, source) | RestoreMode::Compare(source)) = self.mode else { return Ok(()) };
        let length = self.chunk_length(offset);
        source.read_at(&mut existing[..length], offset)?;
        existing[length..].fill(0);
        self.data.fetch_add(length as u64, Ordering::Relaxed);
        if self.blobs.repository().keys().chunk(existing) == id {
            return Ok(());
        }
        self.differs(offset, length as u64);
        if let RestoreMode::Patch(target, _) = self.mode {
            self.blobs
                .chunk(id, |bytes| target.write_at(&bytes[..length], offset))
                .map_err(|error| self.needed_at(error, offset))??;
            self.written.fetch_add(length as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What a larger target has beyond the end of the snapshot must not keep what was there before.
    fn zero_tail(&self, size: u64) -> Result<()> {
        let start = self.disk_size;
        if size > start { self.zeros(start, size) } else { Ok(()) }
    }
}
