//! An object as the bytes of an image.
//!
//! Format readers ask for two kinds of things. Tables and compressed clusters are small and lie close together: they go
//! through a cache of blocks, which one thread fetches while the others that want them wait, and which reads ahead where
//! they are asked for in order. Data is large: it is fetched as it is asked for, by one request, and not kept. So what is
//! read of an object is little more than what the disk needs of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use leeward_disk::{Error as DiskError, ErrorKind as DiskErrorKind, Result as DiskResult, Storage};
use leeward_remote::objects::{ObjectVersion, SharedObjects};

/// What is fetched and kept at least, in bytes.
const BLOCK_BYTES: u64 = 256 << 10;
/// From this length on reads go past the cache, in bytes.
const DIRECT_BYTES: usize = 512 << 10;
/// Blocks that are fetched at once where blocks are asked for in order.
const AHEAD_BLOCKS: u64 = 8;
/// Blocks that are kept: 48 MiB.
const BLOCKS_MAX: usize = 192;
/// The largest read of one request, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 20;

type BlockKey = (u32, u64);

/// Blocks of all objects of an image.
#[derive(Default)]
pub(super) struct BlockCache {
    state: Mutex<Blocks>,
    changed: Condvar,
}

#[derive(Default)]
struct Blocks {
    clock: u64,
    objects: u32,
    kept: HashMap<BlockKey, (u64, Arc<Vec<u8>>)>,
    in_flight: HashSet<BlockKey>,
}

impl Blocks {
    fn touch(&mut self, key: BlockKey) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let clock = self.clock;
        self.kept.get_mut(&key).map(|(used, block)| {
            *used = clock;
            Arc::clone(block)
        })
    }

    fn is_known(&self, key: BlockKey) -> bool {
        self.kept.contains_key(&key) || self.in_flight.contains(&key)
    }

    fn keep(&mut self, key: BlockKey, block: Vec<u8>) {
        // All entries are looked at: there are few, and each new one costs a request anyway.
        if self.kept.len() >= BLOCKS_MAX
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key)
        {
            self.kept.remove(&oldest);
        }
        self.clock += 1;
        self.kept.insert(key, (self.clock, Arc::new(block)));
    }
}

impl BlockCache {
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One version of an object.
pub(super) struct ObjectStorage {
    objects: SharedObjects,
    object: String,
    version: ObjectVersion,
    bytes: u64,
    /// For messages.
    label: String,
    cache: Arc<BlockCache>,
    number: u32,
}

impl ObjectStorage {
    pub(super) fn new(
        objects: SharedObjects,
        object: &str,
        version: ObjectVersion,
        bytes: u64,
        cache: &Arc<BlockCache>,
    ) -> Self {
        let number = {
            let mut blocks = cache.blocks();
            blocks.objects += 1;
            blocks.objects
        };
        let label = format!("{} in {}", object, objects.name());
        Self { objects, object: object.to_owned(), version, bytes, label, cache: Arc::clone(cache), number }
    }

    fn fetch(&self, offset: u64, length: u64) -> DiskResult<Vec<u8>> {
        self.objects.read(&self.object, offset..offset + length, &self.version).map_err(|error| {
            DiskError::Backend {
                path: self.label.clone(),
                offset,
                length,
                kind: disk_kind(error.kind()),
                source: Box::new(error),
            }
        })
    }

    fn block(&self, index: u64) -> DiskResult<Arc<Vec<u8>>> {
        let mut blocks = self.cache.blocks();
        loop {
            if let Some(block) = blocks.touch((self.number, index)) {
                return Ok(block);
            }
            if !blocks.in_flight.contains(&(self.number, index)) {
                break;
            }
            blocks = self.cache.changed.wait(blocks).unwrap_or_else(PoisonError::into_inner);
        }
        let count = self.to_fetch(&blocks, index);
        blocks.in_flight.extend((index..index + count).map(|index| (self.number, index)));
        drop(blocks);
        let offset = index * BLOCK_BYTES;
        let fetched = self.fetch(offset, (count * BLOCK_BYTES).min(self.bytes - offset));
        let mut blocks = self.cache.blocks();
        (index..index + count).for_each(|index| {
            blocks.in_flight.remove(&(self.number, index));
        });
        if let Ok(content) = &fetched {
            for (index, block) in (index..).zip(content.chunks(BLOCK_BYTES as usize)) {
                blocks.keep((self.number, index), block.to_vec());
            }
        }
        let found = blocks.touch((self.number, index));
        drop(blocks);
        self.cache.changed.notify_all();
        fetched?;
        found.ok_or_else(|| DiskError::Invalid {
            path: self.label.clone(),
            what: "nothing was read".to_owned(),
        })
    }

    /// How many blocks to fetch at once: one, or several if the one before is known, so that they are read in order.
    fn to_fetch(&self, blocks: &Blocks, index: u64) -> u64 {
        let is_in_order = index > 0 && blocks.is_known((self.number, index - 1));
        let end = self.bytes.div_ceil(BLOCK_BYTES).min(index + if is_in_order { AHEAD_BLOCKS } else { 1 });
        let known = (index + 1..end).find(|&next| blocks.is_known((self.number, next)));
        known.unwrap_or(end) - index
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let block = self.block(at / BLOCK_BYTES)?;
            let within = (at % BLOCK_BYTES) as usize;
            let part = block.get(within..).unwrap_or_default();
            let length = part.len().min(buffer.len() - filled);
            if length == 0 {
                return Err(self.outside(offset, buffer.len()));
            }
            buffer[filled..filled + length].copy_from_slice(&part[..length]);
            filled += length;
        }
        Ok(())
    }

    fn outside(&self, offset: u64, length: usize) -> DiskError {
        DiskError::Io {
            path: self.label.clone(),
            action: "read",
            offset,
            length: length as u64,
            source: std::io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

impl Storage for ObjectStorage {
    fn name(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.bytes);
        if end.is_none() {
            return Err(self.outside(offset, buffer.len()));
        }
        if buffer.len() < DIRECT_BYTES {
            return self.read_cached(buffer, offset);
        }
        let mut position = offset;
        for part in buffer.chunks_mut(REQUEST_BYTES_MAX) {
            part.copy_from_slice(&self.fetch(position, part.len() as u64)?);
            position += part.len() as u64;
        }
        Ok(())
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}

fn disk_kind(kind: leeward_store::ErrorKind) -> DiskErrorKind {
    use leeward_store::ErrorKind as Store;
    match kind {
        Store::NotFound | Store::Denied | Store::Conflict => DiskErrorKind::Refused,
        Store::Damaged => DiskErrorKind::Corrupt,
        Store::Unsupported => DiskErrorKind::Unsupported,
        _ => DiskErrorKind::Io,
    }
}
