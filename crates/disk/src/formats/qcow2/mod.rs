//! The qcow2 format, versions 2 and 3, as QEMU's `docs/interop/qcow2.txt` specifies it.
//!
//! A guest offset is looked up in two levels: an entry of the L1 table names an L2 table, whose entry names a host
//! cluster, a stretch of compressed bytes, or zeros. With extended L2 entries each cluster has 32 subclusters that are
//! allocated or zero on their own. What an image does not map comes from its backing image, if it has one.
//!
//! What always holds once an image is open: the L1 table maps the whole virtual disk; it, the refcount structures, the
//! snapshot table and the L2 tables lie inside the file and do not overlap; no guest cluster lies in them. L2 tables are
//! loaded when they are needed, checked on each load, and kept in a bounded cache.

mod compressed;
mod entry;
mod extensions;
mod features;
mod head;
mod header;
mod map;
mod occupied;
mod snapshots;
mod source;
mod view;
mod writer;

use crate::{Error, Format, OpenOptions, Result, SharedSource, SharedStorage, Storage};

pub use view::Qcow2View;
pub use writer::{Qcow2Target, WriterOptions};

const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Whether the content carries the signature of this format.
pub(crate) fn matches(storage: &dyn Storage) -> Result<bool> {
    let mut magic = [0; 4];
    if storage.size() < 4 {
        return Ok(false);
    }
    storage.read_at(&mut magic, 0)?;
    Ok(magic == MAGIC)
}

/// Opens an image.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    source::open(storage, options)
}

fn corrupt(storage: &dyn Storage, what: impl Into<String>) -> Error {
    Error::Corrupt { path: storage.name().to_owned(), format: Format::Qcow2, what: what.into() }
}

fn unsupported(storage: &dyn Storage, what: impl Into<String>) -> Error {
    Error::Unsupported { path: storage.name().to_owned(), format: Format::Qcow2, what: what.into() }
}
