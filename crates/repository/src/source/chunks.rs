//! Chunks of a repository through a cache: each frame is decoded by one thread at a time and no further than it pays.

use std::sync::{Arc, Mutex};

use super::cache::{Chunk, ChunkCache};
use super::flights::Flights;
use super::options::ReadOptions;
use super::spill::Spill;
use crate::Result;
use crate::blobs::{Blobs, Recent};
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId};
use crate::index::Location;
use crate::pack::Directory;
use crate::writer::lock;

/// Directories of packs that are remembered, at most; one takes about 32 KiB.
const DIRECTORIES_MAX: usize = 256;

/// Who asks for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Somebody who may ask for anything next.
    Random,
    /// Somebody who reads in order: the rest of the frame comes next, and none of it will be asked for again.
    Stream,
}

/// Reads chunks, from many threads.
pub(super) struct Chunks {
    pub(super) blobs: Blobs,
    cache: ChunkCache,
    spill: Option<Spill>,
    flights: Flights,
    /// What is in which frame; `None` for a pack whose directory cannot be read.
    directories: Mutex<Recent<PackId, Option<Arc<Directory>>>>,
}

impl Chunks {
    pub(super) fn new(blobs: Blobs, options: &ReadOptions) -> Result<Self> {
        let chunk_bytes = blobs.repository().config().chunk_bytes();
        let cache_bytes = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX);
        let spill = options.spill.as_ref().map(|options| Spill::create(options, chunk_bytes)).transpose()?;
        Ok(Self {
            blobs,
            spill,
            cache: ChunkCache::new(cache_bytes, chunk_bytes),
            flights: Flights::default(),
            directories: Mutex::new(Recent::new(DIRECTORIES_MAX)),
        })
    }

    /// Whether the chunk is in memory.
    pub(super) fn is_cached(&self, id: &BlobId) -> bool {
        self.cache.contains(id)
    }

    /// A chunk, compared with its name.
    pub(super) fn chunk(&self, id: BlobId, reader: Reader) -> Result<Arc<Chunk>> {
        if let Some(chunk) = self.cached(id, reader) {
            return Ok(chunk);
        }
        self.blobs.any_copy_by_fresh_index(BlobKind::Chunk, id, |location| self.load(id, &location, reader))
    }

    fn cached(&self, id: BlobId, reader: Reader) -> Option<Arc<Chunk>> {
        let keys = self.blobs.repository().keys();
        if let Some(chunk) = self.cache.get(&id, keys, reader == Reader::Random) {
            return Some(chunk);
        }
        let chunk = Arc::new(Chunk::checked(self.spill.as_ref()?.get(&id, keys)?));
        self.keep(id, Arc::clone(&chunk));
        Some(chunk)
    }

    /// Keeps a chunk in memory. What has to go for it is put away.
    fn keep(&self, id: BlobId, chunk: Arc<Chunk>) {
        let evicted = self.cache.insert(id, chunk);
        if let Some(spill) = &self.spill {
            evicted.iter().for_each(|(id, chunk)| spill.put(*id, chunk.bytes()));
        }
    }

    /// Whether a chunk need not be decoded.
    fn is_kept(&self, id: &BlobId) -> bool {
        self.cache.contains(id) || self.spill.as_ref().is_some_and(|spill| spill.contains(id))
    }

    fn load(&self, id: BlobId, location: &Location, reader: Reader) -> Result<Arc<Chunk>> {
        loop {
            let lead = self.flights.lead_or_wait((location.pack, location.offset));
            // Whoever had the frame before may have left the chunk.
            if let Some(chunk) = self.cached(id, reader) {
                return Ok(chunk);
            }
            if let Some(_lead) = lead {
                return self.decode(id, location, reader);
            }
        }
    }

    /// Decodes the frame at a location, for a chunk in it; what lies beside it is kept as well.
    fn decode(&self, id: BlobId, location: &Location, reader: Reader) -> Result<Arc<Chunk>> {
        let chunk_bytes = self.blobs.repository().config().chunk_bytes();
        let keys = self.blobs.repository().keys();
        let at = location.content_offset as usize;
        let neighbours = self.neighbours(location);
        // While there is room all of the frame is kept: soon everything is there. Once there is none, a random read decodes
        // only as far as its chunk, which takes half the time. When the frame's beginning is there already the frame is
        // of interest, and all of it is decoded, lest its beginning be decoded again and again.
        // What can be put away is decoded once.
        let is_known = neighbours.first().is_some_and(|first| *first != id && self.cache.contains(first));
        let whole = reader == Reader::Stream || is_known || self.spill.is_some() || !self.cache.is_full();
        let end = if whole { usize::MAX } else { at + chunk_bytes };
        let mut wanted = None;
        self.blobs.blocks(location, end, |offset, bytes| {
            if offset == at {
                wanted = Some(bytes);
            } else if let Some(neighbour) = neighbours.get(offset / chunk_bytes)
                && bytes.len() == chunk_bytes
                && !self.is_kept(neighbour)
            {
                // Who reads in order will want it, and now it is in the processor's caches.
                let chunk = match reader {
                    Reader::Random => Chunk::claimed(bytes),
                    Reader::Stream if keys.chunk(&bytes) == *neighbour => Chunk::checked(bytes),
                    Reader::Stream => return,
                };
                self.keep(*neighbour, Arc::new(chunk));
            }
        })?;
        let chunk = wanted
            .filter(|bytes| keys.chunk(bytes) == id)
            .map(|bytes| Arc::new(Chunk::checked(bytes)))
            .ok_or_else(|| self.blobs.wrong(BlobKind::Chunk, id, location.pack))?;
        self.keep(id, Arc::clone(&chunk));
        Ok(chunk)
    }

    /// The names of the chunks in a frame, in order, as its pack has them; none when that cannot be read. They are only
    /// claims until they are compared.
    fn neighbours(&self, location: &Location) -> Vec<BlobId> {
        let known = lock(&self.directories).get(&location.pack);
        let directory = known.unwrap_or_else(|| {
            let directory = self.blobs.repository().pack_directory(location.pack).ok().map(Arc::new);
            lock(&self.directories).put(location.pack, directory.clone());
            directory
        });
        directory
            .and_then(|directory| {
                let frames = &directory.frames;
                let found = frames.binary_search_by_key(&location.offset, |frame| frame.offset).ok()?;
                Some(frames[found].blobs.clone())
            })
            .unwrap_or_default()
    }
}
