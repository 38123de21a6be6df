//! Objects that are written in parts: what an export does, over hours, and goes on with after its process died.
//!
//! Nobody sees anything of an object before all its parts are there and [`Parts::complete`] makes it of them. An upload is
//! known by a name that the service gave it; what was begun and never ended takes room that nobody sees, so whoever begins one
//! ends it or gives it up.

use std::ops::RangeInclusive;

use leeward_store::Result;

use super::{Metadata, ObjectVersion};
use crate::http::Bytes;

/// What becomes of an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is refused.
    Keep,
    /// It is replaced.
    Replace,
}

/// A part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1 on, without gaps.
    pub number: u32,
    /// Where it begins in the object, in bytes.
    pub offset: u64,
    /// What it is made of.
    pub content: Bytes,
}

/// How objects are written in parts. Usable from many threads; every call waits for its answer, and tries again what fails in
/// passing.
pub trait Parts: Send + Sync {
    /// How large a part other than the last one may be, in bytes.
    fn part_bytes(&self) -> RangeInclusive<u64>;

    /// How many parts there may be.
    fn parts_max(&self) -> u32;

    /// Begins an upload; returns what it is called.
    ///
    /// # Errors
    /// The metadata is not what the service takes, or the service fails.
    fn begin(&self, object: &str, metadata: &Metadata) -> Result<String>;

    /// Sends a part; returns the service's tag of it. One that is sent again replaces the one before.
    ///
    /// # Errors
    /// There is no such upload, or the service fails.
    fn send(&self, object: &str, upload: &str, part: &Part) -> Result<String>;

    /// Makes the object of its parts, whose tags these are, in order; it has so many bytes. An object that the
    /// very upload has made may count as one that is there already, and the upload as one that is not: whoever asks again because an
    /// answer was lost looks at the object.
    ///
    /// # Errors
    /// [`AlreadyExists`](leeward_store::ErrorKind::AlreadyExists) where it is to stay,
    /// [`NotFound`](leeward_store::ErrorKind::NotFound) when there is no such upload any more, or the service fails.
    fn complete(
        &self,
        object: &str,
        upload: &str,
        tags: &[String],
        bytes: u64,
        existing: Existing,
    ) -> Result<ObjectVersion>;

    /// Gives an upload up; one that is not there is as good.
    ///
    /// # Errors
    /// The service fails.
    fn abort(&self, object: &str, upload: &str) -> Result<()>;

    /// The uploads of an object that are begun and not ended.
    ///
    /// # Errors
    /// The service fails.
    fn unfinished(&self, object: &str) -> Result<Vec<String>>;
}
