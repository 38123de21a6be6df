//! What is in an object: the disks, read where they lie.
//!
//! The format is found by content, never by name; content that can be read as two formats is refused. Backing files,
//! parents and data files are refused; the extents of a split VMDK are taken from beside the descriptor only. Wrapped
//! images are described in `stream.rs`, archives in `ova.rs`.

mod ahead;
mod expand;
mod extents;
mod opening;
mod ova;
mod slice;
mod storage;
mod stream;
mod tar;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use leeward_disk::{Format, SharedSource};

use crate::digest::{DigestCheck, Stated};
use crate::identity::SourceIdentity;
pub(crate) use opening::needs_seeking;
pub use opening::open;
pub(crate) use stream::StreamImage;
pub use stream::{Compression, Expanded};

/// Room for what has to be expanded before it can be read.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// Where: a file without a name, which is gone with the process.
    pub directory: PathBuf,
    /// How large it may become, in bytes on the medium.
    pub bytes_max: u64,
}

/// How an object is opened.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The format of the object itself, where the content is not to decide.
    pub format: Option<Format>,
    /// Room for wrapped images of formats that need seeking; without it they are refused.
    pub scratch: Option<Scratch>,
    /// What a wrapped image may expand to, in bytes.
    pub expanded_bytes_max: u64,
    /// What was measured when the same version was opened before, so that it need not be again.
    pub expanded: BTreeMap<String, Expanded>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self { format: None, scratch: None, expanded_bytes_max: 2 << 40, expanded: BTreeMap::new() }
    }
}

/// What is in an object.
pub struct ObjectImage {
    /// Its disks, in order; one at least.
    pub disks: Vec<Disk>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What was measured of wrapped disks, by their names: for [`ImageOptions::expanded`].
    pub expanded: BTreeMap<String, Expanded>,
}

/// One disk in an object.
pub struct Disk {
    identity: SourceIdentity,
    /// Its format, by content.
    pub format: Format,
    /// The compressions and archives around it, outermost first, for people: `OVA`, `gzip` …
    pub wrappings: Vec<String>,
    pub(crate) content: Content,
}

/// How the bytes of a disk are to be had.
pub(crate) enum Content {
    /// In any order.
    Source {
        source: SharedSource,
        /// The stated digests, where reading the disk reads the whole object in order.
        whole: Option<Stated>,
    },
    /// In order only.
    Stream(StreamImage),
}

impl Disk {
    /// A disk that is wrapped in nothing.
    pub(crate) fn new(identity: SourceIdentity, format: Format, content: Content) -> Self {
        Self { identity, format, wrappings: Vec::new(), content }
    }

    /// Which disk of which version of which object.
    #[must_use]
    pub fn identity(&self) -> &SourceIdentity {
        &self.identity
    }

    /// Size of the disk that a guest sees, in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.identity.virtual_size
    }

    /// The disk, where it can be read in any order.
    #[must_use]
    pub fn source(&self) -> Option<SharedSource> {
        match &self.content {
            Content::Source { source, .. } => Some(Arc::clone(source)),
            Content::Stream(_) => None,
        }
    }

    /// What can be said about the stated digests before the disk is written.
    #[must_use]
    pub fn digest(&self) -> DigestCheck {
        match &self.content {
            Content::Stream(stream) => stream.digest().clone(),
            Content::Source { whole: Some(stated), .. } if stated.is_empty() => DigestCheck::NotStated,
            Content::Source { whole: Some(_), .. } => {
                DigestCheck::NotChecked { why: "they are compared while the disk is written".to_owned() }
            }
            Content::Source { whole: None, .. } => DigestCheck::of_part(),
        }
    }
}
