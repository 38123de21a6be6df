//! Disks that can be written.

pub(crate) mod raw;
pub(crate) mod staged;

use crate::Result;

/// A disk that can be written, from many threads at once. Writers of different ranges do not disturb each other.
pub trait Target: Send + Sync {
    /// Size of the disk that a guest sees, in bytes.
    fn virtual_size(&self) -> u64;

    /// Whether the target is known to read as zeros everywhere before anything was written (a new file).
    fn is_blank(&self) -> bool;

    /// Writes that begin and end at multiples of this are cheapest, and smaller stretches of zeros are not worth
    /// leaving out. A power of two, between 4 KiB and 2 MiB.
    fn block_size(&self) -> u64 {
        32 << 10
    }

    /// Writes `data` at `offset`. The whole range must lie within the disk.
    ///
    /// # Errors
    /// The medium is full or fails, or the range lies outside the disk.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros, by the cheapest means that the medium has.
    ///
    /// # Errors
    /// The medium is full or fails, or the range lies outside the disk.
    fn zero_at(&self, offset: u64, length: u64) -> Result<()>;

    /// Completes the image (tables, headers) and, when `durable`, brings every byte to stable storage. Nothing may be
    /// written after it. Until this returns, the image may not be readable.
    ///
    /// # Errors
    /// The medium is full or fails.
    fn finish(&self, durable: bool) -> Result<()>;
}
