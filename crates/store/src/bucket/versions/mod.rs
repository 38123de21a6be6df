//! A store made of a bucket whose service does not compare.
//!
//! An object that changes is a chain of versions, kept as many small objects of the bucket, each written once and never
//! replaced. Which value a version has is decided by ballots in the manner of Disk Paxos (Gafni and Lamport, 2003): a
//! ballot writes its *prepared* part, looks, writes its *accepted* part, looks, and writes its *mark*. A version counts
//! while a ballot of it has all three.
//!
//! What always holds; `docs/stores-without-comparison.md` has the rules by number and the proof:
//! - a part's key is never used twice, and of a prepared or accepted part one request is ever sent: one that was
//!   removed does not come back;
//! - whoever removes parts removes lower versions first and the version that counts, or the tombstone, last;
//! - objects that are named by their content (`packs`, `index`, `snapshots`) are plain objects of the bucket.
//!
//! The bucket must send a write at most once: a layer that repeats writes belongs only under the plain objects
//! ([`VersionedStore::with_plain`]).

mod chain;
mod change;
mod clean;
mod decide;
mod locks;
mod look;
mod lost;
mod mend;
mod name;
mod patience;
mod surroundings;
mod value;

use std::sync::Arc;
use std::time::Duration;

use super::store::BucketObject;
use super::{Comparison, Condition, RequestCounts, SharedBucket};
use crate::{Chains, Entry, Error, ErrorKind, Key, Locks, Object, Result, Store, Version};
use chain::Chain;
use look::Found;
use patience::PatientObject;
pub use surroundings::Surroundings;
use value::HEADER_BYTES;

/// Prefixes of objects that are named by their content, or by random bytes and never replaced.
const PLAIN: [&str; 4] = ["packs", "parity", "index", "snapshots"];
/// Prefixes of objects that change.
const CHANGING: [&str; 3] = ["refs", "sessions", "condemned"];
/// The largest object that is replaced by comparison, in bytes: records have 64 MiB at most.
const COMPARED_BYTES_MAX: u64 = 80 << 20;
/// How often an operation begins anew because others changed the object meanwhile.
const RESTARTS_MAX: u32 = 100;

/// A store in a bucket whose service does not compare.
pub struct VersionedStore {
    bucket: SharedBucket,
    plain: SharedBucket,
    lag: Duration,
    surroundings: Arc<dyn Surroundings>,
}

impl VersionedStore {
    /// The store in a bucket, which must send each write at most once.
    ///
    /// Services that only create ([`Comparison::CreateOnly`]) and those that know no condition ([`Comparison::None`])
    /// have one layout: what was taken for the one and is the other does no harm.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for [`Comparison::Native`]: [`BucketStore`](super::BucketStore) is for that.
    pub fn new(bucket: SharedBucket, comparison: Comparison) -> Result<Self> {
        if comparison == Comparison::Native {
            return Err(Error::Unsupported {
                store: bucket.name().to_owned(),
                what: "its service compares; the layout for services that do not is not for it".to_owned(),
            });
        }
        let plain = Arc::clone(&bucket);
        Ok(Self { bucket, plain, lag: Duration::ZERO, surroundings: Arc::new(surroundings::Machine::new()) })
    }

    /// For a service whose reads and listings may lag behind writes and deletions, by this time at most. Every change
    /// then waits several times as long.
    #[must_use]
    pub fn with_lag(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self
    }

    /// Another way to the same bucket for the objects that never change: one that repeats writes.
    #[must_use]
    pub fn with_plain(mut self, plain: SharedBucket) -> Self {
        self.plain = plain;
        self
    }

    /// Replaces random numbers and pauses: for simulations.
    #[must_use]
    pub fn with_surroundings(mut self, surroundings: Arc<dyn Surroundings>) -> Self {
        self.surroundings = surroundings;
        self
    }

    /// Whether a bucket holds `key` in this layout.
    ///
    /// # Errors
    /// The service fails.
    pub fn is_layout_of(bucket: &SharedBucket, key: &Key) -> Result<bool> {
        Ok(bucket.list(&name::folder(key))?.iter().any(|entry| name::parse(&entry.key).is_some()))
    }

    fn is_plain(key: &Key) -> bool {
        key.as_str().split_once('/').is_some_and(|(prefix, _)| PLAIN.contains(&prefix))
    }

    /// Repeats a request while it fails in a passing way.
    fn again<T>(&self, request: impl Fn() -> Result<T>) -> Result<T> {
        patience::again(self.surroundings.as_ref(), request)
    }

    /// Repeats a read of a plain object that finds nothing, for as long as reads may lag.
    fn until_shown<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        patience::until_shown(self.surroundings.as_ref(), self.lag, read)
    }

    fn not_found(&self, key: &Key) -> Error {
        Error::NotFound { store: self.bucket.name().to_owned(), key: key.to_string() }
    }

    fn conflict(&self, key: &Key) -> Error {
        Error::Conflict { store: self.bucket.name().to_owned(), key: key.to_string() }
    }

    /// An operation that did not come to an end among the others: it may pass by itself.
    fn unsettled(&self, action: &'static str, key: &Key, what: &str) -> Error {
        Error::Remote {
            store: self.bucket.name().to_owned(),
            action,
            key: key.to_string(),
            what: what.to_owned(),
            is_transient: true,
        }
    }

    fn contended(&self, action: &'static str, key: &Key) -> Error {
        self.unsettled(
            action,
            key,
            "others change it all the time; run the command again when fewer of them run",
        )
    }

    /// An operation whose value others may have seen before the object lost parts.
    fn torn(&self, action: &'static str, key: &Key) -> Error {
        self.unsettled(
            action,
            key,
            "it lost parts meanwhile, and whether this change was made cannot be told; run `check --repair`, then read it again",
        )
    }

    /// An operation of which others have removed every trace.
    fn unknown(&self, action: &'static str, key: &Key) -> Error {
        self.unsettled(
            action,
            key,
            "it was deleted or changed often meanwhile, and whether this change was made before cannot be told; read it again",
        )
    }
}

/// An object that was read whole when it was opened.
struct Whole(String, Key, Vec<u8>);

impl Object for Whole {
    fn size(&self) -> u64 {
        self.2.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| self.2.get(start..start.checked_add(buffer.len())?));
        let range = range.ok_or_else(|| Error::Io {
            store: self.0.clone(),
            action: "read",
            key: self.1.to_string(),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })?;
        buffer.copy_from_slice(range);
        Ok(())
    }
}

impl Store for VersionedStore {
    fn name(&self) -> &str {
        self.bucket.name()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.bucket.requests()
    }

    fn requests_at_once(&self) -> usize {
        super::REQUESTS_AT_ONCE
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.plain.locks().map(|_| self as &dyn Locks)
    }

    fn chains(&self) -> Option<&dyn Chains> {
        Some(self)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        if !Self::is_plain(key) {
            let (content, _) = self.read(key, COMPARED_BYTES_MAX)?;
            return Ok(Arc::new(Whole(self.name().to_owned(), key.clone(), content)));
        }
        let size = self.until_shown(|| self.plain.head(key))?.size;
        let object = BucketObject::new(&self.plain, key, size);
        Ok(Arc::new(PatientObject::new(object, self.lag, &self.surroundings)))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let content = if Self::is_plain(key) {
            self.until_shown(|| self.plain.read(key, None, size_max))?.content
        } else {
            self.read(key, size_max)?.0
        };
        let version = Version::of(&content);
        Ok((content, version))
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        if Self::is_plain(key) {
            // Whoever else puts it puts the same bytes: so nothing is compared, and repeating does no harm.
            return self.again(|| self.plain.write(key, parts, Condition::Always));
        }
        self.create(key, &parts.concat())
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        if Self::is_plain(key) {
            return Err(Error::Unsupported {
                store: self.name().to_owned(),
                what: format!("{key} is named by its content and cannot be replaced"),
            });
        }
        self.replace(key, content, expected)
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        if !Self::is_plain(key) {
            return self.remove(key);
        }
        match self.again(|| self.plain.head(key)) {
            Ok(_) => self.again(|| self.plain.delete(key)).map(|()| true),
            // A lagging store may not show it yet, and whoever deletes it means it.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.lag.is_zero() => {
                self.again(|| self.plain.delete(key)).map(|()| false)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        // The protocol of collections needs that whatever was put before a listing began is in it. What was put before
        // this moment is shown when the lag has passed.
        self.surroundings.pause(self.lag);
        if PLAIN.contains(&prefix) {
            return self.again(|| self.plain.list(prefix));
        }
        let entries = self.again(|| self.bucket.list(prefix))?;
        let mut found = Vec::new();
        for (key, chain) in Chain::all(&entries) {
            let current = match chain.current() {
                Some(current) => Found::of(current),
                // It was replaced while the listing ran, which missed the old version and the new one; or it is damaged.
                None if chain.lost().is_some() => self.find(&key)?,
                None => Found::Nothing,
            };
            let bytes = match current {
                Found::Value(value) => value.accepted.size,
                // It is there; whoever reads it learns that it is damaged.
                Found::Lost(lost) => lost.value.map_or(0, |value| value.accepted.size),
                Found::Nothing | Found::Tombstone(_) => continue,
            };
            found.push(Entry { key, size: bytes.saturating_sub(HEADER_BYTES as u64) });
        }
        Ok(found)
    }

    fn settle(&self, _prefix: &str) -> Result<()> {
        // A service acknowledges only what is durable, and shows only what it has acknowledged.
        Ok(())
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        let mut freed = 0;
        for prefix in CHANGING {
            let entries = self.again(|| self.bucket.list(prefix))?;
            for (key, chain) in Chain::all(&entries) {
                freed += self.sweep(&key, &chain)?;
            }
        }
        Ok(freed)
    }
}
