//! Packs whose frames nobody has stored: header, directory and footer are computed when they are read, as a pack of that
//! number has them, and match the pack's name. Whoever reads a frame of one reads zeros.

use std::collections::HashMap;
use std::sync::Arc;

use leeward_store::{Entry, Key, Object, Result, SharedStore, Store, Version};

use super::numbers::{Numbers, mix};
use crate::frame::BlobKind;
use crate::id::{BlobId, PackId, domain, stored_digest};
use crate::index::Location;
use crate::pack::{FOOTER_BYTES, HEADER_BYTES};
use crate::repository::PACKS;

/// Chunks of a frame: what 2 MiB hold.
const FRAME_CHUNKS: u64 = 32;
/// Frames of a pack: what 32 MiB hold of content that cannot be compressed.
const PACK_FRAMES: u64 = 16;
/// Chunks of a pack.
pub(super) const PACK_CHUNKS: u64 = FRAME_CHUNKS * PACK_FRAMES;

/// The layout of packs of chunks that are named by their numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) numbers: Numbers,
    pub(super) chunk_bits: u8,
}

impl Layout {
    pub(super) fn pack_count(self) -> u64 {
        self.numbers.count.div_ceil(PACK_CHUNKS)
    }

    fn frame_bytes(self) -> u64 {
        // With a frame's header of 16 bytes.
        (FRAME_CHUNKS << self.chunk_bits) + 16
    }

    /// Where a chunk lies in the pack of its number.
    pub(super) fn location(self, number: u64, pack: PackId) -> Location {
        let frame = number % PACK_CHUNKS / FRAME_CHUNKS;
        Location {
            pack,
            offset: (HEADER_BYTES as u64 + frame * self.frame_bytes()) as u32,
            length: self.frame_bytes() as u32,
            content_offset: ((number % FRAME_CHUNKS) << self.chunk_bits) as u32,
        }
    }

    fn header(self, pack: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(b"LEEWARDP");
        header[8] = 1;
        header[10] = BlobKind::Chunk as u8;
        header[12] = self.chunk_bits;
        header[32..40].copy_from_slice(&mix(!pack).to_le_bytes());
        header
    }

    fn directory(self, pack: u64) -> Vec<u8> {
        let mut directory = Vec::new();
        let last = (pack + 1).saturating_mul(PACK_CHUNKS).min(self.numbers.count);
        let mut first = pack * PACK_CHUNKS;
        while first < last {
            let end = (first + FRAME_CHUNKS).min(last);
            directory.extend_from_slice(&(self.frame_bytes() as u32).to_le_bytes());
            directory.extend_from_slice(&((end - first) as u32).to_le_bytes());
            let digest = BlobId([mix(first).to_le_bytes()[0]; 32]);
            directory.extend_from_slice(digest.as_bytes());
            for number in first..end {
                directory.extend_from_slice(self.numbers.name(number).as_bytes());
            }
            first = end;
        }
        directory
    }

    fn frame_count(self, pack: u64) -> u64 {
        (self.numbers.count - pack * PACK_CHUNKS).min(PACK_CHUNKS).div_ceil(FRAME_CHUNKS)
    }

    fn size(self, pack: u64) -> u64 {
        let chunks = (self.numbers.count - pack * PACK_CHUNKS).min(PACK_CHUNKS);
        let directory = self.frame_count(pack) * 40 + chunks * 32;
        (HEADER_BYTES + FOOTER_BYTES) as u64 + self.frame_count(pack) * self.frame_bytes() + directory
    }

    /// The name of the pack of a number.
    pub(super) fn name(self, pack: u64) -> PackId {
        let digest = stored_digest(domain::PACK, &[&self.header(pack), &self.directory(pack)]);
        PackId(*digest.as_bytes())
    }

    fn object(self, pack: u64, name: PackId) -> HollowPack {
        let mut tail = self.directory(pack);
        let directory_length = tail.len() as u32;
        let size = self.size(pack);
        let offset = size - u64::from(directory_length) - FOOTER_BYTES as u64;
        tail.extend_from_slice(b"LEEWARDD");
        tail.extend_from_slice(&offset.to_le_bytes());
        tail.extend_from_slice(&directory_length.to_le_bytes());
        tail.extend_from_slice(&(self.frame_count(pack) as u32).to_le_bytes());
        tail.extend_from_slice(&[0; 8]);
        tail.extend_from_slice(name.as_bytes());
        HollowPack { header: self.header(pack), tail, size }
    }
}

struct HollowPack {
    header: [u8; HEADER_BYTES],
    /// Directory and footer.
    tail: Vec<u8>,
    size: u64,
}

impl Object for HollowPack {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let tail_offset = self.size - self.tail.len() as u64;
        for (byte, at) in buffer.iter_mut().zip(offset..) {
            *byte = match at {
                at if at < HEADER_BYTES as u64 => self.header[at as usize],
                at if at < tail_offset => 0,
                at => self.tail.get((at - tail_offset) as usize).copied().unwrap_or_default(),
            };
        }
        Ok(())
    }
}

/// A store that has these packs besides what is in another one.
pub struct HollowStore {
    below: SharedStore,
    layout: Layout,
    packs: HashMap<PackId, u32>,
}

impl HollowStore {
    pub(super) fn new(below: SharedStore, layout: Layout, names: &[PackId]) -> Self {
        let packs = names.iter().copied().zip(0..).collect();
        Self { below, layout, packs }
    }

    fn hollow(&self, key: &Key) -> Option<(PackId, u64)> {
        let name: PackId = key.as_str().strip_prefix(PACKS)?.strip_prefix('/')?.parse().ok()?;
        Some((name, u64::from(*self.packs.get(&name)?)))
    }
}

impl Store for HollowStore {
    fn name(&self) -> &str {
        self.below.name()
    }

    fn requests_at_once(&self) -> usize {
        self.below.requests_at_once()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        match self.hollow(key) {
            Some((name, pack)) => Ok(Arc::new(self.layout.object(pack, name))),
            None => self.below.open(key),
        }
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        self.below.get(key, size_max)
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.below.put_if_absent(key, parts)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        self.below.put_if_match(key, content, expected)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        self.below.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries = self.below.list(prefix)?;
        if prefix == PACKS {
            for (name, pack) in &self.packs {
                if let Some(key) = Key::under(PACKS, &name.to_string()) {
                    entries.push(Entry { key, size: self.layout.size(u64::from(*pack)) });
                }
            }
            entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        }
        Ok(entries)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.below.settle(prefix)
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.below.sweep_leftovers()
    }
}
