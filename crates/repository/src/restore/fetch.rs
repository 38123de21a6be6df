//! Fetching the chunks that a stretch of disk lacks: frame by frame rather than chunk by chunk.
//!
//! A backup puts what it stores of one aligned stretch of disk (a unit, 2 MiB by default) into one frame. So the place of
//! the first chunk of each unit tells where nearly all of the others lie, and the index, which may be far away or not in
//! memory, is asked once for a unit. A decoded frame is compared with the names of all chunks that are wanted, so what was
//! guessed wrong is only looked up: later, together with what was left elsewhere, for what a later backup stored of many
//! units lies close together. Frames that lie near each other are read together ([`crate::span`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use leeward_disk::Target;

use crate::backup::Control;
use crate::blobs::Blobs;
use crate::frame::BlobKind;
use crate::id::BlobId;
use crate::index::Location;
use crate::span::spans;
use crate::writer::lock;
use crate::{Error, Result};

/// A decoded frame is kept for others when no more than one in so many of its chunks was wanted here.
const KEEP_SHARE: usize = 2;
/// Chunks that wait to be looked up together, at most, beside those of one task.
const LEFT_MAX: usize = 512;

/// A chunk that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) id: BlobId,
    /// Its number on the disk.
    pub(super) number: u64,
}

/// Chunks that are still to be written, with the numbers of their places on the disk.
type Rest = HashMap<BlobId, Vec<u64>>;

/// Writes chunks of a repository to a disk, for several threads.
pub(super) struct Fetch<'a> {
    blobs: &'a Blobs,
    target: &'a dyn Target,
    /// Bytes of the disk that belong to the snapshot.
    disk_size: u64,
    control: &'a dyn Control,
    /// What was not where it was likely to be.
    left: Mutex<Rest>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        blobs: &'a Blobs,
        target: &'a dyn Target,
        disk_size: u64,
        control: &'a dyn Control,
    ) -> Self {
        Self { blobs, target, disk_size, control, left: Mutex::default() }
    }

    /// Writes chunks, given in the order of the disk, or leaves some for later; tells `written` how many bytes each write
    /// had.
    pub(super) fn write(&self, wanted: &[Wanted], written: &mut dyn FnMut(usize)) -> Result<()> {
        let mut rest = Rest::with_capacity(wanted.len());
        for chunk in wanted {
            rest.entry(chunk.id).or_default().push(chunk.number);
        }
        let config = self.blobs.repository().config();
        let unit_chunks = (config.frame_bytes() / config.chunk_bytes()).max(1) as u64;
        let units = wanted.chunk_by(|a, b| a.number / unit_chunks == b.number / unit_chunks);
        self.round(units.filter_map(<[Wanted]>::first).map(|chunk| chunk.id), &mut rest, written)?;
        let full = {
            let mut left = lock(&self.left);
            for (id, numbers) in rest {
                left.entry(id).or_default().extend(numbers);
            }
            if left.len() >= LEFT_MAX { std::mem::take(&mut *left) } else { Rest::new() }
        };
        self.look_up(full, written)
    }

    /// Writes what was left so far.
    pub(super) fn finish(&self, written: &mut dyn FnMut(usize)) -> Result<()> {
        let left = std::mem::take(&mut *lock(&self.left));
        self.look_up(left, written)
    }

    fn look_up(&self, mut rest: Rest, written: &mut dyn FnMut(usize)) -> Result<()> {
        let ids: Vec<BlobId> = rest.keys().copied().collect();
        self.round(ids.into_iter(), &mut rest, written)?;
        // The pack has gone, moved or is damaged: one chunk by the way that looks again and tries other copies.
        for (id, numbers) in rest {
            if self.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            self.blobs
                .chunk(id, |bytes| {
                    let pieces: Vec<_> = numbers.iter().map(|number| (*number, 0)).collect();
                    self.write_pieces(bytes, &pieces, written)
                })
                .map_err(|error| self.needed_at(error, &numbers))??;
        }
        Ok(())
    }

    /// Reads the frames in which the index has these chunks, and writes of them all that is wanted. What cannot be had so
    /// stays in `rest`.
    fn round(
        &self,
        ids: impl Iterator<Item = BlobId>,
        rest: &mut Rest,
        written: &mut dyn FnMut(usize),
    ) -> Result<()> {
        // What cannot be located is told when it is looked for by itself.
        let mut frames: Vec<Location> = ids
            .filter_map(|id| self.blobs.locate(BlobKind::Chunk, id).ok())
            .map(|location| Location { content_offset: 0, ..location })
            .collect();
        frames.sort_unstable();
        frames.dedup();
        let mut far = Vec::with_capacity(frames.len());
        for frame in frames {
            match self.blobs.kept(&frame) {
                Some(content) => {
                    self.take(&content, rest, written)?;
                }
                None => far.push(frame),
            }
        }
        for span in spans(far, self.blobs.reach(), |frame| frame) {
            if self.control.is_cancelled() {
                return Err(Error::Interrupted);
            }
            self.read_span(&span, rest, written)?;
        }
        Ok(())
    }

    fn read_span(&self, span: &[Location], rest: &mut Rest, written: &mut dyn FnMut(usize)) -> Result<()> {
        let mut result = Ok(());
        let mut content = self.blobs.spare();
        let read = self.blobs.with_span(span, |decoder, number, stored| {
            if result.is_err() || decoder.decode(BlobKind::Chunk, stored, &mut content).is_err() {
                return;
            }
            match self.take(&content, rest, written) {
                // Those who restore what lies near this on the disk may want more of it.
                Ok(false) => self
                    .blobs
                    .keep(&span[number], Arc::new(std::mem::replace(&mut content, self.blobs.spare()))),
                Ok(true) => {}
                Err(error) => result = Err(error),
            }
        });
        self.blobs.give_back(content);
        // A store that fails does so again, and says so, when each chunk is looked for by itself.
        if read.is_ok() { result } else { Ok(()) }
    }

    /// Writes what is wanted of the content of a frame; whether that was most of it.
    fn take(&self, content: &[u8], rest: &mut Rest, written: &mut dyn FnMut(usize)) -> Result<bool> {
        let repository = self.blobs.repository();
        let blocks = content.chunks_exact(repository.config().chunk_bytes());
        let count = blocks.len();
        let mut pieces = Vec::new();
        let mut taken = 0;
        for (block, bytes) in blocks.enumerate() {
            if rest.is_empty() {
                break;
            }
            if let Some(numbers) = rest.remove(&repository.keys().chunk(bytes)) {
                taken += 1;
                pieces.extend(numbers.into_iter().map(|number| (number, block)));
            }
        }
        pieces.sort_unstable();
        self.write_pieces(content, &pieces, written)?;
        Ok(taken * KEEP_SHARE > count)
    }

    /// Writes blocks of `content` to their places, given by the number on the disk and in the content; neighbours in one
    /// go.
    fn write_pieces(
        &self,
        content: &[u8],
        pieces: &[(u64, usize)],
        written: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let chunk_bytes = self.blobs.repository().config().chunk_bytes();
        for run in pieces.chunk_by(|a, b| a.0 + 1 == b.0 && a.1 + 1 == b.1) {
            let Some(&(number, block)) = run.first() else { continue };
            let offset = number * chunk_bytes as u64;
            // The last chunk of a disk may reach beyond its end.
            let left = usize::try_from(self.disk_size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let length = (run.len() * chunk_bytes).min(left);
            let bytes = content.get(block * chunk_bytes..).and_then(|bytes| bytes.get(..length));
            self.target.write_at(bytes.unwrap_or_default(), offset)?;
            written(length);
        }
        Ok(())
    }

    fn needed_at(&self, error: Error, numbers: &[u64]) -> Error {
        let chunk_bytes = self.blobs.repository().config().chunk_bytes() as u64;
        super::needed_at(error, numbers.first().map_or(0, |number| number * chunk_bytes))
    }
}
