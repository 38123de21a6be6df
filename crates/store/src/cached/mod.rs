//! A layer that keeps the small objects of a remote store in a local directory.
//!
//! An index is asked for 48 bytes at a time, and a manifest is read by every command: over a network each is a request.
//! Runs of the index and manifests are written once and named by what they hold, so a copy of one never grows old.
//! [`CachedStore`] keeps them whole, and everything else passes through unchanged.
//!
//! What always holds:
//! - an object is shown only if the store has it: either the store was asked by this very call, or a listing (or an own
//!   write) vouches for it, and nothing was asked or told through this layer since. So a call that is answered by the
//!   directory alone could as well have been made at the moment of that listing (`vouchers`);
//! - what is kept is what the store had, whole, and is what its name says; a copy that was damaged, cut or exchanged is
//!   found when it is opened, dropped, and fetched again;
//! - no failure of the directory is ever an error: it only means that nothing is kept.
//!
//! It is not for those who examine a store: a sound copy here would hide a damaged object there. They take one in an empty
//! directory of their own, without [`CacheOptions::keeps_writes`]: then each object is read from the store once.

mod envelope;
mod files;
mod object;
mod vouchers;

use std::path::PathBuf;
use std::sync::Arc;

use crate::bucket::RequestCounts;
use crate::{Chains, Entry, Error, Key, Locks, Object, Result, SharedStore, Store, Version};
use files::Files;
use object::{KeptObject, WholeObject};
use vouchers::Vouchers;

/// What is kept: objects under these prefixes are written once and named by their content.
const PREFIXES: [&str; 2] = ["index", "snapshots"];
/// Larger objects pass through, in bytes.
const OBJECT_BYTES_MAX: u64 = 64 << 20;
/// An object that cannot be kept is held in memory up to this size, in bytes; a larger one is read from the store.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Bytes that all caches in a directory take together, if nobody says otherwise.
pub const CACHE_BYTES_MAX: u64 = 4 << 30;

/// Where and how objects are kept.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// The directory for the caches of all stores; it is made when it is missing, for this user alone.
    pub directory: PathBuf,
    /// Bytes that all caches in the directory take together; what was not used for longest goes first. Processes that
    /// fill it at once may pass it by a sixteenth each.
    pub bytes_max: u64,
    /// Whether what is written is kept at once. Whoever examines a store wants to see what it has made of a write.
    pub keeps_writes: bool,
    /// Whether an object's content is what its key says, as far as that can be told without keys. What is not is not kept,
    /// because somebody may mend it.
    pub is_sound: fn(&Key, &[u8]) -> bool,
}

/// A store with a local cache of what never changes.
pub struct CachedStore {
    store: SharedStore,
    files: Files,
    vouchers: Vouchers,
    object_bytes_max: u64,
    keeps_writes: bool,
    is_sound: fn(&Key, &[u8]) -> bool,
}

impl CachedStore {
    /// Puts a cache before a store. Several processes may share the directory.
    #[must_use]
    pub fn wrap(store: SharedStore, options: &CacheOptions) -> SharedStore {
        let files = Files::new(&options.directory, store.name(), options.bytes_max);
        Arc::new(Self {
            store,
            files,
            vouchers: Vouchers::default(),
            object_bytes_max: OBJECT_BYTES_MAX.min(options.bytes_max / 4),
            keeps_writes: options.keeps_writes,
            is_sound: options.is_sound,
        })
    }

    /// Whether this object may be kept.
    fn covers(&self, key: &Key) -> bool {
        let prefix = key.as_str().split_once('/').map_or("", |(prefix, _)| prefix);
        PREFIXES.contains(&prefix) && self.files.is_usable()
    }

    /// Asks the store something, after which no earlier listing vouches for anything.
    fn pass<T>(&self, ask: impl FnOnce(&dyn Store) -> T) -> T {
        let _ended = self.vouchers.pass();
        ask(self.store.as_ref())
    }

    /// The size of an object that is there and may be kept here: told by a listing, else by the store. `None` when nothing
    /// is known and nothing is kept, so that fetching it is the shortest way.
    fn known_size(&self, key: &Key) -> Result<Known> {
        match self.vouchers.take(key) {
            Some(size) => Ok(Known::Vouched(size)),
            None if self.files.has(key) => {
                self.pass(|store| store.open(key)).map(|object| Known::Seen(object.size()))
            }
            None => Ok(Known::Nothing),
        }
    }

    /// Reads an object from the store and keeps it.
    fn fetch(&self, key: &Key, size_max: u64, known: &Known) -> Result<(Vec<u8>, Version)> {
        let read = match known {
            // It is there as of the listing; if it is not there any more, the listing is out of date.
            Known::Vouched(_) => self.store.get(key, size_max).inspect_err(|_| {
                self.vouchers.withdraw();
            }),
            Known::Seen(_) | Known::Nothing => self.pass(|store| store.get(key, size_max)),
        }?;
        if read.0.len() as u64 <= self.object_bytes_max && (self.is_sound)(key, &read.0) {
            self.files.keep(key, &[&read.0]);
        }
        Ok(read)
    }

    fn kept(&self, key: &Key, size: u64) -> Option<KeptObject> {
        Some(KeptObject::new(self.files.find(key, size)?, size, &self.store, key))
    }

    /// Fetches an object in order to open it.
    fn open_fetched(&self, key: &Key, known: &Known) -> Result<Arc<dyn Object>> {
        let size_max = known.size().unwrap_or(self.object_bytes_max);
        if size_max > self.object_bytes_max {
            return self.pass(|store| store.open(key));
        }
        let content = match self.fetch(key, size_max, known) {
            Ok((content, _)) => content,
            // Too large to be kept, or not as large as was told: the store has the last word.
            Err(Error::TooLarge { .. }) => return self.pass(|store| store.open(key)),
            Err(error) => return Err(error),
        };
        match self.kept(key, content.len() as u64) {
            Some(object) => Ok(Arc::new(object)),
            None if content.len() <= HELD_BYTES_MAX => {
                Ok(Arc::new(WholeObject::new(content, &self.store, key)))
            }
            None => self.pass(|store| store.open(key)),
        }
    }
}

/// What is known of an object before it is read.
enum Known {
    /// A listing or an own write has shown it with this size.
    Vouched(u64),
    /// The store has just been asked, and it has this size.
    Seen(u64),
    Nothing,
}

impl Known {
    fn size(&self) -> Option<u64> {
        match self {
            Self::Vouched(size) | Self::Seen(size) => Some(*size),
            Self::Nothing => None,
        }
    }
}

impl Store for CachedStore {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn requests_at_once(&self) -> usize {
        self.store.requests_at_once()
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.store.locks()
    }

    fn chains(&self) -> Option<&dyn Chains> {
        self.store.chains()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.store.requests()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        if !self.covers(key) {
            return self.pass(|store| store.open(key));
        }
        let known = self.known_size(key)?;
        match known.size().and_then(|size| self.kept(key, size)) {
            Some(object) => Ok(Arc::new(object)),
            None => self.open_fetched(key, &known),
        }
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        if !self.covers(key) {
            return self.pass(|store| store.get(key, size_max));
        }
        let known = self.known_size(key)?;
        let kept = known.size().filter(|size| *size <= size_max).and_then(|size| self.kept(key, size));
        if let Some(object) = kept {
            let mut content = vec![0; usize::try_from(object.size()).unwrap_or(usize::MAX)];
            object.read_at(&mut content, 0)?;
            let version = Version::of(&content);
            return Ok((content, version));
        }
        self.fetch(key, size_max, &known)
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        let passing = self.vouchers.pass();
        self.store.put_if_absent(key, parts)?;
        let end = passing.end();
        let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if self.keeps_writes && self.covers(key) && size <= self.object_bytes_max {
            self.vouchers.add(&end, key, size);
            self.files.keep(key, parts);
        }
        Ok(())
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        if self.covers(key) {
            // Nobody replaces what is named by its content; should it happen, nothing of it stays here.
            self.files.forget(key);
        }
        self.pass(|store| store.put_if_match(key, content, expected))
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        let deleted = self.pass(|store| store.delete(key));
        if self.covers(key) {
            self.files.forget(key);
        }
        deleted
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        if !PREFIXES.contains(&prefix) || !self.files.is_usable() {
            return self.pass(|store| store.list(prefix));
        }
        let listing = self.vouchers.begin();
        let entries = self.store.list(prefix)?;
        self.vouchers.show(&listing, &entries);
        Ok(entries)
    }

    fn settle(&self, prefix: &str) -> Result<()> {
        self.pass(|store| store.settle(prefix))
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        self.pass(|store| store.sweep_leftovers())
    }
}
