//! A range of a disk as a disk of its own: a partition, a volume.

use crate::source::check_range;
use crate::{Extent, Format, Info, Result, SharedSource, Source};

/// A range of another disk, read as a disk.
#[derive(Clone)]
pub struct Slice {
    source: SharedSource,
    offset: u64,
    length: u64,
}

impl Slice {
    /// The `length` bytes of `source` from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) when the range reaches past the end of `source`.
    pub fn new(source: SharedSource, offset: u64, length: u64) -> Result<Self> {
        check_range("slice of a disk", offset, length, source.virtual_size())?;
        Ok(Self { source, offset, length })
    }

    /// Where it begins on the disk that it is a part of, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Source for Slice {
    fn virtual_size(&self) -> u64 {
        self.length
    }

    fn info(&self) -> Info {
        Info {
            format: Format::Raw,
            virtual_size: self.length,
            allocated_bytes: None,
            details: vec![("offset", self.offset.to_string())],
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range("slice of a disk", offset, length, self.length)?;
        let mut extents = self.source.extents(self.offset + offset, length)?;
        for extent in &mut extents {
            extent.offset = extent.offset.saturating_sub(self.offset);
        }
        Ok(extents)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        check_range("slice of a disk", offset, buffer.len() as u64, self.length)?;
        self.source.read_at(buffer, self.offset + offset)
    }
}
