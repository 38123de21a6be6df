//! Raw disks: the virtual disk is the file or device, byte for byte.

use std::sync::Arc;

use crate::source::check_range;
use crate::{Error, Extent, Format, Info, OpenOptions, Result, SharedSource, SharedStorage, Source};

/// A raw disk. Holes of a sparse file are unallocated extents.
pub struct RawSource {
    storage: SharedStorage,
}

/// Opens a raw disk.
///
/// # Errors
/// An internal snapshot was asked for: raw disks have none.
pub(crate) fn open(storage: SharedStorage, options: &OpenOptions) -> Result<SharedSource> {
    if let Some(snapshot) = &options.snapshot {
        return Err(Error::Invalid {
            path: storage.name().to_owned(),
            what: format!("a raw disk has no internal snapshot {snapshot:?}"),
        });
    }
    Ok(Arc::new(RawSource { storage }))
}

impl Source for RawSource {
    fn virtual_size(&self) -> u64 {
        self.storage.size()
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.virtual_size(),
            allocated_bytes: self.storage.allocated_bytes(),
            details: Vec::new(),
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.storage.name(), offset, length, self.virtual_size())?;
        if length == 0 {
            return Ok(Vec::new());
        }
        self.storage.extents(offset, length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.storage.name(), offset, buffer.len() as u64, self.virtual_size())?;
        self.storage.read_at(buffer, offset)
    }
}
