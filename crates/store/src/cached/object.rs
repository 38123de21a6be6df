//! Open objects of the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::envelope::HEADER_BYTES;
use crate::{Error, Key, Object, Result, SharedStore};

fn outside(store: &SharedStore, key: &Key) -> Error {
    Error::Io {
        store: store.name().to_owned(),
        action: "read",
        key: key.to_string(),
        source: io::ErrorKind::UnexpectedEof.into(),
    }
}

/// An object in a file that was checked when it was opened. The file stays readable when it is removed from the cache.
pub(super) struct KeptObject {
    file: File,
    size: u64,
    store: SharedStore,
    key: Key,
}

impl KeptObject {
    pub(super) fn new(file: File, size: u64, store: &SharedStore, key: &Key) -> Self {
        Self { file, size, store: Arc::clone(store), key: key.clone() }
    }
}

impl Object for KeptObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(outside(&self.store, &self.key));
        }
        match self.file.read_exact_at(buffer, HEADER_BYTES as u64 + offset) {
            Ok(()) => Ok(()),
            // The local disk fails, or somebody has cut the file: the store still has the object.
            Err(_) => self.store.open(&self.key)?.read_at(buffer, offset),
        }
    }
}

/// An object in memory.
pub(super) struct WholeObject {
    content: Vec<u8>,
    store: SharedStore,
    key: Key,
}

impl WholeObject {
    pub(super) fn new(content: Vec<u8>, store: &SharedStore, key: &Key) -> Self {
        Self { content, store: Arc::clone(store), key: key.clone() }
    }
}

impl Object for WholeObject {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.checked_add(buffer.len());
        let part = end.and_then(|end| self.content.get(start..end));
        buffer.copy_from_slice(part.ok_or_else(|| outside(&self.store, &self.key))?);
        Ok(())
    }
}
