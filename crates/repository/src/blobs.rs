//! Reading blobs: from a name to checked bytes.
//!
//! A frame is read and decoded as a whole; the last few stay in memory, because neighbours on a disk are neighbours in
//! a frame. Every blob is compared with its name before it is handed out; where one copy cannot be had, others are tried.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use leeward_store::Object;

use crate::frame::{BlobKind, FrameDecoder};
use crate::id::{BlobId, PackId};
use crate::index::{Index, Location};
use crate::repository::{Repository, pack_key};
use crate::span::Reach;
use crate::tree::Node;
use crate::writer::lock;
use crate::{Error, ErrorKind, Result};

/// Packs whose objects are kept open, at most.
const OPEN_PACKS_MAX: usize = 128;
/// Decoded frames that are kept, at most. With frames of 2 MiB this bounds memory at 64 MiB.
const FRAMES_MAX: usize = 32;
/// Buffers that wait for a frame, at most.
const SPARE_MAX: usize = 8;
/// How often the index is loaded anew for one blob: collections may follow each other.
const LOOKS_MAX: usize = 2;

/// The content of a decoded frame.
pub(crate) type Content = Arc<Vec<u8>>;

/// The values that were put last, by key.
pub(crate) struct Recent<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<K>,
    most: usize,
}

impl<K: Copy + Eq + std::hash::Hash, V: Clone> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { values: HashMap::new(), order: VecDeque::new(), most }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.values.get(key).cloned()
    }

    /// Keeps a value; returns the oldest when there are too many.
    pub(crate) fn put(&mut self, key: K, value: V) -> Option<V> {
        if self.values.insert(key, value).is_some() {
            return None;
        }
        self.order.push_back(key);
        if self.order.len() <= self.most {
            return None;
        }
        self.order.pop_front().and_then(|oldest| self.values.remove(&oldest))
    }

    fn remove(&mut self, key: &K) {
        if self.values.remove(key).is_some() {
            self.order.retain(|other| other != key);
        }
    }
}

/// Reads blobs of a repository, from many threads.
pub(crate) struct Blobs {
    repository: Repository,
    index: RwLock<Arc<Index>>,
    packs: Mutex<Recent<PackId, Arc<dyn Object>>>,
    frames: Mutex<Recent<(PackId, u32), Content>>,
    decoders: Mutex<Vec<Decoding>>,
    /// Buffers of frames that are not kept any more: to allocate a megabyte anew for each costs more than to copy it.
    spare: Mutex<Vec<Vec<u8>>>,
    /// Whether the runs have to be compared with their names when the index is loaded: once that was needed, always.
    is_compared: Mutex<bool>,
}

/// What a thread needs to decode a frame.
struct Decoding {
    decoder: FrameDecoder,
    stored: Vec<u8>,
}

impl Blobs {
    /// Opens the index.
    pub(crate) fn open(repository: &Repository) -> Result<Self> {
        Ok(Self::with_index(repository, repository.load_index_to_read(false)?))
    }

    /// Reads by an index that is open already.
    pub(crate) fn with_index(repository: &Repository, index: Index) -> Self {
        Self {
            repository: repository.clone(),
            index: RwLock::new(Arc::new(index)),
            packs: Mutex::new(Recent::new(OPEN_PACKS_MAX)),
            frames: Mutex::new(Recent::new(FRAMES_MAX)),
            decoders: Mutex::default(),
            spare: Mutex::default(),
            is_compared: Mutex::new(false),
        }
    }

    /// Reads by an index whose runs were compared with their names, and never by one that was not.
    pub(crate) fn with_compared_index(repository: &Repository, index: Index) -> Self {
        Self { is_compared: Mutex::new(true), ..Self::with_index(repository, index) }
    }

    /// The index as it was last loaded.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    fn missing(&self, kind: BlobKind, id: BlobId) -> Error {
        Error::MissingBlob {
            store: self.repository.location().to_owned(),
            kind: kind.name(),
            id,
            whom: String::new(),
        }
    }

    /// Where a blob lies.
    pub(crate) fn locate(&self, kind: BlobKind, id: BlobId) -> Result<Location> {
        let mut located = self.index().locate(&id);
        for _ in 0..LOOKS_MAX {
            match &located {
                // A collection has merged the run away, and the store does not let those read on who have it open.
                Err(error) if error.is_not_found() => self.look_again(*lock(&self.is_compared))?,
                _ => break,
            }
            located = self.index().locate(&id);
        }
        located?.ok_or_else(|| self.missing(kind, id))
    }

    /// The decoded frame at a location, from memory where it is there.
    pub(crate) fn frame(&self, kind: BlobKind, location: &Location) -> Result<Content> {
        if kind == BlobKind::Chunk {
            self.repository.require_chunk_access()?;
        }
        if let Some(content) = self.kept(location) {
            return Ok(content);
        }
        let content = Arc::new(self.read_frame(kind, location)?);
        self.keep(location, Arc::clone(&content));
        Ok(content)
    }

    fn read_frame(&self, kind: BlobKind, location: &Location) -> Result<Vec<u8>> {
        let mut content = self.spare();
        self.with_stored(location, |decoder, stored| decoder.decode(kind, stored, &mut content))?;
        Ok(content)
    }

    /// The decoded frame at a location if it is in memory.
    pub(crate) fn kept(&self, location: &Location) -> Option<Content> {
        lock(&self.frames).get(&(location.pack, location.offset))
    }

    /// Keeps a decoded frame in memory, in place of the one that was put there first.
    pub(crate) fn keep(&self, location: &Location, content: Content) {
        let oldest = lock(&self.frames).put((location.pack, location.offset), content);
        // Somebody may still be reading the oldest; then its buffer goes when they are done.
        if let Some(buffer) = oldest.and_then(Arc::into_inner) {
            self.give_back(buffer);
        }
    }

    /// A buffer for a decoded frame.
    pub(crate) fn spare(&self) -> Vec<u8> {
        lock(&self.spare).pop().unwrap_or_default()
    }

    /// Takes a buffer that is not needed any more.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }

    /// Decodes the frame of chunks at a location as far as byte `end` of its content, and hands on its blocks of one
    /// chunk each with their offsets in the content. They were not compared with any name yet.
    pub(crate) fn blocks(
        &self,
        location: &Location,
        end: usize,
        take: impl FnMut(usize, Vec<u8>),
    ) -> Result<()> {
        self.repository.require_chunk_access()?;
        let chunk_bytes = self.repository.config().chunk_bytes();
        self.with_stored(location, |decoder, stored| {
            decoder.decode_blocks(BlobKind::Chunk, stored, chunk_bytes, end, take)
        })
    }

    /// Calls `decode` with the stored frame at a location; what it finds wrong becomes an error that names the pack.
    pub(crate) fn with_stored(
        &self,
        location: &Location,
        decode: impl FnOnce(&mut FrameDecoder, &[u8]) -> Result<(), String>,
    ) -> Result<()> {
        let key = pack_key(location.pack)?;
        let mut decode = Some(decode);
        let mut result = Ok(());
        self.with_span(&[*location], |decoder, _, stored| {
            if let Some(decode) = decode.take() {
                result = decode(decoder, stored).map_err(|what| {
                    let what = format!("at offset {}: {what}", location.offset);
                    self.repository.damaged(key.as_str(), what)
                });
            }
        })?;
        result
    }

    /// How near each other frames have to lie to be read together.
    pub(crate) fn reach(&self) -> Reach {
        Reach::of(&self.repository)
    }

    /// Reads frames of one pack in order, with all that lies between them, by one request, and calls `take` with each
    /// frame's number and stored bytes. Fails before the first call or not at all.
    pub(crate) fn with_span(
        &self,
        frames: &[Location],
        mut take: impl FnMut(&mut FrameDecoder, usize, &[u8]),
    ) -> Result<()> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(()) };
        let object = self.pack(first.pack)?;
        let start = u64::from(first.offset);
        let end = u64::from(last.offset) + u64::from(last.length);
        if end > object.size() {
            let what = format!("it ends before the frame at offset {}", last.offset);
            return Err(self.repository.damaged(pack_key(first.pack)?.as_str(), what));
        }
        let mut decoding = match lock(&self.decoders).pop() {
            Some(decoding) => decoding,
            None => Decoding { decoder: self.repository.frame_decoder()?, stored: Vec::new() },
        };
        let Decoding { decoder, stored } = &mut decoding;
        // Grown once, then overwritten: the object's size bounds it.
        let length = end.saturating_sub(start) as usize;
        if stored.len() < length {
            stored.resize(length, 0);
        }
        let result = object.read_at(&mut stored[..length], start).map_err(Error::from);
        if result.is_ok() {
            for (number, frame) in frames.iter().enumerate() {
                let at = frame.offset.saturating_sub(first.offset) as usize;
                // Frames that are no span are empty, and then do not decode.
                let bytes = stored[..length].get(at..at + frame.length as usize).unwrap_or_default();
                take(decoder, number, bytes);
            }
        }
        lock(&self.decoders).push(decoding);
        result
    }

    fn pack(&self, id: PackId) -> Result<Arc<dyn Object>> {
        if let Some(object) = lock(&self.packs).get(&id) {
            return Ok(object);
        }
        let object = self.repository.store().open(&pack_key(id)?)?;
        lock(&self.packs).put(id, Arc::clone(&object));
        Ok(object)
    }

    /// As [`Blobs::any_copy`]; when a pack has gone, a collection has moved what was in it: then with a fresh index
    /// again. Packs that no run speaks of are looked into as well, so a lost index only costs time.
    pub(crate) fn any_copy_by_fresh_index<T>(
        &self,
        kind: BlobKind,
        id: BlobId,
        mut read: impl FnMut(Location) -> Result<T>,
    ) -> Result<T> {
        let mut result = self.any_copy(kind, id, &mut read);
        for _ in 0..LOOKS_MAX {
            match &result {
                Err(error) if error.is_not_found() || matches!(error, Error::MissingBlob { .. }) => {}
                _ => break,
            }
            let is_compared = *lock(&self.is_compared);
            self.look_again(is_compared)?;
            result = self.any_copy(kind, id, &mut read);
        }
        let is_damaged = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Damaged);
        if is_damaged {
            // The index itself may be what is damaged. Held while it is loaded, so that other threads wait for the better one.
            let mut is_compared = lock(&self.is_compared);
            if !std::mem::replace(&mut *is_compared, true) {
                self.look_again(true)?;
            }
            drop(is_compared);
            result = self.any_copy(kind, id, &mut read);
        }
        result
    }

    fn look_again(&self, compare: bool) -> Result<()> {
        let mut index = self.repository.load_index_to_read(compare)?;
        self.repository.adopt_orphans_in_memory(&mut index)?;
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(())
    }

    /// Runs `read` on one copy of a blob after the other, until it succeeds.
    fn any_copy<T>(
        &self,
        kind: BlobKind,
        id: BlobId,
        mut read: impl FnMut(Location) -> Result<T>,
    ) -> Result<T> {
        let mut failure: Option<Error> = None;
        for (location, _) in self.index().places(&id)? {
            match read(location) {
                Ok(found) => return Ok(found),
                // That a pack has gone is the error that makes the caller look again, so it is the one to keep.
                Err(error) if failure.is_none() || error.is_not_found() => failure = Some(error),
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(|| self.missing(kind, id)))
    }

    /// Calls `take` with the checked bytes of a chunk.
    pub(crate) fn chunk<T>(&self, id: BlobId, mut take: impl FnMut(&[u8]) -> T) -> Result<T> {
        self.any_copy_by_fresh_index(BlobKind::Chunk, id, |location| {
            let content = self.frame(BlobKind::Chunk, &location)?;
            Ok(take(self.chunk_in(&content, &location, id)?))
        })
    }

    /// The bytes of a chunk in its decoded frame, compared with its name.
    pub(crate) fn chunk_in<'a>(
        &self,
        content: &'a [u8],
        location: &Location,
        id: BlobId,
    ) -> Result<&'a [u8]> {
        let start = location.content_offset as usize;
        content
            .get(start..start + self.repository.config().chunk_bytes())
            .filter(|bytes| self.repository.keys().chunk(bytes) == id)
            .ok_or_else(|| {
                lock(&self.frames).remove(&(location.pack, location.offset));
                self.wrong(BlobKind::Chunk, id, location.pack)
            })
    }

    /// The bytes of a blob at a location, compared with its name.
    pub(crate) fn bytes_at(&self, kind: BlobKind, id: BlobId, location: &Location) -> Result<Vec<u8>> {
        let content = self.frame(kind, location)?;
        if kind == BlobKind::Chunk {
            return Ok(self.chunk_in(&content, location, id)?.to_vec());
        }
        content
            .get(location.content_offset as usize..)
            .and_then(|bytes| Some(&bytes[..Node::decode(bytes).ok()?.1]))
            .filter(|bytes| self.repository.keys().node(bytes) == id)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| self.wrong(kind, id, location.pack))
    }

    /// The bytes of a blob from any of its copies, by the index as it is.
    pub(crate) fn bytes(&self, kind: BlobKind, id: BlobId) -> Result<Vec<u8>> {
        self.any_copy(kind, id, |location| self.bytes_at(kind, id, &location))
    }

    pub(crate) fn wrong(&self, kind: BlobKind, id: BlobId, pack: PackId) -> Error {
        Error::WrongContent { store: self.repository.location().to_owned(), kind: kind.name(), id, pack }
    }

    /// A tree node, compared with its name and the level at which it stands.
    pub(crate) fn node(&self, id: BlobId, level: u8) -> Result<Node> {
        let config = self.repository.config();
        self.any_copy_by_fresh_index(BlobKind::Node, id, |location| {
            let content = self.frame(BlobKind::Node, &location)?;
            let wrong = || self.wrong(BlobKind::Node, id, location.pack);
            let bytes = content.get(location.content_offset as usize..).ok_or_else(wrong)?;
            let (node, length) = Node::decode(bytes).map_err(|_| wrong())?;
            if self.repository.keys().node(&bytes[..length]) != id
                || node.level != level
                || node.children.len() != config.fanout()
            {
                return Err(wrong());
            }
            Ok(node)
        })
    }
}
