//! Buckets: what object stores have in common, and a [`Store`](crate::Store) made of one.
//!
//! A [`Bucket`] is the thin adapter to one service: it sends one request and tells what came of it. It does not try
//! again, count, wait, or emulate anything; layers do that, so that all services behave alike:
//!
//! - [`PacedBucket`] keeps as many requests in flight as the service bears, [`RetryBucket`] tries again;
//! - [`Requests`] counts what was sent;
//! - [`BucketStore`] makes a [`Store`](crate::Store) of it, and settles conditional writes whose answer was lost;
//! - [`VersionedStore`] makes one where the service does not compare: by chains of versions, decided by ballots;
//! - how conditional writes come about is a [`Comparison`].

mod pace;
mod requests;
mod retry;
mod store;
mod versions;

pub use pace::{Pace, PacePolicy, PacedBucket};
pub use requests::{RequestClass, RequestCounts, Requests};
pub use retry::{Backoff, RetryBucket, RetryPolicy};
pub use store::BucketStore;
pub use versions::{Surroundings, VersionedStore};

use std::ops::Range;

use crate::{Entry, Key, Locks, Result};

/// Requests at once that pay. Each may hold a pack of tens of MiB in memory.
const REQUESTS_AT_ONCE: usize = 6;

/// What a service calls the present version of an object (an entity tag, a generation), in the form in which it has to
/// be given back to the same service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(pub String);

/// What a write demands of the object's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Nothing: the object is replaced.
    Always,
    /// That there is no such object.
    Absent,
    /// That it still is what it was when this tag was read.
    Matches(&'a Tag),
}

/// How conditional writes come about in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Comparison {
    /// The service compares: both [`Condition::Absent`] and [`Condition::Matches`] are atomic.
    Native,
    /// The service only knows [`Condition::Absent`], atomically.
    CreateOnly,
    /// The service knows no condition, or does not keep it when writers race.
    None,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The bytes of the range that was asked for.
    pub content: Vec<u8>,
    /// Size of the whole object in bytes.
    pub size: u64,
    /// Its version, where the service tells one.
    pub tag: Option<Tag>,
}

/// What an object is, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Size in bytes.
    pub size: u64,
    /// Its version, where the service tells one.
    pub tag: Option<Tag>,
}

/// One bucket (container) of an object store, or the part of it under a prefix: one request for each call.
///
/// Objects are seen whole or not at all, and are durable when a write returns: every service promises that.
pub trait Bucket: Send + Sync {
    /// Its URL without secrets, for messages.
    fn name(&self) -> &str;

    /// What requests were sent so far, where they are counted.
    fn requests(&self) -> Option<RequestCounts> {
        None
    }

    /// Reads an object, or a range of it that must not be empty and may reach past its end.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Damaged`](crate::ErrorKind::Damaged) when the whole object is asked
    /// for and has more than `size_max` bytes; or the service fails.
    fn read(&self, key: &Key, range: Option<Range<u64>>, size_max: u64) -> Result<Read>;

    /// Looks at an object.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), or the service fails.
    fn head(&self, key: &Key) -> Result<Head>;

    /// Writes an object, given in parts, in one request.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) or [`Conflict`](crate::ErrorKind::Conflict) when the condition
    /// does not hold; or the service fails: then [`Error::is_transient`](crate::Error::is_transient) says whether the
    /// write may have been made all the same.
    fn write(&self, key: &Key, parts: &[&[u8]], condition: Condition<'_>) -> Result<()>;

    /// Deletes an object; one that is not there is as good.
    ///
    /// # Errors
    /// The service fails.
    fn delete(&self, key: &Key) -> Result<()>;

    /// All objects whose keys begin with `prefix` and a slash, in order of their keys, from all pages of the listing.
    ///
    /// # Errors
    /// The service fails.
    fn list(&self, prefix: &str) -> Result<Vec<Entry>>;

    /// The locks of its objects; `None` where the service has none. Every layer has to pass it on.
    fn locks(&self) -> Option<&dyn Locks> {
        None
    }
}

/// A bucket shared between threads.
pub type SharedBucket = std::sync::Arc<dyn Bucket>;
