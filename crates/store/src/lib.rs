//! Objects with conditional writes.
//!
//! A [`Store`] keeps whole objects under flat keys. Objects that are named by their content are written once
//! ([`Store::put_if_absent`]); the few that change are replaced only by whoever knows their present [`Version`]
//! ([`Store::put_if_match`]). That pair is all the concurrency control that a repository needs, so it is all that a
//! store has to offer.
//!
//! What always holds, for every implementation:
//! - an object is seen whole or not at all, also after a crash;
//! - when a write returns, the object survives a power loss;
//! - a listing that begins after a write returned shows that object.
//!
//! [`DirectoryStore`] is the store in a local directory. It reaches the disk through [`FileSystem`], so that tests can
//! lose unsynced writes, tear pages and fill the disk.

pub mod bucket;
mod cached;
mod chains;
mod directory;
mod error;
mod file_system;
mod key;
mod lock;
mod rate;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

pub use cached::{CACHE_BYTES_MAX, CacheOptions, CachedStore};
pub use chains::{Chains, DamagedChain};
pub use directory::DirectoryStore;
pub use error::{Error, ErrorKind, Result, with_causes};
pub use file_system::{FileEntry, FileLock, FileSystem, HostFileSystem, OpenedFile};
pub use key::Key;
pub use lock::{Lock, LockMode, Locks};
pub use rate::RateLimit;

use std::sync::Arc;

use bucket::RequestCounts;

/// What an object's content was when it was read; any change of the content changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version([u8; 32]);

impl Version {
    /// The version of an object with this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(blake3::derive_key("leeward 2026-11 object version", content))
    }
}

/// 64 lower-case hexadecimal digits, as versions travel between machines.
impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl std::str::FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| format!("{text:?} is not a version of 64 hexadecimal digits"))
    }
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
}

/// An open object: ranged reads from many threads. It stays readable after the object was deleted where the store can
/// do that; elsewhere reads then fail with [`ErrorKind::NotFound`].
pub trait Object: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The medium fails or the range lies outside the object.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
}

/// A store of objects.
pub trait Store: Send + Sync {
    /// Where it is, for messages.
    fn name(&self) -> &str;

    /// How many requests at once pay: more than one where a request waits for a network rather than for this machine. A
    /// store that wraps another one passes on what that says.
    fn requests_at_once(&self) -> usize;

    /// The locks of its objects; `None` where it has none. Every layer has to pass it on.
    fn locks(&self) -> Option<&dyn Locks> {
        None
    }

    /// The mending of objects that are kept in several parts; `None` where each is one. Every layer has to pass it on.
    fn chains(&self) -> Option<&dyn Chains> {
        None
    }

    /// What requests were sent so far; `None` where nothing is sent to anybody.
    fn requests(&self) -> Option<RequestCounts> {
        None
    }

    /// Opens an object for ranged reads.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or the medium fails.
    fn open(&self, key: &Key) -> Result<Arc<dyn Object>>;

    /// Reads a whole object of at most `size_max` bytes, and its version.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], the object is larger than `size_max`, or the medium fails.
    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)>;

    /// Writes a new object, given in parts; exactly one of several racing callers succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; or the medium is full, then nothing is stored under the key; or it fails, then the
    /// object is there whole or not at all.
    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()>;

    /// Replaces an object if its present version is `expected`; exactly one of several racing callers succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the object is gone or has another version; or the medium is full, then the old
    /// content stands; or [`ErrorKind::Uncertain`]; or it fails, then the old or the new content stands: only reading
    /// tells.
    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()>;

    /// Deletes an object; `false` when it was not there. Of several racing callers a store of files tells one `true`, an
    /// object store perhaps several.
    ///
    /// # Errors
    /// The medium fails.
    fn delete(&self, key: &Key) -> Result<bool>;

    /// All objects whose keys begin with `prefix` and a slash, in order of their keys.
    ///
    /// # Errors
    /// The medium fails.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>>;

    /// Makes durable all that this process has seen under `prefix`, also what others wrote and had not yet made
    /// durable when it was listed.
    ///
    /// # Errors
    /// The medium fails.
    fn settle(&self, prefix: &str) -> Result<()>;

    /// Removes what interrupted writes left behind and nobody can be using; returns how many bytes that freed.
    ///
    /// # Errors
    /// The medium fails.
    fn sweep_leftovers(&self) -> Result<u64>;
}

/// A store shared between threads.
pub type SharedStore = Arc<dyn Store>;
