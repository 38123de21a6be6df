//! Moving missing chunks: frames are read at the source, checked, and given to the target's writer.
//!
//! A frame of which (nearly) all chunks are wanted is passed on as it is stored. Of another one the wanted chunks are
//! taken out and encoded anew, together with those of other frames. Frames that follow each other at a source over a
//! network are read by one request ([`crate::span`]). Several such spans are under way at once; memory is bounded by
//! their number.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::{BlobKind, CONTENT_BYTES_MAX, Frame, FrameEncoder};
use crate::id::{BlobId, domain, stored_digest};
use crate::index::Location;
use crate::repository::Repository;
use crate::span::spans;
use crate::writer::{Writer, lock};
use crate::{Error, Result};

use super::walk::{Sink, Stop};

/// Chunks that are collected before they are ordered by their places at the source and sent.
const BATCH_CHUNKS: usize = 8192;
/// Tree nodes are stored together up to this many bytes.
const NODE_FRAME_BYTES: usize = 256 << 10;
/// A stored frame is larger than its content by so much at most.
const FRAME_OVERHEAD_BYTES: usize = 4096;

/// Whether a frame of `count` chunks travels as it is when so many of them are wanted: four in five.
pub(super) fn is_worth_whole(wanted: usize, count: usize) -> bool {
    wanted > 0 && wanted.saturating_mul(5) >= count.saturating_mul(4)
}

/// A frame of the source, and which of its chunks are wanted.
struct Task {
    location: Location,
    /// Offset in the frame's content, and name.
    wanted: Vec<(u32, BlobId)>,
}

/// What the threads share.
pub(super) struct Shared<'a> {
    pub(super) from: &'a Blobs,
    pub(super) writer: &'a Writer,
    pub(super) control: &'a dyn Control,
    /// Whether frames may be passed on as they are stored.
    pub(super) as_stored: bool,
    /// Spans that were handed out and are not done.
    under_way: Mutex<usize>,
    all_done: Condvar,
    /// Chunks that cannot be had at the source, and the first reason.
    lost: Mutex<(HashSet<BlobId>, Option<Error>)>,
    /// The first failure that ends the transfer.
    fatal: Mutex<Option<Error>>,
    /// Chunks that were taken out of their frames.
    loose: Mutex<Loose>,
    pub(super) counters: Counters,
}

/// Blobs that wait to be encoded together.
#[derive(Default)]
struct Loose {
    content: Vec<u8>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
}

/// What travelled.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) nodes: AtomicU64,
    pub(super) chunks: AtomicU64,
    pub(super) untouched: AtomicU64,
    pub(super) encoded: AtomicU64,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        from: &'a Blobs,
        writer: &'a Writer,
        control: &'a dyn Control,
        as_stored: bool,
    ) -> Self {
        Self {
            from,
            writer,
            control,
            as_stored,
            under_way: Mutex::new(0),
            all_done: Condvar::new(),
            lost: Mutex::default(),
            fatal: Mutex::default(),
            loose: Mutex::default(),
            counters: Counters::default(),
        }
    }

    fn end_task(&self) {
        let mut under_way = lock(&self.under_way);
        *under_way -= 1;
        if *under_way == 0 {
            self.all_done.notify_all();
        }
    }

    fn lose(&self, id: BlobId, error: Error) {
        let mut lost = lock(&self.lost);
        lost.0.insert(id);
        lost.1.get_or_insert(error);
    }

    fn has_failed(&self) -> bool {
        lock(&self.fatal).is_some()
    }
}

/// Threads that move frames.
pub(super) struct Mover<'scope, 'a> {
    shared: &'scope Shared<'a>,
    queue: Option<SyncSender<Vec<Task>>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    encoder: FrameEncoder,
    batch: Vec<(Location, BlobId)>,
    nodes: Loose,
}

impl<'scope, 'a> Mover<'scope, 'a> {
    /// Starts so many threads.
    pub(super) fn start<'env>(
        shared: &'env Shared<'a>,
        scope: &'scope Scope<'scope, 'env>,
        threads: usize,
    ) -> Result<Self>
    where
        'env: 'scope,
    {
        let threads = threads.max(1);
        let (queue, tasks) = sync_channel::<Vec<Task>>(threads * 2);
        // Owned by the threads alone: when all of them have ended the queue is closed.
        let tasks = Arc::new(Mutex::new(tasks));
        let threads = (0..threads)
            .map(|_| {
                let tasks = Arc::clone(&tasks);
                scope.spawn(move || shared.work(&tasks))
            })
            .collect();
        let encoder = shared.writer.repository().frame_encoder()?;
        Ok(Self { shared, queue: Some(queue), threads, encoder, batch: Vec::new(), nodes: Loose::default() })
    }

    /// Waits until everything that was handed out has reached the writer; then says whether all of it could be had.
    pub(super) fn arrive(&mut self) -> Result<(), Stop> {
        self.send_batch()?;
        let shared = self.shared;
        let mut under_way = lock(&shared.under_way);
        while *under_way > 0 {
            under_way = shared.all_done.wait(under_way).unwrap_or_else(PoisonError::into_inner);
        }
        drop(under_way);
        if let Some(error) = lock(&shared.fatal).take() {
            return Err(Stop::Fatal(error));
        }
        let loose = std::mem::take(&mut *lock(&shared.loose));
        shared.store_loose(BlobKind::Chunk, loose, &mut self.encoder).map_err(Stop::Fatal)?;
        let nodes = std::mem::take(&mut self.nodes);
        shared.store_loose(BlobKind::Node, nodes, &mut self.encoder).map_err(Stop::Fatal)?;
        let (lost, reason) = std::mem::take(&mut *lock(&shared.lost));
        lost.iter().for_each(|id| shared.writer.release(id));
        match reason {
            Some(error) => Err(Stop::Source(error)),
            None => Ok(()),
        }
    }

    /// Sends what was collected, in the order in which it lies at the source.
    fn send_batch(&mut self) -> Result<(), Stop> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable();
        let mut tasks: Vec<Task> = Vec::new();
        for (location, id) in batch {
            let place = (location.content_offset, id);
            match tasks.last_mut() {
                Some(task)
                    if (task.location.pack, task.location.offset) == (location.pack, location.offset) =>
                {
                    task.wanted.push(place);
                }
                _ => tasks.push(Task { location, wanted: vec![place] }),
            }
        }
        // What lies between two frames would travel for nothing.
        let bytes = tasks.iter().map(|task| u64::from(task.location.length)).sum();
        let reach = self.shared.from.reach().without_gaps().for_readers(self.threads.len(), bytes);
        for span in spans(tasks, reach, |task| &task.location) {
            *lock(&self.shared.under_way) += 1;
            let is_refused = match &self.queue {
                Some(queue) if !self.shared.has_failed() => queue.send(span).is_err(),
                _ => true,
            };
            if is_refused {
                self.shared.end_task();
                return Err(Stop::Fatal(lock(&self.shared.fatal).take().unwrap_or(Error::Interrupted)));
            }
        }
        Ok(())
    }
}

impl Drop for Mover<'_, '_> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Sink for Mover<'_, '_> {
    fn lacks(&mut self, id: &BlobId) -> Result<bool> {
        self.shared.writer.claim(id)
    }

    fn node(&mut self, id: BlobId, bytes: Vec<u8>) -> Result<(), Stop> {
        self.nodes.push(id, &bytes);
        self.shared.counters.nodes.fetch_add(1, Ordering::Relaxed);
        if self.nodes.content.len() >= NODE_FRAME_BYTES {
            let full = std::mem::take(&mut self.nodes);
            self.shared.store_loose(BlobKind::Node, full, &mut self.encoder).map_err(Stop::Fatal)?;
        }
        Ok(())
    }

    fn chunk(&mut self, id: BlobId) -> Result<(), Stop> {
        match self.shared.from.locate(BlobKind::Chunk, id) {
            Ok(location) => self.batch.push((location, id)),
            // The index may be old, or know nothing of a pack that is there: what reads a chunk alone looks again.
            Err(Error::MissingBlob { .. }) => match self.shared.take_alone(id) {
                Ok(()) => {}
                Err(error) if super::is_damage(&error) => self.shared.lose(id, error),
                Err(error) => return Err(Stop::Fatal(error)),
            },
            Err(error) => {
                self.shared.writer.release(&id);
                return Err(Stop::of_source(error));
            }
        }
        Ok(())
    }

    fn end_leaf(&mut self) -> Result<(), Stop> {
        if self.batch.len() >= BATCH_CHUNKS {
            self.send_batch()?;
        }
        Ok(())
    }
}

impl Loose {
    fn push(&mut self, id: BlobId, bytes: &[u8]) {
        self.content.extend_from_slice(bytes);
        self.ids.push(id);
        self.lengths.push(bytes.len() as u32);
    }
}

/// Buffers of a thread.
struct Worker {
    content: Vec<u8>,
    /// Made when it is first needed: most frames travel as they are.
    encoder: Option<FrameEncoder>,
    target: Repository,
}

impl Worker {
    fn encoder(&mut self) -> Result<&mut FrameEncoder> {
        if self.encoder.is_none() {
            self.encoder = Some(self.target.frame_encoder()?);
        }
        self.encoder.as_mut().ok_or_else(|| Error::Invalid("there is no encoder".to_owned()))
    }
}

impl Shared<'_> {
    fn work(&self, tasks: &Mutex<Receiver<Vec<Task>>>) {
        let target = self.writer.repository().clone();
        let mut worker = Worker { content: Vec::new(), encoder: None, target };
        loop {
            let Ok(span) = lock(tasks).recv() else { return };
            // Tasks are taken from the queue also when all is lost, so that whoever fills it never waits for nobody.
            if !self.has_failed() {
                let moved = if self.control.is_cancelled() {
                    Err(Error::Interrupted)
                } else {
                    self.move_span(&span, &mut worker)
                };
                if let Err(error) = moved {
                    lock(&self.fatal).get_or_insert(error);
                }
            }
            self.end_task();
        }
    }

    /// Moves what is wanted of frames that are read together. Errors are those that end the transfer.
    fn move_span(&self, span: &[Task], worker: &mut Worker) -> Result<()> {
        let mut result = Ok(());
        // The index may say anything of how long a frame is.
        let is_sound =
            |task: &Task| task.location.length as usize <= CONTENT_BYTES_MAX + FRAME_OVERHEAD_BYTES;
        let mut taken = 0;
        if span.iter().all(is_sound) {
            let frames: Vec<Location> = span.iter().map(|task| task.location).collect();
            // What went wrong is found again, and told, where each chunk is looked for by itself.
            let _ = self.from.with_span(&frames, |decoder, number, bytes| {
                taken += 1;
                if result.is_ok() {
                    let is_read = decoder.decode(BlobKind::Chunk, bytes, &mut worker.content).is_ok();
                    result = self.move_frame(&span[number], is_read.then_some(bytes), worker);
                }
            });
        }
        span[taken..].iter().try_for_each(|task| self.move_frame(task, None, worker)).and(result)
    }

    /// Moves what is wanted of a frame: `stored` as it is stored, its content in the worker; or, where it could not be
    /// read, from elsewhere.
    fn move_frame(&self, task: &Task, stored: Option<&[u8]>, worker: &mut Worker) -> Result<()> {
        let chunk_bytes = self.from.repository().config().chunk_bytes();
        let keys = self.from.repository().keys();
        let chunk_at = |offset: u32| {
            let start = offset as usize;
            worker.content.get(start..start.checked_add(chunk_bytes)?)
        };
        let is_sound =
            |(offset, id): &(u32, BlobId)| chunk_at(*offset).is_some_and(|bytes| keys.chunk(bytes) == *id);
        let (sound, unsound): (Vec<_>, Vec<_>) = match stored {
            Some(_) => task.wanted.iter().copied().partition(is_sound),
            None => (Vec::new(), task.wanted.clone()),
        };
        let count = worker.content.len() / chunk_bytes;
        let whole = stored.filter(|_| {
            self.as_stored
                && worker.content.len().is_multiple_of(chunk_bytes)
                && is_worth_whole(sound.len(), count)
        });
        if let Some(bytes) = whole {
            let ids = worker.content.chunks_exact(chunk_bytes).map(|bytes| keys.chunk(bytes)).collect();
            let frame = Frame { bytes, digest: stored_digest(domain::FRAME, &[bytes]) };
            self.writer.push_chunks(&frame, ids)?;
            self.counters.untouched.fetch_add(1, Ordering::Relaxed);
            self.counters.chunks.fetch_add(sound.len() as u64, Ordering::Relaxed);
        } else {
            let mut loose = Vec::with_capacity(sound.len());
            for (offset, id) in sound {
                if let Some(bytes) = chunk_at(offset) {
                    loose.push((id, bytes));
                }
            }
            let full = self.collect(&loose);
            if let Some(full) = full {
                self.store_loose(BlobKind::Chunk, full, worker.encoder()?)?;
            }
        }
        for (_, id) in unsound {
            // There may be another copy, or a collection has moved it.
            match self.take_alone(id) {
                Ok(()) => {}
                Err(error) if super::is_damage(&error) => self.lose(id, error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes one chunk from wherever it can be had.
    fn take_alone(&self, id: BlobId) -> Result<()> {
        let bytes = self.from.chunk(id, <[u8]>::to_vec)?;
        if let Some(full) = self.collect(&[(id, &bytes)]) {
            self.store_loose(BlobKind::Chunk, full, &mut self.writer.repository().frame_encoder()?)?;
        }
        Ok(())
    }

    /// Puts chunks with those that wait to be encoded; returns them when they fill a frame.
    fn collect(&self, chunks: &[(BlobId, &[u8])]) -> Option<Loose> {
        let frame_bytes = self.writer.repository().config().frame_bytes();
        let mut loose = lock(&self.loose);
        chunks.iter().for_each(|(id, bytes)| loose.push(*id, bytes));
        (loose.content.len() >= frame_bytes).then(|| std::mem::take(&mut *loose))
    }

    /// Encodes blobs and stores them, in as many frames as they need.
    fn store_loose(&self, kind: BlobKind, loose: Loose, encoder: &mut FrameEncoder) -> Result<()> {
        let most = match kind {
            BlobKind::Chunk => self.writer.repository().config().frame_bytes(),
            BlobKind::Node => NODE_FRAME_BYTES * 2,
        };
        let (mut start, mut first) = (0, 0);
        while first < loose.ids.len() {
            let (mut end, mut next) = (start, first);
            while next < loose.ids.len()
                && (next == first || end + loose.lengths[next] as usize - start <= most)
            {
                end += loose.lengths[next] as usize;
                next += 1;
            }
            let frame = encoder.encode(kind, &loose.content[start..end])?;
            let ids = loose.ids[first..next].to_vec();
            match kind {
                BlobKind::Chunk => {
                    self.counters.encoded.fetch_add(1, Ordering::Relaxed);
                    self.counters.chunks.fetch_add(ids.len() as u64, Ordering::Relaxed);
                    self.writer.push_chunks(&frame, ids)?;
                }
                BlobKind::Node => self.writer.push_nodes(&frame, ids, loose.lengths[first..next].to_vec())?,
            }
            (start, first) = (end, next);
        }
        Ok(())
    }
}
