//! Content of chunks in memory, bounded in bytes.
//!
//! Chunks are kept one by one, by name, also when they came out of a frame together: what a guest uses stays, what only
//! lay beside it goes first. A chunk is compared with its name once, when it is first asked for; until then nobody
//! gets to see it. The parts of the cache have locks of their own, held for a look-up and never while bytes are copied,
//! compared or decoded.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::id::{BlobId, IdKeys};
use crate::writer::lock;

/// Parts with a lock each, at most.
const SHARDS_MAX: usize = 16;
/// Chunks that a part should have room for.
const CHUNKS_PER_SHARD: usize = 32;

/// A chunk in memory.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    is_checked: AtomicBool,
    /// Asked for since it was last considered for eviction.
    is_used: AtomicBool,
}

impl Chunk {
    /// Content that was compared with its name already.
    pub(super) fn checked(bytes: Vec<u8>) -> Self {
        Self { bytes, is_checked: AtomicBool::new(true), is_used: AtomicBool::new(false) }
    }

    /// Content that somebody said has a name.
    pub(super) fn claimed(bytes: Vec<u8>) -> Self {
        Self { bytes, is_checked: AtomicBool::new(false), is_used: AtomicBool::new(false) }
    }

    /// The content, if it is what the name says.
    fn matches(&self, id: BlobId, keys: &IdKeys) -> bool {
        if self.is_checked.load(Ordering::Acquire) {
            return true;
        }
        let matches = keys.chunk(&self.bytes) == id;
        self.is_checked.store(matches, Ordering::Release);
        matches
    }

    /// The content. The cache hands out chunks only when they are what their names say; those that it lets go of may not be.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Default)]
struct Shard {
    chunks: HashMap<BlobId, Arc<Chunk>>,
    /// In the order in which they came, or got another round.
    order: VecDeque<BlobId>,
    bytes: usize,
}

impl Shard {
    fn remove(&mut self, id: &BlobId) -> Option<Arc<Chunk>> {
        let chunk = self.chunks.remove(id)?;
        self.bytes -= chunk.bytes.len();
        Some(chunk)
    }

    /// Removes chunks that nobody asked for since the last time, until the rest fits, and returns them.
    fn evict(&mut self, bytes_max: usize) -> Vec<(BlobId, Arc<Chunk>)> {
        let mut evicted = Vec::new();
        while self.bytes > bytes_max {
            let Some(id) = self.order.pop_front() else { break };
            let used = self.chunks.get(&id).map(|chunk| chunk.is_used.swap(false, Ordering::Relaxed));
            match used {
                Some(true) => self.order.push_back(id),
                Some(false) => evicted.extend(self.remove(&id).map(|chunk| (id, chunk))),
                None => {}
            }
        }
        evicted
    }
}

/// Chunks by name.
pub(super) struct ChunkCache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    is_full: AtomicBool,
}

impl ChunkCache {
    /// A cache of at most about `bytes_max` of chunks of this size; it has room for a few, however small that is.
    pub(super) fn new(bytes_max: usize, chunk_bytes: usize) -> Self {
        let count = (bytes_max / chunk_bytes / CHUNKS_PER_SHARD).clamp(1, SHARDS_MAX);
        Self {
            shards: (0..count).map(|_| Mutex::default()).collect(),
            shard_bytes_max: (bytes_max / count).max(2 * chunk_bytes),
            is_full: AtomicBool::new(false),
        }
    }

    fn shard(&self, id: &BlobId) -> &Mutex<Shard> {
        // Names are digests, hence evenly spread.
        &self.shards[usize::from(id.0[0]) % self.shards.len()]
    }

    /// Whether anything had to go already: from then on what is put in pushes something else out.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Whether a chunk of this name is there, compared or not.
    pub(super) fn contains(&self, id: &BlobId) -> bool {
        lock(self.shard(id)).chunks.contains_key(id)
    }

    /// The chunk, compared with its name; one that does not match is forgotten. `keep` says that it will be wanted again.
    pub(super) fn get(&self, id: &BlobId, keys: &IdKeys, keep: bool) -> Option<Arc<Chunk>> {
        let chunk = lock(self.shard(id)).chunks.get(id).cloned()?;
        if keep {
            chunk.is_used.store(true, Ordering::Relaxed);
        }
        if chunk.matches(*id, keys) {
            return Some(chunk);
        }
        let mut shard = lock(self.shard(id));
        // Not the better one that somebody may have put there meanwhile.
        if shard.chunks.get(id).is_some_and(|present| Arc::ptr_eq(present, &chunk)) {
            shard.remove(id);
            shard.order.retain(|other| other != id);
        }
        None
    }

    /// Keeps a chunk, unless one of this name is there already. Returns those that had to go.
    pub(super) fn insert(&self, id: BlobId, chunk: Arc<Chunk>) -> Vec<(BlobId, Arc<Chunk>)> {
        let mut shard = lock(self.shard(&id));
        if shard.chunks.contains_key(&id) {
            return Vec::new();
        }
        shard.bytes += chunk.bytes.len();
        shard.chunks.insert(id, chunk);
        shard.order.push_back(id);
        let evicted = shard.evict(self.shard_bytes_max);
        if !evicted.is_empty() {
            self.is_full.store(true, Ordering::Relaxed);
        }
        evicted
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1000;

    fn chunk(keys: &IdKeys, number: u8) -> (BlobId, Vec<u8>) {
        let bytes = vec![number; SIZE];
        (keys.chunk(&bytes), bytes)
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_used() {
        let keys = IdKeys::new(&[0; 32]);
        let cache = ChunkCache::new(8 * SIZE, SIZE);
        let (favourite, bytes) = chunk(&keys, 0);
        cache.insert(favourite, Arc::new(Chunk::claimed(bytes)));
        for number in 1..200 {
            assert!(cache.get(&favourite, &keys, true).is_some(), "{number}");
            let (id, bytes) = chunk(&keys, number);
            cache.insert(id, Arc::new(Chunk::checked(bytes)));
            assert!(cache.bytes() <= 8 * SIZE);
        }
        assert!(cache.is_full());
        assert!(!cache.contains(&chunk(&keys, 1).0));
        assert!(cache.contains(&chunk(&keys, 199).0));
    }

    #[test]
    fn what_does_not_match_its_name_is_not_handed_out_and_gives_way() {
        let keys = IdKeys::new(&[0; 32]);
        let cache = ChunkCache::new(8 * SIZE, SIZE);
        let (id, good) = chunk(&keys, 1);
        cache.insert(id, Arc::new(Chunk::claimed(vec![2; SIZE])));
        assert!(cache.get(&id, &keys, true).is_none());
        assert_eq!(cache.bytes(), 0);
        cache.insert(id, Arc::new(Chunk::claimed(good.clone())));
        assert_eq!(cache.get(&id, &keys, true).unwrap().bytes(), good);
        assert_eq!(cache.bytes(), SIZE);
    }
}
