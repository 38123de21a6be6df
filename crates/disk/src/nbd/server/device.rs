//! What a server serves.

use crate::{Result, SharedSource, Source};

/// A disk that an NBD server can serve.
///
/// The server calls it from many threads at once, and only with ranges that lie within the disk.
pub trait Device: Send + Sync {
    /// Size, extents and reads. The size must not change while the disk is served.
    fn source(&self) -> &dyn Source;

    /// What can be written; `None` where the disk is read-only.
    fn writable(&self) -> Option<&dyn Writable>;
}

/// The part of a [`Device`] that takes changes.
pub trait Writable: Send + Sync {
    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The device cannot take it; how much of it was written is then unknown.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros. Only if `may_unmap` is true may the range give its space back.
    ///
    /// # Errors
    /// The device cannot do it; how much was zeroed is then unknown.
    fn zero_at(&self, offset: u64, length: u64, may_unmap: bool) -> Result<()>;

    /// Says that the content of a range is not needed any more. What it reads as from now on is undefined, but stays the
    /// same from read to read. A device may do nothing.
    ///
    /// # Errors
    /// The device failed.
    fn trim(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes all completed writes of all connections durable.
    ///
    /// # Errors
    /// Something may not be durable.
    fn flush(&self) -> Result<()>;

    /// Brings a range to local storage, so that later reads are fast and need no one else (`NBD_CMD_CACHE`).
    ///
    /// # Errors
    /// The range cannot be fetched or kept.
    fn cache(&self, offset: u64, length: u64) -> Result<()>;
}

/// A disk that can be read and not written.
pub struct ReadOnly(SharedSource);

impl ReadOnly {
    /// Serves `source` as it is.
    #[must_use]
    pub fn new(source: SharedSource) -> Self {
        Self(source)
    }
}

impl Device for ReadOnly {
    fn source(&self) -> &dyn Source {
        self.0.as_ref()
    }

    fn writable(&self) -> Option<&dyn Writable> {
        None
    }
}
