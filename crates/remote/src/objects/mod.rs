//! Objects in *users'* buckets: what an import reads and an export writes.
//!
//! A repository's buckets are [`leeward_store::bucket`]s: keys of few letters, written by Leeward alone. Here names are
//! whatever somebody uploaded, objects carry metadata and digests that their owner states, and they may be replaced at any
//! moment. So:
//! - a read is pinned to the version that was looked at first: a replaced object is [`Conflict`](leeward_store::ErrorKind::Conflict),
//!   never a mixture of two;
//! - a read returns all bytes that it was asked for, or fails: an answer cut short is asked for again;
//! - names that could lead elsewhere (`..`, control characters, a slash at the beginning) are refused before they are sent.

mod connect;
mod dialect;
mod directory;
mod directory_parts;
mod name;
mod oci;
mod parts;
mod remote;
mod remote_parts;
mod s3;
mod swift;
mod swift_parts;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use leeward_store::Result;
use leeward_store::bucket::RequestCounts;
use serde::{Deserialize, Serialize};

pub use connect::{locate, open};
pub use directory::{DirectoryObjects, METADATA_ENDING};
pub use name::check as check_name;
pub use parts::{Existing, Part, Parts};

/// User metadata: keys in lower case, without the service's prefix (`opc-meta-`, `x-amz-meta-` …). They are as the service
/// tells them: some (Ceph's gateway) give a dash back where an underscore was written.
pub type Metadata = BTreeMap<String, String>;

/// What tells one state of an object from another, in the service's words: an entity tag, or what stands for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectVersion(pub String);

/// Digests of an object's content that its service states.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedDigests {
    /// MD5 of the whole content, as 32 hexadecimal digits.
    pub md5: Option<String>,
    /// SHA-256 of the whole content, as 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// A digest over the digests of the parts of an upload, as the service tells it. It cannot be compared with the
    /// content by who does not know how the parts were cut.
    pub of_parts: Option<String>,
}

impl StatedDigests {
    /// Whether there is one that can be compared with the content.
    #[must_use]
    pub fn can_be_checked(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some()
    }
}

/// An object without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHead {
    /// Size in bytes.
    pub bytes: u64,
    /// The state that was looked at.
    pub version: ObjectVersion,
    /// What the service says about the content.
    pub digests: StatedDigests,
    /// What its owner says about it.
    pub metadata: Metadata,
    /// When it was written, where that is told.
    pub modified: Option<Timestamp>,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Its state, where listings tell it.
    pub version: Option<ObjectVersion>,
    /// When it was written, where that is told.
    pub modified: Option<Timestamp>,
}

/// A page of a listing, in the order of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects.
    pub objects: Vec<ListedObject>,
    /// Whether there are more: ask again, after the last name of this page.
    pub goes_on: bool,
    /// The name after which the next page begins. Not always that of the last object, as some are left out.
    pub last: Option<String>,
}

/// A user's bucket, or the part of it under a prefix. Usable from many threads; every call waits for its answer.
pub trait Objects: Send + Sync {
    /// Where it is, without secrets, for messages.
    fn name(&self) -> &str;

    /// Looks at an object.
    ///
    /// # Errors
    /// [`NotFound`](leeward_store::ErrorKind::NotFound), or the service fails.
    fn head(&self, name: &str) -> Result<ObjectHead>;

    /// Reads the bytes of a range, which must lie within the object and must not be empty, of that version.
    ///
    /// # Errors
    /// [`Conflict`](leeward_store::ErrorKind::Conflict) when the object was replaced,
    /// [`NotFound`](leeward_store::ErrorKind::NotFound), or the service fails.
    fn read(&self, name: &str, range: Range<u64>, version: &ObjectVersion) -> Result<Vec<u8>>;

    /// A page of the objects whose names begin with `prefix` and come after `after`, in the order of names.
    ///
    /// # Errors
    /// The service fails.
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage>;

    /// Writes an object, replacing one of that name. It is seen whole or not at all; large content travels in parts, of
    /// which few are in memory.
    ///
    /// # Errors
    /// The content cannot be read, the metadata is not what the service takes, or the service fails.
    fn put(&self, name: &str, content: &mut dyn Read, metadata: &Metadata) -> Result<ObjectVersion>;

    /// Deletes an object; one that is not there is as good.
    ///
    /// # Errors
    /// The service fails.
    fn delete(&self, name: &str) -> Result<()>;

    /// How objects are written in parts, where that can be done from here.
    fn parts(&self) -> Option<&dyn Parts> {
        None
    }

    /// What requests were sent so far, where they are counted.
    fn requests(&self) -> Option<RequestCounts> {
        None
    }
}

/// Objects shared between threads.
pub type SharedObjects = Arc<dyn Objects>;
