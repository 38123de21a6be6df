//! A store made of a bucket whose service compares by itself.

use std::sync::Arc;

use super::retry::{Backoff, RetryPolicy};
use super::{Comparison, Condition, RequestCounts, SharedBucket, Tag};
use crate::{Entry, Error, ErrorKind, Key, Locks, Object, Result, Store, Version};

/// The largest object that is replaced by comparison, in bytes: records have 64 MiB at most.
const COMPARED_BYTES_MAX: u64 = 80 << 20;

/// A bucket as a store. Keys are those of the store; whoever makes the bucket puts them under a prefix.
pub struct BucketStore {
    bucket: SharedBucket,
    policy: RetryPolicy,
}

impl BucketStore {
    /// The store in a bucket.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the bucket's service does not compare.
    pub fn new(bucket: SharedBucket, comparison: Comparison) -> Result<Self> {
        match comparison {
            Comparison::Native => Ok(Self { bucket, policy: RetryPolicy::default() }),
            Comparison::CreateOnly | Comparison::None => Err(Error::Unsupported {
                store: bucket.name().to_owned(),
                what: "its service does not compare before it replaces an object".to_owned(),
            }),
        }
    }

    /// The same store, which tries conditional writes again as this policy has it.
    #[must_use]
    pub fn with_policy(self, policy: RetryPolicy) -> Self {
        Self { policy, ..self }
    }

    fn conflict(&self, key: &Key) -> Error {
        Error::Conflict { store: self.bucket.name().to_owned(), key: key.to_string() }
    }

    /// The object's present tag, if its content has the expected version.
    fn tag_of(&self, key: &Key, expected: &Version) -> Result<Tag> {
        let read = match self.bucket.read(key, None, COMPARED_BYTES_MAX) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.conflict(key)),
            Err(error) => return Err(error),
        };
        if Version::of(&read.content) != *expected {
            return Err(self.conflict(key));
        }
        read.tag.ok_or_else(|| Error::Unsupported {
            store: self.bucket.name().to_owned(),
            what: format!("its service tells no version of {key}"),
        })
    }

    /// Whether the object is there with exactly this content.
    fn holds(&self, key: &Key, parts: &[&[u8]]) -> Result<bool> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        match self.bucket.read(key, None, size as u64) {
            Ok(read) => Ok(read.content == parts.concat()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// That it cannot be told whether a write was made.
    fn uncertain(&self, key: &Key, lost: &Error) -> Error {
        Error::Uncertain {
            store: self.bucket.name().to_owned(),
            key: key.to_string(),
            what: match lost {
                Error::Remote { what, .. } | Error::Throttled { what, .. } => what.clone(),
                other => other.to_string(),
            },
        }
    }

    /// Makes a conditional write, again and again while its answer is lost. Between two attempts the object is read: who
    /// finds the own content there has written it, or need not, because contents are unique to their writers (they hold
    /// random bytes) or named by what they are. A late first attempt does no harm: its condition holds only while nobody
    /// has written.
    fn settled(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()> {
        let mut backoff = Backoff::new(self.policy);
        let mut lost: Option<Error> = None;
        loop {
            let error = match self.bucket.write(key, parts, condition) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if (error.is_transient() || lost.is_some()) && self.holds(key, parts)? {
                return Ok(());
            }
            if !error.is_transient() {
                return Err(match (error.kind(), lost) {
                    // Not the own content: but perhaps it was, for a moment.
                    (ErrorKind::Conflict | ErrorKind::NotFound, Some(lost)) => self.uncertain(key, &lost),
                    _ => error,
                });
            }
            if !backoff.pause(&error) {
                return Err(error);
            }
            lost = Some(error);
        }
    }
}

/// An object of a bucket, read by ranges.
pub(super) struct BucketObject {
    bucket: SharedBucket,
    key: Key,
    size: u64,
}

impl BucketObject {
    pub(super) fn new(bucket: &SharedBucket, key: &Key, size: u64) -> Self {
        Self { bucket: Arc::clone(bucket), key: key.clone(), size }
    }
}

impl Object for BucketObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let outside = || Error::Io {
            store: self.bucket.name().to_owned(),
            action: "read",
            key: self.key.to_string(),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        };
        let end =
            offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size).ok_or_else(outside)?;
        let read = self.bucket.read(&self.key, Some(offset..end), u64::MAX)?;
        if read.content.len() != buffer.len() {
            return Err(outside());
        }
        buffer.copy_from_slice(&read.content);
        Ok(())
    }
}

impl Store for BucketStore {
    fn name(&self) -> &str {
        self.bucket.name()
    }

    fn requests_at_once(&self) -> usize {
        super::REQUESTS_AT_ONCE
    }

    fn locks(&self) -> Option<&dyn Locks> {
        self.bucket.locks()
    }

    fn requests(&self) -> Option<RequestCounts> {
        self.bucket.requests()
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        let size = self.bucket.head(key)?.size;
        Ok(Arc::new(BucketObject::new(&self.bucket, key, size)))
    }

    fn get(&self, key: &Key, size_max: u64) -> Result<(Vec<u8>, Version)> {
        let content = self.bucket.read(key, None, size_max)?.content;
        let version = Version::of(&content);
        Ok((content, version))
    }

    fn put_if_absent(&self, key: &Key, parts: &[&[u8]]) -> Result<()> {
        self.settled(key, parts, Condition::Absent)
    }

    fn put_if_match(&self, key: &Key, content: &[u8], expected: &Version) -> Result<()> {
        let tag = self.tag_of(key, expected)?;
        match self.settled(key, &[content], Condition::Matches(&tag)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.conflict(key)),
            other => other,
        }
    }

    fn delete(&self, key: &Key) -> Result<bool> {
        let was_there = match self.bucket.head(key) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if was_there {
            self.bucket.delete(key)?;
        }
        Ok(was_there)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.bucket.list(prefix)
    }

    fn settle(&self, _prefix: &str) -> Result<()> {
        // A service acknowledges only what is durable, and shows only what it has acknowledged.
        Ok(())
    }

    fn sweep_leftovers(&self) -> Result<u64> {
        Ok(0)
    }
}
