//! A part of a storage as one of its own: a member of an archive.

use leeward_disk::{Error as DiskError, Result as DiskResult, SharedStorage, Storage};

/// A part of a storage.
pub(super) struct SliceStorage {
    storage: SharedStorage,
    offset: u64,
    bytes: u64,
    label: String,
}

impl SliceStorage {
    /// The bytes from `offset` on, which must lie within the storage.
    pub(super) fn new(storage: SharedStorage, offset: u64, bytes: u64, name: &str) -> Self {
        let label = format!("{name} in {}", storage.name());
        Self { storage, offset, bytes, label }
    }
}

impl Storage for SliceStorage {
    fn name(&self) -> &str {
        &self.label
    }

    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        match offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.bytes => self.storage.read_at(buffer, self.offset + offset),
            _ => Err(DiskError::Io {
                path: self.label.clone(),
                action: "read",
                offset,
                length: buffer.len() as u64,
                source: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    fn allocated_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}
