//! One immutable run of the index: entries sorted by name, with a table that stays in memory.
//!
//! Layout, numbers little-endian:
//!
//! | part | bytes | content |
//! | --- | --- | --- |
//! | header | 0..8 | `LEEWARDI` |
//! | | 8..10 | version, 1 |
//! | | 10..16 | 0 |
//! | | 16..24 | number of entries, n |
//! | | 24..28 | number of packs |
//! | | 28..32 | number of buckets, b |
//! | | 32..64 | digest of packs, buckets and tags |
//! | packs | 32 each | names of the packs that the entries lie in |
//! | buckets | 4 each, b + 1 | number of entries before each bucket |
//! | tags | 2 each, n | bytes 8..10 of each entry's name |
//! | entries | 48 each, n | name (32), pack (4), offset (4) and length (4) of the frame, offset in its content (4) |
//!
//! Names are digests, hence evenly spread: the first 8 bytes of a name, as a big-endian number, between the first and
//! the last name of the run, give its bucket. A bucket holds about eight entries, so a name that is not there is
//! refuted by eight tags in memory (wrong once in 8,000), and one that is there costs one read of 48 bytes.
//! The file is named by the digest of all its bytes.

use std::sync::Arc;

use leeward_store::Object;

use super::Location;
use crate::id::{BlobId, DIGEST_BYTES, PackId, RunId, domain, stored_digest};
use crate::pack::{le32, le64};
use crate::repository::UNREADABLE;
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"LEEWARDI";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
pub(crate) const ENTRY_BYTES: usize = 48;
const ENTRIES_PER_BUCKET: usize = 8;
/// The largest run, in entries. Bounds the memory that building one takes: 50 MiB.
pub(crate) const RUN_ENTRIES_MAX: usize = 1 << 20;
/// Entries that a scan reads at a time.
const SCAN_ENTRIES: usize = 8192;

/// An entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) id: BlobId,
    pub(crate) location: Location,
}

/// A run in memory, ready to be stored.
pub(crate) struct EncodedRun {
    pub(crate) id: RunId,
    pub(crate) bytes: Vec<u8>,
}

fn prefix(id: &BlobId) -> u64 {
    id.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn tag(id: &BlobId) -> u16 {
    u16::from_le_bytes([id.0[8], id.0[9]])
}

fn bucket_of(value: u64, first: u64, last: u64, buckets: usize) -> usize {
    let span = u128::from(last - first) + 1;
    (u128::from(value - first) * buckets as u128 / span) as usize
}

/// Encodes entries, which must be sorted and free of doubles, as a run. At most [`RUN_ENTRIES_MAX`].
pub(crate) fn encode(entries: &[Entry]) -> EncodedRun {
    let mut packs: Vec<PackId> = entries.iter().map(|entry| entry.location.pack).collect();
    packs.sort_unstable();
    packs.dedup();
    let buckets = entries.len().div_ceil(ENTRIES_PER_BUCKET).max(1);
    let first = entries.first().map_or(0, |entry| prefix(&entry.id));
    let last = entries.last().map_or(0, |entry| prefix(&entry.id));

    let table_bytes = packs.len() * DIGEST_BYTES + (buckets + 1) * 4 + entries.len() * 2;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + table_bytes + entries.len() * ENTRY_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(buckets as u32).to_le_bytes());
    bytes.extend_from_slice(&[0; 32]);
    for pack in &packs {
        bytes.extend_from_slice(pack.as_bytes());
    }
    let mut next = 0;
    for bucket in 0..=buckets {
        while next < entries.len() && bucket_of(prefix(&entries[next].id), first, last, buckets) < bucket {
            next += 1;
        }
        bytes.extend_from_slice(&(next as u32).to_le_bytes());
    }
    for entry in entries {
        bytes.extend_from_slice(&tag(&entry.id).to_le_bytes());
    }
    let table_digest = stored_digest(domain::RUN, &[&bytes[HEADER_BYTES..]]);
    bytes[32..64].copy_from_slice(table_digest.as_bytes());
    for entry in entries {
        let location = &entry.location;
        let pack = packs.binary_search(&location.pack).unwrap_or_default() as u32;
        bytes.extend_from_slice(entry.id.as_bytes());
        for number in [pack, location.offset, location.length, location.content_offset] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    EncodedRun { id: RunId(*stored_digest(domain::RUN, &[&bytes]).as_bytes()), bytes }
}

fn damaged(store: &str, id: RunId, what: &str) -> Error {
    Error::Damaged {
        store: store.to_owned(),
        key: format!("index/{id}"),
        what: format!("{what}; run rebuild-index"),
    }
}

/// Reads a part of a run. What the medium does not give is damage that a rebuilt index mends.
fn read(object: &dyn Object, buffer: &mut [u8], offset: u64, damaged: &dyn Fn(&str) -> Error) -> Result<()> {
    object.read_at(buffer, offset).map_err(|error| match error.is_bad_place() {
        true => damaged(&format!("{UNREADABLE}: {error}")),
        false => error.into(),
    })
}

/// A stored run: its table in memory, its entries in the store.
pub(crate) struct Run {
    pub(crate) id: RunId,
    object: Arc<dyn Object>,
    store: String,
    pub(crate) packs: Vec<PackId>,
    buckets: Vec<u32>,
    tags: Vec<u16>,
    entries_offset: u64,
    first: BlobId,
    last: BlobId,
}

impl Run {
    /// Opens a run: reads and checks its table.
    pub(crate) fn open(id: RunId, object: Arc<dyn Object>, store: &str) -> Result<Self> {
        let damaged = |what: &str| damaged(store, id, what);
        let size = object.size();
        let mut header = [0; HEADER_BYTES];
        if size < HEADER_BYTES as u64 {
            return Err(damaged("it is too short"));
        }
        read(&*object, &mut header, 0, &damaged)?;
        if &header[..8] != MAGIC || u16::from_le_bytes([header[8], header[9]]) != VERSION {
            return Err(damaged("it does not begin as an index run of version 1 does"));
        }
        let (count, packs, buckets) = (le64(&header, 16), le32(&header, 24), le32(&header, 28));
        if count == 0 || buckets == 0 || count > u64::from(u32::MAX) {
            return Err(damaged("its header makes no sense"));
        }
        // No overflow: all three are below 2^32.
        let table_bytes = u64::from(packs) * DIGEST_BYTES as u64 + (u64::from(buckets) + 1) * 4 + count * 2;
        if HEADER_BYTES as u64 + table_bytes + count * ENTRY_BYTES as u64 != size {
            return Err(damaged("its header contradicts its size"));
        }
        // The size of the stored object bounds this allocation.
        let mut table = vec![0; table_bytes as usize];
        read(&*object, &mut table, HEADER_BYTES as u64, &damaged)?;
        if stored_digest(domain::RUN, &[&table]).as_bytes()[..] != header[32..64] {
            return Err(damaged("its table does not match its digest"));
        }
        let (pack_bytes, rest) = table.split_at(packs as usize * DIGEST_BYTES);
        let (bucket_bytes, tag_bytes) = rest.split_at((buckets as usize + 1) * 4);
        let packs = pack_bytes.as_chunks::<DIGEST_BYTES>().0.iter().map(|id| PackId(*id)).collect();
        let buckets: Vec<u32> = bucket_bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let tags: Vec<u16> = tag_bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        if !buckets.is_sorted() || buckets.last() != Some(&(count as u32)) {
            return Err(damaged("its buckets are out of order"));
        }
        let entries_offset = HEADER_BYTES as u64 + table_bytes;
        let mut run = Self {
            id,
            object,
            store: store.to_owned(),
            packs,
            buckets,
            tags,
            entries_offset,
            first: BlobId([0; 32]),
            last: BlobId([0xff; 32]),
        };
        (run.first, run.last) = (run.entry(0)?.id, run.entry(run.len() - 1)?.id);
        if run.first > run.last {
            return Err(damaged("its entries are out of order"));
        }
        Ok(run)
    }

    /// The first of its names.
    pub(crate) fn first(&self) -> BlobId {
        self.first
    }

    /// The last of its names.
    pub(crate) fn last(&self) -> BlobId {
        self.last
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.tags.len()
    }

    /// Bytes that it takes in the store.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.object.size()
    }

    /// Bytes of memory that its table takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buckets.len() * 4 + self.tags.len() * 2 + self.packs.len() * DIGEST_BYTES
    }

    /// The ranks of the entries that may have this name, judged by memory alone.
    fn candidates(&self, id: &BlobId) -> impl Iterator<Item = usize> {
        let inside = *id >= self.first && *id <= self.last;
        let range = if inside {
            let buckets = self.buckets.len() - 1;
            let bucket = bucket_of(prefix(id), prefix(&self.first), prefix(&self.last), buckets);
            self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize
        } else {
            0..0
        };
        let wanted = tag(id);
        range.filter(move |rank| self.tags[*rank] == wanted)
    }

    /// Whether it may hold the name; wrong once in about 8,000 times when it says yes.
    pub(crate) fn may_contain(&self, id: &BlobId) -> bool {
        self.candidates(id).next().is_some()
    }

    /// Calls `visit` with rank and location of every entry of this name.
    pub(crate) fn find(&self, id: &BlobId, mut visit: impl FnMut(usize, Location)) -> Result<()> {
        for rank in self.candidates(id) {
            let entry = self.entry(rank)?;
            if entry.id == *id {
                visit(rank, entry.location);
            }
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8; ENTRY_BYTES]) -> Result<Entry> {
        let mut id = [0; DIGEST_BYTES];
        id.copy_from_slice(&bytes[..DIGEST_BYTES]);
        let pack = self.packs.get(le32(bytes, 32) as usize).copied().ok_or_else(|| Error::Damaged {
            store: self.store.clone(),
            key: format!("index/{}", self.id),
            what: "an entry names a pack that is not in its table; run rebuild-index".to_owned(),
        })?;
        let location = Location {
            pack,
            offset: le32(bytes, 36),
            length: le32(bytes, 40),
            content_offset: le32(bytes, 44),
        };
        Ok(Entry { id: BlobId(id), location })
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read(&*self.object, buffer, offset, &|what| damaged(&self.store, self.id, what))
    }

    /// The entry of a rank.
    pub(crate) fn entry(&self, rank: usize) -> Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        self.read(&mut bytes, self.entries_offset + (rank * ENTRY_BYTES) as u64)?;
        self.decode(&bytes)
    }

    /// Calls `visit` with rank and content of every entry, in order.
    pub(crate) fn scan<E: From<Error>>(
        &self,
        mut visit: impl FnMut(usize, Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut position = 0;
        while position < self.len() {
            let block = self.block(position)?;
            for (index, entry) in block.iter().enumerate() {
                visit(position + index, *entry)?;
            }
            position += block.len();
        }
        Ok(())
    }

    /// Some entries from a rank on; none at the end.
    pub(crate) fn block(&self, rank: usize) -> Result<Vec<Entry>> {
        let count = SCAN_ENTRIES.min(self.len().saturating_sub(rank));
        let mut bytes = vec![0; count * ENTRY_BYTES];
        self.read(&mut bytes, self.entries_offset + (rank * ENTRY_BYTES) as u64)?;
        bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(|bytes| self.decode(bytes)).collect()
    }

    /// Reads all of it and compares with its name.
    pub(crate) fn verify(&self) -> Result<bool> {
        let mut hasher = blake3::Hasher::new_derive_key(domain::RUN);
        let mut buffer = vec![0; 1 << 20];
        let mut position = 0;
        while position < self.object.size() {
            let length = (self.object.size() - position).min(buffer.len() as u64) as usize;
            self.read(&mut buffer[..length], position)?;
            hasher.update(&buffer[..length]);
            position += length as u64;
        }
        Ok(hasher.finalize().as_bytes() == self.id.as_bytes())
    }
}
